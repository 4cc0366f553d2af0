"""Detecting a network, with its arguments, by the keys and shapes of its parameters."""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor, nn

from esc_arch.archs.presets import PRESETS, build_meta, construct, construct_meta
from esc_arch.checkpoints.architectures import ARCHITECTURES, ASSUMED, Argument
from esc_arch.errors import UserError, listed

__all__ = ["Detected", "Near", "detect", "mismatch", "nearest"]

# A number between points, or at the end.
_NUMBER = re.compile(r"\.(\d+)(?=\.|$)")
# The sizes by which a network that is no preset is called.
_SIZES = "dim n_blocks conv_blocks window_size embed_dim depths c_elan m_elan rgb_range num_feat"
_SIZES += " res_num num_group num_block num_channel"


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
        own = (p.scale_argument for p in PRESETS.values() if p.network is self.network)
        # BasicSR's networks without a preset.
        return next(own, "upscale" if "upscale" in self.arguments else "scale")

    @property
    def assumed(self) -> frozenset[str]:
        """The arguments that are as published, as they are neither in keys nor in shapes."""
        return ASSUMED & self.arguments.keys()

    @property
    def scale(self) -> int:
        """The upscaling factor."""
        return self._size(self.scale_argument)

    @property
    def any_scale(self) -> bool:
        """Whether it enlarges to any size that is asked for; ``scale`` is where none is."""
        return getattr(self.network, "any_scale", False)

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
        scale = "of any scale" if self.any_scale else f"x{self.scale}"
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


@dataclass(frozen=True)
class Near:
    """The network to which a state dict comes nearest.

    Attributes:
        network: as far as it is known.
        difference: see :func:`mismatch`.
    """

    network: Detected
    difference: str


# So many of a network's keys a state dict near it has, and so few of its shapes differ.
_NEAR = 0.8


def nearest(state: Mapping[str, Tensor]) -> Near | None:
    """The network from which a state dict differs least, when that is little.

    The arguments are read without each of the tensors that they are read from, too, in whose place
    one of another block is taken: a wrong one would make all others wrong.

    Args:
        state: tensors by key, of no network that :func:`detect` knows.
    """
    best: tuple[int, Detected, Mapping[str, Tensor]] | None = None
    seen: list[Detected] = []
    for found in _guesses(state):
        if found in seen:
            continue
        seen.append(found)
        try:
            own = found.build_meta().state_dict()
        except Exception:  # a constructor may raise anything
            continue
        unequal = [key for key in own if key in state and own[key].shape != state[key].shape]
        differences = len(own.keys() ^ state.keys()) + len(unequal)
        if differences <= (1 - _NEAR) * len(own) and (best is None or differences < best[0]):
            best = differences, found, own
        if differences == 1:
            break
    return best and Near(best[1], mismatch(best[2], state))


def _guesses(state: Mapping[str, Tensor]) -> Iterator[Detected]:
    reads = [
        (a.read, _Recording(_without_strays(state))) for a in ARCHITECTURES if not a.is_complete
    ]
    for left_out in (False, True):
        for read, source in reads:
            # Without each tensor that was looked at in turn.
            for key in tuple(source.asked) if left_out else (None,):
                try:
                    found = Detected(*read(source.without(key)))
                except Exception:  # another network with a few of the keys may be anything
                    continue
                yield found
    parts = {key.partition(".")[0] for key in state}
    common = {name: len(_parts(name) & parts) / len(_parts(name) | parts) for name in PRESETS}
    for name in sorted(PRESETS, key=lambda name: -common[name]):
        preset = PRESETS[name]
        if common[name] < _NEAR:
            continue
        for scale in preset.scales:
            yield Detected(preset.network, {**preset.arguments, preset.scale_argument: scale})
            own = _keys(name)
            if len(own & state.keys()) < _NEAR * len(own | state.keys()):
                break


def _without_strays(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the keys whose number is beyond a gap, such as that of a block that is not there."""
    numbers: dict[str, set[int]] = {}
    for key in state:
        for match in _NUMBER.finditer(key):
            numbers.setdefault(key[: match.start()], set()).add(int(match[1]))
    ends = {
        prefix: next(n for n in range(len(found) + 1) if n not in found)
        for prefix, found in numbers.items()
        if 0 in found and prefix.startswith(("blocks", "layers", "body", "residual_layer"))
    }
    return {
        key: tensor
        for key, tensor in state.items()
        if not any(
            int(match[1]) > ends.get(key[: match.start()], int(match[1]))
            for match in _NUMBER.finditer(key)
        )
    }


@cache
def _parts(name: str) -> frozenset[str]:
    """The names of the children of a preset's network, of one with as few blocks as possible."""
    preset = PRESETS[name]
    few = {**preset.arguments, preset.scale_argument: preset.scales[0]}
    few |= {key: few[key][:1] for key in ("depths", "num_heads") if isinstance(few.get(key), tuple)}
    few |= {key: 1 for key in ("n_blocks", "num_group", "num_block", "res_num") if key in few}
    try:
        network = construct_meta(preset.network, few)
    except Exception:  # such as spandrel's networks without spandrel
        return frozenset()
    return frozenset(key.partition(".")[0] for key in network.state_dict())


@cache
def _keys(name: str) -> frozenset[str]:
    return frozenset(build_meta(name, PRESETS[name].scales[0]).state_dict())


class _Recording(dict[str, Tensor]):
    """A state dict that notes whose values are asked for, and supplies missing ones from others."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__(state)
        self.asked: list[str] = []

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.asked:
            self.asked.append(key)
        return super().__getitem__(key)

    def __missing__(self, key: str) -> Tensor:
        # That of another block has the same shape.
        pattern = re.compile(re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.\\d+", re.escape(key)))
        for name, tensor in self.items():
            if pattern.fullmatch(name):
                return tensor
            # The kernel that all blocks of the ESC family share, 13 x 13 in the published ones.
            if key in ("plk_filter", "lk_spatial") and name.endswith("proj.1.weight"):
                return tensor.new_empty(tensor.shape[1], 1, 13, 13)
        weight = self.get(key.removesuffix("bias") + "weight")
        if key.endswith(".bias") and weight is not None:
            return weight.flatten(1)[:, 0]
        raise KeyError(key)

    def without(self, key: str | None) -> "_Recording":
        """Itself, or a copy without a tensor."""
        return self if key is None else _Recording({k: t for k, t in self.items() if k != key})


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


def mismatch(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """How parameters differ from those of a network in their keys and shapes; empty when equal.

    Args:
        own: the network's state dict.
        state: tensors by key.
    """
    common = own.keys() & state.keys()
    unequal = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in common and own[name].shape != state[name].shape
    ]
    kinds = (
        ("missing", [name for name in own if name not in common]),
        ("not of this network", [name for name in state if name not in common]),
        ("of other size", unequal),
    )
    return "; ".join(f"{len(names)} {kind} ({listed(names, 3)})" for kind, names in kinds if names)
