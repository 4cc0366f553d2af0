"""``basicsr options``: recipes of option files, their JSON schema, a reference of their keys."""

import argparse
import sys
from pathlib import Path

from esc_arch.cli.commands import CommandParser
from esc_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands ``new``, ``schema`` and ``reference``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    text = "Print an option file for a network, or write all of this package's."
    new = commands.add_parser("new", help=text, description=text)
    new.add_argument("name", nargs="?", metavar="PRESET", help="esc, esc_light, swinir_light, ...")
    new.add_argument("--scale", type=int, default=2, metavar="N", help="upscaling factor (2)")
    new.add_argument("--test", action="store_true", help="the file to test with")
    new.add_argument("--all", type=Path, metavar="DIR", help="write every file into this folder")
    new.set_defaults(run=_new)
    text = "Print the JSON schema of option files, for editors."
    commands.add_parser("schema", help=text, description=text).set_defaults(run=_schema)
    text = "Print a reference of all keys, in Markdown."
    commands.add_parser("reference", help=text, description=text).set_defaults(run=_reference)


def _new(args: argparse.Namespace) -> None:
    from esc_arch.options.recipes import names, recipe, write_all

    if args.all is not None:
        if not args.all.is_dir():
            raise UserError(f"--all {args.all}: expected a folder; found none. Make it first.")
        files = write_all(args.all)
        print(f"{args.all}: {len(files)} option files")
        return
    if args.name is None:
        raise UserError(
            f"options new: expected a recipe: {', '.join(names(args.test))}; found none. Name one."
        )
    sys.stdout.write(recipe(args.name, args.scale, args.test)[1])


def _schema(args: argparse.Namespace) -> None:
    from esc_arch.options.schema import schema_text

    sys.stdout.write(schema_text())


def _reference(args: argparse.Namespace) -> None:
    from esc_arch.options.schema import reference

    sys.stdout.write(reference())
