"""Training several networks from scratch under one option template, each in its own process.

Each network is trained by ``basicsr train --auto_resume``, so a comparison that was killed
continues where it was: plan.json says which networks are trained, the checkpoints how far the
others are.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from esc_arch import options
from esc_arch.compare import quality, results
from esc_arch.compare.candidates import read_candidate
from esc_arch.compare.plan import (
    Plan,
    Request,
    Speed,
    affordable,
    read_plan,
    scaled,
    with_network,
    write_option,
)
from esc_arch.compare.results import Row
from esc_arch.errors import UserError
from esc_arch.files import Held, locked
from esc_arch.progress import progress
from esc_arch.training.log_reader import History, log_files, read_logs

__all__ = ["Command", "Trained", "train", "train_command"]

# The command line that trains by an option file.
Command = Callable[[Path], list[str]]

# A calibration ends after this time, or this share of the budget if that is less, but not
# before it has LEAST_TIMED iterations and one validation.
CALIBRATION_S = 30.0
CALIBRATION_SHARE = 0.05
CALIBRATION_ITERATIONS = 200
LEAST_TIMED = 5
# The first iterations find memory and choose kernels.
WARM_UP = 2
POLL_S = 0.5
PROGRESS_S = 5.0  # between two readings of the logs for it
LAST_LINES = 12

_PR_SET_PDEATHSIG = 1


class Trained(NamedTuple):
    """Results of a comparison.

    Attributes:
        rows: of training; those of quality are in ``tested``.
        tested: each trained network on the template's validation sets.
        errors: one message for each network that failed.
    """

    rows: list[Row]
    tested: quality.Tested
    errors: list[str]


class _Job(NamedTuple):
    """A training to be run; its output is appended to ``log``."""

    option_file: Path
    log: Path


def train_command(option_file: Path) -> list[str]:
    """Trains in the current directory, continuing from the newest checkpoint."""
    train = [sys.executable, "-m", "esc_arch", "train", "-opt", str(option_file)]
    return [*train, "--auto_resume"]


def train(
    request: Request,
    command: Command = train_command,
    gpus: Sequence[str | None] | None = None,
) -> Trained:
    """Train the networks that are not trained yet, and test all.

    Nothing is written before every option file is checked.

    Args:
        request: the comparison.
        command: trains a network, whose name the option file has.
        gpus: CUDA_VISIBLE_DEVICES for each of the networks that train at one time, None to leave
            it; when no list is given, one network for each GPU that is visible.

    Raises:
        UserError: when the template is wrong, an earlier run of this name had other arguments, or
            another process works on it.
    """
    template = request.read_template()
    wanted = {name: with_network(request, template, name) for name in request.networks}
    for name, opt in wanted.items():
        options.check(opt, f"{request.template} with {name}", options.Run(is_train=True))
    results.require_writable(request.folder)
    try:
        with locked(request.folder / ".lock"):
            slots = _slots(template) if gpus is None else list(gpus)
            return _train(request, template, wanted, command, slots)
    except Held as held:
        raise UserError(
            f"{request.folder}: expected a comparison that nothing works on; found that another "
            f"process does{held.holder}. Wait for it, or give another --name."
        ) from None


def _train(
    request: Request,
    template: dict[str, Any],
    wanted: dict[str, dict[str, Any]],
    command: Command,
    slots: Sequence[str | None],
) -> Trained:
    plan = read_plan(request, template)
    if not request.plan_file.exists():
        for name in wanted:
            folder = Path("experiments", request.run_name(name))
            # Training would continue from its checkpoints, whatever options they are of.
            if folder.exists():
                raise UserError(
                    f"{folder}: expected no such experiment, as {request.plan_file} is not there; "
                    "found one. Remove it, or give another --name."
                )
        plan.write(request.plan_file)
    errors: dict[str, str] = {}
    unplanned = [name for name in wanted if name not in plan.total_iter]
    if request.steps is not None:
        for name in unplanned:
            plan.total_iter[name], plan.checks[name] = request.steps, None
    elif unplanned and request.budget_minutes is not None:
        with progress("measuring the speed", len(unplanned), "networks") as advance:
            unmeasured = {name: wanted[name] for name in unplanned}
            for name, speed in _speeds(request, unmeasured, command, slots, errors):
                advance(1)
                fits = affordable(template, request.budget_minutes, speed)
                plan.total_iter[name], plan.checks[name] = fits
                plan.speed[name] = speed
                plan.write(request.plan_file)
    plan.write(request.plan_file)
    ready = [name for name in wanted if name in plan.total_iter]
    for name in ready:
        opt = scaled(wanted[name], plan.total_iter[name], plan.checks[name])
        write_option(request.option_file(name), opt)
    _train_all(request, plan, ready, command, slots, errors)
    return _report(request, template, plan, ready, errors)


def _train_all(
    request: Request,
    plan: Plan,
    ready: Sequence[str],
    command: Command,
    slots: Sequence[str | None],
    errors: dict[str, str],
) -> None:
    totals = {name: plan.total_iter[name] for name in ready}

    def iterations() -> int:
        return sum(
            totals[name]
            if name in plan.finished
            else min(_history(request, name).iteration, totals[name])
            for name in ready
        )

    jobs = {
        name: _Job(request.option_file(name), request.folder / "logs" / f"{name}.log")
        for name in ready
        if name not in plan.finished
    }
    shown, last = iterations(), time.monotonic()
    what = f"training {len(jobs)} of {len(ready)} networks"
    with progress(what, sum(totals.values()), "iterations", shown) as advance:

        def show_progress(name: str) -> bool:
            nonlocal shown, last
            if time.monotonic() - last >= PROGRESS_S:
                last, now = time.monotonic(), iterations()
                advance(now - shown)
                shown = max(shown, now)
            return False

        for name, code in _run(jobs, command, slots, show_progress):
            log, weights = jobs[name].log, _weights(request, name)
            if code:
                errors[name] = _last_lines(code, log)
            elif not weights.is_file():
                errors[name] = f"no {weights} after training; see {log}"
            else:
                plan.finished.append(name)
                plan.write(request.plan_file)


def _last_lines(code: int, log: Path) -> str:
    why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if line.strip()][-LAST_LINES:]
    return "\n  ".join([f"{why}; the last lines of {log}:", *kept])


def _weights(request: Request, name: str) -> Path:
    return Path("experiments", request.run_name(name), "models", "net_g_latest.pth")


def _history(request: Request, name: str) -> History:
    return _logs_below(Path("experiments", request.run_name(name)))


def _logs_below(folder: Path) -> History:
    return read_logs(log_files(folder) if folder.is_dir() else ())


def _speeds(
    request: Request,
    wanted: dict[str, dict[str, Any]],
    command: Command,
    slots: Sequence[str | None],
    errors: dict[str, str],
) -> Iterator[tuple[str, Speed]]:
    """Train each network for a short time, with validation, and read the times from its log.

    Yields:
        Each network that did not fail, with its speed.
    """
    seconds = min(CALIBRATION_S, CALIBRATION_SHARE * 60 * (request.budget_minutes or 0))
    jobs, folders = {}, {}
    for name, full in wanted.items():
        opt = scaled(full, CALIBRATION_ITERATIONS)
        opt["name"] = f"{request.run_name(name)}_calibration"
        opt["logger"] |= {"print_freq": 1, "save_checkpoint_freq": LEAST_TIMED}
        opt["logger"] |= {"use_tb_logger": False}
        opt["logger"].pop("wandb", None)
        if opt.get("val"):
            opt["val"]["val_freq"] = LEAST_TIMED
        file = request.folder / "options" / f"{name}_calibration.yml"
        write_option(file, opt)
        jobs[name] = _Job(file, request.folder / "logs" / f"{name}_calibration.log")
        folders[name] = Path("experiments", opt["name"])
        shutil.rmtree(folders[name], ignore_errors=True)  # of a killed one

    def is_measured(name: str) -> bool:
        history = _logs_below(folders[name])
        is_long = 60 * history.total_minutes >= seconds
        return is_long and history.iteration >= 2 * LEAST_TIMED + WARM_UP

    for name, code in _run(jobs, command, slots, is_measured):
        if code:
            errors[name] = _last_lines(code, jobs[name].log)
            continue
        yield name, _speed(_logs_below(folders[name]))
        shutil.rmtree(folders[name], ignore_errors=True)


def _speed(history: History) -> Speed:
    """Mean seconds of an iteration, and of one with a check beyond that."""
    plain: list[float] = []
    checked: list[float] = []
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
    request: Request,
    template: dict[str, Any],
    plan: Plan,
    ready: Sequence[str],
    errors: dict[str, str],
) -> Trained:
    run = results.describe_run()
    rows, candidates = [], []
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
                "iterations": plan.total_iter[name],
                "minutes": history.total_minutes,
                "curve": history.curve(),
            }
        )
        candidates.append(read_candidate(f"{name}={weights}", template["scale"]))
    found = results.read(request.folder)
    results.add(found, "training", rows, run)
    results.write(request.folder, found)
    device = "cuda" if torch.cuda.is_available() and template["num_gpu"] != 0 else "cpu"
    test_sets = quality.open_validation_sets(template)
    tested = quality.compare(candidates, test_sets, request.folder, device, run)
    return Trained(rows, tested, [f"{name} failed: {text}" for name, text in errors.items()])


def _slots(template: dict[str, Any]) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES for each network that trains at one time."""
    if template.get("num_gpu") == 0 or not torch.cuda.is_available():
        return [None]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
    return [name.strip() for name in names]


def _run(
    jobs: Mapping[str, _Job],
    command: Command,
    slots: Sequence[str | None],
    is_done: Callable[[str], bool],
) -> Iterator[tuple[str, int | None]]:
    """Run trainings, as many at a time as there are slots; they end with this process.

    Args:
        slots: CUDA_VISIBLE_DEVICES of each, None to leave it.
        is_done: called every half second for each that runs; ends it when true.

    Yields:
        The name and the exit code of each, None where ``is_done`` ended it, as they end.
    """
    waiting, free = list(jobs), list(slots)
    running: dict[str, tuple[subprocess.Popen[bytes], str | None]] = {}
    try:
        while waiting or running:
            while waiting and free:
                name = waiting.pop(0)
                slot = free.pop(0)
                running[name] = _start(command, jobs[name], slot), slot
            time.sleep(POLL_S)
            for name, (process, slot) in list(running.items()):
                code = process.poll()
                if code is None:
                    if not is_done(name):
                        continue
                    _stop(process)
                del running[name]
                free.append(slot)
                yield name, code
    finally:
        for process, _ in running.values():
            _stop(process)


def _start(command: Command, job: _Job, slot: str | None) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    own_gpu = {} if slot is None else {"CUDA_VISIBLE_DEVICES": slot}
    with job.log.open("ab") as output:
        return subprocess.Popen(
            command(job.option_file),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **own_gpu},
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()) if sys.platform == "linux" else None,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and the workers that it started."""
    if process.poll() is None:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def _die_with(parent: int) -> Callable[[], None]:
    """First call of a child: asks Linux for SIGKILL at its parent's end, however that ends."""
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before it was asked
            os._exit(1)

    return ask
