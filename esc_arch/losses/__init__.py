"""Losses that BasicSR lacks, registered with it."""

# Before what registers: BasicSR registers all of esc_arch when it is imported, and must not
# meet a half-imported module of ours.
import basicsr  # noqa: F401

# isort: split
from esc_arch.losses.vgg_perceptual_loss import VGGPerceptualLoss

__all__ = ["VGGPerceptualLoss"]
