"""``basicsr weights``: converts checkpoints, and describes them."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from esc_arch.cli.commands import add_commands

if TYPE_CHECKING:
    from esc_arch.checkpoints.loading import Inspected, LoadedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands, each with its arguments."""
    add_commands(parser, COMMANDS)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="IN", help="checkpoint, its address, or the name of a shipped model"
    )
    parser.add_argument("target", metavar="OUT", help="ends with .pth or .safetensors")
    parser.add_argument(
        "--parameters",
        metavar="KEY",
        help="which set of IN to take, such as params; when left out the averaged one (params_ema, "
        "ema, ...) where there is one, else params, state_dict, model, ...",
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
    if found.others:
        place += f" (not {', '.join(found.others)})"
    print(f"{args.target}: {found.name}{place}, {found.parameters:,} numbers")


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        help="checkpoint or ONNX file, its address, or the name of a shipped model",
    )
    parser.set_defaults(run=_show)


def _show(args: argparse.Namespace) -> None:
    from esc_arch.checkpoints.loading import inspect, is_onnx, open_weights
    from esc_arch.checkpoints.locations import locate
    from esc_arch.files import sha256_of

    path = locate(args.file)
    lines = _onnx_lines(open_weights(path)) if is_onnx(path) else _lines(inspect(path))
    for key, value in lines:
        print(f"{key}: {value}")
    print(f"sha256: {sha256_of(path)}")


def _onnx_lines(found: "LoadedModel") -> list[tuple[str, object]]:
    return [
        ("network", found.name),
        ("scale", f"x{found.scale}"),
        ("known by", "onnxruntime"),
        ("channels", found.channels),
        *_metadata_lines(found.metadata),
    ]


def _lines(found: "Inspected") -> list[tuple[str, object]]:
    is_any = found.detected is not None and found.detected.any_scale
    scale = f"any (x{found.scale} where none is asked for)" if is_any else f"x{found.scale}"
    lines: list[tuple[str, object]] = [("network", found.name), ("scale", scale)]
    if found.detected is None:
        lines.append(("known by", "spandrel"))
    else:
        lines.append(("class", found.detected.network.__name__))
        lines.append(("preset", found.detected.preset or "none: other arguments"))
        lines += [
            (f"  {name}", f"{value}{' (assumed: no key tells it)' if name in assumed else ''}")
            for assumed in [() if found.metadata else found.detected.assumed]
            for name, value in sorted(found.detected.arguments.items())
        ]
    lines.append(("stored under", found.place or "the top"))
    if found.others:
        lines.append(("not taken", f"{', '.join(found.others)} (see --parameters of convert)"))
    lines.append(("numbers", f"{found.parameters:,}"))
    lines.append(("dtype", found.dtypes))
    return lines + _metadata_lines(found.metadata)


def _metadata_lines(metadata: Mapping[str, str]) -> list[tuple[str, object]]:
    more = {k: v for k, v in metadata.items() if k not in ("network", "scale", "arguments")}
    heading = [("metadata", "" if more else "none")]
    return [*heading, *((f"  {key}", value) for key, value in sorted(more.items()))]


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
