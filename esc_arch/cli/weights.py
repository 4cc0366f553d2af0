"""``basicsr weights``: converts checkpoints, and describes them."""

import argparse
from typing import TYPE_CHECKING

from esc_arch.cli.commands import add_commands

if TYPE_CHECKING:
    from esc_arch.checkpoints.loading import Inspected


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands, each with its arguments."""
    add_commands(parser, COMMANDS)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="a .pth or .safetensors file")
    parser.add_argument("target", metavar="OUT", help="ends with .pth or .safetensors")
    parser.add_argument(
        "--parameters",
        choices=("params_ema", "params", "state_dict"),
        help="which set of IN to take; the first that it has when left out",
    )
    parser.add_argument("--half", action="store_true", help="store numbers as float16")
    parser.add_argument("--licence", default="", metavar="TEXT", help="of the weights")
    parser.add_argument("--training", default="", metavar="TEXT", help="on what, and how long")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    parser.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from esc_arch.checkpoints.conversion import convert

    found = convert(
        args.source,
        args.target,
        parameters=args.parameters,
        half=args.half,
        licence=args.licence,
        training=args.training,
        overwrite=args.overwrite,
    )
    place = f", {found.place}" if found.place else ""
    print(f"{args.target}: {found.name}{place}, {found.parameters:,} numbers")


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .pth or .safetensors file")
    parser.set_defaults(run=_show)


def _show(args: argparse.Namespace) -> None:
    from esc_arch.checkpoints.loading import inspect
    from esc_arch.files import sha256_of

    for key, value in _lines(inspect(args.file)):
        print(f"{key}: {value}")
    print(f"sha256: {sha256_of(args.file)}")


def _lines(found: "Inspected") -> list[tuple[str, object]]:
    lines: list[tuple[str, object]] = [("network", found.name), ("scale", f"x{found.scale}")]
    if found.detected is None:
        lines.append(("known by", "spandrel"))
    else:
        lines.append(("class", found.detected.network.__name__))
        lines.append(("preset", found.detected.preset or "none: other arguments"))
        lines += [(f"  {name}", value) for name, value in sorted(found.detected.arguments.items())]
    lines.append(("stored under", found.place or "the top"))
    lines.append(("numbers", f"{found.parameters:,}"))
    lines.append(("dtype", found.dtypes))
    more = {k: v for k, v in found.metadata.items() if k not in ("network", "scale", "arguments")}
    lines.append(("metadata", "" if more else "none"))
    return lines + [(f"  {key}", value) for key, value in sorted(more.items())]


COMMANDS = {
    "convert": (
        "Convert a checkpoint: .pth to .safetensors and back, to float16, one of its sets.",
        _add_convert,
    ),
    "show": (
        "Describe a checkpoint: network, scale, arguments, size, metadata, checksum.",
        _add_show,
    ),
}
