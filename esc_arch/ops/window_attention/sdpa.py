"""Window attention by PyTorch's scaled_dot_product_attention, the bias as its mask.

Works on every device and in every mode.  In inference nothing of the size of the score
matrix is kept.  In training the bias needs a gradient, which PyTorch's flash kernels do
not give: it then picks the memory-efficient kernel (CUDA) or the plain one (CPU) itself.
"""

import torch.nn.functional as F
from torch import Tensor

from esc_arch.ops.window_attention.naive import prepare_bias
from esc_arch.ops.window_attention.windows import by_windows

__all__ = ["attend", "attend_tokens", "prepare_bias"]


def attend(qkv: Tensor, bias: Tensor, window: int, num_heads: int) -> Tensor:
    """See :func:`esc_arch.ops.window_attention.naive.attend`."""
    return by_windows(attend_tokens, qkv, bias, window, num_heads)


def attend_tokens(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int) -> Tensor:
    """See :func:`esc_arch.ops.window_attention.naive.attend_tokens`."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
