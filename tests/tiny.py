"""The smallest option files: a one-block ESC x2 trained and tested on tiny pairs of images."""

import copy
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import yaml

DELETE = object()
# Arguments that every network of ESC blocks takes.
SIZES = {
    "dim": 8,
    "pdim": 4,
    "kernel_size": 5,
    "n_blocks": 1,
    "conv_blocks": 1,
    "window_size": 8,
    "num_heads": 2,
}

# Keys of Real-ESRGAN's degradations, for its models.
DEGRADATION = {
    f"{name}{ending}": value
    for ending in ("", "2")
    for name, value in {
        "resize_prob": [1, 1, 1],
        "resize_range": [0.5, 1.5],
        "gaussian_noise_prob": 0.5,
        "noise_range": [1, 30],
        "poisson_scale_range": [0.05, 3],
        "gray_noise_prob": 0.5,
        "jpeg_range": [30, 95],
    }.items()
} | {"second_blur_prob": 0.8}


def network(**changes: object) -> dict:
    """The section network_g."""
    return {"type": "ESC", **SIZES, "upscaling_factor": 2, **changes}


def pair(**changes: object) -> dict:
    """A section of the dataset that :func:`write_pairs` makes."""
    return {
        "type": "PairedImageDataset",
        "dataroot_gt": "data/HR",
        "dataroot_lq": "data/LR",
        "io_backend": {"type": "disk"},
        **changes,
    }


def options(**changes: object) -> dict:
    """A training of 10 iterations of BasicSR's SRModel, validated every 5; see :func:`changed`."""
    opt = {
        "name": "tiny",
        "model_type": "SRModel",
        "scale": 2,
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "train": {
                "name": "tiny",
                **pair(),
                "gt_size": 16,
                "use_hflip": True,
                "use_rot": True,
                "num_worker_per_gpu": 0,
                "batch_size_per_gpu": 2,
                "dataset_enlarge_ratio": 10,
            },
            "val": {"name": "tiny_val", **pair()},
        },
        "network_g": network(),
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.9,
            "optim_g": {"type": "Adam", "lr": 1e-3, "weight_decay": 0, "betas": [0.9, 0.9]},
            "scheduler": {"type": "MultiStepLR", "milestones": [5, 8], "gamma": 0.5},
            "total_iter": 10,
            "warmup_iter": -1,
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "val": {"val_freq": 5, "save_img": False, "metrics": metrics("psnr")},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 5, "use_tb_logger": False},
    }
    return changed(opt, **changes)


def evaluation(trained: dict, **changes: object) -> dict:
    """The test of a training's network on its validation data; see :func:`changed`."""
    opt = {key: trained[key] for key in ("name", "model_type", "scale", "num_gpu", "network_g")}
    opt["path"] = trained["path"]
    opt["datasets"] = {"test_1": trained["datasets"]["val"]}
    opt["val"] = {"save_img": True, "suffix": None, "metrics": trained["val"]["metrics"]}
    return changed(opt, **changes)


def metrics(*names: str) -> dict:
    """The section val.metrics."""
    border = {"crop_border": 2, "test_y_channel": True}
    return {name: {"type": f"calculate_{name}", **border} for name in names}


def changed(opt: dict, **changes: object) -> dict:
    """A copy with other values: ``train__total_iter=4``, ``datasets__val=DELETE``."""
    opt = copy.deepcopy(opt)
    for key, value in changes.items():
        section, *parts = opt, *key.split("__")
        for part in parts[:-1]:
            section = section[part]
        if value is DELETE:
            del section[parts[-1]]
        else:
            section[parts[-1]] = copy.deepcopy(value)
    return opt


def write(file: Path, opt: dict) -> Path:
    file.write_text(yaml.safe_dump(opt, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def write_pairs(folder: Path, names: Iterable[object], side: int, ending: str = "") -> None:
    """``data/HR/NAME.png``, noise of ``side`` pixels, and ``data/LR/NAME{ending}.png`` of half."""
    rng = np.random.default_rng(0)
    for below in ("HR", "LR"):
        (folder / "data" / below).mkdir(parents=True)
    for name in names:
        hr = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / "data" / "HR" / f"{name}.png"), hr)
        assert cv2.imwrite(str(folder / "data" / "LR" / f"{name}{ending}.png"), hr[::2, ::2])
