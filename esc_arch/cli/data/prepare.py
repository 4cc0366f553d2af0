"""``basicsr data prepare``: HR, LR, sub-images and LMDBs out of any image files."""

import argparse
import sys
from pathlib import Path

from esc_arch.cli.data.jobs import add_jobs
from esc_arch.data.prepare import prepare, settings, summary

_INTERRUPTED = 130  # what shells give for Ctrl-C


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="folder with images below it, or one image")
    parser.add_argument("--dest", required=True, metavar="DIR", help="where to put the results")
    parser.add_argument(
        "--scales",
        type=int,
        nargs="*",
        default=[2, 3, 4],
        metavar="S",
        help="of the LR images (default: 2 3 4); no number: HR alone",
    )
    parser.add_argument("--sub-image", type=int, metavar="SIZE", help="also cut windows of SIZE")
    parser.add_argument("--step", type=int, help="from window to window (default: half of SIZE)")
    parser.add_argument(
        "--thresh", type=int, help="pixels that windows may leave out at the edges (default: 0)"
    )
    parser.add_argument(
        "--lmdb", action="store_true", help="also pack the sub-images, or the images, into LMDBs"
    )
    add_jobs(parser)
    parser.add_argument("--strict", action="store_true", help="stop at the first bad image")


def run(args: argparse.Namespace) -> int:
    """Prepare.

    Returns:
        The exit code: 0; 1 when images were skipped; 130 after Ctrl-C.
    """
    chosen = settings(args.scales, args.sub_image, args.step, args.thresh, args.lmdb)
    try:
        done = prepare(args.src, args.dest, chosen, args.jobs, args.strict)
    except KeyboardInterrupt:
        print("Stopped. Run the same command again to go on from here.", file=sys.stderr)
        return _INTERRUPTED
    for reason in done.skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    print(summary(done, Path(args.dest), chosen))
    return 1 if done.skipped else 0
