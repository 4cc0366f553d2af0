"""ESC+LTE against the public implementation's outputs and against its straightforward form."""

import inspect
import json

import pytest
import torch
from torch import Tensor, nn

import esc_arch
from esc_arch import ESCLTE
from esc_arch.archs import PRESETS
from tests import naive_lte
from tests.reference_cases import REFERENCE, arrays, deviation, fill_parameters

CASES = {case["name"]: case for case in json.loads((REFERENCE / "lte_cases.json").read_text())}


def small(**arguments: object) -> nn.Module:
    sizes = {"dim": 8, "pdim": 4, "n_blocks": 1, "conv_blocks": 1, "window_size": 4, "num_heads": 2}
    network = ESCLTE(**{**sizes, "kernel_size": 5, "hidden_dim": 8, **arguments})
    return fill_parameters(network).double().eval()


def image(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.rand(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("has_graph", [False, True], ids=["inference", "with gradients"])
def test_reference(name, has_graph):
    network, expected = fill_parameters(ESCLTE()).eval(), arrays(name)
    assert [[k, list(t.shape)] for k, t in network.state_dict().items()] == CASES[name]["keys"]
    assert sum(p.numel() for p in network.parameters()) == CASES[name]["n_params"]
    size = tuple(CASES[name]["output"])
    with torch.set_grad_enabled(has_graph):
        y = network(expected["x"], size=size)
    assert y.shape[2:] == size
    assert deviation(y.detach(), expected["y"]) < 1e-4


def test_the_preset_is_the_constructor_with_its_defaults():
    defaults = {k: p.default for k, p in inspect.signature(ESCLTE).parameters.items()}
    preset = PRESETS["esc_lte"]
    assert preset.arguments.items() <= defaults.items()
    assert defaults["upscaling_factor"] == preset.scales[0]
    keys = [[k, list(t.shape)] for k, t in esc_arch.create("esc_lte").state_dict().items()]
    assert keys == CASES["esc_lte_x4"]["keys"]


@pytest.mark.parametrize("side", [(1, 1), (1, 6), (5, 2), (13, 17)])
def test_any_size_is_the_straightforward_form(side):
    network, (height, width) = small(), side
    x = image(2, 3, height, width)
    for down, right in ((1, 1), (2, 2), (3, 3), (2.5, 3.3), (1.7, 7), (30, 1), (0.5, 0.4)):
        size = max(1, round(down * height)), max(1, round(right * width))
        expected = naive_lte.enlarged(network, x, size)
        with torch.no_grad():
            # Where all four neighbours are one pixel, all weights are 1e-9 and roundings.
            torch.testing.assert_close(network(x, size=size), expected, rtol=0, atol=1e-6)
            torch.testing.assert_close(network(x, scale=(down, right)), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(network(x, size=size), expected, rtol=0, atol=1e-6)


def test_scales_are_rounded_to_pixels():
    network, x = small(), image(1, 3, 10, 15)
    with torch.no_grad():
        assert network(x).shape == (1, 3, 40, 60)
        assert network(x, scale=3.3).shape == (1, 3, 33, 50)
        assert network(x, scale=(1.04, 30)).shape == (1, 3, 10, 450)


def test_many_queries_of_a_large_map():
    """More than are computed at a time, of a map that goes in bands."""
    network, x = small(), image(1, 3, 210, 190)
    with torch.no_grad():
        y = network(x, size=(399, 222))
        expected = naive_lte.enlarged(network, x, (399, 222))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [2, 6.5])
def test_cells_of_the_largest_scale_of_the_training(scale):
    network, x = small(), image(1, 3, 6, 8)
    size = round(6 * scale), round(8 * scale)
    seen = (24, 32) if scale > 4 else size
    with torch.no_grad():
        y, expected = network(x, size=size, max_scale=4), naive_lte.enlarged(network, x, size, seen)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)


def test_gradients_are_the_straightforward_forms():
    network, x = small(), image(2, 3, 9, 7).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    coord = torch.rand(2, 60, 2, dtype=torch.float64, generator=generator) * 2 - 1
    cell = torch.tensor([[2 / 20, 2 / 17], [2 / 11, 2 / 30]], dtype=torch.float64)
    upstream = image(2, 60, 3)
    wanted = [x, *network.parameters()]
    expected = naive_lte.answers(network, x, coord, cell[:, None].expand_as(coord))
    of_expected = torch.autograd.grad((expected * upstream).sum(), wanted)
    for cells in (cell, cell[:, None].expand_as(coord)):
        y = network(x, coord=coord, cell=cells)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
        found = torch.autograd.grad((y * upstream).sum(), wanted)
        for gradient, other in zip(found, of_expected, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)
    y = network(x, size=(13, 10))
    expected = naive_lte.enlarged(network, x, (13, 10))
    found, of_expected = (torch.autograd.grad(r.square().sum(), wanted) for r in (y, expected))
    for gradient, other in zip(found, of_expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"size": (4, 4), "scale": 2}, "size and scale"),
        ({"size": (0, 4)}, "no pixels"),
        ({"size": (8.0, 4)}, "whole pixels"),
        ({"scale": 0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"coord": torch.zeros(1, 1, 2)}, "cell"),
        ({"coord": torch.zeros(1, 1, 2), "cell": torch.ones(1, 2), "scale": 2}, "coord"),
    ],
)
def test_arguments_that_do_not_fit(arguments, says):
    with pytest.raises(ValueError, match=says):
        small()(image(1, 3, 4, 4), **arguments)


@pytest.mark.parametrize("has_graph", [False, True])
def test_under_autocast_the_result_has_the_type_of_the_image(has_graph):
    network, x = small().float(), image(1, 3, 5, 6).float()
    with torch.set_grad_enabled(has_graph), torch.autocast("cpu", torch.bfloat16):
        assert network(x, scale=2.5).dtype == torch.float32


def test_an_odd_number_of_waves_is_refused():
    with pytest.raises(ValueError, match="hidden_dim"):
        ESCLTE(hidden_dim=5)
