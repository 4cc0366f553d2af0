"""A small option template of training on made photos."""

from pathlib import Path

from tests import tiny
from tests.compare.photos import make_set

SCALE = 2


def write_template(folder: Path, **changes: object) -> Path:
    """``template.yml`` in a folder, with its data: pairs to train on and to validate with."""
    make_set(folder / "data" / "train", SCALE, [(40, 48)] * 6)
    make_set(folder / "data" / "val", SCALE, [(37, 44), (36, 30)])
    opt = tiny.options(
        name="template",
        num_gpu="auto",
        datasets={
            "train": {
                **tiny.options()["datasets"]["train"],
                **_pairs("train"),
                "batch_size_per_gpu": 1,
                "dataset_enlarge_ratio": 50,
            },
            "val": _pairs("val"),
        },
        network_g={"type": "ESC", "upscaling_factor": SCALE},
        train__ema_decay=0.999,
        train__optim_g={"type": "Adam", "lr": 1e-3},
        train__scheduler__milestones=[500, 900],
        train__total_iter=1000,
        train__warmup_iter=100,
        val__val_freq=250,
        val__metrics=tiny.metrics("psnr", "ssim"),
        logger__print_freq=50,
        logger__save_checkpoint_freq=250,
    )
    return tiny.write(folder / "template.yml", opt | changes)


def _pairs(name: str) -> dict[str, object]:
    return {
        "name": name,
        **tiny.pair(
            dataroot_gt=f"data/{name}/HR",
            dataroot_lq=f"data/{name}/LR_bicubic/X{SCALE}",
            filename_tmpl=f"{{}}x{SCALE}",
        ),
    }
