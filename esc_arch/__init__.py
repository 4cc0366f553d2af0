"""ESC for BasicSR: importing this package registers its networks.

They are registered together with BasicSR: at once when that is imported already, otherwise as
soon as it is.  Until then this package imports neither BasicSR nor PyTorch, which take
seconds, so that commands that need neither start at once.

Source: "Emulating Self-attention with Convolution for Efficient Image
Super-Resolution", ICCV 2025, arXiv 2503.06671.
"""

import importlib

from esc_arch.errors import UserError
from esc_arch.plugin import finder
from esc_arch.version import __version__

# Public names that need PyTorch, and where they are.
_MODULES = {
    **dict.fromkeys(("ESC", "ESCFP", "ESCLTE", "ESCReal", "ESCRealM", "PRESETS"), "esc_arch.archs"),
    "DownsampleImageDataset": "esc_arch.data.downsample_image_dataset",
    "PhotoImageDataset": "esc_arch.data.photo_image_dataset",
    "RandomScaleImageDataset": "esc_arch.data.random_scale_image_dataset",
    "ESCLTEModel": "esc_arch.models",
    "ESCModel": "esc_arch.models",
    "ESRModel": "esc_arch.models",
    "VGGPerceptualLoss": "esc_arch.losses",
    "calculate_psnr_lte": "esc_arch.metrics",
    "Upscaler": "esc_arch.upscale.upscaler",
    "create": "esc_arch.checkpoints",
    "deploy": "esc_arch.deployment",
}

__all__ = ["UserError", "__version__", *_MODULES]

finder.install()


def __getattr__(name: str) -> object:
    if name == "weights":  # deprecated: its names warn
        return importlib.import_module("esc_arch.weights")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
