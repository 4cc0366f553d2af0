"""Constructor arguments of every architecture, read off the keys and shapes of a state dict.

ATD, OmniSR and SRFormer are read by spandrel, which implements them.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from math import isqrt, prod
from typing import NamedTuple

from torch import Tensor, nn

from esc_arch.archs.atd_arch import ATD
from esc_arch.archs.basicsr_networks import ECBSR, EDSR, RCAN, MSRResNet, RRDBNet, SwinIR
from esc_arch.archs.elan_arch import ELAN
from esc_arch.archs.esc_arch import ESC
from esc_arch.archs.esc_fp_arch import ESCFP
from esc_arch.archs.esc_lte_arch import ESCLTE
from esc_arch.archs.esc_real_arch import ESCReal, ESCRealM
from esc_arch.archs.hit_srf_arch import HiT_SRF
from esc_arch.archs.mambairv2_light_arch import MambaIRv2Light
from esc_arch.archs.omnisr_arch import OmniSR
from esc_arch.archs.srformer_arch import SRFormer
from esc_arch.checkpoints.spandrel_networks import hyperparameters
from esc_arch.layers.rgb_mean import RGB_MEAN
from esc_arch.layers.upsamplers import UPSAMPLERS

__all__ = ["ARCHITECTURES", "ASSUMED", "Architecture", "Argument"]

Argument = int | float | bool | str | tuple[float, ...]
State = Mapping[str, Tensor]
Found = tuple[type[nn.Module], dict[str, Argument]]


class Architecture(NamedTuple):
    """How the networks of some classes are detected.

    Attributes:
        networks: the classes.
        keys: that their state dicts have and, together, no other one.
        read: from a state dict with these keys to the class and its arguments; raises any
            Exception for another network.
        is_complete: whether ``read`` compares all keys and shapes with the network's.
    """

    networks: tuple[type[nn.Module], ...]
    keys: tuple[str, ...]
    read: Callable[[State], Found]
    is_complete: bool = False


_BLOCK = "layers.{}.residual_group.blocks.{}.{}"
_LAYER = "layers.{}.residual_group.layers.0.{}"
_TABLE = "attn.relative_position_bias_table"

# Arguments that no key and no shape tells: those of the published networks are assumed.
ASSUMED = frozenset(("img_range", "category_size", "res_scale", "rgb_mean", "with_idt"))

# ELAN's input is multiplied by one of these in public networks.
_RGB_RANGES = (1.0, 255.0)


def _esc(state: State) -> Found:
    if "to_img.MetaUpsample" in state:
        return ESCRealM, _esc_real_m(state)
    if any(key.startswith("skip.") for key in state):
        return ESCReal, _esc_real(state)
    use_ln = "blocks.0.lns.0.weight" in state
    return ESC, _esc_plain(state, state["plk_filter"]) | {"use_ln": use_ln}


def _esc_fp(state: State) -> Found:
    return ESCFP, _esc_plain(state, state["lk_spatial"])


def _esc_lte(state: State) -> Found:
    encoder = {k.removeprefix("encoder."): t for k, t in state.items() if k.startswith("encoder.")}
    return ESCLTE, _esc_body(encoder, encoder["plk_filter"]) | {
        # Any: what it has where none is asked for.
        "upscaling_factor": 4,
        "use_ln": "blocks.0.lns.0.weight" in encoder,
        "hidden_dim": len(state["coef.bias"]),
    }


def _esc_plain(state: State, kernel: Tensor) -> dict[str, Argument]:
    scale = _square_root(len(state["to_img.bias"]) // 3)
    return _esc_body(state, kernel) | {"upscaling_factor": scale}


def _esc_real(state: State) -> dict[str, Argument]:
    use_dysample = "to_img.offset.weight" in state
    # DySample has two offsets for each of four groups and r x r pixels.
    scale = _square_root(len(state["to_img.offset.weight"]) // 8) if use_dysample else 4
    arguments = _esc_body(state, state["plk_filter"])
    return arguments | {"upscaling_factor": scale, "use_dysample": use_dysample}


def _esc_real_m(state: State) -> dict[str, Argument]:
    # Bytes; files may store every tensor in half precision.
    meta = [int(value) for value in state["to_img.MetaUpsample"].tolist()]
    _, upsampler, inner_scale, _, _, mid_dim, _ = meta
    unshuffle = 1
    if "proj.1.weight" in state:
        unshuffle = _square_root(state["proj.1.weight"].shape[1] // 3)
    scale = inner_scale // unshuffle
    return _esc_body(state, state["plk_filter"]) | {
        "upscaling_factor": scale,
        "upsampler": UPSAMPLERS[upsampler],
        "mid_dim": mid_dim,
        # Above x2 nothing is folded in either mode: then it is the default.
        "unshuffle_mod": unshuffle > 1 or scale > 2,
    }


def _esc_body(state: State, kernel: Tensor) -> dict[str, Argument]:
    num_heads, offsets = state["blocks.0.attn.relative_position_bias"].shape
    dim = len(state["last.bias"])
    hidden = len(state["blocks.0.convffns.0.proj.bias"])
    return {
        "dim": dim,
        "pdim": kernel.shape[0],
        "kernel_size": kernel.shape[-1],
        "n_blocks": _count(state, "blocks."),
        "conv_blocks": _count(state, "blocks.0.pconvs."),
        "window_size": (_square_root(offsets) + 1) // 2,
        "num_heads": num_heads,
        "exp_ratio": _expansion(hidden, dim),
    }


def _hit_srf(state: State) -> Found:
    # The base window is not in its keys; nor are windows smaller than that.
    embed_dim, in_chans = state["conv_first.weight"].shape[:2]
    groups = range(_count(state, "layers."))
    depths = [_count(state, f"layers.{i}.residual_group.blocks.") for i in groups]
    deepest = depths.index(max(depths))
    # Window areas in units of the base window's; windows up to the base have one.
    areas = [
        state[_BLOCK.format(deepest, i, "correlation.spatial_linear.weight")].numel()
        for i in range(max(depths))
    ]
    ratios = inspect.signature(HiT_SRF).parameters["hier_win_ratios"].default
    if areas != [max(int(ratio), 1) ** 2 for ratio in ratios[: len(areas)]]:
        ratios = tuple(_square_root(area) for area in areas)
    return HiT_SRF, {
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": tuple(depths),
        "num_heads": tuple(
            len(state[_BLOCK.format(i, 0, "correlation.pos.pos3.2.bias")]) for i in groups
        ),
        "mlp_ratio": _expansion(len(state[_BLOCK.format(0, 0, "mlp.fc1.bias")]), embed_dim),
        "patch_norm": "patch_embed.norm.weight" in state,
        "upscale": isqrt(len(state["upsample.0.bias"]) // in_chans),
        "hier_win_ratios": ratios,
    }


def _elan(state: State) -> Found:
    # The sides of its windows are not in its keys.
    n_share = _count(state, "body.0.modules_lfe.lfe_") - 1
    c_elan = len(state["head.0.bias"])
    hidden = len(state["body.0.modules_lfe.lfe_0.conv0.shift_conv.conv1x1.bias"])
    rgb_range = -state["sub_mean.bias"][0].item() / RGB_MEAN[0]
    # In half precision it is off by up to one in 256.
    near = (r for r in _RGB_RANGES if abs(rgb_range - r) < r / 256)
    return ELAN, {
        "scale": isqrt(len(state["tail.0.bias"]) // 3),
        "m_elan": _count(state, "body.") * (1 + n_share),
        "c_elan": c_elan,
        "n_share": n_share,
        "r_expand": hidden // c_elan,
        "rgb_range": next(near, round(rgb_range, 2)),
    }


def _mambairv2_light(state: State) -> Found:
    embed_dim, in_chans = state["conv_first.weight"].shape[:2]
    groups = range(_count(state, "layers."))
    table = "win_mhsa.relative_position_bias_table"
    num_tokens, inner_rank = state[_LAYER.format(0, "assm.embeddingB.weight")].shape
    return MambaIRv2Light, {
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "d_state": state[_LAYER.format(0, "embeddingA.weight")].shape[1],
        "depths": tuple(_count(state, f"layers.{i}.residual_group.layers.") for i in groups),
        "num_heads": tuple(state[_LAYER.format(i, table)].shape[1] for i in groups),
        "window_size": (_square_root(len(state[_LAYER.format(0, table)])) + 1) // 2,
        "inner_rank": inner_rank,
        "num_tokens": num_tokens,
        "mlp_ratio": _expansion(len(state[_LAYER.format(0, "convffn1.fc1.bias")]), embed_dim),
        "qkv_bias": _LAYER.format(0, "wqkv.bias") in state,
        "patch_norm": "patch_embed.norm.weight" in state,
        "upscale": _square_root(len(state["upsample.0.bias"]) // in_chans),
    }


def _swinir(state: State) -> Found:
    embed_dim, in_chans = state["conv_first.weight"].shape[:2]
    groups = range(_count(state, "layers."))
    window = (_square_root(len(state[_BLOCK.format(0, 0, _TABLE)])) + 1) // 2
    mask = state.get("layers.0.residual_group.blocks.1.attn_mask")
    embedding = state.get("absolute_pos_embed")
    # A mask for each window of a training image; an image of one window has none.
    side = window * (_square_root(len(mask)) if mask is not None else 1)
    upsampler, scale = "", 1
    if "conv_up1.weight" in state:
        upsampler, scale = "nearest+conv", 4
    elif "conv_before_upsample.0.weight" in state:
        upsampler, scale = "pixelshuffle", _pixel_shuffles(state, "upsample.")
    elif "upsample.0.weight" in state:
        upsampler = "pixelshuffledirect"
        scale = _square_root(len(state["upsample.0.bias"]) // in_chans)
    return SwinIR, {
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "patch_norm": "patch_embed.norm.weight" in state,
        "resi_connection": "1conv" if "conv_after_body.weight" in state else "3conv",
        "upsampler": upsampler,
        "upscale": scale,
        "img_size": side if embedding is None else _square_root(embedding.shape[1]),
        "depths": tuple(_count(state, f"layers.{i}.residual_group.blocks.") for i in groups),
        "num_heads": tuple(state[_BLOCK.format(i, 0, _TABLE)].shape[1] for i in groups),
        "window_size": window,
        "mlp_ratio": _expansion(len(state[_BLOCK.format(0, 0, "mlp.fc1.bias")]), embed_dim),
        "ape": "absolute_pos_embed" in state,
        "qkv_bias": _BLOCK.format(0, 0, "attn.qkv.bias") in state,
        # Not in the keys: the published networks against JPEG artefacts, which alone have such
        # windows, compute with 255.
        "img_range": 255.0 if window == 7 else 1.0,
    }


def _rcan(state: State) -> Found:
    """RCAN, as BasicSR names its parameters."""
    num_feat, num_in_ch = state["conv_first.weight"].shape[:2]
    return RCAN, {
        "num_in_ch": num_in_ch,
        "num_out_ch": len(state["conv_last.bias"]),
        "num_feat": num_feat,
        "num_group": _count(state, "body."),
        "num_block": _count(state, "body.0.residual_group."),
        "squeeze_factor": num_feat // len(state["body.0.residual_group.0.rcab.3.attention.1.bias"]),
        "upscale": _pixel_shuffles(state, "upsample."),
    }


def _edsr(state: State) -> Found:
    num_feat, num_in_ch = state["conv_first.weight"].shape[:2]
    if num_in_ch != 3:
        raise ValueError("it subtracts a mean of three channels")
    defaults = inspect.signature(EDSR).parameters
    return EDSR, {
        "num_in_ch": num_in_ch,
        "num_out_ch": len(state["conv_last.bias"]),
        "num_feat": num_feat,
        "num_block": _count(state, "body."),
        "upscale": _pixel_shuffles(state, "upsample."),
        # The published networks of 256 features have 0.1, the others 1.
        "res_scale": 0.1 if num_feat == 256 else 1.0,
        "img_range": defaults["img_range"].default,
        "rgb_mean": defaults["rgb_mean"].default,
    }


def _msrresnet(state: State) -> Found:
    num_feat, num_in_ch = state["conv_first.weight"].shape[:2]
    is_x4 = "upconv2.weight" in state
    return MSRResNet, {
        "num_in_ch": num_in_ch,
        "num_out_ch": len(state["conv_last.bias"]),
        "num_feat": num_feat,
        "num_block": _count(state, "body."),
        "upscale": 4 if is_x4 else _square_root(len(state["upconv1.bias"]) // num_feat),
    }


def _rrdbnet(state: State) -> Found:
    num_grow_ch = len(state["body.0.rdb1.conv1.bias"])
    if num_grow_ch == 32:
        raise ValueError("spandrel knows it as ESRGAN, and files are labelled so")
    num_out_ch = len(state["conv_last.bias"])
    num_feat, channels = state["conv_first.weight"].shape[:2]
    # Images are folded before a network of x4.
    fold = _square_root(channels // num_out_ch)
    return RRDBNet, {
        "num_in_ch": channels // fold**2,
        "num_out_ch": num_out_ch,
        "scale": 4 // fold,
        "num_feat": num_feat,
        "num_block": _count(state, "body."),
        "num_grow_ch": num_grow_ch,
    }


def _ecbsr(state: State) -> Found:
    blocks = _count(state, "backbone.")
    num_channel, num_in_ch = state["backbone.0.conv3x3.weight"].shape[:2]
    last = len(state[f"backbone.{blocks - 1}.conv3x3.bias"])
    return ECBSR, {
        "num_in_ch": num_in_ch,
        "num_out_ch": num_in_ch,
        "num_block": blocks - 2,
        "num_channel": num_channel,
        # An identity has no parameters, the other activations have none either.
        "with_idt": False,
        "act_type": "prelu",
        "scale": _square_root(last // num_in_ch),
    }


def _of_spandrel(network: type[nn.Module], state: State) -> Found:
    found = hyperparameters(network.__name__, state)
    # The public option files of OmniSR call it so.
    found["upsampling"] = found.get("up_scale")
    names = inspect.signature(network).parameters
    # As JSON holds them: no None, no classes.
    return network, {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in found.items()
        if name in names and isinstance(value, (int, float, str, list, tuple))
    }


_BLOCK_0, _LAYER_0 = _BLOCK.format(0, 0, ""), _LAYER.format(0, "")

ARCHITECTURES = (
    Architecture((ESCFP,), ("lk_spatial", "lk_channel"), _esc_fp),
    Architecture((ESC, ESCReal, ESCRealM), ("plk_filter",), _esc),
    Architecture((ESCLTE,), ("encoder.plk_filter", "imnet.layers.0.weight"), _esc_lte),
    Architecture((HiT_SRF,), (_BLOCK_0 + "correlation.spatial_linear.weight",), _hit_srf),
    Architecture((ELAN,), ("body.0.modules_lfe.lfe_0.conv0.shift_conv.weight",), _elan),
    Architecture((MambaIRv2Light,), (_LAYER_0 + "assm.selectiveScan.A_logs",), _mambairv2_light),
    Architecture(
        (SwinIR,),
        (_BLOCK_0 + "attn.qkv.weight", _BLOCK_0 + "attn.relative_position_index"),
        _swinir,
    ),
    Architecture((EDSR,), ("conv_after_body.weight", "body.0.conv1.weight"), _edsr),
    Architecture(
        (MSRResNet,), ("upconv1.weight", "conv_hr.weight", "body.0.conv1.weight"), _msrresnet
    ),
    Architecture((RRDBNet,), ("conv_body.weight", "body.0.rdb1.conv1.bias"), _rrdbnet),
    Architecture((ECBSR,), ("backbone.0.conv1x1_sbx.scale",), _ecbsr),
    Architecture((RCAN,), ("body.0.residual_group.0.rcab.0.weight",), _rcan),
    *(
        Architecture((network,), (key,), partial(_of_spandrel, network), is_complete=True)
        for network, key in (
            (SRFormer, _BLOCK_0 + "attn.aligned_relative_position_index"),
            (ATD, "relative_position_index_SA"),
            (OmniSR, "residual_layer.0.residual_layer.0.layer.0.fn.0.weight"),
        )
    ),
)


def _pixel_shuffles(state: State, prefix: str) -> int:
    """The scale of a sequence of convolutions, each before a pixel shuffle."""
    shapes = [
        tensor.shape
        for key, tensor in state.items()
        if key.startswith(prefix) and key.endswith(".weight")
    ]
    return prod(_square_root(shape[0] // shape[1]) for shape in shapes)


def _count(state: State, prefix: str) -> int:
    """How many numbers, from 0 on, follow the prefix.

    Raises:
        ValueError: when one is left out, or there is none.
    """
    numbers = {int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)}
    # A network of as many blocks as one forged key says might not fit into memory.
    if not numbers or max(numbers) + 1 != len(numbers):
        raise ValueError(f"the keys {prefix}* are not numbered from 0 on")
    return len(numbers)


def _expansion(hidden: int, dim: int) -> float:
    """The ratio that makes ``hidden`` channels of ``dim``."""
    ratio = hidden / dim
    # The networks truncate the product, which may be one too small.
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def _square_root(area: int) -> int:
    """The side of a square.

    Raises:
        ValueError: when there is no such square.
    """
    side = isqrt(area)
    if side * side != area:
        raise ValueError(f"{area} is not a square")
    return side
