"""HiT-SRF, ELAN and MambaIRv2-light, which this package implements, by their keys."""

import inspect
from collections.abc import Mapping
from math import isqrt

from torch import Tensor

from esc_arch.archs.elan_arch import ELAN, RGB_MEAN
from esc_arch.archs.hit_srf_arch import HiT_SRF
from esc_arch.archs.mambairv2_light_arch import MambaIRv2Light
from esc_arch.weights.detection.detected import Detected
from esc_arch.weights.detection.shapes import count, expansion, whole_root

__all__ = ["read_elan", "read_hit_srf", "read_mambairv2_light"]

# Of the colours inside the network, in public networks.
_RGB_RANGES = (1.0, 255.0)


def read_hit_srf(state: Mapping[str, Tensor]) -> Detected:
    """HiT_SRF.  Its base window is not in its keys; nor are windows smaller than that."""
    embed_dim, in_chans = state["conv_first.weight"].shape[:2]
    groups = range(count(state, "layers."))
    block = "layers.{}.residual_group.blocks.{}.{}"
    depths = [count(state, f"layers.{i}.residual_group.blocks.") for i in groups]
    deepest = depths.index(max(depths))
    # Pixels of a window for one of its base window: windows up to the base have one.
    areas = [
        state[block.format(deepest, i, "correlation.spatial_linear.weight")].numel()
        for i in range(max(depths))
    ]
    ratios = inspect.signature(HiT_SRF).parameters["hier_win_ratios"].default
    if areas != [max(int(ratio), 1) ** 2 for ratio in ratios[: len(areas)]]:
        ratios = tuple(whole_root(area) for area in areas)
    hidden = len(state[block.format(0, 0, "mlp.fc1.bias")])
    return Detected(
        HiT_SRF,
        {
            "in_chans": in_chans,
            "embed_dim": embed_dim,
            "depths": tuple(depths),
            "num_heads": tuple(
                len(state[block.format(i, 0, "correlation.pos.pos3.2.bias")]) for i in groups
            ),
            "mlp_ratio": expansion(hidden, embed_dim),
            "patch_norm": "patch_embed.norm.weight" in state,
            "upscale": isqrt(len(state["upsample.0.bias"]) // in_chans),
            "hier_win_ratios": ratios,
        },
    )


def read_elan(state: Mapping[str, Tensor]) -> Detected:
    """ELAN.  The sides of its windows are not in its keys."""
    n_share = count(state, "body.0.modules_lfe.lfe_") - 1
    c_elan = len(state["head.0.bias"])
    hidden = len(state["body.0.modules_lfe.lfe_0.conv0.shift_conv.conv1x1.bias"])
    return Detected(
        ELAN,
        {
            "scale": isqrt(len(state["tail.0.bias"]) // 3),
            "m_elan": count(state, "body.") * (1 + n_share),
            "c_elan": c_elan,
            "n_share": n_share,
            "r_expand": hidden // c_elan,
            "rgb_range": _range(state["sub_mean.bias"]),
        },
    )


def _range(sub_mean_bias: Tensor) -> float:
    found = -sub_mean_bias[0].item() / RGB_MEAN[0]
    # Stored in half precision it is off by up to one in 256.
    return next((r for r in _RGB_RANGES if abs(found - r) < r / 256), round(found, 2))


def read_mambairv2_light(state: Mapping[str, Tensor]) -> Detected:
    """MambaIRv2Light."""
    embed_dim, in_chans = state["conv_first.weight"].shape[:2]
    groups = range(count(state, "layers."))
    layer = "layers.{}.residual_group.layers.0.{}"
    table = "win_mhsa.relative_position_bias_table"
    num_tokens, inner_rank = state[layer.format(0, "assm.embeddingB.weight")].shape
    hidden = len(state[layer.format(0, "convffn1.fc1.bias")])
    return Detected(
        MambaIRv2Light,
        {
            "in_chans": in_chans,
            "embed_dim": embed_dim,
            "d_state": state[layer.format(0, "embeddingA.weight")].shape[1],
            "depths": tuple(count(state, f"layers.{i}.residual_group.layers.") for i in groups),
            "num_heads": tuple(state[layer.format(i, table)].shape[1] for i in groups),
            "window_size": (whole_root(len(state[layer.format(0, table)])) + 1) // 2,
            "inner_rank": inner_rank,
            "num_tokens": num_tokens,
            "mlp_ratio": expansion(hidden, embed_dim),
            "qkv_bias": layer.format(0, "wqkv.bias") in state,
            "patch_norm": "patch_embed.norm.weight" in state,
            "upscale": whole_root(len(state["upsample.0.bias"]) // in_chans),
        },
    )
