"""The one way of lines to the terminal: no control characters, no passwords, no end by a closed
output.

Names of files, keys and metadata come from anywhere, and could otherwise colour, move or forge
what the terminal shows.  Work whose messages nobody takes is done all the same.
"""

import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

from esc_arch.errors import bounded, escaped, starred

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Stream", "console", "guarded", "lost", "say"]

# The longest line; options' schema and references have shorter ones.
_MOST = 20_000
# A reader that has gone has read enough; other reasons lose what it wanted.
_GONE = (errno.EPIPE, errno.EBADF, errno.ESHUTDOWN, errno.ECONNRESET)


class Stream(io.TextIOBase):
    """A text stream that takes everything, for ``sys.stdout`` and ``sys.stderr``.

    Args:
        raw: the stream below.

    Attributes:
        raw: as given.
        error: why something could not be written, once that happened.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        # Bars of other packages go back by a carriage return.
        self._call("write", bounded(escaped(starred(text), keep="\n\t\r"), _MOST))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def write_as_it_is(self, text: str) -> int:
        """Write what holds control characters of this program."""
        self._call("write", text)
        return len(text)

    def flush(self) -> None:
        self._call("flush")

    def _call(self, name: str, *arguments: str) -> None:
        if self.error is None:
            try:
                getattr(self.raw, name)(*arguments)
            except (OSError, ValueError) as error:  # the latter of a closed one
                self.error = error

    def isatty(self) -> bool:
        return self.raw.isatty()

    def fileno(self) -> int:
        return self.raw.fileno()

    def writable(self) -> bool:
        return True

    def __getattribute__(self, name: str) -> Any:
        # TextIOBase has these as empty ones.
        if name in ("encoding", "errors", "buffer", "newlines"):
            return getattr(self.raw, name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


class _AsItIs(Stream):
    """A stream as rich needs it, which sets colours and moves the cursor."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream.raw)
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write_as_it_is(text)

    def flush(self) -> None:
        self._stream.flush()


@contextmanager
def guarded() -> Iterator[None]:
    """Let both streams take everything inside the block, also where they are closed."""
    _open_closed()
    before = sys.stdout, sys.stderr
    guards = [_guard(stream) for stream in before]
    sys.stdout, sys.stderr = guards
    try:
        yield
    finally:
        for stream in guards:
            stream.flush()
            if stream.error is not None:
                _silence(stream)
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Where a standard file is closed, the next that is opened would take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number


def _guard(stream: TextIO | None) -> Stream:
    if isinstance(stream, Stream):
        return stream
    if stream is None:
        return Stream(open(os.devnull, "w", encoding="utf-8"))
    if isinstance(stream, io.TextIOWrapper):
        # File names need not be text, nor text that the terminal's encoding has.
        stream.reconfigure(errors="backslashreplace")
    return Stream(stream)


def _silence(stream: Stream) -> None:
    """At its end Python would try to write the rest again, and say that it cannot."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.raw.fileno())
        os.close(null)


def lost() -> str:
    """Why the output did not come to the one who wanted it; empty when it did or no one does."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    error = getattr(sys.stdout, "error", None)
    if isinstance(error, OSError) and error.errno not in _GONE:
        return error.strerror or str(error)
    return ""


def say(line: str) -> None:
    """Write one line to stderr."""
    print(bounded(escaped(starred(line))), file=sys.stderr, flush=True)


def console(stderr: bool = False, width: int | None = None) -> "Console":
    """A console of rich, for tables and bars, whose texts are escaped as all lines are."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class Escaping(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            # Before the widths of columns are measured.
            return super().render_str(escaped(text, keep="\n"), **options)

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or segment.text.isprintable():
                    yield segment
                else:
                    yield Segment(escaped(segment.text, keep="\n"), segment.style)

        @property
        def file(self) -> IO[str]:
            found = super().file
            return cast(IO[str], _AsItIs(found)) if isinstance(found, Stream) else found

        @file.setter
        def file(self, new: IO[str]) -> None:
            self._file = new

    return Escaping(stderr=stderr, width=width, markup=False, emoji=False)
