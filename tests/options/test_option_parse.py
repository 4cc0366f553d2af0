"""``parse`` gives what BasicSR's own parse_options gives, and checks the machine."""

import argparse
import copy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.utils import options as basicsr_options
from option_cases import DELETE, TEST, TRAIN, mutated

from esc_arch import options
from esc_arch.errors import UserError

FOLDER = Path(__file__).parents[2] / "options"
FILES = [str(file.relative_to(FOLDER)) for file in sorted(FOLDER.rglob("*.yml"))]


def arguments(file, **changes):
    values = {"opt": file, "launcher": "none", "auto_resume": False, "debug": False}
    return argparse.Namespace(**(values | {"force_yml": None} | changes))


def of_basicsr(monkeypatch, args, root_path, is_train):
    argv = ["x", "-opt", args.opt]
    argv += ["--auto_resume"] * args.auto_resume + ["--debug"] * args.debug
    argv += ["--force_yml", *args.force_yml] if args.force_yml else []
    monkeypatch.setattr(sys, "argv", argv)
    return basicsr_options.parse_options(root_path, is_train)[0]


def write(opt, file="tiny.yml"):
    with open(file, "w") as stream:
        yaml.safe_dump(opt, stream, sort_keys=False)
    return file


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("file", FILES)
def test_committed_files_resolve_as_in_basicsr(monkeypatch, tmp_path, file, debug):
    args, is_train = arguments(str(FOLDER / file), debug=debug), "train" in file
    opt = options.read(args.opt)
    roots = opt["datasets"].get("train", {}).get("dataroot_gt")
    if isinstance(roots, list):
        # BasicSR's parser takes only one root.
        one = mutated(opt, "datasets.train.dataroot_gt", roots[0])
        args.opt = write(one, str(tmp_path / file))
    ours = options.resolve(options.read(args.opt), args, "/root/path", is_train)
    assert ours == of_basicsr(monkeypatch, args, "/root/path", is_train)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"auto_resume": True, "debug": True},
        {"force_yml": ["train:ema_decay=0.5", "name=other", "train:optim_g:betas=[0.5, 0.9]"]},
        {"force_yml": ["manual_seed=7"]},
    ],
)
def test_parse_training(workplace, monkeypatch, changes):
    args = arguments(write(TRAIN), **changes)
    ours = options.parse(args, str(workplace), True)
    assert ours == of_basicsr(monkeypatch, args, str(workplace), True)
    assert sorted(p.name for p in workplace.iterdir()) == ["data", "tiny.yml"]


def test_forced_values_are_checked(workplace):
    args = arguments(write(TRAIN), force_yml=["datasets:val:name=~"])
    with pytest.raises(UserError, match=r"datasets\.val\.name: expected a plain folder name"):
        options.parse(args, ".", True)


def test_parse_testing(workplace, monkeypatch):
    args = arguments(write(TEST | {"manual_seed": 3}))
    ours = options.parse(args, str(workplace), False)
    assert ours == of_basicsr(monkeypatch, args, str(workplace), False)


def test_seed(workplace):
    options.parse(arguments(write(TRAIN)), ".", True)
    first = torch.rand(3)
    options.parse(arguments(write(TRAIN)), ".", True)
    assert torch.equal(first, torch.rand(3))
    seed = options.parse(arguments(write(mutated(TRAIN, "manual_seed", DELETE))), ".", True)
    assert 1 <= seed["manual_seed"] <= 10000


def test_home_folder(workplace, monkeypatch):
    monkeypatch.setenv("HOME", str(workplace))
    opt = mutated(TEST, "datasets.test_1.dataroot_gt", "~/data/HR")
    parsed = options.parse(arguments(write(opt)), ".", False)
    assert parsed["datasets"]["test_1"]["dataroot_gt"] == str(workplace / "data/HR")


def test_launcher_starts_processes_through_basicsr(workplace, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    started = []
    monkeypatch.setattr(basicsr_options, "init_dist", lambda *a, **k: started.append((a, k)))
    monkeypatch.setattr(basicsr_options, "get_dist_info", lambda: (2, 4))
    opt = options.parse(arguments(write(TRAIN), launcher="pytorch"), ".", True)
    assert started == [(("pytorch",), {})]
    assert (opt["dist"], opt["rank"], opt["world_size"]) == (True, 2, 4)


def test_nothing_starts_before_the_checks(workplace, monkeypatch):
    monkeypatch.setattr(basicsr_options, "init_dist", lambda *a, **k: pytest.fail("started"))
    opt = mutated(TRAIN, "logger.print_freq", 0)
    opt["datasets"]["val"]["dataroot_gt"] = "nowhere"
    opt["num_gpu"] = 99
    with pytest.raises(UserError) as caught:
        options.parse(arguments(write(opt), launcher="slurm"), ".", True)
    # Structure, machine and data in one message.
    for key in ("logger.print_freq", "--launcher slurm", "datasets.val.dataroot_gt"):
        assert f"{key}: expected" in str(caught.value)


def machine(opt, **run):
    with pytest.raises(UserError) as caught:
        options.check_machine(opt, "tiny.yml", options.Run(is_train=True, **run))
    return str(caught.value)


def test_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    options.check_machine(TRAIN, "tiny.yml", options.Run(is_train=True))
    text = machine(mutated(TRAIN, "num_gpu", 2))
    assert "num_gpu: expected at most 1" in text
    assert "found 2" in text
    cuda = mutated(TRAIN, "datasets.train.prefetch_mode", "cuda")
    options.check_machine(cuda, "tiny.yml", options.Run(is_train=True))
    assert "datasets.train.prefetch_mode" in machine(mutated(cuda, "num_gpu", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "this run has no GPU" in machine(cuda)


@pytest.mark.parametrize(
    ("launcher", "unset", "remedy"),
    [("pytorch", "RANK, WORLD_SIZE", "torchrun"), ("slurm", "SLURM_PROCID", "srun")],
)
def test_launchers(monkeypatch, launcher, unset, remedy):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    text = machine(TRAIN, launcher=launcher)
    assert f"--launcher {launcher}: expected" in text
    assert f"found no {unset}" in text
    assert remedy in text


def test_packages(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    opt = copy.deepcopy(TRAIN)
    opt["logger"] |= {"use_tb_logger": True, "wandb": {"project": "x"}}
    opt["datasets"]["val"]["io_backend"]["type"] = "memcached"
    text = machine(opt)
    assert "logger.use_tb_logger: expected the package tensorboard" in text
    assert "logger.wandb.project: expected the package wandb" in text
    assert "datasets.val.io_backend.type: expected the package mc" in text
    # In debug mode BasicSR logs to neither.
    del opt["datasets"]["val"]
    options.check_machine(opt, "tiny.yml", options.Run(is_train=True, debug=True))


def test_torchrun_without_the_launcher(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--launcher: expected pytorch" in machine(TRAIN)
    monkeypatch.setenv("WORLD_SIZE", "1")
    options.check_machine(TRAIN, "tiny.yml", options.Run(is_train=True))


def test_a_variable_of_the_launcher_that_is_no_number(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MASTER_PORT", "auto")
    assert "expected a number in MASTER_PORT; found 'auto'" in machine(TRAIN, launcher="pytorch")


def test_more_processes_than_gpus(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    opt = mutated(TRAIN, "num_gpu", "auto")
    assert "expected at most 2 processes" in machine(opt, launcher="pytorch")
    run = options.Run(is_train=True, launcher="pytorch")
    options.check_machine(mutated(opt, "num_gpu", 0), "tiny.yml", run)
