"""What the ESC networks with a full large kernel share: from the image to deep features."""

import torch
from torch import Tensor, nn

from esc_arch.layers.activation_checkpointing import run_block
from esc_arch.layers.conv_attention import ConvolutionalAttention
from esc_arch.layers.esc_block import ESCBlock
from esc_arch.ops.geometric import geometric_mean_kernel


class ESCBody(nn.Module):
    """Shallow features, blocks that share one large kernel, and a last convolution.

    Args:
        dim: number of channels, a multiple of ``num_heads``.
        pdim: channels that the convolutional attentions convolve, at most ``dim``.
        kernel_size: side of the large kernel that they share, odd, at least 3.
        n_blocks: number of blocks.
        conv_blocks: convolutional attentions in a block.
        window_size: side of the self-attention's windows in pixels.
        num_heads: heads of the self-attention.
        exp_ratio: expansion of the ConvFFN before each convolutional attention.
        attn_type: ``auto``, ``naive``, ``sdpa`` or ``flex``, in any case.
        use_ln: normalise before each convolutional attention, too.

    Raises:
        ValueError: when the arguments do not fit each other.

    Source: ESC, arXiv 2503.06671.
    """

    def __init__(
        self,
        dim: int,
        pdim: int,
        kernel_size: int,
        n_blocks: int,
        conv_blocks: int,
        window_size: int,
        num_heads: int,
        exp_ratio: float,
        attn_type: str,
        use_ln: bool,
    ) -> None:
        super().__init__()
        check_sizes(dim, pdim, kernel_size, n_blocks, conv_blocks)
        self.plk_filter = nn.Parameter(torch.empty(pdim, pdim, kernel_size, kernel_size))
        nn.init.orthogonal_(self.plk_filter)
        self.make_stem(dim)
        self.blocks = nn.ModuleList(
            ESCBlock(
                dim,
                pdim,
                conv_blocks,
                window_size,
                num_heads,
                exp_ratio,
                attn_type,
                use_ln,
                ConvolutionalAttention,
                first_exp_ratio=2,
            )
            for _ in range(n_blocks)
        )
        self.last = nn.Conv2d(dim, dim, 3, padding=1)

    def make_stem(self, dim: int) -> None:
        """Build what reads the image; made here, as parameters keep the order of making."""
        self.proj = nn.Conv2d(3, dim, 3, padding=1)

    def features(self, x: Tensor) -> Tensor:
        """The deep features and the shallow ones, (B, 3, H, W) -> (B, dim, H, W)."""
        large_kernel = self.large_kernel()
        shallow = self.shallow(x)
        feat = shallow
        for block in self.blocks:
            feat = run_block(block, feat, large_kernel)
        return self.deep(feat, shallow)

    def large_kernel(self) -> Tensor:
        """What all blocks convolve with, (pdim, pdim, kernel_size, kernel_size)."""
        # Stored as the maps are, the kernel need not be rearranged by every convolution.
        return geometric_mean_kernel(self.plk_filter).contiguous(memory_format=torch.channels_last)

    def shallow(self, x: Tensor) -> Tensor:
        """What the first block takes, of an image or a part of it."""
        return self.proj(x.contiguous(memory_format=torch.channels_last))

    def deep(self, feat: Tensor, shallow: Tensor) -> Tensor:
        """The features of the image from those of the last block and the shallow ones."""
        return self.last(feat) + shallow

    @torch.no_grad()
    def convert(self) -> None:
        """Store the large kernel folded over the symmetries of the square.

        The output stays the same, as the fold is its own repetition; the checkpoint then
        holds the kernel that is convolved with.
        """
        self.plk_filter.copy_(geometric_mean_kernel(self.plk_filter))


def check_sizes(dim: int, pdim: int, kernel_size: int, n_blocks: int, conv_blocks: int) -> None:
    """Raises: ValueError: when a size is out of range or does not fit another."""
    for name, value in (("n_blocks", n_blocks), ("conv_blocks", conv_blocks)):
        if value < 1:
            raise ValueError(f"{name} {value} is less than 1")
    if not 2 <= pdim <= dim:
        raise ValueError(f"pdim {pdim} is not between 2 and dim {dim}")
    if kernel_size < 3 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size {kernel_size} is not an odd number from 3")


def check_scale(upscaling_factor: int, known: range | tuple[int, ...] | None = None) -> None:
    """Raises: ValueError: when the scale is less than 1 or not one of the known."""
    if upscaling_factor < 1:
        raise ValueError(f"upscaling_factor {upscaling_factor} is less than 1")
    if known is not None and upscaling_factor not in known:
        choices = ", ".join(str(scale) for scale in known)
        raise ValueError(f"upscaling_factor {upscaling_factor} is not one of {choices}")
