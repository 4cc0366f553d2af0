"""The one table of presets: the published networks by name."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from esc_arch.archs.atd_arch import ATD
from esc_arch.archs.basicsr_networks import RCAN, SwinIR
from esc_arch.archs.elan_arch import ELAN
from esc_arch.archs.esc_arch import ESC
from esc_arch.archs.esc_fp_arch import ESCFP
from esc_arch.archs.esc_lte_arch import ESCLTE
from esc_arch.archs.esc_real_arch import ESCReal, ESCRealM
from esc_arch.archs.hit_srf_arch import HiT_SRF
from esc_arch.archs.mambairv2_light_arch import MambaIRv2Light
from esc_arch.archs.omnisr_arch import OmniSR
from esc_arch.archs.srformer_arch import SRFormer
from esc_arch.errors import UserError
from esc_arch.layers.rgb_mean import RGB_MEAN


@dataclass(frozen=True)
class Preset:
    """A published network.

    Attributes:
        network: its class.
        arguments: of the constructor, without the scale.
        scales: for which it was published.
        scale_argument: what the constructor calls the scale.
    """

    network: type[nn.Module]
    arguments: Mapping[str, Any]
    scales: tuple[int, ...]
    scale_argument: str = "upscaling_factor"


_ESC = {
    "dim": 64,
    "pdim": 16,
    "kernel_size": 13,
    "n_blocks": 5,
    "conv_blocks": 5,
    "window_size": 32,
    "num_heads": 4,
    "exp_ratio": 1.25,
}
_ESC_XL = {
    **_ESC,
    "dim": 192,
    "pdim": 48,
    "n_blocks": 8,
    "window_size": 48,
    "num_heads": 12,
    "use_ln": True,
}
_ESC_REAL = {**_ESC, "n_blocks": 10, "exp_ratio": 2}
_ESC_LTE = {**_ESC, "hidden_dim": 256}

# Of the public option files.  What those of SwinIR and of its successors have in common:
_SWINIR_FRAME = {
    "in_chans": 3,
    "img_size": 64,
    "img_range": 1.0,
    "upsampler": "pixelshuffledirect",
    "resi_connection": "1conv",
}
_SWINIR_LIGHT = {
    **_SWINIR_FRAME,
    "window_size": 8,
    "depths": (6, 6, 6, 6),
    "embed_dim": 60,
    "num_heads": (6, 6, 6, 6),
    "mlp_ratio": 2,
}
_SRFORMER_LIGHT = {**_SWINIR_LIGHT, "window_size": 16}
_HIT_SRF = {
    **_SWINIR_FRAME,
    "base_win_size": (8, 8),
    "hier_win_ratios": (0.5, 1, 2, 4, 6, 8),
    "depths": (6, 6, 6, 6),
    "embed_dim": 60,
    "num_heads": (6, 6, 6, 6),
    "mlp_ratio": 2,
}
_ATD_LIGHT = {
    **_SWINIR_FRAME,
    "embed_dim": 48,
    "depths": (6, 6, 6, 6),
    "num_heads": (4, 4, 4, 4),
    "window_size": 16,
    "category_size": 128,
    "num_tokens": 64,
    "reducted_dim": 8,
    "convffn_kernel_size": 7,
    "mlp_ratio": 1,
}
_MAMBAIRV2_LIGHT = {
    **_SWINIR_FRAME,
    "embed_dim": 48,
    "d_state": 8,
    "depths": (5, 5, 5, 5),
    "num_heads": (4, 4, 4, 4),
    "window_size": 16,
    "inner_rank": 32,
    "num_tokens": 64,
    "convffn_kernel_size": 5,
    "mlp_ratio": 1.0,
}
_ELAN_LIGHT = {
    "colors": 3,
    "window_sizes": (4, 8, 16),
    "m_elan": 24,
    "c_elan": 60,
    "n_share": 1,
    "r_expand": 2,
    "rgb_range": 255.0,
    "act_type": "relu",
}
_RCAN = {
    "num_in_ch": 3,
    "num_out_ch": 3,
    "num_feat": 64,
    "num_group": 10,
    "num_block": 20,
    "squeeze_factor": 16,
    "res_scale": 1,
    "img_range": 255.0,
    "rgb_mean": RGB_MEAN,
}
_OMNISR = {
    "num_feat": 64,
    "res_num": 5,
    "block_num": 1,
    "bias": True,
    "block_script_name": "OSA",
    "block_class_name": "OSA_Block",
    "window_size": 8,
    "pe": True,
    "ffn_bias": True,
}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "esc": Preset(ESC, MappingProxyType(_ESC), (2, 3, 4)),
        "esc_light": Preset(ESC, MappingProxyType({**_ESC, "n_blocks": 3}), (2, 3, 4)),
        "esc_fp": Preset(ESCFP, MappingProxyType({**_ESC, "dim": 48, "num_heads": 3}), (2, 3, 4)),
        "esc_xl": Preset(ESC, MappingProxyType(_ESC_XL), (2, 3, 4)),
        "esc_real": Preset(ESCReal, MappingProxyType(_ESC_REAL), (4,)),
        "esc_real_dysample": Preset(
            ESCReal, MappingProxyType({**_ESC_REAL, "use_dysample": True}), (4,)
        ),
        "esc_real_m": Preset(ESCRealM, MappingProxyType(_ESC_REAL), (1, 2, 3, 4)),
        # For any scale; this is the one that it has where none is asked for.
        "esc_lte": Preset(ESCLTE, MappingProxyType(_ESC_LTE), (4,)),
        "swinir_light": Preset(SwinIR, MappingProxyType(_SWINIR_LIGHT), (2, 3, 4), "upscale"),
        "elan_light": Preset(ELAN, MappingProxyType(_ELAN_LIGHT), (2, 3, 4), "scale"),
        "omnisr": Preset(OmniSR, MappingProxyType(_OMNISR), (2, 3, 4), "upsampling"),
        "srformer_light": Preset(SRFormer, MappingProxyType(_SRFORMER_LIGHT), (2, 3, 4), "upscale"),
        "atd_light": Preset(ATD, MappingProxyType(_ATD_LIGHT), (2, 3, 4), "upscale"),
        "hit_srf": Preset(HiT_SRF, MappingProxyType(_HIT_SRF), (2, 3, 4), "upscale"),
        "mambairv2_light": Preset(
            MambaIRv2Light, MappingProxyType(_MAMBAIRV2_LIGHT), (2, 3, 4), "upscale"
        ),
        "rcan": Preset(RCAN, MappingProxyType(_RCAN), (2, 3, 4), "upscale"),
    }
)


def build(name: str, scale: int | None = None, **arguments: object) -> nn.Module:
    """A preset with initial weights.

    Args:
        name: key of :data:`PRESETS`.
        scale: upscaling factor; None for the only one that it is published for.
        arguments: replace or add constructor arguments, e.g. ``attn_type="naive"``.

    Returns:
        The network, in training mode as PyTorch builds it.

    Raises:
        UserError: when there is no preset of this name, or it has several scales and none is named.
        ValueError: when the arguments do not fit each other.
    """
    network, own = _preset(name, scale)
    return construct(network, {**own, **arguments})


def _preset(name: str, scale: int | None) -> tuple[type[nn.Module], dict[str, object]]:
    if name not in PRESETS:
        raise UserError(f"expected a preset: {', '.join(PRESETS)}; found {name!r}. Name one.")
    preset = PRESETS[name]
    if scale is None and len(preset.scales) > 1:
        raise UserError(
            f"{name}: expected a scale: {', '.join(map(str, preset.scales))}; found none. Name one."
        )
    scale = preset.scales[0] if scale is None else scale
    return preset.network, {**preset.arguments, preset.scale_argument: scale}


def construct(network: type[nn.Module], arguments: Mapping[str, object]) -> nn.Module:
    """A network of a preset's class, with initial weights.

    Raises:
        UserError: when the package that implements it is missing.
        ValueError: when the arguments do not fit each other.
    """
    with warnings.catch_warnings():
        # BasicSR's SwinIR and spandrel's networks call it in a way that is going to change.
        warnings.filterwarnings("ignore", message="torch.meshgrid")
        return network(**arguments)


def build_meta(name: str, scale: int) -> nn.Module:
    """A preset for its keys and shapes alone, without values where that works.

    Raises:
        UserError: as :func:`build`.
    """
    return construct_meta(*_preset(name, scale))


def construct_meta(network: type[nn.Module], arguments: Mapping[str, object]) -> nn.Module:
    """A network for its keys and shapes alone, without values where that works.

    Raises:
        UserError, ValueError: as :func:`construct`.
    """
    try:
        with torch.device("meta"):
            return construct(network, arguments)
    except (RuntimeError, TypeError):
        # The constructor reads values back from a tensor.
        return construct(network, arguments)
