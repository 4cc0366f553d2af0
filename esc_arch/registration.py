"""Registering with BasicSR without getting in another plug-in's way."""

import logging
from typing import TypeVar

from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

_logger = logging.getLogger("basicsr.esc_arch")
_Network = TypeVar("_Network", bound=type[nn.Module])


def register_arch(network: _Network) -> _Network:
    """Class decorator: register a network under its class name.

    BasicSR stops with an assertion when a name is taken.  Here the first one stays, and
    a warning says so when it is not ours.
    """
    name = network.__name__
    if name not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(network)
    elif (owner := ARCH_REGISTRY.get(name).__module__) != network.__module__:
        _logger.warning(
            f"The network {name} is registered by {owner} already; that one is kept, "
            f"and esc_arch's is {network.__module__}.{name}."
        )
    return network
