"""The spatial and channel correlations of HiT-SR in one window, in two orders of products.

Neither has a softmax, so their products may be taken in any order.

Shapes: N windows, n tokens of a window, m tokens of its base window (n / m pixels each),
h heads of d channels, c = h * d.
"""

import torch
from torch import Tensor

CORRELATION_TYPES = ("auto", "naive")


def correlate(q: Tensor, v: Tensor, base: Tensor, bias: Tensor, attn_type: str = "auto") -> Tensor:
    """Spatial self-correlation beside channel self-correlation.

        spatial = (q base^T / d + bias) base    in each head
        channel = v (q^T v / n)^T               over all heads together

    Args:
        q, v: (N, n, c).
        base: (N, m, c): the tokens of v in the base window.
        bias: (h, m, n), by relative position.
        attn_type: ``naive`` makes the maps, N*h*n*m numbers; ``auto`` multiplies
            the small factors first and never holds anything of this size.

    Returns:
        (N, n, 2*c), the spatial channels first.

    Source: HiT-SR, arXiv 2407.05878, section 3.3.
    """
    function = _by_maps if attn_type == "naive" else _by_small_factors
    return torch.cat(function(q, v, base, bias), dim=-1)


def _by_maps(q: Tensor, v: Tensor, base: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    num_heads, n = bias.shape[0], q.shape[1]
    # Scores of half-precision inputs may lie beyond what half precision holds.
    wide = torch.promote_types(q.dtype, torch.float32)
    heads_q, heads_base = _heads(q, num_heads), _heads(base, num_heads)
    scores = heads_q.to(wide) @ heads_base.to(wide).transpose(-2, -1) / heads_q.shape[-1]
    scores = scores + bias.transpose(-2, -1).to(wide)
    spatial = (scores.to(base.dtype) @ heads_base).transpose(1, 2).flatten(2)
    scores = q.transpose(-2, -1).to(wide) @ v.to(wide) / n
    channel = (scores.to(v.dtype) @ v.transpose(-2, -1)).transpose(-2, -1)
    return spatial, channel


def _by_small_factors(q: Tensor, v: Tensor, base: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    (windows, n, c), (num_heads, m, _) = q.shape, bias.shape
    d = c // num_heads
    # q (base^T base): all heads at once, the products between different heads struck out.
    same_head = torch.block_diag(*[bias.new_full((d, d), 1 / d)] * num_heads)
    square = (base.transpose(1, 2) @ base) * same_head
    # The bias is the same in every window: one product per head for all of them.
    columns = base.view(windows, m, num_heads, d).permute(2, 0, 3, 1).flatten(1, 2)
    by_position = (columns @ bias).view(num_heads, windows, d, n)
    by_position = by_position.permute(1, 3, 0, 2).reshape(windows, n, c)
    spatial = torch.baddbmm(by_position, q, square)
    # Divided inside the product: the sum may lie beyond what half precision holds.
    scores = torch.baddbmm(v.new_zeros(1, 1, 1), v.transpose(1, 2), q, beta=0, alpha=1 / n)
    return spatial, v @ scores


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """(N, n, h*d) -> (N, h, n, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
