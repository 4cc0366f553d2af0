"""Records of prepared images: the journal of a run, and the record of a complete one.

Both are JSON lines: first the settings, then images with the size of each file made of them.
A journal may hold several lines of one image; the last one counts.
"""

import json
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from esc_arch.data.prepare.layout import Settings
from esc_arch.data.sub_images import Grid
from esc_arch.files import open_regular
from esc_arch.version import __version__

__all__ = ["FINAL", "WORK", "Journal", "Record", "State", "final_text", "read_state"]

WORK = ".prepare"
FINAL = "prepared.jsonl"
_JOURNAL = "journal.jsonl"


class Record(NamedTuple):
    """One prepared image.

    Attributes:
        source: path below the folder of sources, with slashes.
        size: of the source, in bytes.
        mtime_ns: when the source was changed last.
        height, width: of the HR image.
        outputs: for each folder the sizes of the image's files, in bytes.
        name: of these files, without extension.
    """

    source: str
    size: int
    mtime_ns: int
    height: int
    width: int
    outputs: dict[str, list[int]]
    name: str

    def line(self) -> str:
        return json.dumps(self._asdict(), separators=(",", ":"))

    @classmethod
    def from_line(cls, line: str) -> "Record":
        fields = json.loads(line)
        # Earlier releases took no folder into a name.
        return cls(**{"name": PurePosixPath(fields["source"]).stem, **fields})


class State(NamedTuple):
    """Settings and images of earlier runs.

    Attributes:
        settings: of the last one; None when there was none.
        lines: the record of each image, by its name; as text, which takes less memory.
    """

    settings: Settings | None
    lines: dict[str, str]


def read_state(dest: Path) -> State:
    """Settings and images of the folder ``dest``, by its record and its journal."""
    state = State(None, {})
    for path in (dest / FINAL, dest / WORK / _JOURNAL):
        state = _read(path, state)[0]
    return state


def _read(path: Path, state: State) -> tuple[State, int]:
    """Add the lines of a file to a state.

    Returns:
        The state, and how many bytes of the file are whole lines: a killed run or a power
        failure may have left a part of one at the end.
    """
    length = 0
    try:
        with open_regular(path) as file:
            for raw in file:
                line = raw.decode("ascii")
                if not line.endswith("\n"):
                    break
                if line.startswith('{"program"'):
                    state = State(_settings_of(line), state.lines)
                else:
                    state.lines[Record.from_line(line).name] = line.rstrip("\n")
                length += len(raw)
    except FileNotFoundError:
        pass
    except (ValueError, TypeError, KeyError):
        pass  # the following images are made again
    return state, length


def _header(settings: Settings) -> str:
    return json.dumps(
        {
            "program": f"esc-arch {__version__}",
            "scales": settings.scales,
            "sub_image": settings.grid and settings.grid._asdict(),
            "lmdb": settings.lmdb,
        },
        separators=(",", ":"),
    )


def _settings_of(line: str) -> Settings:
    header = json.loads(line)
    grid = header["sub_image"] and Grid(**header["sub_image"])
    return Settings(tuple(header["scales"]), grid, header["lmdb"])


def final_text(settings: Settings, lines: dict[str, str]) -> str:
    """The record of a complete run, whatever order the images were made in."""
    return "".join(f"{line}\n" for line in (_header(settings), *(lines[n] for n in sorted(lines))))


class Journal:
    """The journal of a run in ``dest``, opened to append.

    Args:
        dest: the folder of results.
        settings: written first, so that a run that is killed at once leaves them.
    """

    def __init__(self, dest: Path, settings: Settings) -> None:
        path = dest / WORK / _JOURNAL
        whole = _read(path, State(None, {}))[1]
        self._file = open(path, "ab")  # noqa: SIM115  (closed by close)
        self._file.truncate(whole)
        self._waiting: list[str] = []
        # Beside the work: the processes need not wait for the disk.
        self._flushing = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None
        self._write([_header(settings)])

    def add(self, line: str) -> None:
        """Add a finished image; it counts from the next commit."""
        self._waiting.append(line)

    def commit(self) -> None:
        """Begin to write the added images, once their files are on the disk."""
        if self._last is not None:
            if not self._last.done():
                return  # they wait for the next commit
            self._last.result()
        lines, self._waiting = self._waiting, []
        self._last = self._flushing.submit(self._flush, lines)

    def close(self) -> None:
        """Write the remaining images, and wait for that."""
        try:
            self._flushing.shutdown()
            if self._last is not None:
                self._last.result()
            self._flush(self._waiting)
        finally:
            self._file.close()

    def _flush(self, lines: list[str]) -> None:
        if lines:
            # One flush of all file systems in a few seconds: thousands of files flushed one by
            # one would take longer than making them.
            if hasattr(os, "sync"):  # not on Windows
                os.sync()
            self._write(lines)

    def _write(self, lines: Iterable[str]) -> None:
        self._file.write("".join(f"{line}\n" for line in lines).encode("ascii"))
        self._file.flush()
        os.fsync(self._file.fileno())
