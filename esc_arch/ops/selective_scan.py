"""The selective scan of Mamba: a linear recurrence whose decay depends on the input.

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t        y_t = C_t h_t + D u_t

Shapes: B images, L tokens, D channels, N states of a channel.  Inside a pass the tokens
lie as S segments of T, ordered (T, B, S, N, D).

The recurrence runs step by step inside segments, all segments at once; from segment to
segment it runs by doubling.  Decays are only ever multiplied, or their exponents added,
and never divided by: a state that has died out counts as zero, nothing overflows.

Source: Mamba, arXiv 2312.00752, section 3.2; doubling: Hillis and Steele, "Data Parallel
Algorithms", 1986.
"""

import functools
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["FLOP_HANDLES", "multiply_adds", "selective_scan"]

# Steps of a segment.  At 48 channels and 8 states, on two cores, 16 took 1.3 and 128
# took 1.1 of the time of 64.
STEPS = 64

# Tokens of a pass, over all images: what bounds the memory.  At 4,096 its decays and its
# states take 6 MB each, which stay in the cache; a GPU wants fewer, larger launches.
TOKENS_PER_PASS_CPU = 4096
TOKENS_PER_PASS_GPU = 65536


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
) -> Tensor:
    """The scan over a sequence, ``delta`` passing through ``softplus(delta + delta_bias)``.

    The state is kept in float32, or float64 for float64 inputs.  On CUDA the compiled
    scan of the package mamba_ssm is taken where that is installed.

    Args:
        u, delta: (B, L, D), any floating dtype.
        A: (D, N), negative.
        B, C: (B, L, N), any floating dtype.
        D, delta_bias: (D,).

    Returns:
        (B, L, D), dtype of u.
    """
    wide = torch.promote_types(u.dtype, torch.float32)
    u_wide, delta, A, B, C, D, delta_bias = (
        tensor.to(wide) for tensor in (u, delta, A, B, C, D, delta_bias)
    )
    compiled = mamba_ssm_scan()
    if compiled and u.is_cuda and wide == torch.float32 and not torch.compiler.is_compiling():
        sequences = [t.transpose(1, 2).contiguous() for t in (u_wide, delta, B, C)]
        y = compiled(
            *sequences[:2], A, *sequences[2:], D, delta_bias=delta_bias, delta_softplus=True
        ).transpose(1, 2)
    else:
        delta = F.softplus(delta + delta_bias)
        y = linear_scan(delta * u_wide, delta, A, B, C) + D * u_wide
    return y.to(u.dtype)


def multiply_adds(batch: int, length: int, channels: int, states: int) -> int:
    """The arithmetic of a scan as the field counts it, for tables of FLOPs.

    Nine for every state of every token, and the skip by D: the convention of the papers
    of Mamba networks, which counts the compiled parallel scan.

    Args:
        batch, length, channels, states: B, L, D and N.
    """
    return batch * length * channels * (9 * states + 1)


@torch.library.custom_op("esc_arch::linear_scan", mutates_args=())
def linear_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """``h_t = exp(delta_t A) h_{t-1} + x_t B_t``, ``y_t = C_t h_t``, starting from zero.

    An operator of PyTorch's, so that compiled, exported and traced graphs hold one node
    instead of thousands of steps.

    Args:
        x, delta: (B, L, D), delta not negative.
        A: (D, N), negative.
        B, C: (B, L, N); all of one dtype, float32 or float64.

    Returns:
        (B, L, D).
    """
    length, A = x.shape[1], A.t().contiguous()
    x, delta, B, C = (_whole_segments(tensor) for tensor in (x, delta, B, C))
    y = torch.empty_like(x)
    state = x.new_zeros(x.shape[0], *A.shape)
    # Memory allocated for every pass costs more than the arithmetic.
    decay_memory, state_memory = (x.new_empty(0) for _ in range(2))
    for part in _passes(x):
        delta_part = _segments(delta[:, part])
        decay_memory.resize_(prod(delta_part.shape) * len(A))
        state_memory.resize_(decay_memory.shape)
        shape = (*delta_part.shape[:-1], *A.shape)
        decay = torch.mul(delta_part.unsqueeze(3), A, out=decay_memory.view(shape)).exp_()
        states = torch.mul(
            _segments(x[:, part]).unsqueeze(3),
            _segments(B[:, part]).unsqueeze(4),
            out=state_memory.view(shape),
        )
        _, state = _run(decay, _total_decay(delta_part, A), states, state)
        y_part = states.mul_(_segments(C[:, part]).unsqueeze(4)).sum(3)
        _segments(y[:, part]).copy_(y_part)
    return y[:, :length].contiguous()


@torch.library.custom_op("esc_arch::linear_scan_backward", mutates_args=())
def _linear_scan_backward(
    grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, delta, A, B and C.

    The states are recomputed, pass by pass, so that training keeps nothing of the size
    of (B, L, N, D).  Their own gradients, ``g_t = y'_t C_t + exp(delta_{t+1} A) g_{t+1}``,
    are the same recurrence from the end.
    """
    length, A = x.shape[1], A.t().contiguous()
    grad, x, delta, B, C = (_whole_segments(tensor) for tensor in (grad, x, delta, B, C))
    delta_next = F.pad(delta[:, 1:], (0, 0, 0, 1))
    grads = [torch.empty_like(tensor) for tensor in (x, delta, B, C)]
    grad_A = torch.zeros_like(A)
    passes = _passes(x)
    starts = [x.new_zeros(x.shape[0], *A.shape)]
    for part in passes[:-1]:
        starts.append(_states(x[:, part], delta[:, part], A, B[:, part], starts[-1])[-1])
    grad_state = torch.zeros_like(starts[0])
    for part, start in zip(passes[::-1], starts[::-1], strict=True):
        states, decay, segment_starts, _ = _states(x[:, part], delta[:, part], A, B[:, part], start)
        grad_y, x_part, delta_part, B_part, C_part, next_part = (
            _segments(tensor[:, part]) for tensor in (grad, x, delta, B, C, delta_next)
        )
        grad_states = grad_y.unsqueeze(3) * C_part.unsqueeze(4)
        decay_next = (next_part.unsqueeze(3) * A).exp_()
        _, grad_state = _run(
            decay_next, _total_decay(next_part, A), grad_states, grad_state, from_the_end=True
        )
        before = torch.cat([segment_starts.unsqueeze(0), states[:-1]])
        grad_exponent = before.mul_(decay).mul_(grad_states)
        grad_A += (grad_exponent * delta_part.unsqueeze(3)).sum((0, 1, 2))
        results = (
            (grad_states * B_part.unsqueeze(4)).sum(3),
            (grad_exponent * A).sum(3),
            (grad_states * x_part.unsqueeze(3)).sum(4),
            (states * grad_y.unsqueeze(3)).sum(4),
        )
        for whole, result in zip(grads, results, strict=True):
            _segments(whole[:, part]).copy_(result)
    grad_x, grad_delta, grad_B, grad_C = (whole[:, :length].contiguous() for whole in grads)
    return grad_x, grad_delta, grad_A.t().contiguous(), grad_B, grad_C


@linear_scan.register_fake
def _(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@_linear_scan_backward.register_fake
def _(
    grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x_like, delta_like, A_like, B_like, C_like = (t.new_empty(t.shape) for t in (x, delta, A, B, C))
    return x_like, delta_like, A_like, B_like, C_like


linear_scan.register_autograd(
    lambda ctx, grad: _linear_scan_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def _states(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States and decays of a pass, (T, B, S, N, D), and the result of :func:`_run`."""
    delta = _segments(delta)
    decay = (delta.unsqueeze(3) * A).exp_()
    states = _segments(x).unsqueeze(3) * _segments(B).unsqueeze(4)
    return states, decay, *_run(decay, _total_decay(delta, A), states, start)


def _run(
    decay: Tensor, total_decay: Tensor, states: Tensor, start: Tensor, from_the_end: bool = False
) -> tuple[Tensor, Tensor]:
    """Turn the additions to the state at every step into the states, in place.

    Args:
        decay: (T, B, S, N, D).
        total_decay: (B, S, N, D), of whole segments.
        states: (T, B, S, N, D), what is added; the states afterwards.
        start: (B, N, D), the state before the first step.
        from_the_end: whether time runs from the last token to the first.

    Returns:
        The state before each segment, (B, S, N, D), and after the last step, (B, N, D).
    """
    decays, steps = decay.unbind(0), states.unbind(0)
    if from_the_end:
        decays, steps, total_decay = decays[::-1], steps[::-1], total_decay.flip(1)
    # Each segment from a state of zero, then what reaches its end from all before it.
    ends = steps[0].clone()
    for a, step in zip(decays[1:], steps[1:], strict=True):
        torch.addcmul(step, a, ends, out=ends)
    if from_the_end:
        ends = ends.flip(1)
    ends[:, 0] += total_decay[:, 0] * start
    reach = 1
    while reach < ends.shape[1]:
        # The right-hand sides are complete before they are written.
        ends[:, reach:] += total_decay[:, reach:] * ends[:, :-reach]
        total_decay[:, reach:] = total_decay[:, reach:] * total_decay[:, :-reach]
        reach *= 2
    starts = torch.cat([start.unsqueeze(1), ends[:, :-1]], dim=1)
    if from_the_end:
        starts = starts.flip(1)
    state = starts
    for a, step in zip(decays, steps, strict=True):
        state = torch.addcmul(step, a, state, out=step)
    return starts, ends[:, -1]


def _total_decay(delta: Tensor, A: Tensor) -> Tensor:
    """Decay over whole segments, (T, B, S, D) -> (B, S, N, D)."""
    return (delta.sum(0).unsqueeze(2) * A).exp_()


def _whole_segments(x: Tensor) -> Tensor:
    """Extended to a multiple of T tokens; with a delta of zero they leave the state alone."""
    missing = -x.shape[1] % STEPS
    return F.pad(x, (0, 0, 0, missing)) if missing else x


def _passes(x: Tensor) -> list[slice]:
    """The tokens of each pass, in whole segments."""
    tokens = TOKENS_PER_PASS_CPU if x.device.type == "cpu" else TOKENS_PER_PASS_GPU
    tokens = max(tokens // x.shape[0] // STEPS, 1) * STEPS
    return [slice(first, first + tokens) for first in range(0, x.shape[1], tokens)]


def _segments(x: Tensor) -> Tensor:
    """(B, S*T, ...) -> (T, B, S, ...), a view."""
    return x.unflatten(1, (-1, STEPS)).permute(2, 0, 1, 3)


@functools.cache
def mamba_ssm_scan() -> Callable[..., Tensor] | None:
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn


def _count_linear_scan(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    batch, length, channels = inputs[0].type().sizes()
    return multiply_adds(batch, length, channels, inputs[2].type().sizes()[1])


def _count_mamba_ssm(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    batch, channels, length = inputs[0].type().sizes()
    return multiply_adds(batch, length, channels, inputs[2].type().sizes()[1])


# For fvcore, which has no count of its own for a scan:
# ``FlopCountAnalysis(network, x).set_op_handle(**FLOP_HANDLES).total()``.
FLOP_HANDLES = {
    "esc_arch::linear_scan": _count_linear_scan,
    "prim::PythonOp.SelectiveScanFn": _count_mamba_ssm,
}
