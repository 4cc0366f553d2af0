"""Optimisers by name, in every model of BasicSR."""

import pytest
import torch
from basicsr.models.base_model import BaseModel

from esc_arch.plugin import workarounds
from esc_arch.plugin.workarounds import OPTIMIZERS, after_basicsr


@pytest.fixture
def model():
    return BaseModel({"num_gpu": 0, "is_train": True})


def test_which_there_are():
    wanted = {"Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SGD", "ASGD", "RMSprop", "Rprop"}
    assert wanted <= set(OPTIMIZERS)
    assert not {"Optimizer", "LBFGS", "SparseAdam", "Adam8bit"} & set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_lowers_a_loss(model, name):
    # A matrix, as Muon takes nothing else.
    parameter = torch.nn.Parameter(torch.full((4, 4), 2.0))
    optimizer = model.get_optimizer(name, [parameter], lr=0.01)
    assert type(optimizer) is getattr(torch.optim, name)
    assert optimizer.param_groups[0]["lr"] == 0.01
    for _ in range(5):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        optimizer.step()
    assert parameter.detach().square().sum() < 64


def test_arguments_arrive(model):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = model.get_optimizer(
        "AdamW", [{"params": [parameter]}], 5e-4, weight_decay=0, betas=[0.9, 0.9]
    )
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], list(group["betas"])) == (5e-4, 0, [0.9, 0.9])


def test_adamw_without_decay_is_adam(model):
    ends = []
    for name in ("Adam", "AdamW"):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 8))
        optimizer = model.get_optimizer(name, [parameter], 5e-4, weight_decay=0, betas=(0.9, 0.9))
        for _ in range(10):
            optimizer.zero_grad()
            parameter.pow(4).sum().backward()
            optimizer.step()
        ends.append(parameter.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", ["LBFGS", "adam", "Optimizer"])
def test_other_names_are_refused(model, name):
    with pytest.raises(NotImplementedError, match=f"{name} .*known are .*AdamW"):
        model.get_optimizer(name, [torch.nn.Parameter(torch.zeros(1))], 0.1)


def test_the_work_around_may_run_again_and_leaves_other_models_alone(model):
    class Own(BaseModel):
        def get_optimizer(self, optim_type, params, lr, **kwargs):
            return optim_type

    for _ in range(2):
        after_basicsr()
        assert BaseModel.get_optimizer.__module__ == workarounds.__name__
    assert Own({"num_gpu": 0, "is_train": True}).get_optimizer("X", [], 1) == "X"
