"""Making and reading an LMDB against plain files.

    python benchmarks/lmdb_speed.py FOLDER [--images 3000] [--json FILE]

Writing: the LMDB, complete and on the disk, against one file with the same bytes, written
and flushed; both read the source files.  Reading: the encoded images in random order through
BasicSR's file client, as its datasets read them, against opening and reading each file; all
are in the page cache.  A client that opens the LMDB again, as the workers of each epoch do,
has to map its pages first.  Every round does each once; the ratio is that of the medians.
The extra peak memory is what writing adds to the resident memory of a fresh process.
"""

import argparse
import functools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from description import description
from rich.console import Console
from rich.table import Table
from timing import seconds

import esc_arch  # noqa: F401  (repairs the import of basicsr, so it comes first)

# isort: split
from basicsr.utils import FileClient

from esc_arch.data.lmdb_writer import Entry, write_lmdb
from esc_arch.imaging.codecs import find_images
from esc_arch.machine import extra_peak_bytes

_MEMORY_OF = "--memory-of"


def main() -> None:
    if sys.argv[1:2] == [_MEMORY_OF]:
        print(peak_of_writing(*map(Path, sys.argv[2:4]), int(sys.argv[4])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="images")
    parser.add_argument(
        "--images", type=int, default=3000, help="copies where there are fewer (default: 3000)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="disk to measure (default: for temporary files)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        report = measure(args.folder, Path(work), args.images, args.rounds)
    Console(width=100).print(as_table(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(folder: Path, work: Path, images: int, rounds: int) -> dict:
    """All numbers of the benchmark; seconds are medians over the rounds."""
    copies = work / "images"
    copies.mkdir()
    found = find_images(folder)
    for i in range(images):
        source = found[i % len(found)]
        shutil.copyfile(source, copies / f"{i:06d}{source.suffix}")
    os.sync()
    entries = entries_in(copies)
    plain, packed = work / "plain", work / "X.lmdb"
    keys = [entry.key for entry in entries]
    paths = {entry.key: str(entry.source) for entry in entries}
    times: dict[str, list[float]] = {
        name: [] for name in ("write file", "write LMDB", "read files", "read LMDB", "first read")
    }
    rng = random.Random(0)
    for _ in range(rounds):
        plain.unlink(missing_ok=True)
        times["write file"].append(seconds(lambda: write_plain(plain, entries)))
        shutil.rmtree(packed, ignore_errors=True)
        times["write LMDB"].append(seconds(lambda: write_lmdb(packed, entries)))
    for _ in range(rounds):
        rng.shuffle(keys)
        files = [paths[key] for key in keys]
        times["read files"].append(seconds(lambda files=files: read_all(read_file, files)))
        client = FileClient("lmdb", db_paths=str(packed), client_keys="gt")
        for name in ("first read", "read LMDB"):
            rng.shuffle(keys)
            get = functools.partial(client.get, client_key="gt")
            times[name].append(seconds(lambda get=get: read_all(get, keys)))
        client.client._client["gt"].close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "images": images,
        "bytes": sum(entry.source.stat().st_size for entry in entries),
        "rounds": rounds,
        "median_s": {name: round(value, 4) for name, value in medians.items()},
        "fastest_s": {name: round(min(values), 4) for name, values in times.items()},
        "slowest_s": {name: round(max(values), 4) for name, values in times.items()},
        "write_ratio": round(medians["write file"] / medians["write LMDB"], 3),
        "read_ratio": round(medians["read files"] / medians["read LMDB"], 3),
        "first_read_ratio": round(medians["read files"] / medians["first read"], 3),
        "extra_peak_bytes": {
            count: fresh_process_peak(copies, work, count) for count in (images // 10, images)
        },
        **description("basicsr", "lmdb"),
    }


def entries_in(folder: Path) -> list[Entry]:
    return [Entry(path.stem, path) for path in sorted(folder.iterdir())]


def read_all(read: Callable[[str], bytes], names: Iterable[str]) -> None:
    for name in names:
        read(name)


def read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def write_plain(path: Path, entries: list[Entry]) -> None:
    with open(path, "wb", buffering=0) as file:
        for entry in entries:
            file.write(read_file(entry.source))
        os.fsync(file.fileno())


def fresh_process_peak(copies: Path, work: Path, count: int) -> int:
    command = [sys.executable, __file__, _MEMORY_OF, str(copies), str(work), str(count)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_of_writing(copies: Path, work: Path, count: int) -> int:
    """What writing ``count`` images adds to this process's resident memory, in bytes."""
    entries = entries_in(copies)[:count]
    return extra_peak_bytes(lambda: write_lmdb(work / f"{count}.lmdb", entries))


def as_table(report: dict) -> Table:
    table = Table(
        title=f"{report['images']} images, {report['bytes'] / 1e6:.0f} MB, medians of "
        f"{report['rounds']} rounds; {report['cpu']}"
    )
    table.add_column("")
    for column in ("median s", "fastest s", "slowest s", "speed against files"):
        table.add_column(column, justify="right")
    ratios = {
        "write LMDB": report["write_ratio"],
        "read LMDB": report["read_ratio"],
        "first read": report["first_read_ratio"],
    }
    for name, median in report["median_s"].items():
        ratio = f"{ratios[name]:.0%}" if name in ratios else ""
        fastest, slowest = report["fastest_s"][name], report["slowest_s"][name]
        table.add_row(name, f"{median:.3f}", f"{fastest:.3f}", f"{slowest:.3f}", ratio)
    for count, size in report["extra_peak_bytes"].items():
        table.add_row(f"extra memory, {count} images: {size / 1e6:.0f} MB")
    return table


if __name__ == "__main__":
    main()
