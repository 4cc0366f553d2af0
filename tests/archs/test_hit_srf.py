"""HiT-SRF: the public outputs and checkpoint, both orders of products, any input."""

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from esc_arch import UserError, checkpoints, create
from esc_arch.archs import PRESETS, HiT_SRF
from esc_arch.archs.hit_srf_arch import SpatialChannelCorrelation
from esc_arch.checkpoints.state_dicts import read_state_dict
from tests.archs import network_checks
from tests.reference_cases import arrays, deviation, fill_parameters

CASES = network_checks.public_cases("HiT_SRF")
SHARED = Path(__file__).parents[3] / "shared"
CHECKPOINT = SHARED / "weights" / "HiT_SRF_x4_official.pth"
# Windows smaller than the base window, equal and larger, not square, two groups.
SMALL = {
    "embed_dim": 16,
    "depths": (3, 1),
    "num_heads": (2, 4),
    "base_win_size": (4, 2),
    "hier_win_ratios": (0.5, 1, 3),
}


def small(scale: int = 2, **arguments: object) -> nn.Module:
    return fill_parameters(create("hit_srf", scale, **{**SMALL, **arguments})).eval()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keys_in_order_shapes_and_parameter_count(case):
    with torch.device("meta"):
        network = ARCH_REGISTRY.get("HiT_SRF")(**case["kwargs"])
    keys = [[key, list(tensor.shape)] for key, tensor in network.state_dict().items()]
    assert keys == [key[:2] for key in case["keys"]]
    assert sum(p.numel() for p in network.parameters()) == case["n_params"]


# The public output is in float32 itself.
@pytest.mark.parametrize("attn_type", ["naive", "auto"])
def test_output_of_the_public_code(attn_type):
    expected = arrays("hit_srf_x2")
    network = HiT_SRF(**CASES["hit_srf_x2"]["kwargs"], attn_type=attn_type)
    with torch.no_grad():
        y = fill_parameters(network).eval()(expected["x"])
    assert deviation(y, expected["y"]) < 2e-5


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_preset_is_the_public_network(scale):
    with torch.device("meta"):
        network = create("hit_srf", scale)
    published = {2: 846_944, 3: 855_059, 4: 866_420}
    assert sum(p.numel() for p in network.parameters()) == published[scale]
    public = CASES["hit_srf_x4"]["kwargs"]
    preset = PRESETS["hit_srf"]
    for name, value in preset.arguments.items():
        given = public.get(name, public["expansion_factor"])
        assert value == (tuple(given) if isinstance(given, list) else given)


def correlation_by_loops(layer: SpatialChannelCorrelation, x: torch.Tensor) -> torch.Tensor:
    """The paper's formulas, token by token; x (1, C, H, W) of whole windows."""
    (wy, wx), (py, px) = layer.window, layer.block
    num_heads = layer.pos.pos3[-1].out_features
    qv = layer.qv(x)[0].permute(1, 2, 0)
    c = qv.shape[-1] // 2
    d = c // num_heads
    result = torch.zeros_like(qv)
    weight, added = layer.spatial_linear.weight[0].view(py, px), layer.spatial_linear.bias
    for top in range(0, x.shape[2], wy):
        for left in range(0, x.shape[3], wx):
            window = qv[top : top + wy, left : left + wx]
            q, v = window[..., :c], window[..., c:]
            base, bias = {}, {}
            for my in range(wy // py):
                for mx in range(wx // px):
                    block = v[my * py : (my + 1) * py, mx * px : (mx + 1) * px]
                    base[my, mx] = (block * weight[..., None]).sum((0, 1)) + added
            for qy in range(wy):
                for qx in range(wx):
                    for my, mx in base:
                        places = [
                            [float(qy - my * py - a), float(qx - mx * px - b)]
                            for a in range(py)
                            for b in range(px)
                        ]
                        bias[qy, qx, my, mx] = layer.pos(x.new_tensor(places)).mean(0)
            for qy in range(wy):
                for qx in range(wx):
                    for h in range(num_heads):
                        part = slice(h * d, (h + 1) * d)
                        for (my, mx), key in base.items():
                            score = q[qy, qx, part] @ key[part] / d + bias[qy, qx, my, mx][h]
                            result[top + qy, left + qx, part] += score * key[part]
            map_ = torch.einsum("yxi,yxj->ij", q, v) / (wy * wx)
            result[top : top + wy, left : left + wx, c:] = torch.einsum("ij,yxj->yxi", map_, v)
    return layer.proj(result).permute(2, 0, 1)[None]


@pytest.mark.parametrize("attn_type", ["naive", "auto"])
@pytest.mark.parametrize("window", [(2, 1), (4, 2), (8, 6)])
def test_correlation_by_loops(window, attn_type):
    base = (min(window[0], 4), min(window[1], 2))
    layer = SpatialChannelCorrelation(32, base, window, 2, attn_type).double()
    fill_parameters(layer)
    x = torch.randn(1, 32, window[0], 2 * window[1], dtype=torch.float64)
    with torch.no_grad():
        assert deviation(layer(x), correlation_by_loops(layer, x)) < 1e-12


def test_gradients_of_both_orders_of_products():
    x = torch.rand(2, 3, 13, 10, dtype=torch.float64)
    gradients = []
    for attn_type in ("naive", "auto"):
        network = small(attn_type=attn_type).double().train()
        leaf = x.clone().requires_grad_()
        network(leaf).square().mean().backward()
        gradients.append({"x": leaf.grad} | {k: p.grad for k, p in network.named_parameters()})
    for key, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], expected, rtol=1e-7, atol=1e-12, msg=key)


def test_recomputing_in_training_gives_the_same_gradients():
    x = torch.rand(1, 3, 9, 7)
    gradients = []
    for use_checkpoint in (False, True):
        network = small(use_checkpoint=use_checkpoint)
        network(x).sum().backward()
        gradients.append(network.conv_first.weight.grad)
    assert deviation(gradients[1], gradients[0]) < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (1, 13), (3, 2), (12, 6), (13, 7), (5, 40)])
def test_sides_from_one_pixel(size):
    for scale in (1, 2, 3, 4):
        network_checks.check_sides(small, size, scale)


def test_maps_are_extended_as_numpy_reflects():
    layer = fill_parameters(SpatialChannelCorrelation(16, (4, 4), (16, 16), 2, "auto"))
    x = torch.rand(1, 16, 3, 17)
    # Once more than the public code can: 13 rows and 15 columns.
    extended = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 13), (0, 15)), mode="reflect")
    with torch.no_grad():
        expected = layer(torch.from_numpy(extended))[:, :, :3, :17]
        assert deviation(layer(x), expected) < 1e-6


def test_in_bands_in_train_mode_and_image_by_image(monkeypatch):
    network, x = small(), torch.rand(2, 3, 29, 19)
    with torch.no_grad():
        whole = network(x)
        assert deviation(network.train()(x), whole) < 1e-5
        assert deviation(torch.cat([network(image[None]) for image in x]), whole) < 1e-5
        network_checks.cut_into_bands(monkeypatch, width=19)
        assert deviation(network(x), whole) < 1e-5


def test_channels_last_in_and_out_and_the_input_kept():
    network_checks.check_layouts(small())


@pytest.mark.parametrize("attn_type", ["naive", "auto"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 5e-2), (torch.bfloat16, 3e-1)])
def test_half_precision_and_autocast(dtype, bound, attn_type):
    network, x = small(attn_type=attn_type), torch.rand(2, 3, 11, 19)
    network_checks.check_half_precision(network, x, dtype, bound)
    network.train()(x.to(dtype)).sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_half_precision_holds_a_large_window():
    """The sum over its tokens lies beyond the largest float16."""
    layer = fill_parameters(SpatialChannelCorrelation(32, (8, 8), (64, 64), 2, "auto"))
    layer.qv = nn.Identity()
    q = torch.full((1, 32, 64, 64), 8.0)
    with torch.no_grad():
        assert deviation(layer.half()(q.half()), layer.float()(q)) < 1e-2


def test_copies_follow_their_own_parameters():
    network, x = small(), torch.rand(1, 3, 11, 19)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        before = network(x)
        twin.layers[0].residual_group["blocks"][0].correlation.pos.pos3[2].bias.add_(1)
        changed = twin(x)
        assert torch.equal(network(x), before)
        network.load_state_dict(twin.state_dict(), assign=True)
        assert torch.equal(network(x), changed)
    assert deviation(changed, before) > 1e-3


@pytest.mark.slow
def test_compiled():
    network = small(depths=(2,), num_heads=(2,), hier_win_ratios=(1, 2))
    network_checks.check_traces_as_one_graph(network)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 2}, "patch_size 2 is not supported: HiT_SRF has 1"),
        ({"drop_rate": 0.1}, "drop_rate 0.1"),
        ({"value_drop_rate": 0.1}, "value_drop_rate 0.1"),
        ({"drop_path_rate": 0.1}, "drop_path_rate 0.1"),
        ({"norm_layer": nn.BatchNorm2d}, "norm_layer"),
        ({"ape": True}, "ape True"),
        ({"upsampler": "nearest+conv"}, "upsampler 'nearest.conv' is not .* 'pixelshuffledirect'"),
        ({"resi_connection": "3conv"}, "resi_connection '3conv'"),
        ({"expansion_factor": 4}, "expansion_factor 4 is not supported: HiT_SRF has 2"),
        ({"attn_type": "flex"}, "attn_type 'flex' is unknown; known are auto, naive"),
        ({"depths": (6, 6)}, "depths .* and num_heads .* are not one number for each group"),
        ({"depths": (7, 6, 6, 6)}, "hier_win_ratios .* fewer than the 7 blocks"),
        ({"num_heads": (6, 6, 6, 4)}, "embed_dim 60 is not a multiple of 2 . num_heads 4"),
        ({"embed_dim": 12}, "embed_dim 12 is less than 16"),
        ({"base_win_size": (8,)}, "base_win_size"),
        ({"hier_win_ratios": (0.5, 1, 1.5, 4, 6, 8)}, "1.5 makes windows of 12 x 12 pixels"),
        ({"hier_win_ratios": (0.1, 1, 2, 4, 6, 8)}, "0.1 makes windows of 0 x 0 pixels"),
        ({"mlp_ratio": 0}, "mlp_ratio 0"),
        ({"upscale": 0}, "upscale 0"),
        ({"img_range": 0}, "img_range 0"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        HiT_SRF(**arguments)


def test_other_sizes_are_known_by_their_keys():
    for arguments in (SMALL, {**SMALL, "patch_norm": False, "in_chans": 1, "mlp_ratio": 1.3}):
        state = small(**arguments).state_dict()
        found = checkpoints.detect(state)
        assert found.scale == 2 and found.preset is None
        assert {k: found.arguments[k] for k in ("depths", "num_heads")} == {
            "depths": (3, 1),
            "num_heads": (2, 4),
        }
        assert found.arguments["patch_norm"] == arguments.get("patch_norm", True)
        # The base window has no key of its own; the ratios of windows to it have.
        assert found.arguments["hier_win_ratios"] == (1, 1, 3)
        again = HiT_SRF(**found.arguments).state_dict()
        assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in state.items()}


def test_images_of_one_channel_and_another_range():
    """The mean is taken off RGB only; the range is undone at the end."""
    network = small(in_chans=1, img_range=255.0)
    assert not network.mean.any()
    with torch.no_grad():
        y = network(torch.rand(1, 1, 9, 7))
        nn.init.zeros_(network.upsample[0].weight)
        nn.init.constant_(network.upsample[0].bias, 51.0)
        assert torch.allclose(network(torch.rand(1, 1, 9, 7)), torch.tensor(0.2))
    assert y.shape == (1, 1, 18, 14)


def test_the_option_checker_reads_its_arguments():
    wrong = {"embed_dims": 60, "depths": 6, "drop_rate": 0.1, "upscale": 3}
    network_checks.check_options("HiT_SRF", CASES["hit_srf_x2"]["kwargs"], wrong)


@pytest.mark.skipif(not CHECKPOINT.is_file(), reason=f"no {CHECKPOINT.name} in shared/weights")
class TestPublicCheckpoint:
    def test_it_is_known_and_loads_strictly(self):
        state = read_state_dict(CHECKPOINT)
        assert str(checkpoints.detect(state)) == "hit_srf x4"
        ARCH_REGISTRY.get("HiT_SRF")(**CASES["hit_srf_x4"]["kwargs"]).load_state_dict(state)

    def test_it_is_averaged_parameters_too(self, tmp_path):
        state = read_state_dict(CHECKPOINT)
        torch.save({"params": {}, "params_ema": state}, tmp_path / "net.pth")
        network = create("hit_srf", 4, weights=tmp_path / "net.pth")
        assert torch.equal(network.norm.weight, state["norm.weight"])

    def test_another_scale_is_refused_by_name(self):
        with pytest.raises(UserError, match="of hit_srf x2; found those of hit_srf x4"):
            create("hit_srf", 2, weights=CHECKPOINT)

    def test_it_beats_bicubic_on_a_photo(self):
        """A crop of Set5's baby: published, HiT-SRF has 4 dB more than bicubic on Set5."""
        gt, lq = (cv2.imread(str(path), cv2.IMREAD_COLOR) for path in baby())
        gt, lq = gt[160:352, 160:352], lq[40:88, 40:88]
        x = torch.from_numpy(lq[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            y = create("hit_srf", 4, weights=CHECKPOINT).eval()(x)
        bicubic = F.interpolate(x, scale_factor=4, mode="bicubic")
        psnr = [
            calculate_psnr(
                (z[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()[..., ::-1],
                gt.astype(np.float32),
                crop_border=8,
                test_y_channel=True,
            )
            for z in (y, bicubic)
        ]
        assert psnr[0] > psnr[1] + 1


def baby() -> tuple[Path, Path]:
    """The GT of Set5's baby, and its LR x4."""
    folder = SHARED / "data" / "Set5"
    return next(folder.glob("HR/baby*")), next(folder.glob("LR*/X4/baby*"))
