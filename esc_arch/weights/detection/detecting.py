"""From a state dict to its network: look for telling keys, read the arguments, compare."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from esc_arch.errors import UserError
from esc_arch.weights.detection.detected import Detected
from esc_arch.weights.detection.esc_family import read_esc, read_esc_fp
from esc_arch.weights.detection.own_peers import read_elan, read_hit_srf, read_mambairv2_light
from esc_arch.weights.detection.public_networks import (
    read_atd,
    read_omnisr,
    read_rcan,
    read_srformer,
    read_swinir,
)

__all__ = ["detect"]

_Reader = Callable[[Mapping[str, Tensor]], Detected]

_BLOCK = "layers.0.residual_group.blocks.0."
_LAYER = "layers.0.residual_group.layers.0."

# Keys that a network has and, together, none of the others, and what reads its arguments.
_NETWORKS: tuple[tuple[tuple[str, ...], _Reader], ...] = (
    (("lk_spatial", "lk_channel"), read_esc_fp),
    (("plk_filter",), read_esc),
    ((_BLOCK + "correlation.spatial_linear.weight", _BLOCK + "mlp.fc1.bias"), read_hit_srf),
    (("body.0.modules_lfe.lfe_0.conv0.shift_conv.weight", "sub_mean.bias"), read_elan),
    ((_LAYER + "assm.selectiveScan.A_logs", _LAYER + "embeddingA.weight"), read_mambairv2_light),
    ((_BLOCK + "attn.qkv.weight", _BLOCK + "attn.relative_position_index"), read_swinir),
    ((_BLOCK + "attn.aligned_relative_position_index", _BLOCK + "attn.kv.weight"), read_srformer),
    ((_LAYER + "attn_atd.scale", "relative_position_index_SA"), read_atd),
    (("residual_layer.0.residual_layer.0.layer.0.fn.0.weight", "up.0.weight"), read_omnisr),
    (("body.0.residual_group.0.rcab.0.weight", "conv_after_body.weight"), read_rcan),
)


def detect(state: Mapping[str, Tensor], only: type[nn.Module] | None = None) -> Detected | None:
    """The network that a state dict belongs to: of the ESC family, or of another preset's class.

    The arguments are read off keys and shapes, and the network that they make is compared with
    the state dict.  What is in neither, such as the side of ELAN's windows, is as published.

    Args:
        state: tensors by key, complete, in any dtype.
        only: the class that is asked for; None for all.

    Returns:
        The network and its arguments, or None when it is none of them, or another than was
        asked for.
    """
    for keys, read in _NETWORKS:
        if all(key in state for key in keys):
            try:
                found = read(state)
                if only not in (None, found.network):
                    return None
                return found if _fits(found, state) else None
            except Exception:  # another network with a few of the keys may be anything
                return None
    return None


def _fits(found: Detected, state: Mapping[str, Tensor]) -> bool:
    try:
        own = found.outline().state_dict()
    except UserError:
        # The package that implements it is not installed: the keys have to do.
        return True
    return own.keys() == state.keys() and all(own[k].shape == state[k].shape for k in own)
