"""Progress of what takes longer than two seconds: a bar on a terminal, lines in a file."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

# Seconds between two lines in a log file.
LINE_INTERVAL_S = 10.0


@contextmanager
def progress(
    description: str, total: int | None, unit: str = "images", done: int = 0
) -> Iterator[Callable[[float], None]]:
    """Show on stderr how far a loop has come, and when it will end.

    Args:
        description: what is done, such as ``"making LR images"``.
        total: how many there are; None where that is not known.
        unit: what is counted; ``"bytes"`` are written as kB, MB or GB.
        done: how many an earlier run has done.

    Yields:
        A function to call with the number that is done since its last call; of what takes long
        one by one also with fractions, whose sum is written rounded down.
    """
    write = _bytes if unit == "bytes" else _whole
    unit = "" if unit == "bytes" else f" {unit}"  # decimal() names its own
    console = Console(stderr=True)
    if console.is_terminal:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        of = "" if total is None else f"/{write(total)}"
        with bar:
            task = bar.add_task(
                description, total=total, completed=done, count=f"{write(done)}{of}{unit}"
            )

            def advance(step: float = 1) -> None:
                count = bar.tasks[task].completed + step
                bar.update(task, advance=step, count=f"{write(count)}{of}{unit}")

            yield advance
    else:
        lines = _Lines(description, total, unit, done, write)
        yield lines.advance
        lines.end()


def _whole(count: float) -> str:
    # Fractions that make a whole one may lack a rounding error of it.
    return str(int(count + 1e-6))


def _bytes(count: float) -> str:
    return decimal(int(count))


class _Lines:
    """One line every LINE_INTERVAL_S, and one at the end if it took that long."""

    def __init__(
        self,
        description: str,
        total: int | None,
        unit: str,
        done: int,
        write: Callable[[float], str],
    ) -> None:
        self._description, self._total, self._unit, self._write = description, total, unit, write
        self._before = self._done = float(done)
        self._start = self._last = time.monotonic()

    def advance(self, step: float = 1) -> None:
        self._done += step
        now = time.monotonic()
        if now - self._last >= LINE_INTERVAL_S:
            self._last = now
            self._print(now - self._start)

    def end(self) -> None:
        elapsed = time.monotonic() - self._start
        if elapsed >= LINE_INTERVAL_S and self._done > self._before:
            self._print(elapsed)

    def _print(self, elapsed_s: float) -> None:
        new = self._done - self._before
        text = f"{self._description}: {self._write(self._done)}"
        if self._total is not None:
            text += f"/{self._write(self._total)}"
        text += f"{self._unit}, {elapsed_s:.0f} s"
        if self._total is not None and new and self._done < self._total:
            text += f", about {elapsed_s / new * (self._total - self._done):.0f} s left"
        print(text, file=sys.stderr, flush=True)
