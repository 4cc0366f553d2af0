"""Checkpoints in every form are read, known by their keys, and refused by name."""

import importlib
import math
import pickle
import subprocess
import sys

import pytest
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.swinir_arch import SwinIR
from safetensors.torch import save_file

import esc_arch
from esc_arch import UserError, checkpoints, create
from esc_arch.checkpoints import open_weights
from tests.reference_cases import fill_parameters
from tests.tiny import SIZES


@pytest.mark.parametrize("form", ["params", "params_ema", "bare", "module", "safetensors"])
def test_every_form_of_checkpoint_loads(tmp_path, form):
    network = fill_parameters(create("esc_fp", 4, n_blocks=1))
    state = network.state_dict()
    path = tmp_path / ("net.safetensors" if form == "safetensors" else "net.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "bare":
        torch.save(state, path)
    elif form == "module":
        torch.save({"params": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        torch.save({form: state}, path)
    loaded = create("esc_fp", scale=4, weights=path, n_blocks=1)
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[key])


def test_averaged_parameters_come_first(tmp_path):
    averaged, last = fill_parameters(create("esc_light", 2)), create("esc_light", 2)
    path = tmp_path / "net.pth"
    torch.save({"params": last.state_dict(), "params_ema": averaged.state_dict()}, path)
    loaded = create("esc_light", 2, weights=path)
    assert torch.equal(loaded.last.weight, averaged.last.weight)


@pytest.mark.parametrize(
    ("saved", "expected", "found"),
    [
        (("esc_light", 2), "esc x2", "esc_light x2"),
        (("esc", 4), "esc x2", "esc x4"),
        (("esc_fp", 2), "esc x2", "esc_fp x2"),
        (("esc_real", 4), "esc x2", "esc_real x4"),
        (("swinir_light", 2), "esc x2", "swinir_light x2"),
        (("omnisr", 3), "esc x2", "omnisr x3"),
    ],
)
def test_another_network_is_refused_by_name(tmp_path, saved, expected, found):
    path = tmp_path / "net.pth"
    torch.save(create(*saved).state_dict(), path)
    with pytest.raises(UserError) as error:
        create("esc", 2, weights=path)
    message = str(error.value)
    assert str(path) in message
    assert f"expected the parameters of {expected}; found those of {found}:" in message


def test_a_network_of_another_family_is_refused(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"params": {"conv_first.weight": torch.zeros(64, 3, 3, 3)}}, path)
    with pytest.raises(UserError, match="neither of the ESC family nor a preset"):
        create("esc", 2, weights=path)


def test_a_network_for_one_size_of_image_is_refused(tmp_path):
    arguments = {"upscale": 2, "upsampler": "pixelshuffledirect", "img_size": 16, "window_size": 8}
    network = SwinIR(**arguments, embed_dim=12, depths=[1], num_heads=[2], ape=True)
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    with pytest.raises(UserError) as error:
        open_weights(tmp_path / "net.pth")
    assert "net.pth" in str(error.value) and "16" in str(error.value)


class Evil:
    def __reduce__(self):
        return (print, ("code of the file ran",))


@pytest.mark.parametrize("content", ["evil", "cut", "empty", "text", "list", "missing"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_broken_files_are_refused(tmp_path, capsys, content, ending):
    path = tmp_path / f"net.{ending}"
    torch.save({"params": create("esc_light", 2).state_dict()}, path)
    whole = path.read_bytes()
    if content == "evil":
        torch.save({"params": Evil()}, path)
    elif content == "list":
        torch.save([1, 2], path)
    elif content == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[:5000], "empty": b"", "text": b"hello"}[content])
    with pytest.raises(UserError, match="expected"):
        create("esc_light", 2, weights=path)
    assert "ran" not in capsys.readouterr().out


def test_one_missing_key_is_named(tmp_path):
    state = create("esc_light", 2).state_dict()
    del state["last.bias"]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r": 1 missing \(last\.bias\)\."):
        create("esc_light", 2, weights=tmp_path / "net.pth")


NEAREST = {
    "one missing": (lambda s: s.pop("last.bias"), r"1 missing \(last\.bias\)"),
    "the large kernel": (lambda s: s.pop("plk_filter"), r"1 missing \(plk_filter\)"),
    "one extra": (lambda s: s.update(x=torch.ones(3)), r"1 not of this network \(x\)"),
    "of a block that is not there": (
        lambda s: s.update({"blocks.9.x": torch.ones(3)}),
        r"1 not of this network \(blocks\.9\.x\)",
    ),
    "another size": (
        lambda s: s.update({"last.bias": torch.ones(5)}),
        r"1 of other size \(last\.bias \(5,\) instead of \(8,\)\)",
    ),
    "several": (
        lambda s: (s.pop("proj.bias"), s.pop("last.weight"), s.update(x=torch.ones(3))),
        r"2 missing \(proj\.bias, last\.weight\); 1 not of this network \(x\)",
    ),
}


@pytest.mark.parametrize("kind", NEAREST)
def test_the_nearest_network_is_named_with_what_differs(tmp_path, kind):
    change, says = NEAREST[kind]
    state = esc_arch.ESC(**SIZES | {"n_blocks": 2}, upscaling_factor=4).state_dict()
    change(state)
    torch.save({"model": state}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=rf"net\.pth: expected .* of ESC x4 .*; found {says}"):
        checkpoints.open_weights(tmp_path / "net.pth")


def test_the_nearest_preset_is_named(tmp_path):
    state = create("swinir_light", 3).state_dict()
    del state["conv_first.weight"]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"swinir_light x3.*1 missing \(conv_first\.weight\)"):
        checkpoints.open_weights(tmp_path / "net.pth")


def test_another_family_is_named_by_spandrel(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"params_ema": RRDBNet(3, 3, scale=4, num_feat=8, num_block=2).state_dict()}, path)
    with pytest.raises(UserError, match=r"of esc x2; found those of ESRGAN x4: \d+ missing"):
        create("esc", 2, weights=path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<html>no such page</html>", r"a web page \(HTML\)"),
        (b"Sorry, not here.\n", "a text: something else, which does not load"),
        *((pickle.dumps(math.sqrt, n), "Python objects, which could run code") for n in (0, 2, 4)),
    ],
)
def test_a_text_file_is_no_code(tmp_path, content, found):
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"net\.pth: expected a checkpoint; found {found}"):
        checkpoints.read_state_dict(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_objects_in_a_checkpoint_are_code(tmp_path):
    for protocol in (2, 4):
        torch.save({"params": math.sqrt}, tmp_path / "net.pth", pickle_protocol=protocol)
        with pytest.raises(UserError, match="could run code"):
            checkpoints.read_state_dict(tmp_path / "net.pth")


def test_public_names():
    assert esc_arch.create is checkpoints.create
    for name in checkpoints.__all__:
        assert getattr(checkpoints, name).__name__ == name
    with pytest.raises(AttributeError):
        checkpoints.nothing  # noqa: B018


def test_the_former_name_of_the_package():
    with pytest.warns(DeprecationWarning, match=r"esc_arch\.checkpoints\.load "):
        assert esc_arch.weights.load is checkpoints.load
    with pytest.warns(DeprecationWarning, match=r"esc_arch\.checkpoints\.create "):
        from esc_arch.weights import create as former
    assert former is create
    former_module = importlib.import_module("esc_arch.weights")
    assert former_module is esc_arch.weights and former_module.__all__ == checkpoints.__all__
    with pytest.raises(AttributeError):
        former_module.nothing  # noqa: B018


@pytest.mark.parametrize("way", ["import esc_arch.weights", "import esc_arch; esc_arch.weights"])
def test_the_former_name_in_a_new_process(way):
    """Each form alone; where a name is used, the line that does is named."""
    code = f"{way}\nesc_arch.weights.CheckpointError"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.startswith("<string>:2: DeprecationWarning: Use esc_arch.checkpoints.Check")
