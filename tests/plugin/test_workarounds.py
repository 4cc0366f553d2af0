"""The work-arounds for basicsr, and that nothing is replaced that is not broken."""

import collections
import errno
import importlib
import importlib.machinery
import json
import os
import pickle
import random
import socket
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from basicsr import train
from basicsr.archs import vgg_arch
from basicsr.data import degradations
from basicsr.models import lr_scheduler, realesrgan_model, realesrnet_model
from basicsr.models.base_model import BaseModel
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.utils import FileClient, dist_util, img_process_util
from safetensors.torch import save_file
from torchvision import models
from torchvision.transforms import functional

from esc_arch.plugin import workarounds
from tests import tiny
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


def test_torchvision_is_imported_and_nothing_declared_twice(monkeypatch):
    torchvision = sys.modules["torchvision"]
    monkeypatch.setattr(torch.library, "Library", forbid)
    workarounds.before_basicsr()
    workarounds.before_basicsr()
    assert sys.modules["torchvision"] is torchvision


@pytest.fixture
def no_torchvision(monkeypatch):
    """As if torchvision had not been imported; a schema must not be declared."""
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torch.library, "Library", forbid)


def test_a_sound_torchvision_gets_no_schema(monkeypatch, no_torchvision):
    monkeypatch.setattr(sys, "meta_path", [Finder("torchvision"), *sys.meta_path])
    workarounds.import_torchvision()
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
        workarounds.import_torchvision()
    assert caught.value is error


# torchvision.transforms.functional_tensor


def test_a_functional_tensor_that_is_loaded_is_kept(monkeypatch):
    theirs = ModuleType(FUNCTIONAL_TENSOR)
    monkeypatch.setitem(sys.modules, FUNCTIONAL_TENSOR, theirs)
    workarounds.before_basicsr()
    assert sys.modules[FUNCTIONAL_TENSOR] is theirs
    assert not hasattr(theirs, "rgb_to_grayscale")


def test_a_functional_tensor_that_can_be_found_is_kept(monkeypatch):
    monkeypatch.delitem(sys.modules, FUNCTIONAL_TENSOR)
    monkeypatch.setattr(sys, "meta_path", [Finder(FUNCTIONAL_TENSOR), *sys.meta_path])
    workarounds.before_basicsr()
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
    assert train.load_resume_state is workarounds.load_resume_state


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


def test_anothers_distribution_is_left_alone(monkeypatch):
    monkeypatch.setattr(dist_util, "_init_dist_pytorch", forbid)
    monkeypatch.setattr(BaseModel, "model_to_device", forbid)
    workarounds.after_basicsr()
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


# Real-ESRGAN


@pytest.fixture
def real_model():
    """A RealESRNetModel on a CPU, though the network's part is left out."""
    network = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 2}
    opt = {"num_gpu": 0, "is_train": True, "dist": False, "scale": 2, "gt_size": 32}
    train_opt = {
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "scheduler": {"type": "MultiStepLR", "milestones": [5]},
        "pixel_opt": {"type": "L1Loss"},
    }
    opt |= {"network_g": network, "path": {}, "train": train_opt, "queue_size": 4, "gt_usm": True}
    return RealESRNetModel(opt | tiny.DEGRADATION)


def real_batch(size=64):
    kernel = torch.zeros(2, 21, 21)
    kernel[:, 9:12, 9:12] = 1 / 9
    names = ("kernel1", "kernel2", "sinc_kernel")
    return {"gt": torch.rand(2, 3, size, size), **dict.fromkeys(names, kernel)}


def test_real_esrgan_degrades_on_the_device_of_its_networks(real_model):
    on = {t.device.type for t in (*real_model.jpeger.parameters(), real_model.usm_sharpener.kernel)}
    assert on == {"cpu"}
    random.seed(0)
    np.random.seed(0)
    # All the random branches are taken in so many rounds, and the pool is full after two.
    for _ in range(12):
        real_model.feed_data(real_batch())
        assert real_model.lq.shape == (2, 3, 16, 16) and real_model.gt.shape == (2, 3, 32, 32)
        assert real_model.lq.isfinite().all() and real_model.lq.min() >= 0
    assert real_model.queue_lr.device.type == real_model.queue_gt.device.type == "cpu"


def test_the_pool_of_real_esrgan_gives_each_pair_back_whole(real_model):
    seen = []
    for number in range(8):
        real_model.gt = torch.full((2, 3, 4, 4), float(number))
        real_model.lq = torch.full((2, 3, 2, 2), float(number))
        real_model._dequeue_and_enqueue()
        assert torch.equal(real_model.gt[:, 0, 0, 0], real_model.lq[:, 0, 0, 0])
        seen += real_model.lq[:, 0, 0, 0].tolist()
    # The first two batches pass through; later ones are drawn from what came before.
    assert seen[:4] == [0, 0, 1, 1]
    assert all(value <= 7 for value in seen) and len(set(seen[4:])) > 1


def test_a_pool_of_no_whole_batches_is_refused(real_model):
    real_model.queue_size = 5
    with pytest.raises(ValueError, match="queue_size 5"):
        real_model.feed_data(real_batch())


@pytest.mark.parametrize("kernels", [1, 2])
def test_filter_of_an_image_that_lies_channels_last(kernels):
    image, kernel = torch.rand(2, 3, 12, 14), torch.rand(kernels, 5, 5)
    expected = [
        cv2.filter2D(
            image[i].permute(1, 2, 0).numpy(),
            -1,
            kernel[i % kernels].numpy(),
            borderType=cv2.BORDER_REFLECT_101,
        )
        for i in range(2)
    ]
    for module in (img_process_util, realesrnet_model, realesrgan_model):
        found = module.filter2D(image.to(memory_format=torch.channels_last), kernel)
        found = found.permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


def test_real_esrgan_is_patched_once():
    before = RealESRNetModel.__init__, RealESRNetModel._dequeue_and_enqueue
    filter2d = img_process_util.filter2D
    workarounds.after_basicsr()
    assert (RealESRNetModel.__init__, RealESRNetModel._dequeue_and_enqueue) == before
    assert img_process_util.filter2D is filter2d


# VGG


@pytest.fixture
def vgg_folder(tmp_path, monkeypatch):
    """An empty current folder that is torch.hub's too; nothing can be downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", forbid)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_basicsr_writes_images_whole_or_not_at_all(tmp_path, monkeypatch):
    from basicsr.models import sr_model
    from basicsr.utils import imwrite

    assert sr_model.imwrite is imwrite
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    path = tmp_path / "new" / "image.png"
    imwrite(image, str(path))
    cv2.imwrite(str(tmp_path / "expected.png"), image)
    assert path.read_bytes() == (tmp_path / "expected.png").read_bytes()

    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device.*new/other\.png"):
        imwrite(image, str(path.with_name("other.png")))
    assert [file.name for file in path.parent.iterdir()] == ["image.png"]


@pytest.fixture(scope="module")
def vgg11():
    return models.vgg11(init_weights=False)


def test_vgg_is_read_from_torchvisions_cache(vgg_folder, vgg11, recwarn):
    torch.save(vgg11.state_dict(), vgg_folder / "vgg11-8a719046.pth")
    extractor = vgg_arch.VGGFeatureExtractor(["conv1_1"], "vgg11", use_input_norm=False)
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(extractor(image)["conv1_1"], vgg11.features[0](image))
    assert not [w for w in recwarn if "pretrained" in str(w.message)]


def test_vgg_is_fetched_by_torchvision_with_a_warning(vgg_folder, vgg11, monkeypatch, said):

    def fetch(url: str, path: str, *args: object, **kwargs: object) -> None:
        assert url.endswith("/vgg11-8a719046.pth")
        torch.save(vgg11.state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    extractor = vgg_arch.VGGFeatureExtractor(["conv1_1"], "vgg11", use_input_norm=False)
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(extractor(image)["conv1_1"], vgg11.features[0](image))
    assert [level for level, message in said if "vgg11-8a719046.pth" in message] == ["WARNING"]


def test_code_in_a_vgg_file_is_refused_and_not_run(vgg_folder):
    torch.save({"features.0.weight": MakesAFolder()}, vgg_folder / "vgg11-8a719046.pth")
    with pytest.raises(pickle.UnpicklingError):
        vgg_arch.VGGFeatureExtractor(["conv1_1"], "vgg11")
    assert not Path("written by the pickle").exists()


# file clients


def test_reads_are_recorded_when_another_plugin_has_replaced_the_client(monkeypatch):
    def get(self, filepath, client_key="default"):
        return b"theirs" if filepath == "a.png" else b""

    get.__module__ = "other_plugin"
    monkeypatch.setattr(FileClient, "get", get)
    for _ in range(2):
        workarounds.after_basicsr()
        with workarounds.recorded_reads() as reads:
            assert FileClient("disk").get("a.png") == b"theirs"
            with pytest.raises(workarounds.UnreadableError, match=r"b\.png: empty"):
                FileClient("disk").get("b.png")
        assert reads == [workarounds.Read("a.png", b"theirs")]


def test_a_vgg_of_another_plugin_stays(monkeypatch):
    theirs = object()
    monkeypatch.setattr(vgg_arch, "vgg", theirs)
    workarounds.after_basicsr()
    assert vgg_arch.vgg is theirs


def test_log_files_are_utf8_in_any_locale(tmp_path):
    code = """
        import logging, sys
        import esc_arch, basicsr
        from basicsr.utils import get_root_logger
        from basicsr.utils.logger import get_root_logger as same
        assert same is get_root_logger
        get_root_logger(log_file=sys.argv[1]).info("\\xfcml\\xe4\\xfct \\u65e5")
        get_root_logger().info("twice")
    """
    log = tmp_path / "x.log"
    output_of(start_python(code, str(log), LC_ALL="C", PYTHONUTF8="0"))
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [line.split("INFO: ")[1] for line in lines] == ["ümläüt 日", "twice"]


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_load_network_takes_what_the_reader_takes(tmp_path, ending):
    model = BaseModel({"num_gpu": 0, "is_train": False, "dist": False})
    saved, network = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 4, 3)
    path = str(tmp_path / f"net.{ending}")
    if ending == "pth":
        torch.save({"model": {"sd": saved.state_dict()}}, path)
    else:
        save_file(saved.state_dict(), path)
    for key in ("params", "params_ema", None):
        torch.nn.init.zeros_(network.weight)
        model.load_network(network, path, True, key)
        assert torch.equal(network.weight, saved.weight)
