"""Feeding any image to a network that takes whole windows only."""

from typing import Any

from torch import Tensor, nn

from esc_arch.archs.basicsr_networks import RRDBNet, SwinIR
from esc_arch.ops.padding import pad_to_windows

__all__ = ["WholeWindows"]


class WholeWindows(nn.Module):
    """A network that takes an image of any size.

    BasicSR's SwinIR stops at an image that is not of whole windows, its RRDBNet below x4 at one
    that cannot be folded: here it is extended at the right and bottom by reflection, and what
    comes out is cropped.  Every other network of :data:`esc_arch.PRESETS` takes any size by
    itself, and gets the image as it is.

    Args:
        network: of any kind.

    Shape: (B, 3, H, W), any H and W from 1 -> (B, 3, rH, rW).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.window_size = _multiple(network)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % self.window_size == width % self.window_size == 0:
            return self.network(x)
        extended = pad_to_windows(x, (self.window_size,) * 2).contiguous()
        y = self.network(extended)
        scale = y.shape[2] // extended.shape[2]
        return y[:, :, : height * scale, : width * scale]


def _multiple(network: Any) -> int:
    """Of what the sides of its images have to be multiples."""
    kind = type(network)
    if issubclass(kind, RRDBNet):
        return {1: 4, 2: 2}.get(network.scale, 1)
    if issubclass(kind, SwinIR):  # which does not keep the argument, its blocks do
        return int(network.layers[0].residual_group.blocks[0].window_size)
    return 1
