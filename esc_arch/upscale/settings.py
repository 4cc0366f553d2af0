"""The options of enlarging, checked in one place for the command line and for Python."""

import math
import numbers
import re
from collections.abc import Callable
from typing import TypeVar

from esc_arch.errors import UserError

__all__ = [
    "DTYPES",
    "FORMATS",
    "checked",
    "dtype_name",
    "format_name",
    "memory_bytes",
    "quality_number",
    "scale_factor",
    "tile_side",
    "yes_or_no",
]

FORMATS = ("png", "jpeg", "webp", "tiff", "bmp")
DTYPES = ("fp32", "bf16", "fp16")

_FORMAT_WORDS = {"jpg": "jpeg", "tif": "tiff"}
_DTYPE_WORDS = {
    **{"float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16"},
    **{"bfloat16": "bf16"},
}
_DIGITS = re.compile(r"\d{1,18}", re.ASCII)
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)

Value = TypeVar("Value")


def checked(name: str, check: Callable[[object], Value], value: object) -> Value:
    """A value as its check gives it back.

    Raises:
        UserError: when the check refuses it; with the option's name.
    """
    try:
        return check(value)
    except ValueError as error:
        raise UserError(f"{name}: {error}.") from None


def _wanted(expected: str, value: object) -> ValueError:
    return ValueError(f"expected {expected}; found {value}")


def _whole(value: object) -> int | None:
    """A whole number, or a text of one."""
    if isinstance(value, str):
        return int(value) if _DIGITS.fullmatch(value.strip()) else None
    is_number = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return int(value) if is_number else None  # type: ignore[call-overload]


def scale_factor(value: object) -> float:
    """A number above 0, or a text of one."""
    try:
        factor = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        raise _wanted("a number above 0", value)
    return factor


def yes_or_no(value: object) -> bool:
    """True or False; a text such as ``no`` would be taken for True."""
    if value is True or value is False:
        return value
    raise _wanted("True or False", value)


def tile_side(value: object) -> str | int:
    """``auto``, ``off``, or the side of a tile in pixels."""
    if isinstance(value, str) and value.lower() in ("auto", "off"):
        return value.lower()
    side = _whole(value)
    if side is None or side < 1:
        raise _wanted("auto, off, or 1 or more", value)
    return side


def memory_bytes(value: object) -> int:
    """A size in bytes: a number, or a text such as ``800M`` or ``2G``."""
    size = _whole(value)
    match = _BYTES.fullmatch(value.strip()) if isinstance(value, str) else None
    if size is None and match is not None:
        power = "KMGT".index(match[2].upper()) + 1 if match[2] else 0
        value = float(match[1]) * 1024**power
    if isinstance(value, float) and math.isfinite(value):
        size = round(value)  # such as 2e9
    if size is None or size < 1:
        raise _wanted("a size such as 800M or 2G", value)
    return size


def dtype_name(value: object) -> str:
    """``auto`` or one of DTYPES, by PyTorch's names too."""
    word = str(value).removeprefix("torch.").lower()
    word = _DTYPE_WORDS.get(word, word)
    if word not in ("auto", *DTYPES):
        raise _wanted(f"auto, {', '.join(DTYPES)}", value)
    return word


def format_name(value: object) -> str:
    """One of FORMATS, by an extension too."""
    word = str(value).lower().lstrip(".")
    word = _FORMAT_WORDS.get(word, word)
    if word not in FORMATS:
        raise _wanted(", ".join(FORMATS), value)
    return word


def quality_number(value: object) -> int:
    """Of JPEG and WebP, 1 to 100."""
    number = _whole(value)
    if number is None or not 1 <= number <= 100:
        raise _wanted("1 to 100", value)
    return number
