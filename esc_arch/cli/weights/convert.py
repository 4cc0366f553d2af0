"""``basicsr weights convert``: from one form of checkpoint to another."""

import argparse

from esc_arch.checkpoints.conversion import convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
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
