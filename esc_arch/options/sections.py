"""Checks the keys of a section against a table of fields."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from esc_arch.options.kinds import SECTION, Kind
from esc_arch.options.problems import MISSING, Problems, describe, nearest, suggestion

NO_EXAMPLE = "..."


class Field(NamedTuple):
    """One key of a section.

    Attributes:
        kind: what its value may be.
        example: a value to show in the message, as YAML.
        required: whether BasicSR stops with a KeyError when it is absent.
    """

    kind: Kind
    example: str
    required: bool = False


def check_fields(
    problems: Problems,
    key: str,
    section: Mapping[str, object],
    fields: Mapping[str, Field],
    known: Iterable[str] | None = None,
) -> None:
    """Check types of known keys, missing keys and, with ``known``, unknown keys.

    Args:
        key: dotted path of the section; "" for the file's top level.
        known: further legal keys; None when any other key may stand there.
    """
    unknown = []
    if known is not None:
        legal = {*fields, *known}
        unknown = [name for name in section if name not in legal]
        for name in unknown:
            problems.add(
                dotted(key, name),
                "a key that BasicSR reads",
                "an unknown key",
                suggestion(name, legal),
            )
    for name, field in fields.items():
        if name not in section:
            # A misspelt required key is one problem, already told.
            if field.required and nearest(name, unknown) is None:
                add_missing(problems, dotted(key, name), field)
        elif not field.kind.accepts(section[name]):
            add_wrong(problems, dotted(key, name), section[name], field)


def add_missing(problems: Problems, key: str, field: Field) -> None:
    name = key.rpartition(".")[2]
    problems.add(key, field.kind.text, MISSING, f"Add `{name}: {field.example}`.")


def add_wrong(problems: Problems, key: str, value: object, field: Field) -> None:
    if field.kind.choices and isinstance(value, str):
        advice = suggestion(value, field.kind.choices)
    elif field.example == NO_EXAMPLE:
        advice = f"Give it {field.kind.text}."
    else:
        advice = f"Write, for example, `{key.rpartition('.')[2]}: {field.example}`."
    problems.add(key, field.kind.text, describe(value), advice)


def subsection(
    problems: Problems, key: str, section: Mapping[str, object], example: str
) -> dict | None:
    """The mapping at ``key`` (its last part is looked up), or None after noting why not."""
    name = key.rpartition(".")[2]
    if name not in section:
        add_missing(problems, key, Field(SECTION, example))
        return None
    if not isinstance(section[name], dict):
        add_wrong(problems, key, section[name], Field(SECTION, example))
        return None
    return section[name]


def dotted(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)
