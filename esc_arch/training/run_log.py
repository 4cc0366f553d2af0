"""The output of a training: further numbers in the log and TensorBoard, and a bar."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn.utils import get_total_norm

from esc_arch import terminal
from esc_arch.training import Options
from esc_arch.training.train_state import Saver

__all__ = [
    "Pace",
    "TrainingBar",
    "continue_events",
    "curve_errors_logged_once",
    "numbers",
    "writing_curves",
]

_GB = 1e9
# When the time of the rest is told, and when a first line has waited long enough.
_PACE_ITERATIONS, _FIRST_LINE_S = 10, 40.0
# From here on a training on a CPU gets advice.
_LONG_S = 86400.0


def numbers(model: BaseModel, iteration_s: float) -> dict[str, float]:
    """Numbers of an iteration for the log and TensorBoard, beside the losses.

    Args:
        iteration_s: mean seconds of an iteration, data included.

    Returns:
        it_s: iterations per second; memory_gb: peak memory in 10^9 bytes, on a GPU what PyTorch
        has allocated there, otherwise what is resident of this process; grad_norm: of the
        gradients that the first optimiser's last step has used, unless the model logs one.
    """
    found = {"it_s": 1 / max(iteration_s, 1e-9)}
    if model.device.type == "cuda":
        found["memory_gb"] = torch.cuda.max_memory_allocated(model.device) / _GB
    else:
        with suppress(ImportError):  # not there on Windows
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            found["memory_gb"] = peak * (1 if sys.platform == "darwin" else 1024) / _GB
    if "grad_norm" not in model.get_current_log():
        groups = [group for optimizer in model.optimizers[:1] for group in optimizer.param_groups]
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        if gradients:
            found["grad_norm"] = get_total_norm(gradients).item()
    return found


def continue_events(tb_logger: Any, iteration: int) -> None:
    """Let TensorBoard drop all that a killed run wrote after the iteration that is resumed from.

    Args:
        tb_logger: BasicSR's, a SummaryWriter; None in all processes but the first.
    """
    if tb_logger is None:
        return
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    # SummaryWriter writes this for `purge_step`, which BasicSR does not pass on.
    start = SessionLog(status=SessionLog.START)
    tb_logger.file_writer.add_event(Event(step=iteration + 1, session_log=start))


def writing_curves(tb_logger: Any, saver: Saver) -> AbstractContextManager[None]:
    """Turn an error of TensorBoard's files into one that ends the run, with the safe checkpoint.

    A thread writes them, and its error is raised when the next number is added or flushed: that
    belongs into such blocks.
    """
    if tb_logger is None:
        return nullcontext()
    return saver.stopping("TensorBoard's curves", Path(tb_logger.log_dir))


@contextmanager
def curve_errors_logged_once() -> Iterator[None]:
    """No traceback of TensorBoard's thread for an error that :func:`writing_curves` reports."""
    before = threading.excepthook

    def show(args: threading.ExceptHookArgs) -> None:
        is_tensorboards = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_tensorboards and isinstance(args.exc_value, OSError)):
            before(args)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = before


class Pace:
    """Says once how long the rest of a training takes on this machine, and sees to a first line
    of the log within a minute.

    Args:
        opt: the run's options.
        iteration: where the training begins.
        device: of the model.
    """

    def __init__(self, opt: Options, iteration: int, device: torch.device) -> None:
        self._begin, self._start = iteration, time.monotonic()
        self._total = int(opt["train"]["total_iter"])
        self._save_freq = int(opt["logger"]["save_checkpoint_freq"])
        self._device = device
        self._is_printed = self._is_said = False
        self._first_s = 0.0

    def is_line_due(self, is_printed: bool) -> bool:
        """Whether the first line of the log has waited long enough.

        Args:
            is_printed: whether this iteration has one anyway.
        """
        is_due = not self._is_printed and time.monotonic() - self._start > _FIRST_LINE_S
        self._is_printed |= is_due or is_printed
        return is_due

    def text(self, iteration: int) -> str | None:
        """How long the rest takes, after ten iterations or nearly a minute; None otherwise."""
        done, elapsed = iteration - self._begin, time.monotonic() - self._start
        if done == 1:
            self._first_s = elapsed
        if self._is_said or (done < _PACE_ITERATIONS and elapsed < _FIRST_LINE_S):
            return None
        self._is_said = True
        if iteration >= self._total:
            return None
        # The first one loads, chooses kernels, maybe compiles.
        seconds = elapsed / done if done == 1 else (elapsed - self._first_s) / (done - 1)
        rest = (self._total - iteration) * seconds
        words = "a CPU" if self._device.type == "cpu" else "this GPU"
        text = (
            f"At {seconds:.3g} s an iteration on {words}, the remaining "
            f"{self._total - iteration:,} take about {_duration(rest)}; a checkpoint is "
            f"written every {_duration(self._save_freq * seconds)}."
        )
        if self._device.type == "cpu" and rest > _LONG_S:
            text += (
                " That is a recipe for GPUs: `basicsr options new esc_cpu` prints one for a CPU; "
                "or lower train.total_iter, batch_size_per_gpu, gt_size and "
                "logger.save_checkpoint_freq."
            )
        return text


def _duration(seconds: float) -> str:
    """As 40 s, 12 minutes, 5 hours, 3 days."""
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.0f} s"


class TrainingBar:
    """A progress bar on a terminal, in place of BasicSR's line for each ``print_freq``.

    Without a terminal nothing is shown, and the lines are.

    Args:
        opt: the run's options.
        iteration: where the training begins.
    """

    def __init__(self, opt: Options, iteration: int) -> None:
        self._name = opt["name"]
        self._total = int(opt["train"]["total_iter"])
        self._iteration = iteration
        self._is_first = opt["rank"] == 0
        self._bar: Progress | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar inside the block, and the log's other lines above it."""
        console = terminal.console(stderr=True)
        if not (console.is_terminal and self._is_first):
            yield
            return
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            redirect_stdout=False,
        )
        self._task = self._bar.add_task(
            self._name, total=self._total, completed=self._iteration, numbers=""
        )
        with self._bar, _lines_above(f"[{self._name[:5]}..][epoch:"):
            yield
        self._bar = None

    def advance(self, log: dict[str, float]) -> None:
        """Note one more iteration.

        Args:
            log: the model's, of which the losses are shown.
        """
        if self._bar is None:
            return
        speed = self._bar.tasks[self._task].speed
        losses = [f"{key} {value:.4g}" for key, value in log.items() if key.startswith("l_")]
        shown = losses[:2] + ([f"{speed:.2f} it/s"] if speed else [])
        self._bar.update(self._task, advance=1, numbers="  ".join(shown))


@contextmanager
def _lines_above(hidden: str) -> Iterator[None]:
    """Let BasicSR's lines on the terminal go through the bar's stderr.

    Args:
        hidden: how the lines begin that the bar replaces; the log file has them.
    """

    def is_shown(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(hidden)

    handlers = [
        handler
        for handler in logging.getLogger("basicsr").handlers
        if type(handler) is logging.StreamHandler
    ]
    before = [handler.setStream(sys.stderr) for handler in handlers]
    for handler in handlers:
        handler.addFilter(is_shown)
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            handler.removeFilter(is_shown)
            if stream is not None:
                handler.setStream(stream)
