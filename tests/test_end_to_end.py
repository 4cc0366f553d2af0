"""``basicsr train`` and ``basicsr test`` as a user runs them, on small real photographs."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from PIL import Image

from tests import tiny

NETWORK = tiny.network(dim=16, exp_ratio=1.25)
COMMAND = (sys.executable, "-m", "esc_arch")
METRICS = tiny.metrics("psnr", "ssim")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with photos in disk and LMDB form and the option files for them."""
    folder = tmp_path_factory.mktemp("a user's folder")
    photo = Image.open(files("skimage") / "data" / "chelsea.png").convert("RGB")
    for sub in ("HR", "LR"):
        (folder / "data" / sub).mkdir(parents=True)
    names = []
    for index in range(6):
        hr = photo.crop((40 * index, 60, 40 * index + 48, 104))
        names.append(f"cat{index}.png")
        hr.save(folder / "data" / "HR" / names[-1])
        hr.resize((24, 22), Image.Resampling.BICUBIC).save(folder / "data" / "LR" / names[-1])
    for sub in ("HR", "LR"):
        images = folder / "data" / sub
        make_lmdb_from_imgs(
            str(images), f"{images}.lmdb", names, [Path(n).stem for n in names], map_size=2**24
        )
    tiny.write(folder / "train.yml", train_options("small", "disk"))
    tiny.write(folder / "train_lmdb.yml", train_options("small_lmdb", "lmdb"))
    return folder


def pair(backend: str) -> dict:
    if backend == "disk":
        return tiny.pair()
    return tiny.pair(
        dataroot_gt="data/HR.lmdb", dataroot_lq="data/LR.lmdb", io_backend={"type": "lmdb"}
    )


def train_options(name: str, backend: str, **changes: object) -> dict:
    opt = tiny.options(
        name=name,
        num_gpu="auto",
        network_g=NETWORK,
        train__scheduler__milestones=[15],
        train__total_iter=20,
        val__val_freq=10,
        val__metrics=METRICS,
        logger__print_freq=5,
        logger__save_checkpoint_freq=10,
    )
    opt["datasets"]["train"] |= {"name": "cats", **pair(backend), "gt_size": 32}
    return opt | changes


def basicsr(folder: Path, *arguments: str, launch: tuple[str, ...] = ()) -> str:
    """Run the command in the folder to its success; returns all that it printed."""
    done = subprocess.run(
        [sys.executable, *launch, "-m", "esc_arch", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def weights(folder: Path, name: str, key: str = "params") -> dict[str, torch.Tensor]:
    path = folder / "experiments" / name / "models" / "net_g_latest.pth"
    return torch.load(path, weights_only=True)[key]


@pytest.fixture(scope="module")
def killed_and_resumed(folder) -> str:
    """A training killed in its course and resumed; returns what the second part printed."""
    with (folder / "killed.log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "train", "-opt", "train.yml", "--force_yml", "train:total_iter=100000"],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        state = folder / "experiments" / "small" / "training_states" / "10.state"
        wait_until(lambda: readable(state), process, folder / "killed.log")
        process.send_signal(signal.SIGKILL)
        process.wait()
    newest = max(int(path.stem) for path in state.parent.glob("*.state"))
    total = f"train:total_iter={newest + 10}"
    return basicsr(folder, "train", "-opt", "train.yml", "--auto_resume", "--force_yml", total)


def wait_until(condition, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 200
    while not condition():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def readable(state: Path) -> bool:
    try:
        torch.load(state, weights_only=False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return False
    return True


@pytest.mark.slow
def test_train_killed_and_resumed(folder, killed_and_resumed):
    start = re.search(r"Resuming training from epoch: \d+, iter: (\d+)", killed_and_resumed)
    assert int(start[1]) >= 10
    assert "Save the latest model." in killed_and_resumed
    assert "# psnr:" in killed_and_resumed
    trained = weights(folder, "small")
    assert set(trained) == set(weights(folder, "small", "params_ema"))
    assert all(tensor.isfinite().all() for tensor in trained.values())


@pytest.mark.slow
def test_test_prints_the_psnr_of_the_images_it_writes(folder, killed_and_resumed):
    options = train_options("small_test", "disk")
    del options["train"], options["logger"]
    options["datasets"] = {"test": {"name": "cats_test", **pair("disk")}}
    options["path"] = {
        "pretrain_network_g": "experiments/small/models/net_g_latest.pth",
        "param_key_g": "params_ema",
        "strict_load_g": True,
    }
    options["val"] = {"save_img": True, "suffix": None, "metrics": METRICS}
    tiny.write(folder / "test.yml", options)
    printed = basicsr(folder, "test", "-opt", "test.yml")
    psnr = float(re.search(r"# psnr: ([\d.]+)", printed)[1])
    written = sorted((folder / "results" / "small_test" / "visualization").rglob("*.png"))
    assert len(written) == 6
    expected = [
        psnr_y(path, folder / "data" / "HR" / f"{path.name.split('_')[0]}.png") for path in written
    ]
    assert psnr == pytest.approx(np.mean(expected), abs=1e-3)


def psnr_y(path: Path, reference: Path) -> float:
    """PSNR by its definition, on BT.601's Y, two border pixels left out."""

    def luma(file: Path) -> np.ndarray:
        rgb = np.asarray(Image.open(file).convert("RGB"), dtype=np.float64)[2:-2, 2:-2]
        return rgb @ [65.481, 128.553, 24.966] / 255 + 16

    return 10 * np.log10(255**2 / np.mean((luma(path) - luma(reference)) ** 2))


def test_train_from_lmdb_equals_train_from_disk(folder):
    """The same images in the same order: an LMDB changes nothing."""
    options = train_options("small_disk", "disk")
    # Without it BasicSR takes the files in the order of the file system.
    options["datasets"]["train"]["meta_info_file"] = "data/HR.lmdb/meta_info.txt"
    tiny.write(folder / "train_disk.yml", options)
    few = ("--force_yml", "train:total_iter=3")
    basicsr(folder, "train", "-opt", "train_lmdb.yml", *few)
    basicsr(folder, "train", "-opt", "train_disk.yml", *few)
    from_lmdb, from_disk = weights(folder, "small_lmdb"), weights(folder, "small_disk")
    for key, tensor in from_disk.items():
        torch.testing.assert_close(from_lmdb[key], tensor, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_scale_transfer_through_pretrain_network_g(folder, killed_and_resumed):
    options = train_options("small_x4", "disk", scale=4)
    options["network_g"] = {**NETWORK, "upscaling_factor": 4}
    options["datasets"] = {"train": {**options["datasets"]["train"], "dataroot_lq": "data/LR4"}}
    options["datasets"]["train"]["gt_size"] = 16
    options["path"] = {
        "pretrain_network_g": "experiments/small/models/net_g_latest.pth",
        "param_key_g": "params_ema",
        "strict_load_g": True,
    }
    del options["val"]
    (folder / "data" / "LR4").mkdir()
    for path in (folder / "data" / "HR").glob("*.png"):
        Image.open(path).resize((12, 11)).save(folder / "data" / "LR4" / path.name)
    tiny.write(folder / "train_x4.yml", options)
    printed = basicsr(folder, "train", "-opt", "train_x4.yml", "--force_yml", "train:total_iter=1")
    assert "a x2 network is resampled for x4" in printed
    assert weights(folder, "small_x4")["to_img.weight"].shape[0] == 3 * 4**2


@pytest.mark.slow
def test_two_processes_train_together(folder):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    arguments = ("train", "-opt", "train.yml", "--launcher", "pytorch")
    forced = ("--force_yml", "train:total_iter=2", "name=small_two", "val:val_freq=2")
    printed = basicsr(folder, *arguments, *forced, launch=launch)
    assert "World size (gpu number): 2" in printed
    assert "# psnr:" in printed
    assert all(tensor.isfinite().all() for tensor in weights(folder, "small_two").values())


@pytest.mark.parametrize("command", ["train", "test"])
def test_a_wrong_option_file_exits_with_2_before_anything_is_written(folder, command):
    options = train_options("small_wrong", "disk")
    options["network_g"] = {**NETWORK, "dimm": 16}
    tiny.write(folder / "wrong.yml", options)
    before = set(os.listdir(folder))
    done = subprocess.run(
        [*COMMAND, command, "-opt", "wrong.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "wrong.yml" in done.stderr and "network_g.dimm" in done.stderr
    assert "Did you mean 'dim'" in done.stderr and "Traceback" not in done.stderr
    assert set(os.listdir(folder)) == before
    assert not (folder / "experiments" / "small_wrong").exists()
