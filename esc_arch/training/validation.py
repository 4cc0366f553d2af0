"""Validation during a training, by all processes of a job, and the best networks so far."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from esc_arch.progress import progress
from esc_arch.training import Options, random_states
from esc_arch.training.runtime import StopRequested, StopSignals
from esc_arch.training.train_state import Best, Saver, TrainState

__all__ = ["Validation", "is_distributed", "validate_distributed"]

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
            if is_distributed(model):
                validate_distributed(model, loader, iteration, self._tb_logger, save_img, signals)
            else:
                model.validation(signals.interrupting(loader), iteration, self._tb_logger, save_img)
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


def validate_distributed(
    model: SRModel,
    loader: "DataLoader[Any]",
    current_iter: int,
    tb_logger: object,
    save_img: bool,
    signals: StopSignals | None = None,
) -> None:
    """``model.validation`` by all processes of the job, which call this together.

    BasicSR's SRModel lets the first process validate while the others wait for it.  Here each
    image goes through ``model.nondist_validation`` alone, which leaves its metrics.  They are
    added up in the order of the images, so the means are those of one process to the last bit.
    All processes have the results then.

    Args:
        signals: of a training, which they interrupt.

    Raises:
        StopRequested: in all processes, when one of them has received a signal.
    """
    rank, size = model.opt["rank"], model.opt["world_size"]
    dataset: Any = loader.dataset
    name, count = dataset.opt["name"], len(dataset)
    own: DataLoader[Any] = DataLoader(
        Subset(dataset, range(rank, count, size)),
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
    )
    metrics = model.opt["val"].get("metrics")
    found: list[dict[str, float]] = []
    with _image_by_image(model), _bar(model, name, count) as advance:
        for batch in own:
            if signals is not None and signals.received is not None:
                break
            model.nondist_validation(_OneImage(dataset, batch), current_iter, None, save_img)
            found.append({} if metrics is None else dict(model.metric_results))
            advance(min(size, count - size * (len(found) - 1)))
    everyone: list[tuple[bool, list[dict[str, float]]]] = [(False, [])] * size
    is_stopped = signals is not None and signals.received is not None
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
