"""What basicsr 1.4.2 needs on today's PyTorch and torchvision, one mend per defect.

``before_basicsr`` runs before the first import of basicsr and looks for each defect, so a
repaired torchvision is left alone.  ``after_basicsr`` mends what is inside basicsr 1.4.2,
and no other release.  Both may run any number of times.
"""

import errno
import functools
import importlib
import importlib.util
import logging
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import torch

_logger = logging.getLogger("basicsr.esc_arch")


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
    _distribute_anywhere()
    _degrade_without_cuda()
    _filter_any_memory_format()
    _write_images_whole()
    _vgg_from_files()


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


def _distribute_anywhere() -> None:
    """Defect: BasicSR's start of a distributed run divides by the number of GPUs, asks for
    NCCL, and wraps every network for the current GPU, so several CPU processes cannot
    train together.  It takes a process's place in the job for its place on the machine, and
    under SLURM needs ``scontrol``, and one port for all jobs of a machine.  What another
    plug-in has put in their places stays."""
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import dist_util

    for start in (_init_dist_pytorch, _init_dist_slurm):
        if getattr(dist_util, start.__name__).__module__ == dist_util.__name__:
            setattr(dist_util, start.__name__, start)
    if BaseModel.model_to_device.__module__ == BaseModel.__module__:
        BaseModel.model_to_device = _model_to_device(BaseModel.model_to_device)


def _init_dist_pytorch(backend: str, **kwargs: object) -> None:
    """Stands in for ``basicsr.utils.dist_util._init_dist_pytorch``."""
    from esc_arch.training import process_group

    process_group.start_pytorch(backend, **kwargs)


def _init_dist_slurm(backend: str, port: int | None = None) -> None:
    """Stands in for ``basicsr.utils.dist_util._init_dist_slurm``."""
    from esc_arch.training import process_group

    process_group.start_slurm(backend, port)


def _model_to_device(original: Callable) -> Callable:
    """``BaseModel.model_to_device``, also for networks that several processes train on CPUs."""

    def model_to_device(self, net: torch.nn.Module) -> torch.nn.Module:
        if not self.opt["dist"] or self.device.type != "cpu":
            return original(self, net)
        return torch.nn.parallel.DistributedDataParallel(
            net.to(self.device),
            find_unused_parameters=self.opt.get("find_unused_parameters", False),
        )

    return model_to_device


def _degrade_without_cuda() -> None:
    """Defect: both models of Real-ESRGAN put their JPEG simulation, their sharpening and
    their pool of training pairs on the current GPU, whatever device the networks are on, so
    they fail without a GPU and with ``num_gpu: 0``."""
    from basicsr.models.realesrgan_model import RealESRGANModel
    from basicsr.models.realesrnet_model import RealESRNetModel

    for model in (RealESRNetModel, RealESRGANModel):
        if model.__init__.__module__ != __name__:
            model.__init__ = _init_on_device(model)
            model._dequeue_and_enqueue = _pool_on_device(model._dequeue_and_enqueue)


def _init_on_device(model: type) -> Callable[..., None]:
    """Stands in for ``RealESRNetModel.__init__`` and ``RealESRGANModel.__init__``."""
    from basicsr.utils import DiffJPEG, USMSharp

    def __init__(self, opt: dict) -> None:
        super(model, self).__init__(opt)
        self.jpeger = DiffJPEG(differentiable=False).to(self.device)
        self.usm_sharpener = USMSharp().to(self.device)
        self.queue_size = opt.get("queue_size", 180)

    return __init__


def _pool_on_device(exchange: Callable[..., None]) -> Callable[..., None]:
    """``_dequeue_and_enqueue``, which makes the pool at its first call, if there is none."""

    @functools.wraps(exchange)
    def _dequeue_and_enqueue(self) -> None:
        if not hasattr(self, "queue_lr"):
            if self.queue_size % len(self.lq):
                raise ValueError(f"queue_size {self.queue_size} is no multiple of {len(self.lq)}")
            self.queue_lr = self.lq.new_zeros(self.queue_size, *self.lq.shape[1:])
            self.queue_gt = self.gt.new_zeros(self.queue_size, *self.gt.shape[1:])
            self.queue_ptr = 0
        exchange(self)

    return _dequeue_and_enqueue


def _filter_any_memory_format() -> None:
    """Defect: ``filter2D`` views a padded image as one of other dimensions.  Since PyTorch's
    padding keeps the memory format, this stops for images that lie channels last in memory,
    as those from BasicSR's JPEG simulation do."""
    from basicsr.models import realesrgan_model, realesrnet_model
    from basicsr.utils import img_process_util

    if img_process_util.filter2D.__module__ == __name__:
        return
    filter2d = img_process_util.filter2D

    def filter2D(img: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return filter2d(img.contiguous(), kernel)

    for module in (img_process_util, realesrnet_model, realesrgan_model):
        module.filter2D = filter2D


def _write_images_whole() -> None:
    """Defect: ``imwrite`` writes to the final name, so what a full disk cuts off stays there, and
    its error says neither which file nor why."""
    from basicsr.utils import img_util

    original = img_util.imwrite
    if original.__module__ != img_util.__name__:
        return
    # The models have imported it by name.
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "basicsr" and getattr(module, "imwrite", None) is original:
            module.imwrite = _imwrite


def _imwrite(
    img: np.ndarray, file_path: str, params: list[int] | None = None, auto_mkdir: bool = True
) -> None:
    """Stands in for ``basicsr.utils.img_util.imwrite``: same arguments.

    Raises:
        OSError: with the file's name, when the file system refuses.
    """
    from esc_arch.files import write_durably

    path = Path(file_path)
    if auto_mkdir:
        path.parent.mkdir(parents=True, exist_ok=True)
    is_encoded, content = cv2.imencode(path.suffix, img, params or [])
    if not is_encoded:
        raise OSError(errno.EINVAL, "OpenCV cannot encode this image", file_path)
    write_durably(path, lambda file: file.write(content.tobytes()))


def _vgg_from_files() -> None:
    """Defect: ``VGGFeatureExtractor`` builds VGG with the argument ``pretrained``, which
    torchvision has deprecated since 0.13, and lets it download the weights without a word
    and unpickle them without restrictions."""
    from basicsr.archs import vgg_arch

    names = [f"{name}{ending}" for name in vgg_arch.NAMES for ending in ("", "_bn")]
    vgg_arch.vgg = SimpleNamespace(**{name: functools.partial(_vgg, name) for name in names})


def _vgg(name: str, pretrained: bool) -> torch.nn.Module:
    """Stands in for ``torchvision.models.vgg19`` and the like."""
    from torchvision import models

    # VGGFeatureExtractor loads a file into it if this does not.
    network = getattr(models, name)(weights=None, init_weights=False)
    if pretrained:
        weights = models.get_model_weights(name).DEFAULT
        path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        if not path.is_file():
            # `basicsr train` has checked that it is there; other programs expect torchvision
            # to fetch it.
            _logger.warning(f"The weights of {name} are not in {path}: fetching {weights.url}")
        network.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
    return network
