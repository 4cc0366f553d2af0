"""``basicsr analyze`` from the command line."""

import json

import cv2
import numpy as np
import pytest
import torch

from esc_arch.archs import ESC
from esc_arch.cli.main import main
from tests.tiny import SIZES


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A checkpoint and two images, the second of them grey."""
    monkeypatch.chdir(tmp_path)
    torch.save({"params": ESC(**SIZES, upscaling_factor=2).state_dict()}, "esc.pth")
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    cv2.imwrite("photos/a.png", generator.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    cv2.imwrite("photos/b.png", generator.integers(0, 256, (9, 10), dtype=np.uint8))
    return tmp_path


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_similarity(workplace, capsys):
    arguments = ["analyze", "similarity", "photos", "-w", "esc.pth", "esc_light:2"]
    layers = ["--layers", "blocks.0.attn", "blocks.0.pconvs.*"]
    assert main([*arguments, *layers, "--samples", "50", "--crop", "16"]) == 0
    folder = workplace / "experiments/analysis/similarity"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ESC x2: neighbours of 2 layers: CKA ")
    assert lines[1].startswith("esc_light x2: neighbours of 6 layers: CKA ")
    assert [line.endswith(name) for line, name in zip(lines[2:], ("png", "json"), strict=True)]
    found = read(folder / "similarity.json")
    assert found["images"] == ["photos/a.png", "photos/b.png"]
    assert found["sampling"]["samples"] == 50 and found["crop"] == 16
    first, second = found["networks"]
    assert first["layers"] == ["blocks.0.attn", "blocks.0.pconvs.0"]
    assert first["weights"] == "esc.pth" and second["weights"] == "initial weights"
    assert first["samples"] == 100
    assert np.shape(second["cka"]) == (6, 6)
    assert first["maps"][0][0] == pytest.approx(1) and first["maps"][0][1] is None
    assert first["map_shapes"] == {"blocks.0.attn": [[64, 64]]}
    assert cv2.imread(str(folder / "similarity.png")).shape[1] == 1340

    # The same command again would replace what is there.
    assert main([*arguments, *layers]) == 2
    assert (
        "Use --overwrite to replace it, or another folder (--name, -o)." in capsys.readouterr().err
    )
    assert read(folder / "similarity.json") == found
    again = ["analyze", "similarity", "photos", "-w", "esc.pth", "--overwrite", "--limit", "1"]
    assert main(again) == 0
    assert read(folder / "similarity.json")["images"] == ["photos/a.png"]


def test_features(workplace, capsys):
    assert main(["analyze", "features", "photos", "-w", "esc.pth", "-o", "seen"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ESC x2, photos/a.png: 1 layers; norm of a pixel's features from ")
    found = read(workplace / "seen/features.json")
    assert found["pictures"] == ["features_ESC_x2_a.png", "features_ESC_x2_b.png"]
    for name in found["pictures"]:
        assert cv2.imread(f"seen/{name}").shape[1] == 1340
    first = found["features"][0]
    assert first["image"] == "photos/a.png"
    of_layer = first["layers"]["blocks.0"]
    assert (of_layer["channels"], of_layer["height"], of_layer["width"]) == (8, 20, 24)
    assert len(of_layer["explained"]) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.png", "-w", "esc.pth"], "none.png: expected an image file"),
        (["photos", "-w", "none.pth"], "none.pth: expected a checkpoint file"),
        (["photos", "-w", "esc_light"], "--weights esc_light: expected PRESET:SCALE"),
        (["photos", "-w", "esc_light:9"], "found 9. Write esc_light:4."),
        (["photos", "-w", "rcan:2"], "expected the layers of rcan x2 to be named"),
        (["photos", "-w", "esc.pth", "--name", "a/b"], "--name: expected a plain name of a folder"),
        (["photos", "-w", "esc.pth", "--layers", "blocks.0.atn"], "Near are: blocks.0.attn"),
        (["photos", "-w", "esc.pth", "--samples", "2"], "--samples: expected at least 4"),
        (["photos", "-w", "esc.pth", "-o", "esc.pth"], "esc.pth: expected a folder to write"),
        (["photos", "-w", "esc.pth", "--device", "cuda"], "--device cuda: expected a GPU"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(workplace, capsys, arguments, said):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = sorted(workplace.rglob("*"))
    assert main(["analyze", "similarity", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert sorted(workplace.rglob("*")) == before


@pytest.mark.parametrize("output", [[], ["-o", "new/folder"]])
def test_an_analysis_that_is_refused_while_it_computes_leaves_no_folder(workplace, capsys, output):
    cv2.imwrite("dot.png", np.zeros((1, 1, 3), np.uint8))
    before = sorted(workplace.rglob("*"))
    layers = ["--layers", "blocks.0.attn", "blocks.0.pconvs.0"]
    assert main(["analyze", "similarity", "dot.png", "-w", "esc.pth", *layers, *output]) == 2
    assert "expected a map with at least 4 patches" in capsys.readouterr().err
    assert sorted(workplace.rglob("*")) == before


def test_without_matplotlib(workplace, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert main(["analyze", "features", "photos", "-w", "esc.pth"]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_two_weights_of_one_network_have_different_labels(workplace, capsys):
    torch.save({"params": ESC(**SIZES, upscaling_factor=2).state_dict()}, "other.pth")
    assert main(["analyze", "features", "photos/b.png", "-w", "esc.pth", "other.pth"]) == 0
    found = read(workplace / "experiments/analysis/features/features.json")
    assert [one["label"] for one in found["features"]] == ["ESC x2 (esc)", "ESC x2 (other)"]
    assert len(set(found["pictures"])) == 2
