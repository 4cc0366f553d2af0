"""Effective receptive field: on which pixels of the image the centre of an output depends.

Source: two public codes, whose fields have other areas.

    replknet   DingXiaoH/RepLKNet-pytorch, erf/: the positive outputs count; images by bicubic
    sr         csguoh/MambaIR, analysis/erf.py, for super-resolution: all outputs count; images by
               nearest neighbour

Both keep the positive gradients alone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from esc_arch.analysis.layers import recomputed, run
from esc_arch.analysis.subjects import Subject, read_pixels, to_tensor
from esc_arch.errors import UserError
from esc_arch.progress import Progress

__all__ = [
    "CONVENTIONS",
    "SHARES",
    "Area",
    "ReceptiveField",
    "areas",
    "central_gradient",
    "drawn",
    "fields_of",
    "receptive_fields",
    "resized",
]

CONVENTIONS = ("sr", "replknet")
SHARES = (0.2, 0.3, 0.5, 0.99)  # of the whole contribution, in RepLKNet's table


class ReceptiveField(NamedTuple):
    """
    Attributes:
        contribution: (n, n), float64: the mean of :func:`central_gradient` over images.
        images: how many it is the mean of.
        left_out: how many had gradients that are not numbers.
    """

    contribution: np.ndarray
    images: int
    left_out: int

    def described(self) -> dict[str, object]:
        """For the JSON."""
        return {
            "images": self.images,
            "left_out": self.left_out,
            "largest": float(self.contribution.max()),
            "areas": [area._asdict() for area in areas(self.contribution)],
        }

    def __str__(self) -> str:
        table = ", ".join(f"{area.share:.0%} in {area}" for area in areas(self.contribution))
        left_out = f", {self.left_out} left out" if self.left_out else ""
        return f"{table}; mean of {self.images} images{left_out}"


class Area(NamedTuple):
    """The smallest square about the centre that has more than a share of the contribution.

    Attributes:
        share: of the sum.
        side: in pixels, from 3; None where the largest square, of side 2 (n // 2) - 1, has less.
        ratio: of its area to the image's.
    """

    share: float
    side: int | None
    ratio: float | None

    def __str__(self) -> str:
        if self.side is None or self.ratio is None:
            return "more than the largest square"
        return f"{self.side}x{self.side} ({self.ratio:.1%})"


def resized(pixels: np.ndarray, size: int, convention: str) -> np.ndarray:
    """An image as the convention takes it.

    Args:
        pixels: (H, W, 3), uint8.

    Returns:
        (size, size, 3), uint8.
    """
    if convention == "sr":
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        return F.interpolate(planes, (size, size))[0].permute(1, 2, 0).numpy()
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def central_gradient(output: Tensor, images: Tensor, convention: str) -> np.ndarray:
    """The gradient of the output's central pixel with respect to the images.

    Args:
        output: (D, H, W) or (B, D, H, W), computed from the images, whose graph is kept; its
            centre is at H // 2, W // 2.
        images: (B, C, h, w), with ``requires_grad``.

    Returns:
        (h, w), float64: the positive gradients' sum over batch and channels.

    Raises:
        UserError: when the output has no gradients.
    """
    if not output.requires_grad:
        raise UserError(
            "expected an output with gradients; found one without. Name a checkpoint that PyTorch "
            "computes."
        )
    centre = output[..., output.shape[-2] // 2, output.shape[-1] // 2]
    centre = centre.relu() if convention == "replknet" else centre
    (gradient,) = torch.autograd.grad(centre.sum(), images, retain_graph=True)
    return gradient.relu().sum((0, 1)).cpu().numpy().astype(np.float64)


def receptive_fields(
    outputs_of: Callable[[Tensor], Mapping[str, Tensor]],
    images: Iterable[Tensor],
    convention: str,
    advance: Progress | None = None,
) -> dict[str, ReceptiveField]:
    """The mean of the central gradients of images, one at a time, of each of several outputs.

    Args:
        outputs_of: from an image that has ``requires_grad`` to outputs as
            :func:`central_gradient` takes them, by name: of a network or of its layers.
        images: (1, C, n, n), all of one size.
        advance: counts the images.

    Raises:
        UserError: when an output has no gradients, or they are zero.
    """
    totals: dict[str, np.ndarray] = {}
    counts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for image in images:
        with torch.enable_grad():
            outputs = outputs_of(image.requires_grad_())
            for name, output in outputs.items():
                gradient = central_gradient(output, image, convention)
                totals.setdefault(name, np.zeros_like(gradient))
                if np.isnan(gradient).any():
                    left_out[name] += 1
                else:
                    totals[name] += gradient
                    counts[name] += 1
            del outputs  # with its graph, before that of the next image
        if advance is not None:
            advance(1)
    for name, total in totals.items():
        if not total.any():
            found = "zero" if counts[name] else "no number"
            raise UserError(
                f"{name or 'result'}: expected an output whose centre depends on the image; found "
                f"a gradient of {found}. Name another layer or other images."
            )
    return {
        name: ReceptiveField(total / counts[name], counts[name], left_out[name])
        for name, total in totals.items()
    }


def fields_of(
    subject: Subject,
    layers: Sequence[str],
    paths: Sequence[Path],
    size: int,
    convention: str,
    advance: Progress | None = None,
) -> dict[str, ReceptiveField]:
    """The receptive fields of layers of a network, or of its result.

    Args:
        layers: paths; none for the result.
        paths: of images.
        size: of the square that each becomes.
        advance: counts the images.

    Returns:
        By the layer, in the order in which they compute; by "" of the result.

    Raises:
        UserError: as :func:`receptive_fields` and :func:`esc_arch.analysis.layers.run`.
    """

    def images() -> Iterator[Tensor]:
        for path in paths:
            yield to_tensor(resized(read_pixels(path), size, convention), subject)

    def outputs_of(image: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def take(layer: str, output: Tensor) -> None:
            # Below and to the right of the image's own lies what was added to make whole windows.
            is_padded = size < min(output.shape[1:]) and max(output.shape[1:]) < 2 * size
            found[layer] = output[:, :size, :size] if is_padded else output

        result = run(subject, image, layers, take, gradients=True)
        return found if layers else {"": result}

    try:
        with nullcontext() if layers else recomputed(subject, size * size):
            return receptive_fields(outputs_of, images(), convention, advance)
    except UserError as error:
        raise UserError(f"{subject.label}: {error}") from None


def drawn(contribution: np.ndarray, convention: str) -> np.ndarray:
    """A contribution as the public code draws it, between 0 and 1."""
    values: np.ndarray = (
        np.log10(contribution + 1) if convention == "replknet" else contribution**0.25
    )
    return values / values.max()


def areas(contribution: np.ndarray) -> list[Area]:
    """RepLKNet's table, of ``log10(contribution + 1)``.

    Args:
        contribution: (n, n); its centre is at n // 2.
    """
    values = np.log10(contribution + 1)
    n, centre = len(values), len(values) // 2

    def share_of(reach: int) -> float:
        rows = slice(centre - reach, centre + reach + 1)
        return float(values[rows, rows].sum() / values.sum())

    table = []
    for share in SHARES:
        reaches = (reach for reach in range(1, centre) if share_of(reach) > share)
        reach = next(reaches, None)
        side = None if reach is None else 2 * reach + 1
        table.append(Area(share, side, None if side is None else (side / n) ** 2))
    return table
