"""Trainings in two processes: the weights and numbers of one process, and how they end."""

import json
import shutil
import time
from pathlib import Path

import jobs
import pytest
import torch
import yaml
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from tiny_run import models, options, train, validated

from esc_arch.training.spreading import is_spread

NAME = "job"


def job_options(total: int, processes: int = 2, save_every: int = 5, **changes: object) -> dict:
    """A training with batches of 4 images in all, and SGD: see tests/models/tiny_training.py."""
    opt = validated(options(NAME, total, **changes))
    opt["datasets"]["train"]["batch_size_per_gpu"] = 4 // processes
    opt["train"]["optim_g"] = {"type": "SGD", "lr": 0.05, "momentum": 0.9}
    opt["logger"] |= {"save_checkpoint_freq": save_every, "keep_best": "psnr"}
    opt["val"] |= {"val_freq": 10, "save_img": True}
    return opt


@pytest.fixture
def expected(folder) -> dict[str, torch.Tensor]:
    """What one process comes to in 40 iterations; leaves the experiment's folder empty."""
    assert train(job_options(40, processes=1)) == 0
    found = models(NAME)
    shutil.rmtree(Path("experiments", NAME))
    return found


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def record(iteration: int) -> dict:
    path = Path("experiments", NAME, "training_states", f"{iteration}.json")
    return json.loads(path.read_text())


def psnr_alone(iteration: int) -> float:
    """PSNR of a checkpoint by BasicSR's validation in this process."""
    opt = yaml.safe_load(Path(f"{NAME}.yml").read_text())
    opt |= {"is_train": False, "dist": False, "rank": 0, "world_size": 1}
    opt["path"]["pretrain_network_g"] = f"experiments/{NAME}/models/net_g_{iteration}.pth"
    opt["path"]["param_key_g"] = "params_ema"
    model = build_model(opt)
    section = opt["datasets"]["val"] | {"phase": "val", "scale": 2}
    loader = build_dataloader(build_dataset(section), section)
    model.nondist_validation(loader, 0, None, False)
    return model.metric_results["psnr"]


@pytest.mark.slow
def test_torchrun_goes_on_after_a_kill_to_the_weights_and_numbers_of_one_process(expected):
    job = jobs.torchrun(job_options(40), "--max-restarts", "1")
    saved = jobs.await_checkpoint(NAME, job)
    jobs.kill_worker(job, 1)
    try:
        code = job.wait(jobs.SECONDS)
    finally:
        job.terminate()
    log = Path("log").read_text()
    assert code == 0, log
    assert "exitcode: -9) local_rank: 1" in log
    resumed = [
        int(line.rpartition(" ")[2].strip("."))
        for line in log.splitlines()
        if "Resuming training" in line
    ]
    assert len(resumed) == 1 and resumed[0] >= saved
    assert_close(models(NAME), expected)

    best = record(40)["best"]
    assert best["iteration"] % 10 == 0
    # To the last bit, though the five images do not come out even.
    assert best["value"] == psnr_alone(best["iteration"])
    images = Path("experiments", NAME, "visualization").rglob("*_40.png")
    assert sorted(path.name for path in images) == [f"{index}_40.png" for index in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_job_with_its_name(expected, victim):
    opt, port = job_options(100_000), jobs.free_port()
    job = [jobs.slurm(opt, rank, port) for rank in range(2)]
    survivor = job[1 - victim]
    try:
        jobs.await_checkpoint(NAME, job[0])
        job[victim].kill()
        began = time.monotonic()
        assert survivor.wait(jobs.SECONDS) == 1
        assert time.monotonic() - began < 60
    finally:
        for process in job:
            process.kill()
    (line,) = [
        s for s in Path(f"log{1 - victim}").read_text().splitlines() if s.startswith("basicsr: ")
    ]
    assert f"rank {victim} (host " in line and f", pid {job[victim].pid})" in line
    # One process goes on exactly where the two were.
    newest = max(int(p.stem) for p in Path("experiments", NAME, "training_states").glob("*.json"))
    if newest < 40:
        assert train(job_options(40, processes=1), "--auto_resume") == 0
        assert_close(models(NAME), expected)


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_all_processes_with_the_reason(folder):
    opt, port = job_options(100_000), jobs.free_port()
    job = [jobs.slurm(opt, rank, port) for rank in range(2)]
    try:
        jobs.await_checkpoint(NAME, job[0])
        states = Path("experiments", NAME, "training_states")
        states.rename(states.with_name("moved"))
        states.write_text("in the way")
        assert [process.wait(jobs.SECONDS) for process in job] == [2, 2]
    finally:
        for process in job:
            process.kill()
    first, second = (
        [s for s in Path(f"log{rank}").read_text().splitlines() if s.startswith("basicsr: ")]
        for rank in range(2)
    )
    (reason,) = first
    assert "expected to write checkpoint" in reason
    assert len(second) == 1
    assert "since rank 0 (host " in second[0] and f"pid {job[0].pid})" in second[0]
    assert second[0].endswith(reason.removeprefix("basicsr: "))


@pytest.mark.parametrize(
    ("kind", "spread"),
    [
        ("SRModel", True),
        ("ESRModel", True),
        ("ESCModel", True),
        ("SRGANModel", True),
        ("ESRGANModel", True),
        ("RealESRNetModel", True),
        ("RealESRGANModel", True),
        ("SwinIRModel", True),
        # It measures FID, of all images together.
        ("HiFaceGANModel", False),
        ("EDVRModel", False),
    ],
)
def test_which_models_validate_in_all_processes(kind, spread):
    from basicsr.utils.registry import MODEL_REGISTRY

    model = object.__new__(MODEL_REGISTRY.get(kind))
    model.opt = {"dist": True}
    assert is_spread(model) is spread
    model.opt = {"dist": False}
    assert not is_spread(model)
