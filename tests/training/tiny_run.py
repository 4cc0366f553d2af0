"""A tiny training through ``basicsr train`` in this process, in the current folder."""

from pathlib import Path

import torch

from esc_arch.cli.main import main
from tests import tiny

NETWORK = tiny.network()
PAIR = tiny.pair()


def write_data(folder: Path, count: int = 5) -> None:
    """Pairs of random images, 20 and 10 pixels wide."""
    tiny.write_pairs(folder, range(count), 20)


def options(name: str = "tiny", total: int = 8, **changes: object) -> dict:
    """Of a training that saves every 2 iterations, of which 5 make an epoch."""
    opt = tiny.options(
        name=name,
        model_type="ESCModel",
        datasets__val=tiny.DELETE,
        # 11 samples, so the last of an epoch is left out.
        datasets__train__dataset_enlarge_ratio=2.2,
        val=tiny.DELETE,
        train__ema_decay=0.5,
        train__optim_g={"type": "AdamW", "lr": 1e-3},
        train__scheduler__milestones=[3, 6],
        train__total_iter=total,
        train__warmup_iter=2,
        logger__save_checkpoint_freq=2,
    )
    return opt | changes


def validated(opt: dict, **metric: object) -> dict:
    """The options with a validation every 2 iterations."""
    opt["datasets"]["val"] = {"name": "tiny_val", **PAIR}
    psnr = {"type": "calculate_psnr", "crop_border": 2, **metric}
    opt["val"] = {"val_freq": 2, "save_img": False, "metrics": {"psnr": psnr}}
    return opt


def train(opt: dict, *arguments: str) -> int:
    """Train; returns the exit code."""
    tiny.write(Path("tiny.yml"), opt)
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
