"""Self-attention inside windows of a feature map."""

import torch
from torch import Tensor, nn

from esc_arch import native
from esc_arch.layers.norm import ChannelLayerNorm
from esc_arch.ops.bands import map_for_kernel, runs_in_bands
from esc_arch.ops.window_attention import ATTENTION_TYPES, AttentionBackend, choose_attention
from esc_arch.ops.window_attention import native as native_backend

# Pixels that attend in one pass on a CPU, for each core.  See esc_arch.ops.bands for why
# the map is cut; every core has windows of its own.
PIXELS_PER_PASS_AND_CORE = 8192

# With fewer windows the cores are kept busy by heads and parts of windows instead.
WINDOWS_PER_CORE = 4


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
        backend = self.backend(x)
        bias = backend.prepare_bias(self.relative_position_bias, self.window_size)
        bands = []
        for band in self.bands(x):
            qkv = self.to_qkv(band).permute(0, 2, 3, 1)
            attended = backend.attend(qkv, bias, self.window_size, self.num_heads)
            bands.append(self.to_out(attended.permute(0, 3, 1, 2)))
        return bands[0] if len(bands) == 1 else torch.cat(bands, dim=2)

    def backend(self, x: Tensor) -> AttentionBackend:
        """What attends in this map."""
        return choose_attention(
            self.attn_type,
            x.device.type,
            needs_grad=torch.is_grad_enabled(),
            in_bands=runs_in_bands(x),
            in_kernel=native.usable_in_training(x),
        )

    def goes_by_windows(self, x: Tensor) -> bool:
        """Whether one kernel does this layer: there have to be windows for every core."""
        if not native.usable(x) or x.shape[1] % native.VECTOR:
            return False
        if self.backend(x) is not native_backend:
            return False
        across, down = (-(-side // self.window_size) for side in x.shape[2:])
        return len(x) * across * down >= WINDOWS_PER_CORE * torch.get_num_threads()

    def bands(self, x: Tensor) -> list[Tensor]:
        """The map in bands of whole rows of windows; one band where that is not faster.

        A last row of windows that the image ends in stays with the one above it, into
        which its reflection reaches.
        """
        if not runs_in_bands(x):
            return [x]
        window, height = self.window_size, x.shape[2]
        pixels = PIXELS_PER_PASS_AND_CORE * torch.get_num_threads()
        rows = max(pixels // (x.shape[0] * x.shape[3] * window), 1) * window
        starts = list(range(0, max(height // window, 1) * window, rows))
        ends = [*starts[1:], height]
        return [x[:, :, start:end] for start, end in zip(starts, ends, strict=True)]


def attend(
    attention: WindowAttention, norm: ChannelLayerNorm, x: Tensor, reuse: Tensor | None = None
) -> Tensor:
    """``x + attention(norm(x))``, by one kernel where that is faster.

    Args:
        x: (B, C, H, W).
        reuse: a map that nobody needs any more, and not x: its memory takes the result if it
            fits.

    Returns:
        (B, C, H, W).
    """
    if not attention.goes_by_windows(x):
        return x + attention(norm(x))
    y = map_for_kernel(x.shape, x.dtype, reuse)
    bias = native_backend.prepare_bias(attention.relative_position_bias, attention.window_size)
    native.attention_layer(
        x.permute(0, 2, 3, 1),
        *([norm.weight, norm.bias], norm.eps),
        *([attention.to_qkv.weight, attention.to_qkv.bias], bias, attention.window_size),
        *([attention.to_out.weight, attention.to_out.bias], y.permute(0, 2, 3, 1)),
    )
    return y
