"""Metrics that BasicSR lacks."""

# Before what registers: BasicSR registers all of esc_arch when it is imported, and must not
# meet a half-imported module of ours.
import basicsr  # noqa: F401

# isort: split
from esc_arch.metrics.psnr_lte import calculate_psnr_lte

__all__ = ["calculate_psnr_lte"]
