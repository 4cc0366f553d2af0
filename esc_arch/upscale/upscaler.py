"""Enlarges images of any type by one network.

Shapes: B images, H x W pixels before and h x w after; C channels: grey, grey and alpha, RGB,
RGBA (1, 2, 3, 4).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from esc_arch.deployment import deploy
from esc_arch.errors import UserError, first_line
from esc_arch.imaging.alpha import fill_transparent
from esc_arch.imaging.imresize import imresize
from esc_arch.progress import Progress
from esc_arch.upscale import settings

if TYPE_CHECKING:
    from esc_arch.checkpoints.loading import LoadedModel
    from esc_arch.upscale.tiling import ArrayOutput

__all__ = ["DTYPES", "ImageTypeError", "ImageValueError", "Upscaler"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

AnyImage = TypeVar("AnyImage", Image.Image, np.ndarray, Tensor)

_LEVELS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
# Grey that was stored as lossy WebP decodes to channels that are one level of 8 bits apart.
_NEARLY_EQUAL = 1.5 / 255
# Resizing with negative lobes goes a little beyond 0 and 1.
_LEAST, _MOST = -0.5, 1.5
_KEPT_MODES = ("L", "LA", "RGB", "RGBA", "I;16")
_AS_MODE = {"1": "L", "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "I;16B": "I;16"}


class ImageValueError(UserError, ValueError):
    """An image of another shape, or with values out of its range."""


class ImageTypeError(UserError, TypeError):
    """An image of another type, or of another type of values."""


class Upscaler:
    """Enlarges images by a network.

    ``Upscaler()(image)`` enlarges by the model that is shipped.

    Args:
        weights: a file, a URL, or the name of a shipped model; None for the default one.
        device: ``auto`` (CUDA where it is), or a name that PyTorch knows.
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``.  ``auto`` is float32 on a CPU; on CUDA
            it is float16 where the network allows that, whose 11 bits keep the 256 levels of
            an image that bfloat16's 8 do not, and float32 again for an image that float16
            cannot hold.  PyTorch's names are taken too.  Images of 16 bits are computed in
            float32 in any case, as none of the others keeps their levels; an ONNX file of half
            precision cannot, which is said.
        scale: of the result, a fraction too; None for the network's.  The network runs as often
            as it needs to reach it, and antialiased bicubic resizing leads back to it.  A network
            for any scale runs once, and nothing is resized from 1 on; below, it runs at 1.
        tile: ``auto``, ``off``, or the side of a tile in pixels of the image.
        memory: that computing may take, in bytes or such as ``2G``; None for half of what is
            free.
        self_ensemble: average over the eight flips and turns of the image; takes eight times as
            long.
        say: takes a line for the user, once each; a warning by default.

    Attributes:
        name: of the network, with its scale.
        path: of its file.
        choice: which of several sets of parameters in it was taken; empty when there is one.
        scale: of the result.
        any_scale: whether the network enlarges to any size.
        network_scale: of the network, or what it is asked for.
        dtype: that is computed in.
        device: that computes.
        network: that computes, (1, C, H, W) in [0, 1] -> (1, C, rH, rW).

    Raises:
        UserError: when the weights cannot be had or are of no known network, the device or
            dtype cannot be used, or another argument is none of those above.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        scale: float | str | None = None,
        tile: str | int = "auto",
        memory: str | float | None = None,
        self_ensemble: bool = False,
        say: Callable[[str], object] = warnings.warn,
    ) -> None:
        from esc_arch.checkpoints.loading import open_weights

        self.device = _device(device)
        check = settings.checked
        dtype = check("dtype", settings.dtype_name, dtype)
        factor = None if scale is None else check("scale", settings.scale_factor, scale)
        self._weights, self._tile = weights, check("tile", settings.tile_side, tile)
        self._memory = None if memory is None else check("memory", settings.memory_bytes, memory)
        self._say = say
        self._exact: Upscaler | None = None
        self._has_said = False
        opened = open_weights(weights)
        self.name, self.path, self.metadata = opened.name, opened.path, opened.metadata
        self.choice = opened.choice
        self.scale = opened.scale if factor is None else factor
        if opened.scale == 1 and self.scale > 1 and not opened.any_scale:
            raise UserError(
                f"scale: expected at most 1 of {self.name}, which does not enlarge; found "
                f"{self.scale}. Choose other weights (-w)."
            )
        self.any_scale, self._channels = opened.any_scale, opened.channels
        self.network_scale = max(self.scale, 1) if opened.any_scale else opened.scale
        self._self_ensemble = check("self_ensemble", settings.yes_or_no, self_ensemble)
        self._may_fall_back = dtype == "auto"
        self._ready(opened, _dtype(dtype, self.device, opened))

    def __call__(
        self, image: AnyImage, advance: Callable[[float], object] | None = None
    ) -> AnyImage:
        """Enlarge an image.

        Alpha is resized by antialiased bicubic interpolation, and colours under fully
        transparent pixels do not reach the visible ones.  Grey goes through a network of three
        channels as three equal ones, whose mean is taken, as the network would tint it; so do
        three channels that are equal, or of 8 bits and at most one level apart everywhere.
        Values are clamped and rounded once, at the end.

        Args:
            image: a PIL image (turned as it is: see ``PIL.ImageOps.exif_transpose``); an array
                (H, W) or (H, W, C), RGB, of uint8, uint16, or floating point in [0, 1]; a
                tensor (C, H, W) or (B, C, H, W) of uint8 or floating point in [0, 1].
            advance: is called with fractions of the image, which add up to 1.

        Returns:
            The same kind, mode, dtype and device, of round(scale * side) pixels a side.  PIL
            images of palettes become RGB or RGBA, of one bit grey.

        Raises:
            ImageTypeError: for another type of image or of its values.
            ImageValueError: for another number of dimensions or channels, another mode, or
                numbers that are not finite or far beyond 0 and 1.
            UserError: when the values overflow in the chosen dtype, or the network gives
                numbers that are not finite.
        """
        progress = Progress(advance).part()
        if isinstance(image, Image.Image):
            result = self._pil(image, progress)
        elif isinstance(image, np.ndarray):
            result = self._array(image, progress)
        elif isinstance(image, Tensor):
            result = self._tensor(image, progress)
        else:
            raise ImageTypeError(
                "expected a PIL image, a numpy array or a tensor; found "
                f"{type(image).__name__}. Convert it to one of them."
            )
        progress.finish()
        return result

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result of an image."""
        return max(1, round(self.scale * height)), max(1, round(self.scale * width))

    def _ready(self, opened: LoadedModel, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.network = opened.network
        if isinstance(opened.network, nn.Module):
            self.network = deploy(opened.network.to(self.device), dtype)

    def _pil(self, image: Image.Image, progress: Progress) -> Image.Image:
        mode = _AS_MODE.get(image.mode, image.mode)
        if "transparency" in image.info and mode in ("L", "RGB"):
            mode = {"L": "LA", "RGB": "RGBA"}[mode]
        if mode not in _KEPT_MODES:
            raise ImageValueError(
                f"expected an image of mode {', '.join(_KEPT_MODES)}, P or 1; found {image.mode}. "
                "Convert it, as by image.convert('RGB')."
            )
        # Pillow's own conversion from the other byte order cuts values off at 255.
        plain = image if mode in (image.mode, "I;16") else image.convert(mode)
        pixels = np.asarray(plain)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        result = Image.fromarray(self._array(pixels, progress))
        # As Pillow's own resize does: profile, dpi, EXIF.
        result.info = {k: v for k, v in image.info.items() if k != "transparency"}
        return result

    def _array(self, image: np.ndarray, progress: Progress) -> np.ndarray:
        channels = 1 if image.ndim == 2 else image.shape[-1]
        if image.ndim not in (2, 3) or channels not in (1, 2, 3, 4) or 0 in image.shape:
            raise ImageValueError(
                f"expected (H, W) or (H, W, C), C from 1 to 4, with pixels; found {image.shape}. "
                "Put the channels last."
            )
        dtype = image.dtype.newbyteorder("=")
        levels = _LEVELS.get(dtype, 1)
        if levels == 1 and not np.issubdtype(dtype, np.floating):
            raise _another_type("uint8, uint16", image.dtype, "image.astype(np.uint8)")
        if levels > 255 and self.dtype != torch.float32:
            return self._in_float32()._array(image, progress)
        if levels > 255:
            self._say_of_half()
        planes = np.moveaxis(image.reshape(*image.shape[:2], channels), -1, 0)
        result = np.empty((*self.size(*image.shape[:2]), channels), dtype)
        values = torch.from_numpy(planes.astype(np.float32)).div_(levels)
        if levels == 1:
            _check_range(values)
        array = result if levels > 1 else None
        for index, plane in self._planes(values, progress, array, levels):
            result[..., index] = _quantised(plane, levels).cpu().numpy()
        return result if image.ndim == 3 else result[..., 0]

    def _tensor(self, image: Tensor, progress: Progress) -> Tensor:
        if image.ndim not in (3, 4) or image.shape[-3] not in (1, 2, 3, 4) or 0 in image.shape:
            raise ImageValueError(
                "expected (C, H, W) or (B, C, H, W), C from 1 to 4, with pixels; found "
                f"{tuple(image.shape)}. Put the channels before the sides."
            )
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise _another_type("uint8", image.dtype, "image.to(torch.uint8)")
        if image.is_floating_point():
            _check_range(image.detach())
        batch = image.detach() if image.ndim == 4 else image.detach()[None]
        levels = 255 if image.dtype == torch.uint8 else 1
        results = batch.new_empty((*batch.shape[:2], *self.size(*batch.shape[-2:])))
        for planes, result in zip(batch, results, strict=True):
            part = progress.part(1 / len(batch))
            for index, plane in self._planes(planes.float() / levels, part, None, levels):
                result[index] = _quantised(plane, levels)
        return results if image.ndim == 4 else results[0]

    @torch.no_grad()
    def _planes(
        self, planes: Tensor, progress: Progress, array: np.ndarray | None, levels: int
    ) -> list[tuple[int, Tensor]]:
        """Enlarge (C, H, W) in [0, 1], float32.

        Args:
            array: (h, w, C) of integers; takes the colours where the network gives them as they
                are, so that the largest images are never whole in floating point.
            levels: of integers between black and white; 1 of floating point.

        Returns:
            The other planes (h, w), each with its number.
        """
        size = self.size(*planes.shape[-2:])
        has_alpha = len(planes) in (2, 4)
        colour, done = planes, []
        if has_alpha:
            colour, alpha = planes[:-1], planes[-1:]
            filled = fill_transparent(colour.cpu().numpy(), alpha[0].cpu().numpy())
            colour = torch.from_numpy(filled)
            done.append((len(planes) - 1, imresize(alpha, size=size)[0]))
        device = self.device if isinstance(self.network, nn.Module) else torch.device("cpu")
        channels = len(colour)
        if channels == 3 and _is_grey(colour, _NEARLY_EQUAL if levels == 255 else 0):
            colour = colour[1:2]
        is_grey = len(colour) == 1
        colour = colour.to(device)[None]
        if array is not None and self._is_one_run(is_grey):
            colour = colour.expand(1, self._channels, -1, -1)
            self._run(colour, progress, array[..., :channels], is_grey)
            return done
        planes = self._colour(colour, size, progress)[0]
        # Copies, as each is rounded in place.
        return done + list(enumerate(planes.repeat(channels // len(planes), 1, 1)))

    def _is_one_run(self, is_grey: bool) -> bool:
        """Whether the network's output is the result, or its mean for grey."""
        as_wanted = self.scale == self.network_scale and (is_grey or self._channels == 3)
        return as_wanted and not self._self_ensemble

    def _colour(self, colour: Tensor, size: tuple[int, int], progress: Progress) -> Tensor:
        """Enlarge (1, 1 or 3, H, W) to (1, 1 or 3, *size)."""
        channels = colour.shape[1]
        if channels == self._channels:
            return self._sized(colour, size, progress)
        if channels == 1:
            grey = colour.expand(1, self._channels, -1, -1)
            return self._sized(grey, size, progress).mean(1, keepdim=True)
        planes = [
            self._sized(plane, size, progress.part(1 / channels)) for plane in colour.split(1, 1)
        ]
        return torch.cat(planes, 1)

    def _sized(self, colour: Tensor, size: tuple[int, int], progress: Progress) -> Tensor:
        passes = 1
        while self.network_scale**passes < self.scale and self.network_scale > 1:
            passes += 1
        # The pixels that a pass starts from, since the time goes with them.
        shares = [self.network_scale ** (2 * index) for index in range(passes)]
        for share in shares:
            part = progress.part(share / sum(shares))
            colour = (
                self._ensemble(colour, part) if self._self_ensemble else self._whole(colour, part)
            )
        return colour if colour.shape[-2:] == size else imresize(colour, size=size)

    def _ensemble(self, colour: Tensor, progress: Progress) -> Tensor:
        """The mean over the eight flips and quarter turns, one after the other.

        Source: "Enhanced Deep Residual Networks for Single Image Super-Resolution",
        arXiv 1707.02921, section 3.3.
        """
        total = None
        for flipped in (False, True):
            for turns in range(4):
                seen = torch.rot90(colour.flip(-1) if flipped else colour, turns, (-2, -1))
                result = self._whole(seen.contiguous(), progress.part(1 / 8))
                result = torch.rot90(result, -turns, (-2, -1))
                result = result.flip(-1) if flipped else result
                total = result.clone() if total is None else total.add_(result)
        assert total is not None
        return total.div_(8)

    def _whole(self, colour: Tensor, progress: Progress) -> Tensor:
        result = self._run(colour, progress)
        assert result is not None  # as no array takes it
        return result

    def _run(
        self,
        colour: Tensor,
        progress: Progress,
        array: np.ndarray | None = None,
        is_grey: bool = False,
    ) -> Tensor | None:
        """The network once, by tiles where the memory asks for them.

        Args:
            colour: (1, C, H, W).
            array: (rH, rW, C) of integers, which takes the result if it is given.
            is_grey: whether it takes the mean of the channels instead.

        Returns:
            (1, C, rH, rW), or None when an array takes it.
        """
        from esc_arch.upscale.tiling import ArrayOutput

        output = None if array is None else ArrayOutput(array, is_grey)
        result = self._enlarge(colour, output, progress)
        if not _is_finite(result, output) and self.dtype != torch.float32:
            self._take_float32()
            output = None if array is None else ArrayOutput(array, is_grey)
            result = self._enlarge(colour, output, None)
        if not _is_finite(result, output):
            raise UserError(
                f"expected an image of numbers from {self.name} ({self.path}); found NaN or "
                "infinity in its result. Use other weights (-w)."
            )
        return result

    def _enlarge(
        self, colour: Tensor, output: ArrayOutput | None, progress: Progress | None
    ) -> Tensor | None:
        from esc_arch.upscale.tiling import enlarge

        return enlarge(
            self.network,
            colour,
            self.network_scale,
            memory=self._memory,
            tile=self._tile,
            progress=progress,
            output=output,
        )

    def _in_float32(self) -> Upscaler:
        """This one in float32, for images of which the chosen dtype would lose levels."""
        from esc_arch.checkpoints.loading import open_weights

        if self._exact is None:
            name = str(self.dtype).removeprefix("torch.")
            self._say(
                f"images of 16 bits are computed in float32, as {name} does not keep their levels"
            )
            exact = copy.copy(self)
            exact._ready(open_weights(self._weights), torch.float32)
            self._exact = exact
        return self._exact

    def _say_of_half(self) -> None:
        """Say once that a file computes in half precision, whatever is chosen."""
        if not self._has_said and getattr(self.network, "is_half", False):
            self._has_said = True
            self._say(
                f"images of 16 bits lose levels in {self.path}, which computes in float16: use "
                "the checkpoint that it was exported from, or an export in fp32"
            )

    def _take_float32(self) -> None:
        """Continue in float32, from weights that were never rounded."""
        from esc_arch.checkpoints.loading import open_weights

        if not self._may_fall_back:
            raise UserError(
                f"dtype: expected one that holds this image in {self.name}; found values beyond "
                f"{str(self.dtype).removeprefix('torch.')}. Use --dtype fp32."
            )
        self._ready(open_weights(self._weights), torch.float32)


def _is_grey(colour: Tensor, tolerance: float) -> bool:
    """Whether the three channels of (3, H, W) are no further apart than that at any pixel."""
    red, green, blue = colour
    return all(
        bool((one - other).abs_().max() <= tolerance)
        for one, other in ((red, green), (green, blue), (red, blue))
    )


def _is_finite(result: Tensor | None, output: ArrayOutput | None) -> bool:
    """Whether the network gave numbers; one of the two has taken them."""
    if output is not None:
        return output.is_finite
    assert result is not None
    # Of many large numbers the sum alone may be infinite.
    return bool(torch.isfinite(result.sum())) or bool(torch.isfinite(result).all())


def _another_type(integers: str, dtype: object, way: str) -> ImageTypeError:
    return ImageTypeError(
        f"expected {integers} or floating point from 0 to 1; found {dtype}. Bring the values to "
        f"0..255 and convert them by {way}, or divide them by their white as floating point."
    )


def _check_range(values: Tensor) -> None:
    """
    Raises:
        ImageValueError: when floating point values are no image's.
    """
    least, most = (value.item() for value in values.aminmax())
    if least >= _LEAST and most <= _MOST:
        return
    if not bool(torch.isfinite(values).all()):
        bad = values[~torch.isfinite(values)]
        found = f"{len(bad)} of {values.numel()} that are NaN or infinite"
        advice = "Replace those, as by numpy.nan_to_num."
    else:
        found = f"{least:.6g} to {most:.6g}"
        white = 255 if most <= 255 else 65535
        advice = (
            "Add 1 and divide by 2 if black is -1."
            if -1 <= least < 0 and most <= 1
            else f"Divide by {white} if white is {white}, or clip to 0..1."
        )
    raise ImageValueError(f"expected floating point values from 0 to 1; found {found}. {advice}")


def _quantised(plane: Tensor, levels: int) -> Tensor:
    """Clamp in place, and round where there are levels."""
    plane = plane.float()
    if levels == 1:
        return plane.clamp_(0, 1)
    return plane.mul_(levels).round_().clamp_(0, levels)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise UserError(
            f"device: expected one that PyTorch can use here; found {name} "
            f"({first_line(error)}). Use auto or cpu."
        ) from None
    return device


def _dtype(name: str, device: torch.device, opened: LoadedModel) -> torch.dtype:
    if name == "auto":
        on_cuda = device.type == "cuda" and isinstance(opened.network, nn.Module)
        for dtype in (torch.float16, torch.bfloat16) if on_cuda else ():
            if dtype in opened.dtypes and (
                dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
            ):
                return dtype
        return torch.float32
    if DTYPES[name] not in opened.dtypes:
        can = ", ".join(key for key, dtype in DTYPES.items() if dtype in opened.dtypes)
        raise UserError(f"dtype: expected {can} of {opened.name}; found {name}.")
    return DTYPES[name]
