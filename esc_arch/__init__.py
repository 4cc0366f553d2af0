"""ESC for BasicSR: importing this package registers its networks.

Source: "Emulating Self-attention with Convolution for Efficient Image
Super-Resolution", ICCV 2025, arXiv 2503.06671.
"""

from esc_arch import compat

compat.before_basicsr()

import basicsr  # noqa: E402, F401

compat.after_basicsr()

from esc_arch.archs import ESC, PRESETS, create  # noqa: E402
from esc_arch.errors import UserError  # noqa: E402
from esc_arch.version import __version__  # noqa: E402

__all__ = ["ESC", "PRESETS", "UserError", "__version__", "create"]
