"""Validates a section by its pydantic model, and words pydantic's errors as problems."""

import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from esc_arch.options.problems import MISSING, Problems, describe, nearest, suggestion
from esc_arch.options.types import STRICT, Mapped, choices, words


class Section(BaseModel):
    """A section of an option file: its keys, each with type, meaning, example and default."""

    model_config = ConfigDict(**STRICT, extra="forbid", protected_namespaces=())
    # Sections that the top level may have, and that are validated on their own.
    apart: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def needed(cls, section: Mapping[str, object], is_train: bool) -> Collection[str]:
        """Keys that this use of the section needs beside those without a default."""
        return ()


class OpenSection(Section):
    """A section of which code outside this package may read further keys."""

    model_config = ConfigDict(extra="allow")


def key(meaning: str, example: str, default: object = ...) -> Any:
    """A key of a section.

    Args:
        meaning: for the reference page and for editors.
        example: a value to show in messages, as YAML.
        default: the value when the key is absent; required without one.
    """
    return Field(default, description=meaning, examples=[example])


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
        problems.add(
            dotted(place, name),
            "a key that BasicSR reads",
            "an unknown key",
            suggestion(name, fields),
        )
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


def subsection(
    problems: Problems, place: str, section: Mapping[str, object], example: str
) -> dict[str, Any] | None:
    """The mapping at ``place`` (its last part is looked up), or None after noting why not."""
    name = place.rpartition(".")[2]
    value = section.get(name)
    if isinstance(value, dict):
        return value
    if name in section:
        add_wrong(problems, place, value, Mapped, example)
    else:
        add_missing(problems, place, Mapped, example)
    return None


def dotted(place: str, name: object) -> str:
    """The dotted path of a key."""
    return f"{place}.{name}" if place else str(name)
