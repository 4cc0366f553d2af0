"""Sizes that follow from the keys and shapes of a state dict."""

from collections.abc import Mapping
from math import isqrt

from torch import Tensor

__all__ = ["count", "expansion", "whole_root"]


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbers, from 0 on, follow the prefix.

    Raises:
        ValueError: when one is left out, or there is none.
    """
    numbers = {int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)}
    # A network of as many blocks as one forged key says might not fit into memory.
    if not numbers or max(numbers) + 1 != len(numbers):
        raise ValueError(f"the keys {prefix}* are not numbered from 0 on")
    return len(numbers)


def expansion(hidden: int, dim: int) -> float:
    """The ratio that makes ``hidden`` channels of ``dim``."""
    ratio = hidden / dim
    # The networks cut the product off, and its last digit may be one too small.
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def whole_root(area: int) -> int:
    """The side of a square.

    Raises:
        ValueError: when there is no such square.
    """
    side = isqrt(area)
    if side * side != area:
        raise ValueError(f"{area} is not a square")
    return side
