"""How much the layers of a network resemble each other: linear CKA, cosines, attention maps.

The samples of CKA are patches of the maps that layers put out; those of ``batch`` images make one
minibatch.  Of each image ``samples`` patches are drawn, the same ones in every layer; a patch of
``patch`` x ``patch`` pixels of C channels is a vector of patch * patch * C numbers.  With
``patch`` 1, the default, a sample is the feature vector of a pixel; with the side of a window it
is the output of the attention in it; with the side of the images and a batch of many, it is an
image, as where CKA compares classifiers.

Shapes: n samples, C channels, H x W pixels of a map, L layers, D numbers of a sample.

Source: CKA: Kornblith, arXiv 1905.00414; in minibatches, averaged before the ratio: Nguyen,
arXiv 2010.15327.  ESC, arXiv 2503.06671, looks at neighbouring layers of SwinIR-light by both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esc_arch.analysis.attention_maps import MapMeans, watched
from esc_arch.analysis.layers import kind_of_layer, run
from esc_arch.analysis.subjects import Subject, cropped, read_pixels, to_tensor
from esc_arch.errors import UserError, listed

__all__ = [
    "Measurement",
    "Sampling",
    "Similarity",
    "Sums",
    "compare_layers",
    "drawn",
    "hsic",
    "reduced",
]

LEAST = 4  # samples: the estimate divides by n - 3


@dataclass(frozen=True)
class Sampling:
    """Which patches of a map are samples.

    Attributes:
        samples: of an image, at most.
        patch: side of one in pixels.
        batch: images of a minibatch.
        seed: of the draw.
    """

    samples: int = 1024
    patch: int = 1
    batch: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: when there are fewer than four samples in a minibatch.
        """
        if self.samples * self.batch < LEAST:
            raise UserError(
                f"--samples: expected at least {LEAST} of a minibatch, of which the estimate is "
                f"made; found {self.samples} of {self.batch} images."
            )

    def described(self) -> dict[str, object]:
        """For the JSON: in words, too, as one cannot tell from the numbers."""
        return {
            "what": f"at most {self.samples} patches of {self.patch}x{self.patch} pixels of each "
            f"image's maps, the same in every layer; {self.batch} images are a minibatch",
            "samples": self.samples,
            "patch": self.patch,
            "batch": self.batch,
            "seed": self.seed,
            "cka": "linear; unbiased HSIC averaged over minibatches before the ratio",
            "cosine": "of the feature vectors of the patches' central pixels, averaged",
            "maps": "cosine between attention maps averaged over images, windows and heads",
        }


@dataclass(frozen=True)
class Similarity:
    """
    Attributes:
        layers: paths, in the order in which they compute.
        cka: (L, L); not a number where an estimate of variance is not above 0.
        cosine: (L, L), the mean over pixels of the cosine between two layers' feature vectors;
            not a number where they have other numbers of channels.
        maps: (L, L), the cosine between attention maps averaged over images, windows and heads;
            not a number where a layer has none, or where they have other shapes.
        samples: in all.
        minibatches: whole ones; a last one of fewer images counts where it is the only one.
        map_shapes: queries and keys of the attention maps of each layer that has some.
    """

    layers: tuple[str, ...]
    cka: np.ndarray
    cosine: np.ndarray
    maps: np.ndarray
    samples: int
    minibatches: int
    map_shapes: Mapping[str, object]

    def measures(self) -> dict[str, np.ndarray]:
        """The three by name."""
        return {"cka": self.cka, "cosine": self.cosine, "maps": self.maps}

    def neighbours(self) -> dict[str, float]:
        """The mean of each over layers that compute one after the other; of maps, over the layers
        that have some."""
        return {
            name: _mean(matrix, list(pairwise(np.flatnonzero(np.isfinite(matrix.diagonal())))))
            for name, matrix in self.measures().items()
        }

    def line(self) -> str:
        """The means in a line of text."""
        near = self.neighbours()
        maps = f"attention maps {near['maps']:.3f}" if np.isfinite(near["maps"]) else "no maps"
        return (
            f"neighbours of {len(self.layers)} layers: CKA {near['cka']:.3f}, cosine "
            f"{near['cosine']:.3f}, {maps}; {self.samples} samples"
        )

    def kinds(self) -> list[dict[str, object]]:
        """The mean over all pairs of two layers of each two kinds, as
        ``blocks.*.attn``; not of a layer and itself."""
        kinds = [kind_of_layer(path) for path in self.layers]
        found: dict[tuple[str, str], list[tuple[int, int]]] = {}
        order = list(dict.fromkeys(kinds))
        for i, j in combinations(range(len(kinds)), 2):
            pair = sorted((kinds[i], kinds[j]), key=order.index)
            found.setdefault((pair[0], pair[1]), []).append((i, j))
        return [
            {
                "layers": list(pair),
                "pairs": len(places),
                **{name: _mean(matrix, places) for name, matrix in self.measures().items()},
            }
            for pair, places in found.items()
        ]

    def described(self) -> dict[str, object]:
        """For the JSON."""
        return {
            "layers": list(self.layers),
            "samples": self.samples,
            "minibatches": self.minibatches,
            "map_shapes": dict(self.map_shapes),
            "neighbours": self.neighbours(),
            "kinds": self.kinds(),
            **{name: matrix.tolist() for name, matrix in self.measures().items()},
        }


def _mean(matrix: np.ndarray, places: Sequence[tuple[int, int]]) -> float:
    """Over those places that hold numbers; not a number where none does."""
    values = np.array([matrix[place] for place in places])
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def hsic(layers: Sequence[Tensor]) -> np.ndarray:
    """The unbiased estimate of HSIC with linear kernels, of every pair of layers.

    With ``K = X X'`` and ``L = Y Y'``, their diagonals set to zero,
    ``HSIC_1 = [tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n(n-3))``.
    The estimate stays the same when the means of the columns are taken from X and Y.  Then the rows
    of ``X X'`` add up to zero, those of K to ``-d``, the squared lengths of the samples, and with e
    those of Y: ``tr(KL) = |X'Y|^2 - d'e``, ``1'KL1 = d'e``, ``1'K1 = -1'd``.  No n x n matrix is
    made.

    Args:
        layers: (n, D) of each, the same n samples, at least 4; D may differ.

    Returns:
        (L, L), float64.
    """
    n = len(layers[0])
    centred = [x.double() - x.double().mean(0) for x in layers]
    lengths = torch.stack([(x * x).sum(1) for x in centred])
    products = lengths @ lengths.T
    totals = lengths.sum(1)
    squares = products.new_zeros(products.shape)
    for i, x in enumerate(centred):
        for j in range(i, len(centred)):
            squares[i, j] = squares[j, i] = (x.T @ centred[j]).square().sum()
    found = squares - products + totals.outer(totals) / ((n - 1) * (n - 2))
    return ((found - 2 / (n - 2) * products) / (n * (n - 3))).cpu().numpy()


def reduced(x: Tensor) -> Tensor:
    """Samples with at most n numbers each that have the same products: R' of ``X' = QR``.

    Shape: (n, D) -> (n, min(n, D)), float64.
    """
    x = x.double()
    return torch.linalg.qr(x.T, mode="r").R.T if x.shape[1] > x.shape[0] else x


class Sums:
    """Sums over minibatches of what CKA and the cosine are made of."""

    def __init__(self) -> None:
        self.samples = self.minibatches = 0
        self._hsic: np.ndarray | float = 0.0
        self._cosines: np.ndarray | float = 0.0

    def add(self, samples: Sequence[Tensor], pixels: Sequence[Tensor]) -> None:
        """Add a minibatch.

        Args:
            samples: (n, D) of each layer, for CKA.
            pixels: (n, C) of each layer, for the cosine.
        """
        n = len(samples[0])
        self.samples += n
        self.minibatches += 1
        self._hsic = self._hsic + hsic(samples)
        units = [torch.nn.functional.normalize(x.double(), dim=1) for x in pixels]
        cosines = np.full((len(units),) * 2, np.nan)
        for i, x in enumerate(units):
            for j in range(i, len(units)):
                if x.shape == units[j].shape:
                    cosines[i, j] = cosines[j, i] = (x * units[j]).sum().item()
        self._cosines = self._cosines + cosines

    def cka(self) -> np.ndarray:
        """(L, L): the ratio of the means over minibatches."""
        found = np.asarray(self._hsic)
        own = np.diagonal(found).copy()
        own[own <= 0] = np.nan
        return found / np.sqrt(np.outer(own, own))

    def cosine(self) -> np.ndarray:
        """(L, L): the mean over all samples."""
        return np.asarray(self._cosines) / self.samples


def drawn(height: int, width: int, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Top and left of the samples of a map: drawn from its whole patches that do not overlap.

    Returns:
        Two of (n,), int64; all patches, in order, when there are no more.
    """
    rows, columns = height // sampling.patch, width // sampling.patch
    count = rows * columns
    if count > sampling.samples:
        generator = torch.Generator().manual_seed(sampling.seed)
        places = torch.randperm(count, generator=generator)[: sampling.samples]
    else:
        places = torch.arange(count)
    return places // max(columns, 1) * sampling.patch, places % max(columns, 1) * sampling.patch


def samples_of(found: Tensor, top: Tensor, left: Tensor, patch: int) -> Tensor:
    """Patches of a map as vectors, (C, H, W) -> (n, C * patch * patch)."""
    side = torch.arange(patch, device=found.device)
    y = top.to(found.device)[:, None, None] + side[:, None]
    x = left.to(found.device)[:, None, None] + side
    return found[:, y, x].movedim(0, 1).flatten(1)


class Measurement:
    """Layers of a network, compared over images one after the other.

    Kept are the samples of the maps of a minibatch, of all together two numbers for each pair of
    layers, and of each layer one attention map.

    Args:
        subject: the network.
        layers: paths of two or more.
        sampling: see there.

    Raises:
        UserError: when there is one layer alone.
    """

    def __init__(self, subject: Subject, layers: Sequence[str], sampling: Sampling) -> None:
        if len(layers) < 2:
            raise UserError(
                f"--layers: expected two layers of {subject.label} or more, to compare; found "
                f"{listed(layers) or 'none'}. Add others."
            )
        self._subject, self._layers, self._sampling = subject, layers, sampling
        self._order: list[str] = []
        # Of the images of a minibatch: samples and pixels of each layer.
        self._waiting: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self._sums, self._maps = Sums(), MapMeans()

    def add(self, image: Tensor, name: str) -> None:
        """Run the network on an image.

        Args:
            image: (1, C, H, W).
            name: of the image, for errors.

        Raises:
            UserError: when it is too small, or when a layer cannot be compared.
        """
        size: list[int] = []
        places: list[Tensor] = []
        patch, batch = self._sampling.patch, self._sampling.batch
        least = -(-LEAST // batch)
        samples: dict[str, Tensor] = {}
        pixels: dict[str, Tensor] = {}

        def take(path: str, found: Tensor) -> None:
            # What a frame adds to an image is no part of it.
            height, width = found.shape[1:]
            if height >= image.shape[2] and width >= image.shape[3]:
                height, width = image.shape[2:]
            if not places:
                size[:] = height, width
                places[:] = drawn(height, width, self._sampling)
                if len(places[0]) < least:
                    raise UserError(
                        f"{name}: expected a map with at least {least} patches of {patch} pixels a "
                        f"side; found one of {width}x{height} pixels. Name a larger image, or a "
                        "smaller --patch."
                    )
            elif size != [height, width]:
                raise UserError(
                    f"--layers {path}: expected a map of {size[1]}x{size[0]} pixels, as "
                    f"{next(iter(samples))} has; found {width}x{height}. Compare layers of "
                    "one size."
                )
            top, left = places
            of_image = samples_of(found, top, left, patch)
            # Of several images, what samples have in common is known when all are there.
            samples[path] = of_image if batch > 1 else reduced(of_image)
            pixels[path] = samples_of(found, top + patch // 2, left + patch // 2, 1)

        with watched(self._subject, self._layers, self._maps.add):
            run(self._subject, image, self._layers, take)
        self._order = self._order or list(samples)
        self._waiting.append((samples, pixels))
        if len(self._waiting) == batch:
            self._add_minibatch()

    def _add_minibatch(self) -> None:
        samples, pixels = (
            [torch.cat([image[kind][path] for image in self._waiting]) for path in self._order]
            for kind in (0, 1)
        )
        self._waiting = []
        self._sums.add([reduced(x) for x in samples], pixels)

    def result(self) -> Similarity:
        """Of all images so far, one at least.

        Raises:
            UserError: when they have fewer than four samples.
        """
        if not self._sums.minibatches:
            count = sum(len(next(iter(samples.values()))) for samples, _ in self._waiting)
            if count < LEAST:
                raise UserError(
                    f"--batch: expected at least {LEAST} samples; found {count} of "
                    f"{len(self._waiting)} images. Name more images, or a smaller --patch."
                )
            self._add_minibatch()
        maps = [[self._maps.cosine(a, b) for b in self._order] for a in self._order]
        return Similarity(
            tuple(self._order),
            self._sums.cka(),
            self._sums.cosine(),
            np.array(maps),
            self._sums.samples,
            self._sums.minibatches,
            {path: [list(s) for s in shapes] for path, shapes in self._maps.shapes().items()},
        )


def compare_layers(
    subjects: Sequence[Subject],
    layers: Sequence[Sequence[str]],
    images: Sequence[Path],
    crop: int | None,
    sampling: Sampling,
    advance: Callable[[float], object],
) -> dict[str, Similarity]:
    """The layers of each network over images.

    Args:
        layers: of each network, their paths.
        images: files, which networks take as they are.
        crop: side of the central square of larger images; None for whole ones.
        advance: is called after each image of each network.

    Returns:
        By the networks' labels.

    Raises:
        UserError: as :class:`Measurement`, and when an image cannot be read.
    """
    every = [Measurement(s, own, sampling) for s, own in zip(subjects, layers, strict=True)]
    for path in images:
        pixels = cropped(read_pixels(path), crop)
        for subject, measurement in zip(subjects, every, strict=True):
            measurement.add(to_tensor(pixels, subject), str(path))
            advance(1)
    return {s.label: m.result() for s, m in zip(subjects, every, strict=True)}
