"""A block by the executor tile by tile, against the whole map and against the block's modules."""

import copy

import pytest
import torch

from esc_arch import fast
from esc_arch.archs.esc_arch import ESCBlock, ESCConfig, geometric_mean_kernel
from esc_arch.archs.esc_fp_arch import FactorizedConvAttention
from esc_arch.fast.maps import TensorMap, tiles
from tests.reference_cases import deviation, fill_parameters

WINDOW = 8
CONFIG = ESCConfig(
    dim=32,
    pdim=16,
    kernel_size=13,
    n_blocks=1,
    conv_blocks=2,
    window_size=WINDOW,
    num_heads=2,
    upscaling_factor=2,
    exp_ratio=1.25,
)
KINDS = ["esc", "esc_ln", "esc_fp", "esc_asymmetric"]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
SIDES = [(8, 8), (16, 8), (8, 24), (16, 32), (64, 16), (1, 1)]


def make(kind, dtype):
    """A block and its large kernel, with gradients."""
    numbers = torch.Generator().manual_seed(0)
    if kind == "esc_fp":
        block = ESCBlock(CONFIG, True, FactorizedConvAttention, first_exp_ratio=1.5)
        shapes = (16, 16, 1, 1), (16, 1, 13, 13)
        kernel = tuple(torch.randn(shape, generator=numbers).to(dtype) / 4 for shape in shapes)
    else:
        block = ESCBlock(CONFIG, use_ln=kind == "esc_ln")
        kernel = torch.randn(16, 16, 13, 13, generator=numbers).to(dtype) / 50
        if kind != "esc_asymmetric":
            kernel = geometric_mean_kernel(kernel)
    return fill_parameters(block).to(dtype).eval(), kernel


@torch.no_grad()
def by_tiles(block, x, kernel, side):
    """The result, tile by tile, and how many tiles there were."""
    before = x.clone()
    skip = TensorMap(x, x.device)
    new = [TensorMap.empty(x.shape, x.dtype, x.device) for _ in range(2)]
    for one in new:
        one.tensor.fill_(float("nan"))
    parts = tiles(tuple(x.shape[2:]), side, WINDOW)
    fast.run_tiles(block, kernel, fast.Maps(skip, *new), parts)
    assert torch.equal(x, before)
    return new[1].tensor, len(parts)


def of_modules(block, x, kernel):
    """With gradients enabled a block calls its modules; in float64."""
    kernels = kernel if isinstance(kernel, tuple) else (kernel,)
    kernels = tuple(one.double() for one in kernels)
    result = copy.deepcopy(block).double()(x.double(), kernels if len(kernels) > 1 else kernels[0])
    assert result.requires_grad
    return result.detach()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch, height, width", [(1, 37, 29), (2, 37, 29), (1, 8, 8), (2, 5, 70)])
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_of_any_size_are_the_whole_map(kind, batch, height, width, dtype, memory_format):
    block, kernel = make(kind, dtype)
    x = torch.randn(batch, 32, height, width, dtype=dtype).to(memory_format=memory_format)
    expected = of_modules(block, x, kernel)
    before = x.clone()
    with torch.no_grad():
        assert fast.takes(block, x, kernel)
        whole = fast.run_block(block, x, kernel)
    assert torch.equal(x, before)
    assert deviation(whole, expected) < TOLERANCE[dtype]
    counts = set()
    for side in SIDES:
        result, count = by_tiles(block, x, kernel, side)
        counts.add(count)
        assert result.dtype == dtype
        assert deviation(result, whole) < TOLERANCE[dtype], side
        assert deviation(result, expected) < TOLERANCE[dtype], side
    assert max(counts) == max(height // WINDOW, 1) * max(width // WINDOW, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_for_the_whole_map_is_the_block_to_the_bit(kind):
    block, kernel = make(kind, torch.float32)
    x = torch.randn(2, 32, 37, 29).contiguous(memory_format=torch.channels_last)
    result, count = by_tiles(block, x, kernel, (64, 64))
    with torch.no_grad():
        assert count == 1 and torch.equal(result, fast.run_block(block, x, kernel))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_how_often_the_tiles_are_gone_through(kind):
    """``layers`` tells, which progress bars count by."""
    block, kernel = make(kind, torch.float32)
    x = torch.randn(1, 32, 37, 29).contiguous(memory_format=torch.channels_last)
    maps = [TensorMap(x.clone(), x.device) for _ in range(3)]

    class CountedTiles(list):
        rounds = 0

        def __iter__(self):
            self.rounds += 1
            return super().__iter__()

    parts = CountedTiles(tiles((37, 29), (16, 16), WINDOW))
    fast.run_tiles(block, kernel, fast.Maps(*maps), parts)
    assert parts.rounds == fast.layers(block)
