"""The networks.  Importing this package registers them with BasicSR."""

from esc_arch.archs.esc_arch import ESC
from esc_arch.archs.presets import PRESETS, Preset, create

__all__ = ["ESC", "PRESETS", "Preset", "create"]
