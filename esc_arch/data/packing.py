"""An LMDB of the images in a folder."""

import os
import re
from pathlib import Path

from esc_arch.data.lmdb_writer import Entry, is_current, write_lmdb
from esc_arch.data.processes import Processes, ProcessKilled
from esc_arch.errors import UserError
from esc_arch.imaging.codecs import decode, find_images
from esc_arch.progress import progress

__all__ = ["common_suffix", "folder_entries", "pack"]

_SHOWN = 20
_SCALE_SUFFIX = re.compile(r"x\d+$")


def common_suffix(stems: list[str]) -> str:
    """``x2`` where all names end so, as those of LR images do; else nothing."""
    found = {match[0] if (match := _SCALE_SUFFIX.search(stem)) else "" for stem in stems}
    return found.pop() if len(found) == 1 else ""


def folder_entries(
    folder: str | os.PathLike[str], suffix: str | None = None
) -> tuple[list[Entry], str]:
    """The images directly in a folder, with their names as keys.

    Args:
        suffix: what to take off the end of each name, so that LR and HR keys are the same;
            found by :func:`common_suffix` when None.

    Returns:
        The entries, and what was taken off.

    Raises:
        UserError: when there are no images, or a name does not end in the suffix.
    """
    folder = Path(folder)
    images = find_images(folder)
    here = [path for path in images if path.parent == folder]
    if not here:
        raise UserError(
            f"{folder}: expected images; found them only below it, first in {images[0].parent}. "
            "Name the folder that they are in."
        )
    if suffix is None:
        suffix = common_suffix([path.stem for path in here])
    other = next((path for path in here if not path.stem.endswith(suffix)), None)
    if other is not None:
        raise UserError(
            f"{other}: expected a name that ends in {suffix!r}; found another. Rename it, or "
            "give another --strip."
        )
    return [Entry(path.stem.removesuffix(suffix), path) for path in here], suffix


def pack(path: str | os.PathLike[str], entries: list[Entry], jobs: int) -> bool:
    """Make an LMDB as :func:`write_lmdb` does, once every image is seen to decode.

    Args:
        jobs: number of processes that decode.

    Raises:
        UserError: as there, and for images that do not decode.
    """
    try:
        is_there = is_current(path, entries)
    except UserError:
        is_there = False  # for one empty or unreadable image; all that are wrong are told below
    if not is_there:
        _require_decodable([entry.source for entry in entries], jobs)
    return write_lmdb(path, entries)


def _require_decodable(sources: list[Path], jobs: int) -> None:
    wrong = []
    try:
        with Processes(jobs) as processes, progress("checking images", len(sources)) as advance:
            for message in processes.map(_complaint, sources):
                wrong += [message] if message else []
                advance(1)
    except ProcessKilled as error:
        raise UserError(
            "expected to read all images; found that a process was killed, as the system does when "
            f"memory runs out. In work: {', '.join(map(str, error.items))}. Give fewer --jobs."
        ) from None
    if wrong:
        more = f"\nand {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UserError("\n".join(wrong[:_SHOWN]) + more)


def _complaint(source: Path) -> str:
    try:
        decode(source.read_bytes(), source)
    except OSError as error:
        return f"{source}: expected an image file; found: {error.strerror}."
    except UserError as error:
        return str(error)
    return ""
