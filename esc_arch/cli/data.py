"""``basicsr data``: prepares, packs, checks, measures and downloads images."""

import argparse
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.table import Column, Table

from esc_arch import terminal
from esc_arch.cli.commands import INTERRUPTED, add_commands
from esc_arch.errors import UserError, listed

if TYPE_CHECKING:
    from esc_arch.data.check import Report
    from esc_arch.data.public_sets import Archive
    from esc_arch.data.statistics import Extent, SetStatistics, TooSmall

_GT_SIZES = (128, 192, 256)
# Columns of sets that fit beside each other on 80 characters.
_BESIDE = 3
_SHOWN_SMALL = 3
# Of one type; the others are counted.
_SHOWN = 20
_SHOWN_NAMES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands, each with its arguments."""
    add_commands(parser, COMMANDS)


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    from esc_arch.data.processes import default_jobs

    parser.add_argument(
        "--jobs",
        type=_positive,
        default=default_jobs(),
        metavar="N",
        help="number of processes (default: one for each CPU)",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more; found {text}")
    return int(text)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--strict", action="store_true", help="stop at the first bad image")
    _add_jobs(parser)
    parser.set_defaults(run=_prepare)


def _prepare(args: argparse.Namespace) -> int:
    """Prepare.

    Returns:
        The exit code: 0; 1 when images were skipped; 130 after Ctrl-C.
    """
    from esc_arch.data.prepare import prepare, settings, summary

    chosen = settings(args.scales, args.sub_image, args.step, args.thresh, args.lmdb)
    try:
        done = prepare(args.src, args.dest, chosen, args.jobs, args.strict)
    except KeyboardInterrupt:
        print("Stopped. Run the same command again to go on from here.", file=sys.stderr)
        return INTERRUPTED
    for reason in done.skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    print(summary(done, Path(args.dest), chosen))
    return 1 if done.skipped else 0


def _add_lmdb(parser: argparse.ArgumentParser) -> None:
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
    _add_jobs(parser)
    parser.set_defaults(run=_lmdb)


def _lmdb(args: argparse.Namespace) -> None:
    from esc_arch.data.lmdb_writer import folder_entries, pack

    # A name that a key can be appended to, also for "." and "..".
    folder = args.folder.resolve() if args.folder.name in ("", "..") else args.folder
    output = args.output or folder.with_name(f"{folder.name}.lmdb")
    below: list[Path] = []
    entries, suffix = folder_entries(folder, args.strip, below.append)
    if suffix:
        print(
            f"keys: names without {suffix}, such as {entries[0].key} for {entries[0].source.name}"
        )
    is_new = pack(output, entries, args.jobs)
    if below:
        names = listed(below, _SHOWN_NAMES)
        terminal.say(f"note: {len(below)} images in folders below are left out: {names}")
    if is_new:
        print(f"{output}: {len(entries)} images")
    else:
        print(f"{output}: was made of these {len(entries)} images before; nothing to do")


def _add_path(parser: argparse.ArgumentParser) -> None:
    text = "a folder of images, an LMDB, or what `basicsr data prepare` made"
    parser.add_argument("path", metavar="PATH", help=text)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_path(parser)
    parser.add_argument(
        "--lq", metavar="LR_PATH", help="LR images of those in PATH, NAME.png or NAMEx2.png"
    )
    parser.add_argument("--scale", type=int, metavar="N", help="of the LR images")
    parser.add_argument(
        "--gt-size",
        type=_positive,
        default=1,
        metavar="N",
        help="side of HR crops, which have to fit in each image (default: any)",
    )
    _add_jobs(parser)
    parser.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> int:
    from esc_arch.data.check import verify

    if (args.lq is None) != (args.scale is None):
        raise UserError("basicsr data verify: expected --lq and --scale together; found one.")
    if args.lq is None:
        report = verify(args.path, args.jobs, gt_size=args.gt_size)
    elif args.scale < 1:
        raise UserError(f"--scale: expected 1 or more; found {args.scale}.")
    else:
        report = verify(args.path, args.jobs, args.lq, args.scale, args.gt_size)
    _print_report(report)
    return 1 if report.problems else 0


def _print_report(report: "Report") -> None:
    for kind, group in itertools.groupby(report.problems, lambda problem: problem.kind):
        problems = list(group)
        for problem in problems[:_SHOWN]:
            print(f"problem: {problem}")
        if len(problems) > _SHOWN:
            print(f"problem: {len(problems) - _SHOWN} more of this kind ({kind})")
    for note in report.notes:
        print(f"note: {note}")
    duplicates = [names for done in report.sets for names in done.duplicates]
    for names in duplicates[:_SHOWN]:
        print(f"note: the same pixels: {listed(names, _SHOWN_NAMES)}")
    if len(duplicates) > _SHOWN:
        print(f"note: {len(duplicates) - _SHOWN} more groups of the same pixels")
    right = [Column(name, justify="right") for name in ("images", "size", "problems")]
    table = Table(Column("checked", overflow="fold"), *right)
    for row in report.sets:
        number = sum(finding.number for finding in row.findings)
        table.add_row(row.name, str(row.images), decimal(row.bytes), str(number))
    for name, findings in report.pairs.items():
        table.add_row(name, "", "", str(sum(finding.number for finding in findings)))
    terminal.console().print(table)


def _add_stats(parser: argparse.ArgumentParser) -> None:
    _add_path(parser)
    parser.add_argument(
        "--gt-size",
        type=int,
        nargs="+",
        default=_GT_SIZES,
        metavar="N",
        help=f"sides of HR crops to try (default: {' '.join(map(str, _GT_SIZES))})",
    )
    _add_jobs(parser)
    parser.set_defaults(run=_stats)


def _stats(args: argparse.Namespace) -> int:
    """Measure.

    Returns:
        The exit code: 0; 1 when an image could not be read.
    """
    from esc_arch.data.statistics import measure

    if min(args.gt_size) < 1:
        raise UserError(f"--gt-size: expected 1 or more; found {min(args.gt_size)}.")
    sets = measure(args.path, args.gt_size, args.jobs)
    console = terminal.console()
    for start in range(0, len(sets), _BESIDE):
        console.print(_statistics(sets[start : start + _BESIDE]))
    unreadable = [reason for one in sets for reason in one.unreadable]
    for reason in unreadable:
        print(f"left out: {reason}", file=sys.stderr)
    return 1 if unreadable else 0


def _statistics(sets: "list[SetStatistics]") -> Table:
    columns = [Column(one.name, overflow="fold") for one in sets]
    table = Table(Column("", no_wrap=True), *columns, show_lines=True)
    table.add_row("images", *(str(one.images) for one in sets))
    table.add_row("files", *(decimal(one.bytes) for one in sets))
    table.add_row("width min/med/max", *(_extent(one.width) for one in sets))
    table.add_row("height min/med/max", *(_extent(one.height) for one in sets))
    table.add_row("smallest", *("{}, {}x{}".format(*one.smallest) for one in sets))
    table.add_row("kinds", *("\n".join(f"{k}: {n}" for k, n in one.kinds.items()) for one in sets))
    table.add_row("mean R G B", *(" ".join(f"{m:.4f}" for m in one.mean) for one in sets))
    for row in zip(*(one.too_small for one in sets), strict=True):
        table.add_row(f"gt_size {row[0].gt_size}", *map(_fit, row))
    return table


def _extent(extent: "Extent") -> str:
    return f"{extent.smallest}/{extent.median:g}/{extent.largest}"


def _fit(small: "TooSmall") -> str:
    names = small.names
    return f"{len(names)} too small: {listed(names, _SHOWN_SMALL)}" if names else "fits"


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="image set; none lists all")
    parser.add_argument(
        "--dest",
        default="datasets",
        metavar="FOLDER",
        help="where to put them (default: datasets, as in the option files)",
    )
    parser.set_defaults(run=_download)


def _download(args: argparse.Namespace) -> None:
    from esc_arch.data.download_sets import download_set
    from esc_arch.data.public_sets import find

    if not args.names:
        _print_sets()
        return
    # All names before the first download, which may take hours.
    for public_set in [find(name) for name in args.names]:
        if public_set.archives:
            print(f"{public_set.name}: {public_set.images}. Terms: {public_set.terms}", flush=True)
        download_set(public_set, args.dest, say=lambda line: print(line, flush=True))


def _print_sets() -> None:
    from esc_arch.data.public_sets import PUBLIC_SETS

    table = Table(
        Column("name", no_wrap=True),
        "images",
        Column("download", justify="right", no_wrap=True),
        title="Image sets: basicsr data download NAME ...",
    )
    for public_set in PUBLIC_SETS:
        table.add_row(public_set.name, public_set.images, _size(public_set.archives))
    terminal.console().print(table)
    # Not in the table, which would cut addresses off.
    print("\nDownloaded:")
    origins: dict[tuple[str, str], list[str]] = {}
    for public_set in PUBLIC_SETS:
        if public_set.archives:
            url = public_set.archives[0].url.rsplit("/", 1)[0]
            origins.setdefault((url, public_set.terms), []).append(public_set.name)
    for (url, terms), names in origins.items():
        print(f"  {', '.join(names)}\n    from {url}/\n    Terms: {terms}")
    print("\nBy hand, as there is no certain address:")
    for public_set in PUBLIC_SETS:
        if public_set.by_hand:
            print(
                f"  {public_set.name}, to datasets/{public_set.folder}\n"
                f"    {public_set.by_hand}\n    Terms: {public_set.terms}"
            )


def _size(archives: "tuple[Archive, ...]") -> str:
    sizes = [archive.size or archive.about for archive in archives]
    if not archives:
        return "by hand"
    known = sum(filter(None, sizes))
    if not known:
        return "not known"
    if None in sizes:
        return f"over {decimal(known)}"
    return decimal(known) if archives[0].size else f"about {decimal(known)}"


COMMANDS = {
    "prepare": (
        "Make HR and LR images, sub-images and LMDBs, as BasicSR reads them.",
        _add_prepare,
    ),
    "lmdb": ("Pack the images of a folder into an LMDB, as BasicSR reads it.", _add_lmdb),
    "verify": (
        "Check that images decode, LMDBs are whole, and HR and LR images fit each other.",
        _add_verify,
    ),
    "stats": ("Count and measure images, and say whether training crops fit in them.", _add_stats),
    "download": (
        "Download public image sets, or list them and say how to get the others.",
        _add_download,
    ),
}
