"""Trainings in two processes: the weights and numbers of one process, and how they end."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from tiny_run import models, options, train, validated

from esc_arch.plugin.workarounds import sort_paths
from esc_arch.training.validation import is_distributed

NAME = "job"


def job_options(total: int, processes: int = 2, save_every: int = 5, **changes: object) -> dict:
    """A training with batches of 4 images in all, and SGD: see tests/models/tiny_training.py."""
    opt = validated(options(**{"name": NAME, "total": total, **changes}))
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
    dataset = build_dataset(section)
    sort_paths(dataset, section)  # BasicSR takes them as the file system lists them
    loader = build_dataloader(dataset, section)
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
    (resumed,) = re.findall(r"Resuming training .* iter: (\d+)\.", log)
    assert int(resumed) >= saved
    assert_close(models(NAME), expected)

    best = record(40)["best"]
    assert best["iteration"] % 10 == 0
    # To the last bit, though the five images do not come out even.
    assert best["value"] == psnr_alone(best["iteration"])
    images = Path("experiments", NAME, "visualization").rglob("*_40.png")
    assert sorted(path.name for path in images) == [f"{index}_40.png" for index in range(5)]


def test_a_test_is_shared_out_and_gives_the_numbers_of_one_process(folder):
    opt = validated(options())
    section = opt["datasets"].pop("val")
    opt["datasets"] = {"test_1": section}
    opt["val"] |= {"save_img": True, "suffix": None}
    torch.save({"params": build_network(dict(opt["network_g"])).state_dict()}, "net.pth")
    opt["path"] = {"pretrain_network_g": "net.pth"}
    for key in ("train", "logger"):
        del opt[key]
    # BasicSR opens one log in a process, so the one of these tests may be another's.
    alone = images_and_psnr(jobs.start([sys.executable], "none", opt, "log", task="test"))
    shutil.rmtree("results")
    assert images_and_psnr(jobs.torchrun(opt, task="test")) == alone
    assert len(alone[0]) == 5


def images_and_psnr(job: subprocess.Popen) -> tuple[dict[str, bytes], str]:
    """What a running test leaves at its end: the images, and the value in its log."""
    try:
        assert job.wait(jobs.SECONDS) == 0, Path("log").read_text()
    finally:
        job.terminate()
    images = {path.name: path.read_bytes() for path in Path("results").rglob("*.png")}
    (log,) = Path("results", "tiny").glob("test_*.log")
    (psnr,) = re.findall(r"# psnr: ([\d.]+)", log.read_text())
    return images, psnr


@pytest.mark.slow
def test_a_job_ends_when_a_process_hangs(folder):
    processes = start_slurm("hung")
    try:
        jobs.await_checkpoint("hung", processes[0])
        processes[1].send_signal(signal.SIGSTOP)
        assert processes[0].wait(90) == 1
    finally:
        for process in processes:
            process.kill()
    (line,) = said("hung", 0)
    assert "rank 1 (host " in line and f", pid {processes[1].pid}) was killed or hangs" in line


@pytest.mark.slow
def test_a_job_ends_with_the_name_of_who_failed_and_why(folder):
    victims = {"first": 0, "second": 1}
    running = {name: start_slurm(name) for name in (*victims, "full")}
    try:
        for name, processes in running.items():
            jobs.await_checkpoint(name, processes[0])
        states = Path("experiments", "full", "training_states")
        states.rename(states.with_name("moved"))
        states.write_text("in the way")
        for name, victim in victims.items():
            running[name][victim].kill()
        codes = {name: [p.wait(jobs.SECONDS) for p in ps] for name, ps in running.items()}
    finally:
        for process in (p for processes in running.values() for p in processes):
            process.kill()
    assert codes == {"first": [-9, 1], "second": [1, -9], "full": [2, 2]}
    for name, victim in victims.items():
        (line,) = said(name, 1 - victim)
        assert f"rank {victim} (host " in line
        assert f", pid {running[name][victim].pid})" in line
    (reason,), (told,) = said("full", 0), said("full", 1)
    assert "expected to write" in reason and "in the way" not in reason
    assert "since rank 0 (host " in told and f", pid {running['full'][0].pid}): " in told
    assert told.endswith(reason.removeprefix("basicsr: "))

    # One process goes on exactly where the two were, in the middle of an epoch.
    opt = job_options(9, processes=1, name="second")
    opt["path"]["resume_state"] = "experiments/second/training_states/5.state"
    assert train(opt) == 0
    assert train(job_options(9, processes=1, name="alone")) == 0
    assert_close(models("second"), models("alone"))


def start_slurm(name: str) -> list[subprocess.Popen]:
    """Two processes that train for ever."""
    opt, port = job_options(100_000, name=name), jobs.free_port()
    return [jobs.slurm(opt, rank, port) for rank in range(2)]


def said(name: str, rank: int) -> list[str]:
    lines = Path(f"{name}.log{rank}").read_text().splitlines()
    return [line for line in lines if line.startswith("basicsr: ")]


@pytest.mark.parametrize(
    ("kind", "spread"),
    [
        ("SRModel", True),
        ("ESRModel", True),
        ("ESCModel", True),
        ("ESCLTEModel", True),
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
    assert is_distributed(model) is spread
    model.opt = {"dist": False}
    assert not is_distributed(model)
