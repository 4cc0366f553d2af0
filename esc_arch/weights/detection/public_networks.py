"""Networks that BasicSR, spandrel and spandrel_extra_arches implement, by their keys."""

from collections.abc import Mapping
from math import prod

from basicsr.archs.rcan_arch import RCAN
from basicsr.archs.swinir_arch import SwinIR
from torch import Tensor

from esc_arch.archs.atd_arch import ATD
from esc_arch.archs.omnisr_arch import OmniSR
from esc_arch.archs.srformer_arch import SRFormer
from esc_arch.weights.detection.detected import Argument, Detected
from esc_arch.weights.detection.shapes import count, expansion, whole_root

__all__ = ["read_atd", "read_omnisr", "read_rcan", "read_srformer", "read_swinir"]

_BLOCK = "layers.{}.residual_group.blocks.0.{}"
_TABLE = "attn.relative_position_bias_table"

# Side of the training images, where no buffer says it; without influence on the output.
_IMG_SIZE = 64


def read_swinir(state: Mapping[str, Tensor]) -> Detected:
    """SwinIR."""
    window = (whole_root(len(state[_BLOCK.format(0, _TABLE)])) + 1) // 2
    return Detected(
        SwinIR,
        {
            **_swin(state, window),
            "qkv_bias": _BLOCK.format(0, "attn.qkv.bias") in state,
            # The keys do not say it: the published networks against JPEG's artefacts, which
            # alone have such windows, compute with 255.
            "img_range": 255.0 if window == 7 else 1.0,
        },
    )


def read_srformer(state: Mapping[str, Tensor]) -> Detected:
    """SRFormer, whose table is of windows of half the side."""
    window = whole_root(len(state[_BLOCK.format(0, _TABLE)])) + 1
    qkv_bias = _BLOCK.format(0, "attn.q.bias") in state
    return Detected(SRFormer, {**_swin(state, window), "qkv_bias": qkv_bias})


def _swin(state: Mapping[str, Tensor], window: int) -> dict[str, Argument]:
    groups = range(count(state, "layers."))
    hidden = len(state[_BLOCK.format(0, "mlp.fc1.bias")])
    mask = state.get("layers.0.residual_group.blocks.1.attn_mask")
    return {
        **_frame(state),
        # A mask for each window of a training image; an image of one window has none.
        "img_size": window * (whole_root(len(mask)) if mask is not None else 1),
        "depths": tuple(count(state, f"layers.{i}.residual_group.blocks.") for i in groups),
        "num_heads": tuple(state[_BLOCK.format(i, _TABLE)].shape[1] for i in groups),
        "window_size": window,
        "mlp_ratio": expansion(hidden, len(state["conv_first.bias"])),
        "ape": "absolute_pos_embed" in state,
    }


def _frame(state: Mapping[str, Tensor]) -> dict[str, Argument]:
    """What SwinIR and its descendants share: the way in and the upsampler."""
    embed_dim, in_chans = state["conv_first.weight"].shape[:2]
    if "conv_up1.weight" in state:
        upsampler, scale = "nearest+conv", 4
    elif "conv_before_upsample.0.weight" in state:
        upsampler, scale = "pixelshuffle", _steps(state, "upsample.")
    elif "upsample.0.weight" in state:
        upsampler = "pixelshuffledirect"
        scale = whole_root(len(state["upsample.0.bias"]) // in_chans)
    else:
        upsampler, scale = "", 1
    return {
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "patch_norm": "patch_embed.norm.weight" in state,
        "resi_connection": "1conv" if "conv_after_body.weight" in state else "3conv",
        "upsampler": upsampler,
        "upscale": scale,
    }


def _steps(state: Mapping[str, Tensor], prefix: str) -> int:
    """The scale of a sequence of convolutions, each before a pixel shuffle."""
    shapes = [
        tensor.shape
        for key, tensor in state.items()
        if key.startswith(prefix) and key.endswith(".weight")
    ]
    return prod(whole_root(shape[0] // shape[1]) for shape in shapes)


def read_atd(state: Mapping[str, Tensor]) -> Detected:
    """ATD.  The size of its categories is not in its keys: it is that of the published ones."""
    frame = _frame(state)
    layer = "layers.{}.residual_group.layers.0.{}"
    table = "attn_win.relative_position_bias_table"
    groups = range(count(state, "layers."))
    light = frame["upsampler"] == "pixelshuffledirect" and frame["embed_dim"] == 48
    places = state.get("absolute_pos_embed")
    hidden = len(state[layer.format(0, "convffn.fc1.bias")])
    return Detected(
        ATD,
        {
            **frame,
            "img_size": _IMG_SIZE if places is None else whole_root(places.shape[1]),
            "depths": tuple(count(state, f"layers.{i}.residual_group.layers.") for i in groups),
            "num_heads": tuple(state[layer.format(i, table)].shape[1] for i in groups),
            "window_size": whole_root(len(state["relative_position_index_SA"])),
            "category_size": 128 if light else 256,
            "num_tokens": len(state[layer.format(0, "attn_atd.scale")]),
            "reducted_dim": len(state[layer.format(0, "attn_atd.wq.weight")]),
            "convffn_kernel_size": state[
                layer.format(0, "convffn.dwconv.depthwise_conv.0.weight")
            ].shape[-1],
            "mlp_ratio": expansion(hidden, frame["embed_dim"]),
            "qkv_bias": layer.format(0, "wqkv.bias") in state,
            "ape": places is not None,
            "norm": "no_norm" not in state,
        },
    )


def read_omnisr(state: Mapping[str, Tensor]) -> Detected:
    """OmniSR.  Without a bias by position the side of its windows is not in its keys."""
    num_feat, num_in_ch = state["input.weight"].shape[:2]
    table = state.get("residual_layer.0.residual_layer.0.layer.2.fn.rel_pos_bias.weight")
    return Detected(
        OmniSR,
        {
            "num_in_ch": num_in_ch,
            "num_out_ch": num_in_ch,
            "num_feat": num_feat,
            "upsampling": whole_root(len(state["up.0.weight"]) // num_in_ch),
            "res_num": count(state, "residual_layer."),
            "block_num": count(state, "residual_layer.0.residual_layer.") - 1,
            "bias": "input.bias" in state,
            "window_size": 8 if table is None else (whole_root(len(table)) + 1) // 2,
            "pe": table is not None,
        },
    )


def read_rcan(state: Mapping[str, Tensor]) -> Detected:
    """RCAN, as BasicSR names its parameters."""
    num_feat, num_in_ch = state["conv_first.weight"].shape[:2]
    squeezed = len(state["body.0.residual_group.0.rcab.3.attention.1.bias"])
    return Detected(
        RCAN,
        {
            "num_in_ch": num_in_ch,
            "num_out_ch": len(state["conv_last.bias"]),
            "num_feat": num_feat,
            "num_group": count(state, "body."),
            "num_block": count(state, "body.0.residual_group."),
            "squeeze_factor": num_feat // squeezed,
            "upscale": _steps(state, "upsample."),
        },
    )
