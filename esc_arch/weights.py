"""Checkpoints: knowing a network by its keys, loading it.

A state dict of the ESC family, of HiT-SRF and of ELAN names its hyper-parameters by its keys
and shapes, so a checkpoint says which network it is, whatever its file is called.  Of the
other networks the presets are known.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import isqrt
from pathlib import Path

from torch import Size, Tensor, nn

from esc_arch.archs.elan_arch import ELAN, range_of
from esc_arch.archs.esc_arch import ESC
from esc_arch.archs.esc_fp_arch import ESCFP
from esc_arch.archs.esc_real_arch import ESCReal, ESCRealM
from esc_arch.archs.hit_srf_arch import HiT_SRF
from esc_arch.archs.presets import PRESETS, build, outline
from esc_arch.checkpoint_files import read_state_dict
from esc_arch.errors import UserError
from esc_arch.layers.uni_upsample import UPSAMPLERS

_FAMILY = (ESC, ESCFP, ESCReal, ESCRealM)

# Which no other network has both of.
_HIT_SRF_KEYS = (
    "layers.0.residual_group.blocks.0.correlation.spatial_linear.weight",
    "layers.0.residual_group.blocks.0.mlp.dwconv.depthwise_conv.0.weight",
)


@dataclass(frozen=True)
class Detected:
    """What a state dict is a network of.

    Attributes:
        network: its class.
        arguments: with which it was built, the scale included.
    """

    network: type[nn.Module]
    arguments: Mapping[str, int | float | bool | str | tuple[float, ...]]

    @property
    def scale(self) -> int:
        """The upscaling factor."""
        return next(
            self.arguments[preset.scale_argument]
            for preset in PRESETS.values()
            if preset.network is self.network
        )

    @property
    def preset(self) -> str | None:
        """The preset with these arguments, whatever its scale."""
        for name, preset in PRESETS.items():
            if preset.network is not self.network:
                continue
            own = {k: v for k, v in self.arguments.items() if k != preset.scale_argument}
            if _with_defaults(self.network, preset.arguments) == _with_defaults(self.network, own):
                return name
        return None

    def __str__(self) -> str:
        scale = f"x{self.scale}"
        if self.preset:
            return f"{self.preset} {scale}"
        known = ("dim", "n_blocks", "conv_blocks", "window_size", "embed_dim", "depths")
        known += ("c_elan", "m_elan", "rgb_range")
        sizes = ", ".join(f"{n} {self.arguments[n]}" for n in known if n in self.arguments)
        return f"{self.network.__name__} {scale} ({sizes})"


def load(network: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into the network that it was saved from.

    Unlike ``load_state_dict`` in training, a checkpoint of another scale is refused: its
    upsampler would have to be trained anew.

    Args:
        network: of any kind.
        path: see :func:`read_state_dict`.

    Raises:
        UserError: when the checkpoint is of another network or scale, naming it.
    """
    state = read_state_dict(path)
    own = network.state_dict()
    unlike = [key for key in own if key not in state or state[key].shape != own[key].shape]
    unlike += [key for key in state if key not in own]
    if not unlike:
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
            raise UserError(
                f"{path}: expected the parameters of this {type(network).__name__}; found those "
                f"of another: {reason}. Name its own checkpoint, or build the network that the "
                "checkpoint is of."
            ) from error
        return
    expected, found = detect(own), detect(state)
    more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
    raise UserError(
        f"{path}: expected the parameters of {expected or type(network).__name__}; found those "
        f"of {found or 'a network that is neither of the ESC family nor a preset'}; they differ in "
        f"{', '.join(unlike[:3])}{more}. Name its own checkpoint, or build the network that "
        "the checkpoint is of."
    )


def detect(state: Mapping[str, Tensor]) -> Detected | None:
    """The network that a state dict belongs to: of the ESC family, or another preset.

    Args:
        state: tensors by key, complete.

    Returns:
        The network and its arguments, or None when it is none of them.
    """
    try:
        if "lk_spatial" in state:
            return _plain(ESCFP, state, state["lk_spatial"])
        if all(key in state for key in _HIT_SRF_KEYS):
            return _hit_srf(state)
        if "body.0.modules_lfe.lfe_0.conv0.shift_conv.weight" in state:
            return _elan(state)
        if "plk_filter" not in state:
            return _other_preset(state)
        if "to_img.MetaUpsample" in state:
            return _real_m(state)
        if any(key.startswith("skip.") for key in state):
            return _real(state)
        return _plain(ESC, state, state["plk_filter"])
    except (KeyError, IndexError, ValueError):
        return None


def _hit_srf(state: Mapping[str, Tensor]) -> Detected:
    embed_dim, in_chans = state["conv_first.weight"].shape[:2]
    groups = range(_count(state, "layers."))
    block = "layers.{}.residual_group.blocks.0.{}"
    depths = [_count(state, f"layers.{i}.residual_group.blocks.") for i in groups]
    deepest = depths.index(max(depths))
    # Pixels of a window for one of its base window: windows up to the base have one.
    areas = [
        state[
            f"layers.{deepest}.residual_group.blocks.{i}.correlation.spatial_linear.weight"
        ].numel()
        for i in range(max(depths))
    ]
    ratios = inspect.signature(HiT_SRF).parameters["hier_win_ratios"].default
    if areas != [max(int(ratio), 1) ** 2 for ratio in ratios[: len(areas)]]:
        ratios = tuple(isqrt(area) for area in areas)
    hidden = len(state[block.format(0, "mlp.fc1.bias")])
    return Detected(
        HiT_SRF,
        {
            "in_chans": in_chans,
            "embed_dim": embed_dim,
            "depths": tuple(depths),
            "num_heads": tuple(
                len(state[block.format(i, "correlation.pos.pos3.2.bias")]) for i in groups
            ),
            "mlp_ratio": _ratio(hidden, embed_dim),
            "patch_norm": "patch_embed.norm.weight" in state,
            "upscale": isqrt(len(state["upsample.0.bias"]) // in_chans),
            "hier_win_ratios": ratios,
        },
    )


def _elan(state: Mapping[str, Tensor]) -> Detected:
    n_share = _count(state, "body.0.modules_lfe.lfe_") - 1
    c_elan = len(state["head.0.bias"])
    hidden = len(state["body.0.modules_lfe.lfe_0.conv0.shift_conv.conv1x1.bias"])
    return Detected(
        ELAN,
        {
            "scale": isqrt(len(state["tail.0.bias"]) // 3),
            "m_elan": _count(state, "body.") * (1 + n_share),
            "c_elan": c_elan,
            "n_share": n_share,
            "r_expand": hidden // c_elan,
            "rgb_range": range_of(state["sub_mean.bias"]),
        },
    )


def _other_preset(state: Mapping[str, Tensor]) -> Detected | None:
    own = {key: tensor.shape for key, tensor in state.items()}
    for name, preset in PRESETS.items():
        if preset.network in _FAMILY:
            continue
        for scale in preset.scales:
            if _shapes(name, scale) == own:
                return Detected(preset.network, {**preset.arguments, preset.scale_argument: scale})
    return None


@cache
def _shapes(name: str, scale: int) -> dict[str, Size] | None:
    """Of the state dict of a preset; None when the package that it needs is missing."""
    try:
        return {key: tensor.shape for key, tensor in outline(name, scale).state_dict().items()}
    except UserError:
        return None


def _plain(network: type[nn.Module], state: Mapping[str, Tensor], kernel: Tensor) -> Detected:
    arguments = _body(state, kernel) | {"upscaling_factor": isqrt(len(state["to_img.bias"]) // 3)}
    if network is ESC:
        arguments["use_ln"] = "blocks.0.lns.0.weight" in state
    return Detected(network, arguments)


def _real(state: Mapping[str, Tensor]) -> Detected:
    use_dysample = "to_img.offset.weight" in state
    # The offsets of DySample: two for each of four groups and r x r pixels.
    scale = isqrt(len(state["to_img.offset.weight"]) // 8) if use_dysample else 4
    arguments = _body(state, state["plk_filter"])
    return Detected(ESCReal, arguments | {"upscaling_factor": scale, "use_dysample": use_dysample})


def _real_m(state: Mapping[str, Tensor]) -> Detected:
    _, upsampler, inner_scale, _, _, mid_dim, _ = state["to_img.MetaUpsample"].tolist()
    unshuffle = isqrt(state["proj.1.weight"].shape[1] // 3) if "proj.1.weight" in state else 1
    arguments = _body(state, state["plk_filter"]) | {
        "upscaling_factor": inner_scale // unshuffle,
        "upsampler": UPSAMPLERS[upsampler],
        "mid_dim": mid_dim,
    }
    # Above x2 nothing is folded in either mode: then it is the default.
    arguments["unshuffle_mod"] = unshuffle > 1 or arguments["upscaling_factor"] > 2
    return Detected(ESCRealM, arguments)


def _body(state: Mapping[str, Tensor], kernel: Tensor) -> dict[str, int | float | bool | str]:
    num_heads, offsets = state["blocks.0.attn.relative_position_bias"].shape
    dim = len(state["last.bias"])
    hidden = len(state["blocks.0.convffns.0.proj.bias"])
    return {
        "dim": dim,
        "pdim": kernel.shape[0],
        "kernel_size": kernel.shape[-1],
        "n_blocks": _count(state, "blocks."),
        "conv_blocks": _count(state, "blocks.0.pconvs."),
        "window_size": (isqrt(offsets) + 1) // 2,
        "num_heads": num_heads,
        "exp_ratio": _ratio(hidden, dim),
    }


def _ratio(hidden: int, dim: int) -> float:
    """The expansion that makes ``hidden`` channels of ``dim``."""
    ratio = hidden / dim
    # The networks cut the product off, and its last digit may be one too small.
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix))


def _with_defaults(network: type[nn.Module], arguments: Mapping[str, object]) -> dict:
    """The arguments that decide keys and shapes, defaults filled in."""
    parameters = inspect.signature(network).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    complete = {**defaults, **arguments}
    complete.pop("attn_type", None)
    return complete


def create(
    name: str, scale: int, weights: str | Path | None = None, **arguments: object
) -> nn.Module:
    """Build a preset, with trained weights when a checkpoint is named.

    Args:
        name: key of :data:`esc_arch.PRESETS`.
        scale: upscaling factor.
        weights: a .pth or .safetensors file of this network and scale; initial weights
            when None.
        arguments: replace or add constructor arguments, e.g. ``attn_type="naive"``.

    Returns:
        The network on the CPU, in training mode as PyTorch builds it.

    Raises:
        UserError: when there is no preset of this name, or the checkpoint is missing,
            broken, or of another network or scale.
        ValueError: when the arguments do not fit each other.
    """
    network = build(name, scale, **arguments)
    if weights is not None:
        load(network, weights)
    return network
