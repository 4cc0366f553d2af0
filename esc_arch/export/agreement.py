"""Comparing an exported network with PyTorch before its file gets its name.

Shapes: B images, C channels, H x W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log10

import torch
from torch import Tensor, nn

from esc_arch.errors import UserError
from esc_arch.progress import progress

__all__ = ["Agreement", "compare", "sizes"]

# Largest difference in float32, in units of the output's largest value, at least of 1: sums are
# taken in another order.  Weights of published networks stay below 1e-5.
FLOAT32_TOLERANCE = 1e-4
# Least PSNR of float16 in dB.  A level of an image of 8 bits is off in one of thousands of pixels.
FLOAT16_PSNR_DB = 50.0


@dataclass(frozen=True)
class Agreement:
    """How an exported network compares with PyTorch in float32.

    Attributes:
        shape: of the image, (B, C, H, W).
        difference: largest absolute one.
        psnr_db: with the largest absolute value of the output, at least 1, as its peak.
    """

    shape: tuple[int, int, int, int]
    difference: float
    psnr_db: float

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"{size}: max abs difference {self.difference:.1e}, PSNR {self.psnr_db:.1f} dB"


def sizes(window: int, channels: int, least: int = 1) -> tuple[tuple[int, int, int, int], ...]:
    """Shapes to compare: part of a window; more than one, not in whole windows; two images.

    Args:
        window: side of the network's attention windows in pixels.
        channels: C.
        least: the smallest side of the exported network's images, in pixels.
    """
    return (
        (1, channels, least, max(window // 2 - 1, least)),
        (1, channels, window + 5, window + window // 2 + 3),
        (2, channels, window, window + 1),
    )


def compare(
    network: nn.Module,
    exported: Callable[..., Tensor],
    shapes: tuple[tuple[int, int, int, int], ...],
    precision: str,
    name: str,
) -> list[Agreement]:
    """Run both on the same random images.

    Args:
        network: in float32 on the CPU.
        exported: from float32 to float32; of a network for any scale, with the argument ``size``.
        shapes: of the images.
        precision: ``float32`` or ``float16``, which decides the tolerance.
        name: of the file, for the error.

    Raises:
        UserError: when a result has another size, or differs by more than is allowed.
    """
    generator = torch.Generator().manual_seed(0)
    agreements = []
    with progress("comparing with PyTorch", len(shapes), "sizes") as advance:
        for shape in shapes:
            image = torch.rand(shape, generator=generator)
            with torch.no_grad():
                size = _size_of(network, shape)
                expected = network(image, **size).double()
            found = exported(image, **size).double()
            if found.shape != expected.shape:
                raise UserError(
                    f"{name}: expected {tuple(expected.shape)} of an image {shape}; the exported "
                    f"network gave {tuple(found.shape)}. Nothing was kept."
                )
            error = (found - expected).abs()
            mean_square = error.square().mean().item()
            peak = max(1.0, expected.abs().max().item())
            psnr_db = 10 * log10(peak**2 / mean_square) if mean_square else inf
            agreements.append(Agreement(shape, error.max().item(), psnr_db))
            _require_near(agreements[-1], peak, precision, name)
            advance(1)
    return agreements


def _size_of(network: nn.Module, shape: tuple[int, int, int, int]) -> dict[str, tuple[int, int]]:
    """The size to ask a network for any scale for: of another scale along each side."""
    height, width = shape[2:]
    return (
        {"size": (round(2.7 * height), 3 * width + 1)}
        if getattr(network, "any_scale", False)
        else {}
    )


def _require_near(agreement: Agreement, peak: float, precision: str, name: str) -> None:
    # Written such that NaN is refused.
    if precision == "float32":
        bound = FLOAT32_TOLERANCE * peak
        near, wanted = agreement.difference <= bound, f"a difference of at most {bound:.1e}"
    else:
        near, wanted = agreement.psnr_db >= FLOAT16_PSNR_DB, f"{FLOAT16_PSNR_DB} dB"
    if not near:
        advice = "" if precision == "float32" else " Export it with --dtype fp32."
        raise UserError(
            f"{name}: expected {wanted} to PyTorch's float32; found at {agreement}. Nothing was "
            f"kept.{advice}"
        )
