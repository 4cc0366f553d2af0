"""Checks a section against the constructor that BasicSR calls with its keys."""

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from basicsr.utils.registry import Registry

from esc_arch.options.problems import MISSING, Problems, describe, nearest, suggestion
from esc_arch.options.types import accepts, type_of_parameter, words
from esc_arch.options.validate import add_wrong

# Registry.get looks for a name with this ending too, after printing a line about it.
_SUFFIX = "_basicsr"

# The nouns of messages for a registry's objects.
_NOUNS = {"arch": "network"}


def registered(registry: Registry, name: object) -> Callable[..., Any] | None:
    """The object of a name, found as ``Registry.get`` finds it but without its printing."""
    known = dict(iter(registry))
    return known.get(name) or known.get(f"{name}{_SUFFIX}") if isinstance(name, str) else None


def names(registry: Registry) -> list[str]:
    """The registered names as option files write them."""
    return [name.removesuffix(_SUFFIX) for name, _ in registry]


def resolve_type(
    problems: Problems, place: str, section: Mapping[str, Any], registry: Registry, example: str
) -> Callable[..., Any] | None:
    """The class or function that ``section["type"]`` names, or None after noting why not."""
    type_place = f"{place}.type"
    if "type" not in section:
        problems.add(type_place, "a name", MISSING, f"Add `type: {example}`.")
        return None
    found = registered(registry, section["type"])
    if found is None:
        problems.add(
            type_place,
            f"the name of a registered {_NOUNS.get(registry._name, registry._name)}",
            describe(section["type"]),
            suggestion(section["type"], names(registry)),
        )
    return found


def check_arguments(
    problems: Problems,
    place: str,
    function: Callable[..., Any],
    given: Mapping[str, Any],
    supplied: Collection[str] = (),
    extra: Collection[str] = (),
) -> None:
    """Check keys and types of ``given`` against the parameters of ``function``.

    Args:
        place: dotted path of the section.
        given: the section; its ``type`` is ignored.
        supplied: parameters that BasicSR passes itself.
        extra: further keys that BasicSR reads from the section.
    """
    parameters, takes_any = parameters_of(function)
    legal = {name for name in parameters if name not in supplied} | {"type", *extra}
    label = getattr(function, "__name__", type(function).__name__)
    noted = []
    for name in given:
        if name in legal:
            continue
        # **kwargs swallow a misspelt key; a key close to an unused parameter is taken for one.
        if takes_any and name not in supplied and nearest(name, legal - set(given)) is None:
            continue
        noted.append(name)
        problems.add(
            f"{place}.{name}",
            f"an argument of {label}",
            "an unknown key",
            "Remove it: BasicSR passes it itself."
            if name in supplied
            else suggestion(name, legal - {"type"}),
        )
    for name, (annotation, default) in parameters.items():
        if name in supplied:
            continue
        if name not in given:
            if default is inspect.Parameter.empty and nearest(name, noted) is None:
                advice = f"Add `{name}:`, which {label} requires."
                problems.add(f"{place}.{name}", words(annotation), MISSING, advice)
        elif not accepts(annotation, given[name]):
            add_wrong(problems, f"{place}.{name}", given[name], annotation, _example(default))


def default_of(function: Callable[..., Any], name: str) -> object:
    """The default of a parameter; None when it has none or does not exist."""
    _, default = parameters_of(function)[0].get(name, (None, None))
    return None if default is inspect.Parameter.empty else default


def has_parameter(function: Callable[..., Any], name: str) -> bool:
    """Whether a parameter has this name."""
    return name in parameters_of(function)[0]


@functools.cache
def parameters_of(function: Callable[..., Any]) -> tuple[dict[str, tuple[Any, object]], bool]:
    """Type and default of each named parameter, and whether any other key is taken too."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}, True
    target = function.__init__ if inspect.isclass(function) else function
    try:
        hints = typing.get_type_hints(target)
    except Exception:
        # A hint may name anything; without hints the defaults still give the types.
        hints = {}
    named = {
        p.name: (type_of_parameter(p, hints.get(p.name, p.empty)), p.default)
        for p in parameters
        if p.kind not in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def complaint(error: Exception) -> str:
    """One line for an exception of a constructor."""
    first = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _example(default: object) -> str:
    if default is inspect.Parameter.empty or default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return str(list(default)) if isinstance(default, tuple) else str(default)
