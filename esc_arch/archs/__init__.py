"""The networks.  Importing this package registers them with BasicSR."""

# Before what registers: BasicSR registers all of esc_arch when it is imported, and must not
# meet a half-imported module of ours.
import basicsr  # noqa: F401

# isort: split
from esc_arch.archs.elan_arch import ELAN
from esc_arch.archs.esc_arch import ESC
from esc_arch.archs.esc_fp_arch import ESCFP
from esc_arch.archs.esc_lte_arch import ESCLTE
from esc_arch.archs.esc_real_arch import ESCReal, ESCRealM
from esc_arch.archs.hit_srf_arch import HiT_SRF
from esc_arch.archs.mambairv2_light_arch import MambaIRv2Light
from esc_arch.archs.presets import PRESETS, Preset, build

__all__ = [
    "ELAN",
    "ESC",
    "ESCFP",
    "ESCLTE",
    "PRESETS",
    "ESCReal",
    "ESCRealM",
    "HiT_SRF",
    "MambaIRv2Light",
    "Preset",
    "build",
]
