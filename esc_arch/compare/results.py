"""Results of a comparison: one ``results.json`` to which every sub-command adds its rows.

    runs       how the rows were made: command, versions, machine, commit, date
    cost       parameters, multiply-adds, latency, memory of a network
    quality    PSNR and SSIM of a network on one image
    training   how long a network trained, with its curve

Each row names its run by its place in ``runs``.
"""

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from esc_arch.errors import UserError
from esc_arch.files import read_regular, whole_file
from esc_arch.machine import processor, versions

__all__ = [
    "KINDS",
    "Unwritten",
    "add",
    "csv_text",
    "describe_run",
    "empty",
    "encoded",
    "folder_of",
    "merge",
    "read",
    "require_writable",
    "write",
    "write_file",
]

# The key of each kind of rows: a newer row replaces an older one with the same values.
KINDS: Mapping[str, tuple[str, ...]] = {
    "cost": ("network", "scale", "width", "height", "device", "dtype", "machine"),
    "quality": ("network", "scale", "weights", "set", "image"),
    "training": ("network", "scale", "weights"),
}
FILE = "results.json"

Row = dict[str, Any]
Results = dict[str, list[Row]]


def folder_of(name: str) -> Path:
    """The folder of a comparison.

    Raises:
        UserError: when the name is not that of one folder.
    """
    if name in ("", ".", "..") or {"/", "\\"} & set(name):
        raise UserError(f"--name: expected a plain name of a folder; found {name!r}. Name another.")
    return Path("experiments/compare", name)


def require_writable(folder: Path) -> None:
    """Make the folder of a comparison.

    Before hours of work: raise a UserError when no file can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: expected a folder to write the results to; found: {error.strerror}. "
            "Correct that, or start in another folder."
        ) from None


def empty() -> Results:
    """No runs and no rows."""
    return {"runs": [], **{kind: [] for kind in KINDS}}


def read(folder: Path) -> Results:
    """The results in a folder; empty ones where there are none yet.

    Raises:
        UserError: when the file is damaged or another program's.
    """
    path = folder / FILE
    try:
        found = json.loads(read_regular(path))
    except FileNotFoundError:
        return empty()
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path}: expected the results of a comparison; found: {error}. Move it away."
        ) from None
    kinds = set(empty())
    if not isinstance(found, dict) or set(found) != kinds:
        raise UserError(
            f"{path}: expected the keys {', '.join(sorted(kinds))}; found another file. "
            "Move it away, or name another comparison."
        )
    for kind, names in KINDS.items():
        for row in found[kind]:
            if not {"run", *names[:2]} <= set(row) or not 0 <= row["run"] < len(found["runs"]):
                raise UserError(
                    f"{path}: {kind}: expected rows with network, scale and the number of a run; "
                    f"found {row}. Correct it, or move it away."
                )
    return found


def add(results: Results, kind: str, rows: Iterable[Row], run: Row) -> None:
    """Add rows of one run; rows with the same keys go, and runs without rows too."""
    merged = merge([results, {**empty(), "runs": [run], kind: [{**r, "run": 0} for r in rows]}])
    results.update(merged)


def merge(several: Iterable[Results]) -> Results:
    """All rows together; of rows with the same key, the last one stays."""
    out = empty()
    kept: dict[str, dict[tuple[object, ...], tuple[Row, Row]]] = {kind: {} for kind in KINDS}
    for results in several:
        for kind, names in KINDS.items():
            for row in results[kind]:
                key = tuple(row.get(name) for name in names)
                kept[kind].pop(key, None)  # the newer one goes to the end
                kept[kind][key] = row, results["runs"][row["run"]]
    for kind, rows in kept.items():
        for row, run in rows.values():
            if run not in out["runs"]:
                out["runs"].append(run)
            out[kind].append({**row, "run": out["runs"].index(run)})
    return out


def write(folder: Path, results: Results) -> None:
    """Write ``results.json`` and ``results.csv``; each is complete or absent."""
    write_file(folder / FILE, encoded(json.dumps(results, indent=1) + "\n"))
    write_file(folder / "results.csv", encoded(csv_text(results)))


def encoded(text: str) -> bytes:
    """Text of a file; the names of files in it need not be text."""
    return text.encode("utf-8", "surrogateescape")


def csv_text(results: Results) -> str:
    """One line for each value: kind, network, scale, quantity, value."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["kind", "network", "scale", "of", "quantity", "value"])
    for kind, names in KINDS.items():
        for row in results[kind]:
            of = " ".join(str(row[n]) for n in names[2:] if row.get(n) is not None)
            for quantity, value in row.items():
                if quantity not in (*names, "run") and not isinstance(value, list | dict):
                    lines.writerow([kind, row["network"], row["scale"], of, quantity, value])
    return out.getvalue()


class Unwritten(UserError):
    """A file of the results cannot be written."""


def write_file(path: Path, content: bytes) -> None:
    """Write a file, with its folder; it is complete or as it was before.

    Raises:
        Unwritten: when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise Unwritten(
            f"{path}: expected to write it; found {error.strerror}. What was there stays."
        ) from error


def describe_run() -> Row:
    """This command, the versions it runs with, the machine, and the commit."""
    run: Row = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["basicsr", *sys.argv[1:]]),
        "versions": versions("esc-arch", "torch", "torchvision", "basicsr", "numpy"),
        "machine": machine(),
        "threads": torch.get_num_threads(),
    }
    commit = _commit()
    return {**run, "commit": commit} if commit else run


def machine() -> str:
    """The processor and the GPU, as they name themselves."""
    names = [f"{processor()} x {os.cpu_count()}"]
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return ", ".join(names)


def _commit() -> str | None:
    """The commit of the sources, with ``+changes`` when they were changed since."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
