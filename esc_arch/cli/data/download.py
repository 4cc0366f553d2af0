"""``basicsr data download``: public image sets, to where the option files look for them."""

import argparse

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from esc_arch.data.download_sets import download_set
from esc_arch.data.public_sets import PUBLIC_SETS, Archive, find


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
    for public_set in [find(name) for name in args.names]:
        if public_set.archives:
            print(f"{public_set.name}: {public_set.images}. Terms: {public_set.terms}", flush=True)
        download_set(public_set, args.dest, say=lambda line: print(line, flush=True))


def _list() -> None:
    table = Table(title="Image sets: basicsr data download NAME ...")
    table.add_column("name", no_wrap=True)
    table.add_column("images")
    table.add_column("download", justify="right", no_wrap=True)
    for public_set in PUBLIC_SETS:
        table.add_row(public_set.name, public_set.images, _size(public_set.archives))
    Console().print(table)
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
