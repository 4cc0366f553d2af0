"""``basicsr runs`` on folders of trainings, whole, running, broken and foreign."""

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from esc_arch.cli.main import main
from esc_arch.files import write_durably
from esc_arch.training import checkpoints, experiments
from esc_arch.training.runtime import ExperimentLock

STAMP = "2026-01-02 03:04:05,678 INFO: "
HEAD = """{stamp}
Version Information:
{stamp}Training statistics:
\tNumber of train images: 5
\tTotal epochs: 2; iters: {total}.
"""


def log_of(
    total: int,
    last: int,
    psnr: dict[int, float] | None = None,
    start: int = 0,
    ended: bool = False,
    step: int = 100,
) -> str:
    """A log as BasicSR writes it; PSNR by iteration, of which it tells the best so far."""
    text = HEAD.format(stamp=STAMP, total=total)
    if start:
        text += f"{STAMP}Resuming training from epoch: 1, iter: {start}.\n"
    text += f"{STAMP}Start training from epoch: 0, iter: {start}\n"
    best: tuple[float, int] = (0.0, 0)
    for iteration in range(start + step, last + 1, step):
        text += (
            f"{STAMP}[tiny..][epoch:  0, iter:{iteration:8,d}, lr:(1.000e-03,)] "
            f"[eta: 0:00:01, time (data): 0.250 (0.001)] l_pix: 1.0000e-01 \n"
        )
        if psnr and iteration in psnr:
            best = max(best, (psnr[iteration], iteration))
            text += f"{STAMP}Validation Set5\n"
            for name, value in (("psnr", psnr[iteration]), ("ssim", 0.9)):
                shown = best if name == "psnr" else (0.9, iteration)
                text += f"\t # {name}: {value:.4f}\tBest: {shown[0]:.4f} @ {shown[1]} iter\n"
            text += "\n"
    if ended:
        text += f"{STAMP}End of training. Time consumed: 0:00:05\n{STAMP}Save the latest model.\n"
    return text


class Runs:
    """Writes experiments, older ones first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = time.time() - 10**6

    def add(self, name: str, *logs: str, total: int | None = None) -> Path:
        path = self.folder / name
        (path / "models").mkdir(parents=True)
        (path / "training_states").mkdir()
        for number, text in enumerate(logs):
            log = path / f"train_{name}_20260102_0304{number:02}.log"
            log.write_text(text)
        if total is not None:
            opt = {"name": name, "network_g": {"type": "ESC"}, "train": {"total_iter": total}}
            (path / f"{name}.yml").write_text(yaml.safe_dump(opt))
        self.now += 1000
        for log in path.glob("*.log"):
            os.utime(log, (self.now, self.now))
        return path

    def save(self, path: Path, iteration: int, is_recorded: bool = True) -> None:
        own = {checkpoints.OWN: {}} if is_recorded else {}
        contents = {
            f"models/net_g_{iteration}.pth": {"params": {"w": torch.zeros(1000)}},
            f"training_states/{iteration}.state": {
                "epoch": 0, "iter": iteration, "optimizers": [], "schedulers": [], **own,
            },
        }  # fmt: skip
        digests = {
            name: write_durably(path / name, lambda file, c=content: torch.save(c, file))
            for name, content in contents.items()
        }
        if is_recorded:
            checkpoints.write_record(path, iteration, digests, {})
        for file in (path / "training_states").iterdir():
            os.utime(file, (self.now, self.now))


@pytest.fixture
def runs(tmp_path) -> Runs:
    return Runs(tmp_path / "experiments")


def listed(folder: Path, capsys) -> dict[str, dict]:
    assert main(["runs", str(folder), "--json"]) == 0
    return {run["name"]: run for run in json.loads(capsys.readouterr().out)}


def test_a_complete_and_a_stopped_run(runs, capsys):
    done = runs.add("done", log_of(1000, 1000, {500: 30.5, 1000: 30.25}, ended=True), total=7)
    for iteration in (500, 1000):
        runs.save(done, iteration)
    stopped = runs.add("stopped", log_of(2000, 700, {500: 28.0}), total=2000)
    runs.save(stopped, 500)
    found = listed(runs.folder, capsys)
    assert list(found) == ["stopped", "done"]  # the last written first
    run = found["done"]
    assert (run["status"], run["iteration"], run["total"]) == ("complete", 1000, 1000)
    assert run["best"] == {"dataset": "Set5", "metric": "psnr", "value": 30.5, "iteration": 500}
    assert [result["metric"] for result in run["all_best"]] == ["psnr", "ssim"]
    assert run["iterations_per_s"] == 4
    assert run["resume"] == str(done / "training_states" / "1000.state") and run["is_verified"]
    run = found["stopped"]
    assert (run["status"], run["iteration"], run["total"]) == ("stopped", 700, 2000)
    assert run["resume_iteration"] == 500 and run["problems"] == []
    # One experiment instead of the folder.
    assert list(listed(stopped, capsys)) == ["stopped"]


def test_what_a_resumed_run_left_behind_does_not_count(runs, capsys):
    first = log_of(2000, 1500, {500: 30.0, 1000: 29.0, 1500: 33.0})
    runs.add("tiny", first, log_of(2000, 1400, {1200: 30.125}, start=1000))
    run = listed(runs.folder, capsys)["tiny"]
    # Best of the first up to 1500 is what lay after 1000.
    assert run["iteration"] == 1400
    assert run["best"]["value"] == 30.125 and run["best"]["iteration"] == 1200


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("is_numbered", [False, True])
def test_the_order_of_logs_is_not_that_of_a_clock_that_goes_back(runs, capsys, order, is_numbered):
    """The last log is complete; its best is not the one of the first, which was done again."""
    logs = [
        log_of(300, 200, {100: 30.0, 200: 39.0}),
        log_of(300, 200, {200: 31.0}, start=100),
        log_of(300, 300, {300: 32.0}, start=200, ended=True),
    ]
    if is_numbered:
        logs = [f"{STAMP}Log {n} of this experiment.\n{text}" for n, text in enumerate(logs, 1)]
    shuffled = [""] * 3
    for place, text in zip(order, logs, strict=True):
        shuffled[place] = text
    runs.add("back", *shuffled)
    found = listed(runs.folder, capsys)["back"]
    assert (found["status"], found["iteration"]) == ("complete", 300)
    assert found["best"]["value"] == 32.0


def test_a_refused_resumption_changes_nothing_of_a_run(runs, capsys):
    whole = log_of(200, 200, {200: 31.0}, ended=True)
    refused = HEAD.format(stamp=STAMP, total=400)
    runs.add("twice", whole, refused)
    found = listed(runs.folder, capsys)["twice"]
    assert (found["status"], found["iteration"]) == ("complete", 200)
    assert found["best"]["value"] == 31.0


def test_running(runs, capsys):
    locked = runs.add("locked", log_of(2000, 300))
    recent = runs.add("recent", log_of(2000, 300))
    ended = runs.add("ended", log_of(300, 300, ended=True))
    freed = runs.add("freed", log_of(2000, 300))
    for path in (recent, ended, freed):
        os.utime(next(path.glob("*.log")))
    with ExperimentLock(freed) as lock:
        lock.take()
    with ExperimentLock(locked) as lock:
        lock.take()
        found = listed(runs.folder, capsys)
    status = {name: run["status"] for name, run in found.items()}
    assert status == {
        "locked": "running", "recent": "running", "ended": "complete", "freed": "stopped",
    }  # fmt: skip


def test_damaged_checkpoints_are_named_and_passed_over(runs, capsys):
    path = runs.add("tiny", log_of(2000, 1000))
    for iteration in (100, 200, 300, 400, 500):
        runs.save(path, iteration)
    file = path / "models" / "net_g_500.pth"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    state = path / "training_states" / "400.state"
    state.write_bytes(state.read_bytes()[:-1])
    (path / "models" / "net_g_300.pth").unlink()
    (path / "training_states" / "200.json").write_text("{")
    run = listed(runs.folder, capsys)["tiny"]
    assert run["resume_iteration"] == 100
    assert [line.split(":")[0] for line in run["problems"]] == [
        f"checkpoint {iteration} is skipped" for iteration in (500, 400, 300, 200)
    ]
    assert "checksum" in run["problems"][0] and "no such file" in run["problems"][2]
    assert main(["runs", str(runs.folder)]) == 0
    table = capsys.readouterr().out
    assert "checkpoint 500 is skipped" in table and "1,000/2,000" in table


@pytest.mark.parametrize("has_options", [True, False])
def test_runs_of_plain_basicsr(runs, capsys, has_options):
    path = runs.add("plain", log_of(2000, 1000), total=2000 if has_options else None)
    runs.save(path, 500, is_recorded=False)
    runs.save(path, 1000, is_recorded=False)
    network = path / "models" / "net_g_1000.pth"
    network.write_bytes(network.read_bytes()[:1000])
    run = listed(runs.folder, capsys)["plain"]
    assert run["resume_iteration"] == 500
    (problem,) = run["problems"]
    assert str(network) in problem


def test_foreign_and_half_written_folders(runs, capsys):
    good = runs.add("good", log_of(200, 100))
    runs.add("empty")
    cut = runs.add("cut", log_of(2000, 1200)[:-30])
    (cut / "cut.yml").write_bytes(b"train: {total_iter: [")
    noise = runs.add("noise", "")
    (noise / "train_noise_20260102_999999.log").write_bytes(bytes(range(256)) * 50)
    (noise / "noise.yml").write_text("path: {ignore_resume_networks: 5}\nnetwork_g: 3\ntrain: []")
    (noise / "training_states" / "latest.state").write_bytes(b"x")
    (noise / "training_states" / "7.state").write_bytes(b"x")
    (noise / "training_states" / "8.json").mkdir()
    (runs.folder / "pretrained_models").mkdir()
    (runs.folder / "pretrained_models" / "ESC.pth").touch()
    (runs.folder / "README.md").touch()
    (runs.folder / "gone").symlink_to("nowhere")
    (good / "train_dir.log").mkdir()
    odd = runs.add("[bold]名 前", log_of(10**6, 10**5, step=10**5))
    found = listed(runs.folder, capsys)
    assert set(found) == {"good", "empty", "cut", "noise", odd.name}
    assert found["cut"]["iteration"] == 1200
    assert "no readable options" in found["cut"]["problems"][0]
    assert found["empty"] | {"problems": []} == {
        **experiments.Experiment("empty").facts(), "status": "stopped",
    }  # fmt: skip
    assert any("checkpoint 7" in problem for problem in found["noise"]["problems"])
    assert found["good"]["iteration"] == 100 and "train_dir.log" in found["good"]["problems"][0]
    assert main(["runs", str(runs.folder)]) == 0
    assert "[bold]" in capsys.readouterr().out


def test_the_better_value_may_be_the_lower(runs, capsys):
    text = log_of(2000, 500, {100: 3.0, 500: 2.0}).replace("psnr", "niqe")
    second = log_of(2000, 1000, {600: 2.5}, start=500).replace("psnr", "niqe")
    first = text.replace("Best: 3.0000 @ 100", "Best: 2.0000 @ 500")
    runs.add("tiny", first, second)
    assert listed(runs.folder, capsys)["tiny"]["best"]["value"] == 2.0


def test_too_large_checkpoints_are_not_read(runs, capsys, monkeypatch):
    path = runs.add("tiny", log_of(2000, 1000))
    runs.save(path, 500)
    monkeypatch.setattr(experiments, "READ_BYTES", 10)
    run = listed(runs.folder, capsys)["tiny"]
    assert run["resume_iteration"] == 500 and not run["is_verified"]
    assert main(["runs", str(runs.folder)]) == 0
    assert "500 (size)" in capsys.readouterr().out


@contextmanager
def files_opened(folder: Path) -> Iterator[Counter[str]]:
    """Counts how often Python opens each file below a folder, by its audit event."""
    opened: Counter[str] = Counter()
    active = True

    def note(event: str, args: tuple[object, ...]) -> None:
        if active and event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(args[0]))
            if path.startswith(f"{folder}{os.sep}"):
                opened[path] += 1

    sys.addaudithook(note)  # which cannot be removed
    try:
        yield opened
    finally:
        active = False


def test_of_hundreds_of_runs_each_file_is_read_once_at_most(runs, capsys):
    psnr = {iteration: 30 + iteration / 1e6 for iteration in range(5000, 500_001, 5000)}
    path = runs.add("run0", log_of(500_000, 500_000, psnr, ended=True), total=500_000)
    runs.save(path, 500_000)
    assert next(path.glob("*.log")).stat().st_size > 500_000
    for number in range(1, 200):
        shutil.copytree(path, runs.folder / f"run{number}")
    with files_opened(runs.folder) as opened:
        found = listed(runs.folder, capsys)
    assert len(found) == 200 and found["run7"]["best"]["iteration"] == 500_000
    logs = {str(file) for file in runs.folder.rglob("*.log")}
    assert len(logs) == 200 and logs <= opened.keys()
    assert {path: count for path, count in opened.items() if count > 1} == {}


def test_no_such_folder(tmp_path, capsys):
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "none: expected a folder of experiments" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["runs", str(tmp_path / "file")]) == 2
    assert main(["runs", str(tmp_path)]) == 0
    assert "no experiments" in capsys.readouterr().out
