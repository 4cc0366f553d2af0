"""ELAN: the public outputs, shared attention maps by loops, any input."""

import copy

import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from esc_arch import UserError, checkpoints, create
from esc_arch.archs import ELAN, PRESETS
from esc_arch.archs.elan_arch import GroupwiseAttention, ShiftConv2d
from esc_arch.layers.rgb_mean import RGB_MEAN
from tests.archs import network_checks
from tests.reference_cases import arrays, deviation, fill_parameters

CASES = network_checks.public_cases("ELAN")
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
SMALL = {"c_elan": 12, "m_elan": 4, "window_sizes": (2, 4, 8), "rgb_range": 1.0}


def small(scale: int = 2, **arguments: object) -> nn.Module:
    return fill_parameters(create("elan_light", scale, **{**SMALL, **arguments}), gain=0.5).eval()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keys_in_order_shapes_and_parameter_counts(case):
    network = ARCH_REGISTRY.get("ELAN")(**case["kwargs"])
    keys = [[key, list(tensor.shape)] for key, tensor in network.state_dict().items()]
    assert keys == [key[:2] for key in case["keys"]]
    parameters = list(network.parameters())
    assert sum(p.numel() for p in parameters) == case["n_params"]
    assert sum(p.numel() for p in parameters if p.requires_grad) == case["n_trainable"]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_output_of_the_public_code(name, dtype):
    expected = arrays(name)
    network = fill_parameters(ELAN(**CASES[name]["kwargs"]), gain=CASES[name]["gain"])
    with torch.no_grad():
        y = network.to(dtype).eval()(expected["x"].to(dtype))
    assert deviation(y, expected["y"]) < TOLERANCE[dtype]


@pytest.mark.parametrize("scale", [2, 4])
def test_preset_is_the_public_network(scale):
    case = CASES[f"elan_light_x{scale}"]
    with torch.device("meta"):
        network = create("elan_light", scale)
    assert sum(p.numel() for p in network.parameters()) == case["n_params"]
    public = {k: tuple(v) if isinstance(v, list) else v for k, v in case["kwargs"].items()}
    # The public option file has this range, and further lines that are not the network's.
    public |= {"rgb_range": 255.0, "act_type": "relu"}
    assert {**PRESETS["elan_light"].arguments, "scale": scale} == public


def test_moves_of_the_channels():
    x = torch.arange(10.0 * 3 * 4).view(1, 10, 3, 4)
    layer = ShiftConv2d(10, 10)
    nn.init.zeros_(layer.conv1x1.bias)
    layer.conv1x1.weight.data = torch.eye(10).view(10, 10, 1, 1)
    padded = np.pad(x[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    from_right, from_left = padded[:2, 1:4, 2:6], padded[2:4, 1:4, 0:4]
    from_below, from_above = padded[4:6, 2:5, 1:5], padded[6:8, 0:3, 1:5]
    expected = np.concatenate([from_right, from_left, from_below, from_above, x[0, 8:].numpy()])
    with torch.no_grad():
        np.testing.assert_array_equal(layer(x)[0].numpy(), expected)


def attention_by_loops(
    layers: list[GroupwiseAttention], x: torch.Tensor, windows: tuple[int, ...], shifted: bool
) -> list[torch.Tensor]:
    """The first layer's maps for all, pixel by pixel; x (1, C, H, W)."""
    height, width = x.shape[2:]
    maps, results = {}, []
    for layer in layers:
        groups = layer.project_inp(x)[0].chunk(3)
        result = []
        for g, (group, window) in enumerate(zip(groups, windows, strict=True)):
            v = group if (g in maps) else group.chunk(2)[1]
            out = torch.zeros_like(v)
            forth, back = (-(-window // 2), window // 2) if shifted else (0, 0)
            if g not in maps:
                maps[g] = {}
            for y in range(height):
                for x_ in range(width):
                    top, left = y // window * window, x_ // window * window
                    places = [
                        ((top + a + forth) % height, (left + b + forth) % width)
                        for a in range(window)
                        for b in range(window)
                    ]
                    if (y, x_) not in maps[g]:
                        q = group.chunk(2)[0]
                        own = q[:, (y + forth) % height, (x_ + forth) % width]
                        scores = torch.stack([own @ q[:, r, c] for r, c in places])
                        maps[g][y, x_] = scores.softmax(0)
                    values = torch.stack([v[:, r, c] for r, c in places])
                    out[:, (y + back) % height, (x_ + back) % width] = maps[g][y, x_] @ values
            result.append(out)
        results.append(layer.project_out(torch.cat(result)[None]))
    return results


# In windows of an odd side the public code moves the map one pixel further than back.
@pytest.mark.parametrize("windows", [(1, 2, 4), (1, 3, 2)])
@pytest.mark.parametrize("shifted", [False, True])
def test_shared_attention_by_loops(windows, shifted):
    layers = [
        fill_parameters(GroupwiseAttention(6, windows, shifted, own_maps=own)).double().eval()
        for own in (True, False)
    ]
    side = 4 if 4 in windows else 6
    x = torch.randn(1, 6, side, 2 * side, dtype=torch.float64)
    with torch.no_grad():
        first, maps = layers[0](x, None)
        second, _ = layers[1](x, maps)
        expected = attention_by_loops(layers, x, windows, shifted)
    assert deviation(first, expected[0]) < 1e-12
    assert deviation(second, expected[1]) < 1e-12


def test_images_are_extended_as_numpy_reflects():
    network, x = small(), torch.rand(1, 3, 3, 9)
    extended = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 5), (0, 7)), mode="reflect")
    with torch.no_grad():
        expected = network(torch.from_numpy(extended))[:, :, :6, :18]
        assert deviation(network(x), expected) < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (1, 13), (3, 2), (8, 16), (9, 17)])
def test_sides_from_one_pixel(size):
    for scale in (1, 2, 3, 4):
        network_checks.check_sides(small, size, scale)


def test_in_bands_and_image_by_image(monkeypatch):
    network, x = small(), torch.rand(2, 3, 29, 19)
    with torch.no_grad():
        whole = network(x)
        assert deviation(torch.cat([network(image[None]) for image in x]), whole) < 1e-5
        network_checks.cut_into_bands(monkeypatch, width=19)
        assert deviation(network(x), whole) < 1e-5


def test_training_uses_and_keeps_the_statistics_of_the_batch():
    network, x = small().double(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    norm = network.body[0].modules_gmsa["gmsa_0"].project_inp[1]
    seen = []
    norm.register_forward_hook(lambda module, args, result: seen.append((args[0], result)))
    with torch.no_grad():
        network.train()(x)
    ((given, result),) = seen
    mean = given.mean((0, 2, 3))
    variance = given.var((0, 2, 3), correction=0)
    expected = (given - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + norm.eps).sqrt()
    expected = expected * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    assert deviation(result, expected) < 1e-10
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)


def test_gradients_by_differences():
    network_checks.check_gradient_by_differences(small().double())


def test_frozen_parameters_stay_in_training():
    network = small()
    before = {k: p.clone() for k, p in network.named_parameters()}
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    network.train()(torch.rand(1, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    still = {k for k, p in network.named_parameters() if torch.equal(p, before[k])}
    assert {k for k, p in network.named_parameters() if not p.requires_grad} <= still
    assert "head.0.weight" not in still


def test_channels_last_in_and_out_and_the_input_kept():
    network_checks.check_layouts(small())


@pytest.mark.parametrize("rgb_range", [1.0, 255.0])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 5e-2), (torch.bfloat16, 3e-1)])
def test_half_precision_and_autocast(dtype, bound, rgb_range):
    network, x = small(rgb_range=rgb_range), torch.rand(2, 3, 11, 19)
    nn.init.constant_(network.head[0].weight, 0.1 / rgb_range)
    network_checks.check_half_precision(network, x, dtype, bound)


def test_both_ranges_take_and_give_images_in_0_1():
    """A range of 255 is the same network, its first and last weights 255 times other."""
    small_range, large_range = small(), small(rgb_range=255.0)
    large_range.head[0].weight.data /= 255
    large_range.tail[0].weight.data *= 255
    large_range.tail[0].bias.data *= 255
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert deviation(large_range(x), small_range(x)) < 1e-5
    expected = -255 * torch.tensor(RGB_MEAN)
    torch.testing.assert_close(large_range.sub_mean.bias, expected)
    torch.testing.assert_close(large_range.add_mean.bias, -expected)


def test_a_checkpoint_of_another_range_is_refused(tmp_path):
    torch.save({"params": small().state_dict()}, tmp_path / "net.pth")
    other = {**SMALL, "rgb_range": 255.0}
    with pytest.raises(UserError, match=r"rgb_range 1, the network's is 255"):
        create("elan_light", 2, weights=tmp_path / "net.pth", **other)
    again = create("elan_light", 2, weights=tmp_path / "net.pth", **SMALL)
    assert torch.equal(again.head[0].weight, small().head[0].weight)


def test_copies_follow_their_own_parameters():
    network, x = small(), torch.rand(1, 3, 8, 8)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        before = network(x)
        twin.head[0].weight.mul_(2)
        assert torch.equal(network(x), before)
        assert deviation(twin(x), before) > 1e-3


@pytest.mark.slow
def test_compiled():
    network_checks.check_traces_as_one_graph(small(m_elan=2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"colors": 1}, "colors 1 is not supported: ELAN has 3"),
        ({"act_type": "gelu"}, "act_type 'gelu' is not supported: ELAN has 'relu'"),
        ({"window_sizes": (4, 8)}, "window_sizes .* is not three sides"),
        ({"window_sizes": (0, 4, 8)}, "window_sizes .* from 1 pixel"),
        ({"m_elan": 25}, "m_elan 25 is not a multiple of 1 . n_share, 2"),
        ({"m_elan": 0}, "m_elan 0 is less than 1"),
        ({"n_share": -1}, "n_share -1"),
        ({"c_elan": 64}, "c_elan 64 is not a multiple of 3"),
        ({"c_elan": 3}, "c_elan 3 is less than 6"),
        ({"r_expand": 0}, "r_expand 0"),
        ({"rgb_range": 0}, "rgb_range 0 is not above 0"),
        ({"scale": 0}, "scale 0"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        ELAN(**{"scale": 2, **arguments})


@pytest.mark.parametrize("arguments", [{}, {"n_share": 0}, {"n_share": 3, "r_expand": 3}])
def test_other_sizes_are_known_by_their_keys(arguments):
    state = small(3, **arguments).state_dict()
    found = checkpoints.detect(state)
    assert (found.scale, found.preset, found.arguments["rgb_range"]) == (3, None, 1)
    assert str(found) == "ELAN x3 (c_elan 12, m_elan 4, rgb_range 1.0)"
    again = ELAN(**found.arguments).state_dict()
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in state.items()}


def test_the_option_checker_reads_its_arguments():
    public = {**CASES["elan_light_x2"]["kwargs"], "rgb_range": 255, "act_type": "relu"}
    wrong = {"c_elans": 60, "window_sizes": 4, "colors": 1, "scale": 3}
    network_checks.check_options("ELAN", public, wrong)
