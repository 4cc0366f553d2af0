"""ESC+LTE's head in its straightforward form: all queries at once, one neighbour after the other.

The interpolations are PyTorch's ``grid_sample``, the neighbours those of the paper's text.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHIFT = 1e-6


def centres(n: int, dtype: torch.dtype) -> Tensor:
    return (2 * torch.arange(n, dtype=dtype) + 1) / n - 1


def grid(*sizes: int, dtype: torch.dtype) -> Tensor:
    """Coordinates (h * w, 2) of the centres of the pixels, y first."""
    return torch.stack(
        torch.meshgrid(*(centres(n, dtype) for n in sizes), indexing="ij"), -1
    ).flatten(0, 1)


def sampled(maps: Tensor, coord: Tensor, mode: str) -> Tensor:
    """(B, C, H, W) at (B, Q, 2) -> (B, Q, C)."""
    padding = "border" if mode == "bilinear" else "zeros"
    y = F.grid_sample(maps, coord.flip(-1)[:, None], mode, padding, align_corners=False)
    return y[:, :, 0].transpose(1, 2)


def answers(network: nn.Module, x: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
    """(B, Q, 3) of coordinates and cells (B, Q, 2)."""
    x = (x - 0.5) / 0.5
    feat = network.encoder(x)
    coef, freq = network.coef(feat), network.freq(feat)
    sides = torch.tensor(feat.shape[2:], dtype=x.dtype)
    where = grid(*feat.shape[2:], dtype=x.dtype).T.view(1, 2, *feat.shape[2:])
    where = where.expand(len(x), -1, -1, -1)
    colours, areas = [], []
    for down in (-1, 1):
        for right in (-1, 1):
            near = coord + torch.tensor([down, right], dtype=x.dtype) / sides + SHIFT
            near = near.clamp(-1 + SHIFT, 1 - SHIFT)
            d = (coord - sampled(where, near, "nearest")) * sides
            waves = sampled(freq, near, "nearest").unflatten(-1, (-1, 2))
            f = (waves * d[..., None, :]).sum(-1) + network.phase(cell * sides)
            basis = torch.cat([(math.pi * f).cos(), (math.pi * f).sin()], -1)
            colours.append(network.imnet(sampled(coef, near, "nearest") * basis))
            areas.append((d[..., 0] * d[..., 1]).abs() + 1e-9)
    total = sum(areas)
    y = sum(c * (a / total)[..., None] for c, a in zip(colours, reversed(areas), strict=True))
    return (y + sampled(x, coord, "bilinear")) * 0.5 + 0.5


def enlarged(network: nn.Module, x: Tensor, size: tuple[int, int], seen: tuple = ()) -> Tensor:
    """(B, 3, *size); ``seen`` is the size that the cells are those of, if it is another."""
    coord = grid(*size, dtype=x.dtype).expand(len(x), -1, -1)
    cell = (2 / torch.tensor(seen or size, dtype=x.dtype)).expand_as(coord)
    return answers(network, x, coord, cell).transpose(1, 2).reshape(-1, 3, *size)
