"""``basicsr data lmdb``: packs a folder of images for fast reading in training."""

import argparse
from pathlib import Path

from esc_arch.cli.data.jobs import add_jobs
from esc_arch.data.lmdb_writer import folder_entries, pack


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="images; not searched deeper")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT.lmdb",
        help="default: FOLDER.lmdb; it is replaced once the new one is complete",
    )
    parser.add_argument(
        "--strip",
        metavar="SUFFIX",
        help="taken off the end of each name, since HR and LR need the same keys (default: x2, "
        "x3, ... where all names end so; '' keeps names as they are)",
    )
    add_jobs(parser)


def run(args: argparse.Namespace) -> None:
    # A name that a key can be appended to, also for "." and "..".
    folder = args.folder.resolve() if args.folder.name in ("", "..") else args.folder
    output = args.output or folder.with_name(f"{folder.name}.lmdb")
    entries, suffix = folder_entries(folder, args.strip)
    if suffix:
        print(
            f"keys: names without {suffix}, such as {entries[0].key} for {entries[0].source.name}"
        )
    if pack(output, entries, args.jobs):
        print(f"{output}: {len(entries)} images")
    else:
        print(f"{output}: was made of these {len(entries)} images before; nothing to do")
