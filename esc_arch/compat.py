"""What basicsr 1.4.2 needs on today's PyTorch and torchvision, one mend per defect.

``before_basicsr`` runs before the first import of basicsr and looks for each defect, so a
repaired torchvision is left alone.  ``after_basicsr`` mends what is inside basicsr 1.4.2,
and no other release.  Both may run any number of times.
"""

import importlib
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import torch


def before_basicsr() -> None:
    """Apply the mends without which ``import basicsr`` fails."""
    _import_torchvision()
    _provide_functional_tensor()


def after_basicsr() -> None:
    """Apply the mends inside an imported basicsr."""
    from basicsr.version import __version__

    if __version__ != "1.4.2":
        return
    _resume_without_cuda()
    _distribute_without_cuda()


def _import_torchvision() -> None:
    """Defect: beside a CPU build of torch, a torchvision built for CUDA cannot load its
    compiled operators, and its import stops because ``torchvision::nms`` is unknown.

    Declaring the schemas of the operators that its Python code extends is enough for
    the transforms and models that BasicSR uses.  Calling the operators still fails.
    """
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    # The library object must outlive this function: its end would undo the declarations.
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _torchvision_schemas.append(library)
    importlib.import_module("torchvision")


_torchvision_schemas: list[torch.library.Library] = []


def _provide_functional_tensor() -> None:
    """Defect: basicsr.data.degradations imports ``rgb_to_grayscale`` from a torchvision
    module that was removed in torchvision 0.17."""
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    from torchvision.transforms import functional

    module = ModuleType(name, "Stands in for the module removed in torchvision 0.17.")
    module.rgb_to_grayscale = functional.rgb_to_grayscale
    sys.modules[name] = module


def _resume_without_cuda() -> None:
    """Defect: BasicSR's ``load_resume_state`` asks CUDA for its current device, so no run
    can be resumed on a CPU; and it unpickles the file without restrictions.

    The optimiser moves its state to the parameters' device itself, so the state can
    always be read into CPU memory.
    """
    from basicsr import train

    train.load_resume_state = _load_resume_state


def _load_resume_state(opt: dict) -> dict | None:
    """Stands in for ``basicsr.train.load_resume_state``: same arguments, same result."""
    from basicsr.utils import check_resume

    if opt["auto_resume"]:
        states = Path("experiments", opt["name"], "training_states").glob("[0-9]*.state")
        newest = max(states, key=lambda path: int(path.stem), default=None)
        opt["path"]["resume_state"] = None if newest is None else str(newest)
    path = opt["path"].get("resume_state")
    if path is None:
        return None
    # BasicSR's multi-step scheduler keeps its milestones in a Counter.
    with torch.serialization.safe_globals([Counter]):
        state = torch.load(path, map_location="cpu", weights_only=True)
    check_resume(opt, state["iter"])
    return state


def _distribute_without_cuda() -> None:
    """Defect: BasicSR's start of a distributed run divides by the number of GPUs, asks for
    NCCL, and wraps every network for the current GPU, so several CPU processes cannot
    train together.  With a GPU nothing is changed."""
    if torch.cuda.is_available():
        return
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import dist_util

    dist_util._init_dist_pytorch = _init_dist_gloo
    BaseModel.model_to_device = _model_to_cpu


def _init_dist_gloo(backend: str, **kwargs: object) -> None:
    """Stands in for ``basicsr.utils.dist_util._init_dist_pytorch``."""
    torch.distributed.init_process_group(backend="gloo", **kwargs)


def _model_to_cpu(self, net: torch.nn.Module) -> torch.nn.Module:
    """Stands in for ``BaseModel.model_to_device``."""
    net = net.to(self.device)
    if not self.opt["dist"]:
        return net
    return torch.nn.parallel.DistributedDataParallel(
        net, find_unused_parameters=self.opt.get("find_unused_parameters", False)
    )
