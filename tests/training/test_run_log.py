"""What a run shows of itself, and that no second one gets in its way."""

import io
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_run import iterations, options, train, validated

from esc_arch.files import is_locked
from esc_arch.models import esc_model
from esc_arch.models.esc_model import ESCModel
from esc_arch.training import run_log
from esc_arch.training.runtime import LOCK, ExperimentLock
from tests.models.tiny_training import build

SAVED = Path("experiments/tiny")


def numbers(log: list[str], name: str) -> list[float]:
    """One for each iteration that was logged."""
    return [float(n) for line in log for n in re.findall(rf" {name}: (\S+) ", line)]


@pytest.mark.parametrize("model", ["SRModel", "ESCModel"])
def test_each_line_has_speed_memory_and_gradient(folder, log, monkeypatch, model):
    norms = []
    numbers_of = run_log.numbers

    def noted(model, iteration_s):
        gradients = [p.grad.double().flatten() for p in model.net_g.parameters()]
        norms.append(torch.cat(gradients).square().sum().sqrt().item())
        return numbers_of(model, iteration_s)

    monkeypatch.setattr(run_log, "numbers", noted)
    train(options(total=4, model_type=model))
    # As printed, with five digits.
    assert numbers(log, "grad_norm") == pytest.approx(norms, rel=1e-4)
    seconds = [float(n) for line in log for n in re.findall(r"time \(data\): (\S+) ", line)]
    for rate, second in zip(numbers(log, "it_s"), seconds, strict=True):
        assert 1 / rate == pytest.approx(second, abs=6e-4)
    status = Path("/proc/self/status")
    if status.exists():
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e9
        assert peak * 0.5 < numbers(log, "memory_gb")[-1] <= peak * 1.01
    assert not numbers(log, "bad_samples")


def test_the_norm_before_clipping_stays_the_models(folder, log):
    opt = options(total=2)
    opt["train"]["grad_clip"] = 1e-6
    train(opt)
    found = numbers(log, "grad_norm")
    assert len(found) == 2 and min(found) > 1e-5


def drawn(folder: Path) -> dict[str, list[int]]:
    """Steps by tag as TensorBoard shows them."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [event.step for event in accumulator.Scalars(tag)] for tag in tags}


def test_tensorboard_goes_on_without_duplicates(folder, monkeypatch):
    opt = validated(options(total=7))
    opt["logger"]["use_tb_logger"] = True
    step = ESCModel.optimize_parameters

    def killed(self, iteration: int) -> None:
        if iteration == 6:
            raise KeyboardInterrupt
        step(self, iteration)

    with monkeypatch.context() as patch:
        patch.setattr(ESCModel, "optimize_parameters", killed)
        assert train(opt) == 130
    assert iterations() == [2, 4]
    assert train(opt, "--auto_resume") == 0
    found = drawn(Path("tb_logger/tiny"))
    for tag in ("losses/l_pix", "lr", "it_s", "data_time", "memory_gb", "grad_norm", "skipped"):
        assert found[tag] == [1, 2, 3, 4, 5, 6, 7], tag
    assert found["metrics/tiny_val/psnr"] == [2, 4, 6, 7]


def test_only_what_tensorboards_thread_could_not_write_is_held_back(monkeypatch):
    from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

    shown = []
    monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(args))
    before = threading.excepthook
    curves, other = object.__new__(_AsyncWriterThread), threading.Thread()
    cases = [(curves, OSError()), (other, OSError()), (curves, ValueError())]
    with run_log.curve_errors_logged_once():
        for thread, error in cases:
            threading.excepthook(threading.ExceptHookArgs((type(error), error, None, thread)))
    assert [(args.thread, args.exc_value) for args in shown] == cases[1:]
    assert threading.excepthook is before


def test_a_second_training_in_an_experiment(folder, capfd):
    train(options(total=2))
    before = sorted(SAVED.rglob("*"))
    for arguments in ((), ("--auto_resume",)):
        with ExperimentLock(SAVED) as lock:
            lock.take()
            assert is_locked(SAVED / LOCK)
            assert train(options(total=4), *arguments) == 2
        said = capfd.readouterr().err
        assert "no other training" in said and str(os.getpid()) in said
        assert sorted(SAVED.rglob("*")) == before
        assert sorted(p.name for p in SAVED.parent.iterdir()) == ["tiny"]
    assert is_locked(SAVED / LOCK) is False
    assert train(options(total=4), "--auto_resume") == 0
    # A new one renames the folder of the old one.
    assert train(options(total=2)) == 0
    assert len(list(SAVED.parent.iterdir())) == 2


def test_the_lock_is_held_in_the_new_folder_while_it_trains(folder, monkeypatch):
    held = []
    step = ESCModel.optimize_parameters

    def noted(self, iteration: int) -> None:
        held.append(is_locked(SAVED / LOCK))
        step(self, iteration)

    monkeypatch.setattr(ESCModel, "optimize_parameters", noted)
    for _ in range(2):
        train(options(total=1))
    assert held == [True, True]


KILLED = """
    import os, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from esc_arch.training.runtime import ExperimentLock

    with ExperimentLock(Path(sys.argv[2])) as lock:
        lock.take()
        if os.fork() == 0:
            os.close(1)
            time.sleep(60)
        print("child", flush=True)
        time.sleep(60)
"""


def test_a_killed_training_frees_the_lock_though_its_workers_live(tmp_path):
    code = "\n".join(line.removeprefix("    ") for line in KILLED.splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parents[2]), str(tmp_path)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == b"child\n"
        assert is_locked(tmp_path / LOCK)
        process.kill()
        process.wait()
        os.killpg(process.pid, 0)  # the worker lives
        with ExperimentLock(tmp_path) as lock:
            lock.take()
            assert is_locked(tmp_path / LOCK)
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_bar_on_a_terminal_in_place_of_the_lines(folder, log, monkeypatch):
    screen, lines = io.StringIO(), io.StringIO()
    console = Console(file=screen, force_terminal=True, width=150)
    monkeypatch.setattr(run_log.terminal, "console", lambda **_: console)
    handler = logging.StreamHandler(lines)
    logger = logging.getLogger("basicsr")
    # Without that which BasicSR has made in an earlier test, for its stderr.
    others = [other for other in logger.handlers if type(other) is not logging.StreamHandler]
    monkeypatch.setattr(logger, "handlers", [*others, handler])
    train(options(total=5))
    shown = screen.getvalue()
    assert "5/5" in shown and "l_pix 0." in shown and "tiny" in shown
    # Other lines stand above it, what comes before and after it goes where it went.
    assert "Saving models" in shown and "iter:       3" not in shown
    assert "Training statistics" in lines.getvalue() and "iter:       3" not in lines.getvalue()
    assert handler.stream is lines and not handler.filters
    assert any("iter:       3" in line for line in log)


def test_no_bar_without_a_terminal(folder, capfd, monkeypatch):
    monkeypatch.setattr(
        run_log.terminal, "console", lambda **_: Console(file=io.StringIO(), force_terminal=False)
    )
    train(options(total=1))
    assert "\x1b[" not in capfd.readouterr().err


def test_steps_that_were_skipped_in_a_row_are_resumed():
    first, second = build(), build()
    steps = esc_model.NonfiniteSteps()
    for iteration in range(7):
        steps.note_skipped(iteration)
    first.nonfinite_steps = steps
    second.optimizer_g.load_state_dict(first.optimizer_g.state_dict())
    assert (second.nonfinite_steps.total, second.nonfinite_steps.in_a_row) == (7, 7)
