"""HiT-SRF: Hierarchical Transformer for Efficient Image Super-Resolution, on SRFormer.

Paper: ECCV 2024, arXiv 2407.05878.  Public code: github.com/XiangZ-0/HiT-SR, Apache 2.0
(its names of arguments and parameters are kept, so its option files and checkpoints work).

Windows grow from block to block; inside them tokens and channels are correlated with a
pooled base window and with each other, without a softmax.

Shapes: B images, H x W pixels, C channels, h heads, r = upscaling factor.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch import fast
from esc_arch.layers.argument_checks import check_attn_type, check_least, check_only
from esc_arch.layers.channels_last import ChannelLayerNorm, gelu, like_input
from esc_arch.layers.residual_group import ResidualGroup
from esc_arch.layers.restoration_frame import RestorationFrame, check_frame
from esc_arch.ops.correlation import CORRELATION_TYPES, correlate
from esc_arch.ops.padding import crop, pad_to_windows
from esc_arch.ops.windows import from_tokens, to_tokens
from esc_arch.plugin.registration import register_arch

__all__ = ["HiT_SRF"]


@fast.known
class DualFeatureExtraction(nn.Module):
    """The product of a path that looks at neighbours and one that does not.

    Args:
        dim: number of channels.

    Shape: (B, dim, H, W) -> (B, dim, H, W).

    Source: HiT-SR, arXiv 2407.05878, DFE.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(dim, dim // 5, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(dim // 5, dim // 5, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(dim // 5, dim, 1),
        )
        self.linear = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.linear(x)


@fast.known
class ConvFFN(nn.Module):
    """Widen, mix each pixel with its 5x5 neighbours, narrow.

    Args:
        dim: number of channels in and out.
        hidden: number of channels between.

    Shape: (B, dim, H, W) -> (B, dim, H, W).

    Source: SRFormer, arXiv 2303.09735, as HiT-SRF uses it.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        conv = nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden)
        self.dwconv = nn.Sequential(OrderedDict(depthwise_conv=nn.Sequential(conv)))
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = gelu(self.fc1(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        x = gelu(self.dwconv(x)) + x
        return self.fc2(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DynamicPositionBias(nn.Module):
    """A small network from a relative position to the bias of each head.

    Args:
        dim: number of hidden channels.
        num_heads: h.

    Shape: (positions, 2) -> (positions, h).

    Source: CrossFormer, arXiv 2108.00154.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.pos_proj = nn.Linear(2, dim)
        self.pos1 = nn.Sequential(nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, dim))
        self.pos2 = nn.Sequential(nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, dim))
        self.pos3 = nn.Sequential(nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, num_heads))

    def forward(self, positions: Tensor) -> Tensor:
        return self.pos3(self.pos2(self.pos1(self.pos_proj(positions))))


class SpatialChannelCorrelation(nn.Module):
    """Correlation of the tokens and of the channels inside each window.

    The map is extended to whole windows by reflection; the added pixels are ordinary
    tokens, and zeros stand around them for the convolution that makes q and v.

    Args:
        dim: C, a multiple of ``2 * num_heads``.
        base_window: sides of the base window in pixels, divisors of the window's.
        window: sides of a window in pixels.
        num_heads: h, of the spatial correlation.
        attn_type: see :func:`esc_arch.ops.correlation.correlate`.

    Shape: (B, C, H, W) -> (B, C, H, W), any H and W from 1.

    Source: HiT-SR, arXiv 2407.05878, SCC.
    """

    def __init__(
        self,
        dim: int,
        base_window: tuple[int, int],
        window: tuple[int, int],
        num_heads: int,
        attn_type: str,
    ) -> None:
        super().__init__()
        self.window = window
        # Pixels of the window for one pixel of the base window.
        self.block = (window[0] // base_window[0], window[1] // base_window[1])
        self.attn_type = attn_type
        self.qv = DualFeatureExtraction(dim)
        self.proj = nn.Linear(dim, dim)
        self.spatial_linear = nn.Linear(self.block[0] * self.block[1], 1)
        self.pos = DynamicPositionBias(dim // 16, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        qv = fast.in_bands([self.qv], pad_to_windows(x, self.window))
        tokens = to_tokens(qv, self.window, self.block)
        q, v = tokens.chunk(2, dim=-1)
        tokens = correlate(q, v, self.to_base(v), self.position_bias(), self.attn_type)
        x = from_tokens(self.proj(tokens), self.window, (qv.shape[2], qv.shape[3]), self.block)
        return crop(x, height, width)

    def to_base(self, v: Tensor) -> Tensor:
        """Each block's pixels, weighed and added, (N, n, c) -> (N, m, c)."""
        pixels = self.block[0] * self.block[1]
        blocks = v.reshape(-1, pixels, v.shape[-1]).transpose(1, 2)
        return self.spatial_linear(blocks).view(v.shape[0], -1, v.shape[-1])

    def position_bias(self) -> Tensor:
        """The bias of every pair of a base token and a token, (h, m, n).

        The bias of a block is the mean over its pixels.  Taken of the table of relative
        positions, it leaves one number for each place of a block, and the pairs are views.
        """
        (wy, wx), (py, px) = self.window, self.block
        like = self.pos.pos_proj.weight
        y = torch.arange(1 - wy, wy, device=like.device, dtype=like.dtype)
        x = torch.arange(1 - wx, wx, device=like.device, dtype=like.dtype)
        table = self.pos(torch.cartesian_prod(y, x)).T.view(1, -1, 2 * wy - 1, 2 * wx - 1)
        table = F.avg_pool2d(table, self.block, stride=1)[0]
        # (h, my, mx, wy, wx): the offset is query minus key, so the last place of the
        # table belongs to the first block.
        pairs = table.unfold(1, wy, py).unfold(2, wx, px).flip(1, 2)
        pairs = pairs.unflatten(4, (-1, px)).unflatten(3, (-1, py)).transpose(4, 5)
        return pairs.reshape(pairs.shape[0], -1, wy * wx)


class HierarchicalTransformerBlock(nn.Module):
    """Correlation and feed-forward network, each normalised after it and added.

    Args:
        dim, base_window, window, num_heads, attn_type: see
            :class:`SpatialChannelCorrelation`.
        hidden: channels inside the feed-forward network.

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(
        self,
        dim: int,
        base_window: tuple[int, int],
        window: tuple[int, int],
        num_heads: int,
        hidden: int,
        attn_type: str,
    ) -> None:
        super().__init__()
        self.norm1 = ChannelLayerNorm(dim, eps=1e-5)
        self.correlation = SpatialChannelCorrelation(dim, base_window, window, num_heads, attn_type)
        self.norm2 = ChannelLayerNorm(dim, eps=1e-5)
        self.mlp = ConvFFN(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(self.correlation(x))
        return fast.in_bands([self.mlp, self.norm2], x, residual=x)


@register_arch
class HiT_SRF(RestorationFrame):
    """The HiT-SRF network.

    Args:
        img_size: of the training images; the public option files name it, the network
            takes any size.
        patch_size: 1.
        in_chans: channels of the images, in and out.
        embed_dim: C, a multiple of twice every number of heads, at least 16.
        depths: number of blocks in each group.
        num_heads: heads of the spatial correlation in each group.
        base_win_size: sides of the base window in pixels.
        mlp_ratio: the feed-forward network's hidden width is ``int(embed_dim * mlp_ratio)``.
        drop_rate, value_drop_rate, drop_path_rate: 0.
        norm_layer: ``torch.nn.LayerNorm``.
        ape: False.
        patch_norm: normalise the shallow features.
        use_checkpoint: trade time for memory in training.
        upscale: r.
        img_range: the values that the network computes with; images are in [0, 1].
        upsampler: ``pixelshuffledirect``.
        resi_connection: ``1conv``.
        hier_win_ratios: the windows' sides over the base window's, block by block in each
            group; those beyond the group's depth are not used.
        expansion_factor: what the public option files call ``mlp_ratio``; the public code
            does not read it, so it has to be equal.
        attn_type: ``auto``, or ``naive`` for correlation maps as in the paper, which take
            more time and memory; in any case.

    Shape: (B, in_chans, H, W) in [0, 1], any H and W from 1 -> (B, in_chans, rH, rW), in
    the input's memory format.

    Raises:
        ValueError: when the arguments do not fit each other, or ask for what no published
            network has.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 60,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        base_win_size: Sequence[int] = (8, 8),
        mlp_ratio: float = 2.0,
        drop_rate: float = 0.0,
        value_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: type[nn.Module] = nn.LayerNorm,
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int = 4,
        img_range: float = 1.0,
        upsampler: str = "pixelshuffledirect",
        resi_connection: str = "1conv",
        hier_win_ratios: Sequence[float] = (0.5, 1, 2, 4, 6, 8),
        expansion_factor: float | None = None,
        attn_type: str = "auto",
    ) -> None:
        # What the public code offers and no published network uses.
        check_only(
            "HiT_SRF",
            patch_size=(patch_size, 1),
            drop_rate=(drop_rate, 0),
            value_drop_rate=(value_drop_rate, 0),
            drop_path_rate=(drop_path_rate, 0),
            norm_layer=(norm_layer, nn.LayerNorm),
            ape=(ape, False),
            upsampler=(upsampler, "pixelshuffledirect"),
            resi_connection=(resi_connection, "1conv"),
            expansion_factor=(
                mlp_ratio if expansion_factor is None else expansion_factor,
                mlp_ratio,
            ),
        )
        check_attn_type(attn_type, CORRELATION_TYPES)
        check_frame(in_chans, depths, num_heads, upscale, img_range)
        hidden = int(embed_dim * mlp_ratio)
        _check_channels(embed_dim, num_heads, hidden, mlp_ratio)
        windows = _windows(base_win_size, hier_win_ratios, max(depths))
        groups = (
            ResidualGroup(
                embed_dim,
                "blocks",
                (
                    HierarchicalTransformerBlock(
                        embed_dim, *window_pair, heads, hidden, attn_type.lower()
                    )
                    for window_pair in windows[:depth]
                ),
                use_checkpoint,
            )
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        super().__init__(groups, in_chans, embed_dim, patch_norm, upscale, img_range)

    def forward(self, x: Tensor) -> Tensor:
        return like_input(self.restore(x.contiguous(memory_format=torch.channels_last)), x)


def _windows(
    base: Sequence[int], ratios: Sequence[float], count: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The base window and the window of each block: a smaller window is its own base."""
    if len(base) != 2 or min(base) < 1:
        raise ValueError(f"base_win_size {list(base)} is not two sides from 1 pixel")
    if len(ratios) < count:
        raise ValueError(
            f"hier_win_ratios {list(ratios)} has fewer than the {count} blocks of depths"
        )
    pairs = []
    for ratio in ratios[:count]:
        window = (int(base[0] * ratio), int(base[1] * ratio))
        inner = (min(window[0], base[0]), min(window[1], base[1]))
        if min(window) < 1 or window[0] % inner[0] or window[1] % inner[1]:
            raise ValueError(
                f"hier_win_ratios {ratio} makes windows of {window[0]} x {window[1]} pixels, "
                f"which do not hold whole base windows of {inner[0]} x {inner[1]}"
            )
        pairs.append((inner, window))
    return pairs


def _check_channels(
    embed_dim: int, num_heads: Sequence[int], hidden: int, mlp_ratio: float
) -> None:
    check_least(embed_dim=(embed_dim, 16))
    for heads in num_heads:
        if embed_dim % (2 * heads):
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of 2 * num_heads {heads}")
    if hidden < 1:
        raise ValueError(f"mlp_ratio {mlp_ratio} leaves no hidden channel of embed_dim {embed_dim}")
