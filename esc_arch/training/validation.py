"""Validation during a training, by all processes of a job, and the best networks so far."""

import itertools
import logging
import math
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import cv2
import torch
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from esc_arch.errors import UserError, first_line
from esc_arch.progress import progress
from esc_arch.training import Options, bad_samples, random_states
from esc_arch.training.runtime import StopRequested, StopSignals
from esc_arch.training.tiled_test import tiled_test
from esc_arch.training.train_state import Best, Saver, TrainState

__all__ = ["Validation", "is_distributed", "is_out_of_memory", "validate"]

# What allocators say that raise no error of their own type.
_NO_MEMORY = (
    *("not enough memory", "out of memory", "can't allocate memory", "bad_alloc"),
    *("ALLOC_FAILED", "Insufficient memory"),
)

_logger = logging.getLogger("basicsr.esc_arch")


class Validation:
    """Runs ``model.validation``, shared out over the processes of a job, and keeps the networks
    of the best ``logger.keep_best``.

    With several validation sets, the mean of the metric over the sets decides, each set
    counting once.

    Args:
        loaders: of the validation sets.
        opt: the run's options.
        tb_logger: BasicSR's, a SummaryWriter; None in all processes but the first.
    """

    def __init__(
        self,
        model: BaseModel,
        loaders: Sequence["DataLoader[Any]"],
        opt: Options,
        saver: Saver,
        tb_logger: object,
    ) -> None:
        self._model = model
        self._loaders = loaders
        self._opt = opt
        self._saver = saver
        self._tb_logger = tb_logger
        self._metric: str | None = opt["logger"].get("keep_best")

    def is_due(self, iteration: int) -> bool:
        val = self._opt.get("val")
        return val is not None and iteration % int(val["val_freq"]) == 0

    def run(self, state: TrainState, signals: StopSignals) -> None:
        """Validate; leaves ``state.is_validated`` false when a signal came in between.

        The generators of training stay as they were, so a run that was killed between a
        checkpoint and its validation goes on as any other.
        """
        values: list[float] = []
        with random_states.kept():
            for loader in self._loaders:
                try:
                    results = self._validate(loader, state.iteration, signals)
                except StopRequested:
                    state.is_validated = False
                    return
                values.append(results.get(self._metric, math.nan))
        state.is_validated = True
        if self._metric is not None:
            self._compare(self._metric, sum(values) / len(values) if values else math.nan, state)

    def _validate(
        self, loader: "DataLoader[Any]", iteration: int, signals: StopSignals
    ) -> dict[str | None, float]:
        """Validate on one set; returns its metrics, the same ones in all processes."""
        model, save_img = self._model, self._opt["val"]["save_img"]
        with self._saver.stopping("what the validation gives"):
            validate(
                model, loader, iteration, self._tb_logger, save_img, signals, len(self._loaders) > 1
            )
        results = [getattr(model, "metric_results", None) or {}]
        if self._opt["dist"]:
            # Where the first process alone validates, the others have none.
            distributed.broadcast_object_list(results)
        return results[0]

    def _compare(self, metric: str, value: float, state: TrainState) -> None:
        best = state.best
        if best is not None and best.metric != metric:
            best = None
        better = self._opt["val"]["metrics"][metric].get("better", "higher")
        sign = 1 if better == "higher" else -1
        if math.isnan(value) or (best is not None and sign * value <= sign * best.value):
            return
        state.best = Best(metric, float(value), state.iteration)
        self._saver.save_best(state)
        _logger.info(
            f"Best {metric} so far: {value:.4f} @ {state.iteration} iter, in net_*_best.pth."
        )


def validate(
    model: BaseModel,
    loader: "DataLoader[Any]",
    current_iter: int | str,
    tb_logger: object,
    save_img: bool,
    signals: StopSignals | None = None,
    by_set: bool = False,
) -> None:
    """``model.validation``, by all processes of a job where its images can be shared out, with
    errors that name the image.

    Args:
        signals: of a training, which they interrupt.
        by_set: whether images of a training go into a folder of the set's name.

    Raises:
        StopRequested: in all processes, when one of them has received a signal.
        UserError: for an image that cannot be read, tested or measured.
    """
    images = _Images(model, loader, signals, by_set)
    tile = (model.opt.get("val") or {}).get("tile")
    with images.errors_named(), tiled_test(model, tile):
        if is_distributed(model):
            _validate_distributed(model, images, current_iter, tb_logger, save_img)
        else:
            # The class's: a test replaces the instance's by this function.
            type(model).validation(model, images, current_iter, tb_logger, save_img)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | cv2.error) and any(
        text in str(error) for text in _NO_MEMORY
    )


def is_distributed(model: BaseModel) -> bool:
    """Whether a model validates in several processes, image by image as SRModel does.

    Models that share out their videos themselves, or that measure all images together, do not.
    """
    kind = type(model)
    return bool(
        model.opt["dist"]
        and isinstance(model, SRModel)
        and kind.validation is BaseModel.validation
        and kind.dist_validation is SRModel.dist_validation
    )


def _validate_distributed(
    model: SRModel,
    images: "_Images",
    current_iter: int | str,
    tb_logger: object,
    save_img: bool,
) -> None:
    """``model.validation`` by all processes of the job, which call this together.

    BasicSR's SRModel lets the first process validate while the others wait for it.  Here each
    image goes through ``model.nondist_validation`` alone, which leaves its metrics.  They are
    added up in the order of the images, so the means are those of one process to the last bit.
    All processes have the results then.
    """
    rank, size = model.opt["rank"], model.opt["world_size"]
    dataset = images.dataset
    name, count = dataset.opt["name"], len(dataset)
    metrics = model.opt["val"].get("metrics")
    found: list[dict[str, float]] = []
    is_stopped = False
    with _image_by_image(model), _bar(model, name, count) as advance:
        try:
            for batch in images.taken(range(rank, count, size)):
                model.nondist_validation(_OneImage(dataset, batch), current_iter, None, save_img)
                found.append({} if metrics is None else dict(model.metric_results))
                advance(min(size, count - size * (len(found) - 1)))
        except StopRequested:
            is_stopped = True
    everyone: list[tuple[bool, list[dict[str, float]]]] = [(False, [])] * size
    distributed.all_gather_object(everyone, (is_stopped, found))
    if any(is_stopped for is_stopped, _ in everyone):
        raise StopRequested
    if metrics is None:
        return
    rows = [everyone[index % size][1][index // size] for index in range(count)]
    model._initialize_best_metric_results(name)
    model.metric_results = {}
    for metric in metrics:
        # As one process adds them; sum() of Python 3.12 is more exact.
        total = 0.0
        for row in rows:
            total += row[metric]
        model.metric_results[metric] = total / count
        model._update_best_metric_result(name, metric, model.metric_results[metric], current_iter)
    if rank == 0:
        model._log_validation_metric_values(current_iter, name, tb_logger)


class _Images:
    """The part of DataLoader that BasicSR's validation uses.

    It knows which image the model is at, ends after a signal, names what cannot be read, and
    keeps written images of one name apart.
    """

    def __init__(
        self,
        model: BaseModel,
        loader: "DataLoader[Any]",
        signals: StopSignals | None,
        by_set: bool,
    ) -> None:
        self.dataset = dataset = cast(Any, loader.dataset)
        self._model = model
        self._loader = loader
        self._signals = signals
        self._at: str | None = None
        path = model.opt["path"]
        self._set = str(dataset.opt["name"])
        self._folder = path.get("visualization")
        self._base = self._folder
        if by_set and self._folder is not None:
            self._base = os.path.join(self._folder, self._set)
        self._places = _places(self.dataset)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.taken(range(len(self.dataset)))

    def taken(self, indices: range) -> Iterator[dict[str, Any]]:
        """The batches, of one image each, of these places in the dataset.

        Raises:
            StopRequested: when this process has received a signal.
        """
        loader = self._loader
        if indices != range(len(self.dataset)):
            loader = DataLoader(
                Subset(self.dataset, indices),
                collate_fn=loader.collate_fn,
                pin_memory=loader.pin_memory,
            )
        source, path = iter(loader), self._model.opt["path"]
        for index in indices:
            try:
                batch = bad_samples.get_item(self.dataset, index, source.__next__)
            except StopIteration:  # of a loader with larger batches
                return
            except bad_samples.BadSample as reason:
                raise UserError(
                    f"datasets: expected images of {self._set} that can be read and fit together; "
                    f"found {reason}. Repair or remove it."
                ) from None
            if self._signals is not None and self._signals.received is not None:
                raise StopRequested
            names = [batch[key] for key in ("lq_path", "gt_path") if key in batch]
            self._at = ", ".join(str(name) for name in names[0]) if names else f"number {index}"
            if self._base is not None:
                path["visualization"] = os.path.join(self._base, self._places.get(index, ""))
            yield batch
            self._check_metrics()

    def _check_metrics(self) -> None:
        results = getattr(self._model, "metric_results", None) or {}
        for name, value in results.items():
            if math.isnan(value):
                raise UserError(
                    f"val.metrics.{name}: expected a number for image {self._at} of {self._set}; "
                    "found nan. A `crop_border` that leaves nothing of so small an image is the "
                    "usual reason: lower it, remove the image, or remove the metric."
                )

    @contextmanager
    def errors_named(self) -> Iterator[None]:
        """Let errors inside the block say at which image they came.

        Raises:
            UserError: when memory ran out, a metric fails, or a file cannot be read.
        """
        try:
            yield
            self._check_metrics()
        except (StopRequested, UserError):
            raise
        except Exception as error:
            if self._at is None:
                raise
            where = f"image {self._at} of {self._set}"
            if is_out_of_memory(error):
                raise UserError(
                    f"val: expected memory for {where}; found none left: {first_line(error)}. "
                    "Write `tile: 256` under val, which tests in tiles, or take smaller images."
                ) from error
            if (metric := _in_metric(error)) is not None:
                raise UserError(
                    f"val.metrics: expected {metric} to measure {where}; found "
                    f"{type(error).__name__}: {first_line(error)} ({_line_of(error)}). Remove the "
                    "metric or the image, or change the metric's arguments."
                ) from error
            if isinstance(error, OSError) and not self._is_written(error.filename):
                raise UserError(
                    f"{error.filename}: expected to read it for {where}; found: "
                    f"{error.strerror or error}. Correct that."
                ) from error
            if not isinstance(error, OSError):
                _logger.error(f"{type(error).__name__} at {where}: {first_line(error)}")
            raise
        finally:
            if self._folder is not None:
                self._model.opt["path"]["visualization"] = self._folder

    def _is_written(self, name: str | None) -> bool:
        """Whether a file of this name is one of the run's own."""
        own = self._model.opt["path"].get("log")
        return name is None or own is None or Path(own) in Path(name).absolute().parents


def _places(dataset: Any) -> dict[int, str]:
    """Folders for the written images of which another one has the name, by index."""
    paths = getattr(dataset, "paths", None)
    if not isinstance(paths, (list, tuple)):
        return {}
    files = [Path(_name_of(entry)) for entry in paths]
    counts = Counter(file.stem for file in files)
    shared = {index: file for index, file in enumerate(files) if counts[file.stem] > 1}
    if not shared:
        return {}
    root = os.path.commonpath([file.parent for file in shared.values()])
    places = {index: os.path.relpath(file.parent, root) for index, file in shared.items()}
    whole = Counter((places[index], file.stem) for index, file in shared.items())
    for index, file in shared.items():
        if whole[places[index], file.stem] > 1:  # a.png beside a.jpg
            places[index] = os.path.join(places[index], file.name)
    return {index: "" if place == os.curdir else place for index, place in places.items()}


def _name_of(entry: Any) -> str:
    """The LR image of a sample: BasicSR's datasets keep its path, or several by key; those of this
    package an object with one."""
    if isinstance(entry, Mapping):
        entry = entry.get("lq_path")
    return str(getattr(entry, "path", entry))


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))


def _in_metric(error: BaseException) -> str | None:
    """The function of a metric in which an error came."""
    frames = _frames(error)
    for frame, inner in itertools.pairwise(frames):
        if frame.name == "calculate_metric":
            return inner.name
    return None


def _line_of(error: BaseException) -> str:
    last = _frames(error)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


class _OneImage(list[dict[str, Any]]):
    """The part of DataLoader that BasicSR's validation uses, with one batch of one image."""

    def __init__(self, dataset: object, batch: dict[str, Any]) -> None:
        super().__init__([batch])
        self.dataset = dataset


@contextmanager
def _image_by_image(model: SRModel) -> Iterator[None]:
    """Keep a model from summing up, and its networks from waiting for other processes.

    DistributedDataParallel sends the buffers around in each forward pass, also in validation,
    where the processes may have different numbers of images.
    """
    wrapped = {
        name: network
        for name, network in vars(model).items()
        if isinstance(network, DistributedDataParallel)
    }
    val = model.opt["val"]
    model.opt["val"] = {**val, "pbar": False}
    # In the instance, before the class's methods.
    model._update_best_metric_result = model._log_validation_metric_values = _nothing
    try:
        for name, network in wrapped.items():
            setattr(model, name, network.module)
        yield
    finally:
        for name, network in wrapped.items():
            setattr(model, name, network)
        del model._update_best_metric_result, model._log_validation_metric_values
        model.opt["val"] = val


def _nothing(*args: object) -> None:
    pass


def _bar(model: SRModel, name: str, count: int) -> AbstractContextManager[Callable[[float], None]]:
    """Progress of all images, as the first process has come through its own."""
    if model.opt["rank"] == 0 and model.opt["val"].get("pbar"):
        return progress(f"validating {name}", count)
    return nullcontext(_nothing)
