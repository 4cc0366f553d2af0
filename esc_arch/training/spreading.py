"""Validation by all processes of a job: each image once, and the numbers of one process.

BasicSR's SRModel lets the first process validate while the others wait for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from esc_arch.progress import progress
from esc_arch.training.signals import StopRequested, StopSignals

__all__ = ["is_spread", "validate_together"]


def is_spread(model: BaseModel) -> bool:
    """Whether a model validates in several processes, image by image as SRModel does.

    Models that spread their videos themselves, or that measure all images together, do not.
    """
    kind = type(model)
    return (
        model.opt["dist"]
        and isinstance(model, SRModel)
        and kind.validation is BaseModel.validation
        and kind.dist_validation is SRModel.dist_validation
    )


def validate_together(
    model: SRModel,
    loader: DataLoader,
    current_iter: int,
    tb_logger: object,
    save_img: bool,
    signals: StopSignals | None = None,
) -> None:
    """As ``model.validation`` in one process; all processes of the job call this together.

    Each image goes through ``model.nondist_validation`` alone, which leaves its metrics.  They
    are added up in the order of the images, so the means are those of one process to the last
    bit.  All processes have the results then.

    Args:
        signals: of a training, which they interrupt.

    Raises:
        StopRequested: in all processes, when one of them has received a signal.
    """
    rank, size = model.opt["rank"], model.opt["world_size"]
    name, count = loader.dataset.opt["name"], len(loader.dataset)
    own = DataLoader(
        Subset(loader.dataset, range(rank, count, size)),
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
    )
    has_metrics = model.opt["val"].get("metrics") is not None
    found: list[dict[str, float]] = []
    with _image_by_image(model), _bar(model, name, count) as advance:
        for batch in own:
            if signals is not None and signals.received is not None:
                break
            one = _OneImage(loader.dataset, batch)
            model.nondist_validation(one, current_iter, None, save_img)
            found.append(dict(model.metric_results) if has_metrics else {})
            advance(min(size, count - size * (len(found) - 1)))
    everyone: list[tuple[bool, list]] = [(False, [])] * size
    is_stopped = signals is not None and signals.received is not None
    distributed.all_gather_object(everyone, (is_stopped, found))
    if any(is_stopped for is_stopped, _ in everyone):
        raise StopRequested
    if not has_metrics:
        return
    rows = [everyone[index % size][1][index // size] for index in range(count)]
    model._initialize_best_metric_results(name)
    model.metric_results = {}
    for metric in model.opt["val"]["metrics"]:
        # As one process adds them; sum() of Python 3.12 is more exact.
        total = 0
        for row in rows:
            total += row[metric]
        model.metric_results[metric] = total / count
        model._update_best_metric_result(name, metric, model.metric_results[metric], current_iter)
    if rank == 0:
        model._log_validation_metric_values(current_iter, name, tb_logger)


class _OneImage:
    """As much of a DataLoader as BasicSR's validation uses, with one batch of one image."""

    def __init__(self, dataset: object, batch: dict) -> None:
        self.dataset = dataset
        self._batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[dict]:
        yield self._batch


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


@contextmanager
def _bar(model: SRModel, name: str, count: int) -> Iterator:
    """Progress of all images, as the first process has come through its own."""
    if model.opt["rank"] == 0 and model.opt["val"].get("pbar"):
        with progress(f"validating {name}", count) as advance:
            yield advance
    else:
        yield _nothing
