"""Detecting a network, with its arguments, by the keys and shapes of its parameters."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from esc_arch.archs.presets import PRESETS, construct, construct_meta
from esc_arch.checkpoints.architectures import ARCHITECTURES, Argument
from esc_arch.errors import UserError

__all__ = ["Detected", "detect"]

# The sizes by which a network that is no preset is called.
_SIZES = "dim n_blocks conv_blocks window_size embed_dim depths c_elan m_elan rgb_range num_feat"
_SIZES += " res_num num_group num_block"


@dataclass(frozen=True)
class Detected:
    """The network that a state dict belongs to.

    Attributes:
        network: its class.
        arguments: with which it was built, the scale included.
    """

    network: type[nn.Module]
    arguments: Mapping[str, Argument]

    @property
    def scale_argument(self) -> str:
        """The constructor's name of the scale."""
        presets = PRESETS.values()
        return next(p.scale_argument for p in presets if p.network is self.network)

    @property
    def scale(self) -> int:
        """The upscaling factor."""
        return self._size(self.scale_argument)

    @property
    def channels(self) -> int:
        """Of the image."""
        return self._size("in_chans", self._size("num_in_ch", 3))

    @property
    def window(self) -> int:
        """The side in pixels of the largest attention window; 32 when it is no argument."""
        return self._size("window_size", 32)

    def _size(self, argument: str, default: int = 1) -> int:
        value = self.arguments.get(argument, default)
        if not isinstance(value, int):
            raise ValueError(f"{argument}: expected a whole number; found {value!r}")
        return value

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

    def build_meta(self) -> nn.Module:
        """The network for its keys and shapes alone.

        Raises:
            UserError, ValueError: as :meth:`build`.
        """
        return construct_meta(self.network, self.arguments)

    def __str__(self) -> str:
        scale = f"x{self.scale}"
        if self.preset:
            return f"{self.preset} {scale}"
        sizes = ", ".join(f"{n} {self.arguments[n]}" for n in _SIZES.split() if n in self.arguments)
        return f"{self.network.__name__} {scale} ({sizes})"


def detect(state: Mapping[str, Tensor], only: type[nn.Module] | None = None) -> Detected | None:
    """The network that a state dict belongs to: of the ESC family, or of another preset's class.

    The arguments are read off keys and shapes, and the network that they make is compared with
    the state dict.  Arguments in neither, such as the side of ELAN's windows, are as published.

    Args:
        state: tensors by key, complete, in any dtype.
        only: the class that is looked for; None for all.

    Returns:
        The network and its arguments, or None when it is none of them, or not ``only``.

    Raises:
        UserError: when the network looks like one of spandrel's and that is not installed.
    """
    for architecture in ARCHITECTURES:
        if all(key in state for key in architecture.keys):
            if only is not None and only not in architecture.networks:
                return None
            try:
                found = Detected(*architecture.read(state))
                fits = architecture.is_complete or _fits(found, state)
            except UserError:
                raise
            except Exception:  # another network with a few of the keys may be anything
                return None
            return found if fits and only in (None, found.network) else None
    return None


def _fits(found: Detected, state: Mapping[str, Tensor]) -> bool:
    own = found.build_meta().state_dict()
    return own.keys() == state.keys() and all(own[k].shape == state[k].shape for k in own)


def _with_defaults(
    network: type[nn.Module], arguments: Mapping[str, Argument]
) -> dict[str, object]:
    """The arguments that decide keys and shapes, defaults filled in."""
    parameters = inspect.signature(network).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    complete = {**defaults, **arguments}
    complete.pop("attn_type", None)
    return complete
