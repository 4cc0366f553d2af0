"""Making a network ready for inference."""

from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["deploy"]


def deploy(
    network: nn.Module, dtype: torch.dtype = torch.float32, compile: bool = False
) -> nn.Module:
    """Make a network ready for inference: evaluation mode, no gradients, folded, channels_last.

    On a CPU in float32 the networks of the ESC family then run by the kernels of
    :mod:`esc_arch.fast`.

    Args:
        network: is changed, and must not be trained any more.
        dtype: of the parameters and the arithmetic.  Images may have any floating dtype,
            which the result has too.  bfloat16 pays where the processor multiplies
            it (AMX, AVX512-BF16, a GPU).
        compile: let ``torch.compile`` make one graph for all sizes, at the first image.  It
            pays on a GPU; on a CPU it replaces the kernels and is slower.

    Returns:
        A module that holds the network: (B, 3, H, W) -> (B, 3, rH, rW), never with a
        gradient; what the network takes beside the images, such as a size, it takes too.

    Raises:
        ValueError: when ``dtype`` is not a floating one.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype {dtype} is not a floating one")
    network.eval().requires_grad_(False)
    convert = getattr(network, "convert", None)
    if convert is not None:
        convert()  # in float32, before precision is lost
    network.to(dtype)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stub
    if compile:
        network = cast(nn.Module, torch.compile(network, dynamic=True))
    return Deployed(network, dtype)


class Deployed(nn.Module):
    """A network for images of any dtype; the result of :func:`deploy`."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    @torch.no_grad()
    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        y: Tensor = self.network(x.to(self.dtype), **arguments)
        return y.to(x.dtype)
