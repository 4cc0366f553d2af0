"""Common parts of the adapters for networks that another package implements."""

import importlib
from collections.abc import Callable

from torch import Tensor, nn

from esc_arch.errors import UserError
from esc_arch.ops.padding import reflect_pad

__all__ = ["INSTALL", "extend_small", "public_class"]

INSTALL = "pip install 'spandrel<0.5' 'spandrel_extra_arches<0.3'"


def public_class(module: str, name: str) -> type[nn.Module]:
    """The public network of an optional package, or a substitute that explains how to install it.

    Args:
        module: where it is, by its full name.
        name: of the class.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return _NotInstalled


class _NotInstalled(nn.Module):
    """Stands in for a public network whose package is missing, and says so when built."""

    def __init__(self, **arguments: object) -> None:
        raise UserError(
            f"network {type(self).__name__}: expected the packages spandrel 0.4 and "
            "spandrel_extra_arches 0.2, which implement it; found no such package or another "
            f"version. Install them: {INSTALL}."
        )


def extend_small(
    forward: Callable[[Tensor], Tensor], x: Tensor, minimum: int, scale: int
) -> Tensor:
    """``forward(x)``, of an image that may be smaller than the network takes.

    Larger ones go through as they are: what the public network does at its borders is part
    of it.

    Args:
        forward: of (B, C, H, W), H and W at least ``minimum``, to (B, C', scale*H, scale*W).
        x: (B, C, H, W), H and W from 1; extended at the right and bottom by reflection.
        minimum: pixels.
        scale: by how much ``forward`` enlarges.

    Returns:
        (B, C', scale*H, scale*W).
    """
    height, width = x.shape[2:]
    if min(height, width) >= minimum:
        return forward(x)
    bottom, right = max(minimum - height, 0), max(minimum - width, 0)
    y = forward(reflect_pad(x, 0, bottom, 0, right).contiguous())
    return y[:, :, : height * scale, : width * scale]
