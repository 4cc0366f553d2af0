"""The mends of basicsr, and that nothing is mended that is not broken."""

import collections
import importlib
import importlib.machinery
import json
import os
import pickle
import socket
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from basicsr import train
from basicsr.data import degradations
from basicsr.models import lr_scheduler
from basicsr.models.base_model import BaseModel
from basicsr.utils import dist_util
from torchvision.transforms import functional

from esc_arch import compat
from tests.run_python import output_of, start_python

FUNCTIONAL_TENSOR = "torchvision.transforms.functional_tensor"


class Finder:
    """Finds the one module ``name``, whose execution is ``run``."""

    def __init__(self, name, run=lambda module: None):
        self.name = name
        self.exec_module = run

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == self.name else None

    def create_module(self, spec):
        return None


def forbid(*_, **__):
    raise AssertionError("must not be called")


# torchvision


def test_torchvision_is_imported_and_nothing_declared_twice():
    schemas = list(compat._torchvision_schemas)
    compat.before_basicsr()
    compat.before_basicsr()
    assert compat._torchvision_schemas == schemas


@pytest.fixture
def no_torchvision(monkeypatch):
    """As if torchvision had not been imported; a schema must not be declared."""
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torch.library, "Library", forbid)


def test_a_sound_torchvision_gets_no_schema(monkeypatch, no_torchvision):
    monkeypatch.setattr(sys, "meta_path", [Finder("torchvision"), *sys.meta_path])
    compat._import_torchvision()
    assert type(sys.modules["torchvision"].__loader__) is Finder
    del sys.modules["torchvision"]


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA is too old"), ImportError("no file"), OSError("torchvision::")]
)
def test_another_defect_of_torchvision_is_not_hidden(monkeypatch, no_torchvision, error):
    def run(module):
        raise error

    monkeypatch.setattr(sys, "meta_path", [Finder("torchvision", run), *sys.meta_path])
    with pytest.raises(type(error)) as caught:
        compat._import_torchvision()
    assert caught.value is error


# torchvision.transforms.functional_tensor


def test_a_functional_tensor_that_is_loaded_is_kept(monkeypatch):
    theirs = ModuleType(FUNCTIONAL_TENSOR)
    monkeypatch.setitem(sys.modules, FUNCTIONAL_TENSOR, theirs)
    compat.before_basicsr()
    assert sys.modules[FUNCTIONAL_TENSOR] is theirs
    assert not hasattr(theirs, "rgb_to_grayscale")


def test_a_functional_tensor_that_can_be_found_is_kept(monkeypatch):
    monkeypatch.delitem(sys.modules, FUNCTIONAL_TENSOR)
    monkeypatch.setattr(sys, "meta_path", [Finder(FUNCTIONAL_TENSOR), *sys.meta_path])
    compat.before_basicsr()
    assert FUNCTIONAL_TENSOR not in sys.modules


def test_grayscale_for_basicsr():
    image = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    gray = degradations.rgb_to_grayscale(image, num_output_channels=1)
    assert torch.equal(gray, functional.rgb_to_grayscale(image))
    bt601 = np.einsum("c,bchw->bhw", [0.2989, 0.587, 0.114], image.numpy())[:, None]
    np.testing.assert_allclose(gray.numpy(), bt601, atol=1e-7)


# load_resume_state


@pytest.fixture
def opt(tmp_path, monkeypatch):
    """Options of a run in the current folder, whose states are in ``training_states``."""
    monkeypatch.chdir(tmp_path)
    Path("experiments/run/training_states").mkdir(parents=True)
    return {
        "name": "run",
        "auto_resume": True,
        "network_g": {},
        "path": {"models": "experiments/run/models", "param_key_g": "params_ema"},
    }


def save_state(iteration, name=None, **more):
    state = {"epoch": 1, "iter": iteration, "optimizers": [], "schedulers": [], **more}
    path = Path("experiments/run/training_states", name or f"{iteration}.state")
    torch.save(state, path)
    return str(path)


def test_basicsr_calls_the_stand_in():
    assert train.load_resume_state is compat._load_resume_state


def test_auto_resume_takes_the_newest_state_by_number(opt):
    for iteration in (100, 20, 3):
        save_state(iteration)
    assert train.load_resume_state(opt)["iter"] == 100
    assert Path(opt["path"]["resume_state"]).name == "100.state"
    assert opt["path"]["pretrain_network_g"] == "experiments/run/models/net_g_100.pth"
    assert opt["path"]["param_key_g"] == "params"


def test_auto_resume_passes_over_what_basicsr_passes_over(opt):
    save_state(20)
    save_state(30, "30.state.part")
    # Hidden files: of an editor, of another system's copy program.
    save_state(40, ".40.state")
    assert train.load_resume_state(opt)["iter"] == 20


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_auto_resume_without_a_state_starts_anew(opt, folder):
    if folder == "absent":
        opt["name"] = "another"
    assert train.load_resume_state(opt) is None


def test_without_auto_resume_the_named_state_is_taken(opt):
    opt["auto_resume"] = False
    opt["path"]["resume_state"] = save_state(20)
    save_state(100)
    assert train.load_resume_state(opt)["iter"] == 20


@pytest.mark.parametrize("path", [{}, {"resume_state": None}])
def test_without_auto_resume_and_a_name_nothing_is_resumed(opt, path):
    opt["auto_resume"] = False
    opt["path"].update(path)
    save_state(100)
    assert train.load_resume_state(opt) is None


def test_a_real_state_comes_back_as_it_was(opt):
    parameter = torch.nn.Parameter(torch.rand(3))
    optimizer = torch.optim.AdamW([parameter])
    scheduler = lr_scheduler.MultiStepRestartLR(optimizer, milestones=[5, 8, 8], restarts=[0])
    parameter.grad = torch.rand(3)
    optimizer.step()
    scheduler.step()
    assert type(scheduler.state_dict()["milestones"]) is collections.Counter
    save_state(1, optimizers=[optimizer.state_dict()], schedulers=[scheduler.state_dict()])
    state = train.load_resume_state(opt)
    assert state["schedulers"] == [scheduler.state_dict()]
    moment = state["optimizers"][0]["state"][0]["exp_avg"]
    assert torch.equal(moment, optimizer.state_dict()["state"][0]["exp_avg"])


class MakesAFolder:
    def __reduce__(self):
        return os.mkdir, ("written by the pickle",)


def test_code_in_a_state_is_refused_and_not_run(opt):
    save_state(20, schedulers=[MakesAFolder()])
    with pytest.raises(pickle.UnpicklingError):
        train.load_resume_state(opt)
    assert not Path("written by the pickle").exists()


# Distributed training


def test_with_a_gpu_distribution_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dist_util, "_init_dist_pytorch", forbid)
    monkeypatch.setattr(BaseModel, "model_to_device", forbid)
    compat.after_basicsr()
    assert dist_util._init_dist_pytorch is forbid
    assert BaseModel.model_to_device is forbid


TWO_PROCESSES = """
    import esc_arch
    import json, torch
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import dist_util

    dist_util.init_dist("pytorch")
    rank, world_size = dist_util.get_dist_info()
    model = BaseModel({"num_gpu": 0, "is_train": True, "dist": True})
    # Each process begins with other weights; those of the first one count.
    net = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(net.weight, rank + 5.0)
    net = model.model_to_device(net)
    net(torch.tensor([[1.0, 10.0]]) * (rank + 1)).sum().backward()
    weight = model.get_bare_model(net).weight
    print("FACTS" + json.dumps({
        "world": [rank, world_size],
        "kind": type(net).__name__,
        "weight": weight.tolist(),
        "gradient": weight.grad.tolist(),
    }))
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_cpu_processes_train_together():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        start_python(
            TWO_PROCESSES,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    try:
        outputs = [output_of(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, output in enumerate(outputs):
        facts = json.loads(output.rpartition("FACTS")[2])
        assert facts == {
            "world": [rank, 2],
            "kind": "DistributedDataParallel",
            "weight": [[5.0, 5.0]],
            "gradient": [[1.5, 15.0]],
        }


def test_one_cpu_process_needs_no_wrapper():
    net = torch.nn.Linear(2, 1)
    model = BaseModel({"num_gpu": 0, "is_train": True, "dist": False})
    assert model.model_to_device(net) is net
