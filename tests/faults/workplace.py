"""A folder to run commands in: images and their LR ones, an LMDB, weights, option files."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from esc_arch.archs import ESC
from esc_arch.data.lmdb_writer import folder_entries, write_lmdb
from tests import tiny

TRAIN = tiny.options(datasets__train__filename_tmpl="{}x2", datasets__val__filename_tmpl="{}x2")
TEST = tiny.evaluation(TRAIN, path__pretrain_network_g="net.pth")

NAMES = ("a", "b")
SIDE = 32


def network() -> ESC:
    torch.manual_seed(0)
    return ESC(**{k: v for k, v in TRAIN["network_g"].items() if k != "type"})


def furnish(folder: Path) -> None:
    """Make ``data/HR``, ``data/LR``, ``hr.lmdb``, ``net.pth``, ``net.safetensors``, ``1.state``,
    ``train.yml`` and ``test.yml``."""
    tiny.write_pairs(folder, NAMES, SIDE, "x2")
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
    tiny.write(file, tiny.changed(options, **changes))
