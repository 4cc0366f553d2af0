"""Types of option values and sections, in words and as pydantic validates them, strictly.

A type is an annotation.  It comes from a model of this package, from a parameter's annotation
or, for code without annotations, from a parameter's default.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import torch
from annotated_types import Ge, Le, Len, Lt, MinLen
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

from esc_arch.options.problems import MISSING, Problems, describe, dotted, nearest, suggestion

# Where pydantic keeps a key's mark.
NEEDED = "needed"
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


_INF = float("inf")
_PAIR = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}


def pair(text: str, fits: Callable[[float, float], bool]) -> Kind:
    """The kind of a list of two numbers, which ``text`` describes."""
    return Kind(
        f"a list of two numbers, {text}",
        lambda value: isinstance(value, list) and len(value) == 2 and fits(*value),
        _PAIR,
    )


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
# The time left is computed from it, and a day more than 10**9 is none for Python.
Iterations = Annotated[
    float,
    Kind(
        "a whole number from 1 to 10**9",
        lambda v: v.is_integer() and 1 <= v <= 10**9,
        {**_INTEGER, "maximum": 10**9},
    ),
]
Decay = Annotated[float, Ge(0), Lt(1), Kind("a number from 0 to below 1")]
Chance = Annotated[float, Ge(0), Le(1), Kind("a number from 0 to 1")]
Positive = Annotated[float, _ABOVE_0, Kind("a number above 0")]
Ratio = Annotated[float, _ABOVE_0, Le(10**6), Kind("a number above 0, at most 10**6")]
# Each is a process.
Workers = Annotated[int, Ge(0), Le(512), Kind("a whole number from 0 to 512")]
Batches = Annotated[int, Ge(1), Le(1000), Kind("a whole number from 1 to 1000")]
Port = Annotated[int, Ge(1), Lt(2**16), Kind("a whole number from 1 to 65535")]
# numpy takes seeds below 2**32, and BasicSR adds rank and worker to this one.
Seed = Annotated[int, Ge(0), Le(2**31), Kind("a whole number from 0 to 2**31")]
Mapped = Annotated[dict[Any, Any], Kind("a section (a mapping of keys)")]
FolderName = Annotated[str, Kind("a plain folder name of at most 200 characters", _is_folder_name)]

Amount = Annotated[
    Sequence[float], pair("the lower one first and at least 0", lambda a, b: 0 <= a <= b < _INF)
]
# At quality 100 the table of BasicSR's JPEG is 0 and is divided by.
Quality = Annotated[
    Sequence[float], pair("the lower one first, from 1 to 99", lambda a, b: 1 <= a <= b <= 99)
]

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
    """A type hint in types that YAML can express; any value for what it cannot."""
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


class Section(BaseModel):
    """A section of an option file: its keys, each with type, meaning, example and default."""

    model_config = ConfigDict(**STRICT, extra="forbid", protected_namespaces=())

    @classmethod
    def needed(cls, section: Mapping[str, object], is_train: bool) -> Collection[str]:
        """Keys that this use of the section needs beside those without a default."""
        return ()


class OpenSection(Section):
    """A section of which code outside this package may read further keys."""

    model_config = ConfigDict(extra="allow")


def key(meaning: str, example: str, default: object = ..., needed: str = "") -> Any:
    """A key of a section.

    Args:
        meaning: for the reference page and for editors.
        example: a value to show in messages, as YAML.
        default: the value when the key is absent; required without one.
        needed: when a key with a default has to be there all the same: ``*`` always, ``†`` to
            train, ``‡`` to test, in brackets under the condition that the meaning names.
    """
    extra: dict[str, Any] | None = {NEEDED: needed} if needed else None
    return Field(default, description=meaning, examples=[example], json_schema_extra=extra)


def mark_of(field: FieldInfo) -> str:
    """When a key has to be there, see :func:`key`; empty for never."""
    extra = field.json_schema_extra
    marked = extra.get(NEEDED, "") if isinstance(extra, dict) else ""
    return "*" if field.is_required() else str(marked)


def check_section(
    problems: Problems,
    place: str,
    model: type[Section],
    section: Mapping[str, object],
    needed: Iterable[str] = (),
) -> None:
    """Note unknown keys, absent keys and values of the wrong type, where nothing is noted yet.

    Args:
        place: dotted path of the section; "" for the file's top level.
        needed: keys that have to be there beside those without a default.
    """
    try:
        model.model_validate(section)
        places: list[tuple[int | str, ...]] = []
    except ValidationError as error:
        places = [found["loc"] for found in error.errors(include_url=False)]
    missing = [name for name, field in model.model_fields.items() if field.is_required()]
    missing = [name for name in dict.fromkeys([*missing, *needed]) if name not in section]
    _report(problems, place, model, section, places, missing)


def _report(
    problems: Problems,
    place: str,
    model: type[Section],
    section: Mapping[str, object],
    places: list[tuple[int | str, ...]],
    missing: list[str],
) -> None:
    fields = model.model_fields
    names = dict.fromkeys(str(found[0]) for found in places if found)
    unknown = [name for name in names if name not in fields]
    for name in unknown:
        advice = suggestion(name, fields)
        problems.add(dotted(place, name), "a key that BasicSR reads", "an unknown key", advice)
    for name, field in fields.items():
        if problems.has(dotted(place, name)):
            continue
        if name in missing:
            # A misspelt required key is one problem.
            if nearest(name, unknown) is None:
                add_missing(problems, dotted(place, name), type_of(field), example_of(field))
        elif name in names:
            inner, value = _model_of(field), section[name]
            if inner is not None and isinstance(value, dict):
                deeper = [found[1:] for found in places if found[0] == name]
                _report(problems, dotted(place, name), inner, value, deeper, [])
            else:
                add_wrong(problems, dotted(place, name), value, type_of(field), example_of(field))


def type_of(field: FieldInfo) -> Any:
    """The type of a key, with the metadata that pydantic took apart."""
    parts = (field.annotation, *field.metadata)
    return Annotated[parts] if field.metadata else field.annotation


def example_of(field: FieldInfo) -> str:
    """A value of a key to show in messages, as YAML."""
    return str(field.examples[0]) if field.examples else ""


def _model_of(field: FieldInfo) -> type[Section] | None:
    for inner in (field.annotation, *typing.get_args(field.annotation)):
        if isinstance(inner, type) and issubclass(inner, Section):
            return inner
    return None


def add_missing(problems: Problems, place: str, annotation: Any, example: str) -> None:
    """Note an absent key."""
    name = place.rpartition(".")[2]
    problems.add(place, words(annotation), MISSING, f"Add `{name}: {example}`.")


def add_wrong(
    problems: Problems, place: str, value: object, annotation: Any, example: str = ""
) -> None:
    """Note a value of another type."""
    known = choices(annotation)
    if known and isinstance(value, str):
        advice = suggestion(value, known)
    elif example:
        advice = f"Write, for example, `{place.rpartition('.')[2]}: {example}`."
    else:
        advice = f"Give it {words(annotation)}."
    problems.add(place, words(annotation), describe(value), advice)


def require(
    problems: Problems, place: str, section: Mapping[str, object], annotation: Any, example: str
) -> Any:
    """The value at ``place`` (its last part is looked up), or None after noting why not."""
    name = place.rpartition(".")[2]
    if name not in section:
        add_missing(problems, place, annotation, example)
    elif accepts(annotation, section[name]):
        return section[name]
    else:
        add_wrong(problems, place, section[name], annotation, example)
    return None


def subsection(
    problems: Problems, place: str, section: Mapping[str, object], example: str
) -> dict[str, Any] | None:
    """The mapping at ``place`` (its last part is looked up), or None after noting why not."""
    found: dict[str, Any] | None = require(problems, place, section, Mapped, example)
    return found
