"""What an option's value may be: tests of a value, each with its wording.

A kind comes from a table of this package, from a parameter's annotation, or, for code
without annotations, from a parameter's default.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch


class Kind(NamedTuple):
    """``text`` completes "expected ..."; ``choices`` are the accepted names, if few."""

    text: str
    accepts: Callable[[object], bool]
    choices: tuple[str, ...] = ()


def is_whole(value: object) -> bool:
    """An int, or a float without a fraction: public files write ``!!float 5e3``."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_folder_name(value: object) -> bool:
    """Text that names one folder, short enough for BasicSR to add a time and suffix."""
    return (
        isinstance(value, str)
        and value.strip() not in ("", ".", "..")
        and not any(c in "/\\" or ord(c) < 32 for c in value)
        and len(value.encode(errors="replace")) <= 200
    )


def one_of(*values: str) -> Kind:
    text = " or ".join(f"'{value}'" for value in values)
    return Kind(text, lambda value: isinstance(value, str) and value in values, values)


def optional(kind: Kind) -> Kind:
    text = f"{kind.text} or nothing (~)"
    return Kind(text, lambda value: value is None or kind.accepts(value), kind.choices)


def list_of(kind: Kind, length: int | None = None) -> Kind:
    count = "a list" if length is None else f"a list of {length}"
    return Kind(
        f"{count}, each {kind.text}",
        lambda value: (
            isinstance(value, (list, tuple))
            and (length is None or len(value) == length)
            and all(kind.accepts(item) for item in value)
        ),
    )


ANY = Kind("a value", lambda value: True)
TEXT = Kind("text", lambda value: isinstance(value, str) and value != "")
BOOL = Kind("true or false", lambda value: isinstance(value, bool))
INT = Kind("a whole number", is_int)
NUMBER = Kind("a number", is_number)
COUNT = Kind("a whole number of at least 1", lambda value: is_whole(value) and value >= 1)
# DataLoader and slices, unlike modulo, refuse 16.0.
SIZE = Kind("a whole number of at least 1", lambda value: is_int(value) and value >= 1)
WORKERS = Kind("a whole number of at least 0", lambda value: is_int(value) and value >= 0)
DECAY = Kind("a number from 0 to below 1", lambda value: is_number(value) and 0 <= value < 1)
POSITIVE = Kind("a number above 0", lambda value: is_number(value) and 0 < value < float("inf"))
# numpy takes seeds below 2**32, and BasicSR adds rank and worker to this one.
SEED = Kind("a whole number from 0 to 2**31", lambda value: is_int(value) and 0 <= value <= 2**31)
SECTION = Kind("a section (a mapping of keys)", lambda value: isinstance(value, dict))
FOLDER_NAME = Kind("a plain folder name of at most 200 characters", is_folder_name)


def of_parameter(parameter: inspect.Parameter, annotation: Any) -> Kind:
    """The kind that a constructor's parameter asks for.

    Args:
        parameter: from ``inspect.signature``.
        annotation: its resolved type hint, or ``inspect.Parameter.empty``.
    """
    if annotation is not inspect.Parameter.empty:
        kind = of_annotation(annotation)
        return optional(kind) if parameter.default is None else kind
    default = parameter.default
    if isinstance(default, bool):
        return BOOL
    if is_number(default):
        # Without an annotation, ``res_scale=1`` means a number of either type.
        return NUMBER
    if isinstance(default, str):
        return Kind("text", lambda value: isinstance(value, str))
    if isinstance(default, (tuple, list)):
        return list_of(NUMBER if default and all(map(is_number, default)) else ANY)
    return ANY


def of_annotation(annotation: Any) -> Kind:
    """The kind for a type hint; types that YAML cannot express accept anything."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [of_annotation(a) for a in arguments if a not in (type(None), torch.Tensor)]
        union = Kind(
            " or ".join(dict.fromkeys(kind.text for kind in kinds)),
            lambda value: any(kind.accepts(value) for kind in kinds),
        )
        return optional(union) if type(None) in arguments else union
    if origin is Literal:
        return Kind(
            " or ".join(repr(a) for a in arguments),
            lambda value: any(type(value) is type(a) and value == a for a in arguments),
            tuple(a for a in arguments if isinstance(a, str)),
        )
    base = origin or annotation
    if base is tuple and arguments and arguments[-1] is not Ellipsis:
        return list_of(of_annotation(arguments[0]), len(arguments))
    if base in (list, tuple, Sequence, Iterable):
        return list_of(of_annotation(arguments[0]) if arguments else ANY)
    if base in (dict, Mapping):
        return SECTION
    if base is str:
        return Kind("text", lambda value: isinstance(value, str))
    return {bool: BOOL, int: INT, float: NUMBER}.get(base, ANY)
