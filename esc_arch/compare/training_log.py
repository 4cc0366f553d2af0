"""The course of a training run, read from the logs that BasicSR writes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

__all__ = ["History", "read_logs"]

_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ")
# The blank after the loss: the last line of a killed run may end in the middle of a number.
_STEP = re.compile(r"iter:\s*([\d,]+), lr:.* l_pix: (\S+) ")
_NUMBER = r"([+-]?(?:inf|nan|[\d.]+))"


@dataclass
class History:
    """A training run by its logs.

    Attributes:
        loss: ``l_pix`` of the batch, by iteration.
        psnr: of the validation set that comes first in the logs, in dB, by iteration.
        minutes: since the training began, by iteration; validation and saving count, the
            time between a kill and the resumption does not.
        total_minutes: of all that the logs tell.
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
        """The last one that is known of; 0 when there is none."""
        return max([0, *self.loss, *self.psnr])

    def curve(self) -> list[list[float | None]]:
        """[iteration, minutes, loss or None, PSNR or None], by iteration."""
        known = sorted(self.loss.keys() | self.psnr.keys())
        return [[i, self.minutes.get(i), self.loss.get(i), self.psnr.get(i)] for i in known]


def read_logs(paths: Iterable[Path]) -> History:
    """The course of a run from BasicSR's logs, oldest first.

    A resumed run has several.  What an earlier log says of iterations that were done
    again after resuming is dropped, so each iteration counts once.
    """
    history = History()
    first_set = None
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        resumed = re.search(r"Resuming training from epoch: \d+, iter: (\d+)", text)
        total = re.search(r"Total epochs: \d+; iters: (\d+)", text)
        iteration = int(resumed[1]) if resumed else 0
        _forget_after(history, iteration)
        minutes_before, began = history.total_minutes, None
        current_set = None
        for line in text.splitlines():
            if step := _STEP.search(line):
                iteration = int(step[1].replace(",", ""))
                history.loss[iteration] = float(step[2])
            elif "End of training." in line and total:
                iteration = int(total[1])
            if stamp := _TIME.match(line):
                now = datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S,%f")
                if "Start training from epoch" in line:
                    began = now
                # The validation after the end is none of the training's time.
                if began is not None and not history.finished:
                    elapsed = (now - began).total_seconds() / 60
                    history.total_minutes = minutes_before + elapsed
                    history._ends[iteration] = history.total_minutes
                    history.minutes.setdefault(iteration, history.total_minutes)
            if "End of training." in line:
                history.finished = True
            elif named := re.search(r"Validation (.+)", line):
                current_set = named[1]
                first_set = first_set or current_set
            # BasicSR does not say at which iteration it validated. It does so after
            # printing the loss of that iteration, if print_freq divides val_freq.
            elif current_set == first_set and (metric := re.search(f"# psnr: {_NUMBER}", line)):
                history.psnr[iteration] = float(metric[1])
    return history


def _forget_after(history: History, iteration: int) -> None:
    """Go back to what was known at an iteration, where the next log begins."""
    for values in (history.loss, history.psnr, history.minutes, history._ends):
        for later in [i for i in values if i > iteration]:
            del values[later]
    history.total_minutes = max(history._ends.values(), default=0.0)
    history.finished = False
