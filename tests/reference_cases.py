"""Reads tests/reference and fills networks as its cases were filled."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import esc_arch  # noqa: F401  registers the networks

REFERENCE = Path(__file__).parent / "reference"
_CASES = {case["name"]: case for case in json.loads((REFERENCE / "esc_cases.json").read_text())}
GRADIENT_CASES = {name: case for name, case in _CASES.items() if name.startswith("grad_")}
OUTPUT_CASES = {name: case for name, case in _CASES.items() if "keys" in case}


def arrays(name: str) -> dict[str, Tensor]:
    """The arrays of a case as tensors, texts left out."""
    with np.load(REFERENCE / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file if file[key].dtype.kind == "f"}


def fill_parameters(network: nn.Module, gain: float = 1.0) -> nn.Module:
    """Set every parameter by its name alone, whatever the order of construction.

    Args:
        network: its frozen parameters keep their values.
        gain: of the weights of two dimensions or more.
    """
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        shape = tuple(parameter.shape)
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        values = generator.standard_normal(shape).astype(np.float32)
        if name.endswith("relative_position_bias"):
            values *= 0.5
        elif len(shape) >= 2:
            # Divided in float64, then rounded: the last digit counts at 1e-6.
            values = gain * values.astype(np.float64) / np.sqrt(np.prod(shape[1:]))
        elif name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        parameter.data.copy_(torch.from_numpy(values.astype(np.float32)))
    return network


def deviation(y: Tensor, expected: Tensor) -> float:
    """Largest difference in units of the expected output's standard deviation."""
    difference = (y.double() - expected.double()).abs().max()
    return (difference / expected.double().std()).item()
