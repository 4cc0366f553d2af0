"""Activation checkpointing: a block's inner results are computed again instead of kept.

Backward needs them once; keeping only the input of each block takes a fraction of the memory
and one more forward pass of time.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esc_arch.errors import UserError
from esc_arch.layers.esc_block import ESCBlock

__all__ = ["checkpoint_blocks", "run_block"]


def checkpoint_blocks(network: nn.Module) -> None:
    """Checkpoint every block of a network in training.

    Args:
        network: one that is made of :class:`ESCBlock`.  Its results and gradients, the names
            of its parameters and inference stay as they are.

    Raises:
        UserError: when it has no such block.
    """
    blocks = [module for module in network.modules() if isinstance(module, ESCBlock)]
    if not blocks:
        raise UserError(
            "train.checkpoint_activations: expected a network of ESC blocks; found "
            f"{type(network).__name__}. Remove the key."
        )
    for block in blocks:
        block.checkpointed = True


def run_block(block: ESCBlock, x: Tensor, large_kernel: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """``block(x, large_kernel)``, without keeping inner results where the block is checkpointed."""
    if not block.checkpointed or not torch.is_grad_enabled():
        return block(x, large_kernel)
    # A block has no randomness that its repetition would have to repeat.
    return checkpoint(block, x, large_kernel, use_reentrant=False, preserve_rng_state=False)
