"""Progress of work that takes longer than two seconds: a bar on a terminal, lines in a log file."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.filesize import decimal
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from esc_arch import terminal

__all__ = ["Progress", "progress"]

# Seconds between two lines in a log file.
LINE_INTERVAL_S = 10.0


class Progress:
    """How much of some work is done, in units of its own.

    It is called with what was done since its last call, and passes that on.  Functions that take
    long take one of these, and give a :meth:`part` of it to those that they call.

    Args:
        report: called with each amount that is newly done; None for nobody.
        total: units in all; more is never reported.
    """

    def __init__(
        self, report: Callable[[float], object] | None = None, total: float = math.inf
    ) -> None:
        self._report, self._total = report, total
        self._done = self._reported = 0.0

    def __call__(self, amount: float = 1) -> None:
        self._done = min(self._done + amount, self._total)
        new = self._done - self._reported
        if new > 0:
            self._reported = self._done
            if self._report is not None:
                self._report(new)

    def part(self, amount: float = 1, total: float = 1) -> "Progress":
        """Progress of a part of this work: ``amount`` units here, ``total`` units in itself."""
        return Progress(lambda step: self(step * amount / total), total)

    def restart(self) -> None:
        """Begin a second attempt: nothing is reported until it is further than the first."""
        self._done = 0.0

    def finish(self) -> None:
        """Report the rest of the total."""
        self(self._total - self._done)


@contextmanager
def progress(
    description: str, total: int | None, unit: str = "images", done: int = 0
) -> Iterator[Progress]:
    """Show on stderr how far a loop has come, and when it will end.

    Args:
        description: of the work, such as ``"making LR images"``.
        total: number of units; None where that is not known.
        unit: name of the units; ``"bytes"`` are written as kB, MB or GB.
        done: how many an earlier run has done.

    Yields:
        The progress, which counts fractions too; their sum is written rounded down.
    """
    write = _bytes if unit == "bytes" else _whole
    name = "" if unit == "bytes" else f" {unit}"  # decimal() names its own
    of = "" if total is None else f"/{write(total)}"
    start = last = time.monotonic()
    count = float(done)

    def line() -> None:
        elapsed_s = time.monotonic() - start
        text = f"{description}: {write(count)}{of}{name}, {elapsed_s:.0f} s"
        if total is not None and done < count < total:
            left_s = elapsed_s / (count - done) * (total - count)
            text += f", about {left_s:.0f} s left"
        terminal.say(text)

    console = terminal.console(stderr=True)
    if not console.is_terminal:

        def advance_line(step: float) -> None:
            nonlocal count, last
            count += step
            if time.monotonic() - last >= LINE_INTERVAL_S:
                last = time.monotonic()
                line()

        yield Progress(advance_line)
        if time.monotonic() - start >= LINE_INTERVAL_S and count > done:
            line()
        return
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[count]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
    with bar:
        shown = f"{write(done)}{of}{name}"
        task = bar.add_task(description, total=total, completed=done, count=shown)

        def advance_bar(step: float) -> None:
            nonlocal count
            count += step
            bar.update(task, advance=step, count=f"{write(count)}{of}{name}")

        yield Progress(advance_bar)


def _whole(count: float) -> str:
    # Fractions that make a whole one may lack a rounding error of it.
    return str(int(count + 1e-6))


def _bytes(count: float) -> str:
    return decimal(int(count))
