"""Constructors that option files name: their arguments checked, and networks built."""

import functools
import inspect
import os
import typing
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY, Registry
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from esc_arch.errors import UserError, first_line
from esc_arch.options.problems import MISSING, Problems, nearest, suggestion, unregistered
from esc_arch.options.types import accepts, add_wrong, type_of_parameter, words

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
    problems: Problems,
    place: str,
    section: Mapping[str, Any],
    known: Registry | Mapping[str, Callable[..., Any]],
    example: str,
) -> Callable[..., Any] | None:
    """The class or function that ``section["type"]`` names, or None after noting why not."""
    name = section.get("type")
    if isinstance(known, Registry):
        found, choices = registered(known, name), names(known)
        expected = f"the name of a registered {_NOUNS.get(known._name, known._name)}"
    else:
        found, choices = known.get(name) if isinstance(name, str) else None, list(known)
        expected = "one of " + ", ".join(known)
    if found is None:
        is_given = "type" in section
        advice = suggestion(name, choices) if is_given else f"Add `type: {example}`."
        if isinstance(name, str) and isinstance(known, Registry):
            advice = unregistered(name, choices, _NOUNS.get(known._name, known._name))
        problems.wrong(place, section, "type", expected, advice)
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
    name, first = type(error).__name__, first_line(error)
    return name if first == name else f"{name}: {first}"


def _example(default: object) -> str:
    if default is inspect.Parameter.empty or default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return str(list(default)) if isinstance(default, tuple) else str(default)


# The largest published networks have some two thousand.
_MOST_MODULES = 10_000
# Far above the sizes of any network; lists of as many numbers are made in a second.
_MOST = 10**6
_FLOAT_BYTES = 4


class TooLarge(ValueError):
    """A network that could not be trained here, and whose building might not end."""


def build(section: Mapping[str, Any]) -> torch.nn.Module:
    """The network of a checked ``network_*`` section, as BasicSR's build_network makes it.

    Raises:
        TooLarge: before much time or memory is spent.
        KeyError: when no network has the name.
    """
    network = registered(ARCH_REGISTRY, section["type"])
    if network is None:
        raise KeyError(section["type"])
    arguments = {name: value for name, value in section.items() if name != "type"}
    with warnings.catch_warnings(), _bounded():
        warnings.simplefilter("ignore")
        module: torch.nn.Module = network(**arguments)
    return module


def try_network(
    section: Mapping[str, Any], use: Callable[[torch.nn.Module], object] = lambda _: None
) -> Exception | None:
    """The error of building and using a network: without memory first, and in memory when that
    fails, as constructors that read a value back from a tensor fail without it.

    Raises:
        UserError: when the network's package is missing, whatever the arguments.
    """
    largest = max(_sizes(section), default=0)
    if largest > _MOST:
        return TooLarge(f"an argument of {largest:,}, above {_MOST:,}")
    error: Exception | None = None
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), torch.no_grad():
                use(build(section))
            return None
        except UserError:
            raise
        except Exception as caught:
            error = caught
            # The words of PyTorch's allocator, which it gives no class of its own.
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                error = TooLarge("more than the memory holds")
            if isinstance(error, TooLarge):
                break
    return error


def _sizes(value: object, name: str = "") -> Iterator[int]:
    """The sizes of the whole numbers of a section, except seeds."""
    if isinstance(value, Mapping):
        for inner_name, inner in value.items():
            yield from _sizes(inner, inner_name)
    elif isinstance(value, list):
        for inner in value:
            yield from _sizes(inner, name)
    elif isinstance(value, int) and "seed" not in name:
        yield abs(value)


@contextmanager
def _bounded() -> Iterator[None]:
    """Stop any constructor in the block that makes too much."""
    modules, numbers = 0, 0
    most_numbers = memory_bytes() // _FLOAT_BYTES

    def count_module(*_: object) -> None:
        nonlocal modules
        modules += 1
        if modules > _MOST_MODULES:
            raise TooLarge(f"more than {_MOST_MODULES} layers")

    def count_parameter(module: object, name: str, parameter: torch.Tensor | None) -> None:
        nonlocal numbers
        numbers += 0 if parameter is None else parameter.numel()
        if numbers > most_numbers:
            raise TooLarge(f"more parameters than the {most_numbers:,} that the memory holds")

    hooks = (
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_parameter),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def memory_bytes() -> int:
    """Memory of this machine; where the system does not say, that of a large one."""
    if not hasattr(os, "sysconf"):
        return 2**38
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
