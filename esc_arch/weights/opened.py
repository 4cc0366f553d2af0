"""A trained network as a checkpoint gives it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["Opened"]


@dataclass(frozen=True)
class Opened:
    """A trained network.

    Attributes:
        network: (B, C, H, W) in [0, 1], any H and W from 1 -> (B, C, rH, rW); a module is on
            the CPU in float32, in evaluation mode, without gradients.
        scale: r.
        name: such as ``esc_light x2``, or spandrel's ``ESRGAN x4``.
        channels: C: 3, or 1 for a network of grey images.
        metadata: what the file says of itself, see :mod:`esc_arch.weights.metadata`.
        path: of the file.
        dtypes: in which it can compute.
    """

    network: nn.Module | Callable[[Tensor], Tensor]
    scale: int
    name: str
    channels: int
    metadata: Mapping[str, str]
    path: Path
    dtypes: frozenset[torch.dtype]
