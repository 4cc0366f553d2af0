"""Option files in the manner of HiT-SR, DAT, HAT, ATD, MambaIR and SRFormer run as they are."""

import argparse
import re
import subprocess
import sys

import pytest
import torch
from option_cases import TEST, TRAIN

from esc_arch import options
from esc_arch.errors import UserError
from tests import tiny

HIT_SRF = {"type": "HiT_SRF", "upscale": 2, "in_chans": 3, "img_size": 64, "img_range": 1.0}
HIT_SRF |= {"base_win_size": [8, 8], "depths": [1], "embed_dim": 16, "num_heads": [1]}
HIT_SRF |= {"expansion_factor": 2, "resi_connection": "1conv", "hier_win_ratios": [0.5, 1]}
HIT_SRF |= {"upsampler": "pixelshuffledirect"}
ATD = {"type": "ATD", "upscale": 2, "in_chans": 3, "img_size": 64, "embed_dim": 16}
ATD |= {"depths": [1], "num_heads": [2], "window_size": 16, "category_size": 128, "mlp_ratio": 1}
ATD |= {"num_tokens": 8, "reducted_dim": 4, "convffn_kernel_size": 7, "img_range": 1.0}
ATD |= {"upsampler": "pixelshuffledirect", "resi_connection": "1conv", "use_checkpoint": True}
MAMBA = {"type": "MambaIRv2Light", "upscale": 2, "in_chans": 3, "img_size": 64, "img_range": 1.0}
MAMBA |= {"embed_dim": 16, "d_state": 4, "depths": [1], "num_heads": [2], "window_size": 8}
MAMBA |= {"inner_rank": 4, "num_tokens": 8, "convffn_kernel_size": 5, "mlp_ratio": 1.0}
MAMBA |= {"upsampler": "pixelshuffledirect", "resi_connection": "1conv"}

# The model that runs for each, and what its files hold that BasicSR does not read.
RELEASES = {
    "HITModel": ("SectionsModel", HIT_SRF, {"datasets__train__task": "SR"}),
    "DATModel": ("SectionsModel", HIT_SRF, {"datasets__val__task": "SR"}),
    "ATDModel": ("SRModel", ATD, {}),
    "HATModel": ("ESRModel", tiny.network(), {"val__pbar": False}),
    "MambaIRv2LightModel": (
        "TenthSectionsModel",
        MAMBA,
        {
            "datasets__train__dataroot_gt": ["data/HR"],
            "datasets__train__dataroot_lq": ["data/LR"],
            "datasets__train__task": "SR",
        },
    ),
    "SRModel": (
        "SRModel",
        tiny.network(),
        {"print_network": False, "save_img": False, "suffix": None, "is_train": True}
        | {"use_static_graph": True, "find_unused_parameters": True},
    ),
}


def parsed(file, opt: dict, is_train: bool) -> dict:
    arguments = argparse.Namespace(
        opt=str(tiny.write(file, opt)),
        launcher="none",
        auto_resume=False,
        debug=False,
        force_yml=None,
    )
    return options.parse(arguments, ".", is_train)


@pytest.mark.parametrize("model", RELEASES)
def test_a_release_is_read(workplace, model):
    runs_as, network, own = RELEASES[model]
    changes = {"model_type": model, "network_g": network, "num_gpu": 0}
    opt = parsed(workplace / "x.yml", tiny.changed(TRAIN, **changes, **own), True)
    assert opt["model_type"] == runs_as
    assert opt["datasets"]["train"]["dataroot_gt"] == "data/HR"
    parsed(workplace / "x.yml", tiny.changed(TEST, **changes), False)


def test_sections_are_asked_for_by_use_chop(workplace):
    opt = tiny.changed(TEST, model_type="HITModel", network_g=HIT_SRF, num_gpu=0)
    assert parsed(workplace / "x.yml", tiny.changed(opt, val__use_chop=True), False)
    with pytest.raises(UserError, match=r"val\.use_chop: expected true or false"):
        parsed(workplace / "x.yml", tiny.changed(opt, val__use_chop="yes"), False)


@pytest.mark.parametrize("model", ["HITModel", "ATDModel", "MambaIRv2LightModel"])
def test_a_misspelt_argument_is_still_a_mistake(model):
    network = dict(RELEASES[model][1])
    network["upsampler_"] = network.pop("upsampler")
    with pytest.raises(UserError, match=r"network_g\.upsampler_: .*Did you mean 'upsampler'"):
        options.check_structure(
            tiny.changed(TRAIN, model_type=model, network_g=network), "x.yml", True
        )


@pytest.mark.parametrize(
    ("key", "name"), [("network_g.type", "MyNet"), ("model_type", "MyModel"), ("network_g.type", 0)]
)
def test_what_a_package_of_the_user_registers(key, name):
    """No name of another thing is suggested, but how to train with it."""
    with pytest.raises(UserError, match=rf"{key}: expected the name of a registered") as caught:
        options.check_structure(
            tiny.changed(TRAIN, **{key.replace(".", "__"): name}), "x.yml", True
        )
    text = str(caught.value)
    assert "Did you mean" not in text
    assert ("esc_arch.cli.main import main" in text) == isinstance(name, str)


PACKAGE = """
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn


@ARCH_REGISTRY.register()
class MyNet(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 12, 1))

    def forward(self, x):
        return nn.functional.pixel_shuffle(self.body(x), 2)
"""


@pytest.mark.slow
def test_the_script_of_the_message_trains(workplace):
    """A network that a package of the user registers, by the three lines that the message shows."""
    network = {"type": "MyNet", "width": 5}
    opt = tiny.changed(TRAIN, network_g=network, num_gpu=0, train__total_iter=5)
    with pytest.raises(UserError, match=r"network_g\.type: expected") as caught:
        options.check_structure(opt, "x.yml", True)
    lines = re.findall(r"`([^`]+)`", str(caught.value))[:3]
    assert lines[0] == "import sys, esc_arch, YOUR_PACKAGE" and len(lines) == 3
    (workplace / "mine.py").write_text(PACKAGE)
    script = "\n".join(lines).replace("YOUR_PACKAGE", "mine")
    (workplace / "script.py").write_text(script)
    tiny.write(workplace / "x.yml", opt)
    done = subprocess.run(
        [sys.executable, "script.py", "train", "-opt", "x.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    saved = torch.load(workplace / "experiments/tiny/models/net_g_5.pth", weights_only=True)
    assert saved["params"]["body.0.weight"].shape == (5, 3, 3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["HITModel", "MambaIRv2LightModel", "ATDModel"])
def test_a_release_trains_and_is_tested(workplace, model):
    _, network, own = RELEASES[model]
    changes = {"model_type": model, "network_g": network, "num_gpu": 0, "name": "x"}
    changes |= {"path__pretrain_network_g": None}
    tiny.write(workplace / "train.yml", tiny.changed(TRAIN, **changes, **own, train__total_iter=5))
    changes |= {"path__pretrain_network_g": "experiments/x/models/net_g_5.pth"}
    tiny.write(workplace / "test.yml", tiny.changed(TEST, **changes))
    for command in ("train", "test"):
        done = subprocess.run(
            [sys.executable, "-m", "esc_arch", command, "-opt", f"{command}.yml"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "# psnr: " in done.stdout + done.stderr
