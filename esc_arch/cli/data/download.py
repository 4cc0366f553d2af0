"""``basicsr data download``: public image sets, to where the option files look for them."""

import argparse

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from esc_arch.data.obtain import obtain
from esc_arch.data.sources import IMAGE_SETS, Archive, find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="image set; none lists all")
    parser.add_argument(
        "--dest",
        default="datasets",
        metavar="FOLDER",
        help="where to put them (default: datasets, as in the option files)",
    )


def run(args: argparse.Namespace) -> None:
    if not args.names:
        _list()
        return
    # All names before the first download, which may take hours.
    for image_set in [find(name) for name in args.names]:
        if image_set.archives:
            print(f"{image_set.name}: {image_set.images}. Terms: {image_set.terms}", flush=True)
        obtain(image_set, args.dest, say=lambda line: print(line, flush=True))


def _list() -> None:
    table = Table(title="Image sets: basicsr data download NAME ...")
    table.add_column("name", no_wrap=True)
    table.add_column("images")
    table.add_column("download", justify="right", no_wrap=True)
    for image_set in IMAGE_SETS:
        table.add_row(image_set.name, image_set.images, _size(image_set.archives))
    Console().print(table)
    # Not in the table, which would cut addresses off.
    print("\nDownloaded:")
    origins: dict[tuple[str, str], list[str]] = {}
    for image_set in IMAGE_SETS:
        if image_set.archives:
            url = image_set.archives[0].url.rsplit("/", 1)[0]
            origins.setdefault((url, image_set.terms), []).append(image_set.name)
    for (url, terms), names in origins.items():
        print(f"  {', '.join(names)}\n    from {url}/\n    Terms: {terms}")
    print("\nBy hand, as there is no certain address:")
    for image_set in IMAGE_SETS:
        if image_set.by_hand:
            print(
                f"  {image_set.name}, to datasets/{image_set.folder}\n"
                f"    {image_set.by_hand}\n    Terms: {image_set.terms}"
            )


def _size(archives: tuple[Archive, ...]) -> str:
    sizes = [archive.size or archive.about for archive in archives]
    if not archives:
        return "by hand"
    known = sum(filter(None, sizes))
    if not known:
        return "not known"
    if None in sizes:
        return f"over {decimal(known)}"
    return decimal(known) if archives[0].size else f"about {decimal(known)}"
