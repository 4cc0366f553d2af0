"""Reflection padding without a limit on its width, and its undoing."""

import torch
from torch import Tensor


def reflect_pad(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Extend an image by reflection.

    ``torch.nn.functional.pad`` refuses to pad by as much as the image's side; here the
    reflection goes on back and forth, as in ``numpy.pad(mode="reflect")``.

    Args:
        x: (B, H, W, C), any dtype; H and W at least 1.
        top, bottom, left, right: rows and columns to add.

    Returns:
        (B, top + H + bottom, left + W + right, C); ``x`` itself when nothing is added.
    """
    return _reflect(_reflect(x, 1, top, bottom), 2, left, right)


def reflect_pad_bottom_right(x: Tensor, bottom: int, right: int) -> Tensor:
    """:func:`reflect_pad` at the ends only."""
    return reflect_pad(x, 0, bottom, 0, right)


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


def symmetric_pad_bottom_right(x: Tensor, bottom: int, right: int) -> Tensor:
    """Extend an image by reflection that repeats the last row and column.

    Args:
        x: (B, H, W, C), any dtype; H and W at least 1.
        bottom, right: rows and columns to add, as many as wanted.

    Returns:
        (B, H + bottom, W + right, C), as ``numpy.pad(mode="symmetric")`` has it; ``x``
        itself when nothing is added.
    """
    return _symmetric(_symmetric(x, 1, bottom), 2, right)


def crop_bottom_right(x: Tensor, height: int, width: int) -> Tensor:
    """Undo :func:`reflect_pad_bottom_right`: the first rows and columns.

    Args:
        x: (B, H', W', C), H' >= height, W' >= width.

    Returns:
        (B, height, width, C); a view, when the sizes are known.
    """
    if isinstance(height, int) and isinstance(width, int):
        return x[:, :height, :width]
    # The layout of a view depends on whether anything is cut off; a graph that holds for
    # every size needs a copy, whose layout does not.
    rows = torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    return x.index_select(1, rows).index_select(2, columns)


def _reflect(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    # A symbolic size (torch.export, torch.compile with dynamic shapes) is not an int:
    # then pad in any case, so that the graph holds for every size.
    if isinstance(after, int) and before == after == 0:
        return x
    size = x.shape[dim]
    return x.index_select(dim, reflected(size, size + after, before, x.device))


def _symmetric(x: Tensor, dim: int, after: int) -> Tensor:
    if isinstance(after, int) and after == 0:  # see _reflect
        return x
    size = x.shape[dim]
    phase = torch.arange(size + after, device=x.device) % (2 * size)
    return x.index_select(dim, torch.minimum(phase, 2 * size - 1 - phase))
