"""Losses that BasicSR lacks, registered with it."""

from esc_arch.losses.vgg_perceptual_loss import VGGPerceptualLoss

__all__ = ["VGGPerceptualLoss"]
