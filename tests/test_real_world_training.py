"""Both stages of training for photographs through ``basicsr train``, on a CPU.

The photographs are scikit-image's; the VGG network has random weights, which stand in for
torchvision's through the option file.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from PIL import Image
from torchvision.models import vgg11

from esc_arch import UserError, options
from tests import tiny

COMMITTED = Path(__file__).parents[1] / "options"
SMALL = {**tiny.SIZES, "dim": 16}
TOTAL = 4


def small(file: str, name: str) -> dict:
    """A committed option file, made small enough for a few seconds on a CPU."""
    opt = options.read(str(COMMITTED / file))
    opt["name"] = name
    opt["network_g"] |= SMALL
    if "train" in opt:
        opt |= {"gt_size": 64, "queue_size": 4}
        opt["datasets"]["train"] |= {
            "dataroot_gt": "photos",
            "meta_info": "photos.txt",
            "batch_size_per_gpu": 2,
            "num_worker_per_gpu": 0,
            "dataset_enlarge_ratio": 10,
        }
        opt["train"] |= {"total_iter": TOTAL, "ema_decay": 0.5}
        opt["logger"] |= {"print_freq": 1, "use_tb_logger": False}
    return opt


def mse_options(name: str = "mse") -> dict:
    return small("train_ESC_Real_x4_mse.yml", name)


def gan_options(name: str = "gan") -> dict:
    opt = small("train_ESC_Real_x4_gan.yml", name)
    opt["network_d"]["num_feat"] = 8
    opt["path"]["pretrain_network_g"] = "experiments/mse/models/net_g_latest.pth"
    opt["train"]["perceptual_opt"] |= {
        "weights": "vgg11_first_layers.pth",
        "vgg_type": "vgg11",
        "layer_weights": {"conv1_1": 0.1, "conv3_1": 1.0},
    }
    # At the published 1e-4 a few steps leave some float32 weights as they were.
    opt["train"]["optim_g"]["lr"] = opt["train"]["optim_d"]["lr"] = 1e-3
    return opt


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("a user's folder")
    (folder / "photos").mkdir()
    (folder / "lr").mkdir()
    names = []
    for name, left in (("chelsea", 0), ("coffee", 60), ("astronaut", 40)):
        photo = Image.open(files("skimage") / "data" / f"{name}.png").convert("RGB")
        # One smaller than the 400 pixels that the dataset makes of each, the others larger.
        side = 250 if name == "chelsea" else 420
        photo.crop((left, 0, left + side, min(side, photo.height))).save(
            folder / "photos" / f"{name}.png"
        )
        photo.crop((left, 60, left + 25, 60 + 19)).save(folder / "lr" / f"{name}.png")
        names.append(f"{name}.png")
    (folder / "photos.txt").write_text("\n".join(names) + "\n")
    torch.manual_seed(0)
    first = {k: v for k, v in vgg11().state_dict().items() if re.match(r"features\.[036]\.", k)}
    torch.save(first, folder / "vgg11_first_layers.pth")
    return folder


def basicsr(folder: Path, command: str, opt: dict, *more: str) -> subprocess.CompletedProcess:
    file = tiny.write(folder / f"{opt['name']}.yml", opt)
    return subprocess.run(
        [sys.executable, "-m", "esc_arch", command, "-opt", file.name, *more],
        cwd=folder,
        # Nothing of this machine's user counts, such as downloaded weights.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TORCH_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )


def succeeded(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def logged(printed: str, name: str) -> list[float]:
    return [float(v) for v in re.findall(rf"\b{name}: (\S+)", printed)]


def checkpoint(folder: Path, name: str, net: str = "net_g") -> dict[str, dict[str, torch.Tensor]]:
    file = folder / "experiments" / name / "models" / f"{net}_latest.pth"
    return torch.load(file, weights_only=True)


def finite(weights: dict[str, torch.Tensor]) -> bool:
    return all(tensor.isfinite().all() for tensor in weights.values())


@pytest.fixture(scope="module")
def mse(folder) -> str:
    """The first stage; returns what it printed."""
    return succeeded(basicsr(folder, "train", mse_options()))


@pytest.fixture(scope="module")
def first_stage(folder) -> None:
    """A checkpoint where the first stage leaves its own, untrained unless that is there."""
    file = folder / "experiments" / "mse" / "models" / "net_g_latest.pth"
    if not file.exists():
        file.parent.mkdir(parents=True)
        state = build_network(mse_options()["network_g"]).state_dict()
        torch.save({"params": state, "params_ema": state}, file)


@pytest.fixture(scope="module")
def gan(folder, mse) -> str:
    """The second stage, from the first one's averaged weights; returns what it printed."""
    return succeeded(basicsr(folder, "train", gan_options()))


@pytest.mark.slow
def test_first_stage(folder, mse):
    losses = logged(mse, "l_pix")
    assert len(losses) == TOTAL and all(0 < loss < 1 for loss in losses)
    saved = checkpoint(folder, "mse")
    assert finite(saved["params"]) and finite(saved["params_ema"])
    weight = "proj.weight"
    assert not torch.equal(saved["params"][weight], saved["params_ema"][weight])


@pytest.mark.slow
def test_second_stage(folder, gan):
    assert re.search(r"Loading ESCReal from \S+, parameters of params_ema ", gan)
    for name in ("l_g_pix", "l_g_percep", "l_g_gan", "l_d_real", "l_d_fake"):
        losses = logged(gan, name)
        assert len(losses) == TOTAL, name
        assert all(0 < loss < 100 for loss in losses), (name, losses)
    start, end = checkpoint(folder, "mse")["params_ema"], checkpoint(folder, "gan")
    assert finite(end["params"]) and finite(end["params_ema"])
    changed = [key for key in start if not torch.equal(start[key], end["params"][key])]
    assert len(changed) > 0.9 * len(start)
    # Four steps of 1e-3 cannot lead farther from the weights it has to start with.
    assert max((end["params"][key] - start[key]).abs().max() for key in start) < 0.05
    judge = checkpoint(folder, "gan", "net_d")["params"]
    assert finite(judge) and any(value.any() for value in judge.values())


@pytest.mark.slow
def test_second_stage_resumes(folder, gan):
    opt = gan_options("resumed")
    opt["logger"]["save_checkpoint_freq"] = 2
    opt["train"]["total_iter"] = 2
    succeeded(basicsr(folder, "train", opt))
    opt["train"]["total_iter"] = 3
    printed = succeeded(basicsr(folder, "train", opt, "--auto_resume"))
    assert re.search(r"Resuming training from epoch: \d+, iter: 2\.", printed)
    assert len(logged(printed, "l_d_real")) == 1


@pytest.mark.slow
def test_enlarging_photos(folder, gan):
    opt = small("test_ESC_Real_x4.yml", "enlarged")
    opt["datasets"]["test_1"]["dataroot_lq"] = "lr"
    opt["path"]["pretrain_network_g"] = "experiments/gan/models/net_g_latest.pth"
    succeeded(basicsr(folder, "test", opt))
    written = sorted((folder / "results" / "enlarged" / "visualization" / "photos").iterdir())
    assert len(written) == 3
    for path in written:
        image = np.asarray(Image.open(path))
        assert image.shape == (76, 100, 3) and image.std() > 0


def test_without_vgg_weights_nothing_is_written(folder, first_stage):
    opt = gan_options("without_vgg")
    opt["train"]["perceptual_opt"] = {"type": "VGGPerceptualLoss", "layer_weights": {"conv5_4": 1}}
    (folder / "without_vgg.yml").touch()
    before = set(folder.rglob("*"))
    done = basicsr(folder, "train", opt)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for fragment in (
        "without_vgg.yml: train.perceptual_opt.weights",
        "vgg19-dcbb9e9d.pth",
        "neither in experiments/pretrained_models nor in",
        str(folder / "cache" / "hub" / "checkpoints"),
        "`weights: PATH`",
    ):
        assert fragment in done.stderr, done.stderr
    assert set(folder.rglob("*")) == before


@pytest.fixture
def refused(folder, first_stage, monkeypatch):
    """The problems that the check of a training file lists."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCH_HOME", str(folder / "cache"))

    def problems(opt: dict) -> str:
        with pytest.raises(UserError) as caught:
            options.check(opt, "real.yml", options.Run(is_train=True))
        return str(caught.value)

    return problems


def test_basicsrs_own_perceptual_loss_without_vgg_weights(refused):
    opt = gan_options()
    opt["train"]["perceptual_opt"] = {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}}
    text = refused(opt)
    assert "train.perceptual_opt:" in text and "vgg19-dcbb9e9d.pth" in text
    assert "`type: VGGPerceptualLoss` with `weights: PATH`" in text


def test_vgg_weights_in_a_usual_place(folder, first_stage, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    opt = gan_options()
    del opt["train"]["perceptual_opt"]["weights"]
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    shutil.copy("vgg11_first_layers.pth", cache / "vgg11-8a719046.pth")
    options.check(opt, "real.yml", options.Run(is_train=True))


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"layer_weights": {"conv5_1": 1.0}}, ("weights:", "no features.8.weight")),
        ({"vgg_type": "vgg13", "layer_weights": {"conv2_1": 1}}, ("features.2.weight", "vgg13")),
        ({"weights": "nowhere.pth"}, ("weights:", "nowhere.pth", "no such file")),
        ({"weights": "photos.txt"}, ("weights:", "photos.txt")),
        ({"type": "PerceptualLoss"}, ("train.perceptual_opt.weights:", "an unknown key")),
    ],
)
def test_wrong_vgg_weights(refused, changes, fragments):
    opt = gan_options()
    opt["train"]["perceptual_opt"] |= changes
    text = refused(opt)
    assert all(fragment in text for fragment in fragments), text


def test_missing_photos(folder, refused):
    opt = mse_options()
    data = opt["datasets"]["train"]
    (folder / "more.txt").write_text("chelsea.png\ncat.png\n")
    data["meta_info"] = "more.txt"
    text = refused(opt)
    assert "datasets.train.dataroot_gt:" in text and "1 missing in photos: cat.png" in text
    data["meta_info"] = "none.txt"
    text = refused(opt)
    assert "datasets.train.meta_info:" in text and "no file none.txt" in text
    data |= {"meta_info": "photos.txt", "dataroot_gt": "phtos"}
    assert "no folder phtos" in refused(opt)


def test_too_few_photos_for_a_batch(refused):
    opt = mse_options()
    opt["queue_size"] = 64
    opt["datasets"]["train"]["batch_size_per_gpu"] = 64
    assert "no more than the 3 images times dataset_enlarge_ratio 10" in refused(opt)


def test_validation_images_too_small_to_be_sharpened(folder, refused):
    opt = mse_options()
    for name, size in (("gt", (100, 24)), ("lq", (25, 6))):
        (folder / "val" / name).mkdir(parents=True)
        Image.new("RGB", size).save(folder / "val" / name / "a.png")
    opt["val"] = {"val_freq": 5, "save_img": False}
    opt["datasets"]["val"] = {"name": "val", "type": "PairedImageDataset"} | {
        "dataroot_gt": "val/gt",
        "dataroot_lq": "val/lq",
        "io_backend": {"type": "disk"},
    }
    text = refused(opt)
    assert "datasets.val.dataroot_gt:" in text and "sides of at least 26" in text
    assert "a.png (100x24)" in text
