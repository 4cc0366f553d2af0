"""Every back-end against softmax attention in numpy, in float64."""

import numpy as np
import pytest
import torch
from einops import rearrange

from esc_arch.ops.window_attention import (
    ATTENTION_TYPES,
    choice,
    choose_attention,
    flex,
    naive,
    native,
    sdpa,
    sdpa_blocked,
    window_merge,
    window_partition,
)
from esc_arch.ops.window_attention.bias import relative_position_bias
from tests import brute_force

BACKENDS = [naive, sdpa, sdpa_blocked]
# Of (q, k, v, table); the output is a mean of v, which is about 1.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def name(module):
    return module.__name__.rsplit(".", 1)[-1]


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
        return backend.attend_tokens(q, k, v, backend.prepare_bias(table, window), window)


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
    qkv = np.random.default_rng(0).random((batch, rows * window, columns * window, 3 * heads * d))
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
                            row * window : (row + 1) * window,
                            column * window : (column + 1) * window,
                            first : first + d,
                        ]
                        assert np.array_equal(of_heads[head], expected.reshape(-1, d))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_merge_undoes_partition(part):
    qkv = torch.rand(2, 12, 8, 18)
    x = window_partition(qkv, 4, 2)[part]
    assert torch.equal(window_merge(x, 4, (12, 8)), qkv[..., part * 6 : part * 6 + 6])


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
    monkeypatch.setattr(sdpa_blocked, "QUERIES_PER_BLOCK", queries)
    inputs = random_inputs(2, 2, 4, 8)
    result = attend(sdpa_blocked, inputs, 4)
    assert_near(result, brute_force.attention(*inputs, 4), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS, ids=name)
def test_takes_views_of_a_partitioned_map(backend):
    qkv = torch.randn(2, 8, 8, 24, dtype=torch.float64)
    table = torch.randn(2, 49, dtype=torch.float64)
    bias = backend.prepare_bias(table, 4)
    result = backend.attend_tokens(*window_partition(qkv, 4, 2), bias, 4)
    q, k, v = rearrange(
        qkv.numpy(), "b (y wy) (x wx) (t h d) -> t (b y x) h (wy wx) d", wy=4, wx=4, t=3, h=2
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
@pytest.mark.parametrize("backend", [naive, sdpa], ids=name)
def test_gradients(backend, dtype):
    inputs = random_inputs(2, 2, 3, 8)
    upstream = np.random.default_rng(9).standard_normal(inputs[0].shape)
    expected = brute_force.attention_gradients(*inputs, 3, upstream)
    leaves = [torch.from_numpy(x).to(dtype).requires_grad_() for x in inputs]
    q, k, v, table = leaves
    result = backend.attend_tokens(q, k, v, backend.prepare_bias(table, 3), 3)
    result.backward(torch.from_numpy(upstream).to(dtype))
    for leaf, gradient in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(leaf.grad.numpy(), gradient, atol=TOLERANCE[dtype], rtol=1e-5)


@pytest.mark.slow
def test_flex_in_inference():
    for windows in (1, 3):
        inputs = random_inputs(windows, 2, 4, 16)
        result = attend(flex, inputs, 4, torch.float32)
        assert_near(result, brute_force.attention(*inputs, 4), torch.float32)


@pytest.fixture
def nothing_said(said, monkeypatch):
    monkeypatch.setattr(choice, "_said", set())
    return said


@pytest.mark.parametrize("needs_grad", [True, False])
@pytest.mark.parametrize("in_bands", [True, False])
@pytest.mark.parametrize("attn_type", ["auto", "sdpa"])
def test_auto_and_sdpa_are_blocked_in_bands(attn_type, in_bands, needs_grad):
    chosen = choose_attention(attn_type, "cpu", needs_grad, in_bands)
    assert chosen is (sdpa_blocked if in_bands else sdpa)


@pytest.mark.parametrize("in_bands", [True, False])
@pytest.mark.parametrize("attn_type", ATTENTION_TYPES)
def test_the_kernel_is_for_auto(attn_type, in_bands):
    chosen = choose_attention(attn_type, "cpu", False, in_bands, in_kernel=True)
    assert (chosen is native) == (attn_type == "auto")


@pytest.mark.parametrize("in_bands", [True, False])
def test_naive_is_naive_everywhere(in_bands):
    assert choose_attention("naive", "cpu", False, in_bands) is naive


@pytest.mark.parametrize(
    "device, needs_grad, expected",
    [
        ("cpu", False, flex),
        ("cpu", True, sdpa),
        ("cuda", False, flex),
        ("cuda", True, flex),
        ("mps", False, sdpa),
    ],
)
def test_flex_where_pytorch_has_it(device, needs_grad, expected):
    assert choose_attention("flex", device, needs_grad, False) is expected


def test_auto_says_once_what_it_takes(nothing_said):
    for _ in range(3):
        choose_attention("auto", "cpu", True, False)
    assert nothing_said == [("INFO", "Window attention: auto takes sdpa on cpu.")]


def test_flex_says_once_that_it_cannot_train_here(nothing_said):
    for _ in range(3):
        choose_attention("flex", "cpu", True, False)
        choose_attention("flex", "cpu", False, False)
    assert nothing_said == [("INFO", "Window attention: flex has no training on cpu, taking sdpa.")]


def test_the_asked_for_backend_is_not_worth_a_line(nothing_said):
    for attn_type in ("naive", "sdpa", "flex"):
        choose_attention(attn_type, "cpu", False, False)
    assert nothing_said == []


def test_every_type_can_be_chosen():
    for attn_type in ATTENTION_TYPES:
        assert callable(choose_attention(attn_type, "cpu", False, False).attend)
