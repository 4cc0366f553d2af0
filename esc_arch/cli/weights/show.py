"""``basicsr weights show``: what a checkpoint is."""

import argparse

from esc_arch.checkpoints.loading import Inspected, inspect
from esc_arch.files import sha256_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .pth or .safetensors file")


def run(args: argparse.Namespace) -> None:
    for key, value in _lines(inspect(args.file)):
        print(f"{key}: {value}")
    print(f"sha256: {sha256_of(args.file)}")


def _lines(found: Inspected) -> list[tuple[str, object]]:
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
    told = {k: v for k, v in found.metadata.items() if k not in ("network", "scale", "arguments")}
    lines.append(("metadata", "" if told else "none"))
    return lines + [(f"  {key}", value) for key, value in sorted(told.items())]
