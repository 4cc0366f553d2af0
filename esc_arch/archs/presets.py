"""The one table of presets: the published networks by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from esc_arch.archs.esc_arch import ESC
from esc_arch.archs.esc_fp_arch import ESCFP
from esc_arch.archs.esc_real_arch import ESCReal, ESCRealM
from esc_arch.errors import UserError


@dataclass(frozen=True)
class Preset:
    """A published network.

    Attributes:
        network: its class.
        arguments: of the constructor, without the scale.
        scales: for which it was published.
    """

    network: type[nn.Module]
    arguments: Mapping[str, int | float | bool | str]
    scales: tuple[int, ...]


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
    }
)


def build(name: str, scale: int, **arguments: object) -> nn.Module:
    """A preset with initial weights.

    Args:
        name: key of :data:`PRESETS`.
        scale: upscaling factor.
        arguments: replace or add constructor arguments, e.g. ``attn_type="naive"``.

    Returns:
        The network, in training mode as PyTorch builds it.

    Raises:
        UserError: when there is no preset of this name.
        ValueError: when the arguments do not fit each other.
    """
    if name not in PRESETS:
        raise UserError(f"expected a preset: {', '.join(PRESETS)}; found {name!r}. Name one.")
    preset = PRESETS[name]
    return preset.network(**{**preset.arguments, "upscaling_factor": scale, **arguments})
