"""A small option template of training on made photos."""

from pathlib import Path

import yaml

from tests.compare.photos import make_set

SCALE = 2


def write_template(folder: Path, **changes: object) -> Path:
    """``template.yml`` in a folder, with its data: pairs to train on and to validate with."""
    make_set(folder / "data" / "train", SCALE, [(40, 48)] * 6)
    make_set(folder / "data" / "val", SCALE, [(37, 44), (36, 30)])
    metrics = {
        name: {"type": f"calculate_{name}", "crop_border": SCALE, "test_y_channel": True}
        for name in ("psnr", "ssim")
    }
    template = {
        "name": "template",
        "model_type": "SRModel",
        "scale": SCALE,
        "num_gpu": "auto",
        "manual_seed": 0,
        "datasets": {
            "train": {
                **_pairs("train"),
                "gt_size": 16,
                "use_hflip": True,
                "use_rot": True,
                "num_worker_per_gpu": 0,
                "batch_size_per_gpu": 1,
                "dataset_enlarge_ratio": 50,
            },
            "val": _pairs("val"),
        },
        "network_g": {"type": "ESC", "upscaling_factor": SCALE},
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.999,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "scheduler": {"type": "MultiStepLR", "milestones": [500, 900], "gamma": 0.5},
            "total_iter": 1000,
            "warmup_iter": 100,
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "val": {"val_freq": 250, "save_img": False, "metrics": metrics},
        "logger": {"print_freq": 50, "save_checkpoint_freq": 250, "use_tb_logger": False},
        **changes,
    }
    path = folder / "template.yml"
    path.write_text(yaml.safe_dump(template, sort_keys=False))
    return path


def _pairs(name: str) -> dict[str, object]:
    return {
        "name": name,
        "type": "PairedImageDataset",
        "dataroot_gt": f"data/{name}/HR",
        "dataroot_lq": f"data/{name}/LR_bicubic/X{SCALE}",
        "filename_tmpl": f"{{}}x{SCALE}",
        "io_backend": {"type": "disk"},
    }
