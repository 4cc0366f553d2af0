"""Window attention step by step: the reference for the other back-ends.

Shapes: B images, h heads, n = window**2 tokens of a window, d channels of a head.
"""

import torch
from torch import Tensor

from esc_arch.ops.window_attention.bias import relative_position_bias
from esc_arch.ops.window_attention.windows import by_windows


def prepare_bias(bias_table: Tensor, window: int) -> Tensor:
    """What :func:`attend` needs of the bias table, the same for every window.

    Args:
        bias_table: (h, (2*window - 1)**2).
        window: side of the window in pixels.

    Returns:
        (1, h, n, n), queries first.
    """
    return relative_position_bias(bias_table, window).unsqueeze(0)


def attend(qkv: Tensor, bias: Tensor, window: int, num_heads: int) -> Tensor:
    """Attention inside the windows of a map, which reflection extends to whole windows.

    The added pixels attend like any other.

    Args:
        qkv: (B, H, W, 3*h*d), channels in the order (qkv, head, channel); any H, W from 1.
        bias: from :func:`prepare_bias`.
        window: side of the window in pixels.
        num_heads: h.

    Returns:
        (B, H, W, h*d), dtype of qkv.
    """
    return by_windows(attend_tokens, qkv, bias, window, num_heads)


def attend_tokens(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int) -> Tensor:
    """``softmax(q k^T / sqrt(d) + bias) v`` inside each window.

    Args:
        q, k, v: (B*windows, h, n, d).
        bias: from :func:`prepare_bias`.
        window: side of the window in pixels.

    Returns:
        (B*windows, h, n, d), dtype of q.

    Source: ESC, arXiv 2503.06671; the offset is key minus query.
    """
    # Scores of half-precision inputs may lie beyond what half precision holds.
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) * q.shape[-1] ** -0.5) @ k.to(wide).transpose(-2, -1)
    scores = scores + bias.to(wide)
    return scores.softmax(dim=-1).to(v.dtype) @ v
