"""What a machine does not have: open files, processes, letters; and what kills leave behind."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tiny_run import iterations, options, train, validated

from esc_arch.cli.main import main
from esc_arch.training import loop, samples
from esc_arch.training.log_reader import next_log, read_logs
from esc_arch.training.run_log import Pace
from tests import tiny


def with_workers(**changes: object) -> dict:
    opt = validated(options(**changes))
    opt["datasets"]["train"]["num_worker_per_gpu"] = 2
    return opt


def command(opt: dict, *before: str, **environment: str) -> list:
    tiny.write(Path("tiny.yml"), opt)
    own = [sys.executable, "-m", "esc_arch", "train", "-opt", "tiny.yml", "--auto_resume"]
    return [["sh", "-c", f"{' '.join(before)} exec {' '.join(own)}"], os.environ | environment]


def run(opt: dict, *before: str, **environment: str) -> subprocess.CompletedProcess:
    argv, env = command(opt, *before, **environment)
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such limit")
def test_few_open_files_are_one_message_before_anything_is_written(folder):
    done = run(with_workers(), "ulimit -n 20;")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "ulimit -n" in done.stderr and "20" in done.stderr and "64" in done.stderr
    assert not Path("experiments").exists()
    # The limit that the process may raise itself is raised.
    assert run(with_workers(total=2), "ulimit -S -n 30;").returncode == 0


@pytest.mark.slow
def test_a_name_of_letters_that_the_locale_lacks(folder):
    done = run(with_workers(name="ümläüt", total=2), LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert Path("experiments/ümläüt").is_dir()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the workers there")
def test_a_kill_leaves_no_folder_behind_after_the_next_run(folder):
    # Not in the test's folder: names of sockets are short.
    with tempfile.TemporaryDirectory() as temporary:
        argv, env = command(with_workers(total=4000), TMPDIR=temporary)
        with subprocess.Popen(
            argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        ) as job:
            end = time.monotonic() + 60
            while not iterations() and time.monotonic() < end:
                time.sleep(0.05)
            job.kill()
        assert list(Path(temporary).glob("pymp-*"))
        time.sleep(2)  # its workers find that it is gone
        assert run(with_workers(total=iterations()[-1] + 1), TMPDIR=temporary).returncode == 0
        assert not list(Path(temporary).glob("pymp-*"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the workers there")
def test_a_killed_worker_of_the_data_is_one_message_and_costs_nothing(folder):
    argv, env = command(with_workers(total=4000))
    with subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True) as job:
        end = time.monotonic() + 60
        while not iterations() and time.monotonic() < end:
            time.sleep(0.05)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        said = job.communicate(timeout=60)[1]
    line = said[said.index("basicsr: datasets") :]
    assert job.returncode == 2 and "Traceback" not in said
    assert "num_worker_per_gpu" in line and "/dev/shm" in line and "Safe on disk" in line


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
        RuntimeError("can't start new thread"),
        RuntimeError("unable to write to file </torch_1>: No space left on device (28)"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."),
    ],
    ids=str,
)
def test_what_the_machine_lacks_is_one_message(folder, capfd, monkeypatch, error):
    def refuse(*args):
        raise error

    monkeypatch.setattr(loop, "batches", refuse)
    assert train(options()) == 2
    said = capfd.readouterr().err
    assert "num_worker_per_gpu" in said and str(error.args[-1])[:20] in said
    assert "Traceback" not in said
    assert samples.shortage(RuntimeError("a mistake")) is None
    assert samples.shortage(OSError(errno.ENOENT, "no file")) is None


@pytest.mark.parametrize(
    "error",
    [MemoryError(), ImportError("libx.so: failed to map segment from shared object")],
    ids=["memory", "library"],
)
def test_memory_that_a_command_lacks_is_one_message(capfd, monkeypatch, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("esc_arch.data.check.verify", refuse)
    assert main(["data", "verify", "photos"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("basicsr: ") and "memory" in said and said.count("\n") == 1


# The clock, and how long it takes.


def test_a_log_has_a_name_and_a_number_of_its_own(tmp_path):
    stamp = "2026-01-02 03:04:05,000 INFO: "
    for expected in (1, 2, 3):
        number, path = next_log(tmp_path, "tiny")
        assert number == expected and not path.exists()
        path.write_text(f"{stamp}Log {number} of this experiment.\n")


def test_minutes_go_on_where_the_clock_was_set_back(tmp_path):
    def line(time_of: str, text: str) -> str:
        return f"2026-01-02 {time_of},000 INFO: {text}\n"

    step = "[tiny..][epoch:  0, iter:{:8,d}, lr:(1e-3,)] l_pix: 1.0000e-01 "
    log = tmp_path / "train_tiny_20260102_030400.log"
    log.write_text(
        line("10:00:00", "Start training from epoch: 0, iter: 0")
        + line("10:01:00", step.format(1))
        + line("09:01:00", step.format(2))
        + line("09:02:00", step.format(3))
    )
    assert read_logs([log]).minutes == {0: 0.0, 1: 1.0, 2: 1.0, 3: 2.0}


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("seconds", "told_at"), [(0.1, 10), (25.0, 2), (60.0, 1)])
def test_a_run_says_how_long_it_takes(monkeypatch, seconds, told_at):
    import torch

    from esc_arch.training import run_log

    clock = Clock()
    monkeypatch.setattr(run_log, "time", clock)
    opt = {"train": {"total_iter": 500_000}, "logger": {"save_checkpoint_freq": 5000}}
    pace = Pace(opt, 0, torch.device("cpu"))
    told, lines = {}, []
    for iteration in range(1, 30):
        clock.now += seconds
        if (text := pace.text(iteration)) is not None:
            told[iteration] = text
        if pace.is_line_due(iteration % 100 == 0):
            lines.append(iteration)
    assert list(told) == [told_at]
    days = round((500_000 - told_at) * seconds / 86400)
    hours = f"{days} days" if days >= 2 else f"{(500_000 - told_at) * seconds / 3600:.0f} hours"
    assert hours in told[told_at]
    assert ("options new" in told[told_at]) == (days >= 2)
    assert lines == ([] if seconds == 0.1 else [told_at])


def test_the_advice_is_a_recipe_that_there_is(capsys):
    assert main(["options", "new", "esc_cpu"]) == 0
    assert "name: train_ESC_cpu_x2" in capsys.readouterr().out


def test_the_log_of_a_run_says_it_once(folder, log):
    assert train(options(total=12)) == 0
    assert sum("an iteration on" in line for line in log) == 1
    record = json.loads(Path("experiments/tiny/training_states/12.json").read_bytes())
    assert record["is_validated"]
