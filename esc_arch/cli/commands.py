"""Sub-commands that are imported when they are called: most need seconds to import."""

import argparse
import importlib
from collections.abc import Mapping, Sequence

__all__ = ["CommandParser", "add_commands"]


class CommandParser(argparse.ArgumentParser):
    """Parser of a sub-command, which gets its arguments when it is asked to parse.

    Args:
        module: name of the module of the sub-command.  It has ``add_arguments(parser)``, and
            ``run(args)`` unless it has sub-commands of its own.
    """

    def __init__(self, *args: object, module: str | None = None, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._module = module

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._module is not None:
            module = importlib.import_module(self._module)
            self._module = None
            module.add_arguments(self)
            if hasattr(module, "run"):
                self.set_defaults(run=module.run)
        return super().parse_known_args(args, namespace)


def add_commands(parser: argparse.ArgumentParser, package: str, helps: Mapping[str, str]) -> None:
    """Add the sub-commands of a package.

    Args:
        package: has a module of the name of each sub-command.
        helps: what each sub-command does, by its name.
    """
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for name, text in helps.items():
        commands.add_parser(name, help=text, description=text, module=f"{package}.{name}")
