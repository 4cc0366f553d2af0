"""The selective scan against the recurrence step by step in float64."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from esc_arch.ops import selective_scan as scan
from esc_arch.ops.selective_scan import linear_scan, multiply_adds, selective_scan


def arguments(batch, length, channels, states, decay=1.0, dtype=torch.float32):
    """u, delta, A, B, C, D, delta_bias; ``decay`` multiplies the exponents."""
    A = -decay * (0.1 + torch.rand(channels, states))
    sequences = [torch.randn(batch, length, n) for n in (channels, channels, states, states)]
    u, delta, B, C = sequences
    values = (u, delta, A, B, C, torch.randn(channels), torch.randn(channels))
    return [value.to(dtype) for value in values]


def step_by_step(u, delta, A, B, C, D, delta_bias):
    u, delta, A, B, C, D, delta_bias = (
        np.asarray(value.detach().double()) for value in (u, delta, A, B, C, D, delta_bias)
    )
    delta = np.logaddexp(0, delta + delta_bias)
    state, y = np.zeros((u.shape[0], *A.shape)), np.empty(u.shape)
    for t in range(u.shape[1]):
        decay = np.exp(delta[:, t, :, None] * A)
        state = decay * state + (delta[:, t] * u[:, t])[:, :, None] * B[:, t, None]
        y[:, t] = (state * C[:, t, None]).sum(-1) + D * u[:, t]
    return y


def largest_difference(y, expected):
    return np.abs(np.asarray(y.double()) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 300, 4097])
@pytest.mark.parametrize("batch", [1, 3])
def test_any_length_and_batch(length, batch):
    values = arguments(batch, length, 5, 3)
    assert largest_difference(selective_scan(*values), step_by_step(*values)) < 2e-6


@pytest.mark.parametrize("decay", [0.0, 1e-6, 1.0, 50.0, 1e5])
def test_no_decay_to_complete_decay(decay):
    """Products of decays run down to zero, which a form that divides by them cannot take."""
    values = arguments(1, 2000, 4, 2, decay)
    y = selective_scan(*values)
    assert y.isfinite().all()
    assert largest_difference(y, step_by_step(*values)) < 1e-5


def test_a_decay_that_comes_and_goes():
    values = arguments(1, 1500, 2, 2)
    values[1] = torch.where(torch.rand(1, 1500, 1) < 0.02, 300.0, -4.0).expand(1, 1500, 2)
    assert largest_difference(selective_scan(*values), step_by_step(*values)) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-13), (torch.bfloat16, 5e-3), (torch.float16, 1e-3)]
)
def test_state_is_wider_than_half_precision(dtype, bound):
    values = arguments(2, 500, 4, 3, decay=1e-3, dtype=dtype)  # remembers hundreds of tokens
    y = selective_scan(*values)
    assert y.dtype == dtype
    assert largest_difference(y, step_by_step(*values)) < bound


@pytest.mark.parametrize("length", [1, 4, 9])
def test_gradients(length, monkeypatch):
    monkeypatch.setattr(scan, "STEPS", 2)
    monkeypatch.setattr(scan, "TOKENS_PER_PASS_CPU", 8)
    values = arguments(2, length, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(selective_scan, [value.requires_grad_() for value in values])


def test_gradients_in_float32_over_several_passes(monkeypatch):
    """Against those of the same recurrence written with PyTorch's own operators."""
    monkeypatch.setattr(scan, "TOKENS_PER_PASS_CPU", 128)
    values = [value.requires_grad_() for value in arguments(1, 500, 2, 2)]
    weight = torch.randn(1, 500, 2)
    ours = torch.autograd.grad((selective_scan(*values) * weight).sum(), values)
    wide = [value.detach().double().requires_grad_() for value in values]
    u, delta, A, B, C, D, delta_bias = wide
    delta = torch.nn.functional.softplus(delta + delta_bias)
    state, total = torch.zeros(1, 2, 2, dtype=torch.float64), 0
    for t in range(500):
        decay = (delta[:, t, :, None] * A).exp()
        state = decay * state + (delta[:, t] * u[:, t])[:, :, None] * B[:, t, None]
        total = total + (((state * C[:, t, None]).sum(-1) + D * u[:, t]) * weight[:, t]).sum()
    for gradient, expected in zip(ours, torch.autograd.grad(total, wide), strict=True):
        assert largest_difference(gradient, expected.numpy()) < 1e-5


def test_is_an_operator_that_pytorch_can_trace():
    values = arguments(2, 70, 3, 2, dtype=torch.float64)
    torch.library.opcheck(linear_scan, [value.requires_grad_() for value in values[:5]])
    one = [torch.randn(1, 0, n) for n in (3, 3)]
    assert linear_scan(*one, torch.randn(3, 2), *(torch.randn(1, 0, 2),) * 2).shape == (1, 0, 3)


def test_inputs_are_not_written_to():
    values = [value.requires_grad_() for value in arguments(2, 130, 3, 2)]
    before = [value.detach().clone() for value in values]
    selective_scan(*values).sum().backward()
    assert all(torch.equal(value, old) for value, old in zip(values, before, strict=True))


LONG = """
    import json, resource, torch
    from esc_arch.ops.selective_scan import selective_scan

    def peak_mb():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    def growth(tokens):
        u, delta = torch.randn(1, tokens, 48), torch.randn(1, tokens, 48)
        B, C = torch.randn(1, tokens, 8), torch.randn(1, tokens, 8)
        before = peak_mb()
        with torch.no_grad():
            selective_scan(u, delta - 5, -torch.rand(48, 8), B, C, torch.ones(48), torch.ones(48))
        return peak_mb() - before, 4 * u.numel() / 1e6

    growth(1000)
    print(json.dumps(growth(640 * 360)))
"""


@pytest.mark.slow
def test_memory_of_a_long_sequence_is_that_of_a_few_copies_of_its_input():
    """All states at once would take eight copies each of decays, inputs and states."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LONG)], capture_output=True, text=True, check=True
    )
    peak, sequence = map(float, done.stdout.strip("[]\n").split(","))
    assert peak < 6 * sequence


def test_mamba_ssm_is_called_with_its_own_layout(monkeypatch):
    """A stand-in with its signature: the compiled package needs a GPU."""

    def selective_scan_fn(u, delta, A, B, C, D, z=None, delta_bias=None, delta_softplus=False):
        assert delta_softplus and all(t.dtype == torch.float32 for t in (u, delta, A, B, C, D))
        assert all(t.is_contiguous() for t in (u, delta, B, C))
        u, delta, B, C = (t.transpose(1, 2) for t in (u, delta, B, C))
        return torch.from_numpy(step_by_step(u, delta, A, B, C, D, delta_bias)).mT.float()

    values = arguments(2, 70, 3, 2)
    values[0] = values[0].bfloat16()
    expected = step_by_step(*values)
    monkeypatch.setattr(scan, "mamba_ssm_scan", lambda: selective_scan_fn)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    y = selective_scan(*values)
    assert y.dtype == torch.bfloat16
    assert largest_difference(y, expected) < 5e-3


def test_multiply_adds_by_the_field_s_convention():
    assert multiply_adds(2, 10, 3, 4) == 2 * 10 * 3 * 4 * 9 + 2 * 10 * 3
