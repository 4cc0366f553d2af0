"""Extending feature maps by reflection, without a limit on its width, and its undoing.

Shapes: B images, C channels, H x W pixels.  Results are channels_last, as the networks' maps are.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["crop", "pad_to_windows", "reflect_pad", "reflected"]


def reflect_pad(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Extend an image by reflection.

    ``torch.nn.functional.pad`` refuses to pad by as much as the image's side; here the
    reflection goes on back and forth, as in ``numpy.pad(mode="reflect")``.

    Args:
        x: (B, C, H, W), any dtype; H and W at least 1.
        top, bottom, left, right: rows and columns to add.

    Returns:
        (B, C, top + H + bottom, left + W + right); ``x`` itself when nothing is added.
    """
    return _extend(_extend(x, 2, top, bottom, reflected), 3, left, right, reflected)


def pad_to_windows(x: Tensor, window: tuple[int, int], mode: str = "reflect") -> Tensor:
    """Extend a map to whole windows at the bottom and right.

    Args:
        x: (B, C, H, W), any dtype; H and W at least 1.
        window: height and width of a window in pixels.
        mode: ``reflect`` or ``symmetric``, which repeats the last row and column; as in
            ``numpy.pad``.

    Returns:
        (B, C, H', W'), multiples of the window's sides; ``x`` itself when it fits.
    """
    places = {"reflect": reflected, "symmetric": _mirrored}[mode]
    for dim, side in zip((2, 3), window, strict=True):
        size = x.shape[dim]
        # Written by the number of windows, the new size stays plain under torch.export.
        x = _extend(x, dim, 0, (size + side - 1) // side * side - size, places)
    return x


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The first rows and columns, which undoes :func:`pad_to_windows`.

    Args:
        x: (B, C, H', W'), H' >= height, W' >= width.

    Returns:
        (B, C, height, width); a view, when the sizes are known.
    """
    if isinstance(height, int) and isinstance(width, int):
        return x[:, :, :height, :width]
    # The layout of a view depends on whether anything is cut off; a graph that holds for
    # every size needs a copy, whose layout does not.
    rows = torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    return _select(_select(x, 2, rows), 3, columns)


def reflected(size: int, end: int, before: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Which pixel of a side stands at each place when reflection extends it.

    Args:
        size: pixels of the side, at least 1.
        end: the first place that is not asked for, counted from the side's first pixel.
        before: places before that pixel.

    Returns:
        (before + end,), of int64.
    """
    position = torch.arange(-before, end, device=device)
    # Reflection walks 0, 1, ..., last, ..., 1 with this period; one pixel has period 1.
    last = size - 1
    period = torch.sym_max(2 * last, 1) if isinstance(last, torch.SymInt) else max(2 * last, 1)
    phase = position % period
    return torch.minimum(phase, period - phase).clamp(max=last)


def _mirrored(size: int, end: int, before: int, device: torch.device) -> Tensor:
    """As :func:`reflected`, the pixel at the edge repeated."""
    phase = torch.arange(-before, end, device=device) % (2 * size)
    return torch.minimum(phase, 2 * size - 1 - phase)


def _extend(x: Tensor, dim: int, before: int, after: int, places: Callable[..., Tensor]) -> Tensor:
    # A symbolic size (torch.export, torch.compile with dynamic shapes) is not an int:
    # then pad in any case, so that the graph holds for every size.
    if isinstance(after, int) and before == after == 0:
        return x
    size = x.shape[dim]
    return _select(x, dim, places(size, size + after, before, x.device))


def _select(x: Tensor, dim: int, places: Tensor) -> Tensor:
    # Selected with the channels last, the result has them last.
    return x.permute(0, 2, 3, 1).index_select(dim - 1, places).permute(0, 3, 1, 2)
