"""Networks of which the result is known, in the place of weights from a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from esc_arch.checkpoints import loading


class Repeat(nn.Module):
    """Each pixel becomes r x r of its value."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)
        return x * self.one


class Lopsided(nn.Module):
    """Not the same under any flip or turn, nor in its channels."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        torch.manual_seed(1)
        nn.init.normal_(self.conv.weight, 0.05, 0.05)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.conv(x), 2)


@dataclass(frozen=True)
class Opened:
    network: nn.Module | Callable[[Tensor], Tensor]
    scale: int = 2
    name: str = "repeat x2"
    channels: int = 3
    metadata: Mapping[str, str] = field(default_factory=dict)
    path: Path = Path("repeat.safetensors")
    choice: str = ""
    any_scale: bool = False
    dtypes: frozenset[torch.dtype] = frozenset({torch.float32, torch.bfloat16})


def use(monkeypatch, network: nn.Module | None = None, **attributes: object) -> None:
    """Let all weights be those of a network."""
    opened = Opened(network or Repeat(), **attributes)
    monkeypatch.setattr(loading, "open_weights", lambda source: opened)


def photo(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """Something smooth with some noise, (H, W) for one channel."""
    rng = np.random.default_rng(height * width + channels)
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([np.sin(rows / (5 + c)) + np.cos(columns / (7 + c)) for c in range(channels)])
    image = (image + rng.normal(0, 0.05, image.shape)).clip(-2, 2) / 4 + 0.5
    image = np.moveaxis(image * np.iinfo(dtype).max, 0, -1).round().astype(dtype)
    return image[..., 0] if channels == 1 else image


def repeated(image: np.ndarray, scale: int = 2) -> np.ndarray:
    return image.repeat(scale, 0).repeat(scale, 1)
