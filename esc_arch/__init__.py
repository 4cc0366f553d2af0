"""ESC for BasicSR: importing this package registers its networks.

Source: "Emulating Self-attention with Convolution for Efficient Image
Super-Resolution", ICCV 2025, arXiv 2503.06671.
"""

from esc_arch import compat

compat.before_basicsr()

import basicsr  # noqa: E402, F401

compat.after_basicsr()

from esc_arch.archs import ESC, ESCFP, PRESETS, ESCReal, ESCRealM  # noqa: E402
from esc_arch.data import DownsampleImageDataset  # noqa: E402
from esc_arch.errors import UserError  # noqa: E402
from esc_arch.losses import VGGPerceptualLoss  # noqa: E402
from esc_arch.models import ESRModel  # noqa: E402
from esc_arch.models.optimizers import optimizers_by_name  # noqa: E402
from esc_arch.version import __version__  # noqa: E402
from esc_arch.weights import create  # noqa: E402

optimizers_by_name()

__all__ = [
    "ESC",
    "ESCFP",
    "PRESETS",
    "DownsampleImageDataset",
    "ESCReal",
    "ESCRealM",
    "ESRModel",
    "UserError",
    "VGGPerceptualLoss",
    "__version__",
    "create",
]
