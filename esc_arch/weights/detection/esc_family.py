"""ESC, ESC-FP, ESC-Real and ESC-Real-M by their keys."""

from collections.abc import Mapping

from torch import Tensor, nn

from esc_arch.archs.esc_arch import ESC
from esc_arch.archs.esc_fp_arch import ESCFP
from esc_arch.archs.esc_real_arch import ESCReal, ESCRealM
from esc_arch.layers.upsamplers import UPSAMPLERS
from esc_arch.weights.detection.detected import Argument, Detected
from esc_arch.weights.detection.shapes import count, expansion, whole_root

__all__ = ["read_esc", "read_esc_fp"]


def read_esc_fp(state: Mapping[str, Tensor]) -> Detected:
    """ESCFP, known by ``lk_spatial``."""
    return _plain(ESCFP, state, state["lk_spatial"])


def read_esc(state: Mapping[str, Tensor]) -> Detected:
    """Those with a full large kernel, known by ``plk_filter``."""
    if "to_img.MetaUpsample" in state:
        return _real_m(state)
    if any(key.startswith("skip.") for key in state):
        return _real(state)
    return _plain(ESC, state, state["plk_filter"])


def _plain(network: type[nn.Module], state: Mapping[str, Tensor], kernel: Tensor) -> Detected:
    scale = whole_root(len(state["to_img.bias"]) // 3)
    arguments = _body(state, kernel) | {"upscaling_factor": scale}
    if network is ESC:
        arguments["use_ln"] = "blocks.0.lns.0.weight" in state
    return Detected(network, arguments)


def _real(state: Mapping[str, Tensor]) -> Detected:
    use_dysample = "to_img.offset.weight" in state
    # The offsets of DySample: two for each of four groups and r x r pixels.
    scale = whole_root(len(state["to_img.offset.weight"]) // 8) if use_dysample else 4
    arguments = _body(state, state["plk_filter"])
    return Detected(ESCReal, arguments | {"upscaling_factor": scale, "use_dysample": use_dysample})


def _real_m(state: Mapping[str, Tensor]) -> Detected:
    # Bytes, but for those who store every tensor in half precision.
    meta = [int(value) for value in state["to_img.MetaUpsample"].tolist()]
    _, upsampler, inner_scale, _, _, mid_dim, _ = meta
    unshuffle = whole_root(state["proj.1.weight"].shape[1] // 3) if "proj.1.weight" in state else 1
    arguments = _body(state, state["plk_filter"]) | {
        "upscaling_factor": inner_scale // unshuffle,
        "upsampler": UPSAMPLERS[upsampler],
        "mid_dim": mid_dim,
    }
    # Above x2 nothing is folded in either mode: then it is the default.
    arguments["unshuffle_mod"] = unshuffle > 1 or arguments["upscaling_factor"] > 2
    return Detected(ESCRealM, arguments)


def _body(state: Mapping[str, Tensor], kernel: Tensor) -> dict[str, Argument]:
    num_heads, offsets = state["blocks.0.attn.relative_position_bias"].shape
    dim = len(state["last.bias"])
    hidden = len(state["blocks.0.convffns.0.proj.bias"])
    return {
        "dim": dim,
        "pdim": kernel.shape[0],
        "kernel_size": kernel.shape[-1],
        "n_blocks": count(state, "blocks."),
        "conv_blocks": count(state, "blocks.0.pconvs."),
        "window_size": (whole_root(offsets) + 1) // 2,
        "num_heads": num_heads,
        "exp_ratio": expansion(hidden, dim),
    }
