"""A tiny training through ``basicsr train`` in this process, in the current folder."""

from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from esc_arch.cli.main import main

NETWORK = {
    "type": "ESC",
    "dim": 8,
    "pdim": 4,
    "kernel_size": 5,
    "n_blocks": 1,
    "conv_blocks": 1,
    "window_size": 8,
    "num_heads": 2,
    "upscaling_factor": 2,
}
PAIR = {
    "type": "PairedImageDataset",
    "dataroot_gt": "data/HR",
    "dataroot_lq": "data/LR",
    "io_backend": {"type": "disk"},
}


def write_data(folder: Path, count: int = 5) -> None:
    """Pairs of random images, 20 and 10 pixels wide."""
    rng = np.random.default_rng(0)
    for sub in ("HR", "LR"):
        (folder / "data" / sub).mkdir(parents=True)
    for index in range(count):
        hr = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "data" / "HR" / f"{index}.png"), hr)
        cv2.imwrite(str(folder / "data" / "LR" / f"{index}.png"), hr[::2, ::2])


def options(name: str = "tiny", total: int = 8, **changes: object) -> dict:
    """Of a training that saves every 2 iterations, of which 5 make an epoch."""
    opt = {
        "name": name,
        "model_type": "ESCModel",
        "scale": 2,
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "train": {
                "name": "tiny",
                **PAIR,
                "gt_size": 16,
                "use_hflip": True,
                "use_rot": True,
                "num_worker_per_gpu": 0,
                "batch_size_per_gpu": 2,
                # 11 samples, so the last of an epoch is left out.
                "dataset_enlarge_ratio": 2.2,
            },
        },
        "network_g": NETWORK,
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.5,
            "optim_g": {"type": "AdamW", "lr": 1e-3},
            "scheduler": {"type": "MultiStepLR", "milestones": [3, 6], "gamma": 0.5},
            "total_iter": total,
            "warmup_iter": 2,
            "pixel_opt": {"type": "L1Loss"},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
    }
    return opt | changes


def validated(opt: dict, **metric: object) -> dict:
    """The options with a validation every 2 iterations."""
    opt["datasets"]["val"] = {"name": "tiny_val", **PAIR}
    psnr = {"type": "calculate_psnr", "crop_border": 2, **metric}
    opt["val"] = {"val_freq": 2, "save_img": False, "metrics": {"psnr": psnr}}
    return opt


def train(opt: dict, *arguments: str) -> int:
    """Train; returns the exit code."""
    Path("tiny.yml").write_text(yaml.safe_dump(opt, sort_keys=False))
    return main(["train", "-opt", "tiny.yml", *arguments])


def models(name: str = "tiny", iteration: object = "latest") -> dict[str, torch.Tensor]:
    """All tensors of the networks that were saved."""
    found = {}
    for path in sorted(Path("experiments", name, "models").glob(f"net_*_{iteration}.pth")):
        for key, tensors in torch.load(path, weights_only=True).items():
            label = path.name.split("_")[1]
            found |= {f"{label} {key} {name}": tensor for name, tensor in tensors.items()}
    assert found
    return found


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """To the last bit."""
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def iterations(name: str = "tiny") -> list[int]:
    """Of the training states on disk."""
    return sorted(int(p.stem) for p in Path("experiments", name).glob("training_states/*.state"))
