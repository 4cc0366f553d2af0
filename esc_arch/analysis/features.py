"""Layers seen as pictures: how strong the features of each pixel are, and how they differ.

Of each map two pictures and a few numbers are kept, so that memory is that of the network itself.

Shapes: C channels, H x W pixels of a map, P = H * W.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esc_arch.analysis.layers import run
from esc_arch.analysis.subjects import Subject, cropped, read_pixels, to_tensor

__all__ = [
    "BRIGHTEST",
    "DARKEST",
    "Features",
    "LayerFeatures",
    "features_of",
    "principal_components",
    "see",
    "statistics",
]

_COMPONENTS = 3
# What lies beyond these percentiles is shown as black or white.
DARKEST, BRIGHTEST = 1, 99


@dataclass(frozen=True)
class LayerFeatures:
    """Of one layer for one image.

    Attributes:
        path: of the module.
        strength: (H, W), float32: the mean of the absolute values over the channels.
        components: (H, W, 3), uint8: the first three principal components of the pixels' feature
            vectors as red, green and blue, each from its darkest to its brightest percent.
        statistics: see :func:`statistics`, and ``explained``, the share of the variance in each of
            the components.
    """

    path: str
    strength: np.ndarray
    components: np.ndarray
    statistics: dict[str, object]


@dataclass(frozen=True)
class Features:
    """Of one network for one image.

    Attributes:
        image: (H, W, 3), uint8, what the network got.
        output: (rH, rW, 3), uint8.
        layers: in the order in which they compute.
    """

    image: np.ndarray
    output: np.ndarray
    layers: tuple[LayerFeatures, ...]

    def line(self) -> str:
        """The range of norms in a line of text."""
        norms = [float(str(one.statistics["norm"])) for one in self.layers]
        least, most = (self.layers[place].path for place in (np.argmin(norms), np.argmax(norms)))
        return (
            f"{len(self.layers)} layers; norm of a pixel's features from {min(norms):.3g} "
            f"({least}) to {max(norms):.3g} ({most})"
        )

    def described(self) -> dict[str, object]:
        """For the JSON: the statistics of each layer."""
        return {one.path: one.statistics for one in self.layers}


def statistics(found: Tensor) -> dict[str, object]:
    """Numbers on a map, (C, H, W).

    Returns:
        ``channels``, ``height``, ``width``; of all values ``mean``, ``std`` (of the population) and
        ``mean_absolute``; ``norm``, the mean over pixels of the Euclidean norm of their feature
        vectors.
    """
    channels, height, width = found.shape
    values = found.double()
    return {
        "channels": channels,
        "height": height,
        "width": width,
        "mean": values.mean().item(),
        "std": values.std(correction=0).item(),
        "mean_absolute": values.abs().mean().item(),
        "norm": values.norm(dim=0).mean().item(),
    }


def principal_components(found: Tensor) -> tuple[Tensor, Tensor]:
    """The first principal components of the feature vectors of a map's pixels.

    The sign of each is such that the channel with the most weight has a positive one.

    Args:
        found: (C, H, W).

    Returns:
        (3, H, W), float64, zero where there are fewer channels; and (3,), the share of the variance
        in each.
    """
    vectors = found.flatten(1).double()
    vectors = vectors - vectors.mean(1, keepdim=True)
    variances, directions = torch.linalg.eigh(vectors @ vectors.T / vectors.shape[1])
    variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)
    count = min(_COMPONENTS, len(variances))
    directions = directions[:, :count]
    heaviest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    components = found.new_zeros((_COMPONENTS, *found.shape[1:]), dtype=torch.float64)
    components[:count] = ((directions * heaviest.sign()).T @ vectors).unflatten(1, found.shape[1:])
    shares = components.new_zeros(_COMPONENTS)
    shares[:count] = variances[:count] / variances.sum().clamp(min=1e-30)
    return components, shares


def features_of(path: str, found: Tensor) -> LayerFeatures:
    """The pictures and numbers of a map, (C, H, W)."""
    components, shares = principal_components(found)
    bounds = np.percentile(components.cpu().numpy(), (DARKEST, BRIGHTEST), axis=(1, 2))
    low, high = (bound[:, None, None] for bound in bounds)
    shown = (components.cpu().numpy() - low) / np.maximum(high - low, 1e-30)
    return LayerFeatures(
        path,
        found.abs().mean(0).float().cpu().numpy(),
        (shown.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0),
        {**statistics(found), "explained": shares.tolist()},
    )


def see(
    subject: Subject,
    layers: Sequence[str],
    image: Path,
    crop: int | None,
    advance: Callable[[float], object],
) -> Features:
    """The layers of a network for an image.

    Args:
        layers: their paths.
        image: a file, which the network takes as it is.
        crop: side of the central square of a larger image; None for the whole one.
        advance: is called after each layer.

    Raises:
        UserError: when the image cannot be read, or a layer puts out no map.
    """
    pixels = cropped(read_pixels(image), crop)
    found: list[LayerFeatures] = []

    def take(path: str, output: Tensor) -> None:
        found.append(features_of(path, output))
        advance(1)

    result = run(subject, to_tensor(pixels, subject), layers, take)[0]
    shown = (result.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Features(pixels, np.broadcast_to(shown, (*shown.shape[:2], 3)), tuple(found))
