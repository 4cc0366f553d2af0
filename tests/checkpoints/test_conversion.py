"""Conversion both ways keeps every bit and the metadata; wrong labels are found."""

import json
import os

import pytest
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import esc_arch
from esc_arch import UserError, checkpoints, create
from esc_arch.checkpoints import conversion
from esc_arch.checkpoints.loading import inspect
from esc_arch.checkpoints.state_dicts import read_file
from esc_arch.cli.main import main
from esc_arch.files import sha256_of
from tests.reference_cases import fill_parameters

SMALL = {"n_blocks": 1, "conv_blocks": 1, "window_size": 8}


@pytest.fixture
def file(tmp_path):
    """Both sets of parameters of a small ESC x2, as BasicSR saves them."""
    last, averaged = create("esc", 2, **SMALL), fill_parameters(create("esc", 2, **SMALL))
    path = tmp_path / "net_g_5000.pth"
    torch.save({"params": last.state_dict(), "params_ema": averaged.state_dict()}, path)
    return path


def header(path):
    with safe_open(path, framework="pt") as opened:
        return opened.metadata()


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("place", [None, "params", "params_ema"])
def test_there_and_back(file, place):
    target, back = file.with_name("a.safetensors"), file.with_name("back.pth")
    choice = ["--parameters", place] if place else []
    texts = ["--licence", "Apache-2.0", "--training", "DIV2K, 5,000 iterations"]
    assert main(["weights", "convert", str(file), str(target), *choice, *texts]) == 0
    taken = place or "params_ema"
    expected = read_file(file)[taken]
    assert same(load_file(target), expected)
    found = header(target)
    assert found["network"] == "ESC" and found["scale"] == "2"
    assert found["esc_arch_version"] == esc_arch.__version__ and found["esc_arch_format"] == "1"
    assert found["licence"] == "Apache-2.0" and found["training"] == "DIV2K, 5,000 iterations"
    arguments = json.loads(found["arguments"])
    assert arguments["n_blocks"] == 1 and arguments["window_size"] == 8
    assert esc_arch.ESC(**arguments).state_dict().keys() == expected.keys()
    assert main(["weights", "convert", str(target), str(back)]) == 0
    content = read_file(back)
    assert content.keys() == {taken, "metadata"}
    assert same(content[taken], expected)
    assert inspect(back).metadata == found
    network = create("esc", 2, back, **SMALL)
    assert same(network.state_dict(), expected)


def test_the_last_parameters_of_a_ckpt_file(file):
    source = file.rename(file.with_suffix(".ckpt"))
    for place in ("params", "params_ema"):
        target = file.with_name(f"{place}.safetensors")
        assert checkpoints.convert(source, target, parameters=place).place == place
        assert same(load_file(target), read_file(source)[place])


def test_half_precision(file):
    target = file.with_name("a.safetensors")
    assert main(["weights", "convert", str(file), str(target), "--half"]) == 0
    tensors = load_file(target)
    expected = read_file(file)["params_ema"]
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert target.stat().st_size < 0.6 * sum(t.nbytes for t in expected.values())
    assert same(tensors, {k: t.half() for k, t in expected.items()})
    opened = checkpoints.open_weights(target)
    assert next(opened.network.parameters()).dtype == torch.float32
    state = create("esc", 2, **SMALL).state_dict()
    state["last.weight"][0, 0] = 1e5
    torch.save(state, file)
    with pytest.raises(UserError, match=r"net_g_5000\.pth: .*larger ones in last\.weight"):
        checkpoints.convert(file, target, half=True, overwrite=True)


def test_integers_stay(tmp_path):
    network = create("esc_real_m", 2, n_blocks=1)
    checkpoints.write_safetensors(network, tmp_path / "a.safetensors")
    checkpoints.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", half=True)
    assert load_file(tmp_path / "b.safetensors")["to_img.MetaUpsample"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("key", "value", "label"),
    [
        ("network", "ESCFP", "network ESCFP"),
        ("network", "os.system", "network os.system"),
        ("scale", "4", "ESC x4"),
        ("arguments", "{", r"ESC with the arguments \{"),
        ("arguments", "[1]", r"ESC with the arguments \[1\]"),
        ("arguments", {"dim": 32}, "ESC with dim 32"),
        ("arguments", {"exp_ratio": 3.5}, "ESC with the arguments"),
        ("arguments", {"unknown": 1}, "ESC with the arguments"),
        ("arguments", {"upscaling_factor": 3}, "ESC with upscaling_factor 3"),
    ],
)
def test_a_file_that_lies_is_refused(tmp_path, key, value, label):
    path = tmp_path / "a.safetensors"
    metadata = checkpoints.write_safetensors(create("esc", 2, **SMALL), path)
    if isinstance(value, dict):
        value = json.dumps({**json.loads(metadata["arguments"]), **value})
    save_file(load_file(path), path, {**metadata, key: value})
    with pytest.raises(
        UserError, match=rf"a\.safetensors: .*{label}.*; found parameters of ESC x2"
    ):
        checkpoints.open_weights(path)
    with pytest.raises(UserError, match="labelled wrongly"):
        checkpoints.convert(path, tmp_path / "b.pth")


def test_metadata_tells_what_keys_do_not(tmp_path):
    network = create("elan_light", 2, window_sizes=(2, 4, 8)).eval()
    found = checkpoints.detect(network.state_dict())
    arguments = dict(found.arguments) | {"window_sizes": (2, 4, 8)}
    metadata = checkpoints.write_safetensors(network, tmp_path / "a.safetensors")
    metadata["arguments"] = json.dumps(arguments)
    checkpoints.write_safetensors(network, tmp_path / "a.safetensors", metadata=metadata)
    image = torch.rand(1, 3, 20, 17)
    with torch.no_grad():
        result = checkpoints.open_weights(tmp_path / "a.safetensors").network(image)
        assert torch.equal(result, network(image))


def test_metadata_of_others_and_of_later_versions(tmp_path):
    path = tmp_path / "a.safetensors"
    state = create("esc", 2, **SMALL).state_dict()
    save_file(state, path, {"network": "SDXL", "format": "pt"})
    assert checkpoints.open_weights(path).metadata == {}
    save_file(state, path, {"esc_arch_format": "2", "esc_arch_version": "9.0"})
    with pytest.raises(UserError, match=r"found format 2, written by esc_arch 9\.0"):
        checkpoints.open_weights(path)


def test_a_network_of_spandrels(tmp_path):
    source, target = tmp_path / "esrgan.pth", tmp_path / "esrgan.safetensors"
    network = RRDBNet(3, 3, scale=4, num_feat=8, num_block=1)
    torch.save({"params_ema": network.state_dict()}, source)
    assert checkpoints.convert(source, target).name == "ESRGAN x4"
    assert header(target)["network"] == "ESRGAN" and "arguments" not in header(target)
    assert checkpoints.open_weights(target).name == "ESRGAN x4"
    save_file(load_file(target), target, {**header(target), "scale": "2"})
    with pytest.raises(UserError, match="ESRGAN x2; found parameters of ESRGAN x4"):
        checkpoints.open_weights(target)


def test_parameters_of_spandrels_under_a_key(tmp_path):
    network = RRDBNet(3, 3, scale=4, num_feat=8, num_block=1)
    torch.save({"model": network.state_dict()}, tmp_path / "a.pth")
    found = checkpoints.convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert (found.name, found.place, found.detected) == ("ESRGAN x4", "model", None)
    opened = checkpoints.open_weights(tmp_path / "b.safetensors")
    image = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = network.eval()(image).clamp(0, 1)
        torch.testing.assert_close(opened.network(image), expected, rtol=0, atol=1e-5)


def test_mistakes(file, capsys):
    target = file.with_name("a.safetensors")
    cases = [
        ([file, file], "expected no file; found one"),
        ([file, file.with_name("a.bin")], "expected a name that ends with .pth or .safetensors"),
        ([file.with_name("b.pth"), target], "found no such file"),
        ([file, target, "--parameters", "state_dict"], "expected parameters under 'state_dict'"),
    ]
    for arguments, message in cases:
        assert main(["weights", "convert", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err
        assert not target.exists()
    checkpoints.convert(file, target, parameters="params")
    with pytest.raises(UserError, match="found those of 'params' alone"):
        checkpoints.convert(target, file.with_name("c.pth"), parameters="params_ema")


def test_a_failed_write_leaves_the_old_file(file, monkeypatch):
    target = file.with_name("a.safetensors")
    checkpoints.convert(file, target)
    before = target.read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "save_file", full)
    with pytest.raises(UserError, match=r"a\.safetensors: expected to write it; found No space"):
        checkpoints.convert(file, target, parameters="params", overwrite=True)
    assert target.read_bytes() == before
    assert sorted(os.listdir(file.parent)) == ["a.safetensors", "net_g_5000.pth"]


def test_shared_and_transposed_tensors_are_written(tmp_path):
    state = create("esc", 2, **SMALL).state_dict()
    state["last.weight"] = state["last.weight"].transpose(2, 3)
    state["last.bias"] = state["proj.bias"]
    checkpoints.write_safetensors(state, tmp_path / "a.safetensors")
    assert same(load_file(tmp_path / "a.safetensors"), state)


def test_show(file, capsys):
    assert main(["weights", "show", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = sum(p.numel() for p in create("esc", 2, **SMALL).parameters())
    assert "network: ESC x2 (dim 64, n_blocks 1, conv_blocks 1, window_size 8)" in lines
    assert "scale: x2" in lines and "class: ESC" in lines
    assert "preset: none: other arguments" in lines
    assert "  kernel_size: 13" in lines
    assert "stored under: params_ema" in lines
    assert f"numbers: {expected:,}" in lines
    assert "dtype: float32" in lines and "metadata: none" in lines
    assert f"sha256: {sha256_of(file)}" in lines
    checkpoints.write_safetensors(
        create("esc_light", 3), file.with_name("a.safetensors"), licence="MIT"
    )
    assert main(["weights", "show", str(file.with_name("a.safetensors"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "network: esc_light x3" in lines and "preset: esc_light" in lines
    assert "  licence: MIT" in lines
