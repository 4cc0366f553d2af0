"""Networks and images of an analysis, as its command line names them.

Shapes: B images, C channels (RGB, or 1 of a network of grey images), H x W pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from esc_arch.archs.presets import PRESETS, build
from esc_arch.archs.whole_windows import WholeWindows
from esc_arch.checkpoints.loading import open_weights
from esc_arch.checkpoints.spandrel_networks import SpandrelNetwork
from esc_arch.errors import UserError, listed, starred
from esc_arch.imaging.alpha import on_white
from esc_arch.imaging.codecs import SUFFIXES, find_images, read_image

__all__ = [
    "Subject",
    "cropped",
    "find_inputs",
    "image_names",
    "open_subject",
    "open_subjects",
    "read_pixels",
    "shrunk",
    "to_tensor",
]

_INITIAL = "initial weights"


@dataclass(frozen=True)
class Subject:
    """A network that is analysed.

    Attributes:
        label: names it in pictures and in lines of text, different for each of a command's.
        name: such as ``esc_light x2``.
        weights: file, address or name as it was given; ``initial weights`` of a preset.
        network: (B, C, H, W) in [0, 1] -> (B, C, rH, rW); float32, in evaluation mode, without
            gradients of its parameters.
        scale: r.
        channels: C.
    """

    label: str
    name: str
    weights: str
    network: nn.Module
    scale: int
    channels: int

    @property
    def inner(self) -> nn.Module:
        """The network as its paper names its modules, without a frame that extends images."""
        network = self.network
        if isinstance(network, WholeWindows):
            network = network.network
        return network.model if isinstance(network, SpandrelNetwork) else network

    def described(self) -> dict[str, object]:
        """For the JSON of an analysis."""
        return {"network": self.name, "weights": self.weights, "label": self.label}


def open_subjects(sources: Sequence[str], device: str) -> list[Subject]:
    """Networks, in the order in which they are named.

    Args:
        sources: see :func:`open_subject`.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: as :func:`open_subject`.
    """
    opened = [open_subject(source, device) for source in dict.fromkeys(sources)]
    # Sizes stand in brackets behind the name of a network that is no preset.
    names = [one.name.partition(" (")[0] for one in opened]
    stems = [Path(one.weights).stem for one in opened]
    labels: list[str] = []
    for one, label, stem in zip(opened, names, stems, strict=True):
        if names.count(label) > 1:
            label = f"{label} ({stem if stems.count(stem) == 1 else one.weights})"
        labels.append(label)
    return [
        Subject(label, one.name, one.weights, one.network, one.scale, one.channels)
        for label, one in zip(labels, opened, strict=True)
    ]


def open_subject(source: str, device: str = "cpu") -> Subject:
    """A network with its weights, or a preset with initial ones.

    Args:
        source: what :func:`esc_arch.checkpoints.loading.open_weights` takes, or PRESET:SCALE; the
            initial weights are the same each time.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: when it is neither, or no network of PyTorch.
    """
    preset, colon, scale = source.rpartition(":")
    if not Path(source).exists() and (source in PRESETS or (colon and preset in PRESETS)):
        return _initial(source, preset or source, scale if colon else "", device)
    loaded = open_weights(source)
    network = loaded.network
    if not isinstance(network, nn.Module):
        raise UserError(
            f"--weights {source}: expected a checkpoint, whose modules can be looked into; found "
            "an ONNX file. Name the checkpoint that it was exported from."
        )
    name = loaded.name
    return Subject(name, name, starred(source), network.to(device), loaded.scale, loaded.channels)


def _initial(source: str, preset: str, scale: str, device: str) -> Subject:
    known = PRESETS[preset].scales
    if scale not in map(str, known):
        raise UserError(
            f"--weights {source}: expected PRESET:SCALE with a scale of {preset}, "
            f"{listed(known)}; found {scale or 'none'}. Write {preset}:{known[-1]}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = WholeWindows(build(preset, int(scale))).eval().requires_grad_(False)
    name = f"{preset} x{scale}"
    return Subject(name, name, _INITIAL, network.to(device), int(scale), 3)


def find_inputs(
    images: Iterable[str], most: int | None = None, note: Callable[[str], object] | None = None
) -> list[Path]:
    """Image files, and those of folders, each once.

    Args:
        images: files, and folders, which are searched to the bottom.
        most: only so many of them, the first; None for all.
        note: takes lines on what is left out.

    Raises:
        UserError: when one of them is not there, or a folder has no image.
    """
    found: list[Path] = []
    for name in images:
        path = Path(name)
        if path.is_dir():
            found += find_images(path, note)
        elif path.exists():
            found.append(path)
        else:
            raise UserError(
                f"{name}: expected an image file ({', '.join(sorted(SUFFIXES))}) or a folder of "
                "them; found no such thing. Check the path."
            )
    return list(dict.fromkeys(found))[:most]


def image_names(paths: Sequence[Path]) -> list[str]:
    """The images' names without their extensions, numbered where several are called the same."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{stem}_{stems[: place + 1].count(stem)}"
        for place, stem in enumerate(stems)
    ]


def read_pixels(path: Path) -> np.ndarray:
    """An image as (H, W, 3), RGB, uint8; transparency laid on white, grey repeated.

    Raises:
        UserError: when it cannot be read.
    """
    pixels = read_image(path)  # as OpenCV orders the channels
    if pixels.dtype != np.uint8:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = on_white(pixels)
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def to_tensor(pixels: np.ndarray, subject: Subject) -> Tensor:
    """An image as a network takes it.

    Args:
        pixels: (H, W, 3), RGB, uint8.
        subject: whose network; one of grey images gets the luminance.

    Returns:
        (1, C, H, W), float32 in [0, 1], where the network is.
    """
    if subject.channels == 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    device = next(subject.network.parameters()).device
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    return image.to(device, torch.float32) / 255


def cropped(pixels: np.ndarray, side: int | None) -> np.ndarray:
    """The central square of a larger image.

    Args:
        pixels: (H, W, ...).
        side: in pixels; None for the whole image.
    """
    if side is None:
        return pixels
    top, left = (max(0, length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def shrunk(pixels: np.ndarray, scale: int) -> np.ndarray:
    """An LR image of an HR image: cropped at the bottom and right to whole pixels of the LR one,
    then made smaller by Pillow's BICUBIC.

    Args:
        pixels: (H, W, 3), uint8, sides of at least ``scale``.
        scale: by how much.
    """
    height, width = (side // scale for side in pixels.shape[:2])
    whole = np.ascontiguousarray(pixels[: height * scale, : width * scale])
    return np.array(Image.fromarray(whole).resize((width, height), Image.Resampling.BICUBIC))
