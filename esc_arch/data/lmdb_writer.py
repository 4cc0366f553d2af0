"""LMDBs of image files for BasicSR, written with little memory, resumably, all or nothing.

``X.lmdb`` is a folder with ``data.mdb``, ``lock.mdb``, ``meta_info.txt`` (lines such as
``0001.png (480,480,3) 1``, by which BasicSR finds the keys) and ``plan.json`` (which sources
it was made of).  It grows as ``.X.lmdb.part`` beside it and is renamed when it is complete
and on the disk.  There, ``meta_info.txt`` is also the journal: a line is written once the
image's pages have reached the disk, so after a kill or a power cut its lines tell what need
not be written again.  The place of every byte follows from the plan, so ``data.mdb`` is the
same however often the work was interrupted.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import lmdb
from rich.filesize import decimal

from esc_arch.data import lmdb_pages
from esc_arch.data.lmdb_pages import PAGE_BYTES, PAGE_HEADER
from esc_arch.errors import UserError
from esc_arch.files import flush_folder, whole_file
from esc_arch.imaging.codecs import shape_of
from esc_arch.progress import progress

__all__ = ["Entry", "is_current", "write_lmdb"]

# How much is written between two flushes to the disk: what a power cut can cost.
_FLUSH_BYTES = 64 * 2**20
_FORMAT = 1
# Entries that are read back at a time.
_CHECKED = 100
_FILES = frozenset({"data.mdb", "lock.mdb", "meta_info.txt", "plan.json"})
# BasicSR ends a key at the first dot, a name in meta_info.txt at a space, encodes ASCII.
_KEY = re.compile(rf"[!-\-/-~]{{1,{lmdb_pages.MAX_KEY_BYTES}}}")


class Entry(NamedTuple):
    """One image of an LMDB.

    Attributes:
        key: its name without extension.
        source: an image file, whose bytes go in unchanged.
    """

    key: str
    source: Path


class _Plan(NamedTuple):
    """What an LMDB will hold: sorted by key."""

    keys: list[bytes]
    sources: list[Path]
    sizes: list[int]
    record: dict[str, int | str]


def write_lmdb(path: str | os.PathLike[str], entries: Sequence[Entry]) -> bool:
    """Make an LMDB of image files, or go on where an earlier call was killed.

    An LMDB of other sources at ``path`` is replaced once the new one is complete; processes
    that have it open go on reading the old one.

    Args:
        path: the LMDB; its name ends in ``.lmdb``, its folder exists.
        entries: in any order.

    Returns:
        False when it was there already, made of these very sources (by name, size and time
        of change), so that nothing was to do.

    Raises:
        UserError: when a key is not fit for BasicSR or comes twice; a source is missing,
            empty, no image, or changes meanwhile; the disk has no room or fails; ``path``
            is something else than an LMDB; another process is writing it.
    """
    final = _final(path)
    plan = _plan(final, entries)
    with _locked(final):
        try:
            return _build(final, plan)
        except OSError as error:
            raise UserError(
                f"{final}: expected to write it; found: {error.strerror or error}. Mend that and "
                "run it again: it goes on where it stopped."
            ) from error


def _build(final: Path, plan: _Plan) -> bool:
    _finish_replacing(final)
    if _is_made_of(final, plan):
        _remove(_beside(final, "part"))
        return False
    _require_replaceable(final)
    tree = lmdb_pages.plan_tree(plan.keys, plan.sizes)
    part = _begin(final, plan)
    _require_room(final, part, tree.pages * PAGE_BYTES)
    _write(part, plan, tree, final.name)
    _check(part, plan)
    _replace(final, part)
    return True


def is_current(path: str | os.PathLike[str], entries: Sequence[Entry]) -> bool:
    """Whether the LMDB is there and made of these sources: by name, size, time of change.

    Raises:
        UserError: as :func:`write_lmdb` does for keys and sources.
    """
    final = _final(path)
    return _is_made_of(final, _plan(final, entries))


def _final(path: str | os.PathLike[str]) -> Path:
    if not os.fspath(path).endswith(".lmdb"):
        raise UserError(f"{path}: expected a name that ends in .lmdb; found another. Rename it.")
    # Through a link, so that it stays one.
    final = Path(os.path.realpath(path))
    if not final.parent.is_dir():
        raise UserError(
            f"{path}: expected a folder to make it in; found no {final.parent}. Make that folder."
        )
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
    record = {
        "format": _FORMAT,
        "images": len(ordered),
        "bytes": sum(sizes),
        "sources_sha256": digest.hexdigest(),
    }
    return _Plan([e.key.encode() for e in ordered], [e.source for e in ordered], sizes, record)


def _unreadable(source: Path, error: OSError) -> UserError:
    return UserError(f"{source}: expected an image file; found: {error.strerror}.")


@contextmanager
def _locked(final: Path) -> Iterator[None]:
    """Keep other builders of the same LMDB out; the lock ends with the process."""
    name = _beside(final, "lock")
    try:
        descriptor = _lock(final, name)
    except OSError as error:
        raise UserError(
            f"{final}: expected a folder to write in; found: {error.strerror}."
        ) from None
    try:
        yield
    finally:
        # Before the lock ends, so that nobody's newer file goes.
        name.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(final: Path, name: Path) -> int:
    while True:
        descriptor = os.open(name, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(
                f"{final}: expected to be the only one that writes it; found another process "
                "doing so. Wait for it, then run this again."
            ) from None
        # Its last owner may have removed the file between the two calls.
        with suppress(FileNotFoundError):
            if os.stat(name).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def _finish_replacing(final: Path) -> None:
    """Mend what a kill between the two renames of :func:`_replace`, or after, left."""
    old = _beside(final, "old")
    if old.exists() and not final.exists():
        old.rename(final)
    _remove(old)


def _remove(folder: Path) -> None:
    if folder.exists():
        # First, so that a kill half-way leaves nothing that could be gone on with.
        (folder / "plan.json").unlink(missing_ok=True)
        shutil.rmtree(folder)


def _recorded(folder: Path) -> object:
    try:
        return json.loads((folder / "plan.json").read_text())
    except (OSError, ValueError):
        return None


def _is_made_of(folder: Path, plan: _Plan) -> bool:
    if _recorded(folder) != plan.record:
        return False
    expected = lmdb_pages.plan_tree(plan.keys, plan.sizes).pages * PAGE_BYTES
    try:
        data = (folder / "data.mdb").stat().st_size
        with open(folder / "meta_info.txt", "rb") as lines:
            return data == expected and sum(1 for _ in lines) == len(plan.keys)
    except OSError:
        return False


def _require_replaceable(final: Path) -> None:
    """Nothing but an LMDB as made here or by BasicSR is ever removed."""
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


def _begin(final: Path, plan: _Plan) -> Path:
    """The unfinished folder: one of an earlier call with the same plan, or a new one."""
    part = _beside(final, "part")
    if _recorded(part) != plan.record:
        _remove(part)
        part.mkdir()
        (part / "data.mdb").touch()
        (part / "meta_info.txt").touch()
        # Last: a folder with a plan has the files.
        with whole_file(part / "plan.json") as written:
            written.write_text(json.dumps(plan.record, indent=2) + "\n")
    return part


def _require_room(final: Path, part: Path, needed: int) -> None:
    present = (part / "data.mdb").stat().st_blocks * 512
    free = shutil.disk_usage(final.parent).free
    if needed - present > free:
        raise UserError(
            f"{final}: expected {decimal(needed - present)} of room on the disk; found "
            f"{decimal(free)}. Make room, or name an LMDB on another disk."
        )


class _Journal:
    """``meta_info.txt`` of an unfinished LMDB: lines of the images that are on the disk.

    Flushing goes on beside reading and writing: the disk does not wait for the sources.
    """

    def __init__(self, part: Path, plan: _Plan, data: int) -> None:
        self._data = data
        self._file = open(part / "meta_info.txt", "r+b")  # noqa: SIM115
        self._lines: list[bytes] = []
        self._flushing = ThreadPoolExecutor(1)
        self._last: Future | None = None
        self.done = self._kept(plan.keys)

    def _kept(self, keys: list[bytes]) -> int:
        """How many images an earlier call has finished; what follows them is cut off."""
        kept = end = 0
        for line, key in zip(self._file.readlines(), keys, strict=False):
            if not re.fullmatch(rb"%s\.png \(\d+,\d+,\d\) 1\n" % re.escape(key), line):
                break
            kept, end = kept + 1, end + len(line)
        self._file.truncate(end)
        self._file.seek(end)
        return kept

    def add(self, key: bytes, height: int, width: int, channels: int) -> None:
        self._lines.append(b"%s.png (%d,%d,%d) 1\n" % (key, height, width, channels))

    def flush(self) -> None:
        """Begin to bring to the disk what was written since the last call."""
        lines, self._lines = self._lines, []
        self._wait()
        self._last = self._flushing.submit(self._flush, lines)

    def _flush(self, lines: list[bytes]) -> None:
        os.fdatasync(self._data)
        self._file.writelines(lines)
        self._file.flush()

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()

    def finish(self) -> None:
        self.flush()
        self._wait()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._flushing.shutdown()
        self._file.close()


def _write(part: Path, plan: _Plan, tree: lmdb_pages.Tree, name: str) -> None:
    data = os.open(part / "data.mdb", os.O_RDWR)
    try:
        journal = _Journal(part, plan, data)
        try:
            done = sum(plan.sizes[: journal.done])
            with progress(f"writing {name}", plan.record["bytes"], "bytes", done) as advance:
                _write_leaves(data, plan, tree, journal, advance)
            journal.finish()
        finally:
            journal.close()
    finally:
        os.close(data)


def _write_leaves(
    data: int, plan: _Plan, tree: lmdb_pages.Tree, journal: _Journal, advance: Callable[[int], None]
) -> None:
    # One buffer for all: a new one for each image would cost as much as reading it.
    buffer = bytearray(lmdb_pages.overflow_pages(max(plan.sizes)) * PAGE_BYTES + 1)
    since_flush = 0
    for leaf in tree.leaves:
        if leaf.end <= journal.done:
            continue
        nodes = []
        for index, page in enumerate(leaf.value_pages, leaf.first):
            # Before the image: once a leaf's last line is there, the leaf must be as well.
            if since_flush >= _FLUSH_BYTES:
                journal.flush()
                since_flush = 0
            key, size = plan.keys[index], plan.sizes[index]
            is_new, value = index >= journal.done, None
            if is_new or page is None:
                value = _read(plan.sources[index], size, buffer)
            if is_new:
                journal.add(key, *shape_of(value, plan.sources[index]))
            if is_new and page is not None:
                end = lmdb_pages.overflow_pages(size) * PAGE_BYTES
                buffer[: PAGE_HEADER.size] = lmdb_pages.overflow_header(page, size)
                buffer[PAGE_HEADER.size + size : end] = bytes(end - PAGE_HEADER.size - size)
                _write_at(data, page, memoryview(buffer)[:end])
            inside = bytes(value) if page is None else None
            nodes.append(lmdb_pages.leaf_node(key, size, inside, page))
            if is_new:
                since_flush += size
                advance(size)
        _write_at(data, leaf.page, lmdb_pages.leaf_page(leaf.page, nodes))
    branches = lmdb_pages.branch_pages(tree)
    _write_at(data, tree.pages - len(branches) // PAGE_BYTES, branches)
    _write_at(data, 0, lmdb_pages.meta_pages(tree))


def _read(source: Path, size: int, buffer: bytearray) -> memoryview:
    """The file's bytes, at the place in the buffer where a page header leaves room."""
    room = memoryview(buffer)[PAGE_HEADER.size : PAGE_HEADER.size + size + 1]
    try:
        # Not by open(): that takes as long as reading a small image.
        file = os.open(source, os.O_RDONLY)
        try:
            found = os.readv(file, [room])
        finally:
            os.close(file)
    except OSError as error:
        raise _unreadable(source, error) from None
    if found != size:
        raise UserError(
            f"{source}: expected {size:,} bytes as when the work began; found another size. "
            "Let nothing write there meanwhile, and run it again."
        )
    return room[:size]


def _write_at(data: int, page: int, content: bytes | memoryview) -> None:
    written = 0
    while written < len(content):
        written += os.pwrite(data, content[written:], page * PAGE_BYTES + written)


def _check(part: Path, plan: _Plan) -> None:
    """Read the keys and lengths through the LMDB library; this makes ``lock.mdb`` too."""
    # Opened anew for each few: what one reads stays in memory while the file is open.
    is_whole = all(
        _holds(part, plan.keys[i : i + _CHECKED], plan.sizes[i : i + _CHECKED], len(plan.keys))
        for i in range(0, len(plan.keys), _CHECKED)
    )
    # The library leaves an address of this process in it; it makes a new one out of nothing.
    (part / "lock.mdb").write_bytes(b"")
    if not is_whole:
        _remove(part)
        raise UserError(
            f"{part}: expected to read back what was written; found something else. Check the "
            "disk, and run it again."
        )


def _holds(part: Path, keys: list[bytes], sizes: list[int], entries: int) -> bool:
    """Whether these stand side by side in an LMDB of so many entries."""
    try:
        with (
            lmdb.open(str(part), readonly=True) as database,
            database.begin(buffers=True) as transaction,
        ):
            cursor = transaction.cursor()
            cursor.set_key(keys[0])
            found = [(bytes(key), len(value)) for key, value in islice(cursor, len(keys))]
            return (
                found == list(zip(keys, sizes, strict=True))
                and transaction.stat()["entries"] == entries
            )
    except lmdb.Error:
        return False


def _replace(final: Path, part: Path) -> None:
    """Put the new LMDB in its place; of the old one, open files stay readable."""
    with open(part / "data.mdb", "rb") as data:
        os.fsync(data.fileno())
    flush_folder(part)
    old = _beside(final, "old")
    if final.exists():
        final.rename(old)
    part.rename(final)
    flush_folder(final.parent)
    _remove(old)
