"""Feature maps of a VGG network, whose weights come from a file.

Shapes: B images, H x W pixels, RGB.
"""

import os
from collections.abc import Collection, Mapping, Sequence

import torch
from basicsr.archs.vgg_arch import NAMES as VGG_LAYERS
from basicsr.archs.vgg_arch import VGG_PRETRAIN_PATH
from torch import Tensor, nn
from torchvision import models

__all__ = ["VGGFeatures", "fit_weights", "standard_places", "standard_weights"]

# Of ImageNet's RGB, which torchvision's networks were trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def standard_places(vgg_type: str) -> tuple[str, str]:
    """Where the weights of a VGG network are looked for: BasicSR's place and torchvision's."""
    file = os.path.basename(standard_weights(vgg_type))
    return (
        os.path.join(os.path.dirname(VGG_PRETRAIN_PATH), file),
        os.path.join(torch.hub.get_dir(), "checkpoints", file),
    )


def standard_weights(vgg_type: str) -> str:
    """The address in torchvision of the weights of a VGG network."""
    return models.get_model_weights(vgg_type).DEFAULT.url


class VGGFeatures(nn.Module):
    """Maps images to feature maps by layer name; its weights do not train.

    Args:
        layers: names such as ``conv5_4``, which is before its ReLU.
        vgg_type: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``.
        weights: torchvision's parameters by name; those of later layers may be absent.
        use_input_norm: whether to subtract ImageNet's mean and divide by its deviation.
        range_norm: whether images are in [-1, 1] rather than [0, 1].

    Shape: (B, 3, H, W) -> {layer: (B, C, H', W')}.

    Raises:
        ValueError: when a layer is unknown or the weights do not fit.

    Source: Simonyan and Zisserman, arXiv 1409.1556.
    """

    def __init__(
        self,
        layers: Collection[str],
        vgg_type: str,
        weights: Mapping[str, Tensor],
        use_input_norm: bool = True,
        range_norm: bool = False,
    ) -> None:
        super().__init__()
        self.layers = frozenset(layers)
        self.names = VGG_LAYERS[vgg_type][: _count(layers, vgg_type)]
        self.use_input_norm = use_input_norm
        self.range_norm = range_norm
        self.features = _without_memory(layers, vgg_type)
        fitting = fit_weights(layers, vgg_type, weights)
        # Copies: a mapped file must not stay open, nor the caller's tensors be shared.
        self.features.load_state_dict(
            {k: v.float().clone() for k, v in fitting.items()}, assign=True
        )
        self.requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if self.range_norm:
            x = (x + 1) / 2
        if self.use_input_norm:
            x = (x - self.mean) / self.std
        found = {}
        for name, layer in zip(self.names, self.features, strict=True):
            x = layer(x)
            if name in self.layers:
                # The ReLU that follows a convolution works in place.
                found[name] = x.clone()
        return found


def fit_weights(
    layers: Collection[str], vgg_type: str, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The parameters up to the last of ``layers``, by name within torchvision's ``features``.

    Raises:
        ValueError: naming the first parameter that is absent or of another size.
    """
    fitting = {}
    for name, parameter in _without_memory(layers, vgg_type).state_dict().items():
        key = f"features.{name}"
        if key not in weights:
            raise ValueError(f"no {key}, which {vgg_type} has")
        if weights[key].shape != parameter.shape:
            raise ValueError(
                f"{key} of size {tuple(weights[key].shape)} instead of {tuple(parameter.shape)}"
            )
        fitting[name] = weights[key]
    return fitting


def _count(layers: Collection[str], vgg_type: str) -> int:
    """How many layers of a VGG network are needed."""
    names: Sequence[str] = VGG_LAYERS[vgg_type]
    unknown = [layer for layer in layers if layer not in names]
    if unknown or not layers:
        raise ValueError(f"{unknown or 'no layers'}: known layers of {vgg_type} are {names}")
    return 1 + max(names.index(layer) for layer in layers)


def _without_memory(layers: Collection[str], vgg_type: str) -> nn.Sequential:
    """The needed layers on the meta device: the whole of VGG19 would take 0.5 GB."""
    with torch.device("meta"):
        return getattr(models, vgg_type)(weights=None).features[: _count(layers, vgg_type)]
