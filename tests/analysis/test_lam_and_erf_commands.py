"""``basicsr analyze lam`` and ``erf`` as a user calls them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("matplotlib")

from esc_arch.analysis.erf import areas, central_gradient, fields_of
from esc_arch.analysis.lam import Window, diffusion_index, local_attribution, placed
from esc_arch.analysis.layers import recomputed
from esc_arch.analysis.subjects import Subject, open_subject
from esc_arch.archs import ESC
from esc_arch.archs.whole_windows import WholeWindows
from esc_arch.cli.main import main
from esc_arch.errors import UserError
from tests.analysis.small_networks import swinir
from tests.reference_cases import fill_parameters
from tests.tiny import SIZES


def network(scale):
    return fill_parameters(ESC(**SIZES, upscaling_factor=scale))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    rng = np.random.default_rng(0)
    for name, sides in (("a", (41, 47)), ("b", (36, 36))):
        # Noise of a window and its neighbours on a soft picture.
        pixels = cv2.resize(rng.integers(60, 180, (4, 4, 3), np.uint8), sides[::-1])
        pixels[11:23, 9:21] = rng.integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(pixels).save(f"in/{name}.png")
    for scale in (2, 3):
        torch.save({"params": network(scale).state_dict()}, f"x{scale}.pth")
    return tmp_path


LAM = ["analyze", "lam", "--window-size", "8", "--crop", "28"]


def test_maps_of_networks_of_two_scales_side_by_side(here, capsys):
    assert main([*LAM, "in", "-w", "x2.pth", "x3.pth", "--window", "12", "13"]) == 0
    folder = here / "experiments/analysis/lam"
    names = ["lam.json", "lam.npz", "lam_a.png", "lam_b.png"]
    assert sorted(os.listdir(folder)) == names
    found = json.loads((folder / "lam.json").read_text())
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 + 2 + 4
    maps = np.load(folder / "lam.npz")
    for name, of_image in zip("ab", found["images"], strict=True):
        # Of 41 x 47 there are 36 x 42 in whole LR pixels of both scales; of these 24 x 24.
        assert of_image["window"] == {"x": 12, "y": 13, "size": 8}
        assert of_image["crop"] == {"x": 4, "y": 5, "width": 24, "height": 24}
        hr = Image.open(f"in/{name}.png").crop((4, 5, 28, 29))
        for scale, one in zip((2, 3), of_image["networks"], strict=True):
            lr = hr.resize((24 // scale,) * 2, Image.Resampling.BICUBIC)
            planes = np.asarray(lr, np.float32) / 255
            expected = local_attribution(network(scale).eval(), planes, Window(8, 8, 8))
            own = maps[one["map"]]
            np.testing.assert_allclose(own, expected, atol=1e-4)
            assert one["diffusion_index"] == pytest.approx(diffusion_index(own), rel=1e-4)
            assert one["map_sum"] == pytest.approx(own.sum(), rel=1e-4)
            strongest = one["strongest"]
            assert own[strongest["row"], strongest["column"]] == 1
            line = f"{name}: ESC x{scale}: diffusion index {one['diffusion_index']:.2f}, strongest"
            assert any(text.startswith(line) for text in printed)
    for i, scale in enumerate((2, 3)):
        mean = np.mean([one["networks"][i]["diffusion_index"] for one in found["images"]])
        assert f"ESC x{scale}: mean diffusion index {mean:.2f} of 2 images" in printed
    assert Image.open(folder / "lam_a.png").width > 1000


def test_the_window_of_most_texture_is_taken_where_none_is_given(here):
    assert main([*LAM, "in/a.png", "-w", "x2.pth", "-o", "out"]) == 0
    found = json.loads(Path("out/lam.json").read_text())
    assert found["window"] == "picked by its texture"
    window = found["images"][0]["window"]
    assert 9 <= window["x"] <= 21 - 8
    assert 11 <= window["y"] <= 23 - 8


def test_an_earlier_analysis_is_not_replaced(here, capsys):
    Path("out").mkdir()
    for name in ("lam_a.png", "erf.png"):
        Path("out", name).write_bytes(b"mine")
    for command in ([*LAM, "in/a.png"], ["analyze", "erf", "in"]):
        assert main([*command, "-w", "x2.pth", "-o", "out"]) == 2
        assert "Use --overwrite to replace it" in capsys.readouterr().err
    assert sorted(os.listdir("out")) == ["erf.png", "lam_a.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--window", "39", "3"],
            "--window 39 3: expected X up to 37 and Y up to 31, for",
        ),
        (["--window", "3", "32"], "of 8 in in/a.png of 46 x 40 pixels; found more"),
        (["--crop", "8"], "in/a.png: expected sides of at least 10 pixels"),
        (["--window-size", "40"], "in/a.png: expected sides of at least 42 pixels"),
    ],
)
def test_windows_that_do_not_fit_are_refused(here, capsys, arguments, message):
    assert main([*LAM, "in/a.png", "-w", "x2.pth", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("experiments").exists()


@pytest.mark.parametrize("arguments", [["--window", "-1", "3"], ["--window", "3"], ["--crop", "x"]])
def test_what_is_no_number_of_pixels_is_refused(here, arguments):
    with pytest.raises(SystemExit) as ended:
        main([*LAM, "in/a.png", "-w", "x2.pth", *arguments])
    assert ended.value.code == 2


@pytest.mark.parametrize("corner", [(0, 0), (3, 20), (28, 9), (28, 30), (12, 12)])
@pytest.mark.parametrize("crop", [13, 17, 24, 100])
@pytest.mark.parametrize("size", [5, 8, 12])
def test_a_window_lies_in_its_part_with_a_neighbour(corner, crop, size):
    pixels = np.arange(44 * 42 * 3, dtype=np.int64).reshape(44, 42, 3)
    if corner[0] + size >= 42 or corner[1] + size >= 44:
        with pytest.raises(UserError, match="--window"):
            placed("a", pixels, corner, size, crop, 2)
        return
    if crop // 2 * 2 <= size:
        with pytest.raises(UserError, match="larger --crop"):
            placed("a", pixels, corner, size, crop, 2)
        return
    part = placed("a", pixels, corner, size, crop, 2)
    x, y, _ = part.window
    rows, columns = part.pixels.shape[:2]
    assert x + size < columns <= crop
    assert y + size < rows <= crop
    assert rows % 2 == columns % 2 == 0
    np.testing.assert_array_equal(part.pixels[y, x], pixels[corner[1], corner[0]])


def test_a_network_that_only_spandrel_knows_gives_gradients(here):
    pytest.importorskip("spandrel")
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    compact = Compact(num_feat=8, num_conv=2, upscale=2)
    torch.save(compact.state_dict(), "compact.pth")
    assert main([*LAM, "in/a.png", "-w", "compact.pth", "--window", "12", "13"]) == 0
    (own,) = json.loads(Path("experiments/analysis/lam/lam.json").read_text())["images"]
    found = np.load("experiments/analysis/lam/lam.npz")[own["networks"][0]["map"]]
    crop = own["crop"]
    box = (crop["x"], crop["y"], crop["x"] + crop["width"], crop["y"] + crop["height"])
    lr = Image.open("in/a.png").crop(box).resize((14, 14), Image.Resampling.BICUBIC)
    corner = Window(12 - crop["x"], 13 - crop["y"], 8)
    planes = np.asarray(lr, np.float32) / 255
    expected = local_attribution(lambda x: compact(x).clamp(0, 1), planes, corner)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_network_that_gives_no_numbers_is_refused(here, capsys):
    state = network(2).state_dict()
    state["to_img.weight"].fill_(1e38)
    state["last.weight"].fill_(1e38)
    torch.save({"params": state}, "broken.pth")
    assert main([*LAM, "in/a.png", "-w", "broken.pth"]) == 2
    assert "ESC x2: expected a result of finite values" in capsys.readouterr().err


def test_fields_of_the_result(here, capsys):
    assert main(["analyze", "erf", "in", "-w", "x2.pth", "x3.pth", "--size", "21"]) == 0
    folder = here / "experiments/analysis/erf"
    assert sorted(os.listdir(folder)) == ["erf.json", "erf.npz", "erf.png"]
    found = json.loads((folder / "erf.json").read_text())
    fields = np.load(folder / "erf.npz")
    printed = capsys.readouterr().out
    for scale, one in zip((2, 3), found["fields"], strict=True):
        expected = np.zeros((21, 21))
        for name in "ab":
            pixels = np.asarray(Image.open(f"in/{name}.png"))
            rows, columns = (np.arange(21) * side // 21 for side in pixels.shape[:2])
            image = torch.from_numpy(pixels[rows[:, None], columns] / np.float32(255))
            x = image.permute(2, 0, 1)[None].requires_grad_()
            expected += central_gradient(network(scale).eval()(x), x, "sr") / 2
        own = fields[f"ESC x{scale}"]
        np.testing.assert_allclose(own, expected, atol=1e-5 * expected.max())
        sides = [area.side for area in areas(expected)]
        assert [area["side"] for area in one["areas"]] == sides
        assert (one["layer"], one["images"], one["left_out"]) == (None, 2, 0)
        assert f"ESC x{scale}: 20% in {sides[0]}x{sides[0]} (" in printed


def test_fields_of_layers_grow_with_depth(here):
    arguments = ["--layers", "proj", "blocks.*", "--size", "31", "--convention", "replknet"]
    assert main(["analyze", "erf", "in", "-w", "x2.pth", *arguments, "-o", "out"]) == 0
    fields = np.load("out/erf.npz")
    assert list(fields) == ["ESC x2 proj", "ESC x2 blocks.0"]
    first = fields["ESC x2 proj"]  # one convolution of 3 x 3
    assert (first[14:17, 14:17] > 0).any()
    first[14:17, 14:17] = 0
    assert not first.any()
    second = fields["ESC x2 blocks.0"]
    assert (second > 0).sum() > 9 * 9


def test_the_centre_of_a_layer_is_the_images_where_windows_are_padded(here):
    """24 x 24 pixels in windows of 4, of an image of 21 x 21."""
    subject = swinir()
    subject = replace(subject, network=WholeWindows(subject.network))
    found = fields_of(subject, ["conv_first"], [Path("in/a.png")], 21, "sr")
    rows, columns = np.nonzero(found["conv_first"].contribution)
    assert {*rows} | {*columns} == {9, 10, 11}


def test_an_unknown_layer_is_answered_with_the_near_ones(here, capsys):
    assert main(["analyze", "erf", "in", "-w", "x2.pth", "--layers", "blocks.0.atn"]) == 2
    assert "Near are: blocks.0.attn" in capsys.readouterr().err


def test_blocks_that_compute_twice_give_the_same_gradient_from_less_memory():
    subject = Subject("small", "small", "none", network(2).eval().requires_grad_(False), 2, 3)
    x = torch.rand(1, 3, 20, 20, requires_grad=True)

    def run():
        kept = {}

        def pack(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = subject.network(x)
        return torch.autograd.grad(result.square().sum(), x)[0], sum(kept.values())

    expected, before = run()
    with recomputed(subject, 64 * 64 + 1):
        gradient, after = run()
    assert torch.equal(gradient, expected)
    assert after < 0.4 * before
    with recomputed(subject, 64 * 64):  # small images are kept
        assert run()[1] == before
    assert run()[1] == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["swinir_light:2", "srformer_light:2", "atd_light:2", "omnisr:2", "elan_light:2", "hit_srf:2"],
)
def test_blocks_of_every_known_network_can_compute_twice(name):
    subject = open_subject(name)
    x = torch.rand(1, 3, 20, 20, requires_grad=True)
    (expected,) = torch.autograd.grad(subject.network(x).square().sum(), x)
    with recomputed(subject, 10**6):
        (gradient,) = torch.autograd.grad(subject.network(x).square().sum(), x)
    torch.testing.assert_close(gradient, expected)
