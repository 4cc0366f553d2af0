"""Local attribution maps: on which pixels of the LR image a window of the result depends.

Source: Gu and Dong, "Interpreting Super-Resolution Networks with Local Attribution Maps", CVPR
2021, with the numbers of its public code, X-Lowlevel-Vision/LAM_Demo.

Shapes: an LR image is (h, w, C), float32 in [0, 1]; the result is (B, C, H, W) with H = r h.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from esc_arch.errors import UserError
from esc_arch.progress import Progress

__all__ = [
    "FOLD",
    "Window",
    "blur_path",
    "diffusion_index",
    "local_attribution",
    "most_textured_window",
    "texture",
]

FOLD = 50  # steps of the path
_SIGMA, _SIDE = 1.2, 9  # of the strongest blur, and of its kernel, in LR pixels
# Steps of small images go through the network together: more pixels are hardly faster, and take
# memory.
_BATCH_PIXELS = 64 * 64


class Window(NamedTuple):
    """A square of the result: column and row of its upper left pixel, and its side, in pixels."""

    x: int
    y: int
    size: int = 16


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

    Memory is that of one step, forwards and backwards, of 64 x 64 LR pixels or of this image.

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
    together = max(1, _BATCH_PIXELS // (height * width))
    path = list(blur_path(np.ascontiguousarray(lr, np.float32)))
    total = np.zeros(lr.shape)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        for start in range(0, FOLD, together):
            images, derivatives = map(np.stack, zip(*path[start : start + together], strict=True))
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
            f"window {window.x} {window.y} {window.size}: expected a window whose texture depends "
            f"on the image; found gradients of {found.max():g}, as of a flat area. Name another "
            "window."
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
