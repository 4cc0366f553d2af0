"""The folder of an analysis: one JSON and its pictures, each complete or as it was before."""

import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from esc_arch.compare.results import describe_run, encoded, require_writable, write_file
from esc_arch.errors import UserError, listed

__all__ = [
    "claim",
    "file_name",
    "folder_of",
    "plain",
    "require_matplotlib",
    "write",
    "write_arrays",
]


def folder_of(name: str | None, output: str | None, analysis: str) -> Path:
    """The folder to write to.

    Args:
        name: of a folder in experiments/analysis; None for the analysis' own.
        output: another folder, which goes before.
        analysis: such as ``similarity``.

    Raises:
        UserError: when the name is not that of one folder.
    """
    if output is not None:
        return Path(output)
    name = analysis if name is None else name
    if name in ("", ".", "..") or {"/", "\\"} & set(name):
        raise UserError(f"--name: expected a plain name of a folder; found {name!r}. Name another.")
    return Path("experiments/analysis", name)


def claim(folder: Path, files: Iterable[str], overwrite: bool) -> None:
    """See that files can be written into a folder, before anything is computed.

    Args:
        files: that are going to be written.
        overwrite: whether files of these names may be there.

    Raises:
        UserError: when there are such files, or the folder cannot be written to.
    """
    there = [name for name in files if os.path.lexists(folder / name)]
    if there and not overwrite:
        raise UserError(
            f"{folder}: expected no {listed(there, 5)} yet; found an earlier analysis. Use "
            "--overwrite to replace it, or another folder (--name, -o)."
        )
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    require_writable(folder)
    # Made again with the first file, so that an analysis that is refused leaves nothing.
    for made in missing:
        made.rmdir()


def require_matplotlib() -> None:
    """
    Raises:
        UserError: when Matplotlib, which draws the pictures, is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "expected matplotlib, to draw the pictures of an analysis; found none. Install it: "
            "pip install matplotlib."
        ) from None


def write(
    folder: Path, analysis: str, result: Mapping[str, object], pictures: Mapping[str, bytes]
) -> list[Path]:
    """Write the pictures, then ANALYSIS.json, which names them.

    Args:
        result: numbers, texts, lists and dicts; what is not finite becomes null.
        pictures: PNG files by name.

    Returns:
        The files.

    Raises:
        Unwritten: when one cannot be written.
    """
    for name, picture in pictures.items():
        write_file(folder / name, picture)
    content = {"analysis": analysis, "run": describe_run(), **result, "pictures": list(pictures)}
    path = folder / f"{analysis}.json"
    write_file(path, encoded(json.dumps(plain(content), indent=1, allow_nan=False) + "\n"))
    return [*(folder / name for name in pictures), path]


def write_arrays(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays by name as an .npz file, in float32.

    Raises:
        Unwritten: when it cannot be written.
    """
    out = io.BytesIO()
    small = {key: array.astype(np.float32) for key, array in arrays.items()}
    np.savez_compressed(out, **small)  # type: ignore[arg-type]  # of an option, by the stubs
    write_file(folder / name, out.getvalue())
    return folder / name


def plain(value: object) -> object:
    """A value of JSON: numbers to six digits, null for one that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def file_name(*parts: str) -> str:
    """A part of a file's name from texts such as a network's."""
    return "_".join(re.sub(r"[^\w.-]+", "_", part).strip("_") for part in parts)
