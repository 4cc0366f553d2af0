"""Sub-commands that are imported when they are called: most need seconds to import."""

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esc_arch.errors import UserError

__all__ = [
    "INTERRUPTED",
    "CommandParser",
    "add_commands",
    "add_device",
    "add_modules",
    "device_of",
]

INTERRUPTED = 130  # the exit code that shells give for Ctrl-C

AddArguments = Callable[[argparse.ArgumentParser], None]


class CommandParser(argparse.ArgumentParser):
    """Parser of a sub-command, which gets its arguments when it is asked to parse.

    Args:
        add_arguments: adds them, and sets the default ``run`` to the function of the command.
    """

    def __init__(
        self, *args: Any, add_arguments: AddArguments | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._add_arguments = add_arguments

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._add_arguments is not None:
            add_arguments, self._add_arguments = self._add_arguments, None
            add_arguments(self)
        return super().parse_known_args(args, namespace)


def add_commands(
    parser: argparse.ArgumentParser, commands: Mapping[str, tuple[str, AddArguments]]
) -> None:
    """Add sub-commands.

    Args:
        commands: help of each, and the function that adds its arguments, by its name.
    """
    added = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for name, (text, add_arguments) in commands.items():
        added.add_parser(name, help=text, description=text, add_arguments=add_arguments)


def add_modules(parser: argparse.ArgumentParser, package: str, helps: Mapping[str, str]) -> None:
    """Add the sub-commands of a package.

    Args:
        package: has a module of the name of each sub-command, with ``add_arguments(parser)`` and,
            unless that adds sub-commands, ``run(args)``.
        helps: of each sub-command, by its name.
    """

    def loader(name: str) -> AddArguments:
        def add_arguments(parser: argparse.ArgumentParser) -> None:
            module = importlib.import_module(f"{package}.{name}")
            module.add_arguments(parser)
            if hasattr(module, "run"):
                parser.set_defaults(run=module.run)

        return add_arguments

    add_commands(parser, {name: (text, loader(name)) for name, text in helps.items()})


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``, for :func:`device_of`."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="default: a GPU where there is one",
    )


def device_of(name: str) -> str:
    """The device, ``cpu`` or ``cuda``.

    Raises:
        UserError: when there is no GPU.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: expected a GPU that PyTorch can use; found none.")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
