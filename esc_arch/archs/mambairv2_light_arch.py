"""MambaIRv2-light: Attentive State Space Restoration, the lightweight network.

Paper: CVPR 2025, arXiv 2411.15269.  Public code: github.com/csguoh/MambaIR, Apache 2.0
(its names of arguments and parameters are kept, so its option files and checkpoints work).

Windows attend as in Swin; then one selective scan runs over all tokens, which a router
has sorted into classes and prompted by class.  The router draws Gumbel noise in every
mode, as the public code does: outputs repeat only under ``torch.manual_seed``.

Shapes: B images, H x W pixels, L = H * W tokens, C channels, N states of a channel, K
classes of tokens, h heads, w = side of a window, r = upscaling factor.
"""

from collections.abc import Iterator, Sequence
from math import ceil, log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch import fast
from esc_arch.layers.argument_checks import check_attn_type, check_least, check_only
from esc_arch.layers.channels_last import ChannelLayerNorm, gelu, like_input
from esc_arch.layers.residual_group import ResidualGroup
from esc_arch.layers.restoration_frame import RestorationFrame, check_frame
from esc_arch.ops.attention import (
    attend_tokens,
    goes_by_blocks,
    relative_position_bias,
    window_merge,
    window_partition,
)
from esc_arch.ops.padding import crop, pad_to_windows
from esc_arch.ops.selective_scan import selective_scan
from esc_arch.plugin.registration import register_arch

__all__ = ["MambaIRv2Light"]

# Added to the scores of pixels that only the shift brought into one window.
MASKED = -100.0

# flex has no mask; the windows are too small to need it.
ATTENTION_TYPES = ("auto", "naive", "sdpa")

# Pixels that attend in one pass on a CPU, for each core; see esc_arch.fast.executor.
PIXELS_PER_PASS_AND_CORE = 8192

# Layer scale of the two skips around a layer at the start of training.
INITIAL_SCALE = 1e-4

# The step sizes of the scan at the start of training, spread evenly by logarithm.
DELTA_RANGE = (0.001, 0.1)


@fast.known
class SpatialGate(nn.Module):
    """The first half of the channels, multiplied by a 5x5 convolution of the second.

    Args:
        dim: channels of a half.

    Shape: (B, 2*dim, H, W) -> (B, dim, H, W).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = ChannelLayerNorm(dim, eps=1e-5)
        self.conv = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=1)
        return value * self.conv(self.norm(gate))


@fast.known
class GatedFFN(nn.Module):
    """Widen, gate each pixel by its neighbours, narrow.

    Args:
        dim: number of channels in and out.
        hidden: number of channels between, even.

    Shape: (B, dim, H, W) -> (B, dim, H, W).
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.sg = SpatialGate(hidden // 2)
        self.fc2 = nn.Linear(hidden // 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = gelu(self.fc1(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return self.fc2(self.sg(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ShiftedWindowAttention(nn.Module):
    """Self-attention in windows that may lie across the map's edges.

    Shifted windows wrap around; pixels from opposite edges then do not see each other.

    Args:
        dim: C, a multiple of ``num_heads``.
        window_size: w.
        shift: by how many pixels the windows lie lower and further right; 0 to w - 1.
        num_heads: h.
        attn_type: one of :data:`ATTENTION_TYPES`.

    Source: Swin, arXiv 2103.14030.
    """

    def __init__(
        self, dim: int, window_size: int, shift: int, num_heads: int, attn_type: str
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.num_heads = num_heads
        self.attn_type = attn_type
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window_size - 1) ** 2, num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, to_qkv: nn.Linear) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), H and W multiples of w."""
        attend = attend_tokens(self.attn_type, x)
        # The public table is by query minus key, pixels first.
        table = self.relative_position_bias_table.t().flip(1)
        bias = relative_position_bias(table, self.window_size).unsqueeze(0)
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (2, 3))
        qkv = to_qkv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        bands = []
        for rows, at_bottom in self.parts(x.shape[2], self.rows_per_pass(x)):
            band = []
            for columns, at_right in self.parts(x.shape[3], None):
                tile = qkv[:, :, rows, columns]
                q, k, v = window_partition(tile, self.window_size, self.num_heads)
                tokens = attend(q, k, v, self.mask(bias, at_bottom, at_right))
                band.append(window_merge(tokens, self.window_size, tile.shape[2:]))
            bands.append(torch.cat(band, dim=3))
        x = self.proj(torch.cat(bands, dim=2).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x.roll((self.shift, self.shift), (2, 3)) if self.shift else x

    def rows_per_pass(self, x: Tensor) -> int | None:
        """Rows of (B, C, H, W) that attend in one pass; None for all."""
        if not goes_by_blocks(x):
            return None
        pixels = PIXELS_PER_PASS_AND_CORE * torch.get_num_threads()
        return max(pixels // (x.shape[0] * x.shape[3] * self.window_size), 1) * self.window_size

    def parts(self, size: int, step: int | None) -> Iterator[tuple[slice, bool]]:
        """A side in parts of at most ``step``, the windows across the edge by themselves."""
        whole = size - self.window_size if self.shift else size
        if step is None:
            if whole > 0:
                yield slice(0, whole), False
        else:
            for first in range(0, whole, step):
                yield slice(first, min(first + step, whole)), False
        if self.shift:
            yield slice(whole, size), True

    def mask(self, bias: Tensor, at_bottom: bool, at_right: bool) -> Tensor:
        """The bias of windows across an edge: pixels from its two sides are kept apart."""
        if not at_bottom and not at_right:
            return bias
        side = torch.arange(self.window_size, device=bias.device) >= self.window_size - self.shift
        region = (2 * at_bottom * side.unsqueeze(1) + at_right * side).flatten()
        apart = region.unsqueeze(0) != region.unsqueeze(1)
        return bias + MASKED * apart.to(bias.dtype)


class TokenRouter(nn.Sequential):
    """The logarithm of the probability of each class, (..., C) -> (..., K)."""

    def __init__(self, dim: int, num_tokens: int) -> None:
        super().__init__(
            nn.Linear(dim, dim // 3),
            nn.GELU(),
            nn.Linear(dim // 3, num_tokens),
            nn.LogSoftmax(dim=-1),
        )


class SelectiveScan(nn.Module):
    """A state space model whose step, input and output matrices depend on the token.

    Args:
        dim: number of channels.
        d_state: N.

    Shape: tokens (B, L, dim) and prompts (B, L, N) -> (B, L, dim).

    Source: Mamba, arXiv 2312.00752; the prompts on C: MambaIRv2, section 3.2.
    """

    def __init__(self, dim: int, d_state: int) -> None:
        super().__init__()
        rank = ceil(dim / 16)
        self.splits = (rank, d_state, d_state)
        # Public checkpoints lead with the number of scans, which is one.
        self.x_proj_weight = nn.Parameter(torch.empty(1, sum(self.splits), dim))
        self.dt_projs_weight = nn.Parameter(torch.empty(1, dim, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(1, dim))
        self.A_logs = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(dim, 1))
        self.Ds = nn.Parameter(torch.ones(dim))
        nn.init.uniform_(self.x_proj_weight, -(dim**-0.5), dim**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(rank**-0.5), rank**-0.5)
        low, high = map(log, DELTA_RANGE)
        with torch.no_grad():
            delta = torch.rand(1, dim).mul_(high - low).add_(low).exp_()
            self.dt_projs_bias.copy_(delta.expm1().log())  # the inverse of softplus

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        delta, b, c = F.linear(x, self.x_proj_weight[0]).split(self.splits, dim=-1)
        return selective_scan(
            x,
            F.linear(delta, self.dt_projs_weight[0]),
            -self.A_logs.exp(),
            b,
            c + prompt,
            self.Ds,
            self.dt_projs_bias[0],
        )


@fast.known(reach=None)
class AttentiveStateSpace(nn.Module):
    """A selective scan over the tokens of each class in turn, prompted by class.

    Args:
        dim: C.
        hidden: number of channels of the scan.
        d_state: N.
        inner_rank: rank of the prompts, a product of two tables.
        num_tokens: K.

    Shape: (B, C, H, W) -> (B, C, H, W).

    Source: MambaIRv2, arXiv 2411.15269, section 3.2 and 3.3.
    """

    def __init__(
        self, dim: int, hidden: int, d_state: int, inner_rank: int, num_tokens: int
    ) -> None:
        super().__init__()
        self.selectiveScan = SelectiveScan(hidden, d_state)
        self.out_norm = nn.LayerNorm(hidden)
        self.out_proj = nn.Linear(hidden, dim)
        self.in_proj = nn.Sequential(nn.Conv2d(dim, hidden, 1))
        self.CPE = nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden))
        self.embeddingB = nn.Embedding(num_tokens, inner_rank)
        nn.init.uniform_(self.embeddingB.weight, -1 / num_tokens, 1 / num_tokens)
        self.route = TokenRouter(dim, num_tokens)

    def forward(self, x: Tensor, prompt_table: Tensor) -> Tensor:
        """``prompt_table`` is the second of the two tables, (inner_rank, N)."""
        height, width = x.shape[2:]
        prompts = _table(self.embeddingB) @ prompt_table
        prompt, order = self.classify(x.permute(0, 2, 3, 1).flatten(1, 2), prompts)
        widened = fast.in_bands([self.in_proj, self.CPE], x, function=self.expand)
        tokens = widened.permute(0, 2, 3, 1).flatten(1, 2)
        # The prompts stay in the order of the image while the tokens are sorted: so the
        # public networks were trained.
        y = self.selectiveScan(_take(tokens, order), prompt)
        y = _take(self.out_proj(self.out_norm(y)), _inverse(order))
        return y.unflatten(1, (height, width)).permute(0, 3, 1, 2)

    def expand(self, x: Tensor) -> Tensor:
        """Widen, weighted by the neighbourhood, (B, C, H, W) -> (B, hidden, H, W)."""
        x = self.in_proj(x)
        return x * self.CPE(x).sigmoid()

    def classify(self, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the class of each token: the Gumbel-max trick, with its straight-through
        gradient.

        Args:
            tokens: (B, L, C).
            prompts: (K, N), of each class.

        Returns:
            The prompt of each token, (B, L, N), and the tokens' places sorted by class,
            (B, L).
        """
        logits = self.route(tokens)
        scores = logits + gumbel_noise(logits)
        classes = scores.argmax(dim=-1)
        order = sorted_places(classes)
        if not torch.is_grad_enabled():
            return F.embedding(classes, prompts), order
        soft = scores.softmax(dim=-1).to(prompts.dtype)
        hard = F.one_hot(classes, len(prompts)).to(prompts.dtype)
        return (hard - soft.detach() + soft) @ prompts, order


class AttentiveLayer(nn.Module):
    """Window attention, then the attentive state space; each with a gated FFN.

    Args:
        dim: C.
        hidden: channels inside the FFNs and the scan, even.
        d_state, inner_rank, num_tokens: see :class:`AttentiveStateSpace`.
        num_heads, window_size, shift, attn_type: see :class:`ShiftedWindowAttention`.
        qkv_bias: whether queries, keys and values have a bias.

    Shape: (B, C, H, W) -> (B, C, H, W), H and W multiples of w.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        d_state: int,
        inner_rank: int,
        num_tokens: int,
        num_heads: int,
        window_size: int,
        shift: int,
        qkv_bias: bool,
        attn_type: str,
    ) -> None:
        super().__init__()
        self.scale1 = nn.Parameter(torch.full((dim,), INITIAL_SCALE))
        self.scale2 = nn.Parameter(torch.full((dim,), INITIAL_SCALE))
        self.norm1 = ChannelLayerNorm(dim, eps=1e-5)
        self.norm2 = ChannelLayerNorm(dim, eps=1e-5)
        self.norm3 = ChannelLayerNorm(dim, eps=1e-5)
        self.norm4 = ChannelLayerNorm(dim, eps=1e-5)
        self.wqkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.win_mhsa = ShiftedWindowAttention(dim, window_size, shift, num_heads, attn_type)
        self.assm = AttentiveStateSpace(dim, hidden, d_state, inner_rank, num_tokens)
        self.convffn1 = GatedFFN(dim, hidden)
        self.convffn2 = GatedFFN(dim, hidden)
        self.embeddingA = nn.Embedding(inner_rank, d_state)
        nn.init.uniform_(self.embeddingA.weight, -1 / inner_rank, 1 / inner_rank)

    def forward(self, x: Tensor) -> Tensor:
        y = self.win_mhsa(self.norm1(x), self.wqkv) + x
        y = fast.in_bands([self.norm2, self.convffn1], y, residual=y)
        x = x * _per_channel(self.scale1) + y
        y = self.assm(self.norm3(x), _table(self.embeddingA)) + x
        y = fast.in_bands([self.norm4, self.convffn2], y, residual=y)
        return x * _per_channel(self.scale2) + y


@register_arch
class MambaIRv2Light(RestorationFrame):
    """The MambaIRv2-light network.

    Args:
        img_size: of the training images; the public option files name it, the network
            takes any size.
        patch_size: 1.
        in_chans: channels of the images, in and out.
        embed_dim: C, at least 3, a multiple of every number of heads.
        d_state: N.
        depths: number of layers in each group.
        num_heads: h, in each group.
        window_size: w, in pixels.
        inner_rank: rank of the tables of prompts.
        num_tokens: K.
        convffn_kernel_size: 5.
        mlp_ratio: the FFNs and the scan have ``int(embed_dim * mlp_ratio)`` channels, an
            even number.
        qkv_bias: whether queries, keys and values have a bias.
        norm_layer: ``torch.nn.LayerNorm``.
        ape: False.
        patch_norm: normalise the shallow features.
        use_checkpoint: trade time for memory in training.
        upscale: r.
        img_range: the values that the network computes with; images are in [0, 1].
        upsampler: ``pixelshuffledirect``.
        resi_connection: ``1conv``.
        attn_type: ``auto``, ``naive`` or ``sdpa``, in any case.

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
        embed_dim: int = 48,
        d_state: int = 8,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (4, 4, 4, 4),
        window_size: int = 16,
        inner_rank: int = 32,
        num_tokens: int = 64,
        convffn_kernel_size: int = 5,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        norm_layer: type[nn.Module] = nn.LayerNorm,
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int = 2,
        img_range: float = 1.0,
        upsampler: str = "pixelshuffledirect",
        resi_connection: str = "1conv",
        attn_type: str = "auto",
    ) -> None:
        # What the public code offers, or takes and ignores, and no published network uses.
        check_only(
            "MambaIRv2Light",
            patch_size=(patch_size, 1),
            convffn_kernel_size=(convffn_kernel_size, 5),
            norm_layer=(norm_layer, nn.LayerNorm),
            ape=(ape, False),
            upsampler=(upsampler, "pixelshuffledirect"),
            resi_connection=(resi_connection, "1conv"),
        )
        check_attn_type(attn_type, ATTENTION_TYPES)
        check_frame(in_chans, depths, num_heads, upscale, img_range)
        check_least(
            embed_dim=(embed_dim, 3),
            d_state=(d_state, 1),
            window_size=(window_size, 1),
            inner_rank=(inner_rank, 1),
            num_tokens=(num_tokens, 1),
        )
        for heads in num_heads:
            if embed_dim % heads:
                raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {heads}")
        hidden = int(embed_dim * mlp_ratio)
        if hidden < 2 or hidden % 2:
            raise ValueError(
                f"mlp_ratio {mlp_ratio} makes {hidden} channels of embed_dim {embed_dim}, "
                "not an even number from 2"
            )
        groups = (
            ResidualGroup(
                embed_dim,
                "layers",
                (
                    AttentiveLayer(
                        embed_dim,
                        hidden,
                        d_state,
                        inner_rank,
                        num_tokens,
                        heads,
                        window_size,
                        window_size // 2 if i % 2 else 0,
                        qkv_bias,
                        attn_type.lower(),
                    )
                    for i in range(depth)
                ),
                use_checkpoint,
            )
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        super().__init__(groups, in_chans, embed_dim, patch_norm, upscale, img_range)
        self.window_size = window_size

    def forward(self, x: Tensor) -> Tensor:
        height, width = (side * self.upscale for side in x.shape[2:])
        image = pad_to_windows(x, (self.window_size,) * 2, mode="symmetric")
        y = self.restore(image.contiguous(memory_format=torch.channels_last))
        return like_input(crop(y, height, width), x)

    # Public checkpoints hold an index into the tables of biases, 512 KB that follow from
    # the window's size.  It is written with them and not kept.

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix + "relative_position_index_SA"] = position_index(self.window_size)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "relative_position_index_SA", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


def position_index(window: int) -> Tensor:
    """The place of each pair's relative position in the public tables of biases.

    Args:
        window: side of the window in pixels.

    Returns:
        (n, n), n = window * window, int64: queries first; the offset is query minus key.
    """
    place = torch.arange(window)
    offset = place.unsqueeze(1) - place + window - 1
    # (qy, qx, ky, kx)
    index = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
    return index.reshape(window * window, window * window)


def gumbel_noise(logits: Tensor) -> Tensor:
    """Gumbel noise for logits, (..., K); the same numbers for every dtype.

    Drawn as ``torch.nn.functional.gumbel_softmax`` draws it in float32.
    """
    draws = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    return draws.exponential_().log_().neg_()


def sorted_places(classes: Tensor) -> Tensor:
    """The places of the tokens, class by class, (B, L) -> (B, L).

    The order inside a class matters to the scan, and the public code leaves it to the
    device: its sort is not a stable one.  The same sort of the same type is called here.
    """
    return classes.sort(dim=-1, stable=False).indices


def _take(tokens: Tensor, order: Tensor) -> Tensor:
    """Each image's tokens in another order, (B, L, C) and (B, L) -> (B, L, C)."""
    batch, length = order.shape
    first = torch.arange(batch, device=order.device).unsqueeze(1) * length
    return tokens.flatten(0, 1).index_select(0, (order + first).flatten()).view(tokens.shape)


def _inverse(order: Tensor) -> Tensor:
    """The order that undoes another, (B, L) -> (B, L)."""
    places = torch.arange(order.shape[1], device=order.device).expand(order.shape)
    return torch.empty_like(order).scatter_(1, order, places)


def _table(embedding: nn.Embedding) -> Tensor:
    """All of its vectors, (K, N)."""
    number, device = embedding.num_embeddings, embedding.weight.device
    return embedding(torch.arange(number, device=device))


def _per_channel(scale: Tensor) -> Tensor:
    return scale.view(1, -1, 1, 1)
