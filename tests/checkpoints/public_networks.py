"""Every network that spandrel and spandrel_extra_arches know, with initial weights."""

# First, as it makes torchvision importable beside a PyTorch that it was not built for.
import esc_arch.archs  # noqa: F401

# isort: split
import importlib
import inspect
import warnings
from functools import cache

import torch
from spandrel import MAIN_REGISTRY, ArchRegistry
from spandrel_extra_arches import EXTRA_REGISTRY
from torch import nn

__all__ = ["NETWORKS", "SHARED", "found_by", "network_of", "registry"]

# Networks that both know.
SHARED = {"ATD", "OmniSR", "RCAN", "SRFormer", "SwinIR"}

# Where the defaults do not make one, or a large one.
_ARGUMENTS = {
    "DDColor": {"encoder_name": "convnext-t", "nf": 64, "dec_layers": 3},
    "MMRealSR": {"num_in_ch": 3, "num_out_ch": 3, "num_block": 1},
    "NAFNet": {"enc_blk_nums": [1], "dec_blk_nums": [1]},
    "SAFMN": {"dim": 36},
    "SAFMNBCIE": {"dim": 8},
    "SPAN": {"num_in_ch": 3, "num_out_ch": 3},
    "SRFormer": {"window_size": 8, "img_size": 64},
    "Swin2SR": {"window_size": 8},
    "SwinIR": {"window_size": 8},
    "AuraSR": {
        "dim": 8,
        "image_size": 64,
        "input_image_size": 16,
        "style_network": {"dim_in": 4, "dim_out": 16, "depth": 2},
    },
}

_ALL = {s.architecture.id: s for s in (*MAIN_REGISTRY, *EXTRA_REGISTRY)}
_ALL = {k: s for k, s in _ALL.items() if type(s.architecture).__module__.startswith("spandrel")}
NETWORKS = sorted(_ALL)


def registry() -> ArchRegistry:
    """Of these alone, whatever a test has installed."""
    own = ArchRegistry()
    own.add(*_ALL.values())
    return own


def network_of(name: str) -> nn.Module:
    """A network of the architecture, for its keys and shapes."""
    module = importlib.import_module(type(_ALL[name].architecture).__module__)
    classes = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, nn.Module)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                return classes[0](**_ARGUMENTS.get(name, {}))
        except (RuntimeError, NotImplementedError):  # it computes while it is made
            return classes[0](**_ARGUMENTS.get(name, {}))


@cache
def _rules() -> tuple:
    return tuple(registry().architectures("detection"))


def found_by(state: dict) -> set[str]:
    """The names of those whose rule takes the state dict for theirs."""
    return {rule.architecture.id for rule in _rules() if rule.detect(state)}
