"""Every back-end against softmax attention in numpy, in float64."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from einops import rearrange

from esc_arch.fast import kernels
from esc_arch.ops import attention
from esc_arch.ops.attention import (
    ATTENTION_TYPES,
    attend_tokens,
    choose,
    relative_position_bias,
    window_attention,
    window_merge,
    window_partition,
)
from tests import brute_force

# Of tokens and the biases of all pairs.
with torch.no_grad():
    NAIVE = attend_tokens("naive", torch.empty(1, 6, 1, 1))
    SDPA = attend_tokens("sdpa", torch.empty(1, 6, 1, 1))
    SDPA_BY_BLOCKS = attend_tokens("sdpa", torch.empty(1, 6, 1, attention.LARGE_MAP + 1))
    FLEX = choose("flex", torch.empty(1, 6, 1, 1))
BACKENDS = [NAIVE, SDPA, SDPA_BY_BLOCKS]
# Of (q, k, v, table); the output is a mean of v, which is about 1.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def name(function):
    return function.__name__


def random_inputs(windows, heads, window, d):
    """q, k, v and a table of the size of the scores, as numpy in float64."""
    numbers = np.random.default_rng(windows + heads + window)
    n = window * window
    return (
        numbers.standard_normal((windows, heads, n, d)),
        numbers.standard_normal((windows, heads, n, d)),
        numbers.standard_normal((windows, heads, n, d)),
        numbers.standard_normal((heads, (2 * window - 1) ** 2)),
    )


def attend(backend, inputs, window, dtype=torch.float64):
    q, k, v, table = (torch.from_numpy(x).to(dtype) for x in inputs)
    with torch.no_grad():
        return backend(q, k, v, relative_position_bias(table, window).unsqueeze(0))


def assert_near(result, expected, dtype):
    assert result.dtype == dtype
    np.testing.assert_allclose(result.double().numpy(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8])
def test_bias_is_looked_up_by_key_minus_query(window):
    table = np.random.default_rng(0).standard_normal((2, (2 * window - 1) ** 2))
    result = relative_position_bias(torch.from_numpy(table), window).numpy()
    assert np.array_equal(result, brute_force.bias_of_pairs(table, window))


def test_bias_gradient_counts_the_pairs():
    table = torch.randn(2, 25, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda table: relative_position_bias(table, 3), table)


@pytest.mark.parametrize("batch, rows, columns, window", [(1, 1, 1, 3), (2, 3, 2, 4), (3, 1, 2, 1)])
def test_windows_are_slices_of_the_map(batch, rows, columns, window):
    heads, d = 2, 3
    qkv = np.random.default_rng(0).random((batch, 3 * heads * d, rows * window, columns * window))
    parts = window_partition(torch.from_numpy(qkv), window, heads)
    assert len(parts) == 3
    for part, result in enumerate(parts):
        assert result.shape == (batch * rows * columns, heads, window * window, d)
        of_windows = iter(result.numpy())
        for image in qkv:
            for row in range(rows):
                for column in range(columns):
                    of_heads = next(of_windows)
                    for head in range(heads):
                        first = (part * heads + head) * d
                        expected = image[
                            first : first + d,
                            row * window : (row + 1) * window,
                            column * window : (column + 1) * window,
                        ]
                        assert np.array_equal(of_heads[head], expected.reshape(d, -1).T)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_merge_undoes_partition(part):
    qkv = torch.rand(2, 18, 12, 8)
    x = window_merge(window_partition(qkv, 4, 2)[part], 4, (12, 8))
    assert torch.equal(x, qkv[:, part * 6 : part * 6 + 6])
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", BACKENDS, ids=name)
@pytest.mark.parametrize("windows, heads, window, d", [(1, 1, 1, 1), (3, 2, 3, 8), (2, 4, 8, 16)])
def test_is_softmax_attention(backend, windows, heads, window, d, dtype):
    inputs = random_inputs(windows, heads, window, d)
    # What half precision loses of the inputs is not the back-end's error.
    inputs = [torch.from_numpy(x).to(dtype).double().numpy() for x in inputs]
    result = attend(backend, inputs, window, dtype)
    assert_near(result, brute_force.attention(*inputs, window), dtype)


@pytest.mark.parametrize("queries", [1, 5, 16, 99])
def test_blocks_of_any_size(monkeypatch, queries):
    monkeypatch.setattr(attention, "QUERIES_PER_BLOCK", queries)
    inputs = random_inputs(2, 2, 4, 8)
    result = attend(SDPA_BY_BLOCKS, inputs, 4)
    assert_near(result, brute_force.attention(*inputs, 4), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS, ids=name)
def test_takes_views_of_a_partitioned_map(backend):
    qkv = torch.randn(2, 24, 8, 8, dtype=torch.float64)
    table = torch.randn(2, 49, dtype=torch.float64)
    bias = relative_position_bias(table, 4).unsqueeze(0)
    result = backend(*window_partition(qkv, 4, 2), bias)
    q, k, v = rearrange(
        qkv.numpy(), "b (t h d) (y wy) (x wx) -> t (b y x) h (wy wx) d", wy=4, wx=4, t=3, h=2
    )
    assert_near(result, brute_force.attention(q, k, v, table.numpy(), 4), torch.float64)


@pytest.mark.parametrize("size", [30, 1e3, 1e6])
@pytest.mark.parametrize("backend", BACKENDS, ids=name)
def test_large_scores_stay_finite(backend, size):
    q, k, v, table = random_inputs(2, 2, 4, 8)
    inputs = q * size, k * size, v, table * size
    result = attend(backend, inputs, 4, torch.float32)
    assert_near(result, brute_force.attention(*inputs, 4), torch.float32)


# Scores up to about 50,000, just inside float16, and up to 500,000.
@pytest.mark.parametrize("size", [100, 300])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS, ids=name)
def test_large_scores_stay_finite_in_half_precision(backend, dtype, size):
    q, k, v, table = random_inputs(2, 2, 4, 8)
    result = attend(backend, (q * size, k * size, v, table), 4, dtype)
    assert result.isfinite().all()
    assert result.abs().max() <= np.abs(v).max() * 1.01


@pytest.mark.parametrize("value", [1e4, -1e4])
@pytest.mark.parametrize("backend", BACKENDS, ids=name)
def test_a_large_bias_decides(backend, value):
    q, k, v, table = random_inputs(2, 2, 4, 8)
    # The middle of the table is a token's own position.
    table[:, table.shape[1] // 2] = value
    inputs = q, k, v, table
    result = attend(backend, inputs, 4, torch.float32)
    assert_near(result, brute_force.attention(*inputs, 4), torch.float32)
    if value > 0:
        assert_near(result, v, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", BACKENDS[:2], ids=name)
def test_gradients(backend, dtype):
    inputs = random_inputs(2, 2, 3, 8)
    upstream = np.random.default_rng(9).standard_normal(inputs[0].shape)
    expected = brute_force.attention_gradients(*inputs, 3, upstream)
    leaves = [torch.from_numpy(x).to(dtype).requires_grad_() for x in inputs]
    q, k, v, table = leaves
    result = backend(q, k, v, relative_position_bias(table, 3).unsqueeze(0))
    result.backward(torch.from_numpy(upstream).to(dtype))
    for leaf, gradient in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(leaf.grad.numpy(), gradient, atol=TOLERANCE[dtype], rtol=1e-5)


# ---- whole maps --------------------------------------------------------------------------------


def map_and_table(batch, heads, window, d, height, width):
    numbers = np.random.default_rng(height + width)
    return (
        numbers.standard_normal((batch, 3 * heads * d, height, width)),
        numbers.standard_normal((heads, (2 * window - 1) ** 2)),
    )


def of_map(qkv, table, window):
    """Brute force, the map extended by numpy."""
    result = brute_force.attention_of_map(brute_force.pad_to_windows(qkv, window), table, window)
    return result[:, :, : qkv.shape[2], : qkv.shape[3]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("attn_type", ["auto", "naive", "sdpa"])
@pytest.mark.parametrize("batch, height, width", [(1, 8, 12), (2, 5, 7), (2, 1, 1), (1, 3, 17)])
def test_a_map_of_any_size(monkeypatch, attn_type, batch, height, width, large, dtype):
    if large:
        monkeypatch.setattr(attention, "LARGE_MAP", 0)
    qkv, table = map_and_table(batch, 2, 4, 8, height, width)
    expected = of_map(qkv, table, 4)
    given = (torch.from_numpy(qkv).to(dtype), torch.from_numpy(table).to(dtype))
    for context in (torch.no_grad, torch.enable_grad):
        with context():
            assert_near(window_attention(*given, 4, attn_type), expected, dtype)


@pytest.mark.slow
def test_flex_in_inference():
    for windows in (1, 3):
        qkv, table = map_and_table(1, 2, 4, 16, 4, 4 * windows)
        given = (torch.from_numpy(x).float() for x in (qkv, table))
        with torch.no_grad():
            result = FLEX(*given, 4)
        assert_near(result, of_map(qkv, table, 4), torch.float32)


# ---- which back-end ----------------------------------------------------------------------------


def a_map(device="cpu", pixels=12, dtype=torch.float64):
    """Something of a map's size on a device that need not be there."""
    if device == "cpu":
        return torch.empty(1, 6, 1, pixels, dtype=dtype)
    return SimpleNamespace(device=torch.device(device), shape=(1, 6, 1, pixels), dtype=dtype)


def chosen(attn_type, x, needs_grad):
    """The back-end; of those of tokens, what attends."""
    with torch.set_grad_enabled(needs_grad):
        backend = choose(attn_type, x)
        if not isinstance(backend, functools.partial):
            return backend
        assert backend.args == (attend_tokens(attn_type, x),)
        return backend.args[0]


@pytest.fixture
def nothing_said(said, monkeypatch):
    monkeypatch.setattr(attention, "announced", set())
    return said


def test_the_backends_are_four():
    assert len({NAIVE, SDPA, SDPA_BY_BLOCKS, FLEX}) == 4


@pytest.mark.parametrize("needs_grad", [True, False])
@pytest.mark.parametrize("pixels", [12, 13])
@pytest.mark.parametrize("attn_type", ["auto", "sdpa"])
def test_auto_and_sdpa_go_by_blocks_of_large_maps(monkeypatch, attn_type, pixels, needs_grad):
    monkeypatch.setattr(attention, "LARGE_MAP", 12)
    by_blocks = pixels > 12 and not needs_grad
    expected = SDPA_BY_BLOCKS if by_blocks else SDPA
    assert chosen(attn_type, a_map(pixels=pixels), needs_grad) is expected
    with torch.set_grad_enabled(needs_grad):
        assert attention.goes_by_blocks(a_map(pixels=pixels)) == by_blocks


def test_a_large_map_on_a_gpu_does_not_go_by_blocks():
    with torch.no_grad():
        assert not attention.goes_by_blocks(a_map("cuda", 10**6))
    assert chosen("sdpa", a_map("cuda", 10**6), False) is SDPA


@pytest.mark.parametrize("needs_grad", [True, False])
@pytest.mark.parametrize("pixels", [12, 10**5])
@pytest.mark.parametrize("attn_type", ATTENTION_TYPES)
def test_the_kernel_is_for_auto(attn_type, pixels, needs_grad):
    if not kernels.available():
        pytest.skip("was not compiled")
    backend = chosen(attn_type, a_map(pixels=pixels, dtype=torch.float32), needs_grad)
    assert (backend is kernels.attend) == (attn_type == "auto")
    # Of another dtype it takes no map.
    assert chosen(attn_type, a_map(pixels=pixels), needs_grad) is not kernels.attend


@pytest.mark.parametrize("pixels", [12, 10**5])
def test_naive_is_naive_everywhere(pixels):
    assert chosen("naive", a_map(pixels=pixels), False) is NAIVE


@pytest.mark.parametrize(
    "device, needs_grad, expected",
    [
        ("cpu", False, FLEX),
        ("cpu", True, SDPA),
        ("cuda", False, FLEX),
        ("cuda", True, FLEX),
        ("mps", False, SDPA),
    ],
)
def test_flex_where_pytorch_has_it(device, needs_grad, expected):
    assert chosen("flex", a_map(device), needs_grad) is expected


def test_auto_says_once_what_it_takes(nothing_said):
    for _ in range(3):
        choose("auto", a_map())
    assert nothing_said == [("INFO", "Window attention: auto takes sdpa on cpu.")]


def test_auto_says_once_that_it_takes_the_kernel(nothing_said):
    if not kernels.available():
        pytest.skip("was not compiled")
    for _ in range(3):
        choose("auto", a_map(dtype=torch.float32))
    message = "Window attention: auto takes the package's own kernel on cpu."
    assert nothing_said == [("INFO", message)]


def test_flex_says_once_that_it_cannot_train_here(nothing_said):
    for _ in range(3):
        choose("flex", a_map())
        with torch.no_grad():
            choose("flex", a_map())
    assert nothing_said == [("INFO", "Window attention: flex has no training on cpu, taking sdpa.")]


def test_the_asked_for_backend_is_not_worth_a_line(nothing_said):
    for attn_type in ("naive", "sdpa", "flex"):
        with torch.no_grad():
            choose(attn_type, a_map())
    assert nothing_said == []


def test_every_type_can_be_chosen():
    for attn_type in ATTENTION_TYPES:
        assert callable(choose(attn_type, a_map()))
