"""``basicsr options``: recipes of option files, their JSON schema, a reference of their keys."""

import argparse
import sys
from pathlib import Path

from esc_arch.cli.commands import add_commands
from esc_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands, each with its arguments."""
    add_commands(parser, COMMANDS)


def _add_new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="RECIPE", help="esc, esc_light, swinir_light, ..."
    )
    parser.add_argument(
        "--scale", type=int, metavar="N", help="upscaling factor (default: 2, or the least)"
    )
    parser.add_argument("--test", action="store_true", help="the file to test with")
    parser.add_argument("--all", type=Path, metavar="DIR", help="write every file into this folder")
    parser.add_argument(
        "--overwrite", action="store_true", help="with --all: replace files that differ"
    )
    parser.set_defaults(run=_new)


def _new(args: argparse.Namespace) -> None:
    if args.all is not None:
        given = {
            args.name: args.name is not None,
            "--scale": args.scale is not None,
            "--test": args.test,
        }
        others = [name for name, is_given in given.items() if is_given]
        if others:
            raise UserError(
                f"--all {args.all}: expected no recipe, --scale or --test beside it; found "
                f"{', '.join(others)}. Leave one of the two out."
            )
        if not args.all.is_dir():
            raise UserError(f"--all {args.all}: expected a folder; found none. Make it first.")
    elif args.overwrite:
        raise UserError("--overwrite: expected --all DIR beside it; found none. Leave it out.")

    from esc_arch.options.recipes import names, recipe, write_all

    if args.all is not None:
        print(f"{args.all}: {len(write_all(args.all, args.overwrite))} option files")
    elif args.name is None:
        raise UserError(
            f"options new: expected a recipe: {', '.join(names(args.test))}; found none. Name one."
        )
    else:
        args.prints_its_work = True
        sys.stdout.write(recipe(args.name, args.scale, args.test)[1])


def _add_schema(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_schema, prints_its_work=True)


def _schema(args: argparse.Namespace) -> None:
    from esc_arch.options.schema import schema_text

    sys.stdout.write(schema_text())


def _add_reference(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_reference, prints_its_work=True)


def _reference(args: argparse.Namespace) -> None:
    from esc_arch.options.schema import reference

    sys.stdout.write(reference())


COMMANDS = {
    "new": ("Print an option file for a network, or write all of this package's.", _add_new),
    "schema": ("Print the JSON schema of option files, for editors.", _add_schema),
    "reference": ("Print a reference of all keys, in Markdown.", _add_reference),
}
