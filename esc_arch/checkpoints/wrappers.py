"""Where a network's parameters lie in a checkpoint: under which keys, behind which prefixes.

A set of parameters is a mapping from names to tensors.  Programs put it under keys
(``{"model": {"state_dict": ...}}``) and put prefixes before its names (``module.``, ``net_g.``),
which here are the same: ``place`` is the path of both.  Of several sets the one of averaged
parameters (EMA) comes first, then BasicSR's ``params``, then the other usual names in the order of
``_USUAL``, then any other, and last what is called a discriminator's, a loss's or an optimiser's.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["PARAMETER_KEYS", "Found", "find_sets"]

# BasicSR's and Lightning's, the averaged parameters first.
PARAMETER_KEYS = ("params_ema", "params", "state_dict")

# Usual names in lower case without signs, the preferred first; those of averaged parameters in any
# form of "ema" come before.
_USUAL = (
    "params statedict modelstatedict netstatedict generatorstatedict weights parameters generator "
    "netg networkg modelg gen g model net network netgab module origmod fsdpwrappedmodule "
    "forwardmodule shadow srmodel student backbone sd state weight best bestmodel checkpoint "
    "onlinemodel"
)
_RANKS = {name: rank for rank, name in enumerate(_USUAL.split())}
_AVERAGED = re.compile(r"(^|[^a-z])(ema|averaged?|swa|shadow)([^a-z]|$)|^(ema|gema)|ema$", re.I)
# Of these no network is meant.
_OTHERS = re.compile(
    r"(^|_)(d|net_?d|network_?d|model_?d|disc\w*|discriminator\w*|critic|optim\w*|opt|opt_\w+|sched\w*|"
    r"lr_sched\w*|loss\w*|\w+loss|criterion|cri_\w+|vgg\w*|lpips|perceptual|grad_?scaler|amp|teacher)"
    r"(_|$)",
    re.I,
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Of programs that count operations (thop, ptflops) or average parameters, in none of which a
# network computes.
_COUNTERS = (
    *("total_ops", "total_params", "__flops__", "__params__", "__macs__"),
    *("n_averaged", "num_updates", "initted", "step", "epoch", "iteration", "global_step"),
    *("_extra_state", "device_indicator"),
)
# Wrappers of PyTorch, which never are a part of a network's own names.
_PYTORCH = ("module", "origmod", "fsdpwrappedmodule", "forwardmodule")
_UNKNOWN = len(_RANKS)
_DEPTH = 6
_MOST = 64
_MOST_ENTRIES = 1_000_000


@dataclass(frozen=True)
class Found:
    """A set of parameters.

    Attributes:
        state: tensors by name.
        keys: of the mappings around it, and prefixes before its names, outermost first.
        prefixes: how many of the last of these are prefixes.
    """

    state: Mapping[str, Tensor]
    keys: tuple[str, ...] = ()
    prefixes: int = 0

    @property
    def place(self) -> str | None:
        """Such as ``model.state_dict``; the prefixes follow a colon.  None for the top."""
        keys, prefixes = self._parts()
        # Those of DataParallel and torch.compile say nothing about the parameters.
        prefixes = [name for name in prefixes if _plain(name) not in _PYTORCH]
        parts = [".".join(keys), "".join(f"{name}." for name in prefixes)]
        return ":".join(part for part in parts if part) or None

    def is_under(self, key: str) -> bool:
        """Whether it lies under a key, or a path of keys with points between."""
        path = ".".join(self.keys)
        return self.place == key or path == key or path.startswith(f"{key}.")

    @property
    def is_averaged(self) -> bool:
        """Whether it is called an average of the training's parameters."""
        return any(map(_AVERAGED.search, self.keys))

    @property
    def is_other(self) -> bool:
        """Whether it is called a discriminator's, a loss's or an optimiser's."""
        return any(map(_is_other, self.keys))

    @property
    def is_doubtful(self) -> bool:
        """Whether the last prefix may be a part of the network's own names.

        ESRGAN's old ones are model.0.weight.
        """
        if not self.prefixes or _plain(self.keys[-1]) in _PYTORCH:
            return False
        return not _is_usual(self.keys[-1]) or all(name[:1].isdigit() for name in self.state)

    def rank(self) -> tuple[object, ...]:
        """By which sets are sorted, the smallest first."""
        names, prefixes = self._parts()
        return (
            self.is_other,
            not self.is_averaged,
            self.is_doubtful,
            min((_RANKS.get(_plain(name), _UNKNOWN) for name in names), default=_UNKNOWN),
            # What has a usual prefix is meant without it.
            min((_RANKS.get(_plain(name), _UNKNOWN) for name in prefixes), default=_UNKNOWN + 1),
            -len(self.state),
            len(self.keys),
        )

    def _parts(self) -> tuple[list[str], list[str]]:
        at = len(self.keys) - self.prefixes
        return list(self.keys[:at]), list(self.keys[at:])


def find_sets(content: object) -> list[Found]:
    """All sets of parameters in the content of a checkpoint, the preferred one first.

    Args:
        content: mappings of mappings, six deep at most, and tensors; other values are passed over.

    Returns:
        The first 64, sorted; none when there is no tensor with dimensions under a name.
    """
    found: list[Found] = []
    for one in _search(content, (), _Budget()):
        found.append(one)
        if len(found) == _MOST:
            break
    return sorted(found, key=Found.rank)


class _Budget:
    """How many entries of mappings may still be looked at: pickles can hold a mapping that holds
    itself many times."""

    def __init__(self) -> None:
        self.entries = _MOST_ENTRIES


def _search(node: object, keys: tuple[str, ...], budget: _Budget) -> Iterator[Found]:
    if not isinstance(node, Mapping) or len(keys) > _DEPTH or budget.entries < len(node):
        return
    budget.entries -= len(node)
    state: dict[str, Tensor] = {}
    for key, value in node.items():
        if isinstance(key, str) and isinstance(value, Tensor) and not _is_counter(key, node):
            state[key] = value.detach() if value.requires_grad else value
    yield from _behind_prefixes(state, keys, 0)
    for key, value in node.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            yield from _search(value, (*keys, key), budget)


def _behind_prefixes(
    state: dict[str, Tensor], keys: tuple[str, ...], prefixes: int
) -> Iterator[Found]:
    # Counters and the like, beside or instead of parameters.
    if all(tensor.dim() == 0 for tensor in state.values()):
        return
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        name, point, rest = key.partition(".")
        if point and rest:
            groups.setdefault(name, {})[rest] = tensor
    # An unusual prefix is one when most names have it.
    groups = {
        name: group
        for name, group in groups.items()
        if _is_usual(name) or _is_other(name) or len(group) > len(state) / 2
    }
    if prefixes < _DEPTH:
        for name, group in groups.items():
            yield from _behind_prefixes(group, (*keys, name), prefixes + 1)
    # No network's own name is that of a wrapper of PyTorch.
    if not (groups and all(_plain(name) in _PYTORCH for name in groups)):
        yield Found(state, keys, prefixes)


def _is_counter(key: str, names: Mapping[object, object]) -> bool:
    before, point, name = key.rpartition(".")
    # Batch normalisation has it beside a mean, which other layers lack.
    is_stray = name == "num_batches_tracked" and f"{before}{point}running_mean" not in names
    return name in _COUNTERS or is_stray


def _is_usual(name: str) -> bool:
    return _plain(name) in _RANKS or bool(_AVERAGED.search(name))


def _is_other(name: str) -> bool:
    return bool(_OTHERS.search(_CAMEL.sub("_", name).replace("-", "_").replace(".", "_")))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
