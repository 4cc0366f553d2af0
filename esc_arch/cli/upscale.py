"""``basicsr upscale``: enlarges image files."""

import argparse
import re
import sys
from typing import TYPE_CHECKING

from esc_arch.cli.commands import INTERRUPTED

if TYPE_CHECKING:
    from esc_arch.upscale.upscaler import Upscaler

_FORMATS = ("png", "jpeg", "webp", "tiff", "bmp")
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image files, folders (searched to the bottom), or quoted patterns such as '*.png'",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="file to make of one file; else a folder, in which files keep their places",
    )
    parser.add_argument(
        "-w",
        "--weights",
        metavar="WEIGHTS",
        help="file (.pth, .safetensors, .onnx, ...), URL, or name of a shipped model (default: "
        "the shipped demonstration model)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        metavar="S",
        help="of the result, such as 3 or 1.5 (default: the network's)",
    )
    files = parser.add_argument_group("output files")
    files.add_argument(
        "--format",
        type=_format,
        metavar="FORMAT",
        help=f"{', '.join(_FORMATS)} (default: by the extension of OUT, or of each input)",
    )
    files.add_argument(
        "--quality", type=_quality, default=95, metavar="Q", help="of JPEG and WebP (default: 95)"
    )
    files.add_argument("--lossless", action="store_true", help="WebP without loss")
    existing = files.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite", action="store_true", help="replace outputs that are there already"
    )
    existing.add_argument(
        "--skip-existing", action="store_true", help="leave out inputs whose output is there"
    )
    computing = parser.add_argument_group("computing")
    computing.add_argument(
        "--self-ensemble",
        action="store_true",
        help="average over eight flips and turns of the image: a little better, 8 times as long",
    )
    computing.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1, ..."
    )
    computing.add_argument(
        "--dtype",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="of the arithmetic (default: auto, fp32 on a CPU, half on a GPU)",
    )
    computing.add_argument(
        "--tile",
        type=_tile,
        default="auto",
        metavar="N",
        help="side of the tiles in pixels of the input, auto (default: as the memory asks), or off",
    )
    computing.add_argument(
        "--memory",
        type=_memory,
        metavar="SIZE",
        help="that computing may take, such as 800M or 2G (default: half of what is free)",
    )


def run(args: argparse.Namespace) -> int:
    """Enlarge.

    Returns:
        The exit code: 0; 1 when an image failed; 130 after Ctrl-C.
    """
    from esc_arch.upscale.planning import Existing, plan

    # Before PyTorch is loaded, since mistakes are found here.
    todo = plan(args.inputs, args.output, args.format, Existing(args.overwrite, args.skip_existing))
    for reason in todo.unreadable:
        _say(f"failed: {reason}")
    if todo.skipped:
        _say(f"skipped: {len(todo.skipped)} whose output is there already")
    if not todo.jobs:
        return 1 if todo.unreadable else 0
    from esc_arch.progress import progress
    from esc_arch.upscale.pipeline import Outcome, upscale_files
    from esc_arch.upscale.upscaler import Upscaler

    outcome = Outcome()
    try:
        upscaler = Upscaler(
            args.weights,
            device=args.device,
            dtype=args.dtype,
            scale=args.scale,
            tile=args.tile,
            memory=args.memory,
            self_ensemble=args.self_ensemble,
        )
        _say(_introduced(upscaler))
        with progress("upscaling", len(todo.jobs)) as bar:
            upscale_files(
                todo.jobs,
                upscaler,
                quality=args.quality,
                lossless=args.lossless,
                overwrite=args.overwrite,
                say=_say,
                progress=bar,
                outcome=outcome,
            )
    except KeyboardInterrupt:
        _say(
            f"Stopped: {len(outcome.written)} of {len(todo.jobs)} images were written. Run the "
            "same command with --skip-existing to go on."
        )
        return INTERRUPTED
    count = f"{len(outcome.written)} of {len(todo.jobs)} image{'s' * (len(todo.jobs) != 1)}"
    failed = f"; {len(outcome.failed)} failed" if outcome.failed else ""
    print(f"{args.output}: {count}{failed}")
    return 1 if outcome.failed or todo.unreadable else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _introduced(upscaler: "Upscaler") -> str:
    """Which network and weights, and what they are not."""
    from esc_arch.checkpoints.locations import shipped_folder

    dtype = str(upscaler.dtype).removeprefix("torch.")
    line = f"{upscaler.path}: {upscaler.name}, {dtype} on {upscaler.device}"
    if upscaler.choice:
        line += f", of its {upscaler.choice}"
    if upscaler.scale != upscaler.network_scale:
        line += f", resized to x{upscaler.scale:g}"
    if upscaler.path.parent == shipped_folder():
        line += (
            ". It is a demonstration model, trained briefly on few photographs: name better "
            "weights with -w"
        )
    return line


def _format(text: str) -> str:
    name = {"jpg": "jpeg", "tif": "tiff"}.get(text.lower().lstrip("."), text.lower().lstrip("."))
    if name not in _FORMATS:
        raise argparse.ArgumentTypeError(f"expected {', '.join(_FORMATS)}; found {text}")
    return name


def _quality(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"expected 1 to 100; found {text}")
    return int(text)


def _tile(text: str) -> str | int:
    if text in ("auto", "off"):
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected auto, off, or 1 or more; found {text}")
    return int(text)


def _memory(text: str) -> int:
    match = _BYTES.fullmatch(text.strip())
    power = 0 if match is None or not match[2] else "KMGT".index(match[2].upper()) + 1
    size = 0 if match is None else round(float(match[1]) * 1024**power)
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 800M or 2G; found {text}")
    return size
