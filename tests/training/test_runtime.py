"""SIGTERM and Ctrl-C end a training with a checkpoint."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.models.sr_model import SRModel
from tiny_run import assert_equal, iterations, models, options, train, validated

from esc_arch.models.esc_model import ESCModel
from esc_arch.training import checkpoints
from esc_arch.training.runtime import StopSignals
from tests.run_python import start_python


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_an_iteration(folder, log, monkeypatch, number, code):
    step = ESCModel.optimize_parameters

    def interrupted(self, iteration: int) -> None:
        if iteration == 3:
            os.kill(os.getpid(), number)
        step(self, iteration)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(ESCModel, "optimize_parameters", interrupted)
        assert train(options()) == code
    assert signal.getsignal(number) is before
    assert iterations() == [2, 3]
    (line,) = (line for line in log if line.startswith("Stopped by"))
    assert "after iteration 3 of 8" in line and "--auto_resume" in line
    assert train(options(), "--auto_resume") == 0
    train(options("whole"))
    assert_equal(models(), models("whole"))


def test_a_validation_that_was_interrupted_is_done_after_resuming(folder, log, monkeypatch):
    test, images = SRModel.test, []

    def interrupted(self) -> None:
        images.append(1)
        if len(images) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        test(self)

    opt = validated(options(total=3))
    opt["logger"] |= {"keep_best": "psnr", "save_checkpoint_freq": 100}
    with monkeypatch.context() as patch:
        patch.setattr(SRModel, "test", interrupted)
        assert train(opt) == 143
    assert len(images) == 2 and iterations() == [2]
    assert not any("psnr:" in line for line in log if line.startswith("Validation"))
    log.clear()
    assert train(opt, "--auto_resume") == 0
    kinds = [line.split()[0] for line in log if line.startswith(("Validation", "[tiny"))]
    assert kinds == ["Validation", "[tiny..][epoch:", "Validation"]
    train(opt | {"name": "whole"})
    assert_equal(models(iteration="best"), models("whole", "best"))
    assert_equal(models(), models("whole"))


def test_signals_reach_nobody_in_a_thread_but_the_main_one():
    with StopSignals() as signals:
        assert signals.agreed(torch.device("cpu")) is None


SECOND = """
    import os, signal
    from esc_arch.training.runtime import StopSignals

    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        print("goes on", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print("never", flush=True)
"""


def test_a_second_ctrl_c_ends_at_once():
    process = start_python(SECOND)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on" in output and "stopped by a second Ctrl-C" in output
    assert "SIGTERM: ending this iteration" in output and "never" not in output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_job_leaves_its_workers_until_the_checkpoint(folder, number):
    """As a terminal's Ctrl-C and a cluster's scancel send it."""
    opt = options(total=100_000)
    opt["datasets"]["train"]["num_worker_per_gpu"] = 2
    opt["logger"]["save_checkpoint_freq"] = 100_000
    Path("tiny.yml").write_text(yaml.safe_dump(opt))
    with Path("out.log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "esc_arch", "train", "-opt", "tiny.yml"],
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 100
        while "iter:       2" not in Path("out.log").read_text():
            assert process.poll() is None and time.monotonic() < end, Path("out.log").read_text()
            time.sleep(0.02)
        os.killpg(process.pid, number)
        assert process.wait(60) == 128 + number, Path("out.log").read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    said = Path("out.log").read_text()
    assert "Traceback" not in said and "Stopped by" in said
    found = checkpoints.find_newest(Path("experiments/tiny"), ("g",))
    assert found.checkpoint.iteration >= 2 and not found.skipped
