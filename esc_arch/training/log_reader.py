"""The course of a training, read from the logs that BasicSR and ``basicsr train`` write.

The end of a log may be cut off, or lie in the middle of a line: a run may be writing it, or was
killed while it wrote.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from esc_arch.files import read_regular

__all__ = [
    "Best",
    "History",
    "Summary",
    "is_log",
    "log_files",
    "log_texts",
    "next_log",
    "read_logs",
    "summarize",
]

_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ")
_NUMBER = re.compile(r"INFO: Log (\d{1,9}) of this experiment")
_START = "Start training from epoch"
_END = "End of training."
_RESUMED = re.compile(r"Resuming training from epoch: \d+, iter: (\d{1,15})")
_TOTAL = re.compile(r"Total epochs: \d+; iters: (\d{1,15})")
_ITERATION = re.compile(r"iter:\s*(\d{1,3}(?:,\d{3}){0,4}), lr:")
# The blank after a number: the last line of a killed run may end in the middle of one.
_LOSS = re.compile(r" l_pix: (\S+) ")
_SECONDS = re.compile(r"time \(data\): (\d+\.\d+) ")
_VALIDATION = re.compile(r"Validation ([^\r\n]+)\n((?:\t # [^\n]*\n)+)")
_METRIC = re.compile(
    r"\t # ([^:\n]+): ([+-]?(?:inf|nan|[\d.]+))"
    r"(?:\tBest: (-?(?:\d+\.\d+|inf)) @ (\d{1,15}) iter)?\n"
)


@dataclass(frozen=True)
class Best:
    """The best value of a metric on a validation set, and the iteration that had it."""

    dataset: str
    metric: str
    value: float
    iteration: int


@dataclass
class Summary:
    """One log of a run, without its course.

    Attributes:
        start: iteration that it resumed from, or 0.
        iteration: that was done last.
        total: of the whole training; None where it is not known.
        seconds: of an iteration, as last logged.
        is_ended: whether the last iteration was done.
        is_begun: whether the training began; what was refused before is no part of the run.
        best: as each validation logged it.
    """

    start: int
    iteration: int
    total: int | None
    seconds: float | None
    is_ended: bool
    is_begun: bool
    best: list[Best]


@dataclass
class History:
    """The course of a training run.

    Attributes:
        loss: ``l_pix`` of the batch, by iteration.
        psnr: of the validation set that comes first in the logs, in dB, by iteration.
        minutes: since the training began, by iteration; validation and saving count, the
            time between a kill and the resumption does not.
        total_minutes: of all logs.
        finished: whether the last iteration was done.
    """

    loss: dict[int, float] = field(default_factory=dict)
    psnr: dict[int, float] = field(default_factory=dict)
    minutes: dict[int, float] = field(default_factory=dict)
    total_minutes: float = 0.0
    finished: bool = False
    # By iteration, when it was done with, saved and validated.
    _ends: dict[int, float] = field(default_factory=dict, repr=False)

    @property
    def iteration(self) -> int:
        """The last one with a loss or PSNR; 0 when there is none."""
        return max([0, *self.loss, *self.psnr])

    def curve(self) -> list[list[float | None]]:
        """[iteration, minutes, loss or None, PSNR or None], by iteration."""
        known = sorted(self.loss.keys() | self.psnr.keys())
        return [[i, self.minutes.get(i), self.loss.get(i), self.psnr.get(i)] for i in known]

    def forget_after(self, iteration: int) -> None:
        """Go back to an iteration, where the next log begins."""
        for values in (self.loss, self.psnr, self.minutes, self._ends):
            for later in [i for i in values if i > iteration]:
                del values[later]
        self.total_minutes = max(self._ends.values(), default=0.0)
        self.finished = False

    def note_end(self, iteration: int, minutes: float) -> None:
        """Note the time of a line that follows an iteration."""
        self.total_minutes = self._ends[iteration] = minutes
        self.minutes.setdefault(iteration, minutes)


def is_log(name: str) -> bool:
    """Whether a file of this name in an experiment's folder is the log of a training."""
    return name.startswith("train_") and name.endswith(".log")


def log_files(folder: Path) -> list[Path]:
    """The logs in an experiment's folder, oldest first; see :func:`log_texts`.

    Raises:
        OSError: when the folder cannot be listed, or a log cannot be read.
    """
    problems: list[OSError] = []
    logs = [path for path, _ in log_texts(folder, problems)]
    if problems:
        raise problems[0]
    return logs


def log_texts(folder: Path, problems: list[OSError]) -> list[tuple[Path, str]]:
    """The logs in an experiment's folder with their texts, oldest first.

    Ours are numbered inside.  BasicSR ends their names with the time, which goes back when the
    clock is set back: where a log by that order goes on from an iteration that none has reached,
    the iterations at which they begin are the order.

    Args:
        problems: grows by the errors of logs that cannot be read, which are left out.

    Raises:
        OSError: when the folder cannot be listed.
    """
    logs = [path for path in folder.iterdir() if is_log(path.name)]
    logs.sort(key=lambda path: path.name[-len("00000000_000000.log") :])
    texts: list[tuple[Path, str]] = []
    for path in logs:
        try:
            texts.append((path, read_regular(path).decode(errors="replace")))
        except OSError as error:
            error.filename = str(path)
            problems.append(error)
    own = sorted((log for log in texts if _number(log[1])), key=lambda log: _number(log[1]))
    others = [log for log in texts if not _number(log[1])]
    reached = 0
    for _, text in others:
        summary = summarize(text)
        if summary.start > reached:
            others.sort(key=lambda log: _facts(log[1])[0])
            break
        reached = max(reached, summary.iteration)
    return others + own


def next_log(folder: Path, name: str) -> tuple[int, Path]:
    """The number and the file of a new log of an experiment; no other has the name."""
    texts = log_texts(folder, [])
    number = 1 + max([len(texts), *(_number(text) for _, text in texts)])
    now = datetime.now()
    while (log := folder / f"train_{name}_{now:%Y%m%d_%H%M%S}.log").exists():
        now += timedelta(seconds=1)
    return number, log


def _number(text: str) -> int:
    """The number that a log names in its first line; 0 for none."""
    found = _NUMBER.search(text, 0, 500)
    return int(found[1]) if found else 0


def summarize(text: str) -> Summary:
    """The values of a listing, from a log; of lines that come once an iteration, only the last
    ones are looked at."""
    start, total = _facts(text)
    last, seconds, is_ended = _last(_ITERATION, text), _last(_SECONDS, text), _END in text
    iteration = _whole(last[1]) if last else start
    best = [
        Best(validation[1].strip(), metric[1], float(metric[3]), int(metric[4]))
        for validation in _VALIDATION.finditer(text)
        for metric in _METRIC.finditer(validation[2])
        if metric[3]
    ]
    return Summary(
        start,
        total if is_ended and total is not None else iteration,
        total,
        float(seconds[1]) if seconds else None,
        is_ended,
        _START in text or last is not None,
        best,
    )


def read_logs(paths: Iterable[Path]) -> History:
    """The course of a run from BasicSR's logs, oldest first.

    A resumed run has several.  Iterations of an earlier log that were done again after resuming
    are dropped, so each iteration counts once.
    """
    history = History()
    first_set: str | None = None
    for path in paths:
        text = read_regular(path).decode(errors="replace")
        if _START not in text and not _ITERATION.search(text):
            continue  # refused before it began
        iteration, total = _facts(text)
        history.forget_after(iteration)
        minutes_before, began, current_set = history.total_minutes, None, ""
        previous: datetime | None = None
        for line in text.splitlines(keepends=True):
            is_end = _END in line
            if (step := _ITERATION.search(line)) and (loss := _LOSS.search(line)):
                iteration = _whole(step[1])
                history.loss[iteration] = float(loss[1])
            elif is_end and total is not None:
                iteration = total
            if stamp := _TIME.match(line):
                now = datetime.fromisoformat(f"{stamp[1]}.{stamp[2]}")
                if _START in line:
                    began = now
                elif began is not None and previous is not None and now < previous:
                    began -= previous - now  # the clock was set back
                previous = now
                # The validation after the end does not count as time of the training.
                if began is not None and not history.finished:
                    elapsed = (now - began).total_seconds() / 60
                    history.note_end(iteration, minutes_before + elapsed)
            if is_end:
                history.finished = True
            elif named := re.search(r"Validation (.+)", line):
                current_set = named[1]
                first_set = first_set or current_set
            # BasicSR does not say at which iteration it validated. It does so after
            # printing the loss of that iteration, if print_freq divides val_freq.
            elif current_set == first_set and (row := _METRIC.match(line)) and row[1] == "psnr":
                history.psnr[iteration] = float(row[2])
    return history


def _facts(text: str) -> tuple[int, int | None]:
    """The iteration that a log begins at, and that of the whole training."""
    resumed, total = _RESUMED.search(text), _TOTAL.search(text)
    return int(resumed[1]) if resumed else 0, int(total[1]) if total else None


def _whole(number: str) -> int:
    return int(number.replace(",", ""))


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match, searched in ever longer ends of a text."""
    length = 2**14
    while True:
        found = None
        for found in pattern.finditer(text, max(0, len(text) - length)):  # noqa: B007
            pass
        if found is not None or length >= len(text):
            return found
        length *= 8
