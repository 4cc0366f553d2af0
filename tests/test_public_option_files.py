"""Option files of the public release's shape, run as they are on small photographs.

Their shape: ``model_type: ESRModel``, ``attn_type: Flex``, AdamW, names ending in .yaml.
"""

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from esc_arch import ESC, UserError, options

NETWORK = """
network_g:
  type: ESC
  dim: 16
  pdim: 4
  kernel_size: 5
  n_blocks: 1
  conv_blocks: 1
  window_size: 16
  num_heads: 2
  upscaling_factor: 2
  exp_ratio: 1.25
  attn_type: Flex
"""
# The plainest attention: which one the option file asks for must not matter.
PLAIN = {"attn_type": "naive"}
METRICS = """
  metrics:
    psnr: # metric name, can be arbitrary
      type: calculate_psnr
      crop_border: 2
      test_y_channel: true
"""
TRAIN = f"""
# general settings
name: small_public
model_type: ESRModel
scale: 2
num_gpu: auto  # set num_gpu: 0 for cpu mode
manual_seed: 0

datasets:
  train:
    name: cats
    type: PairedImageDataset
    dataroot_gt: data/HR
    dataroot_lq: data/LR
    filename_tmpl: '{{}}x2'
    io_backend:
      type: disk
    gt_size: 32
    use_hflip: true
    use_rot: true
    # data loader
    use_shuffle: true
    num_worker_per_gpu: 0
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 10
    prefetch_mode: ~
  val:
    name: cats_val
    type: PairedImageDataset
    dataroot_gt: data/HR
    dataroot_lq: data/LR
    filename_tmpl: '{{}}x2'
    io_backend:
      type: disk
{NETWORK}
path:
  pretrain_network_g: ~
  strict_load_g: true
  resume_state: ~

train:
  ema_decay: 0.999
  optim_g:
    type: AdamW
    lr: !!float 5e-4
    weight_decay: 0
    betas: [0.9, 0.9]
  scheduler:
    type: MultiStepLR
    milestones: [2, 3]
    gamma: 0.5
  total_iter: 4
  warmup_iter: 2  # linear
  pixel_opt:
    type: L1Loss
    loss_weight: 1.0
    reduction: mean

val:
  val_freq: !!float 4
  save_img: false
{METRICS}
logger:
  print_freq: 1
  save_checkpoint_freq: !!float 4
  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~

dist_params:
  backend: nccl
  port: 29500
"""
TEST = f"""
name: small_public_test
model_type: ESRModel
scale: 2
num_gpu: 1  # set num_gpu: 0 for cpu mode
manual_seed: 0

datasets:
  test_1:
    name: cats_test
    type: PairedImageDataset
    dataroot_gt: data/HR
    dataroot_lq: data/LR
    filename_tmpl: '{{}}x2'
    io_backend:
      type: disk
{NETWORK}
path:
  pretrain_network_g: experiments/small_public/models/net_g_latest.pth
  param_key_g: params_ema
  strict_load_g: true

val:
  save_img: false
  suffix: ~
{METRICS}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Photos whose LR sides, 23 and 19, are no multiples of the window; the two files."""
    folder = tmp_path_factory.mktemp("public")
    photo = Image.open(files("skimage") / "data" / "chelsea.png").convert("RGB")
    for sub in ("HR", "LR"):
        (folder / "data" / sub).mkdir(parents=True)
    for index in range(3):
        hr = photo.crop((60 * index, 60, 60 * index + 46, 98))
        hr.save(folder / "data" / "HR" / f"cat{index}.png")
        hr.resize((23, 19), Image.Resampling.BICUBIC).save(
            folder / "data" / "LR" / f"cat{index}x2.png"
        )
    (folder / "train_small.yaml").write_text(TRAIN)
    (folder / "test_small.yaml").write_text(TEST)
    return folder


def basicsr(folder: Path, *arguments: str) -> str:
    """Run the command in the folder to its success; returns all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "esc_arch", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def trained(folder) -> str:
    return basicsr(folder, "train", "-opt", "train_small.yaml")


@pytest.mark.slow
def test_training(trained):
    assert "Model [ESRModel] is created." in trained
    assert "iter:       4" in trained and "Save the latest model." in trained
    assert "# psnr:" in trained


@pytest.mark.slow
def test_psnr_is_that_of_the_padded_image(folder, trained):
    on_cpu = () if torch.cuda.is_available() else ("--force_yml", "num_gpu=0")
    printed = basicsr(folder, "test", "-opt", "test_small.yaml", *on_cpu)
    psnr = float(re.search(r"# psnr: ([\d.]+)", printed)[1])
    opt = options.read(str(folder / "test_small.yaml"))
    network = ESC(**{k: v for k, v in opt["network_g"].items() if k != "type"} | PLAIN).eval()
    state = torch.load(folder / opt["path"]["pretrain_network_g"], weights_only=True)
    network.load_state_dict(state["params_ema"])
    whole, raw = [], []
    for path in sorted((folder / "data" / "LR").iterdir()):
        lr = np.asarray(Image.open(path), dtype=np.float32) / 255
        hr = np.asarray(Image.open(folder / "data" / "HR" / path.name.replace("x2", "")))
        # To 32, the next multiple of the window, at the right and bottom.
        padded = np.pad(lr, [(0, 32 - 19), (0, 32 - 23), (0, 0)], mode="reflect")
        whole.append(psnr_y(upscaled(network, padded)[:38, :46], hr))
        raw.append(psnr_y(upscaled(network, lr), hr))
    assert psnr == pytest.approx(np.mean(whole), abs=2e-3)
    assert abs(psnr - np.mean(raw)) > 4e-3, "the photos do not tell the two apart"


def upscaled(network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """(H, W, 3) in [0, 1] -> (rH, rW, 3) uint8."""
    with torch.no_grad():
        output = network(torch.from_numpy(image.transpose(2, 0, 1))[None])[0]
    return (output.clamp(0, 1) * 255).round().numpy().transpose(1, 2, 0).astype(np.uint8)


def psnr_y(image: np.ndarray, reference: np.ndarray) -> float:
    """PSNR by its definition, on BT.601's Y, two border pixels left out."""

    def luma(rgb: np.ndarray) -> np.ndarray:
        return rgb[2:-2, 2:-2].astype(np.float64) @ [65.481, 128.553, 24.966] / 255 + 16

    return 10 * np.log10(255**2 / np.mean((luma(image) - luma(reference)) ** 2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_a_mistake_with_a_remedy(folder):
    opt = options.read(str(folder / "test_small.yaml"))
    with pytest.raises(UserError, match=r"num_gpu: expected at most 0.*Write `num_gpu: auto`"):
        options.check_machine(opt, "test_small.yaml", options.Run(is_train=False))
