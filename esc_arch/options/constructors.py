"""Checks a section against the constructor that BasicSR calls with its keys."""

import inspect
import typing
from collections.abc import Callable, Collection, Mapping

from basicsr.utils.registry import Registry

from esc_arch.options.kinds import Kind, of_parameter
from esc_arch.options.problems import MISSING, Problems, describe, nearest, suggestion
from esc_arch.options.sections import NO_EXAMPLE, Field, add_wrong

# Registry.get looks for a name with this ending too, after printing a line about it.
_SUFFIX = "_basicsr"

# How messages call what a registry holds.
_KINDS = {"arch": "network"}


def registered(registry: Registry, name: object) -> Callable | None:
    """What ``name`` stands for, found as ``Registry.get`` finds it but in silence."""
    known = dict(iter(registry))
    return known.get(name) or known.get(f"{name}{_SUFFIX}") if isinstance(name, str) else None


def names(registry: Registry) -> list[str]:
    """The registered names as option files write them."""
    return [name.removesuffix(_SUFFIX) for name, _ in registry]


def resolve_type(
    problems: Problems, key: str, section: Mapping[str, object], registry: Registry, example: str
) -> Callable | None:
    """The class or function that ``section["type"]`` names, or None after noting why not."""
    type_key = f"{key}.type"
    if "type" not in section:
        problems.add(type_key, "a name", MISSING, f"Add `type: {example}`.")
        return None
    found = registered(registry, section["type"])
    if found is None:
        problems.add(
            type_key,
            f"the name of a registered {_KINDS.get(registry._name, registry._name)}",
            describe(section["type"]),
            suggestion(section["type"], names(registry)),
        )
    return found


def check_arguments(
    problems: Problems,
    key: str,
    function: Callable,
    given: Mapping[str, object],
    supplied: Collection[str] = (),
    extra: Collection[str] = (),
) -> None:
    """Check keys and types of ``given`` against the parameters of ``function``.

    Args:
        key: dotted path of the section.
        given: the section; its ``type`` is ignored.
        supplied: parameters that BasicSR passes itself.
        extra: further keys that BasicSR reads from the section.
    """
    parameters, any_key = _parameters(function)
    hints = _hints(function)
    legal = {name for name in parameters if name not in supplied} | {"type", *extra}
    unknown = [name for name in given if name not in legal]
    told = []
    for name in unknown:
        close = nearest(name, legal - set(given))
        # **kwargs swallow a misspelt key; a key close to an unused parameter is taken for one.
        if any_key and name not in supplied and close is None:
            continue
        told.append(name)
        problems.add(
            f"{key}.{name}",
            f"an argument of {_name(function)}",
            "an unknown key",
            "Remove it: BasicSR passes it itself."
            if name in supplied
            else suggestion(name, legal - {"type"}),
        )
    for name, parameter in parameters.items():
        if name in supplied:
            continue
        kind = of_parameter(parameter, hints.get(name, inspect.Parameter.empty))
        if name not in given:
            if parameter.default is parameter.empty and nearest(name, told) is None:
                _add_missing_argument(problems, f"{key}.{name}", kind, function)
        elif not kind.accepts(given[name]):
            add_wrong(problems, f"{key}.{name}", given[name], Field(kind, _example(parameter)))


def default_of(function: Callable, name: str) -> object:
    """The default of a parameter; None when it has none or does not exist."""
    parameter = _parameters(function)[0].get(name)
    if parameter is None or parameter.default is parameter.empty:
        return None
    return parameter.default


def has_parameter(function: Callable, name: str) -> bool:
    return name in _parameters(function)[0]


def complaint(error: Exception) -> str:
    """One line for an exception of a constructor."""
    first = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _parameters(function: Callable) -> tuple[dict[str, inspect.Parameter], bool]:
    """Named parameters, and whether any other key is taken too."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}, True
    positional_only = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    named = {
        p.name: p
        for p in parameters
        if p.kind not in (*positional_only, inspect.Parameter.VAR_KEYWORD)
    }
    return named, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _hints(function: Callable) -> dict[str, object]:
    target = function.__init__ if inspect.isclass(function) else function
    try:
        return typing.get_type_hints(target)
    except Exception:
        # A hint may name anything; without hints the defaults still tell the types.
        return {}


def _name(function: Callable) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _add_missing_argument(problems: Problems, key: str, kind: Kind, function: Callable) -> None:
    name = key.rpartition(".")[2]
    problems.add(key, kind.text, MISSING, f"Add `{name}:`, which {_name(function)} requires.")


def _example(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty or default is None:
        return NO_EXAMPLE
    if isinstance(default, bool):
        return str(default).lower()
    return str(list(default)) if isinstance(default, tuple) else str(default)
