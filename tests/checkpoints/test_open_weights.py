"""Weights from a file, an address or a name."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from esc_arch import PRESETS, UserError, checkpoints, create
from esc_arch.checkpoints import locations
from esc_arch.checkpoints.loading import open_weights
from tests.loopback_server import File, served

ROOT = Path(__file__).parents[2]
SMALL = {"n_blocks": 1, "conv_blocks": 1, "window_size": 8}


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """The bytes of a file of a small ESC x2."""
    path = tmp_path_factory.mktemp("made") / "a.safetensors"
    checkpoints.write_safetensors(create("esc", 2, **SMALL), path)
    return path.read_bytes()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "esc_arch" / "weights"


# One of each class that is small enough.
@pytest.mark.parametrize(
    "name",
    [
        "esc_light",
        "esc_fp",
        "esc_real_m",
        "hit_srf",
        "elan_light",
        "atd_light",
        "mambairv2_light",
        "omnisr",
        "srformer_light",
        "swinir_light",
    ],
)
def test_a_preset_opens_and_takes_any_size(tmp_path, name):
    scale = PRESETS[name].scales[0]
    network = create(name, scale).eval()
    path = tmp_path / "net.pth"
    torch.save({"params_ema": network.state_dict()}, path)
    opened = open_weights(path)
    assert (opened.name, opened.scale, opened.channels) == (f"{name} x{scale}", scale, 3)
    assert not opened.network.training
    assert not any(p.requires_grad for p in opened.network.parameters())
    assert opened.dtypes >= {torch.float32, torch.bfloat16}
    image = torch.rand(1, 3, 17, 5)
    assert opened.network(image).shape == (1, 3, 17 * scale, 5 * scale)
    whole = torch.rand(1, 3, 16, 16)
    torch.manual_seed(0)
    expected = network(whole)
    torch.manual_seed(0)
    torch.testing.assert_close(opened.network(whole), expected, rtol=0, atol=1e-5)


def test_grey_networks(tmp_path):
    network = PRESETS["hit_srf"].network(in_chans=1, depths=(1,), num_heads=(2,), embed_dim=16)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    opened = open_weights(str(tmp_path / "net.pth"))
    assert opened.channels == 1
    assert opened.network(torch.rand(1, 1, 9, 9)).shape == (1, 1, 36, 36)


def test_no_such_source(tmp_path):
    with pytest.raises(UserError, match=r"nothing: expected a checkpoint file, its address, or"):
        open_weights("nothing")
    with pytest.raises(UserError, match="expected a checkpoint; found a folder"):
        open_weights(tmp_path)


def test_an_address_is_fetched_once(cache, body):
    checksum = hashlib.sha256(body).hexdigest()
    with served() as server:
        file = File(body, breaks=[1000])
        address = server.put("a%20b/net.safetensors?download=true", file)
        opened = open_weights(f"{address}#sha256={checksum}")
        assert opened.scale == 2 and cache in opened.path.parents
        assert opened.path.name == "net.safetensors"
        assert [h.get("Range") for h in file.asked] == [None, "bytes=1000-"]
        again = open_weights(f"{address}#sha256={checksum.upper()}")
        assert again.path == opened.path and len(file.asked) == 2
        # Without a checksum, another file may be wanted.
        assert open_weights(address).path != opened.path
    assert open_weights(address).scale == 2  # the server is gone


def test_an_address_with_another_file(cache, body):
    with served() as server:
        address = server.put("net.safetensors", File(body))
        with pytest.raises(UserError, match=r"expected sha256 0{64}; found [0-9a-f]{64}"):
            open_weights(f"{address}#sha256={'0' * 64}")
        with pytest.raises(UserError, match="expected #sha256= and 64 hexadecimal digits"):
            open_weights(f"{address}#sha256=12")
        with pytest.raises(UserError, match="404"):
            open_weights(f"{address}.missing")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<!DOCTYPE html>\n<html><head><title>Log in</title>", "web page"),
        (b"\n\n  <HTML lang=en>", "web page"),
        (b'{"error": "Repository not found"}', "JSON"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "LFS pointer"),
        (b"Not found", "text"),
        (b"", "empty"),
    ],
)
def test_an_address_that_gives_something_else(cache, content, found):
    """Whatever the server says it is, nothing of it stays."""
    with served() as server:
        page = server.put("net.pth", File(content))
        for _ in range(2):
            with pytest.raises(UserError, match=f"net.pth: .*the address gave .*{found}"):
                open_weights(page)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_page_that_an_earlier_version_kept_is_asked_for_again(cache, body, monkeypatch):
    with served() as server:
        address = server.put("net.safetensors", File(body))
        path = locations.cached(address)
        path.write_bytes(b"<html>")
        assert locations.cached(address).read_bytes() == body


@pytest.mark.parametrize(
    ("page", "file"),
    [
        (
            "https://huggingface.co/a/b/blob/main/x.pth",
            "https://huggingface.co/a/b/resolve/main/x.pth",
        ),
        (
            "https://huggingface.co/a/b/raw/main/x.pth",
            "https://huggingface.co/a/b/resolve/main/x.pth",
        ),
        ("https://github.com/a/b/blob/main/x.pth", "https://github.com/a/b/raw/main/x.pth"),
        ("https://gitlab.com/a/b/-/blob/main/x.pth", "https://gitlab.com/a/b/-/raw/main/x.pth"),
    ],
)
def test_the_address_of_a_page_about_a_file(cache, monkeypatch, page, file):
    def fetch(url, path, sha256, refuse):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"<html>")
        raise UserError(f"{url}: {refuse(path)}")

    monkeypatch.setattr(locations, "fetch", fetch)
    with pytest.raises(UserError) as error:
        locations.cached(page)
    assert page in str(error.value) and file in str(error.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("net.pth", "net.pth"),
        ("x/..%2F..%2Fnet.pth", "net.pth"),
        ("x/%2e%2e", "weights"),
        ("x/..%5C..%5Cnet.pth", "net.pth"),
        (".hidden.pth", "hidden.pth"),
        ("", "weights"),
        ("%00%0Aé.pth", "_.pth"),
        ("a" * 300 + ".safetensors", "a" * 68 + ".safetensors"),
    ],
)
def test_names_in_the_cache(cache, monkeypatch, path, name):
    asked = []
    monkeypatch.setattr(locations, "fetch", lambda url, path, **_: asked.append((url, path)))
    locations.cached(f"https://host/{path}")
    locations.cached(f"https://other/{path}")
    locations.cached(f"https://host/{path}#sha256={'0' * 64}")
    assert [url for url, _ in asked][::2] == [f"https://host/{path}"] * 2
    places = {place for _, place in asked}
    assert len(places) == 3
    assert all(place.name == name and place.parent.parent == cache for place in places)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locations.cache_folder() == tmp_path / ".cache" / "esc_arch" / "weights"


@pytest.fixture
def models(tmp_path, monkeypatch, body):
    """A folder of shipped models with one in it."""
    (tmp_path / "small_x2.safetensors").write_bytes(body)
    known = {"small_x2": hashlib.sha256(body).hexdigest()}
    (tmp_path / locations.LIST).write_text(json.dumps({"default": "small_x2", "sha256": known}))
    monkeypatch.setattr(locations, "FOLDERS", (tmp_path / "none", tmp_path))
    return tmp_path


def test_shipped_models(models):
    assert locations.shipped_names() == ["small_x2"]
    for source in (None, "small_x2"):
        assert open_weights(source).path == models / "small_x2.safetensors"
    with pytest.raises(UserError, match=r"name of a shipped model \(small_x2\)"):
        open_weights("small_x3")
    (models / "small_x2.safetensors").write_bytes(b"another")
    with pytest.raises(UserError, match=r"expected the shipped model small_x2, sha256 .*; found"):
        open_weights("small_x2")
    (models / "small_x2.safetensors").unlink()
    with pytest.raises(UserError, match="expected the shipped model small_x2; found No such file"):
        open_weights(None)
    (models / locations.LIST).write_text("{")
    with pytest.raises(UserError, match="expected the list of shipped models"):
        open_weights(None)


@pytest.mark.parametrize("listed", [True, False])
def test_none_shipped(tmp_path, monkeypatch, listed):
    if listed:
        (tmp_path / locations.LIST).write_text('{"default": null, "sha256": {}}')
    monkeypatch.setattr(locations, "FOLDERS", (tmp_path,))
    with pytest.raises(UserError, match="found none in this installation"):
        open_weights(None)
    with pytest.raises(UserError, match=r"name of a shipped model \(there is none\)"):
        open_weights("any")


def test_what_the_repository_ships():
    place = ROOT / "experiments" / "pretrained_models"
    assert locations.shipped_folder() == place
    names = locations.shipped_names()
    if names:
        assert open_weights(None).path.parent == place
    for name in names:
        opened = open_weights(name)
        assert opened.path.stat().st_size < 3_000_000
        assert opened.metadata["licence"] and opened.metadata["training"]
        assert all((place / f"{name}.{ending}").is_file() for ending in ("safetensors", "md"))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout: git ignores nothing")
def test_git_does_not_ignore_what_is_shipped():
    for name in locations.shipped_names():
        for ending in ("safetensors", "md"):
            file = ROOT / "experiments" / "pretrained_models" / f"{name}.{ending}"
            asked = subprocess.run(
                ["git", "check-ignore", "--no-index", "--quiet", str(file)], cwd=ROOT
            )
            # 0: git ignores the file; 128: git failed.
            assert asked.returncode == 1, f"{file.name}: git check-ignore gave {asked.returncode}"


def test_the_wheel_has_the_shipped_models_alone(tmp_path, body):
    """Of a copy of the repository with one shipped model and a file of the user's."""
    copy = tmp_path / "copy"
    # Without the kernels, which take a minute to compile and have no part in this.
    wanted = ("setup.py", "pyproject.toml", "README.md", "MANIFEST.in", "esc_arch")
    for name in wanted:
        source, target = ROOT / name, copy / name
        for path in [source, *source.rglob("*.py")] if source.is_dir() else [source]:
            if path.is_file():
                file = target / path.relative_to(source) if source.is_dir() else target
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(path.read_bytes())
    (copy / "esc_arch" / "py.typed").touch()
    setup = (copy / "setup.py").read_text()
    (copy / "setup.py").write_text(setup.replace("ext_modules=[", "ext_modules=[] and ["))
    place = copy / "experiments" / "pretrained_models"
    place.mkdir(parents=True)
    (place / "small_x2.safetensors").write_bytes(body)
    (place / "small_x2.md").write_text("A card.")
    (place / "mine.pth").write_bytes(b"mine")
    known = {"small_x2": hashlib.sha256(body).hexdigest()}
    (place / locations.LIST).write_text(json.dumps({"default": "small_x2", "sha256": known}))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "-w", str(tmp_path / "wheels"), str(copy)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        assert "esc_arch/py.typed" in names
        assert {n for n in names if "shipped_files" in n or "pretrained_models" in n} == {
            f"esc_arch/checkpoints/shipped_files/{name}"
            for name in (locations.LIST, "small_x2.safetensors", "small_x2.md")
        }
        assert opened.read("esc_arch/checkpoints/shipped_files/small_x2.safetensors") == body
        opened.extractall(tmp_path / "installed")
    code = "from esc_arch.checkpoints.locations import shipped; print(shipped())"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    installed = tmp_path / "installed" / "esc_arch" / "checkpoints" / "shipped_files"
    assert ran.stdout == f"{installed / 'small_x2.safetensors'}\n"
