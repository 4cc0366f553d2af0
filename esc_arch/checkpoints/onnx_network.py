"""ONNX files, of this package or any other that enlarges images, run by onnxruntime.

Shapes: B images, C channels, H x W pixels, r = scale.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from esc_arch.errors import UserError, first_line

__all__ = ["OnnxNetwork"]

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
# Sides of the images by which the scale of a file without metadata is found: networks with
# windows may refuse others.
_PROBE_SIDES = (64, 96)


class OnnxNetwork:
    """A function of images that onnxruntime computes, on as many cores as PyTorch uses.

    Args:
        content: of an ONNX file with one input and one output (B, C, H, W) in [0, 1], H and W
            dynamic.
        path: of the file, for errors.
        providers: of onnxruntime, the preferred first.

    Shape: (B, C, H, W) of any floating dtype, on any device -> (B, C, rH, rW) of the same.

    Attributes:
        channels: C.
        metadata: of the file, text by key.

    Raises:
        UserError: when it is no ONNX file, or has other inputs and outputs.
    """

    def __init__(self, content: bytes, path: Path, providers: Sequence[str]) -> None:
        runtime = _runtime(path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # A plan of the memory is made for each size, and holds twice as much.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
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
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type not in _DTYPES:
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise UserError(
                f"{path}: expected one input of float32 or float16 and one output; found the "
                f"inputs {found} and {len(outputs)} outputs. Name a network that enlarges images."
            )
        shape = inputs[0].shape
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise UserError(
                f"{path}: expected an input (batch, 3 or 1, height, width); found {shape}. Name "
                "a network that enlarges images, channels first."
            )
        if isinstance(shape[2], int) or isinstance(shape[3], int):
            raise UserError(
                f"{path}: expected dynamic height and width; found the fixed size {shape[2]} x "
                f"{shape[3]}. Export it with dynamic sizes."
            )
        self.channels: int = shape[1]
        self._one_by_one = isinstance(shape[0], int)
        self._input, self._dtype = inputs[0].name, _DTYPES[inputs[0].type]

    @classmethod
    def from_file(cls, path: Path) -> "OnnxNetwork":
        """The network of a file, on the GPU where onnxruntime has one.

        Raises:
            UserError: when the file cannot be read, or as the class.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path}: expected an ONNX file; found {error.strerror}. Check the path."
            ) from error
        available = _runtime(path).get_available_providers()
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        return cls(content, path, [name for name in wanted if name in available])

    def __call__(self, x: Tensor) -> Tensor:
        images = x.split(1) if self._one_by_one else (x,)
        return (
            torch.cat([self._run(image) for image in images]) if len(images) > 1 else self._run(x)
        )

    def probe_scale(self) -> int:
        """The scale by which small images come out larger.

        Raises:
            UserError: when there is none.
        """
        ratios = set()
        for side in _PROBE_SIDES:
            shape = self(torch.full((1, self.channels, side, side), 0.5)).shape
            if len(shape) != 4 or shape[1] != self.channels:
                raise self._no_scale(f"{tuple(shape)} of an image of {side} x {side} pixels")
            ratios |= {shape[2] / side, shape[3] / side}
        if len(ratios) != 1 or not (ratio := ratios.pop()).is_integer() or ratio < 1:
            raise self._no_scale("sizes that are no whole multiple of the image's")
        return int(ratio)

    def _no_scale(self, found: str) -> UserError:
        return UserError(
            f"{self.path}: expected images enlarged by a whole number; found {found}. Name a "
            "network that enlarges images."
        )

    def _run(self, x: Tensor) -> Tensor:
        image = np.ascontiguousarray(x.detach().cpu().float().numpy(), dtype=self._dtype)
        try:
            result = self._session.run(None, {self._input: image})[0]
        except Exception as error:  # of onnxruntime, which has one class for each reason
            raise UserError(
                f"{self.path}: expected to run on an image {tuple(x.shape)}; found: "
                f"{first_line(error)}. Try another size (--tile), or the checkpoint itself."
            ) from error
        return torch.from_numpy(result).to(x.device, x.dtype)


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
