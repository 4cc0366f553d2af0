"""A folder to run commands in: images and their LR ones, an LMDB, weights, option files."""

import copy
import importlib.util
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from esc_arch.archs import ESC
from esc_arch.data.lmdb_writer import folder_entries, write_lmdb

_FILE = Path(__file__).parents[1] / "options" / "option_cases.py"
_SPEC = importlib.util.spec_from_file_location("option_cases", _FILE)
option_cases = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(option_cases)
TRAIN, TEST = option_cases.TRAIN, option_cases.TEST

NAMES = ("a", "b")
SIDE = 32


def network() -> ESC:
    torch.manual_seed(0)
    return ESC(**{k: v for k, v in TRAIN["network_g"].items() if k != "type"})


def furnish(folder: Path) -> None:
    """Make ``data/HR``, ``data/LR``, ``hr.lmdb``, ``net.pth``, ``net.safetensors``, ``1.state``,
    ``train.yml`` and ``test.yml``."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    for below, side, ending in (("HR", SIDE, ""), ("LR", SIDE // 2, "x2")):
        (folder / "data" / below).mkdir(parents=True)
        for name in NAMES:
            image = rng.integers(0, 256, (side, side, 3), np.uint8)
            assert cv2.imwrite(str(folder / "data" / below / f"{name}{ending}.png"), image)
    write_lmdb(folder / "hr.lmdb", folder_entries(folder / "data/HR")[0])
    state = network().state_dict()
    torch.save({"params": state, "params_ema": state}, folder / "net.pth")
    save_file(state, folder / "net.safetensors")
    training = {"epoch": 0, "iter": 1, "optimizers": [], "schedulers": []}
    torch.save(training, folder / "1.state")
    write_options(folder / "train.yml", TRAIN)
    write_options(folder / "test.yml", TEST)


def write_options(file: Path, options: dict, **changes: object) -> None:
    """Write an option file; changes are given by dotted keys with ``__`` for the dot."""
    options = copy.deepcopy(options)
    for key, value in changes.items():
        section, *parts = options, *key.split("__")
        for part in parts[:-1]:
            section = section[part]
        section[parts[-1]] = value
    file.write_text(yaml.safe_dump(options, allow_unicode=True), encoding="utf-8")
