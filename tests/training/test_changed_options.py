"""A run that goes on with another option file does what that file says, or is refused."""

import copy
import math
from pathlib import Path

import pytest
import torch
from tiny_run import assert_equal, iterations, models, options, train, validated

from esc_arch.training import checkpoints

COSINE = {"type": "CosineAnnealingRestartLR", "periods": [6], "restart_weights": [1]}
STATE = "experiments/tiny/training_states/{}.state"


def sr_options(**changes: object) -> dict:
    opt = options(model_type="SRModel", total=6, **changes)
    opt["train"] |= {"warmup_iter": -1, "optim_g": {"type": "Adam", "lr": 1e-3}}
    return opt


def resumed(opt: dict, is_basicsrs: bool = False) -> None:
    """Train six iterations by :func:`sr_options`, then go on by these."""
    assert train(sr_options()) == 0
    if is_basicsrs:
        strip()
    assert train(opt, "--auto_resume") == 0


def strip() -> None:
    """Make the checkpoints those of BasicSR's own training."""
    for record in Path("experiments/tiny/training_states").glob("*.json"):
        state = torch.load(record.with_suffix(".state"), weights_only=False)
        del state[checkpoints.OWN]
        torch.save(state, record.with_suffix(".state"))
        record.unlink()


def rate(iteration: int) -> float:
    state = torch.load(STATE.format(iteration), weights_only=False)
    return state["optimizers"][0]["param_groups"][0]["lr"]


def multi_step(iteration: int, lr: float, milestones: list[int], gamma: float = 0.1) -> float:
    """The rate by which an iteration was done: BasicSR steps before the second one."""
    return lr * gamma ** sum(milestone <= iteration - 1 for milestone in milestones)


BOTH = [False, pytest.param(True, marks=pytest.mark.slow)]


@pytest.mark.parametrize("is_basicsrs", BOTH)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"optim_g": {"type": "Adam", "lr": 2e-4}}, multi_step(8, 2e-4, [3, 6], 0.5)),
        pytest.param({"scheduler": {"type": "MultiStepLR", "milestones": [7]}},
                     multi_step(8, 1e-3, [7]), marks=pytest.mark.slow),
        ({"scheduler": {"type": "MultiStepLR", "milestones": [2, 5000], "gamma": 0.3}},
         multi_step(8, 1e-3, [2], 0.3)),
        ({"scheduler": COSINE | {"periods": [24]}},
         0.5e-3 * (1 + math.cos(math.pi * 7 / 24))),
        ({"warmup_iter": 20}, 1e-3 / 20 * 8),
    ],
)  # fmt: skip
def test_the_rate_is_that_of_the_option_file(folder, log, change, expected, is_basicsrs):
    opt = sr_options()
    opt["train"] |= copy.deepcopy(change) | {"total_iter": 8}
    resumed(opt, is_basicsrs)
    assert rate(8) == pytest.approx(expected, rel=1e-9)
    said = "\n".join(log)
    assert "now" in said and (is_basicsrs or f"train.{next(iter(change))}" in said)


def test_settings_of_the_optimiser_are_those_of_the_option_file(folder, log):
    opt = sr_options()
    changed = {"lr": 1e-3, "betas": [0.5, 0.6], "weight_decay": 0.25}
    opt["train"] |= {"optim_g": {"type": "Adam", **changed}, "total_iter": 8}
    resumed(opt)
    (group,) = torch.load(STATE.format(8), weights_only=True)["optimizers"][0]["param_groups"]
    assert (list(group["betas"]), group["weight_decay"]) == ([0.5, 0.6], 0.25)
    said = "\n".join(log)
    for key in ("train.optim_g.betas", "train.optim_g.weight_decay: ", "train.total_iter: 6"):
        assert key in said


@pytest.mark.parametrize("total", [6, pytest.param(4, marks=pytest.mark.slow)])
def test_a_state_of_basicsrs_own_with_nothing_left_to_train_is_validated(folder, log, total):
    assert train(sr_options()) == 0
    strip()
    opt = validated(sr_options())
    opt["train"]["total_iter"] = total
    assert train(opt, "--auto_resume") == 0
    assert "psnr: " in "\n".join(log)


@pytest.mark.slow
def test_a_cosine_is_extended(folder):
    """Both from the beginning of the longer one's first period."""
    opt = sr_options()
    opt["train"]["scheduler"] = copy.deepcopy(COSINE)
    assert train(opt) == 0
    opt["train"] |= {"scheduler": COSINE | {"periods": [12]}, "total_iter": 12}
    assert train(opt, "--auto_resume") == 0
    assert rate(12) == pytest.approx(0.5e-3 * (1 + math.cos(math.pi * 11 / 12)))


@pytest.mark.slow
def test_the_same_options_change_no_bit_after_a_change(folder, log):
    """The rate is replayed once, and kept from then on."""
    opt = sr_options()
    opt["train"] |= {"optim_g": {"type": "Adam", "lr": 2e-4}, "total_iter": 10, "warmup_iter": 9}
    resumed(opt)
    expected = models(), rate(10)
    for path in Path("experiments/tiny").rglob("*10.*"):
        path.unlink()
    log.clear()
    assert train(opt, "--auto_resume") == 0
    assert_equal(models(), expected[0])
    assert rate(10) == expected[1]
    assert "not those" not in "\n".join(log)


def gan(opt: dict) -> dict:
    opt = copy.deepcopy(opt) | {"model_type": "SRGANModel"}
    opt["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
    opt["path"] |= {"pretrain_network_d": None, "strict_load_d": True}
    loss = {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1}
    opt["train"] |= {"optim_d": {"type": "Adam", "lr": 1e-3}, "gan_opt": loss}
    opt["train"] |= {"net_d_iters": 1, "net_d_init_iters": 0}
    return opt


def optimizer(kind: str, **settings: object) -> dict:
    opt = sr_options()
    opt["train"] |= {"optim_g": {"type": kind, "lr": 1e-3, **settings}, "total_iter": 8}
    return opt


@pytest.mark.slow
@pytest.mark.parametrize("is_basicsrs", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (sr_options, lambda: optimizer("SGD", momentum=0.9)),
        (lambda: optimizer("SGD", momentum=0.9), lambda: optimizer("Adam")),
        (sr_options, lambda: optimizer("Adam", amsgrad=True)),
        (sr_options, lambda: optimizer("Adamax")),
        (sr_options, lambda: gan(sr_options())),
        (lambda: gan(sr_options()), sr_options),
    ],
)
def test_what_does_not_fit_is_refused_in_words(folder, capfd, before, after, is_basicsrs):
    assert train(before()) == 0
    saved = iterations()
    opt = after()
    if is_basicsrs:
        if "network_d" in opt:
            pytest.skip("without its network, a state of BasicSR's own is no checkpoint")
        strip()
    opt["train"]["total_iter"] = 12
    assert train(opt, "--auto_resume") == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said and "resume" in said
    assert iterations() == saved


@pytest.mark.slow
def test_states_of_basicsrs_own_that_lack_a_network_are_named_and_kept(folder, log):
    assert train(sr_options()) == 0
    strip()
    opt = gan(sr_options())
    opt["train"]["total_iter"] = 1
    assert train(opt, "--auto_resume") == 0
    said = "\n".join(log)
    assert "net_d_6.pth" in said and "begins at iteration 0" in said
    assert list(Path("experiments").glob("tiny_archived_*/training_states/6.state"))


@pytest.mark.slow
def test_adam_goes_on_as_adamw(folder):
    resumed(optimizer("AdamW", weight_decay=0.01))
    (group,) = torch.load(STATE.format(8), weights_only=True)["optimizers"][0]["param_groups"]
    assert group["weight_decay"] == 0.01


@pytest.mark.slow
def test_another_seed_draws_other_samples(folder):
    def ended(seed: int) -> dict:
        opt = sr_options(manual_seed=seed)
        opt["train"]["total_iter"] = 8
        assert train(opt, "--auto_resume") == 0
        for path in Path("experiments/tiny").rglob("*8.*"):
            path.unlink()
        return models()

    assert train(sr_options()) == 0
    same, again, other = ended(0), ended(0), ended(7)
    assert_equal(same, again)
    assert any(not torch.equal(same[name], other[name]) for name in same)
