"""A tiny network, its batches and its steps, trained by any model of BasicSR."""

import copy

import torch

# Before BasicSR, in a process that is not pytest's, too.
import esc_arch  # noqa: F401

# isort: split
from basicsr.models import build_model
from basicsr.utils.dist_util import get_dist_info

from tests import tiny

SCALE = 2
ADAMW = {"type": "AdamW", "lr": 1e-3}

# Adam would make a step of full size from a gradient that is zero but for rounding, as that of
# the keys' bias is, to which softmax is blind.
SGD = {"optim_g": {"type": "SGD", "lr": 0.1, "momentum": 0.9}}


def options(model_type: str = "ESCModel", val: dict | None = None, **train: object) -> dict:
    rank, world_size = get_dist_info()
    return {
        **tiny.options(
            model_type=model_type,
            network_g__n_blocks=2,
            datasets=tiny.DELETE,
            logger=tiny.DELETE,
            path={},
            val=val,
            train__scheduler__milestones=[3],
            **{f"train__{key}": value for key, value in {"optim_g": ADAMW, **train}.items()},
        ),
        "is_train": True,
        "dist": world_size > 1,
        "rank": rank,
        "world_size": world_size,
    }


def build(*args: object, **train: object):
    torch.manual_seed(0)
    return build_model(options(*args, **train))


def batch(index: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(index)
    gt = torch.rand(4, 3, 16, 16, generator=generator)
    return {"lq": torch.nn.functional.avg_pool2d(gt, SCALE), "gt": gt}


def broken_batch() -> dict[str, torch.Tensor]:
    data = batch()
    data["lq"][0, 0, 0, 0] = torch.nan
    return data


def step(model, iteration: int, data: dict[str, torch.Tensor] | None = None) -> None:
    """One iteration as BasicSR's train_pipeline makes it."""
    model.update_learning_rate(iteration)
    model.feed_data(batch(iteration) if data is None else data)
    model.optimize_parameters(iteration)


def train(model, iterations: int = 4):
    for iteration in range(1, iterations + 1):
        step(model, iteration)
    return model


def state(model) -> dict[str, torch.Tensor]:
    """A copy of weights, averages and the optimiser's state."""
    tensors = {f"net_g.{k}": v for k, v in model.net_g.state_dict().items()}
    tensors |= {f"net_g_ema.{k}": v for k, v in model.net_g_ema.state_dict().items()}
    for index, values in model.optimizer_g.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
    return copy.deepcopy(tensors)


def gradients(model) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.net_g.parameters()]


def norm(tensors: list[torch.Tensor]) -> float:
    return sum(t.double().square().sum().item() for t in tensors) ** 0.5
