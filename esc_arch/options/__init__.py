"""Reads, checks and explains BasicSR's option files."""

from esc_arch.options.invocation import Run
from esc_arch.options.option_file import check, check_files, check_machine, check_structure
from esc_arch.options.parse import parse, resolve
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
