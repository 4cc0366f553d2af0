"""The one table of presets: the published networks by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from esc_arch.archs.esc_arch import ESC


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

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "esc": Preset(ESC, MappingProxyType(_ESC), (2, 3, 4)),
        "esc_light": Preset(ESC, MappingProxyType({**_ESC, "n_blocks": 3}), (2, 3, 4)),
        "esc_xl": Preset(ESC, MappingProxyType(_ESC_XL), (2, 3, 4)),
    }
)


def create(name: str, scale: int, **arguments: object) -> nn.Module:
    """Build a preset with initial weights.

    Args:
        name: key of :data:`PRESETS`.
        scale: upscaling factor.
        arguments: replace or add constructor arguments, e.g. ``attn_type="naive"``.

    Returns:
        The network, in training mode as PyTorch builds it.

    Raises:
        ValueError: when there is no preset of this name.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; known are {', '.join(PRESETS)}")
    preset = PRESETS[name]
    return preset.network(**{**preset.arguments, "upscaling_factor": scale, **arguments})
