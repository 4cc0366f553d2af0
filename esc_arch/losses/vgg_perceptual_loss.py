"""BasicSR's perceptual loss with the file of VGG's weights as an option."""

import os
from collections.abc import Callable

from basicsr.losses.basic_loss import PerceptualLoss
from torch import nn

from esc_arch.checkpoints.state_dicts import read_state_dict
from esc_arch.errors import UserError
from esc_arch.losses.vgg_features import VGGFeatures, standard_places
from esc_arch.plugin.registration import register_loss

__all__ = ["VGGPerceptualLoss"]

CRITERIA: dict[str, Callable[[], nn.Module | None]] = {
    "l1": nn.L1Loss,
    "l2": nn.MSELoss,
    "fro": lambda: None,
}


@register_loss
class VGGPerceptualLoss(PerceptualLoss):
    """Distance between VGG features of output and ground truth, and of their Gram matrices.

    BasicSR's ``PerceptualLoss`` reads one file for every VGG type, from one place.  The
    calculation is that of BasicSR.

    Args:
        layer_weights: weight by layer name, such as ``{conv5_4: 1}``.
        weights: a state dict of torchvision's network, of which the layers after the last
            one in ``layer_weights`` may be absent; without it, the file of torchvision's
            name in ``experiments/pretrained_models`` or in torchvision's cache.
        vgg_type: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``.
        use_input_norm, range_norm: see :class:`esc_arch.losses.vgg_features.VGGFeatures`.
        perceptual_weight: of the distance between features; 0 leaves it out.
        style_weight: of the distance between Gram matrices; 0 leaves it out.
        criterion: ``l1``, ``l2`` (mean squared difference) or ``fro`` (Frobenius norm).

    Raises:
        UserError: when the weights are not there or do not fit.
        ValueError: when a name is unknown.

    Source: Johnson et al., arXiv 1603.08155; layers before ReLU: ESRGAN, arXiv 1809.00219.
    """

    def __init__(
        self,
        layer_weights: dict[str, float],
        weights: str | None = None,
        vgg_type: str = "vgg19",
        use_input_norm: bool = True,
        range_norm: bool = False,
        perceptual_weight: float = 1.0,
        style_weight: float = 0.0,
        criterion: str = "l1",
    ) -> None:
        # PerceptualLoss's own __init__ would read VGG's weights from its place.
        nn.Module.__init__(self)
        if criterion not in CRITERIA:
            raise ValueError(f"criterion {criterion!r}; known are {', '.join(CRITERIA)}")
        self.perceptual_weight = perceptual_weight
        self.style_weight = style_weight
        self.layer_weights = layer_weights
        self.criterion_type = criterion
        self.criterion = CRITERIA[criterion]()
        file = vgg_file(vgg_type) if weights is None else os.path.expanduser(weights)
        if file is None:
            raise UserError(f"no {' and no '.join(standard_places(vgg_type))}")
        try:
            self.vgg = VGGFeatures(
                layer_weights, vgg_type, read_state_dict(file), use_input_norm, range_norm
            )
        except ValueError as error:
            raise UserError(f"{file}: {error}") from error


def vgg_file(vgg_type: str) -> str | None:
    """The weights of a VGG network in the places where they usually are, or None."""
    return next(filter(os.path.isfile, standard_places(vgg_type)), None)
