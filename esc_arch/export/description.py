"""What is written into an exported file about where it comes from."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from esc_arch.checkpoints.detection import Detected, detect
from esc_arch.checkpoints.loading import LoadedModel
from esc_arch.checkpoints.metadata import describe
from esc_arch.errors import UserError
from esc_arch.files import sha256_of

__all__ = ["EXPORTED", "describe_source", "refused", "window_of"]

# Classes whose graphs hold for every size, see tests/export.
EXPORTED = ("ESC", "ESCFP", "ESCReal", "ESCRealM", "HiT_SRF", "ELAN")


def describe_source(opened: LoadedModel, precision: str) -> dict[str, str]:
    """The metadata of an exported file: that of ``.safetensors`` files and more.

    Args:
        opened: the network.
        precision: ``float32`` or ``float16``.

    Raises:
        UserError: when the network is none of this package's.
    """
    detected = _detected(opened)
    return {
        **describe(detected),
        **{k: v for k, v in opened.metadata.items() if k in ("licence", "training")},
        "name": opened.name,
        "channels": str(opened.channels),
        "precision": precision,
        "source_file": Path(opened.path).name,
        "source_sha256": sha256_of(opened.path),
    }


def window_of(arguments: Mapping[str, object]) -> int:
    """The side in pixels of the largest attention window that a network has, 32 where unsaid."""
    return int(arguments.get("window_size", 32))


def refused(opened: LoadedModel, reason: str) -> UserError:
    """The error for a network whose graph cannot be written."""
    return UserError(
        f"{opened.path}: expected a network that can be exported: {', '.join(EXPORTED)}; found "
        f"{opened.name} ({reason}). Run it by `basicsr upscale -w {opened.path}` instead."
    )


def _detected(opened: LoadedModel) -> Detected:
    if not isinstance(opened.network, nn.Module):
        raise refused(opened, "an exported file already")
    detected = detect(opened.network.state_dict())
    if detected is None or detected.network.__name__ not in EXPORTED:
        raise refused(opened, "its operations depend on the image's size")
    return detected
