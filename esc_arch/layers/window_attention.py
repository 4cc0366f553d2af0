"""Self-attention inside windows of a feature map."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from esc_arch.ops.bands import runs_in_bands
from esc_arch.ops.padding import crop_bottom_right, reflect_pad_bottom_right
from esc_arch.ops.window_attention import (
    ATTENTION_TYPES,
    AttentionBackend,
    choose_attention,
    window_merge,
    window_partition,
)

# Pixels that attend in one pass on a CPU, for each core.  See esc_arch.ops.bands for why
# the map is cut; every core has windows of its own.
PIXELS_PER_PASS_AND_CORE = 8192


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows, with a bias by relative position.

    The map is extended to whole windows by reflection; the added pixels attend like
    any other.  Windows are neither shifted nor masked.

    Args:
        dim: number of channels, a multiple of ``num_heads``.
        window_size: side of a window in pixels.
        num_heads: number of heads.
        attn_type: back-end, see :mod:`esc_arch.ops.window_attention`; any case.

    Shape: (B, dim, H, W) -> (B, dim, H, W), any H and W from 1.

    Raises:
        ValueError: when ``dim`` cannot be split into heads or the back-end is unknown.

    Source: ESC, arXiv 2503.06671.
    """

    def __init__(self, dim: int, window_size: int, num_heads: int, attn_type: str = "auto") -> None:
        super().__init__()
        if window_size < 1:
            raise ValueError(f"window_size {window_size} is less than 1")
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        if attn_type.lower() not in ATTENTION_TYPES:
            raise ValueError(
                f"attn_type {attn_type!r} is unknown; known are {', '.join(ATTENTION_TYPES)}"
            )
        self.window_size = window_size
        self.num_heads = num_heads
        self.attn_type = attn_type.lower()
        self.relative_position_bias = nn.Parameter(
            torch.randn(num_heads, (2 * window_size - 1) ** 2) * 0.001
        )
        self.to_qkv = nn.Conv2d(dim, dim * 3, 1)
        self.to_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        in_bands = runs_in_bands(x)
        backend = choose_attention(self.attn_type, x.device.type, torch.is_grad_enabled(), in_bands)
        bias = backend.prepare_bias(self.relative_position_bias, self.window_size)
        x = x.permute(0, 2, 3, 1)
        if in_bands:
            bands = [self.attend(band, backend, bias, rows) for band, rows in self.bands(x)]
            x = torch.cat(bands, dim=1)
        else:
            x = self.attend(self.pad(x), backend, bias, self.window_size)
        return crop_bottom_right(x, height, width).permute(0, 3, 1, 2)

    def pad(self, x: Tensor) -> Tensor:
        """Extend a map to whole windows, (B, H, W, dim) -> (B, H', W', dim)."""
        window, height, width = self.window_size, x.shape[1], x.shape[2]
        # Written by the number of windows, the new sizes stay plain under torch.export.
        rows, columns = (height + window - 1) // window, (width + window - 1) // window
        return reflect_pad_bottom_right(x, rows * window - height, columns * window - width)

    def bands(self, x: Tensor) -> Iterator[tuple[Tensor, int]]:
        """The map in bands of whole windows, and the rows of their windows to compute.

        The last row of windows stands alone when the image ends inside it: its added
        pixels are keys for the others, but need no result of their own.
        """
        window, height = self.window_size, x.shape[1]
        pixels = PIXELS_PER_PASS_AND_CORE * torch.get_num_threads()
        rows = max(pixels // (x.shape[0] * x.shape[2] * window), 1) * window
        whole = height - height % window
        if whole:
            for band in x[:, :whole].split(rows, dim=1):
                yield self.pad(band), window
        if height > whole:
            # The reflection reaches back into the window above.
            yield self.pad(x[:, max(whole - window, 0) :])[:, -window:], height - whole

    def attend(self, x: Tensor, backend: AttentionBackend, bias: Tensor, rows: int) -> Tensor:
        """Attention of the first ``rows`` rows of every window to the whole window.

        Args:
            x: (B, H, W, dim), H and W multiples of the window.
            backend, bias: from ``choose_attention`` and its ``prepare_bias``.
            rows: between 1 and the window's.

        Returns:
            (B, H / window * rows, W, dim).
        """
        window = self.window_size
        qkv = self.to_qkv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        q, k, v = window_partition(qkv, window, self.num_heads)
        attended = backend.attend(q[:, :, : rows * window], k, v, bias, window)
        attended = window_merge(attended, window, rows, (x.shape[1], x.shape[2]))
        return self.to_out(attended.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
