"""ONNX files, of this package or any other that enlarges images, run by onnxruntime.

Shapes: B images, C channels, H x W pixels, r = scale.
"""

import math
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esc_arch.errors import UserError, first_line
from esc_arch.ops.padding import reflect_pad

__all__ = ["OnnxNetwork"]

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
# Whole numbers of pixels that networks are known to want, the least strict first.
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 3, 6, 12, 24, 48, 5, 10, 20, 7, 14, 28)
# Sides that networks which pad inside do not refuse, about.
_PROBE_SIDE = 33
# Pixels that tiles of a fixed size share with their neighbours, on each side.
_OVERLAP = 16


class OnnxNetwork:
    """A function of images that onnxruntime computes, on as many cores as PyTorch uses.

    A network whose graph wants whole multiples of some pixels, or images of one size, gets what
    it wants, by reflection and by overlapping tiles, once :meth:`probe_scale` has found it out.

    Args:
        content: of an ONNX file with one input and one image among its outputs, (B, C, H, W) in
            [0, 1]; one for any scale has a second input, ``size``.
        path: of the file, for errors.
        providers: of onnxruntime, the preferred first.

    Shape: (B, C, H, W) of any floating dtype, on any device -> (B, C, rH, rW) of the same, or
    (B, C, *size).

    Attributes:
        any_scale: whether it takes the size of the result, too.
        channels: C.
        metadata: of the file, text by key.
        is_half: whether it computes in float16, by its input or its metadata.

    Raises:
        UserError: when it is no ONNX file, or has other inputs and outputs.
    """

    def __init__(self, content: bytes, path: Path, providers: Sequence[str]) -> None:
        runtime = _runtime(path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # A plan of the memory is made for each size, and holds twice as much.
        options.enable_mem_pattern = False
        # Its errors are raised, too, and said in our words.
        options.log_severity_level = 4
        self.path = path
        try:
            self._session = runtime.InferenceSession(content, options, providers=list(providers))
        except Exception as error:  # of onnxruntime, which has one class for each reason
            raise UserError(
                f"{path}: expected an ONNX file that onnxruntime {runtime.__version__} reads; "
                f"found: {first_line(error)}. Export it again, or check that it is the file that "
                "you mean."
            ) from error
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        image, *size = self._inputs()
        self.any_scale = bool(size)
        self._input, self._dtype = image.name, _DTYPES[image.type]
        self.is_half = self._dtype == np.float16 or self.metadata.get("precision") == "float16"
        batch, channels, *sides = image.shape
        self.channels: int = channels if isinstance(channels, int) else 3
        self._one_by_one = isinstance(batch, int)
        self._output = self._image_among_outputs()
        # Height and width: their fixed number of pixels, what they are to be a multiple of, and
        # their smallest number of pixels.
        self._fixed = tuple(side if isinstance(side, int) else None for side in sides)
        self._multiple = self._least = 1

    @classmethod
    def from_file(cls, path: Path) -> "OnnxNetwork":
        """The network of a file, on the GPU where onnxruntime has one.

        Tensors that lie in files of their own are looked for beside it, and nowhere else.

        Raises:
            UserError: when the file cannot be read, or as the class.
        """
        if path.exists() and not path.is_file() and not path.is_dir():
            # A pipe or a device could be read without end.
            raise UserError(
                f"{path}: expected an ONNX file; found a pipe or a device. Check the path."
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path}: expected an ONNX file; found {error.strerror}. Check the path."
            ) from error
        # The key of a place outside the file, which is in every such file.
        if b"location" in content:
            content = _with_external_data(content, path)
        available = _runtime(path).get_available_providers()
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        return cls(content, path, [name for name in wanted if name in available])

    def __call__(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        images = x.split(1) if self._one_by_one else (x,)
        if self.any_scale:
            height, width = x.shape[2:]
            size = size or (self.scale * height, self.scale * width)
            results = [self._run(image, size) for image in images]
        else:
            results = [self._padded(image) for image in images]
        return torch.cat(results) if len(results) > 1 else results[0]

    def probe_scale(self) -> int:
        """Run small images, by which the network shows its scale and the sizes that it takes.

        Returns:
            r, by which every size comes out larger.

        Raises:
            UserError: when there is none, it is not that of the metadata, or results are not
                finite.
        """
        if self.any_scale:
            self._require_size()
            return self.scale
        refusal: UserError | None = None
        for multiple in _MULTIPLES if self._fixed == (None, None) else (1,):
            # Odd numbers of multiples, so that nothing passes which asks for twice as much.
            count = math.ceil(_PROBE_SIDE / multiple) // 2 * 2 + 1
            height, width = (
                side or multiple * n
                for side, n in zip(self._fixed, (count, count + 2), strict=True)
            )
            try:
                scale = self._scale_at(height, width)
            except _NotFinite:
                raise
            except UserError as error:
                refusal = refusal or error
                continue
            self._multiple = self._least = multiple
            try:
                if self._scale_at(*(side or multiple for side in self._fixed)) != scale:
                    self._least = width
            except UserError:
                self._least = width
            self._compare_with_metadata(scale)
            return scale
        assert refusal is not None
        raise refusal

    @property
    def scale(self) -> int:
        """Of a network for any scale, where no size is asked for."""
        label = self.metadata.get("scale", "")
        return int(label) if label.isdecimal() and label.isascii() and len(label) < 3 else 4

    def _require_size(self) -> None:
        """
        Raises:
            UserError: when the network does not give the size that it is asked for.
        """
        for size in ((20, 19), (31, 45)):
            found = tuple(self(torch.rand(1, self.channels, 9, 10), size).shape)
            if found != (1, self.channels, *size):
                raise UserError(
                    f"{self.path}: expected {(1, self.channels, *size)} by its input size; found "
                    f"{found}. Export it again."
                )

    def _inputs(self) -> list[Any]:
        """The image, and the size if there is one; of onnxruntime's class, which has no types."""
        inputs = self._session.get_inputs()
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        sizes = [i for i in inputs if (i.name, i.type, i.shape) == ("size", "tensor(int64)", [2])]
        inputs = [i for i in inputs if i not in sizes]
        if len(inputs) != 1 or inputs[0].type not in _DTYPES:
            integers = len(inputs) == 1 and "int" in inputs[0].type
            raise UserError(
                f"{self.path}: expected one input of float32 or float16, and for any scale "
                f"another, size, of two numbers of int64; found {found}. "
                + ("Export it for images in [0, 1]." if integers else "Name a network of images.")
            )
        shape = inputs[0].shape
        if len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
            raise UserError(
                f"{self.path}: expected an input (batch, 3 or 1, height, width), channels first; "
                f"found {shape}, channels last. Export it with channels first."
            )
        if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] not in (1, 3)):
            raise UserError(
                f"{self.path}: expected an input (batch, 3 or 1, height, width); found {shape}. "
                "Name a network that enlarges images, channels first."
            )
        if isinstance(shape[0], int) and shape[0] != 1:
            raise UserError(
                f"{self.path}: expected any number of images, or one; found the fixed number "
                f"{shape[0]} in {shape}. Export it for one image or with a dynamic batch."
            )
        return [*inputs, *sizes]

    def _image_among_outputs(self) -> str:
        outputs = self._session.get_outputs()
        images = [o.name for o in outputs if o.type in _DTYPES and len(o.shape or ()) in (0, 4)]
        # Beside a result, a network may give features or losses of training.
        images = images if len(images) == 1 else [o.name for o in outputs][: len(outputs) == 1]
        if not images:
            found = ", ".join(f"{o.name} {o.type} {o.shape}" for o in outputs)
            raise UserError(
                f"{self.path}: expected one output that is an image; found {found}. Export it "
                "with the enlarged image alone."
            )
        return str(images[0])

    def _scale_at(self, height: int, width: int) -> int:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, self.channels, height, width, generator=generator)
        shape = tuple(self._run(image).shape)
        given = f"{shape} of an image {tuple(image.shape)}"
        if len(shape) != 4 or shape[:2] != image.shape[:2]:
            raise self._no_scale(given)
        ratios = {shape[2] / height, shape[3] / width}
        if len(ratios) != 1 or not (ratio := ratios.pop()).is_integer() or ratio < 1:
            raise self._no_scale(f"no whole multiple: {given}")
        return int(ratio)

    def _compare_with_metadata(self, scale: int) -> None:
        label = self.metadata.get("scale")
        if label is None:
            return
        try:
            same = float(label) == scale
        except ValueError:
            same = False
        if not same:
            raise UserError(
                f"{self.path}: scale: expected {scale} in the metadata, by which the network "
                f"enlarges; found {label[:40]!r}. Export it again, or correct the metadata."
            )

    def _no_scale(self, found: str) -> UserError:
        return UserError(
            f"{self.path}: expected images enlarged by a whole number; found {found}. Name a "
            "network that enlarges images."
        )

    def _padded(self, x: Tensor) -> Tensor:
        """Extended to a size that the network takes, and cut again."""
        if self._fixed != (None, None):
            return self._by_tiles(x)
        height, width = x.shape[2:]
        below, right = (
            max(-(-side // self._multiple) * self._multiple, self._least) - side
            for side in (height, width)
        )
        if not below and not right:
            return self._run(x)
        y = self._run(reflect_pad(x, 0, below, 0, right))
        scale = y.shape[2] // (height + below)
        return y[:, :, : scale * height, : scale * width]

    def _by_tiles(self, x: Tensor) -> Tensor:
        """An image by overlapping tiles of the only size that the network takes."""
        sizes = [fixed or side for fixed, side in zip(self._fixed, x.shape[2:], strict=True)]
        missing = [max(size - side, 0) for size, side in zip(sizes, x.shape[2:], strict=True)]
        padded = reflect_pad(x, 0, missing[0], 0, missing[1])
        tops, lefts = (
            _tiles(side, size) for side, size in zip(padded.shape[2:], sizes, strict=True)
        )
        result, scale = None, 0
        for (top, y0, y1), (left, x0, x1) in product(tops, lefts):
            tile = self._run(padded[:, :, top : top + sizes[0], left : left + sizes[1]])
            if result is None:
                scale = tile.shape[2] // sizes[0]
                shape = (*tile.shape[:2], *(scale * side for side in padded.shape[2:]))
                result = tile.new_empty(shape)
            result[:, :, scale * y0 : scale * y1, scale * x0 : scale * x1] = tile[
                :,
                :,
                scale * (y0 - top) : scale * (y1 - top),
                scale * (x0 - left) : scale * (x1 - left),
            ]
        assert result is not None
        return result[:, :, : scale * x.shape[2], : scale * x.shape[3]]

    def _run(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        image = np.ascontiguousarray(x.detach().cpu().float().numpy(), dtype=self._dtype)
        given = {self._input: image}
        if size is not None:
            given["size"] = np.array(size, np.int64)
        try:
            result = self._session.run([self._output], given)[0]
        except Exception as error:  # of onnxruntime, which has one class for each reason
            raise UserError(
                f"{self.path}: expected to run on an image {tuple(x.shape)}; found: "
                f"{first_line(error)}. Try another size (--tile), or the checkpoint itself."
            ) from error
        if not np.isfinite(result).all():
            raise _NotFinite(
                f"{self.path}: expected numbers of an image {tuple(x.shape)}; found NaN or "
                "infinity. Export it again, in float32 where it is in float16."
            )
        return torch.from_numpy(result).to(x.device, x.dtype)


class _NotFinite(UserError):
    """A result holds NaN or infinity."""


def _tiles(side: int, size: int) -> list[tuple[int, int, int]]:
    """Where tiles of a size start along a side, at least as long, and what each is to fill."""
    overlap = min(_OVERLAP, size // 4)
    starts = [*range(0, side - size, max(size - 2 * overlap, 1)), side - size]
    ends = [(start + following + size) // 2 for start, following in pairwise(starts)]
    return list(zip(starts, [0, *ends], [*ends, side], strict=True))


def _with_external_data(content: bytes, path: Path) -> bytes:
    """The file with all of its tensors inside.

    onnx itself refuses places outside of the file's folder, and links.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError(
            f"{path}: expected onnx to be installed, which reads tensors that lie beside an ONNX "
            "file; found none. Install it: pip install onnx"
        ) from error
    from onnx.external_data_helper import load_external_data_for_model

    try:
        model = onnx.load_model_from_string(content)
        load_external_data_for_model(model, str(path.parent))
        return model.SerializeToString()
    except Exception as error:  # of protobuf, of onnx, and of the system
        raise UserError(
            f"{path}: expected its tensors in the file, or in regular files of its folder; found: "
            f"{first_line(error)}. Put the data file beside it, under its own name."
        ) from error


def _runtime(path: Path) -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"{path}: expected onnxruntime to be installed, which runs ONNX files; found none. "
            "Install it: pip install onnxruntime"
        ) from error
    module: ModuleType = onnxruntime
    return module
