"""Window attention by PyTorch's flex_attention, compiled; the bias is read from its table.

CUDA: forward and backward.  CPU: forward only, PyTorch has no backward there.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from esc_arch.ops.window_attention.windows import by_windows


def prepare_bias(bias_table: Tensor, window: int) -> Tensor:
    """The table itself, (h, (2*window - 1)**2): the kernel looks the bias up."""
    return bias_table


def attend(qkv: Tensor, bias: Tensor, window: int, num_heads: int) -> Tensor:
    """See :func:`esc_arch.ops.window_attention.naive.attend`."""
    return by_windows(attend_tokens, qkv, bias, window, num_heads)


def attend_tokens(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int) -> Tensor:
    """See :func:`esc_arch.ops.window_attention.naive.attend_tokens`."""
    return _compiled()(q, k, v, bias.to(q.dtype), window)


def available(device_type: str, needs_grad: bool) -> bool:
    """Whether flex_attention runs on this kind of device in this mode."""
    return device_type == "cuda" or (device_type == "cpu" and not needs_grad)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    def attend_with_table(q: Tensor, k: Tensor, v: Tensor, table: Tensor, window: int) -> Tensor:
        # The closure is made in the compiled function, over its argument: a closure over
        # the parameter itself would go on reading the old one after a copy or a load.
        def add_bias(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            dy = key // window - query // window + window - 1
            dx = key % window - query % window + window - 1
            return score + table[h, dy * (2 * window - 1) + dx]

        return flex_attention(q, k, v, score_mod=add_bias)

    return torch.compile(attend_with_table)
