"""Loading a checkpoint of another scale: its last convolution is resampled."""

import logging
from math import isqrt

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

_logger = logging.getLogger("basicsr.esc_arch")


def transfer_scale(state_dict: dict[str, Tensor], prefix: str, scale: int) -> None:
    """Make the pixel-shuffle convolution of a state dict one for another scale.

    Does nothing when the convolution is absent or has the scale already.

    Args:
        state_dict: changed in place; tensors are replaced, not written to.
        prefix: of the convolution's keys, with the dot at its end.
        scale: the wanted scale; the checkpoint's is read off its shape.

    Source: ESC, arXiv 2503.06671: x3 and x4 start from the x2 network.
    """
    weight = state_dict.get(prefix + "weight")
    if weight is None or weight.ndim != 4:
        return
    old_scale = isqrt(weight.shape[0] // 3)
    if old_scale in (0, scale) or 3 * old_scale**2 != weight.shape[0]:
        return
    _logger.info(
        f"Scale transfer: {prefix}weight of a x{old_scale} network is resampled for x{scale}."
    )
    for name in ("weight", "bias"):
        parameter = state_dict.get(prefix + name)
        # A bias of another length is left for load_state_dict to complain about.
        if parameter is not None and parameter.shape[:1] == weight.shape[:1]:
            state_dict[prefix + name] = _resample(parameter, old_scale, scale)


def _resample(parameter: Tensor, old_scale: int, scale: int) -> Tensor:
    """(3 * old_scale**2, ...) -> (3 * scale**2, ...), bilinear over the sub-pixels."""
    rest = parameter.shape[1:]
    image = rearrange(
        parameter.reshape(parameter.shape[0], -1),
        "(rgb ry rx) rest -> rest rgb ry rx",
        ry=old_scale,
        rx=old_scale,
    )
    # A checkpoint may be stored in half precision, which CPUs cannot resample.
    image = F.interpolate(image.double(), size=(scale, scale), mode="bilinear").to(parameter.dtype)
    return rearrange(image, "rest rgb ry rx -> (rgb ry rx) rest").reshape(-1, *rest)
