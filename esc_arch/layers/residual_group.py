"""The residual group of SwinIR and of the networks built in its frame."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["ResidualGroup"]


class ResidualGroup(nn.Module):
    """Blocks, a convolution, the residual.

    Args:
        dim: C.
        name: what the public code, and so the checkpoints, call the blocks.
        blocks: of C channels, (B, C, H, W) -> (B, C, H, W).  Each is made when its turn
            comes, all before the convolution: the order decides the initial values.
        use_checkpoint: keep only the blocks' inputs in training and recompute the rest.

    Shape: (B, C, H, W) -> (B, C, H, W).

    Source: SwinIR, arXiv 2108.10257, RSTB.
    """

    def __init__(
        self, dim: int, name: str, blocks: Iterable[nn.Module], use_checkpoint: bool
    ) -> None:
        super().__init__()
        self.name = name
        self.use_checkpoint = use_checkpoint
        self.residual_group = nn.ModuleDict({name: nn.ModuleList(blocks)})
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = x
        blocks = self.residual_group[self.name]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            if self.use_checkpoint and torch.is_grad_enabled():
                # A block's noise is drawn a second time: from the same state of the generator.
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=True)
            else:
                x = block(x)
        return self.conv(x) + skip
