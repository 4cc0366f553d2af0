"""LMDBs of image files for BasicSR, written with little memory; a killed run resumes.

``X.lmdb`` is a folder with ``data.mdb``, an empty ``lock.mdb``, ``meta_info.txt`` (lines such as
``0001.png (480,480,3) 1``, from which BasicSR takes the keys) and ``plan.json`` (which sources
it was made of).  It grows as ``.X.lmdb.part`` beside it, by one transaction for each batch of
images: after a kill or a power cut it ends with a whole batch, and the next run appends the
rest.  It is renamed when it is complete and on the disk.  ``data.mdb`` has the same bytes however
often the work was interrupted.
"""

import hashlib
import json
import mmap
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import lmdb
from rich.filesize import decimal

from esc_arch.data.lmdb_reader import DamagedLmdb, open_lmdb
from esc_arch.data.names import MOST_KEY_BYTES, key_of, require_one_each
from esc_arch.data.processes import Processes, ProcessKilled
from esc_arch.errors import UserError
from esc_arch.files import Held, flush_folder, free_bytes, locked, read_regular, whole_file
from esc_arch.imaging.codecs import decode, find_images, shape_of
from esc_arch.progress import progress
from esc_arch.terminal import say

__all__ = ["Entry", "folder_entries", "is_current", "pack", "write_lmdb"]

# Of one transaction, which lmdb keeps in memory.
_COMMIT_IMAGES, _COMMIT_BYTES = 64, 64 << 20
_FORMAT = 1
_FILES = frozenset({"data.mdb", "lock.mdb", "meta_info.txt", "plan.json"})
# BasicSR ends a key at the first dot, a name in meta_info.txt at a space, and encodes ASCII.
_KEY = re.compile(rf"[!-\-/-~]{{1,{MOST_KEY_BYTES}}}")
_SCALE_SUFFIX = re.compile(r"x\d+$")
_SHOWN = 20


class Entry(NamedTuple):
    """One image of an LMDB.

    Attributes:
        key: its name without extension.
        source: an image file, whose bytes go in unchanged.
    """

    key: str
    source: Path


class _Plan(NamedTuple):
    """Content of an LMDB, sorted by key.

    Attributes:
        sizes: of the sources, in bytes.
        most_bytes: an upper bound of the size of ``data.mdb``.
        record: that of ``plan.json``.
    """

    keys: list[bytes]
    sources: list[Path]
    sizes: list[int]
    most_bytes: int
    record: dict[str, int | str]


def folder_entries(
    folder: str | os.PathLike[str],
    suffix: str | None = None,
    below: Callable[[Path], object] | None = None,
) -> tuple[list[Entry], str]:
    """The images directly in a folder, with keys by their names; see :func:`key_of`.

    Args:
        suffix: removed from the end of each name, so that LR and HR keys are the same; by
            default ``x2`` or the like where all names end so.
        below: called for each image that is left out, as it is in a folder below.

    Returns:
        The entries and the suffix.

    Raises:
        UserError: when there are no images, a name does not end in the suffix, or names differ in
            the extension alone.
    """
    folder = Path(folder)
    images = find_images(folder, say)
    here = [path for path in images if path.parent == folder]
    if not here:
        raise UserError(
            f"{folder}: expected images; found them only below it, first in {images[0].parent}. "
            "Name the folder that they are in."
        )
    for path in images:
        if below is not None and path.parent != folder:
            below(path)
    if suffix is None:
        endings = {m[0] if (m := _SCALE_SUFFIX.search(path.stem)) else "" for path in here}
        suffix = endings.pop() if len(endings) == 1 else ""
    other = next((path for path in here if not path.stem.endswith(suffix)), None)
    if other is not None:
        raise UserError(
            f"{other}: expected a name that ends in {suffix!r}; found another. Rename it, or "
            "use another --strip."
        )
    entries = [Entry(key_of(path.stem.removesuffix(suffix)), path) for path in here]
    by_key: dict[str, list[Path]] = {}
    for key, path in entries:
        by_key.setdefault(key, []).append(path)
    require_one_each(by_key, "image of each name")
    return entries, suffix


def pack(path: str | os.PathLike[str], entries: Sequence[Entry], jobs: int) -> bool:
    """Make an LMDB as :func:`write_lmdb` does, after a check that every image decodes.

    Args:
        jobs: number of processes that decode.

    Raises:
        UserError: as there, and for images that do not decode.
    """
    return _write(path, entries, jobs)


def _require_decodable(sources: list[Path], jobs: int) -> None:
    wrong = []
    try:
        with Processes(jobs) as processes, progress("checking images", len(sources)) as advance:
            for message in processes.map(_decode_error, sources):
                wrong += [message] if message else []
                advance(1)
    except ProcessKilled as error:
        raise UserError(
            "expected to read all images; found that a process was killed, as the system does when "
            f"memory runs out. In work: {', '.join(map(str, error.items))}. Use fewer --jobs."
        ) from None
    if wrong:
        more = f"\nand {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UserError("\n".join(wrong[:_SHOWN]) + more)


def _decode_error(source: Path) -> str:
    try:
        decode(read_regular(source), source)
    except OSError as error:
        return str(_unreadable(source, error))
    except UserError as error:
        return str(error)
    return ""


def write_lmdb(path: str | os.PathLike[str], entries: Sequence[Entry]) -> bool:
    """Make an LMDB of image files, or continue the one that a killed call left.

    An LMDB of other sources at ``path`` is replaced once the new one is complete; processes
    that have it open continue to read the old one.

    Args:
        path: of the LMDB; its name ends in ``.lmdb``; its folder is made.
        entries: in any order.

    Returns:
        False when it exists already, made of the same sources (by name, size and time of
        change), so that there was nothing to do.

    Raises:
        UserError: when a key is not fit for BasicSR or is there twice; a source is missing,
            empty, no image, or changes meanwhile; the disk has no room or fails; ``path``
            is not an LMDB; another process is writing it.
    """
    return _write(path, entries, 0)


def _write(path: str | os.PathLike[str], entries: Sequence[Entry], checking_jobs: int) -> bool:
    """The same, after a check of the images by some processes, unless that number is 0."""
    final = _final(path)
    sources = [entry.source for entry in entries]
    try:
        plan = _plan(final, entries)
    except UserError:
        if checking_jobs:
            _require_decodable(sources, checking_jobs)  # which lists all
        raise
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{final}: expected a folder to make it in; found, for {error.filename}: "
            f"{error.strerror}. Name another place."
        ) from None
    try:
        with locked(_beside(final, "lock"), remove=True):
            if _is_there(final, plan):
                return False
            if checking_jobs:
                _require_decodable(sources, checking_jobs)
            _build(final, plan)
            return True
    except Held as held:
        raise UserError(
            f"{final}: expected to be the only one that writes it; found another process"
            f"{held.holder} doing so. Wait for it, then run this again."
        ) from None
    except (OSError, lmdb.Error) as error:
        found = str(getattr(error, "strerror", None) or error)
        if isinstance(error, lmdb.Error):
            # On a full disk too it says "Input/output error" alone.
            found += f", with {decimal(free_bytes(final.parent))} free on the disk"
        raise UserError(
            f"{final}: expected to write it; found: {found}. Correct that and run it again: it "
            "continues where it stopped."
        ) from error


def is_current(path: str | os.PathLike[str], entries: Sequence[Entry]) -> bool:
    """Whether the LMDB exists and was made of these sources: by name, size, time of change.

    Raises:
        UserError: as :func:`write_lmdb` does for keys and sources.
    """
    final = _final(path)
    return _is_made_of(final, _plan(final, entries))


def _is_there(final: Path, plan: _Plan) -> bool:
    """Whether there is nothing to do; otherwise it can be done as far as the disk is concerned.

    Raises:
        UserError: when ``final`` is something else, or the disk has no room.
    """
    part, old = _beside(final, "part"), _beside(final, "old")
    if old.exists() and not final.exists():
        old.rename(final)  # a kill came between the renames below
    _remove(old)
    if _is_made_of(final, plan):
        _remove(part)
        return True
    _require_replaceable(final)
    begun = part / "data.mdb"
    needed = plan.most_bytes - (begun.stat().st_size if begun.exists() else 0)
    if needed > (free := free_bytes(final.parent)):
        raise UserError(
            f"{final}: expected {decimal(needed)} of room on the disk; found {decimal(free)}. "
            "Make room, or name an LMDB on another disk."
        )
    return False


def _build(final: Path, plan: _Plan) -> None:
    part, old = _beside(final, "part"), _beside(final, "old")
    _append(part, plan, _resume(part, plan), final.name)
    _flush(part)
    if final.exists():
        final.rename(old)
    part.rename(final)
    flush_folder(final.parent)
    _remove(old)


def _final(path: str | os.PathLike[str]) -> Path:
    if not os.fspath(path).endswith(".lmdb"):
        raise UserError(f"{path}: expected a name that ends in .lmdb; found another. Rename it.")
    # Through a link, so that it stays one.
    final = Path(os.path.realpath(path))
    return final


def _beside(final: Path, purpose: str) -> Path:
    return final.with_name(f".{final.name}.{purpose}")


def _plan(final: Path, entries: Sequence[Entry]) -> _Plan:
    if not entries:
        raise UserError(f"{final}: expected images to put in; found none.")
    unfit = [entry for entry in entries if not _KEY.fullmatch(entry.key)]
    if unfit:
        more = f" and {len(unfit) - 1} more" if len(unfit) > 1 else ""
        raise UserError(
            f"{unfit[0].source}{more}: expected a name in ASCII without dots and spaces before "
            f"its extension, as BasicSR reads keys; found {unfit[0].key!r}. Rename it."
        )
    ordered = sorted(entries)
    digest = hashlib.sha256()
    sizes = []
    for index, (key, source) in enumerate(ordered):
        if index and key == ordered[index - 1].key:
            raise UserError(
                f"{final}: expected each key once; found {key} of {ordered[index - 1].source} "
                f"and of {source}. Rename one."
            )
        try:
            status = os.stat(source)
        except OSError as error:
            raise _unreadable(source, error) from None
        if status.st_size == 0:
            raise UserError(f"{source}: expected an image; found an empty file. Copy it again.")
        sizes.append(status.st_size)
        digest.update(f"{key} {status.st_size} {status.st_mtime_ns}\n".encode())
    record: dict[str, int | str] = {
        "format": _FORMAT,
        "images": len(ordered),
        "bytes": sum(sizes),
        "sources_sha256": digest.hexdigest(),
    }
    keys, sources = [e.key.encode() for e in ordered], [e.source for e in ordered]
    return _Plan(keys, sources, sizes, _most_bytes(sizes), record)


def _most_bytes(sizes: list[int]) -> int:
    """Pages of the values, and the tree."""
    page = mmap.PAGESIZE
    # A page of the tree holds 7 of the longest keys; a few pages are free.
    values = sum(-(-(size + 16) // page) for size in sizes)
    return (values + len(sizes) // 4 + 256) * page


def _unreadable(source: Path, error: OSError) -> UserError:
    return UserError(f"{source}: expected an image file; found: {error.strerror}.")


def _remove(*folders: Path) -> None:
    for folder in folders:
        if folder.exists():
            # First, so that a kill half-way leaves nothing that could be continued.
            (folder / "plan.json").unlink(missing_ok=True)
            shutil.rmtree(folder)


def _recorded(folder: Path) -> object:
    try:
        return json.loads(read_regular(folder / "plan.json"))
    except (OSError, ValueError):
        return None


def _is_made_of(folder: Path, plan: _Plan) -> bool:
    return (
        _recorded(folder) == plan.record
        and len(_meta_lines(folder)) == len(plan.keys)
        and _images(folder, plan) == len(plan.keys)
    )


def _meta_lines(folder: Path) -> list[bytes]:
    try:
        return read_regular(folder / "meta_info.txt").splitlines(keepends=True)
    except OSError:
        return []


def _images(folder: Path, plan: _Plan) -> int:
    """How many images of the plan an LMDB begins with; 0 for a damaged one."""
    try:
        database = open_lmdb(folder)
        with database.begin() as transaction:
            images = int(database.stat()["entries"])
            cursor = transaction.cursor()
            cursor.last()
            last = cursor.key()
    except (DamagedLmdb, lmdb.Error):
        return 0
    return images if plan.keys[images - 1 : images] == [last] else 0


def _require_replaceable(final: Path) -> None:
    """Raise a UserError for anything but an LMDB as made here or by BasicSR."""
    if not final.exists():
        return
    if not final.is_dir():
        raise UserError(f"{final}: expected no such file, or an LMDB; found a file. Remove it.")
    names = {entry.name for entry in os.scandir(final)}
    if not names or names - _FILES:
        found = ", ".join(sorted(names - _FILES)[:3]) or "an empty folder"
        raise UserError(
            f"{final}: expected no such folder, or an LMDB to replace; found {found}. "
            "Move that away, or name another LMDB."
        )


def _resume(part: Path, plan: _Plan) -> int:
    """How many images an unfinished LMDB of the same plan has; a new one is begun otherwise."""
    if _recorded(part) == plan.record:
        done = _images(part, plan)
        lines = _meta_lines(part)[:done]
        if done and len(lines) == done:
            # Lines of a batch that was not committed go.
            os.truncate(part / "meta_info.txt", sum(map(len, lines)))
            return done
    _remove(part)
    part.mkdir()
    with whole_file(part / "plan.json") as written:
        written.write_text(json.dumps(plan.record, indent=2) + "\n")
    return 0


def _batches(sizes: list[int]) -> Iterator[range]:
    """Indices of the images of each transaction; they follow from the sizes alone."""
    first = held = 0
    for index, size in enumerate(sizes):
        if index - first == _COMMIT_IMAGES or (held and held + size > _COMMIT_BYTES):
            yield range(first, index)
            first, held = index, 0
        held += size
    yield range(first, len(sizes))


def _append(part: Path, plan: _Plan, done: int, name: str) -> None:
    with (
        open(part / "meta_info.txt", "ab") as lines,
        progress(f"writing {name}", sum(plan.sizes), "bytes", sum(plan.sizes[:done])) as advance,
    ):
        for batch in _batches(plan.sizes):
            # One that a version with other limits has left may end inside of a batch.
            batch = range(max(batch.start, done), batch.stop)
            if not batch:
                continue
            # Opened for each batch: lmdb uses the memory of old pages again with what they held,
            # so that unused bytes of the file would depend on when the process began.
            with (
                closing(_open(part, plan)) as database,
                database.begin(write=True) as transaction,
            ):
                for index in batch:
                    key, source, size = plan.keys[index], plan.sources[index], plan.sizes[index]
                    content = _read(source, size)
                    lines.write(b"%s.png (%d,%d,%d) 1\n" % (key, *shape_of(content, source)))
                    transaction.put(key, content, append=True)
                    advance(size)
                # Before the transaction: an image in it has its line.
                lines.flush()
                os.fsync(lines.fileno())


def _open(part: Path, plan: _Plan) -> lmdb.Environment:
    # Without lmdb's lock, as this process has its own.
    return lmdb.open(os.fsencode(part), map_size=plan.most_bytes, lock=False)


def _read(source: Path, size: int) -> bytes:
    try:
        content = read_regular(source)
    except OSError as error:
        raise _unreadable(source, error) from None
    if len(content) != size:
        raise UserError(
            f"{source}: expected {size:,} bytes as when the work began; found another size. "
            "Let nothing write there meanwhile, and run it again."
        )
    return content


def _flush(part: Path) -> None:
    (part / "lock.mdb").touch()
    for file in sorted(_FILES):
        with open(part / file, "rb+") as opened:
            os.fsync(opened.fileno())
    flush_folder(part)
