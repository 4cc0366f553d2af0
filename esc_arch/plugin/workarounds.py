"""Work-arounds for basicsr 1.4.2 on today's PyTorch and torchvision, one for each defect.

``before_basicsr`` runs before the first import of basicsr and looks for each defect, so a
repaired torchvision is left alone.  ``after_basicsr`` replaces functions inside basicsr, most of
them in release 1.4.2 only.  Both may run any number of times.
"""

import errno
import functools
import importlib
import importlib.util
import inspect
import io
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from io import TextIOWrapper
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import IO, Any, NamedTuple, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from esc_arch.files import write_durably
from esc_arch.plugin import process_group
from esc_arch.plugin.readers import list_text, shared_environment

__all__ = [
    "OPTIMIZERS",
    "SHORTAGES",
    "Read",
    "UnreadableError",
    "after_basicsr",
    "before_basicsr",
    "import_torchvision",
    "load_resume_state",
    "recorded_reads",
    "sort_paths",
]

# LBFGS asks for a closure in each step, and SparseAdam for sparse gradients; BasicSR's
# models give neither.
OPTIMIZERS: Mapping[str, type[Optimizer]] = MappingProxyType(
    {
        name: value
        for name, value in sorted(vars(torch.optim).items())
        if inspect.isclass(value)
        and issubclass(value, Optimizer)
        and value is not Optimizer
        and name not in ("LBFGS", "SparseAdam")
    }
)

# Of the machine, not of a file: too many open files, no memory.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_logger = logging.getLogger("basicsr.esc_arch")

# This module, of those of its name that were imported in one process.
_MAKER = object()


def before_basicsr() -> None:
    """Apply the work-arounds without which ``import basicsr`` fails."""
    import_torchvision()
    _provide_functional_tensor()


def after_basicsr() -> None:
    """Apply the work-arounds inside an imported basicsr, which may happen again.

    What another plug-in has replaced stays as it is; its ``FileClient.get`` is wrapped.  What a
    cut-down BasicSR lacks is left out.
    """
    base_model = _part("models.base_model", "BaseModel")
    _replace(base_model, "get_optimizer", lambda original: _get_optimizer)
    _replace(_part("utils.file_client", "FileClient"), "get", _recording, of_others=True)
    if _part("version", "__version__") != "1.4.2":
        return
    lmdb_backend = _part("utils.file_client", "LmdbBackend")
    _replace(lmdb_backend, "__init__", lambda original: _open_shared)
    _replace(_part("train"), "load_resume_state", lambda original: load_resume_state)
    dist_util = _part("utils.dist_util")
    _replace(dist_util, "_init_dist_pytorch", lambda original: process_group.start_pytorch)
    _replace(dist_util, "_init_dist_slurm", lambda original: process_group.start_slurm)
    _replace(base_model, "model_to_device", _model_to_device)
    _replace(base_model, "load_network", _load_network)
    for name, place in (("RealESRNetModel", "realesrnet"), ("RealESRGANModel", "realesrgan")):
        model = _part(f"models.{place}_model", name)
        _replace(model, "__init__", functools.partial(_init_on_device, model))
        _replace(model, "_dequeue_and_enqueue", _pool_on_device)
    _replace(_part("utils.img_process_util"), "filter2D", _filter_any_memory_format)
    _replace(_part("utils.img_util"), "imwrite", lambda original: _imwrite)
    _replace(_part("utils.logger"), "get_root_logger", _logging_in_utf8)
    for name, module in list(sys.modules.items()):
        if name.startswith("basicsr.data."):
            vars(module).setdefault("open", _open_list)
    vgg_arch = _part("archs.vgg_arch")
    # torchvision's, or ours of before.
    if isinstance(getattr(vgg_arch, "vgg", None), ModuleType | SimpleNamespace):
        names = [f"{name}{ending}" for name in vgg_arch.NAMES for ending in ("", "_bn")]
        vgg_arch.vgg = SimpleNamespace(**{name: functools.partial(_vgg, name) for name in names})


def _part(module: str, name: str | None = None) -> Any:
    """A module of BasicSR, or what is in it; None where this BasicSR has none."""
    try:
        found = importlib.import_module(f"basicsr.{module}")
    except ImportError:
        return None
    return found if name is None else getattr(found, name, None)


def _replace(
    owner: Any, name: str, replacement: Callable[[Any], Any], of_others: bool = False
) -> None:
    """Replace a function of BasicSR in a class, or in its module and those that import it by name.

    Args:
        replacement: of the original.
        of_others: whether a function by which another plug-in has replaced it is replaced, too.
    """
    # By replacement, the original and the module that made it.  Kept in basicsr, as a module of
    # this name may have been imported before, forgotten, and imported again.
    if owner is None or getattr(owner, name, None) is None:
        return
    replaced: dict[Any, tuple[Any, object]]
    replaced = vars(sys.modules["basicsr"]).setdefault("_esc_arch_replaced", {})
    present = getattr(owner, name)
    original, maker = replaced.get(present, (present, None))
    if maker is _MAKER or (original.__module__.split(".")[0] != "basicsr" and not of_others):
        return
    new = replacement(original)
    replaced[new] = original, _MAKER
    setattr(owner, name, new)
    for place, module in list(sys.modules.items()):
        if place.split(".")[0] == "basicsr" and vars(module).get(name) is present:
            setattr(module, name, new)


def import_torchvision() -> None:
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
    library: Any = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _torchvision_schemas.append(library)
    importlib.import_module("torchvision")


_torchvision_schemas: list[Any] = []


def _provide_functional_tensor() -> None:
    """Defect: basicsr.data.degradations imports ``rgb_to_grayscale`` from a torchvision
    module that was removed in torchvision 0.17."""
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    from torchvision.transforms import functional

    module = ModuleType(name, "Replaces the module removed in torchvision 0.17.")
    vars(module)["rgb_to_grayscale"] = functional.rgb_to_grayscale
    sys.modules[name] = module


def _get_optimizer(
    self: object,
    optim_type: str,
    params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    lr: float,
    **kwargs: object,
) -> Optimizer:
    """Defect: ``BaseModel.get_optimizer`` knows only Adam, so the public option files, which ask
    for AdamW, stop with an error.  Same arguments, same errors.  Models with a ``get_optimizer``
    of their own keep it."""
    if optim_type not in OPTIMIZERS:
        raise NotImplementedError(
            f"optimizer {optim_type} is not supported; known are {', '.join(OPTIMIZERS)}."
        )
    build: Callable[..., Optimizer] = OPTIMIZERS[optim_type]
    return build(params, lr=lr, **kwargs)


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Defect: ``basicsr.train.load_resume_state`` asks CUDA for its current device, so no run can
    be resumed on a CPU; and it unpickles the file without restrictions.

    Same arguments, same result.  The optimiser moves its state to the parameters' device itself,
    so the state can always be read into CPU memory.
    """
    from basicsr.utils import check_resume

    # This package is below that one, which is there when it is called.
    read_file = importlib.import_module("esc_arch.checkpoints.state_dicts").read_file
    if opt["auto_resume"]:
        states = Path("experiments", opt["name"], "training_states").glob("[0-9]*.state")
        newest = max(states, key=lambda path: int(path.stem), default=None)
        opt["path"]["resume_state"] = None if newest is None else str(newest)
    path = opt["path"].get("resume_state")
    if path is None:
        return None
    state: Any = read_file(path)
    check_resume(opt, state["iter"])
    return state


def _model_to_device(original: Callable[[Any, nn.Module], nn.Module]) -> Callable[..., nn.Module]:
    """Defect: ``BaseModel.model_to_device`` wraps every network for the current GPU, so several CPU
    processes cannot train together."""

    def model_to_device(self: Any, net: nn.Module) -> nn.Module:
        if not self.opt["dist"] or self.device.type != "cpu":
            return original(self, net)
        return nn.parallel.DistributedDataParallel(
            net.to(self.device),
            find_unused_parameters=self.opt.get("find_unused_parameters", False),
        )

    return model_to_device


def _load_network(original: object) -> Callable[..., None]:
    """Defect: ``BaseModel.load_network`` knows only torch.save's files with BasicSR's keys, and
    unpickles them without restrictions on PyTorch before 2.6."""

    def load_network(
        self: Any,
        net: nn.Module,
        load_path: str,
        strict: bool = True,
        param_key: str | None = "params",
    ) -> None:
        from basicsr.utils import get_root_logger

        # This package is below that one, which is there when it is called.
        reader = importlib.import_module("esc_arch.checkpoints.pretrained")
        net = self.get_bare_model(net)
        content = reader.read_pretrained(load_path)
        found = reader.pretrained_parameters(content, load_path, param_key, net.state_dict())
        get_root_logger().info(
            f"Loading {type(net).__name__} from {load_path}, parameters of "
            f"{found.place or 'the top'} (param key: {param_key})."
        )
        state = dict(found.state)
        self._print_different_keys_loading(net, state, strict)
        net.load_state_dict(state, strict=strict)

    return load_network


def _init_on_device(model: Any, original: object) -> Callable[..., None]:
    """Defect: both models of Real-ESRGAN put their JPEG simulation, their sharpening and their
    pool of training pairs on the current GPU, whatever device the networks are on, so they fail
    without a GPU and with ``num_gpu: 0``."""
    from basicsr.utils import DiffJPEG, USMSharp

    def __init__(self: Any, opt: dict[str, Any]) -> None:
        super(model, self).__init__(opt)
        self.jpeger = DiffJPEG(differentiable=False).to(self.device)
        self.usm_sharpener = USMSharp().to(self.device)
        self.queue_size = opt.get("queue_size", 180)

    return __init__


def _pool_on_device(exchange: Callable[..., None]) -> Callable[..., None]:
    """``_dequeue_and_enqueue``, which makes the pool at its first call, if there is none."""

    def _dequeue_and_enqueue(self: Any) -> None:
        if not hasattr(self, "queue_lr"):
            if self.queue_size % len(self.lq):
                raise ValueError(f"queue_size {self.queue_size} is no multiple of {len(self.lq)}")
            self.queue_lr = self.lq.new_zeros(self.queue_size, *self.lq.shape[1:])
            self.queue_gt = self.gt.new_zeros(self.queue_size, *self.gt.shape[1:])
            self.queue_ptr = 0
        exchange(self)

    return _dequeue_and_enqueue


def _filter_any_memory_format(filter2d: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Defect: ``filter2D`` views a padded image as one of other dimensions.  Since PyTorch's
    padding keeps the memory format, this stops for images that lie channels last in memory,
    as those from BasicSR's JPEG simulation do."""
    return lambda img, kernel: filter2d(img.contiguous(), kernel)


def _imwrite(
    img: NDArray[np.uint8], file_path: str, params: list[int] | None = None, auto_mkdir: bool = True
) -> None:
    """Defect: ``basicsr.utils.img_util.imwrite`` writes to the final name, where a full disk leaves
    a part of the file, and its error says neither which file nor why.  Same arguments.

    Raises:
        OSError: with the file's name, when the file system refuses.
    """
    path = Path(file_path)
    if auto_mkdir:
        path.parent.mkdir(parents=True, exist_ok=True)
    is_encoded, content = cv2.imencode(path.suffix, img, params or [])
    if not is_encoded:
        raise OSError(errno.EINVAL, "OpenCV cannot encode this image", file_path)
    write_durably(path, lambda file: file.write(content.tobytes()))


def _logging_in_utf8(original: Callable[..., logging.Logger]) -> Callable[..., logging.Logger]:
    """Defect: ``get_root_logger`` opens the log file in the locale's encoding, which may lack the
    characters of an experiment's name.  Same arguments."""

    @functools.wraps(original)
    def get_root_logger(*arguments: Any, **named: Any) -> logging.Logger:
        logger = original(*arguments, **named)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler) and handler.encoding != "utf-8":
                handler.encoding = "utf-8"
                # Nothing is in it yet.
                file = open(  # noqa: SIM115
                    handler.baseFilename, handler.mode, encoding="utf-8", errors="backslashreplace"
                )
                before = handler.setStream(cast(TextIOWrapper, file))
                if before is not None:
                    before.close()
        return logger

    return get_root_logger


def _open_list(file: str, mode: str = "r") -> IO[str]:
    """Defect: datasets read ``meta_info`` files in the encoding of the locale, and take a byte
    order mark, which editors on Windows write, for the beginning of the first name."""
    return io.StringIO(list_text(file))


def _vgg(name: str, pretrained: bool) -> nn.Module:
    """Defect: ``VGGFeatureExtractor`` builds VGG with the argument ``pretrained``, which
    torchvision has deprecated since 0.13, and lets it download the weights without a word
    and unpickle them without restrictions.  Replaces ``torchvision.models.vgg19`` and the like."""
    from torchvision import models

    # VGGFeatureExtractor loads a file into it if this does not.
    network: nn.Module = getattr(models, name)(weights=None, init_weights=False)
    if pretrained:
        weights = models.get_model_weights(name).DEFAULT
        path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        if not path.is_file():
            # `basicsr train` has checked that it is there; other programs expect torchvision
            # to fetch it.
            _logger.warning(f"The weights of {name} are not in {path}: fetching {weights.url}")
        network.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
    return network


# The open LMDBs of this process, by device and inode.
def _open_shared(
    self: Any,
    db_paths: str | list[str],
    client_keys: str | list[str] = "default",
    readonly: bool = True,
    lock: bool = False,
    readahead: bool = False,
    **kwargs: Any,
) -> None:
    """Defect: ``LmdbBackend`` opens its LMDBs again, which a process may do once, so training and
    validation cannot read the same one, nor two roots of a dataset.  Same arguments."""
    import lmdb

    self.db_paths = [str(path) for path in ([db_paths] if isinstance(db_paths, str) else db_paths)]
    keys = [client_keys] if isinstance(client_keys, str) else client_keys
    if len(keys) != len(self.db_paths):
        raise ValueError(f"LMDBs {self.db_paths} and client keys {keys} differ in number")
    is_usual = readonly and not (lock or readahead or kwargs)
    self._client = {
        key: shared_environment(path)
        if is_usual
        else lmdb.open(path, readonly=readonly, lock=lock, readahead=readahead, **kwargs)
        for key, path in zip(keys, self.db_paths, strict=True)
    }


class UnreadableError(Exception):
    """An image that cannot be read: ``name: reason``.

    No OSError: RealESRGANDataset takes another image then, at random.
    """


class Read(NamedTuple):
    """A file, or an LMDB and the key in it, and the bytes read from it."""

    name: str
    content: bytes


_reads: ContextVar[list[Read] | None] = ContextVar("reads", default=None)


@contextmanager
def recorded_reads() -> Iterator[list[Read]]:
    """Reads of BasicSR's file clients inside the block, which raise UnreadableError there."""
    reads: list[Read] = []
    token = _reads.set(reads)
    try:
        yield reads
    finally:
        _reads.reset(token)


def _recording(get: Callable[[Any, str, str], bytes | None]) -> Callable[..., bytes | None]:
    """Defect: ``FileClient.get`` gives None for a missing key of an LMDB and nothing for an empty
    file, at which datasets stop in many ways, none of which names the file.  Inside
    :func:`recorded_reads`, and nowhere else, it raises an error that does."""

    def recording_get(self: Any, filepath: str, client_key: str = "default") -> bytes | None:
        reads = _reads.get()
        if reads is None:
            return get(self, filepath, client_key)
        name = str(filepath)
        if self.backend == "lmdb":
            roots = dict(zip(self.client._client, self.client.db_paths, strict=True))
            name = f"{roots.get(client_key, client_key)}, key {filepath}"
        try:
            content = get(self, filepath, client_key)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            raise UnreadableError(f"{name}: {error.strerror or error}") from None
        except Exception as error:
            lmdb = sys.modules.get("lmdb")
            if lmdb is not None and isinstance(error, lmdb.Error):
                raise UnreadableError(f"{name}: {error}") from None
            raise
        if not content:
            found = "no such key" if content is None else "empty, no image"
            raise UnreadableError(f"{name}: {found}")
        reads.append(Read(name, content))
        return content

    return recording_get


def sort_paths(dataset: Any, section: Mapping[str, Any]) -> None:
    """Defect: ``PairedImageDataset`` and ``SingleImageDataset`` list images in the order of the
    file system, which another machine does not share.  They are sorted by name.

    Args:
        section: of the options, from which the dataset was built.
    """
    from basicsr.data.paired_image_dataset import PairedImageDataset
    from basicsr.data.single_image_dataset import SingleImageDataset

    is_listed = section["io_backend"]["type"] == "disk" and not section.get("meta_info_file")
    if isinstance(dataset, PairedImageDataset) and is_listed:
        dataset.paths.sort(key=lambda pair: pair["gt_path"])
    elif isinstance(dataset, SingleImageDataset) and is_listed:
        dataset.paths.sort()
