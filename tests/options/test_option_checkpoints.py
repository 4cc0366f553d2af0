"""Checks of pretrained networks and training states."""

import os
from collections import Counter

import pytest
import torch
from option_cases import mutated
from safetensors.torch import save_file

from esc_arch import options
from esc_arch.errors import UserError
from esc_arch.options import weight_files
from esc_arch.options.constructors import build

RUN = options.Run(is_train=True)


class Code:
    """Unpickling it makes a file named ``ran``."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def contains(text, *fragments):
    assert all(fragment in text for fragment in fragments), text


def messages(opt, run=RUN):
    with pytest.raises(UserError) as caught:
        options.check_files(opt, "tiny.yml", run)
    return str(caught.value)


@pytest.fixture
def opt(workplace, train_opt):
    train_opt["path"]["pretrain_network_g"] = "net.pth"
    return train_opt


@pytest.fixture
def weights(opt):
    return build(opt["network_g"]).state_dict()


def test_right_checkpoint_passes(opt, weights):
    torch.save({"params": weights}, "net.pth")
    opt["path"]["param_key_g"] = "params_ema"  # BasicSR falls back to params
    options.check_files(opt, "tiny.yml", RUN)
    torch.save({"params_ema": {f"module.{k}": v for k, v in weights.items()}}, "net.pth")
    options.check_files(opt, "tiny.yml", RUN)
    # A file of PyTorch before 1.6.
    torch.save({"params": weights}, "net.pth", _use_new_zipfile_serialization=False)
    options.check_files(opt, "tiny.yml", RUN)


@pytest.mark.parametrize(
    ("content", "checked"), [(["params"], 1), (["params_ema"], 1), (["params", "params_ema"], 2)]
)
def test_a_network_is_built_once_and_each_set_of_parameters_checked_once(
    opt, weights, content, checked, monkeypatch
):
    """With train.ema_decay, BasicSR loads two sets, which may be the same one."""
    torch.save(dict.fromkeys(content, weights), "net.pth")
    opt["path"]["param_key_g"] = content[0]
    done = Counter()
    for name in ("build", "require_fit"):
        call = getattr(weight_files, name)
        monkeypatch.setattr(
            weight_files, name, lambda *a, n=name, c=call: (done.update([n]), c(*a))[1]
        )
    options.check_files(opt, "tiny.yml", RUN)
    assert done == {"build": 1, "require_fit": checked}


def test_checkpoint_of_another_scale_passes(opt):
    other = build(opt["network_g"] | {"upscaling_factor": 4})
    torch.save({"params": other.state_dict()}, "net.pth")
    options.check_files(opt, "tiny.yml", RUN)


def test_missing_file(opt):
    contains(messages(opt), "path.pretrain_network_g:", "net.pth: no such file", "current folder")
    opt["path"]["pretrain_network_g"] = "data"
    contains(messages(opt), "path.pretrain_network_g:", "data: a folder")


@pytest.mark.parametrize("folder", ["", "~/"])
def test_safetensors_load(opt, weights, folder, monkeypatch):
    monkeypatch.setenv("HOME", os.getcwd())
    save_file(weights, "net.safetensors")
    opt["path"]["pretrain_network_g"] = f"{folder}net.safetensors"
    options.check_files(opt, "tiny.yml", RUN)
    save_file(weights | {"last.bias": torch.zeros(3)}, "net.safetensors")
    contains(messages(opt), "path.pretrain_network_g:", "last.bias (3,) instead of (8,)")


def test_the_home_folder(opt, weights, resumed, monkeypatch):
    monkeypatch.setenv("HOME", os.getcwd())
    torch.save({"params": weights}, "net.pth")
    opt["path"]["pretrain_network_g"] = "~/net.pth"
    options.check_files(opt, "tiny.yml", RUN)
    opt["path"]["pretrain_network_g"] = "~/none.pth"
    contains(messages(opt), "path.pretrain_network_g:", "none.pth: no such file")
    opt["path"]["pretrain_network_g"] = "~nobody_of_this_name/net.pth"
    contains(messages(opt), "path.pretrain_network_g:", "net.pth: no such file")
    state = resumed["path"]["resume_state"]
    options.check_files(mutated(resumed, "path.resume_state", f"~/{state}"), "tiny.yml", RUN)
    contains(messages(mutated(resumed, "path.resume_state", "~/5.state")), "5.state: no such file")


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 cut off", b"\x80\x02}q\x00."])
def test_not_a_checkpoint(opt, content):
    with open("net.pth", "wb") as file:
        file.write(content)
    contains(messages(opt), "net.pth", "path.")


def test_code_is_refused(opt):
    torch.save({"params": Code()}, "net.pth")
    contains(messages(opt), "path.pretrain_network_g:", "could run code")
    assert not os.path.exists("ran")


@pytest.mark.parametrize(
    "wrap", [dict, lambda s: {"state_dict": s}, lambda s: {"model": {"sd": s}}]
)
def test_other_wrappers_load(opt, weights, wrap):
    torch.save(wrap(weights), "net.pth")
    for key in ("params", "params_ema", None):
        opt["path"]["param_key_g"] = key
        options.check_files(opt, "tiny.yml", RUN)


def test_wrong_key(opt, weights):
    torch.save({"state_dict": weights, "epoch": 3}, "net.pth")
    opt["path"]["param_key_g"] = "generator"
    text = messages(opt)
    contains(text, "path.param_key_g:", "parameters under 'generator'", "Name one of these")
    contains(text, "the keys state_dict, epoch")


def test_key_of_something_else(opt, weights):
    torch.save({"params": 3}, "net.pth")
    contains(messages(opt), "path.param_key_g:", "parameters by name", "the keys params")


def test_a_training_state_is_no_network(resumed):
    state = resumed["path"]["resume_state"]
    opt = mutated(mutated(resumed, "path.resume_state", None), "path.pretrain_network_g", state)
    contains(messages(opt), "a training state of BasicSR (iteration 5)", "net_g_5.pth")


def test_the_set_with_the_keys_of_the_network_is_taken(opt, weights):
    """Such as a discriminator's, beside a generator's: pretrain_network_d is the same option."""
    torch.save({"model": {"x.weight": torch.zeros(3, 3)}, "net_d": weights}, "net.pth")
    options.check_files(opt, "tiny.yml", RUN)


def test_another_network(opt):
    other = opt["network_g"] | {"dim": 16, "n_blocks": 2}
    torch.save({"params": build(other).state_dict()}, "net.pth")
    text = messages(opt)
    contains(text, "path.pretrain_network_g:", "not of this network (blocks.1.", "of other size (")
    contains(text, "proj.bias (16,) instead of (8,)")
    torch.save({"params": {"x": torch.zeros(1)}}, "net.pth")
    contains(messages(opt), "missing (", "1 not of this network (x)")


def test_loose_loading_needs_something_in_common(opt, weights):
    opt["path"]["strict_load_g"] = False
    torch.save({"params": {"proj.weight": weights["proj.weight"], "x": torch.zeros(1)}}, "net.pth")
    options.check_files(opt, "tiny.yml", RUN)
    torch.save({"params": {"x": torch.zeros(1)}}, "net.pth")
    contains(messages(opt), "of which none fits")


@pytest.fixture
def resumed(workplace, train_opt, monkeypatch):
    """A training state at iteration 5 with its network, as BasicSR saves them."""
    weights = build(train_opt["network_g"]).state_dict()
    os.makedirs("experiments/tiny/models")
    os.makedirs("experiments/tiny/training_states")
    scheduler = {"milestones": Counter([5])}
    state = {"epoch": 0, "iter": 5, "optimizers": [{}], "schedulers": [scheduler]}
    torch.save(state, "experiments/tiny/training_states/5.state")
    torch.save({"params": weights, "params_ema": weights}, "experiments/tiny/models/net_g_5.pth")
    return mutated(train_opt, "path.resume_state", "experiments/tiny/training_states/5.state")


def test_right_state_passes(resumed):
    options.check_files(resumed, "tiny.yml", RUN)
    # BasicSR does not read this one then.
    resumed["path"]["pretrain_network_g"] = "nowhere.pth"
    options.check_files(resumed, "tiny.yml", RUN)


def test_state_without_its_network(resumed):
    os.remove("experiments/tiny/models/net_g_5.pth")
    contains(messages(resumed), "path.resume_state:", "experiments/tiny/models/net_g_5.pth")


def test_state_under_another_name(resumed):
    resumed["name"] = "other"
    contains(messages(resumed), "experiments/other/models/net_g_5.pth", "Resume under the `name`")


def test_state_of_another_network(resumed):
    resumed["network_g"]["n_blocks"] = 2
    contains(messages(resumed), "path.resume_state:", "missing (blocks.1.")


def test_network_given_as_state(resumed):
    resumed["path"]["resume_state"] = "experiments/tiny/models/net_g_5.pth"
    contains(messages(resumed), "path.resume_state:", "a training state with epoch, iter")
    resumed["path"]["resume_state"] = "5.state"
    contains(messages(resumed), "path.resume_state:", "5.state: no such file")


def test_auto_resume(resumed):
    run = options.Run(is_train=True, auto_resume=True)
    resumed["path"] |= {"resume_state": None, "pretrain_network_g": "nowhere.pth"}
    options.check_files(resumed, "tiny.yml", run)
    os.rename("experiments/tiny/models", "experiments/tiny/models_moved")
    # There is nothing to resume, so the run starts from the beginning.
    contains(messages(resumed, run), "path.pretrain_network_g:", "nowhere.pth")
    resumed["name"] = "fresh"
    contains(messages(resumed, run), "path.pretrain_network_g:", "nowhere.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_auto_resume_passes_over_a_damaged_newest_state(resumed, content):
    """40 is newer than 5, though not as a text; 5 is what the check looks at."""
    with open("experiments/tiny/training_states/40.state", "wb") as file:
        file.write(content)
    run = options.Run(is_train=True, auto_resume=True)
    options.check_files(resumed, "tiny.yml", run)
    resumed["network_g"]["n_blocks"] = 2
    contains(messages(resumed, run), "--auto_resume:", "net_g_5.pth", "missing (blocks.1.")
