"""Writing checkpoints: what ``model.save`` hands over becomes a generation, or the run stops."""

import functools
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import torch
from basicsr.models.base_model import BaseModel
from rich.filesize import decimal
from torch import Tensor, nn

from esc_arch.errors import UserError
from esc_arch.files import Digest, remove_parts, write_durably
from esc_arch.training import generations, random_states

__all__ = ["BEST", "POOL", "Best", "Position", "Saver"]

BEST = "best"
# Real-ESRGAN's pool of training pairs.
POOL = ("queue_lr", "queue_gt", "queue_ptr")
# For the zip structure of a file and the record.
_MARGIN_BYTES = 2**20
# Adam and its like keep two averages of each parameter.
_STATE_PER_PARAMETER = 2

_logger = logging.getLogger("basicsr.esc_arch")


@dataclass
class Best:
    """The best value of ``logger.keep_best``'s metric, and when it was found."""

    metric: str
    value: float
    iteration: int


@dataclass
class Position:
    """How far a run has come.

    Attributes:
        iteration: iterations done.
        epoch: of the training samples.
        samples: of the epoch that are used up, by all processes together.
        length: samples of an epoch.
        seed: of the training samples.
        is_validated: whether the validation that is due at this iteration was done.
        best: None before the first validation, and without ``keep_best``.
        bad_samples: that were found and replaced, by name and reason.
    """

    iteration: int
    epoch: int
    samples: int
    length: int
    seed: int
    is_validated: bool = True
    best: Best | None = None
    bad_samples: list[str] = field(default_factory=list)


class Saver:
    """Writes the checkpoints of a model, which saves through this from now on.

    Only the first process of a job writes.

    Args:
        model: its ``save_network`` and ``save_training_state`` are replaced, so whatever its
            ``save`` writes through them belongs to the generation.
        opt: the run's options.
    """

    def __init__(self, model: BaseModel, opt: dict) -> None:
        self._model = model
        self._opt = opt
        self._experiment = Path(opt["path"]["experiments_root"])
        self._keep_last = opt["logger"].get("keep_last")
        self._contents: dict[str, dict] = {}
        self._own: dict = {}
        model.save_network = self._take_network
        model.save_training_state = self._take_state

    def save(self, position: Position) -> None:
        """Write a generation; all processes of a job call this together.

        Raises:
            UserError: when the file system refuses; says what is safe.
        """
        ranks = _gathered(self._of_this_process())
        if self._opt["rank"] != 0:
            return
        best_metrics = _plain(getattr(self._model, "best_metric_results", {}))
        self._own = {
            **asdict(position),
            "ranks": ranks,
            "best_metric_results": best_metrics,
        }
        facts = {
            "iter": position.iteration,
            "epoch": position.epoch,
            "saved": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "best_metric_results": best_metrics,
            "best": position.best and asdict(position.best),
        }
        with self.stopping(f"checkpoint {position.iteration}"):
            generations.forget(self._experiment, position.iteration)
            self._write(position.epoch, position.iteration, facts, position.iteration)
            if self._keep_last is not None:
                generations.delete_older(self._experiment, position.iteration, self._keep_last)

    def save_latest(self) -> None:
        """Write ``net_*_latest.pth``, BasicSR's name for the trained networks.

        Raises:
            UserError: as of :meth:`save`.
        """
        if self._opt["rank"] == 0:
            with self.stopping("the trained networks, net_*_latest.pth"):
                self._write(-1, -1)

    def save_best(self, position: Position) -> None:
        """Write ``net_*_best.pth`` with a record of their own.

        Raises:
            UserError: as of :meth:`save`.
        """
        if self._opt["rank"] == 0:
            facts = {**asdict(position.best), "epoch": position.epoch}
            with self.stopping("the best networks so far, net_*_best.pth"):
                self._write(position.epoch, BEST, facts, BEST)

    def check_space(self, iterations: int) -> None:
        """Check before a run that its checkpoints fit on the disk.

        Args:
            iterations: that are left.

        Raises:
            UserError: when not even one does.
        """
        if self._opt["rank"] != 0:
            return
        needed = self._generation_bytes()
        with self.stopping("a first checkpoint"):
            for folder in (generations.MODELS, generations.STATES):
                path = self._experiment / folder
                path.mkdir(parents=True, exist_ok=True)
                remove_parts(path)
                # A quota or a read-only mount shows in no figure.
                write_durably(path / ".writable", lambda file: file.write(b"1"))
                (path / ".writable").unlink()
        free = shutil.disk_usage(self._experiment).free
        self._require(free, needed, "a checkpoint")
        count = iterations // int(self._opt["logger"]["save_checkpoint_freq"])
        kept = count if self._keep_last is None else min(count, self._keep_last + 1)
        if kept * needed > free:
            _logger.warning(
                f"{self._experiment}: the {kept} checkpoints of this run need about "
                f"{decimal(kept * needed)}, and {decimal(free)} are free. The run stops when the "
                "disk is full; `logger: keep_last: n` keeps the newest ones only."
            )

    def _generation_bytes(self) -> int:
        """About what a generation takes."""
        networks = [
            value.state_dict()
            for name, value in vars(self._model).items()
            if name.startswith("net_") and isinstance(value, nn.Module)
        ]
        trained = [
            parameter
            for optimizer in self._model.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        return _bytes(networks) + _STATE_PER_PARAMETER * _bytes(trained) + _MARGIN_BYTES

    def _require(self, free: int, needed: int, what: str) -> None:
        if free < needed:
            raise UserError(
                f"{self._experiment}: expected {decimal(needed)} of free space for {what}; found "
                f"{decimal(free)}. {self._safe()} Free some space, or set `logger: keep_last`, "
                "and go on with --auto_resume."
            )

    def _safe(self) -> str:
        newest = generations.newest_recorded(self._experiment)
        if newest is None:
            return "No checkpoint of this run is on disk."
        return f"Safe on disk is checkpoint {newest.iteration}, {newest.state}."

    @contextmanager
    def stopping(self, what: str, where: Path | None = None) -> Iterator[None]:
        """Turn what the file system refuses into the error that ends the run.

        Args:
            what: is written inside the block.
            where: for errors that do not say it; None: the experiment's folder.
        """
        try:
            yield
        except OSError as error:
            place = error.filename or where or self._experiment
            raise UserError(
                f"{place}: expected to write {what}; found: {error.strerror or error}. "
                f"{self._safe()} Mend this (space, quota, permissions), and go on with "
                "--auto_resume."
            ) from error

    def _of_this_process(self) -> dict:
        pool = {name: getattr(self._model, name) for name in POOL if hasattr(self._model, name)}
        pool = {key: v.cpu() if torch.is_tensor(v) else v for key, v in pool.items()}
        return {"random_states": random_states.capture(), "pool": pool}

    def _write(
        self,
        epoch: int,
        iteration: int | str,
        facts: dict | None = None,
        record: int | str | None = None,
    ) -> None:
        """Write what ``model.save`` hands over, and then the record, if it has a name."""
        self._contents.clear()
        self._model.save(epoch, iteration)
        needed = sum(_bytes(content) + _MARGIN_BYTES for content in self._contents.values())
        self._require(shutil.disk_usage(self._experiment).free, needed, f"checkpoint {iteration}")
        digests: dict[str, Digest] = {}
        try:
            for name, content in self._contents.items():
                path = self._experiment / name
                digests[name] = write_durably(path, functools.partial(torch.save, content))
            if record is not None:
                generations.write_record(self._experiment, record, digests, facts or {})
        except BaseException:
            # Networks without their record: only in the way, above all on a full disk.
            if isinstance(record, int):
                for name in digests:
                    with suppress(OSError):
                        (self._experiment / name).unlink(missing_ok=True)
            raise
        finally:
            self._contents.clear()

    def _take_network(
        self,
        net: nn.Module | list[nn.Module],
        net_label: str,
        current_iter: int | str,
        param_key: str | list[str] = "params",
    ) -> None:
        """Stands in for ``BaseModel.save_network``."""
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        content = {}
        for key, network in zip(keys, nets, strict=True):
            state = self._model.get_bare_model(network).state_dict()
            content[key] = {
                name.removeprefix("module."): value.cpu() for name, value in state.items()
            }
        name = "latest" if current_iter == -1 else current_iter
        self._contents[os.path.join(generations.MODELS, f"{net_label}_{name}.pth")] = content

    def _take_state(self, epoch: int, current_iter: int | str) -> None:
        """Stands in for ``BaseModel.save_training_state``."""
        if current_iter in (-1, BEST):
            return
        self._contents[os.path.join(generations.STATES, f"{current_iter}.state")] = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in self._model.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self._model.schedulers],
            generations.OWN: self._own,
        }


def _gathered(own: dict) -> list[dict] | None:
    """What each process gave, in the first one."""
    if not torch.distributed.is_initialized():
        return [own]
    is_first = torch.distributed.get_rank() == 0
    everyone = [None] * torch.distributed.get_world_size() if is_first else None
    torch.distributed.gather_object(own, everyone)
    return everyone


def _plain(values: dict) -> dict:
    """Nested numbers without NumPy's types, which neither JSON nor a safe load knows."""
    plain = {}
    for key, value in values.items():
        if isinstance(value, dict):
            plain[key] = _plain(value)
        else:
            plain[key] = value.item() if hasattr(value, "item") else value
    return plain


def _bytes(content: object) -> int:
    """Of all tensors in nested sections and lists."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(map(_bytes, content.values()))
    if isinstance(content, (list, tuple)):
        return sum(map(_bytes, content))
    return 0
