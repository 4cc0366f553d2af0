"""Window attention for inference on a CPU: scaled_dot_product_attention block by block.

PyTorch's flash kernel reads the whole bias of a window, 16 MB at 32 x 32 pixels and four
heads, once for every window.  Here one head and a few rows of queries attend in all
windows before the next ones do, so that their part of the bias stays in the cache.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from esc_arch.ops.window_attention.naive import prepare_bias
from esc_arch.ops.window_attention.windows import by_windows

__all__ = ["attend", "attend_tokens", "prepare_bias"]

# Queries of a block: with 1,024 keys in float32 its bias takes 1 MB.
QUERIES_PER_BLOCK = 256


def attend(qkv: Tensor, bias: Tensor, window: int, num_heads: int) -> Tensor:
    """See :func:`esc_arch.ops.window_attention.naive.attend`."""
    return by_windows(attend_tokens, qkv, bias, window, num_heads)


def attend_tokens(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int) -> Tensor:
    """See :func:`esc_arch.ops.window_attention.naive.attend_tokens`."""
    bias = bias.to(q.dtype)
    result = torch.empty_like(q)
    for head in range(q.shape[1]):
        heads = slice(head, head + 1)
        for first in range(0, q.shape[2], QUERIES_PER_BLOCK):
            block = slice(first, min(first + QUERIES_PER_BLOCK, q.shape[2]))
            result[:, heads, block] = F.scaled_dot_product_attention(
                q[:, heads, block], k[:, heads], v[:, heads], attn_mask=bias[:, heads, block]
            )
    return result
