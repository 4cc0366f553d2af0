"""Builds the network of a section, within the memory and time that a network may take."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from esc_arch.options.constructors import registered

# The largest published networks have some two thousand.
_MOST_MODULES = 10_000
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


@contextmanager
def _bounded() -> Iterator[None]:
    """Stop any constructor in the block that makes too much."""
    modules, numbers = 0, 0
    most_numbers = _memory_bytes() // _FLOAT_BYTES

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


def _memory_bytes() -> int:
    """Memory of this machine; where the system does not report it, that of a large one."""
    if not hasattr(os, "sysconf"):
        return 2**38
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
