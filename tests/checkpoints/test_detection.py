"""Every network of ours is known by its keys, in every form of file, with any arguments."""

from collections import Counter

import pytest
import torch
from basicsr.archs.rcan_arch import RCAN
from basicsr.archs.swinir_arch import SwinIR

from esc_arch import PRESETS, UserError, checkpoints, create
from esc_arch.archs import ELAN, ESC, ESCFP, ESCReal, ESCRealM, HiT_SRF, MambaIRv2Light
from esc_arch.archs.atd_arch import ATD
from esc_arch.archs.omnisr_arch import OmniSR
from esc_arch.archs.presets import build_meta, construct_meta
from esc_arch.archs.srformer_arch import SRFormer
from esc_arch.checkpoints.wrappers import find_sets
from esc_arch.layers.upsamplers import UPSAMPLERS
from tests.checkpoints.public_networks import SHARED, found_by

SIZES = [(name, scale) for name, preset in PRESETS.items() for scale in preset.scales]

# Whose arguments are in the values of a buffer or of a frozen parameter.
BY_VALUE = ("esc_real_m", "elan_light")


def shapes(state):
    return {key: tensor.shape for key, tensor in state.items()}


def contents(state):
    """The same parameters as files hold them."""
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    other = {key: torch.zeros(1) for key in state}
    return {
        "plain": state,
        "params": {"params": state},
        "params_ema": {"params_ema": state},
        "both": {"params": other, "params_ema": state},
        "state_dict": {"state_dict": state, "epoch": 3},
        "DataParallel": {"params": wrapped},
        "DataParallel, plain": wrapped,
        "compiled": {"params": {f"_orig_mod.{key}": tensor for key, tensor in state.items()}},
        "compiled DataParallel": {f"module._orig_mod.{key}": t for key, t in state.items()},
    }


@pytest.mark.parametrize(("name", "scale"), SIZES)
def test_every_preset_is_known_in_every_form(name, scale):
    network = create(name, scale) if name in BY_VALUE else build_meta(name, scale)
    state = network.state_dict()
    for form, content in contents(state).items():
        same = find_sets(content)[0].state
        assert same.keys() == state.keys(), form
        assert all(same[key] is state[key] for key in state), form
    found = checkpoints.detect(state)
    assert (found.preset, found.scale) == (name, scale)
    assert found.network is PRESETS[name].network
    title = "esc_lte of any scale" if name == "esc_lte" else f"{name} x{scale}"
    assert str(found) == title
    # The others do not take it for theirs.
    assert found_by(state) <= SHARED & {found.network.__name__}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "scale"), [size for size in SIZES if size[0] in BY_VALUE])
def test_arguments_in_values_survive_half_precision(name, scale, dtype):
    state = create(name, scale).state_dict()
    # Whatever wrote the file may have taken integers along.
    assert str(checkpoints.detect({k: v.to(dtype) for k, v in state.items()})) == f"{name} x{scale}"


@pytest.mark.parametrize("name", ["esc_light", "esc_fp", "esc_real_dysample", "esc_real_m"])
def test_folded_networks_are_known(name):
    network = create(name, 4)
    if hasattr(network, "convert"):
        network.convert()
    assert str(checkpoints.detect(network.state_dict())) == f"{name} x4"


_SMALL = {"dim": 24, "pdim": 6, "kernel_size": 7, "n_blocks": 2, "conv_blocks": 3}
_SMALL |= {"window_size": 12, "num_heads": 3, "exp_ratio": 1.7, "upscaling_factor": 5}
_SWIN = {"in_chans": 3, "img_size": 32, "window_size": 8, "depths": (2, 3), "embed_dim": 24}
_SWIN |= {"num_heads": (3, 4), "mlp_ratio": 1.5, "patch_norm": False, "qkv_bias": False}
_SWIN |= {"resi_connection": "3conv", "upsampler": "pixelshuffle", "upscale": 8}


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        (ESC, _SMALL | {"use_ln": True}),
        (ESC, _SMALL | {"use_ln": False, "upscaling_factor": 1}),
        (ESCFP, _SMALL),
        (ESCReal, _SMALL | {"upscaling_factor": 3, "use_dysample": True}),
        (ESCReal, _SMALL | {"upscaling_factor": 4, "use_dysample": False}),
        (
            HiT_SRF,
            {"embed_dim": 24, "depths": (3, 2), "num_heads": (3, 4), "mlp_ratio": 1.2}
            | {"in_chans": 1, "patch_norm": False, "upscale": 3},
        ),
        (
            HiT_SRF,
            {"embed_dim": 16, "depths": (3,), "num_heads": (2,), "upscale": 2}
            | {"in_chans": 3, "patch_norm": True, "hier_win_ratios": (1, 2, 3), "mlp_ratio": 2},
        ),
        (
            ELAN,
            {"scale": 7, "m_elan": 6, "c_elan": 30, "n_share": 2, "r_expand": 3, "rgb_range": 1.0},
        ),
        (
            MambaIRv2Light,
            {"in_chans": 1, "embed_dim": 24, "d_state": 5, "depths": (2, 1), "num_heads": (3, 4)}
            | {"window_size": 10, "inner_rank": 9, "num_tokens": 11, "mlp_ratio": 1.7}
            | {"qkv_bias": False, "patch_norm": False, "upscale": 6},
        ),
        (SwinIR, _SWIN),
        (SwinIR, _SWIN | {"in_chans": 1, "upsampler": "", "upscale": 1, "ape": True}),
        (SwinIR, _SWIN | {"upsampler": "nearest+conv", "upscale": 4}),
        (SwinIR, _SWIN | {"upsampler": "pixelshuffledirect", "upscale": 3}),
        (SRFormer, _SWIN | {"upscale": 3}),
        (SRFormer, _SWIN | {"upsampler": "pixelshuffledirect", "window_size": 16}),
        (
            ATD,
            {key: value for key, value in _SWIN.items() if key not in ("patch_norm", "img_size")}
            | {"num_tokens": 10, "reducted_dim": 5, "convffn_kernel_size": 3, "norm": False},
        ),
        (
            OmniSR,
            {"num_in_ch": 3, "num_feat": 16, "upsampling": 3, "res_num": 2, "block_num": 2}
            | {"bias": True, "window_size": 6, "pe": True},
        ),
        (
            RCAN,
            {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_group": 3, "num_block": 2}
            | {"squeeze_factor": 4, "upscale": 8},
        ),
    ],
)
def test_arguments_are_read_off_the_keys(network, arguments):
    # Their values matter to these alone.
    build = network if network in (ELAN, ESCRealM) else lambda **a: construct_meta(network, a)
    state = build(**arguments).state_dict()
    found = checkpoints.detect(state)
    assert found.network is network
    assert found.preset is None
    close = {"exp_ratio", "mlp_ratio"}
    for key, value in arguments.items():
        if key in close:
            assert found.arguments[key] == pytest.approx(value, rel=0.05)
        else:
            assert found.arguments[key] == value, key
    assert shapes(found.build_meta().state_dict()) == shapes(state)


@pytest.mark.parametrize("unshuffle_mod", [True, False])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("upsampler", UPSAMPLERS[1:])
def test_every_esc_real_m_is_known_by_its_keys(upsampler, scale, unshuffle_mod):
    network = create(
        "esc_real_m", scale, n_blocks=1, upsampler=upsampler, unshuffle_mod=unshuffle_mod
    )
    found = checkpoints.detect(network.state_dict())
    assert found.arguments["upscaling_factor"] == scale
    assert shapes(found.build().state_dict()) == shapes(network.state_dict())


@pytest.mark.parametrize(
    ("name", "scale"), [("esc_light", 2), ("hit_srf", 4), ("omnisr", 3), ("atd_light", 2)]
)
def test_what_does_not_fit_wholly_is_not_claimed(name, scale):
    state = build_meta(name, scale).state_dict()
    assert checkpoints.detect({**state, "another.weight": torch.zeros(1)}) is None
    some = next(key for key in reversed(state) if key.endswith("weight"))
    assert checkpoints.detect({k: v for k, v in state.items() if k != some}) is None
    other = torch.zeros(*state[some].shape, 2, device="meta")
    assert checkpoints.detect({**state, some: other}) is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("esc_light", "blocks.999999999.last.bias"),
        ("atd_light", "layers.0.residual_group.layers.999999999.norm1.bias"),
        ("omnisr", "residual_layer.999999999.esa.conv1.bias"),
    ],
)
def test_forged_numbers_of_blocks_are_not_built(name, key):
    state = build_meta(name, 2).state_dict()
    state[key] = torch.zeros(1)
    assert checkpoints.detect(state) is None


def test_a_training_state_is_refused_by_name(tmp_path):
    path = tmp_path / "5000.state"
    # As BasicSR saves it, the milestones of its scheduler with it.
    state = {"epoch": 1, "iter": 5000, "optimizers": [], "schedulers": [{"m": Counter([3])}]}
    torch.save(state, path)
    with pytest.raises(UserError, match=r"found a training state of BasicSR \(iteration 5000\)"):
        checkpoints.read_state_dict(path)
    with pytest.raises(UserError, match=r"models/net_g_5000\.pth"):
        checkpoints.open_weights(path)
