"""Networks that BasicSR and spandrel implement: the public outputs, any size, training.

What a network does not promise is said here by preset, and tested too where it can be.
"""

import importlib.util
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from esc_arch import PRESETS, create
from esc_arch.archs.whole_windows import WholeWindows
from esc_arch.cli.main import main
from tests.archs import network_checks
from tests.reference_cases import REFERENCE, deviation, fill_parameters

OPTIONS = Path(__file__).parents[2] / "options"
CASES = network_checks.public_cases("ATD", "OmniSR", "SRFormer")
# One small group or two of each, as public arguments name them.
SMALL = {
    "swinir_light": {"depths": (2,), "num_heads": (6,)},
    "omnisr": {"res_num": 1, "num_feat": 32},
    "srformer_light": {"depths": (2,), "num_heads": (6,)},
    "atd_light": {"depths": (2,), "num_heads": (4,)},
    "rcan": {"num_group": 1, "num_block": 2, "num_feat": 16, "squeeze_factor": 4},
}
# Stochastic depth leaves out blocks in training: at the first step already.
RANDOM_IN_TRAINING = {"swinir_light", "srformer_light"}
# They add a mask in float32 to half-precision scores, which PyTorch then refuses to multiply.
FLOAT32_ONLY = {"swinir_light", "srformer_light", "atd_light"}


def small(name: str, scale: int = 2) -> nn.Module:
    return WholeWindows(fill_parameters(create(name, scale, **SMALL[name]))).eval()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keys_shapes_and_output_are_the_public_ones(case):
    network = ARCH_REGISTRY.get(case["arch"])(**case["kwargs"])
    keys = [[key, list(tensor.shape)] for key, tensor in network.state_dict().items()]
    assert keys == [key[:2] for key in case["keys"]]
    assert sum(p.numel() for p in network.parameters()) == case["n_params"]
    fill_parameters(network).eval()
    with np.load(REFERENCE / f"{case['name']}.npz") as file:
        x, expected = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
    with torch.no_grad():
        assert deviation(network(x), expected) < 1e-4
        assert deviation(network.double()(x.double()), expected) < 1e-6


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_presets_are_the_public_arguments(case):
    preset = next(p for p in PRESETS.values() if p.network.__name__ == case["arch"])
    public = {k: tuple(v) if isinstance(v, list) else v for k, v in case["kwargs"].items()}
    assert {**preset.arguments, preset.scale_argument: 2} == public


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 7), (16, 16), (17, 23)])
def test_any_size(name, size):
    for scale in PRESETS[name].scales if size == (1, 1) else (2,):
        with torch.no_grad():
            y = small(name, scale)(torch.rand(1, 3, *size))
        assert y.shape == (1, 3, size[0] * scale, size[1] * scale)
        assert y.isfinite().all()


def test_small_images_are_extended_by_reflection():
    """ATD's own extension stays for images that the public code takes."""
    network, x = small("atd_light").network, torch.rand(1, 3, 3, 24)
    extended = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 5), (0, 0)), mode="reflect")
    larger = torch.rand(1, 3, 8, 24)
    public = super(PRESETS["atd_light"].network, network).forward
    with torch.no_grad():
        expected = network(torch.from_numpy(extended))[:, :, :6]
        assert deviation(network(x), expected) < 1e-5
        assert torch.equal(network(larger), public(larger))


def test_swinir_is_extended_to_whole_windows_by_reflection():
    network, x = small("swinir_light"), torch.rand(1, 3, 5, 18)
    extended = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 3), (0, 6)), mode="reflect")
    with torch.no_grad():
        expected = network.network(torch.from_numpy(extended))[:, :, :10, :36]
        assert deviation(network(x), expected) < 1e-5
    with pytest.raises(RuntimeError):
        network.network(x)


@pytest.mark.parametrize("name", SMALL)
def test_trains(name):
    network, x = small(name), torch.rand(2, 3, 16, 24)
    before = x.clone()
    with torch.no_grad():
        evaluated = network(x)
        single = torch.cat([network(image[None]) for image in x])
    assert deviation(single, evaluated) < 1e-5
    torch.manual_seed(1)
    y = network.train()(x)
    if name not in RANDOM_IN_TRAINING:
        assert deviation(y, evaluated) < 1e-5
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_where_the_network_takes_it(name):
    network, x = small(name), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = network(x)
        # ATD sorts pixels by the entry of its dictionary that suits them best: a little
        # rounding, and another one does.
        assert deviation(y, expected) < (1 if name == "atd_light" else 0.2)
        network, x = network.bfloat16(), x.bfloat16()
        if name in FLOAT32_ONLY:
            with pytest.raises(RuntimeError, match="same dtype"):
                network(x)
        else:
            assert deviation(network(x), expected) < 0.2


def test_another_block_of_omnisr_is_refused():
    with pytest.raises(ValueError, match=r"block OSA\.Other is unknown; known is OSA\.OSA_Block"):
        create("omnisr", 2, block_class_name="Other")


WITHOUT_SPANDREL = """
    import json, sys
    sys.modules["spandrel"] = sys.modules["spandrel_extra_arches"] = None
    import esc_arch.options
    from basicsr.utils.registry import ARCH_REGISTRY
    told = {}
    for name in ("ATD", "OmniSR", "SRFormer"):
        try:
            ARCH_REGISTRY.get(name)(**({"upsampling": 2} if name == "OmniSR" else {"upscale": 2}))
        except esc_arch.UserError as error:
            told[name] = str(error)
    try:
        esc_arch.options.check_structure(esc_arch.options.read(sys.argv[1]), sys.argv[1], True)
    except esc_arch.UserError as error:
        told["option file"] = str(error)
    print(json.dumps(told))
"""


@pytest.mark.slow
def test_without_spandrel_the_names_stay_and_say_what_to_install():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(WITHOUT_SPANDREL),
            OPTIONS / "train_ATD_light_x4.yml",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("option file") == told["ATD"]
    assert set(told) == {"ATD", "OmniSR", "SRFormer"}
    for name, message in told.items():
        assert message.startswith(f"network {name}: expected the packages spandrel")
        assert "pip install 'spandrel<0.5' 'spandrel_extra_arches<0.3'" in message


def test_nets_lists_what_is_not_installed(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["nets"]) == 0
    assert "pip install 'spandrel<0.5' 'spandrel_extra_arches<0.3'" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["SwinIR", "RCAN"])
def test_basicsr_keeps_its_own(name):
    assert ARCH_REGISTRY.get(name).__module__.startswith("basicsr.archs.")
