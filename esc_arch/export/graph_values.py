"""Values of ONNX graphs that translations of operations need."""

from typing import Any

import torch
from onnxscript import ir, opset18
from torch import Tensor

__all__ = ["constant", "floating", "ints", "static"]

# onnxscript's operators are annotated for eager arrays; a translation is called with values.
_ops: Any = opset18


def static(value: ir.Value, axis: int) -> int:
    """A length that does not depend on the image."""
    assert value.shape is not None
    length = value.shape[axis]
    assert isinstance(length, int)
    return length


def ints(*values: int) -> ir.Value:
    return constant(torch.tensor(values))


def floating(value: float) -> ir.Value:
    return constant(torch.tensor(float(value)))


def constant(tensor: Tensor) -> ir.Value:
    result: ir.Value = _ops.Constant(value=ir.tensor(tensor.numpy()))
    return result
