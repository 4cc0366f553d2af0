"""The compiled attention against attention in float64."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from esc_arch.fast import kernels
from esc_arch.ops import attention
from tests import brute_force

pytestmark = pytest.mark.usefixtures("lanes")


attend = torch.no_grad()(kernels.attend)


def random_inputs(batch, height, width, heads, d, window):
    numbers = torch.Generator().manual_seed(height * width)
    return (
        torch.randn(batch, height, width, 3 * heads * d, generator=numbers).permute(0, 3, 1, 2),
        torch.randn(heads, (2 * window - 1) ** 2, generator=numbers),
    )


def naive(qkv, table, window):
    return attention.window_attention(qkv, table, window, "naive")


def in_float64(qkv, table, window):
    """In numpy where that takes no minutes; the naive back-end is tested against that, too."""
    qkv, table = qkv.double(), table.double()
    if window > 8:
        return naive(qkv, table, window).numpy()
    result = brute_force.attention_of_map(
        brute_force.pad_to_windows(qkv.numpy(), window), table.numpy(), window
    )
    return result[:, :, : qkv.shape[2], : qkv.shape[3]]


@pytest.mark.parametrize(
    "batch, height, width, heads, d, window",
    [
        (1, 32, 32, 4, 16, 32),
        (1, 40, 70, 3, 16, 32),
        (2, 20, 33, 2, 8, 8),
        (1, 9, 60, 1, 16, 48),
        (1, 33, 29, 2, 12, 7),
        (2, 16, 18, 2, 64, 16),
        (1, 5, 4, 3, 1, 2),
        (1, 70, 65, 1, 24, 64),
        (3, 1, 1, 2, 10, 3),
        (1, 2, 3, 2, 9, 1),
    ],
)
def test_is_softmax_attention(batch, height, width, heads, d, window):
    qkv, table = random_inputs(batch, height, width, heads, d, window)
    result = attend(qkv, table, window)
    assert kernels.takes_result(result)
    np.testing.assert_allclose(result.numpy(), in_float64(qkv, table, window), atol=2e-5)


def test_any_number_of_threads(check_threads):
    """Small maps are cut into more parts, so that there is one for each."""
    qkv, table = random_inputs(1, 13, 9, 2, 8, 8)
    check_threads(lambda: [attend(qkv, table, 8)])


def test_memory_formats_and_slices():
    qkv, table = random_inputs(2, 12, 20, 2, 8, 8)
    expected = attend(qkv, table, 8)
    assert torch.equal(attend(qkv.contiguous(), table, 8), expected)
    wide = torch.zeros(2, 15, 30, 60).permute(0, 3, 1, 2)
    wide[:, 5:53, 2:14, 3:23] = qkv
    assert torch.equal(attend(wide[:, 5:53, 2:14, 3:23], table, 8), expected)


@pytest.mark.parametrize("size", [30, 1e3, 1e6])
def test_large_scores_stay_finite(size):
    qkv, table = random_inputs(1, 8, 8, 2, 8, 8)
    qkv[:, :32] *= size
    result = attend(qkv, table * size, 8)
    expected = in_float64(qkv, table * size, 8)
    # Scores of a million are known to a tenth in float32: the softmax may choose another key.
    near = np.isclose(result.numpy(), expected, atol=1e-4 if size < 1e3 else 1e-2).mean()
    assert result.isfinite().all() and near > (0.99 if size < 1e6 else 0.9)


@pytest.mark.parametrize("value", [1e4, -1e4])
def test_a_large_bias_decides(value):
    qkv, table = random_inputs(1, 8, 8, 2, 8, 8)
    table[:, table.shape[1] // 2] = value  # a token's own position
    np.testing.assert_allclose(
        attend(qkv, table, 8).numpy(), in_float64(qkv, table, 8), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(wrong):
    qkv, table = random_inputs(1, 8, 16, 2, 8, 8)
    qkv[0, 0, 3, 4] = wrong
    result = attend(qkv, table, 8)
    assert result[0, :8, 3, 4].isnan().all()
    # The other window and the other head do not see it.
    assert result[..., 8:].isfinite().all() and result[:, 8:].isfinite().all()


def test_its_multiply_adds_are_counted():
    qkv, table = random_inputs(1, 9, 8, 2, 4, 8)
    with FlopCounterMode(display=False) as counter:
        attend(qkv, table, 8)
    # Two windows, two products of 64 x 64 x 4 in each of two heads; two operations each.
    assert counter.get_total_flops() == 2 * 2 * 2 * 64 * 64 * 4 * 2


def gradients(attend, qkv, table, window, upstream):
    """Of what arrives at each query, for the map and the table."""
    leaves = [x.detach().clone().requires_grad_() for x in (qkv, table)]
    result = attend(*leaves, window)
    result.backward(upstream.to(result.dtype))
    return [leaf.grad for leaf in leaves]


SIZES = [
    (1, 8, 8, 1, 4, 8),
    (2, 16, 24, 2, 8, 8),
    (1, 33, 40, 2, 12, 7),
    (1, 40, 70, 2, 16, 32),
    (1, 20, 20, 1, 20, 16),
    (1, 48, 48, 1, 64, 48),
    (3, 1, 1, 2, 10, 3),
]


@pytest.mark.parametrize("batch, height, width, heads, d, window", SIZES)
def test_gradients(batch, height, width, heads, d, window):
    qkv, table = random_inputs(batch, height, width, heads, d, window)
    upstream = torch.randn(batch, heads * d, height, width)
    result = gradients(kernels.attend, qkv, table, window, upstream)
    expected = gradients(naive, qkv.double(), table.double(), window, upstream)
    for of_kernel, exact in zip(result, expected, strict=True):
        torch.testing.assert_close(
            of_kernel.double(), exact, rtol=0, atol=2e-5 * (exact.abs().max().item() + 1)
        )


def test_gradients_do_not_depend_on_the_threads(check_threads):
    qkv, table = random_inputs(2, 24, 40, 2, 8, 8)
    upstream = torch.randn(2, 16, 24, 40)
    check_threads(lambda: gradients(kernels.attend, qkv, table, 8, upstream))


def test_multiply_adds_of_the_gradients_are_counted():
    qkv, table = random_inputs(1, 8, 8, 2, 4, 8)
    with FlopCounterMode(display=False) as counter:
        gradients(kernels.attend, qkv, table, 8, torch.randn(1, 8, 8, 8))
    # One window, two heads: two products forward, four backward.
    assert counter.get_total_flops() == (2 + 4) * 2 * 64 * 64 * 4 * 2


def test_memory_does_not_grow_with_the_square_of_the_window():
    """What is kept for the gradient is the map, its result and one number for each head."""
    qkv, table = random_inputs(1, 32, 32, 2, 8, 32)
    kept = []

    def pack(x):
        kept.append(x.numel())
        return x

    qkv.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        kernels.attend(qkv, table.requires_grad_(), 32)
    bias = kernels.prepare_bias(table, 32)
    assert sum(kept) <= qkv.numel() * 4 // 3 + 2 * 32 * 32 + 2 * bias.numel()
