"""A network that was known: its class, its arguments, its name."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from esc_arch.archs.presets import PRESETS, construct, outline_of

__all__ = ["Argument", "Detected"]

Argument = int | float | bool | str | tuple[float, ...]

# The sizes by which a network that is no preset is called.
_SIZES = ("dim", "n_blocks", "conv_blocks", "window_size", "embed_dim", "depths", "c_elan")
_SIZES += ("m_elan", "rgb_range", "num_feat", "res_num", "num_group", "num_block")


@dataclass(frozen=True)
class Detected:
    """What a state dict is a network of.

    Attributes:
        network: its class.
        arguments: with which it was built, the scale included.
    """

    network: type[nn.Module]
    arguments: Mapping[str, Argument]

    @property
    def scale_argument(self) -> str:
        """What the constructor calls the scale."""
        presets = PRESETS.values()
        return next(p.scale_argument for p in presets if p.network is self.network)

    @property
    def scale(self) -> int:
        """The upscaling factor."""
        return self.arguments[self.scale_argument]

    @property
    def channels(self) -> int:
        """Of the image."""
        return self.arguments.get("in_chans", self.arguments.get("num_in_ch", 3))

    @property
    def preset(self) -> str | None:
        """The preset with these arguments, whatever its scale."""
        own = {k: v for k, v in self.arguments.items() if k != self.scale_argument}
        for name, preset in PRESETS.items():
            if preset.network is self.network and _with_defaults(
                self.network, preset.arguments
            ) == _with_defaults(self.network, own):
                return name
        return None

    def build(self) -> nn.Module:
        """The network with initial weights, in training mode as PyTorch builds it.

        Raises:
            UserError: when the package that implements it is missing.
            ValueError: when the arguments do not fit each other.
        """
        return construct(self.network, self.arguments)

    def outline(self) -> nn.Module:
        """The network for its keys and shapes alone.

        Raises:
            UserError, ValueError: as :meth:`build`.
        """
        return outline_of(self.network, self.arguments)

    def __str__(self) -> str:
        scale = f"x{self.scale}"
        if self.preset:
            return f"{self.preset} {scale}"
        sizes = ", ".join(f"{n} {self.arguments[n]}" for n in _SIZES if n in self.arguments)
        return f"{self.network.__name__} {scale} ({sizes})"


def _with_defaults(network: type[nn.Module], arguments: Mapping[str, Argument]) -> dict:
    """The arguments that decide keys and shapes, defaults filled in."""
    parameters = inspect.signature(network).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    complete = {**defaults, **arguments}
    complete.pop("attn_type", None)
    return complete
