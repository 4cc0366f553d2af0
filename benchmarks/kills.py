"""Kills a training by SIGKILL again and again, resumes it, and compares with one left alone.

    python benchmarks/kills.py [--kills 10] [--workers 0 2] [-o benchmarks/kills.json]

A tiny ESC is trained on tiny images through ``basicsr train --auto_resume``.  Two kills of
three come at a random moment, the third as soon as a checkpoint is being written.  The weights,
their average and the best weights must be the same to the last bit.

Each training is a fork of this process, which has imported everything and no thread yet, so a
start takes little of the time.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

# Threads of OpenMP would not be there in a fork.
os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import torch
import yaml

import esc_arch.cli.train  # noqa: F401  imported before the forks
from esc_arch.cli.main import main as basicsr

SAVE_EVERY = 3
FILES = ("net_g_latest.pth", "net_g_best.pth")


def write_data(folder: Path) -> None:
    """Seven pairs of random images, 24 and 12 pixels wide."""
    rng = np.random.default_rng(0)
    for sub in ("HR", "LR"):
        (folder / sub).mkdir(parents=True)
    for index in range(7):
        hr = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "HR" / f"{index}.png"), hr)
        lr = cv2.resize(hr, (12, 12), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / "LR" / f"{index}.png"), lr)


def options(name: str, workers: int, iterations: int) -> dict:
    pair = {
        "type": "PairedImageDataset",
        "dataroot_gt": "data/HR",
        "dataroot_lq": "data/LR",
        "io_backend": {"type": "disk"},
    }
    train = {
        "name": "tiny",
        **pair,
        "gt_size": 16,
        "use_hflip": True,
        "use_rot": True,
        "num_worker_per_gpu": workers,
        "batch_size_per_gpu": 2,
        "dataset_enlarge_ratio": 3,
    }
    return {
        "name": name,
        "model_type": "ESCModel",
        "scale": 2,
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {"train": train, "val": {"name": "tiny", **pair}},
        "network_g": {
            "type": "ESC",
            "dim": 8,
            "pdim": 4,
            "kernel_size": 5,
            "n_blocks": 1,
            "conv_blocks": 1,
            "window_size": 8,
            "num_heads": 2,
            "upscaling_factor": 2,
        },
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.9,
            "optim_g": {"type": "AdamW", "lr": 1e-3},
            "scheduler": {"type": "MultiStepLR", "milestones": [20, 40], "gamma": 0.5},
            "total_iter": iterations,
            "warmup_iter": 5,
            "pixel_opt": {"type": "L1Loss"},
        },
        "val": {
            "val_freq": 7,
            "save_img": False,
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2}},
        },
        "logger": {
            "print_freq": 5,
            "save_checkpoint_freq": SAVE_EVERY,
            "use_tb_logger": False,
            "keep_last": 2,
            "keep_best": "psnr",
        },
    }


def start(name: str) -> int:
    """Fork a process that trains in the current folder; returns its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        with open(f"{name}.log", "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        code = basicsr(["train", "-opt", f"{name}.yml", "--auto_resume"])
    finally:
        os._exit(code)


def ended(child: int) -> int | None:
    """The exit code of a child, minus the signal that killed it; None while it runs."""
    number, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if number else None


def finish(child: int, name: str) -> None:
    while (code := ended(child)) is None:
        time.sleep(0.01)
    if code:
        sys.exit(f"{name} ended with {code}:\n{Path(f'{name}.log').read_text()[-3000:]}")


def kill(name: str, reached: int, delay_s: float, in_checkpoint: bool) -> None:
    """Start a training and kill it some time after it has a checkpoint.

    Args:
        reached: iteration of that checkpoint or of an earlier one, 0 for the start.
        in_checkpoint: wait further, until a file is being written.
    """
    child = start(name)
    folder = Path("experiments", name)
    began = None
    while (code := ended(child)) is None:
        if began is None and newest(name) >= reached:
            began = time.monotonic()
        if began is not None and time.monotonic() - began >= delay_s:
            if not in_checkpoint or any(folder.glob("*/.*.part")):
                os.killpg(child, signal.SIGKILL)
                finish_killed(child)
                return
        else:
            time.sleep(0.002)
    sys.exit(f"{name} ended with {code}, not killed:\n{Path(f'{name}.log').read_text()[-3000:]}")


def finish_killed(child: int) -> None:
    while ended(child) is None:
        time.sleep(0.002)


def newest(name: str) -> int:
    records = Path("experiments", name, "training_states").glob("[0-9]*.json")
    return max((int(path.stem) for path in records), default=0)


def compare(first: str, second: str) -> tuple[int, list[str]]:
    """How many tensors the runs have, and those that are not the same to the last bit."""
    count, different = 0, []
    for file in FILES:
        a, b = (
            torch.load(Path("experiments", name, "models", file), weights_only=True)
            for name in (first, second)
        )
        for key in ("params", "params_ema"):
            assert a[key].keys() == b[key].keys()
            count += len(a[key])
            different += [
                f"{file} {key} {k}" for k in a[key] if not torch.equal(a[key][k], b[key][k])
            ]
    return count, different


def measure(workers: int, kills: int, iterations: int, rng: random.Random) -> dict:
    names = whole, killed = f"whole_{workers}", f"killed_{workers}"
    for name in names:
        Path(f"{name}.yml").write_text(yaml.safe_dump(options(name, workers, iterations)))
    began = time.monotonic()
    finish(start(whole), whole)
    whole_s = time.monotonic() - began
    save_s = whole_s * SAVE_EVERY / iterations
    at = []
    for number, reached in enumerate(sorted(rng.randrange(iterations - 8) for _ in range(kills))):
        kill(killed, reached, rng.uniform(0, 1.5 * save_s), number % 3 == 2)
        at.append(newest(killed))
    finish(start(killed), killed)
    count, different = compare(whole, killed)
    return {
        "workers": workers,
        "iterations": iterations,
        "kills": len(at),
        "kills_while_writing": len(at) // 3,
        "newest_checkpoint_at_each_kill": at,
        "seconds_unkilled": round(whole_s, 2),
        "compared_tensors": count,
        "different_tensors": different,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=60, help="at least 10")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    output = args.output and args.output.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_data(Path("data"))
        rows = [measure(workers, args.kills, args.iterations, rng) for workers in args.workers]
    text = json.dumps(rows, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n")
    if any(row["different_tensors"] for row in rows):
        sys.exit("the resumed runs ended elsewhere")


if __name__ == "__main__":
    main()
