"""PyTorch's optimisers by name, for every model of BasicSR."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from torch import nn
from torch.optim import Optimizer

# LBFGS asks for a closure in each step, and SparseAdam for sparse gradients; BasicSR's
# models give neither.
_UNUSABLE = ("LBFGS", "SparseAdam")

OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = MappingProxyType(
    {
        name: value
        for name, value in sorted(vars(torch.optim).items())
        if inspect.isclass(value)
        and issubclass(value, Optimizer)
        and value is not Optimizer
        and name not in _UNUSABLE
    }
)


def optimizers_by_name() -> None:
    """Defect: ``BaseModel.get_optimizer`` of basicsr 1.4.2 knows only Adam, so the public
    option files, which ask for AdamW, stop with an error.

    Models with a ``get_optimizer`` of their own keep it.  May run any number of times.
    """
    BaseModel.get_optimizer = _get_optimizer


def _get_optimizer(
    self: BaseModel,
    optim_type: str,
    params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    lr: float,
    **kwargs: object,
) -> Optimizer:
    """Stands in for ``BaseModel.get_optimizer``: same arguments, same errors."""
    if optim_type not in OPTIMIZERS:
        raise NotImplementedError(
            f"optimizer {optim_type} is not supported; known are {', '.join(OPTIMIZERS)}."
        )
    return OPTIMIZERS[optim_type](params, lr=lr, **kwargs)
