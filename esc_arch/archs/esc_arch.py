"""ESC: Emulating Self-attention with Convolution for Efficient Image Super-Resolution.

Paper: ICCV 2025, arXiv 2503.06671.  Public code: github.com/dslisleedh/ESC (its names of
arguments and parameters are kept, so its option files and checkpoints work).

Names of parameters, i a block, j a convolutional attention in it:

    plk_filter                  the large kernel (partial large kernel) that all blocks share
    proj                        3x3 convolution of the image: the shallow features
    blocks.i.ln_proj, .proj     norm, feed-forward network before the self-attention
    blocks.i.ln_attn, .attn     norm, self-attention in windows
    blocks.i.lns.j              norm, with ``use_ln``
    blocks.i.convffns.j         feed-forward network before a convolutional attention
    blocks.i.pconvs.j.plk       convolutional attention of the first channels (partial convolution);
                                its dwc_proj makes the dynamic kernel
    blocks.i.pconvs.j.aggr      1x1 convolution that mixes them with the others (aggregation)
    blocks.i.ln_out, .conv_out  norm, 3x3 convolution at the end of a block
    last, to_img                3x3 convolutions: of the features, and to r x r pixels
    proj, dwc, aggr of a feed-forward network: 1x1 in, depth-wise 3x3, 1x1 out

Shapes: B images, H x W pixels, C = dim channels, p = pdim of them, r = upscaling factor.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esc_arch import fast
from esc_arch.archs.config import takes_fields_of
from esc_arch.layers.channels_last import ChannelLayerNorm, GlobalMean, gelu, like_input
from esc_arch.layers.scale_transfer import transfer_scale
from esc_arch.ops.attention import ATTENTION_TYPES, window_attention
from esc_arch.plugin.registration import register_arch

__all__ = [
    "ESC",
    "ConvAttnWrapper",
    "ConvFFN",
    "ConvolutionalAttention",
    "ESCBlock",
    "ESCConfig",
    "ESCFamily",
    "WindowAttention",
    "geometric_mean_kernel",
]


@fast.known
class ConvFFN(nn.Module):
    """Widen, mix each pixel with its neighbours, narrow.

    Args:
        dim: number of channels in and out.
        exp_ratio: the hidden width is ``int(dim * exp_ratio)``.

    Shape: (B, dim, H, W) -> (B, dim, H, W).

    Raises:
        ValueError: when the hidden width is zero.
    """

    def __init__(self, dim: int, exp_ratio: float) -> None:
        super().__init__()
        hidden = int(dim * exp_ratio)
        if hidden < 1:
            raise ValueError(f"exp_ratio {exp_ratio} leaves no hidden channel of dim {dim}")
        self.proj = nn.Conv2d(dim, hidden, 1)
        self.dwc = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.aggr = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = gelu(self.proj(x))
        x = gelu(self.dwc(x)) + x
        return self.aggr(x)


@fast.known(reach=None)
class WindowAttention(nn.Module):
    """Multi-head self-attention in windows, with a bias by relative position.

    The map is extended to whole windows by reflection; the added pixels attend like
    any other.  Windows are neither shifted nor masked.

    Args:
        dim: number of channels, a multiple of ``num_heads``.
        window_size: side of a window in pixels.
        num_heads: number of heads.
        attn_type: back-end, see :mod:`esc_arch.ops.attention`; any case.

    Shape: (B, dim, H, W) -> (B, dim, H, W), any H and W from 1.

    Raises:
        ValueError: when ``dim`` cannot be split into heads or the back-end is unknown.
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
        table = self.relative_position_bias
        x = window_attention(self.to_qkv(x), table, self.window_size, self.attn_type)
        return self.to_out(x)


@fast.known(reach=None)
class ConvolutionalAttention(nn.Module):
    """The shared large kernel and a dynamic kernel, on the first ``pdim`` channels.

    Args:
        pdim: p.

    Shape: x (B, p, H, W) and the large kernel (p, p, k, k) -> (B, p, H, W).
    """

    def __init__(self, pdim: int) -> None:
        super().__init__()
        self.pdim = pdim
        self.dwc_proj = dynamic_kernel_branch(pdim, pdim // 2)
        # The dynamic kernel starts at zero: training begins with the shared kernel alone.
        for parameter in self.dwc_proj[-1].parameters():
            nn.init.zeros_(parameter)

    def kernel_shapes(self, k: int) -> list[tuple[int, ...]]:
        """The shape of the large kernel of side k."""
        return [(self.pdim, self.pdim, k, k)]

    def dynamic_kernel(self, x: Tensor) -> Tensor:
        """From a map or its mean, (B, p, H, W) or (B, p, 1, 1), to (B, p, 3, 3)."""
        return self.dwc_proj(x).reshape(-1, self.pdim, 3, 3)

    def forward(self, x: Tensor, large_kernel: Tensor) -> Tensor:
        dynamic = depthwise_by_image(x, self.dynamic_kernel(x))
        return F.conv2d(x, large_kernel, padding=large_kernel.shape[-1] // 2) + dynamic


def dynamic_kernel_branch(pdim: int, hidden: int) -> nn.Sequential:
    """From a map to nine taps for each channel, (B, pdim, H, W) -> (B, 9 * pdim, 1, 1)."""
    return nn.Sequential(
        GlobalMean(), nn.Conv2d(pdim, hidden, 1), nn.GELU(), nn.Conv2d(hidden, pdim * 3 * 3, 1)
    )


def geometric_mean_kernel(kernel: Tensor) -> Tensor:
    """The mean of a kernel over the eight flips and quarter turns of the square.

    The result is its own mean again, so a folded kernel may be folded once more.

    Shape: (..., k, k) -> (..., k, k), symmetric under every flip and turn.
    """
    kernel = kernel + kernel.flip(-2)
    kernel = kernel + kernel.flip(-1)
    return (kernel + kernel.transpose(-2, -1)) / 8


def depthwise_by_image(x: Tensor, kernel: Tensor) -> Tensor:
    """A depth-wise convolution, zero-padded, by a kernel for each image and channel.

    Shape: x (B, p, H, W) and kernel (B, p, k, k), k odd -> (B, p, H, W).
    """
    batch, p, height, width = x.shape
    k = kernel.shape[-1]
    x = x.reshape(1, batch * p, height, width)
    y = F.conv2d(x, kernel.reshape(batch * p, 1, k, k), padding=k // 2, groups=batch * p)
    return y.view(batch, p, height, width)


@fast.known
class ConvAttnWrapper(nn.Module):
    """Convolutional attention of the first channels, a 1x1 convolution over all.

    Args:
        dim: number of channels.
        conv_attention: for the first ``conv_attention.pdim`` channels; the others pass by it.

    Shape: x (B, dim, H, W), and the large kernel as ``conv_attention`` takes it
    -> (B, dim, H, W).
    """

    def __init__(self, dim: int, conv_attention: nn.Module) -> None:
        super().__init__()
        self.plk = conv_attention
        self.aggr = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, large_kernel: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        p = self.plk.pdim
        return self.aggr(torch.cat([self.plk(x[:, :p], large_kernel), x[:, p:]], dim=1))


@dataclass(frozen=True)
class ESCConfig:
    """The arguments that the networks of the family have in common.

    Raises:
        ValueError: when a size is out of range or does not fit another.
    """

    dim: int  # C, a multiple of num_heads
    pdim: int  # p, channels that the convolutional attentions convolve
    kernel_size: int  # side of the large kernel that they share, odd
    n_blocks: int
    conv_blocks: int  # convolutional attentions in a block
    window_size: int  # of the self-attention, in pixels
    num_heads: int  # of the self-attention
    upscaling_factor: int  # r
    exp_ratio: float = 2  # expansion of the ConvFFN before each convolutional attention
    attn_type: str = "auto"  # back-end of the self-attention: auto, naive, sdpa, flex

    def __post_init__(self) -> None:
        for name in ("upscaling_factor", "n_blocks", "conv_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is less than 1")
        if not 2 <= self.pdim <= self.dim:
            raise ValueError(f"pdim {self.pdim} is not between 2 and dim {self.dim}")
        if self.kernel_size < 3 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} is not an odd number from 3")


@fast.known
class ESCBlock(nn.Module):
    """Self-attention first, ``conv_blocks`` convolutional attentions after it.

    Args:
        config: of the network.
        use_ln: normalise before each convolutional attention, too.
        conv_attention: the kind of convolutional attention.
        first_exp_ratio: expansion of the ConvFFN before the self-attention.

    Shape: x (B, dim, H, W), and the large kernel as the kind of convolutional attention takes it
    -> (B, dim, H, W).

    Attributes:
        checkpointed: whether training computes inner results twice instead of keeping them.
        blueprint: what the block was built as, for :func:`esc_arch.fast.takes`.
    """

    checkpointed = False

    def __init__(
        self,
        config: ESCConfig,
        use_ln: bool,
        conv_attention: type[nn.Module] = ConvolutionalAttention,
        first_exp_ratio: float = 2,
    ) -> None:
        super().__init__()
        dim, js = config.dim, range(config.conv_blocks)
        self.ln_proj = ChannelLayerNorm(dim)
        self.proj = ConvFFN(dim, first_exp_ratio)
        self.ln_attn = ChannelLayerNorm(dim)
        self.attn = WindowAttention(dim, config.window_size, config.num_heads, config.attn_type)
        self.lns = nn.ModuleList(ChannelLayerNorm(dim) if use_ln else nn.Identity() for _ in js)
        self.pconvs = nn.ModuleList(ConvAttnWrapper(dim, conv_attention(config.pdim)) for _ in js)
        self.convffns = nn.ModuleList(ConvFFN(dim, config.exp_ratio) for _ in js)
        self.ln_out = ChannelLayerNorm(dim)
        self.conv_out = nn.Conv2d(dim, dim, 3, padding=1)
        self.blueprint = fast.Blueprint.of(self)

    def forward(self, x: Tensor, large_kernel: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        if fast.takes(self, x, large_kernel):
            return fast.run_block(self, x, large_kernel)
        skip = x
        x = self.proj(self.ln_proj(x))
        x = x + self.attn(self.ln_attn(x))
        for ln, ffn, pconv in zip(self.lns, self.convffns, self.pconvs, strict=True):
            x = x + pconv(ffn(ln(x)), large_kernel)
        return self.conv_out(self.ln_out(x)) + skip


class ESCFamily(nn.Module):
    """The common part of ESC, ESC-FP and ESC-Real: from the image to deep features.

    A network adds its upsampler, then its blueprint; it may have a stem, a large kernel and an end
    of its own.

    Args:
        config: of the network.
        use_ln, conv_attention, first_exp_ratio: as :class:`ESCBlock` takes them.
    """

    to_img: nn.Module  # the end of every network
    skip: nn.Module  # from the image to the features; not in ESC and ESC-FP

    def __init__(
        self,
        config: ESCConfig,
        use_ln: bool,
        conv_attention: type[nn.Module] = ConvolutionalAttention,
        first_exp_ratio: float = 2,
    ) -> None:
        super().__init__()
        self.upscaling_factor = config.upscaling_factor
        self.make_large_kernel(config.pdim, config.kernel_size)
        self.make_stem(config.dim)
        self.blocks = nn.ModuleList(
            ESCBlock(config, use_ln, conv_attention, first_exp_ratio)
            for _ in range(config.n_blocks)
        )
        self.make_end(config.dim)

    def make_large_kernel(self, pdim: int, kernel_size: int) -> None:
        """Build the large kernel, which all blocks share."""
        self.plk_filter = nn.Parameter(torch.empty(pdim, pdim, kernel_size, kernel_size))
        nn.init.orthogonal_(self.plk_filter)

    def make_stem(self, dim: int) -> None:
        """Build the first layers, from the image to the shallow features."""
        self.proj: nn.Module = nn.Conv2d(3, dim, 3, padding=1)

    def make_end(self, dim: int) -> None:
        """Build the last convolution, behind the blocks."""
        self.last = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return like_input(self.upsample(self.features(x), x), x)

    def features(self, x: Tensor) -> Tensor:
        """The deep features and the shallow ones, (B, 3, H, W) -> (B, dim, H, W)."""
        large_kernel = self.large_kernel()
        shallow = self.shallow(x)
        feat = shallow
        for block in self.blocks:
            if block.checkpointed and torch.is_grad_enabled():
                # A block has no randomness that its repetition would have to repeat.
                feat = checkpoint(
                    block, feat, large_kernel, use_reentrant=False, preserve_rng_state=False
                )
            else:
                feat = block(feat, large_kernel)
        return self.deep(feat, shallow)

    def large_kernel(self) -> Tensor | tuple[Tensor, Tensor]:
        """The kernel that all blocks share: (pdim, pdim, kernel_size, kernel_size)."""
        # Stored as the maps are, the kernel need not be rearranged by every convolution.
        return geometric_mean_kernel(self.plk_filter).contiguous(memory_format=torch.channels_last)

    def shallow(self, x: Tensor) -> Tensor:
        """The input of the first block, for an image or a part of it."""
        return self.proj(x.contiguous(memory_format=torch.channels_last))

    def deep(self, feat: Tensor, shallow: Tensor) -> Tensor:
        """The features of the image from those of the last block and the shallow ones."""
        return self.last(feat) + shallow

    def upsample(self, feat: Tensor, x: Tensor) -> Tensor:
        """The result from the features of an image or of a part of it, and the image."""
        raise NotImplementedError

    @torch.no_grad()
    def convert(self) -> None:
        """Store the large kernel folded over the symmetries of the square.

        The output stays the same, as the fold is its own repetition; the checkpoint then
        holds the kernel that is convolved with.
        """
        self.plk_filter.copy_(geometric_mean_kernel(self.plk_filter))


@register_arch
@fast.known
class ESC(ESCFamily):
    """The ESC network (also ESC-light and ESC-XL, by its arguments).

    Args:
        config: the fields of :class:`ESCConfig`, one by one.
        use_ln: normalise before each convolutional attention, too.

    Shape: (B, 3, H, W), RGB in [0, 1], any H and W from 1 -> (B, 3, rH, rW), in the
    input's memory format.

    Raises:
        ValueError: when the arguments do not fit each other.
    """

    @takes_fields_of(ESCConfig)
    def __init__(self, config: ESCConfig, use_ln: bool = False) -> None:
        super().__init__(config, use_ln)
        self.to_img = nn.Conv2d(config.dim, 3 * config.upscaling_factor**2, 3, padding=1)
        self.blueprint = fast.Blueprint.of(self)

    def upsample(self, feat: Tensor, x: Tensor) -> Tensor:
        skip = x.repeat_interleave(self.upscaling_factor**2, dim=1)
        return F.pixel_shuffle(self.to_img(feat) + skip, self.upscaling_factor)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        transfer_scale(state_dict, prefix + "to_img.", self.upscaling_factor)
        super()._load_from_state_dict(state_dict, prefix, *args)
