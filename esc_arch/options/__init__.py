"""Reads, checks and explains BasicSR's option files."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esc_arch.options.invocation import Run
    from esc_arch.options.option_file import check, check_files, check_machine, check_structure
    from esc_arch.options.parsing import parse, resolve
    from esc_arch.options.yaml import force, read

__all__ = [
    "Run",
    "check",
    "check_files",
    "check_machine",
    "check_structure",
    "force",
    "parse",
    "read",
    "resolve",
]

# Checking imports BasicSR and PyTorch, which takes seconds; a recipe's name needs neither.
_MODULES = {
    "Run": "invocation",
    **dict.fromkeys(("check", "check_files", "check_machine", "check_structure"), "option_file"),
    **dict.fromkeys(("parse", "resolve"), "parsing"),
    **dict.fromkeys(("force", "read"), "yaml"),
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
