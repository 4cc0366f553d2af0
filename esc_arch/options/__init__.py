"""Reads, checks and explains BasicSR's option files."""

from esc_arch.options.checking import check, check_files, check_machine, check_structure
from esc_arch.options.forcing import force
from esc_arch.options.reading import read
from esc_arch.options.resolving import parse, resolve
from esc_arch.options.run import Run

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
