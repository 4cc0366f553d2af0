"""The block of the ESC networks for inference, region by region of its feature maps.

A whole image is one tile, a large photo is many.  Tiles give the result of the whole image because
a layer reads as many pixels around its tile as its kernel reaches (the halo),
tiles are cut between attention windows, and all tiles go through a layer before any goes on to the
next one, so that the mean that a dynamic kernel follows from is that of the whole map.

On a CPU in float32 the kernels of :mod:`esc_arch.fast.kernels` compute the layers.  Layers without
a kernel are run as modules, in bands of rows: a map of a whole photo leaves the cache between
any two layers, and its memory is returned to the system and allocated again, page by page, for
every result; both cost more than the arithmetic of a 1x1 convolution.

Shapes: B images, C channels, of which ConvAttn convolves p, H x W pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch.fast import kernels
from esc_arch.fast.dispatch import is_plain, on_cpu_in_inference, reach, untouched
from esc_arch.fast.maps import FeatureMap, Region, TensorMap, cut
from esc_arch.ops import attention

__all__ = [
    "Maps",
    "by_modules",
    "in_bands",
    "is_symmetric",
    "layers",
    "rows_of_bands",
    "run_block",
    "run_tiles",
    "self_attention",
]

# Pixels of a band; at 80 channels in float32 an intermediate result takes 6 MB.  On two
# cores 20,000 took 0.9 of the time of 6,000 and of the whole 320 x 180 map.
PIXELS_PER_BAND = 20_000

# Height of a band at least, in halos: what the two halos add is computed twice.
HALOS_PER_BAND = 6

# Pixels that attend in one pass without the kernel, for each core, which has windows of its own.
ATTENDING_PIXELS_PER_CORE = 8192

# With fewer windows the cores are kept busy by heads and parts of windows instead.
WINDOWS_PER_CORE = 4


class Block(Protocol):
    """The children of a block, by the names that the checkpoints have for them."""

    ln_proj: Any
    proj: Any  # ConvFFN: proj, dwc, aggr
    ln_attn: Any
    attn: Any  # WindowAttention: to_qkv, to_out, relative_position_bias, window_size
    lns: Any
    convffns: Any  # of ConvFFN
    pconvs: Any  # of ConvAttnWrapper: plk, aggr
    ln_out: Any
    conv_out: Any


# (p, p, k, k), or for ESC-FP (p, p, 1, 1) and (p, 1, k, k).
LargeKernel = Tensor | tuple[Tensor, Tensor]


class Maps(NamedTuple):
    """The three maps that a block needs, each (B, C, H, W) and in memory of its own.

    Attributes:
        skip: the block's input, which stays as it is.
        x: what the layers add to.
        y: what a feed-forward network makes of x; takes the block's result at the end.
    """

    skip: FeatureMap
    x: FeatureMap
    y: FeatureMap


def run_block(block: Block, x: Tensor, large_kernel: LargeKernel) -> Tensor:
    """``block(x, large_kernel)``.

    Args:
        block: as it was built, see :func:`esc_arch.fast.takes`.
        x: (B, C, H, W).
        large_kernel: as the block takes it.

    Returns:
        (B, C, H, W), channels_last.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    skip = TensorMap(x, x.device)
    new = [TensorMap.empty(x.shape, x.dtype, x.device) for _ in range(2)]
    run_tiles(block, large_kernel, Maps(skip, *new), [Region(0, x.shape[2], 0, x.shape[3])])
    return new[1].tensor


def run_tiles(block: Block, large_kernel: LargeKernel, maps: Maps, tiles: Iterable[Region]) -> None:
    """As :func:`run_block`, of maps that are read and written tile by tile.

    Args:
        block, large_kernel: as for :func:`run_block`.
        maps: the result is in ``maps.y``.
        tiles: of the maps, cut between the windows of the attention, see
            :func:`esc_arch.fast.maps.tiles`; gone through once for each layer, so no iterator.
    """
    symmetric = isinstance(large_kernel, Tensor) and is_symmetric(large_kernel)
    _attend(block, maps, tiles)
    for ln, ffn, pconv in zip(block.lns, block.convffns, block.pconvs, strict=True):
        dynamic_kernel = _feed_forward(ffn, ln, pconv.plk, maps, tiles)
        _convolve(pconv, large_kernel, dynamic_kernel, symmetric, maps, tiles)
    _finish(block, maps, tiles)


def layers(block: Block) -> int:
    """How often :func:`run_tiles` goes through the tiles."""
    return 2 + 2 * len(block.pconvs)


# ---- the layers of a block -------------------------------------------------------------------


def _attend(block: Block, maps: Maps, tiles: Iterable[Region]) -> None:
    """x = f + attention(norm(f)), f = feed-forward network of skip."""
    for tile in tiles:
        part = maps.y.space(tile)
        _conv_ffn(block.proj, block.ln_proj, maps.skip, tile, part)
        out = maps.x.space(tile)
        self_attention(block.attn, block.ln_attn, part, out)
        maps.x.write(tile, out)


def _feed_forward(ffn: Any, norm: Any, plk: Any, maps: Maps, tiles: Iterable[Region]) -> Tensor:
    """y = feed-forward network of x; returns the dynamic kernels of all of y, (B, p, 3, 3)."""
    total = torch.zeros((), dtype=torch.float64)
    pixels = maps.y.size[0] * maps.y.size[1]
    for tile in tiles:
        out = maps.y.space(tile)
        _conv_ffn(ffn, norm, maps.x, tile, out)
        total = total + _sum(out[:, : plk.pdim])
        maps.y.write(tile, out)
    return plk.dynamic_kernel((total / pixels).to(out.dtype))


def _convolve(
    pconv: Any,
    large_kernel: LargeKernel,
    dynamic_kernel: Tensor,
    symmetric: bool,
    maps: Maps,
    tiles: Iterable[Region],
) -> None:
    """x = x + 1x1 convolution of y with its first channels convolved."""
    spatial = large_kernel if isinstance(large_kernel, Tensor) else large_kernel[1]
    halo, p = spatial.shape[-1] // 2, pconv.plk.pdim
    for tile in tiles:
        outer = tile.grown(halo, maps.y.size)
        inner = tile.inside(outer)
        around = maps.y.view(outer)
        first = around[:, :p]
        if not isinstance(large_kernel, Tensor):
            convolved = _factorized_conv_attention(first, inner, *large_kernel, dynamic_kernel)
        elif symmetric and kernels.usable(first) and p % kernels.VECTOR == 0:
            convolved = _empty_like(inner.of(first))
            margins = _margins(inner, first)
            kernels.symmetric_conv(first, large_kernel, dynamic_kernel, convolved, margins)
        else:
            convolved = _conv_attention(first, inner, large_kernel, dynamic_kernel)
        part = maps.x.view(tile)
        _aggregate(pconv.aggr, convolved, inner.of(around), part)
        maps.x.write(tile, part)


def _finish(block: Block, maps: Maps, tiles: Iterable[Region]) -> None:
    """y = skip + last convolution of x."""
    modules = (block.ln_out, block.conv_out)
    halo = block.conv_out.kernel_size[0] // 2
    for tile in tiles:
        outer = tile.grown(halo, maps.x.size)
        out = maps.y.space(tile)
        by_modules(modules, maps.x.view(outer), tile.inside(outer), out, maps.skip.view(tile))
        maps.y.write(tile, out)


# ---- parts of the layers, of a tile ----------------------------------------------------------


def _conv_ffn(ffn: Any, norm: Any, of: FeatureMap, tile: Region, out: Tensor) -> None:
    """out = ffn(norm(x)) of a tile."""
    outer = tile.grown(ffn.dwc.kernel_size[0] // 2, of.size)
    x, inner = of.view(outer), tile.inside(outer)
    if not kernels.usable(x):
        by_modules((norm, ffn), x, inner, out)
        return
    norm = None if isinstance(norm, nn.Identity) else norm
    kernels.conv_ffn(x, norm, ffn.proj, ffn.dwc, ffn.aggr, out, _margins(inner, x))


def self_attention(attn: Any, norm: Any, x: Tensor, out: Tensor) -> None:
    """out = x + attn(norm(x)) of whole windows."""
    window, size = attn.window_size, x.shape[2:]
    windows = x.shape[0] * -(-size[0] // window) * -(-size[1] // window)
    many = windows >= WINDOWS_PER_CORE * torch.get_num_threads()
    by_kernel = attention.choose(attn.attn_type, x) is kernels.attend
    if by_kernel and many and kernels.usable(x) and x.shape[1] % kernels.VECTOR == 0:
        table = kernels.prepare_bias(attn.relative_position_bias, window)
        kernels.attention_layer(x, norm, attn.to_qkv, table, window, attn.to_out, out)
        return
    pixels = ATTENDING_PIXELS_PER_CORE * torch.get_num_threads()
    if x.device.type != "cpu" or x.shape[0] * size.numel() <= PIXELS_PER_BAND:
        pixels = x.shape[0] * size.numel() + window * size[1]
    rows = pixels // (x.shape[0] * size[1])
    for top, bottom in cut(size[0], rows, window):
        band = Region(top, bottom, 0, size[1])
        torch.add(band.of(x), attn(norm(band.of(x))), out=band.of(out))


def is_symmetric(kernel: Tensor) -> bool:
    """Whether a kernel (..., k, k) is the same, to the bit, under every flip and turn."""
    flipped, turned = kernel.flip(-1), kernel.transpose(-2, -1)
    return torch.equal(kernel, turned) and torch.equal(kernel, flipped)


def _sum(x: Tensor) -> Tensor:
    """Of each channel over the map, (B, C, H, W) -> (B, C, 1, 1) of float64."""
    # Rows in float32, with the channels last: the fastest of the ways, and as exact as is needed.
    wide = torch.promote_types(x.dtype, torch.float32)
    rows = x.permute(0, 2, 3, 1).sum(2, dtype=wide)
    return rows.sum(1, dtype=torch.float64)[:, :, None, None]


def _conv_attention(
    x: Tensor, inner: Region, large_kernel: Tensor, dynamic_kernel: Tensor
) -> Tensor:
    """``conv(x, large_kernel) + depthwise_conv(x, dynamic_kernel)`` by one convolution an image."""
    margin = large_kernel.shape[-1] // 2 - 1
    x = _with_zeros(x, inner, margin + 1)
    # Convolution is linear in its kernel: the dynamic one is added in the middle of the diagonal.
    diagonals = torch.diag_embed(dynamic_kernel.permute(0, 2, 3, 1)).permute(0, 3, 4, 1, 2)
    kernels_by_image = large_kernel + F.pad(diagonals, (margin,) * 4)
    images = zip(x.split(1), kernels_by_image, strict=True)
    return _joined([F.conv2d(image, kernel) for image, kernel in images])


def _factorized_conv_attention(
    x: Tensor,
    inner: Region,
    channel_kernel: Tensor,
    spatial_kernel: Tensor,
    dynamic_kernel: Tensor,
) -> Tensor:
    """Mix the channels, then a depth-wise convolution by the sum of both kernels of space."""
    margin = spatial_kernel.shape[-1] // 2 - 1
    x = _with_zeros(F.conv2d(x, channel_kernel), inner, margin + 1)
    kernels_by_image = spatial_kernel + F.pad(dynamic_kernel, (margin,) * 4).unsqueeze(2)
    images = zip(x.split(1), kernels_by_image, strict=True)
    return _joined([F.conv2d(image, kernel, groups=len(kernel)) for image, kernel in images])


def _joined(images: list[Tensor]) -> Tensor:
    return images[0] if len(images) == 1 else torch.cat(images)


def _aggregate(layer: nn.Conv2d, first: Tensor, rest: Tensor, residual: Tensor) -> None:
    """residual += layer(cat(first, the other channels of rest))."""
    if kernels.usable(rest) and rest.shape[1] % kernels.VECTOR == 0:
        kernels.aggregate(first, rest, layer, residual)
        return
    whole = Region(0, rest.shape[2], 0, rest.shape[3])
    for band in _bands(whole, rest, halo=0, scale=1):
        x = torch.cat([band.of(first), band.of(rest)[:, first.shape[1] :]], dim=1)
        band.of(residual).add_(layer(x))


# ---- modules in bands of rows ----------------------------------------------------------------


def in_bands(
    modules: Sequence[nn.Module],
    x: Tensor,
    residual: Tensor | None = None,
    function: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """``residual + modules(x)``, in bands of rows where that is faster and changes nothing.

    Args:
        modules: called one after the other, each of a map alone.  They are called of the whole map
            in training, on a GPU, in graphs, when someone listens by a hook, and when there is one
            that is not known to be local.
        x: (B, C, H, W).
        residual: (B, C', scale*H, scale*W), added to the result when given.
        function: calls the modules in another way, of a map (B, C, H, W).

    Returns:
        (B, C', scale*H, scale*W).
    """
    owner = getattr(function, "__self__", None)  # whose subclass may have another method
    is_known = not isinstance(owner, nn.Module) or is_plain(owner)
    if is_known and _is_cut(modules, x) and reach(modules):
        whole = Region(0, x.shape[2], 0, x.shape[3])
        return by_modules(modules, x, whole, None, residual, function)
    x = (function or _chain(modules))(x)
    return x if residual is None else residual + x


def _chain(modules: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        for module in modules:
            x = module(x)
        return x

    return call


def rows_of_bands(module: nn.Module, x: Tensor, scale: int) -> int | None:
    """Rows of a band for a module that cuts a map (B, C, H, W) by itself; None for no bands.

    Its children are to look at single pixels.
    """
    if not _is_cut([module], x) or reach(module.children()) != (0, 1):
        return None
    return max(PIXELS_PER_BAND // (x.shape[3] * scale**2), 1)


def _is_cut(modules: Sequence[nn.Module], x: Tensor) -> bool:
    return (
        on_cpu_in_inference(x)
        and x.shape[0] * x.shape[2] * x.shape[3] > PIXELS_PER_BAND
        and untouched(modules)
    )


def by_modules(
    modules: Sequence[nn.Module],
    x: Tensor,
    inner: Region,
    out: Tensor | None,
    residual: Tensor | None = None,
    function: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """out = residual + modules(x) for a part of x, whose surroundings are looked at only.

    Zeros stand in for rows beyond x, as with zero-padded convolutions.
    """
    local = reach(modules)
    assert local is not None, "callers ask before"
    halo, scale = local
    function = function or _chain(modules)
    size = (x.shape[2], x.shape[3])
    finer = inner.scaled(scale)
    for band in _bands(inner, x, halo, scale):
        outer = band.grown(halo, size)
        for image in _batches(x):
            y = function(outer.of(x[image]))
            y = band.inside(outer).scaled(scale).of(y)
            if out is None:
                dtype = y.dtype if residual is None else torch.result_type(residual, y)
                shape = (len(x), y.shape[1], finer.height, finer.width)
                out = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
            place = band.inside(inner).scaled(scale)
            if residual is None:
                place.of(out[image]).copy_(y)
            else:
                torch.add(place.of(residual[image]), y, out=place.of(out[image]))
    assert out is not None, "a region has a band"
    return out


def _bands(region: Region, x: Tensor, halo: int, scale: int) -> list[Region]:
    if x.device.type != "cpu":
        return [region]
    rows = PIXELS_PER_BAND // (region.width * scale**2)
    return region.bands(max(rows, HALOS_PER_BAND * halo, 1))


def _batches(x: Tensor) -> list[slice]:
    """Images that go together: all where they are small."""
    if x.device.type != "cpu" or x.shape[0] * x.shape[2] * x.shape[3] <= PIXELS_PER_BAND:
        return [slice(None)]
    return [slice(i, i + 1) for i in range(len(x))]


def _with_zeros(x: Tensor, inner: Region, halo: int) -> Tensor:
    """The input of a convolution without padding for the inner part: zeros beyond the image."""
    left, right, top, bottom = (
        halo - inner.left,
        halo - (x.shape[3] - inner.right),
        halo - inner.top,
        halo - (x.shape[2] - inner.bottom),
    )
    return F.pad(x, (left, right, top, bottom))


def _margins(inner: Region, x: Tensor) -> kernels.Margins:
    """Rows and columns of x around a part of it."""
    height, width = x.shape[2:]
    return kernels.Margins(inner.top, height - inner.bottom, inner.left, width - inner.right)


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, memory_format=torch.channels_last)
