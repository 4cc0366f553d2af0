"""Training several networks from scratch under one option template, each in its own process.

Each network is trained by ``basicsr train --auto_resume``, so a comparison that was killed
goes on where it was: plan.json tells which networks are done, BasicSR's training states how
far the others are.
"""

import ctypes
import fcntl
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from esc_arch import options
from esc_arch.compare import quality, results
from esc_arch.compare.contenders import read_contender
from esc_arch.compare.results import Row
from esc_arch.compare.training_plan import (
    Plan,
    Request,
    Speed,
    affordable,
    scaled,
    with_network,
    write_option,
)
from esc_arch.errors import UserError
from esc_arch.progress import progress
from esc_arch.training.log_reader import History, read_logs
from esc_arch.weights.checkpoint_files import read_file

__all__ = ["Trained", "train"]

# A calibration ends after this time, or this share of the budget if that is less, but not
# before it has LEAST_TIMED iterations and one validation.
CALIBRATION_S = 30.0
CALIBRATION_SHARE = 0.05
CALIBRATION_ITERATIONS = 200
LEAST_TIMED = 5
# The first iterations find memory and choose kernels.
WARM_UP = 2
POLL_S = 0.5
PROGRESS_S = 5.0  # the logs are read anew for it
LAST_LINES = 12

_PR_SET_PDEATHSIG = 1


class Trained(NamedTuple):
    """What a comparison found.

    Attributes:
        rows: of training; those of quality are in ``tested``.
        tested: each trained network on the template's validation sets.
        errors: one message for each network that failed.
    """

    rows: list[Row]
    tested: quality.Tested
    errors: list[str]


class _Failure(Exception):
    """A network's process ended badly; the text has the last lines of its log."""


def train(request: Request) -> Trained:
    """Train the networks that are not trained yet, and test all.

    Nothing is written before every option file is checked.

    Raises:
        UserError: when the template is wrong, or an earlier run of this name had other
            arguments.
    """
    template = request.read_template()
    wanted = {name: with_network(request, template, name) for name in request.networks}
    for name, opt in wanted.items():
        options.check(opt, f"{request.template} with {name}", options.Run(is_train=True))
    request.folder.mkdir(parents=True, exist_ok=True)
    with _alone(request.folder):
        return _train(request, template, wanted)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process from training the same networks; the lock ends with this one."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: expected a comparison that nothing works on; found that another "
                "process does. Wait for it, or give another --name."
            ) from None
        yield


def _train(request: Request, template: dict, wanted: dict[str, dict]) -> Trained:
    plan = Plan(request, template)
    if not plan.path.exists():
        for name in wanted:
            folder = Path("experiments", request.run_name(name))
            # BasicSR would go on from its states, whatever options they are of.
            if folder.exists():
                raise UserError(
                    f"{folder}: expected no such experiment, as {plan.path} is not there; found "
                    "one. Remove it, or give another --name."
                )
        plan.write()
    errors: dict[str, str] = {}
    with _Processes(_slots(template)) as processes:
        unplanned = [name for name in wanted if plan.schedule(name) is None]
        if request.steps is not None:
            for name in unplanned:
                plan.set_schedule(name, request.steps, None, None)
        elif unplanned:
            seconds = min(CALIBRATION_S, CALIBRATION_SHARE * 60 * request.budget_minutes)

            def measure(name: str, gpu: str | None) -> Speed:
                return _calibrate(request, name, wanted[name], seconds, processes, gpu)

            with progress("measuring the speed", len(unplanned), "networks") as advance:
                for name, speed in processes.each(unplanned, measure, errors):
                    advance(1)
                    if speed is not None:
                        fits = affordable(template, request.budget_minutes, speed)
                        plan.set_schedule(name, *fits, speed)
        ready = [name for name in wanted if plan.schedule(name) is not None]
        for name in ready:
            opt = scaled(wanted[name], *plan.schedule(name))
            write_option(request.option_file(name), opt)
        _train_all(request, plan, ready, processes, errors)
    return _report(request, template, plan, ready, errors)


def _train_all(
    request: Request, plan: Plan, ready: Sequence[str], processes: "_Processes", errors: dict
) -> None:
    left = [name for name in ready if name not in plan.finished]
    totals = {name: plan.schedule(name)[0] for name in ready}

    def iterations(name: str) -> int:
        return totals[name] if name in plan.finished else _history(request, name).iteration

    begun = {name: min(iterations(name), totals[name]) for name in ready}
    shown = sum(begun.values())
    last = time.monotonic()
    what = f"training {len(left)} of {len(ready)} networks"
    with progress(what, sum(totals.values()), "iterations", shown) as advance:

        def poll() -> None:
            nonlocal shown, last
            if time.monotonic() - last < PROGRESS_S:
                return
            last = time.monotonic()
            now = sum(min(iterations(name), totals[name]) for name in ready)
            if now > shown:
                advance(now - shown)
                shown = now

        def run(name: str, gpu: str | None) -> bool:
            _set_damaged_states_aside(Path("experiments", request.run_name(name)))
            _run_to_end(request, name, processes, gpu)
            return True

        for name, done in processes.each(left, run, errors, poll):
            if done:
                plan.set_finished(name)


def _run_to_end(request: Request, name: str, processes: "_Processes", gpu: str | None) -> None:
    log = request.folder / "logs" / f"{name}.log"
    process = processes.start(request.option_file(name), log, gpu)
    if process.wait():
        raise _Failure(_last_words(process.returncode, log))
    if not _weights(request, name).is_file():
        raise _Failure(f"no {_weights(request, name)} after training; see {log}")


def _last_words(code: int, log: Path) -> str:
    why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if line.strip()][-LAST_LINES:]
    return "\n  ".join([f"{why}; the last lines of {log}:", *kept])


def _weights(request: Request, name: str) -> Path:
    return Path("experiments", request.run_name(name), "models", "net_g_latest.pth")


def _history(request: Request, name: str) -> History:
    return _logs_below(Path("experiments", request.run_name(name)))


def _logs_below(folder: Path) -> History:
    return read_logs(sorted(folder.glob("train_*.log")))


def _set_damaged_states_aside(folder: Path) -> None:
    """BasicSR writes in place: a kill while it does leaves a part of a file behind."""
    states = (folder / "training_states").glob("[0-9]*.state")
    for state in sorted(states, key=lambda path: int(path.stem), reverse=True):
        try:
            for path in (state, folder / "models" / f"net_g_{state.stem}.pth"):
                read_file(path)
        except Exception:  # the unpickler of a garbled file may raise anything
            state.replace(state.with_suffix(".state.damaged"))
        else:
            return


def _calibrate(
    request: Request,
    name: str,
    opt: dict,
    seconds: float,
    processes: "_Processes",
    gpu: str | None,
) -> Speed:
    """Train shortly, with validation, and take the times from the log."""
    run_name = f"{request.run_name(name)}_calibration"
    folder = Path("experiments", run_name)
    opt = scaled(opt, CALIBRATION_ITERATIONS)
    opt["name"] = run_name
    opt["logger"] |= {"print_freq": 1, "save_checkpoint_freq": LEAST_TIMED, "use_tb_logger": False}
    opt["logger"].pop("wandb", None)
    if opt.get("val"):
        opt["val"]["val_freq"] = LEAST_TIMED
    file = request.folder / "options" / f"{name}_calibration.yml"
    write_option(file, opt)
    shutil.rmtree(folder, ignore_errors=True)  # of a killed one
    log = request.folder / "logs" / f"{name}_calibration.log"
    process = processes.start(file, log, gpu)
    while process.poll() is None:
        time.sleep(POLL_S)
        history = _logs_below(folder)
        if 60 * history.total_minutes >= seconds and history.iteration >= 2 * LEAST_TIMED + WARM_UP:
            processes.stop(process)
            break
    else:
        if process.returncode:
            raise _Failure(_last_words(process.returncode, log))
    speed = _speed(_logs_below(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return speed


def _speed(history: History) -> Speed:
    """Mean seconds of an iteration, and of one with a check beyond that."""
    plain, checked = [], []
    for iteration in sorted(history.minutes):
        before = history.minutes.get(iteration - 1)
        if before is None or iteration <= WARM_UP:
            continue
        seconds = 60 * (history.minutes[iteration] - before)
        # The check is done after its iteration is logged.
        (checked if (iteration - 1) % LEAST_TIMED == 0 else plain).append(seconds)
    iteration_s = sum(plain) / len(plain)
    return Speed(iteration_s, max(0.0, sum(checked) / len(checked) - iteration_s))


def _report(
    request: Request, template: dict, plan: Plan, ready: Sequence[str], errors: dict[str, str]
) -> Trained:
    run = results.describe_run()
    rows, contenders = [], []
    for name in ready:
        if name not in plan.finished:
            continue
        weights = str(_weights(request, name))
        history = _history(request, name)
        rows.append(
            {
                "network": name,
                "scale": template["scale"],
                "weights": weights,
                "option": str(request.option_file(name)),
                "iterations": plan.schedule(name)[0],
                "minutes": history.total_minutes,
                "curve": history.curve(),
            }
        )
        contenders.append(read_contender(f"{name}={weights}", template["scale"]))
    found = results.read(request.folder)
    results.add(found, "training", rows, run)
    results.write(request.folder, found)
    device = "cuda" if torch.cuda.is_available() and template["num_gpu"] != 0 else "cpu"
    test_sets = quality.open_validation_sets(template)
    tested = quality.compare(contenders, test_sets, request.folder, device, run)
    return Trained(rows, tested, [f"{name} failed: {text}" for name, text in errors.items()])


def _slots(template: dict) -> list[str | None]:
    """What CUDA_VISIBLE_DEVICES is to be for each network that trains at one time."""
    if template.get("num_gpu") == 0 or not torch.cuda.is_available():
        return [None]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
    return [name.strip() for name in names]


def _command(option_file: Path) -> list[str]:
    """Trains in the current directory, going on from the newest state."""
    train = [sys.executable, "-m", "esc_arch", "train", "-opt", str(option_file)]
    return [*train, "--auto_resume"]


@dataclass
class _Processes:
    """The training processes: as many at one time as there are slots; they end with this one.

    Args:
        slots: CUDA_VISIBLE_DEVICES of each, None to leave it.
    """

    slots: list[str | None]
    _running: list[subprocess.Popen] = field(default_factory=list)
    _stopped: bool = False

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped = True
        for process in self._running:
            self.stop(process)

    def start(self, option_file: Path, log: Path, gpu: str | None) -> subprocess.Popen:
        """Start the training of an option file; what it prints is added to ``log``."""
        if self._stopped:
            raise _Failure("stopped before it began")
        log.parent.mkdir(parents=True, exist_ok=True)
        own_gpu = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        with log.open("ab") as output:
            process = subprocess.Popen(
                _command(option_file),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **own_gpu},
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen) -> None:
        """End a process and the workers that it started."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def each(
        self,
        names: Sequence[str],
        work: Callable,
        errors: dict[str, str],
        poll: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[str, object]]:
        """Do the work for each network, in as many threads as there are slots.

        Args:
            work: takes a network and CUDA_VISIBLE_DEVICES.
            errors: gets what failed, by network.
            poll: called every half second.

        Yields:
            Each network with what came out, None when it failed, as it comes.
        """
        free: queue.Queue[str | None] = queue.Queue()
        for slot in self.slots:
            free.put(slot)

        def one(name: str) -> object:
            gpu = free.get()
            try:
                return work(name, gpu)
            finally:
                free.put(gpu)

        with ThreadPoolExecutor(len(self.slots)) as pool:
            futures = {pool.submit(one, name): name for name in names}
            try:
                while futures:
                    done, _ = wait(futures, timeout=POLL_S, return_when=FIRST_COMPLETED)
                    poll()
                    for future in done:
                        name = futures.pop(future)
                        try:
                            yield name, future.result()
                        except (_Failure, UserError) as error:
                            errors[name] = str(error)
                            yield name, None
            finally:
                # The pool waits for its threads, and they for their processes.
                if futures:
                    pool.shutdown(wait=False, cancel_futures=True)
                    self.__exit__()


def _die_with(parent: int) -> Callable[[], None]:
    """What a child does first: ask Linux for SIGKILL at its parent's end, however it ends."""
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before it was asked
            os._exit(1)

    return ask
