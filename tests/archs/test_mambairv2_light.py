"""MambaIRv2-light: the public output, every input, arguments, cost."""

import copy
import logging

import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from fvcore.nn import FlopCountAnalysis
from torch import nn

from esc_arch import PRESETS, checkpoints, create
from esc_arch.archs import MambaIRv2Light, mambairv2_light_arch
from esc_arch.checkpoints.state_dicts import read_state_dict
from esc_arch.ops.selective_scan import FLOP_HANDLES
from tests.archs import network_checks
from tests.reference_cases import REFERENCE, deviation, fill_parameters

CASE = network_checks.public_cases("MambaIRv2Light")["mambairv2_light_x2"]
SMALL = {
    "embed_dim": 16,
    "d_state": 3,
    "depths": (2, 1),
    "num_heads": (2, 4),
    "window_size": 6,
    "inner_rank": 4,
    "num_tokens": 5,
    "mlp_ratio": 1.5,
}


def small(upscale: int = 2, **arguments: object) -> nn.Module:
    return fill_parameters(MambaIRv2Light(**{**SMALL, "upscale": upscale, **arguments})).eval()


@pytest.fixture
def quiet(monkeypatch):
    """Without noise a token's class depends on its image alone."""
    monkeypatch.setattr(mambairv2_light_arch, "gumbel_noise", torch.zeros_like)


@pytest.fixture
def recorded(monkeypatch):
    """Sorts as the processor that made the public output; gives the classes that came."""
    with np.load(REFERENCE / "mambairv2_light_x2.npz") as file:
        recorded = {key: torch.from_numpy(file[key]) for key in file}
    recorded["came"] = []

    def places(classes):
        place = recorded["places"][len(recorded["came"])].long()
        recorded["came"].append(classes[0])
        return place.unsqueeze(0)

    monkeypatch.setattr(mambairv2_light_arch, "sorted_places", places)
    return recorded


@pytest.mark.parametrize("attn_type", ["naive", "sdpa"])
def test_output_is_the_public_one(recorded, attn_type):
    """In float64 rounding moves no token to another class."""
    network = fill_parameters(MambaIRv2Light(**CASE["kwargs"], attn_type=attn_type)).eval()
    torch.manual_seed(123)
    with torch.no_grad():
        y = network.double()(recorded["x"].double())
    assert torch.equal(torch.stack(recorded["came"]), recorded["classes"].long())
    for classes, place in zip(recorded["came"], recorded["places"], strict=True):
        assert place.sort().values.tolist() == list(range(len(place)))
        assert (classes[place.long()].diff() >= 0).all()
    # The public code ran in float32.
    assert deviation(y, recorded["y"]) < 2e-5


@pytest.mark.parametrize("grad", [False, True])
def test_output_in_float32(recorded, monkeypatch, grad):
    """With the classes given: a score rounded otherwise would change everything after it."""
    network = fill_parameters(MambaIRv2Light(**CASE["kwargs"])).eval()

    def noise(logits):
        classes = recorded["classes"][len(recorded["came"])].long()
        return 100.0 * nn.functional.one_hot(classes.unsqueeze(0), logits.shape[-1])

    monkeypatch.setattr(mambairv2_light_arch, "gumbel_noise", noise)
    with torch.set_grad_enabled(grad):
        assert deviation(network(recorded["x"]).detach(), recorded["y"]) < 2e-5


def test_noise_is_that_of_gumbel_softmax():
    logits = torch.randn(2, 1000, 7)
    torch.manual_seed(5)
    classes = (logits + mambairv2_light_arch.gumbel_noise(logits)).argmax(-1)
    torch.manual_seed(5)
    expected = nn.functional.gumbel_softmax(logits, hard=True).argmax(-1)
    assert torch.equal(classes, expected)


def test_keys_in_order_shapes_and_types():
    network = ARCH_REGISTRY.get("MambaIRv2Light")(**CASE["kwargs"])
    state = network.state_dict()
    assert [[k, list(v.shape), str(v.dtype)[6:]] for k, v in state.items()] == CASE["keys"]
    assert sum(p.numel() for p in network.parameters()) == CASE["n_params"]
    public = {k: tuple(v) if isinstance(v, list) else v for k, v in CASE["kwargs"].items()}
    assert {**PRESETS["mambairv2_light"].arguments, "upscale": 2} == public


@pytest.mark.parametrize(("scale", "thousands"), [(2, 774), (4, 790)])
def test_published_parameters(scale, thousands):
    with torch.device("meta"):
        network = create("mambairv2_light", scale)
    assert round(sum(p.numel() for p in network.parameters()) / 1000) == thousands


def test_the_position_index_is_the_public_table_s():
    index, window = mambairv2_light_arch.position_index(4), 4
    for query in range(16):
        for key in range(16):
            dy, dx = query // window - key // window, query % window - key % window
            assert index[query, key] == (dy + window - 1) * (2 * window - 1) + dx + window - 1


@pytest.mark.parametrize("form", ["params", "params_ema"])
def test_public_checkpoints_load_and_are_known(tmp_path, form):
    network = fill_parameters(create("mambairv2_light", 4))
    torch.save({form: network.state_dict()}, tmp_path / "net.pth")
    loaded = create("mambairv2_light", 4, weights=tmp_path / "net.pth")
    for ours, saved in zip(loaded.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, saved)
    found = checkpoints.detect(read_state_dict(tmp_path / "net.pth"))
    assert str(found) == "mambairv2_light x4"


def test_multiply_adds_are_the_published_ones():
    """Of an output of 1280 x 720, put together from small networks and images.

    The count is a sum over groups, layers and the tokens of the extended image.  The whole
    network traced at its size gives the same, in minutes: 75.642 G at x4.
    """
    logging.getLogger("fvcore").setLevel(logging.ERROR)

    def count(scale, depths, width):
        arguments = {"depths": depths, "num_heads": (4,) * len(depths), "attn_type": "naive"}
        network = create("mambairv2_light", scale, **arguments).eval()
        analysis = FlopCountAnalysis(network, torch.rand(1, 3, 16, width))
        return analysis.set_op_handle(**FLOP_HANDLES).total()

    for scale, tokens, published in ((2, 640 * 368, 286.3), (4, 320 * 192, 75.6)):
        whole = []
        for width in (16, 32):
            one = count(scale, (1,), width)
            layer, group = count(scale, (2,), width) - one, count(scale, (1, 1), width) - one
            whole.append(one + 3 * group + 16 * layer)
        per_token = (whole[1] - whole[0]) / 256
        tables = whole[0] - 256 * per_token
        assert round((per_token * tokens + tables) / 1e9, 1) == published


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (5, 7), (6, 12), (13, 8)])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_sides_from_one_pixel(size, scale):
    network_checks.check_sides(small, size, scale)


def test_extended_by_reflection_that_repeats_the_edge(quiet):
    network, x = small(), torch.rand(1, 3, 2, 9)
    extended = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 4), (0, 3)), mode="symmetric")
    with torch.no_grad():
        expected = network(torch.from_numpy(extended))[:, :, :4, :18]
        assert deviation(network(x), expected) < 1e-5


def test_shifted_windows_against_a_mask_over_the_whole_map():
    """Every pair of pixels of the map at once, those of other windows masked out."""
    height, width, window, shift = 12, 18, 6, 3
    attention = mambairv2_light_arch.ShiftedWindowAttention(8, window, shift, 2, "auto").double()
    to_qkv = nn.Linear(8, 24).double()
    x = torch.randn(1, 8, height, width, dtype=torch.float64)
    with torch.no_grad():
        nn.init.normal_(attention.relative_position_bias_table)
        result = attention(x, to_qkv)
        y, x_place = np.divmod(np.arange(height * width), width)
        ry, rx = (y - shift) % height, (x_place - shift) % width  # places after the shift
        same_window = (ry // window)[:, None] == (ry // window)
        same_window &= (rx // window)[:, None] == (rx // window)
        dy, dx = ry[:, None] - ry, rx[:, None] - rx
        # Together on the map as well: not wrapped around an edge.
        neighbours = (y[:, None] - y == dy) & (x_place[:, None] - x_place == dx)
        table = attention.relative_position_bias_table.numpy()
        index = np.where(same_window, (dy + window - 1) * (2 * window - 1) + dx + window - 1, 0)
        bias = table[index] + np.where(neighbours, 0, -100.0)[:, :, None]
        bias = torch.from_numpy(np.where(same_window[:, :, None], bias, -np.inf)).permute(2, 0, 1)
        q, k, v = to_qkv(x.flatten(2).mT[0]).unflatten(1, (3, 2, 4)).permute(1, 2, 0, 3)
        scores = (q @ k.mT / 2 + bias).softmax(-1)
        expected = attention.proj((scores @ v).transpose(0, 1).flatten(1)).T.view(x.shape)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("batch", [1, 2])
def test_in_bands_equals_the_whole_map(quiet, batch, monkeypatch):
    network, x = small(), torch.rand(batch, 3, 29, 19)
    before = x.clone()
    with torch.no_grad():
        whole = network(x)
        network_checks.cut_into_bands(monkeypatch, width=19)
        monkeypatch.setattr(mambairv2_light_arch, "PIXELS_PER_PASS_AND_CORE", 1)
        assert deviation(network(x), whole) < 1e-4
    assert torch.equal(x, before)


def test_a_batch_equals_its_images_one_by_one(quiet):
    network, x = small(), torch.rand(3, 3, 11, 19)
    with torch.no_grad():
        single = torch.cat([network(image[None]) for image in x])
        assert deviation(network(x), single) < 1e-4


@pytest.mark.parametrize("attn_type", ["naive", "sdpa"])
def test_modes_layouts_and_copies_compute_the_same(attn_type):
    network, x = small(attn_type=attn_type.upper()), torch.rand(2, 3, 11, 19)

    def run(network, x):
        torch.manual_seed(7)
        return network(x)

    with torch.no_grad():
        y = run(network, x)
        assert torch.equal(run(network, x), y)
        assert not torch.equal(network(x), y)  # other noise
        last = run(network, x.contiguous(memory_format=torch.channels_last))
        twin = copy.deepcopy(network)
        twin.load_state_dict(fill_parameters(small()).state_dict(), assign=True)
        assert torch.equal(run(twin, x), y)
        assert torch.equal(run(nn.DataParallel(network), x), y)
    assert y.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)
    assert deviation(last, y) < 1e-5
    assert deviation(run(network, x), y) < 1e-4
    assert deviation(run(network.train(), x), y) < 1e-4


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.1), (torch.bfloat16, 0.5)])
def test_half_precision(quiet, dtype, bound, monkeypatch):
    """With classes that rounding does not change: the tokens' places."""
    monkeypatch.setattr(mambairv2_light_arch, "gumbel_noise", _noise_by_place)
    network, x = small(), torch.rand(2, 3, 11, 19)
    network_checks.check_half_precision(network, x, dtype, bound)
    network_checks.check_finite_gradients(network, x.to(dtype))


def _noise_by_place(logits):
    classes = torch.arange(logits.shape[1]) * 7 // 3 % logits.shape[-1]
    return 100.0 * nn.functional.one_hot(classes, logits.shape[-1]).expand(logits.shape)


@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_every_parameter_gets_its_gradient(use_checkpoint):
    network = small(use_checkpoint=use_checkpoint).double().train()
    x = torch.rand(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    network(x).square().sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert all(g is not None and g.isfinite().all() and g.any() for g in gradients.values())
    plain = small().double()
    torch.manual_seed(3)
    expected = torch.autograd.grad(plain(x).square().sum(), [x, *plain.parameters()])
    for gradient, other in zip([x.grad, *gradients.values()], expected, strict=True):
        torch.testing.assert_close(gradient, other)


def test_gradients_by_differences(monkeypatch):
    """Of parameters that the router does not depend on, so that no class changes."""
    network = small(depths=(1,), num_heads=(2,)).double()
    x = torch.rand(1, 3, 6, 12, dtype=torch.float64)
    layer = network.layers[0].residual_group["layers"][0]
    scan = layer.assm.selectiveScan

    def loss():
        torch.manual_seed(3)
        return network(x).square().sum()

    for parameter in (scan.A_logs, scan.dt_projs_bias, scan.x_proj_weight, layer.embeddingA.weight):
        gradient = torch.autograd.grad(loss(), parameter)[0]
        step = 1e-6 * torch.randn_like(parameter)
        with torch.no_grad():
            above = parameter.add_(step) is not None and loss()
            below = parameter.sub_(2 * step) is not None and loss()
            parameter.add_(step)
        assert (gradient * step).sum().item() == pytest.approx((above - below).item() / 2, rel=1e-4)


def test_initial_values():
    layer = create("mambairv2_light", 2).layers[1].residual_group["layers"][3]
    assert (layer.scale1 == 1e-4).all() and (layer.scale2 == 1e-4).all()
    scan = layer.assm.selectiveScan
    torch.testing.assert_close(scan.A_logs.exp(), torch.arange(1.0, 9).repeat(48, 1))
    steps = nn.functional.softplus(scan.dt_projs_bias)
    assert 0.001 <= steps.min() < 0.004 and 0.025 < steps.max() <= 0.1001
    assert layer.wqkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not layer.wqkv.bias.any()
    assert layer.embeddingA.weight.abs().max() <= 1 / 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": (5, 4)}, "embed_dim 16 is not a multiple of num_heads 5"),
        ({"num_heads": (4,)}, "not one number for each group"),
        ({"depths": ()}, "not one number for each group"),
        ({"depths": (0, 1)}, "depths 0 is less than 1"),
        ({"window_size": 0}, "window_size 0 is less than 1"),
        ({"num_tokens": 0}, "num_tokens 0 is less than 1"),
        ({"upscale": 0}, "upscale 0 is less than 1"),
        ({"mlp_ratio": 0.3125}, "mlp_ratio 0.3125 makes 5 channels"),
        ({"img_range": 0}, "img_range 0"),
        ({"upsampler": ""}, "upsampler '' is not supported: .* has 'pixelshuffledirect'"),
        ({"resi_connection": "3conv"}, "resi_connection '3conv' is not supported"),
        ({"ape": True}, "ape True is not supported"),
        ({"patch_size": 2}, "patch_size 2 is not supported"),
        ({"convffn_kernel_size": 7}, "convffn_kernel_size 7 is not supported"),
        ({"attn_type": "flex"}, "attn_type 'flex' is unknown; known are auto, naive, sdpa"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        MambaIRv2Light(**{**SMALL, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"in_chans": 1},
        {"qkv_bias": False},
        {"patch_norm": False},
        {"img_range": 255.0},
        {"window_size": 1},
        {"window_size": 5},
    ],
)
def test_other_arguments(arguments):
    network = small(**arguments)
    with torch.no_grad():
        y = network(torch.rand(1, arguments.get("in_chans", 3), 7, 8))
    assert y.shape[-2:] == (14, 16) and y.isfinite().all()


@pytest.mark.slow
def test_export_with_dynamic_sizes(quiet):
    network = small(depths=(2,), num_heads=(2,)).double()
    size, example = torch.export.Dim.AUTO, torch.rand(2, 3, 14, 15, dtype=torch.float64)
    shapes = ({0: size, 2: size, 3: size},)
    program = torch.export.export(network, (example,), dynamic_shapes=shapes).module()
    # Of three windows and more along each side: the graph holds an inner part and an edge.
    for shape in [(2, 3, 14, 15), (1, 3, 18, 24), (3, 3, 13, 31)]:
        x = torch.rand(shape, dtype=torch.float64)
        with torch.no_grad():
            assert deviation(program(x), network(x)) < 1e-10
