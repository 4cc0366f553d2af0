"""``import esc_arch`` beside a BasicSR that another network's repository has cut down."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import basicsr
import pytest

from tests.run_python import output_of, start_python

WHOLE = Path(basicsr.__file__).parent

# What README calls the least BasicSR that works.
LEAST = (
    "utils",
    *("archs/__init__.py", "archs/arch_util.py"),
    *("data/__init__.py", "data/data_util.py", "data/transforms.py", "data/data_sampler.py"),
    *("data/prefetch_dataloader.py", "losses/__init__.py", "losses/gan_loss.py"),
    *("losses/loss_util.py", "metrics/__init__.py", "metrics/metric_util.py"),
    *("metrics/psnr_ssim.py", "models/__init__.py", "models/base_model.py"),
    *("models/sr_model.py", "models/lr_scheduler.py"),
)

REGISTERED = """
    import json, logging, sys

    class Warnings(logging.Handler):
        def emit(self, record):
            print("WARNING", record.getMessage())

    logging.getLogger("basicsr.esc_arch").addHandler(Warnings())
    import esc_arch
    import basicsr
    from basicsr.utils import registry

    print(basicsr.__file__)
    for kind in ("ARCH", "MODEL", "DATASET", "LOSS"):
        known = getattr(registry, f"{kind}_REGISTRY")
        print(kind, sorted(n for n, c in known if c.__module__.startswith("esc_arch.")))
    from basicsr.archs import build_network
    import torch
    network = build_network(json.loads(sys.argv[1])).eval()
    with torch.no_grad():
        print(tuple(network(torch.zeros(1, 3, 9, 7)).shape))
"""
SMALL = """{"type": "ESC", "dim": 8, "pdim": 4, "kernel_size": 5, "n_blocks": 1, "conv_blocks": 1,
    "window_size": 8, "num_heads": 2, "upscaling_factor": 2, "exp_ratio": 1.25}"""


def removed(*names: str):
    """Files that are not there."""

    def cut(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return cut


def changed(name: str, *pairs: tuple[str, str]):
    """A file with other text."""

    def cut(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")

    return cut


NO_SUFFIX = changed(
    "utils/registry.py",
    ("def register(self, obj=None, suffix=None):", "def register(self, obj=None):"),
    ("func_or_class, suffix)", "func_or_class)"),
    ("obj, suffix)", "obj)"),
)
NO_NIQE = changed(
    "metrics/__init__.py", ("from .niqe import calculate_niqe\n", ""), (", 'calculate_niqe'", "")
)
# As DAT's has it.
UTILS = changed(
    "utils/__init__.py",
    ("from .diffjpeg import DiffJPEG\n", ""),
    ("from .img_process_util import USMSharp, usm_sharp\n", ""),
    ("'DiffJPEG',", ""),
    ("'USMSharp',", ""),
    ("'usm_sharp'", ""),
)
NETWORKS = ["ATD", "ELAN", "ESC", "ESCFP", "ESCLTE", "ESCReal", "ESCRealM", "HiT_SRF"]
NETWORKS += ["MambaIRv2Light", "OmniSR", "SRFormer"]


def least(folder: Path) -> None:
    shutil.rmtree(folder)
    for name in LEAST:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (WHOLE / name).is_dir() else shutil.copy
        copy(WHOLE / name, folder / name)
    removed(*(f"utils/{name}.py" for name in ("diffjpeg", "img_process_util", "flow_util")))(folder)
    removed("utils/plot_util.py", "utils/lmdb_util.py", "utils/matlab_functions.py")(folder)
    (folder / "__init__.py").write_text("from .archs import *\nfrom .models import *\n")
    UTILS(folder)
    NO_SUFFIX(folder)
    NO_NIQE(folder)


def registered(folder: Path, cut) -> str:
    """What a process says of the BasicSR in a folder, after ``cut``."""
    shutil.copytree(WHOLE, folder / "basicsr", ignore=shutil.ignore_patterns("__pycache__"))
    cut(folder / "basicsr")
    root = str(Path(__file__).parents[2])
    output = output_of(start_python(REGISTERED, SMALL, PYTHONPATH=f"{folder}:{root}"))
    assert str(folder / "basicsr") in output
    assert f"ARCH {NETWORKS}" in output
    models = ["ESCLTEModel", "ESCModel", "ESRModel", "SectionsModel", "TenthSectionsModel"]
    has_models = f"MODEL {models}" in output
    assert has_models != ("its models" in output)
    datasets = ["DownsampleImageDataset", "PhotoImageDataset", "RandomScaleImageDataset"]
    assert f"DATASET {datasets}" in output
    assert "(1, 3, 18, 14)" in output
    return output


def test_the_least_basicsr(tmp_path):
    output = registered(tmp_path, least)
    assert "MODEL []" not in output
    (warning,) = [line for line in output.splitlines() if line.startswith("WARNING")]
    assert "VGGPerceptualLoss" in warning and "basicsr.losses.basic_loss" in warning
    assert str(tmp_path) in warning


@pytest.mark.slow
def test_commands_need_the_whole_of_it(tmp_path):
    (tmp_path / "basicsr").mkdir()
    least(tmp_path / "basicsr")
    options = tmp_path / "x.yml"
    options.write_text("name: x\n")
    done = subprocess.run(
        [sys.executable, "-m", "esc_arch", "train", "-opt", str(options)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "BasicSR 1.4.2" in done.stderr and str(tmp_path / "basicsr") in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["basicsr", "x.yml"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "cut",
    [
        removed("archs/rcan_arch.py"),
        removed("archs/swinir_arch.py"),
        removed("models/realesrgan_model.py", "models/realesrnet_model.py"),
        removed("losses/basic_loss.py"),
        removed("version.py", "__init__.py"),
        removed("train.py", "__init__.py"),
        NO_NIQE,
        changed("losses/__init__.py", ("def build_loss", "def _build_loss")),
    ],
    ids=["rcan", "swinir", "realesrgan", "basic_loss", "version", "train", "niqe", "build_loss"],
)
def test_a_part_is_missing(tmp_path, cut):
    def and_init(folder: Path) -> None:
        cut(folder)
        (folder / "__init__.py").write_text("from .archs import *\nfrom .data import *\n")

    output = registered(tmp_path, and_init)
    missing = [line for line in output.splitlines() if line.startswith("WARNING")]
    assert len(missing) <= 1
    assert all("VGGPerceptualLoss" in line or "its models" in line for line in missing)
