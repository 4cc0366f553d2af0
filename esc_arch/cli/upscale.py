"""``basicsr upscale``: enlarges image files."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from esc_arch import terminal
from esc_arch.cli.commands import INTERRUPTED
from esc_arch.upscale import settings

if TYPE_CHECKING:
    from esc_arch.upscale.upscaler import Upscaler


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
        type=_argument(settings.format_name),
        metavar="FORMAT",
        help=f"{', '.join(settings.FORMATS)} (default: by the extension of OUT, or of each input)",
    )
    files.add_argument(
        "--quality",
        type=_argument(settings.quality_number),
        default=95,
        metavar="Q",
        help="of JPEG and WebP (default: 95)",
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
        type=_argument(settings.dtype_name),
        default="auto",
        metavar="DTYPE",
        help=f"of the arithmetic: {', '.join(settings.DTYPES)} (default: auto, fp32 on a CPU, half "
        "on a GPU); images of 16 bits are computed in fp32",
    )
    computing.add_argument(
        "--tile",
        type=_argument(settings.tile_side),
        default="auto",
        metavar="N",
        help="side of the tiles in pixels of the input, auto (default: as the memory asks), or off",
    )
    computing.add_argument(
        "--memory",
        type=_argument(settings.memory_bytes),
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
    if todo.unread:
        _say(f"note: {todo.unread}")
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
            say=lambda text: _say(f"note: {text}"),
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
    terminal.say(line)


def _introduced(upscaler: "Upscaler") -> str:
    """Which network and weights, and what they are not."""
    from esc_arch.checkpoints.locations import shipped_folder

    dtype = str(upscaler.dtype).removeprefix("torch.")
    line = f"{upscaler.path}: {upscaler.name}, {dtype} on {upscaler.device}"
    if upscaler.choice:
        line += f", of its {upscaler.choice}"
    if upscaler.any_scale:
        line += f", asked for x{upscaler.network_scale:g}"
    if upscaler.scale != upscaler.network_scale:
        line += f", resized to x{upscaler.scale:g}"
    if upscaler.path.parent == shipped_folder():
        line += (
            ". It is a demonstration model, trained briefly on few photographs: name better "
            "weights with -w"
        )
    return line


def _argument(check: Callable[[object], object]) -> Callable[[str], object]:
    """A check of an option as argparse takes it."""

    def argument(text: str) -> object:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return argument
