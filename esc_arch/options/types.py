"""Types of option values, and their wording in messages.

A type is an annotation that pydantic validates strictly.  It comes from a model of this package,
from a parameter's annotation or, for code without annotations, from a parameter's default.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import torch
from annotated_types import Ge, Le, Len, Lt, MinLen
from pydantic import (
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


@dataclass(frozen=True, eq=False)
class Kind:
    """Metadata of a type.

    Attributes:
        text: the words that complete "expected ...".
        is_right: which of the values are accepted; all when None.
        schema: the JSON schema, instead of the type's own.
    """

    text: str
    is_right: Callable[[Any], bool] | None = None
    schema: Mapping[str, Any] | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        inner = handler(source)
        if self.is_right is None:
            return inner
        return no_info_after_validator_function(self._checked, inner)

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(handler(core) if self.schema is None else self.schema)

    def _checked(self, value: Any) -> Any:
        if self.is_right is not None and not self.is_right(value):
            raise ValueError("not accepted")
        return value


def is_number(value: object) -> bool:
    """Whether it is an int or a float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_folder_name(value: str) -> bool:
    """Text that names one folder, short enough for BasicSR to add a time and suffix."""
    return (
        value.strip() not in ("", ".", "..")
        and not any(c in "/\\" or ord(c) < 32 for c in value)
        and len(value.encode(errors="replace")) <= 200
    )


_ABOVE_0 = Field(gt=0, allow_inf_nan=False)
_INTEGER = {"type": "integer", "minimum": 1}

Text = Annotated[str, MinLen(1), Kind("text")]
# A float without a fraction too: public files write `!!float 5e3`.
Count = Annotated[
    float, Kind("a whole number of at least 1", lambda v: v.is_integer() and v >= 1, _INTEGER)
]
# DataLoader and slices, unlike modulo, refuse 16.0.
Size = Annotated[int, Ge(1), Kind("a whole number of at least 1")]
Natural = Annotated[int, Ge(0), Kind("a whole number of at least 0")]
Decay = Annotated[float, Ge(0), Lt(1), Kind("a number from 0 to below 1")]
Chance = Annotated[float, Ge(0), Le(1), Kind("a number from 0 to 1")]
Positive = Annotated[float, _ABOVE_0, Kind("a number above 0")]
# numpy takes seeds below 2**32, and BasicSR adds rank and worker to this one.
Seed = Annotated[int, Ge(0), Le(2**31), Kind("a whole number from 0 to 2**31")]
Mapped = Annotated[dict[Any, Any], Kind("a section (a mapping of keys)")]
FolderName = Annotated[str, Kind("a plain folder name of at most 200 characters", _is_folder_name)]

_BASES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def words(annotation: Any) -> str:
    """A type in words, to complete "expected ..."."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        wording = [item.text for item in annotation.__metadata__ if isinstance(item, Kind)]
        return wording[-1] if wording else words(arguments[0])
    if origin in (Union, types.UnionType):
        texts = " or ".join(dict.fromkeys(words(a) for a in arguments if a is not type(None)))
        return f"{texts} or nothing (~)" if type(None) in arguments else texts
    if origin is Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if origin is Sequence:
        return f"a list, each {words(arguments[0])}"
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return words(Mapped)
    return _BASES.get(annotation, "a value")


def choices(annotation: Any) -> list[str]:
    """The names that a type accepts, if it is one of names."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return [choice for choice in arguments if isinstance(choice, str)]
    if origin is Annotated:
        return choices(arguments[0])
    if origin not in (Union, types.UnionType):
        return []
    found = [choices(inner) for inner in arguments if inner is not type(None)]
    return [name for members in found for name in members] if all(found) else []


def accepts(annotation: Any, value: object) -> bool:
    """Whether a value is of a type."""
    try:
        _adapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


def json_schema(annotation: Any) -> dict[str, Any]:
    """The JSON schema of a type."""
    return _adapter(annotation).json_schema()


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=STRICT)


def type_of_parameter(parameter: inspect.Parameter, hint: Any) -> Any:
    """The type that a constructor's parameter asks for.

    Args:
        parameter: from ``inspect.signature``.
        hint: its resolved type hint, or ``inspect.Parameter.empty``.
    """
    if hint is not inspect.Parameter.empty:
        portable = _portable(hint)
        return Union[portable, None] if parameter.default is None else portable  # noqa: UP007
    default = parameter.default
    if is_number(default):
        # Without an annotation, ``res_scale=1`` means a number of either type.
        return float
    if isinstance(default, (bool, str)):
        return type(default)
    if isinstance(default, (tuple, list)):
        return Sequence[float] if default and all(map(is_number, default)) else Sequence[Any]
    return Any


def _portable(hint: Any) -> Any:
    """A type hint in types that YAML can express; any value for other types."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        members = tuple(
            inner if inner is type(None) else _portable(inner)
            for inner in arguments
            if inner is not torch.Tensor
        )
        return Union[members]  # noqa: UP007
    if origin is Literal:
        return hint
    base = origin or hint
    if base is tuple and arguments and arguments[-1] is not Ellipsis:
        inner, count = _portable(arguments[0]), len(arguments)
        text = f"a list of {count}, each {words(inner)}"
        return Annotated[Sequence[inner], Len(count, count), Kind(text)]  # type: ignore[valid-type]
    if base in (list, tuple, Sequence, Iterable):
        return Sequence[_portable(arguments[0]) if arguments else Any]  # type: ignore[misc]
    if base in (dict, Mapping):
        return Mapped
    return base if base in _BASES else Any
