"""The networks.  Importing this package registers them with BasicSR."""

from esc_arch.archs.esc_arch import ESC
from esc_arch.archs.esc_fp_arch import ESCFP
from esc_arch.archs.esc_real_arch import ESCReal, ESCRealM
from esc_arch.archs.presets import PRESETS, Preset, build

__all__ = ["ESC", "ESCFP", "PRESETS", "ESCReal", "ESCRealM", "Preset", "build"]
