"""Decorators that register a class, or a function, with BasicSR.

Defect: BasicSR's registries stop with an assertion when a name is taken.  Here the first class
stays, and a warning says so when it is another plug-in's.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from basicsr.models.base_model import BaseModel

_logger = logging.getLogger("basicsr.esc_arch")
_Object = TypeVar("_Object", bound=Callable[..., Any])
_Metric = TypeVar("_Metric", bound=Callable[..., float])
_Network = TypeVar("_Network", bound=type[nn.Module])
_Dataset = TypeVar("_Dataset", bound="type[Dataset[Any]]")
_Model = TypeVar("_Model", bound="type[BaseModel]")


def register_arch(network: _Network) -> _Network:
    """Class decorator: register a network under its class name."""
    return _register(network, "ARCH_REGISTRY", "network")


def register_dataset(dataset: _Dataset) -> _Dataset:
    """Class decorator: register a dataset under its class name."""
    return _register(dataset, "DATASET_REGISTRY", "dataset")


def register_loss(loss: _Network) -> _Network:
    """Class decorator: register a loss under its class name."""
    return _register(loss, "LOSS_REGISTRY", "loss")


def register_metric(metric: _Metric) -> _Metric:
    """Decorator: register a metric, a function of images, under its name."""
    return _register(metric, "METRIC_REGISTRY", "metric")


def register_model(model: _Model) -> _Model:
    """Class decorator: register a model, in BasicSR's sense, under its class name."""
    return _register(model, "MODEL_REGISTRY", "model")


def _register(ours: _Object, registry_name: str, kind: str) -> _Object:
    # Here, as importing BasicSR imports what calls this.
    from basicsr.utils import registry as registries

    registry = getattr(registries, registry_name)
    name = ours.__name__
    if name not in registry:
        registry.register(ours)
    elif (owner := registry.get(name).__module__) != ours.__module__:
        _logger.warning(
            f"The {kind} {name} is registered by {owner} already; that one is kept, "
            f"and esc_arch's is {ours.__module__}.{name}."
        )
    return ours
