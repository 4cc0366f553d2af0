"""Running a local operation over a feature map in bands of rows.

On a CPU a feature map of a whole photo leaves the cache between any two layers, and its
memory is given back to the system and fetched anew, page by page, for every result;
both cost more than the arithmetic of a 1x1 convolution.  In bands several layers run
while the data is in the cache.  Training keeps every intermediate result anyway, and a
GPU wants the whole map at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from esc_arch import native
from esc_arch.ops.margins import NO_MARGINS, Margins

# Pixels of a band; at 80 channels in float32 an intermediate result takes 6 MB.  On two
# cores 20,000 took 0.9 of the time of 6,000 and of the whole 320 x 180 map.
PIXELS_PER_BAND = 20_000

# Height of a band at least, in halos: what the two halos add is computed twice.
HALOS_PER_BAND = 6


def runs_in_bands(x: Tensor) -> bool:
    """Whether :func:`by_bands` cuts this map: a large one, in eager inference on a CPU."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return x.shape[0] * x.shape[2] * x.shape[3] > PIXELS_PER_BAND


def by_bands(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    halo: int = 0,
    scale: int = 1,
    residual: Tensor | None = None,
    reuse: Tensor | None = None,
    margins: Margins = NO_MARGINS,
) -> Tensor:
    """``residual + function(x)``, computed band by band where that is faster.

    Args:
        function: of a band of x, (1, C, rows, W), to one of ``scale`` times the rows and
            columns.  Zeros stand in for rows beyond the map, as with zero-padded
            convolutions.
        x: (B, C, H', W').
        halo: rows of x that the result of a row needs above and below.
        scale: by how much the function enlarges.
        residual: (B, C', scale*H, scale*W), added to the result when given.
        reuse: a map that nobody needs any more, which may be ``residual`` but not x: its
            memory takes the result if it fits.
        margins: rows and columns of x around the part that the result is wanted for.

    Returns:
        (B, C', scale*H, scale*W), without the margins.
    """
    of_result = Margins(*(scale * margin for margin in margins))
    if not runs_in_bands(x):
        result = of_result.inner(function(x))
        return result if residual is None else residual + result
    batch, _, height, width = margins.inner(x).shape
    rows = max(PIXELS_PER_BAND // (width * scale**2), HALOS_PER_BAND * halo, 1)
    result = None
    for image in range(batch):
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            first = max(margins.top + top - halo, 0)
            end = min(margins.top + bottom + halo, x.shape[2])
            around = of_result._replace(
                top=(margins.top + top - first) * scale, bottom=(end - margins.top - bottom) * scale
            )
            band = around.inner(function(x[image : image + 1, :, first:end]))
            if result is None:
                dtype = band.dtype if residual is None else torch.result_type(residual, band)
                shape = (batch, band.shape[1], height * scale, width * scale)
                result = result_map(shape, dtype, reuse)
            rows_of_result = slice(top * scale, bottom * scale)
            target = result[image : image + 1, :, rows_of_result]
            if residual is None:
                target.copy_(band)
            else:
                torch.add(residual[image : image + 1, :, rows_of_result], band, out=target)
    return result


def replace_first_channels(x: Tensor, first: Tensor) -> Tensor:
    """``first`` in the place of the first channels of ``x``.

    Args:
        x: (B, C, H, W), which nobody needs any more: in bands it is written to.
        first: (B, p, H, W), p <= C.

    Returns:
        (B, C, H, W).
    """
    p = first.shape[1]
    if not runs_in_bands(x):
        return torch.cat([first, x[:, p:]], dim=1)
    x[:, :p] = first
    return x


def result_map(shape: tuple[int, ...], dtype: torch.dtype, reuse: Tensor | None) -> Tensor:
    """Memory for a channels_last map: that of ``reuse`` if it fits."""
    if reuse is not None and reuse.shape == shape and reuse.dtype == dtype:
        return reuse
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


def map_for_kernel(shape: tuple[int, ...], dtype: torch.dtype, reuse: Tensor | None) -> Tensor:
    """As :func:`result_map`, for a kernel: only memory that it can write to is reused."""
    if reuse is not None and not native.takes_result(reuse.permute(0, 2, 3, 1)):
        reuse = None
    return result_map(shape, dtype, reuse)
