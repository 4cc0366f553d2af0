"""The block of the ESC networks: one self-attention, then convolutional attentions."""

from torch import Tensor, nn

from esc_arch.layers.conv_attention import (
    ConvAttnWrapper,
    ConvolutionalAttention,
    FactorizedConvAttention,
)
from esc_arch.layers.conv_ffn import ConvFFN, feed_forward
from esc_arch.layers.norm import ChannelLayerNorm
from esc_arch.layers.window_attention import WindowAttention, attend
from esc_arch.ops.bands import by_bands


class ESCBlock(nn.Module):
    """Self-attention first, ``conv_blocks`` convolutional attentions after it.

    Args:
        dim: number of channels.
        pdim: number of channels that ConvAttn convolves.
        conv_blocks: number of convolutional attentions.
        window_size: side of the attention's window in pixels.
        num_heads: heads of the attention.
        exp_ratio: expansion of the ConvFFN before each convolutional attention.
        attn_type: attention back-end.
        use_ln: normalise before each convolutional attention, too.
        conv_attention: the kind of ConvAttn.
        first_exp_ratio: expansion of the ConvFFN before the self-attention.

    Shape: (B, dim, H, W) and the large kernel, as the kind of ConvAttn takes it
    -> (B, dim, H, W).

    Attributes:
        checkpointed: whether training computes inner results twice instead of keeping them, see
            :mod:`esc_arch.layers.activation_checkpointing`.

    Source: ESC, arXiv 2503.06671.
    """

    checkpointed = False

    def __init__(
        self,
        dim: int,
        pdim: int,
        conv_blocks: int,
        window_size: int,
        num_heads: int,
        exp_ratio: float,
        attn_type: str,
        use_ln: bool,
        conv_attention: type[ConvolutionalAttention | FactorizedConvAttention],
        first_exp_ratio: float,
    ) -> None:
        super().__init__()
        self.ln_proj = ChannelLayerNorm(dim)
        self.proj = ConvFFN(dim, first_exp_ratio)
        self.ln_attn = ChannelLayerNorm(dim)
        self.attn = WindowAttention(dim, window_size, num_heads, attn_type)
        self.lns = nn.ModuleList(
            ChannelLayerNorm(dim) if use_ln else nn.Identity() for _ in range(conv_blocks)
        )
        self.pconvs = nn.ModuleList(
            ConvAttnWrapper(dim, conv_attention(pdim)) for _ in range(conv_blocks)
        )
        self.convffns = nn.ModuleList(ConvFFN(dim, exp_ratio) for _ in range(conv_blocks))
        self.ln_out = ChannelLayerNorm(dim)
        self.conv_out = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, large_kernel: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        skip = x
        # Three maps in all: the input, which stays as it is, x, and y, which gives its memory.
        y = feed_forward(self.proj, self.ln_proj, x)
        x = attend(self.attn, self.ln_attn, y)
        for ln, convffn, pconv in zip(self.lns, self.convffns, self.pconvs, strict=True):
            y = feed_forward(convffn, ln, x, reuse=y)
            x = pconv(y, large_kernel, residual=x)
        return by_bands(lambda x: self.conv_out(self.ln_out(x)), x, halo=1, residual=skip, reuse=y)
