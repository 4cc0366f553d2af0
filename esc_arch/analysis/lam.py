"""Local attribution maps: on which pixels of the LR image a window of the result depends.

Source: Gu and Dong, "Interpreting Super-Resolution Networks with Local Attribution Maps", CVPR
2021, with the numbers of its public code, X-Lowlevel-Vision/LAM_Demo.

Shapes: an LR image is (h, w, C), float32 in [0, 1]; the result is (B, C, H, W) with H = r h.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from esc_arch.analysis.layers import KEPT_PIXELS, recomputed
from esc_arch.analysis.subjects import Subject, shrunk, to_tensor
from esc_arch.errors import UserError
from esc_arch.progress import Progress

__all__ = [
    "FOLD",
    "Attributed",
    "Place",
    "Window",
    "attribute",
    "blur_path",
    "diffusion_index",
    "local_attribution",
    "means",
    "most_textured_window",
    "placed",
    "texture",
]

FOLD = 50  # steps of the path
_SIGMA, _SIDE = 1.2, 9  # of the strongest blur, and of its kernel, in LR pixels


class Window(NamedTuple):
    """A square of the result: column and row of its upper left pixel, and its side, in pixels."""

    x: int
    y: int
    size: int = 16


class Place(NamedTuple):
    """The part of an image that is analysed.

    Attributes:
        x, y: of its upper left pixel in the image.
        pixels: (H, W, 3), RGB, uint8.
        window: in this part.
    """

    x: int
    y: int
    pixels: np.ndarray
    window: Window

    def described(self) -> dict[str, object]:
        """For the JSON: both in pixels of the image."""
        height, width = self.pixels.shape[:2]
        x, y, size = self.window
        return {
            "crop": {"x": self.x, "y": self.y, "width": width, "height": height},
            "window": {"x": self.x + x, "y": self.y + y, "size": size},
        }


class Attributed(NamedTuple):
    """A network on an image.

    Attributes:
        subject: the network.
        lr: (h, w, 3), RGB, uint8.
        attribution: the map, (h, w); see :func:`local_attribution`.
        result: (r h, r w, 3), RGB, uint8.
    """

    subject: Subject
    lr: np.ndarray
    attribution: np.ndarray
    result: np.ndarray

    @property
    def diffusion_index(self) -> float:
        """See :func:`diffusion_index`."""
        return diffusion_index(self.attribution)

    @property
    def top(self) -> tuple[int, int]:
        """Row and column of the strongest pixel of the map."""
        row, column = np.unravel_index(self.attribution.argmax(), self.attribution.shape)
        return int(row), int(column)

    def key(self, image: str) -> str:
        """Of the map in a file of several.

        Args:
            image: its name.
        """
        return f"{image} {self.subject.label}"

    def described(self) -> dict[str, object]:
        """For the JSON."""
        row, column = self.top
        height, width = self.attribution.shape
        return {
            **self.subject.described(),
            "scale": self.subject.scale,
            "lr": {"width": width, "height": height},
            "diffusion_index": self.diffusion_index,
            "map_sum": float(self.attribution.sum(dtype=np.float64)),
            "strongest": {"row": row, "column": column},
        }

    def __str__(self) -> str:
        row, column = self.top
        height, width = self.attribution.shape
        return (
            f"{self.subject.label}: diffusion index {self.diffusion_index:.2f}, strongest pixel at "
            f"row {row}, column {column} of {width}x{height} LR pixels"
        )


def placed(
    name: str,
    pixels: np.ndarray,
    corner: tuple[int, int] | None,
    size: int,
    crop: int,
    multiple: int,
) -> Place:
    """The part of an image about a window.

    Args:
        name: of the image, for messages.
        pixels: (H, W, 3); rows and columns beyond a multiple are cut off first.
        corner: column and row of the window in the image; None for the one of most texture.
        size: of the window.
        crop: side of the part, in pixels; it is as much of the image as there is.
        multiple: the sides of the part are multiples of it.

    Raises:
        UserError: when the image is too small, or the window is not within it, with a pixel more
            to the right and below.
    """
    height, width = (side // multiple * multiple for side in pixels.shape[:2])
    pixels = pixels[:height, :width]
    part = crop // multiple * multiple
    rows, columns = min(part, height), min(part, width)
    least = -(-(size + 1) // multiple) * multiple
    if min(rows, columns) < least:
        raise UserError(
            f"{name}: expected sides of at least {least} pixels, once they are cropped to a "
            f"multiple of {multiple} and to --crop {crop}; found {columns} x {rows}. Name a larger "
            "image, a larger --crop or a smaller window."
        )
    if corner is None:
        corner = most_textured_window(pixels, size)[:2]
    elif corner[0] + size >= width or corner[1] + size >= height:
        raise UserError(
            f"--window {corner[0]} {corner[1]}: expected X up to {width - size - 1} and Y up to "
            f"{height - size - 1}, for a window of {size} in {name} of {width} x {height} pixels; "
            "found more. Name another window."
        )
    x = min(max(0, corner[0] - (columns - size) // 2), width - columns)
    y = min(max(0, corner[1] - (rows - size) // 2), height - rows)
    window = Window(corner[0] - x, corner[1] - y, size)
    return Place(x, y, pixels[y : y + rows, x : x + columns].copy(), window)


def attribute(subject: Subject, place: Place, advance: Progress | None = None) -> Attributed:
    """The local attribution map of a network.

    Args:
        advance: see :func:`local_attribution`.

    Raises:
        UserError: as :func:`local_attribution`, and when the result is not finite.
    """
    lr = shrunk(place.pixels, subject.scale)
    image = to_tensor(lr, subject)
    # Not in inference mode: what a network keeps for the next call could have no gradients.
    with torch.no_grad():
        result = subject.network(image)[0].permute(1, 2, 0).cpu()
    if not result.isfinite().all():
        raise UserError(
            f"{subject.label}: expected a result of finite values; found others. Train or convert "
            "it again."
        )
    planes = image[0].permute(1, 2, 0).cpu().numpy()
    try:
        with recomputed(subject, image.shape[2] * image.shape[3]):
            found = local_attribution(subject.network, planes, place.window, image.device, advance)
    except UserError as error:
        raise UserError(f"{subject.label}: {error}") from None
    rounded = (result.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    if subject.channels == 1:
        rounded = rounded.repeat(3, -1)
    return Attributed(subject, lr, found, rounded)


def means(found: Sequence[Sequence[Attributed]]) -> dict[str, float]:
    """The mean diffusion index of each network, by its label.

    Args:
        found: of each image, those of all networks in one order.
    """
    return {
        of_network[0].subject.label: sum(one.diffusion_index for one in of_network) / len(found)
        for of_network in zip(*found, strict=True)
    }


def blur_path(lr: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The path from a blurred image to the image itself, by 50 Gaussian blurs that weaken.

    Args:
        lr: (h, w, C).

    Yields:
        The image of a step and the path's derivative there, each as ``lr``.  Beyond the borders
        the image is mirrored, without its border pixels twice.
    """
    kernels = [_gaussian(sigma) for sigma in np.linspace(_SIGMA, 0, FOLD + 1)]
    for before, kernel in itertools.pairwise(kernels):
        yield _filtered(lr, kernel), _filtered(lr, (kernel - before) * FOLD)


def _gaussian(sigma: float) -> np.ndarray:
    """A kernel, (9, 9), of sum 1; of sigma 0 the one that changes nothing."""
    place = np.arange(_SIDE) - _SIDE // 2
    squares = place[:, None] ** 2 + place**2
    kernel: np.ndarray = np.exp(-squares / (2 * (sigma + 1e-5) ** 2))
    return kernel / kernel.sum()


def _filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    filtered = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return filtered.reshape(image.shape)  # OpenCV drops a single channel


def texture(result: Tensor, window: Window) -> Tensor:
    """The quantity that is attributed: the gradient's length, summed over channels and window.

    The gradient is that of forward differences, so that a pixel's lower and right neighbours
    count.

    Args:
        result: (B, C, H, W).

    Returns:
        A scalar: the sum over the batch.
    """
    part = result[..., window.y : window.y + window.size + 1, window.x : window.x + window.size + 1]
    here, below, right = part[..., :-1, :-1], part[..., 1:, :-1], part[..., :-1, 1:]
    return ((here - below) ** 2 + (here - right) ** 2).sqrt().sum()


def local_attribution(
    network: Callable[[Tensor], Tensor],
    lr: np.ndarray,
    window: Window,
    device: str | torch.device = "cpu",
    advance: Progress | None = None,
) -> np.ndarray:
    """The map: path integral of the texture's gradient with respect to the LR image.

    Memory is that of one step, forwards and backwards, of 64 x 64 pixels, or of a larger image.

    Args:
        network: (B, C, h, w) -> (B, C, r h, r w), differentiable; its noise is that of seed 0.
        lr: (h, w, C).
        window: within the result, with one more pixel below and to the right of it.
        device: the network's.
        advance: counts the steps, 50.

    Returns:
        (h, w), float32: absolute values of the sum over channels, the largest of them 1.

    Raises:
        UserError: when the network gives no gradients, or the texture depends on no pixel.
    """
    height, width = lr.shape[:2]
    # Steps of small images go through the network at once; of more pixels that is hardly faster.
    together = max(1, KEPT_PIXELS // (height * width))
    path = blur_path(np.ascontiguousarray(lr, np.float32))
    total = np.zeros(lr.shape)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        while steps := list(itertools.islice(path, together)):
            images, derivatives = map(np.stack, zip(*steps, strict=True))
            x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
            result = network(x.requires_grad_())
            if not result.requires_grad:
                raise UserError(
                    "expected a network whose result has gradients; found one without. Name a "
                    "checkpoint that PyTorch computes."
                )
            (gradient,) = torch.autograd.grad(texture(result, window), x)
            # Two neighbours of the same value: the length of their gradient has no derivative.
            gradient[gradient.isnan()] = 0
            total += (gradient.permute(0, 2, 3, 1).cpu().numpy() * derivatives).sum(0)
            if advance is not None:
                advance(len(images))
    found = np.abs(total.sum(-1) / FOLD)
    if not 0 < found.max() < math.inf:
        raise UserError(
            "expected a window whose texture depends on the image; found gradients of "
            f"{found.max():g}, as of a flat area. Name another --window."
        )
    return (found / found.max()).astype(np.float32)


def diffusion_index(attribution: np.ndarray) -> float:
    """How far a map is spread: 0 for a single pixel, 100 for all pixels alike.

    (1 - Gini) 100, with the Gini coefficient of all values plus 1e-7.

    Args:
        attribution: of any shape, not negative.
    """
    values = np.sort(attribution.astype(np.float64).ravel()) + 1e-7
    n = len(values)
    gini = ((2 * np.arange(1, n + 1) - n - 1) * values).sum() / (n * values.sum())
    return float((1 - gini) * 100)


def most_textured_window(image: np.ndarray, size: int = Window._field_defaults["size"]) -> Window:
    """The window in which an image has the most texture, as :func:`texture` measures it.

    Args:
        image: (H, W, C), with sides beyond ``size``; of equal windows the first one, row by row,
            is taken.
        size: of the window.
    """
    values = image.astype(np.float64)
    here, below, right = values[:-1, :-1], values[1:, :-1], values[:-1, 1:]
    length = np.sqrt((here - below) ** 2 + (here - right) ** 2).sum(-1)
    total = cv2.integral(length)
    sums = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    y, x = np.unravel_index(sums.argmax(), sums.shape)
    return Window(int(x), int(y), size)
