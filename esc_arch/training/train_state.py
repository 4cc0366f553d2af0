"""The state of a run: written with each checkpoint, and restored when the run goes on."""

import copy
import functools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import check_resume
from rich.filesize import decimal
from torch import Tensor, distributed, nn

from esc_arch.checkpoints.state_dicts import read_file
from esc_arch.errors import UserError
from esc_arch.files import Digest, free_bytes, remove_parts, write_durably
from esc_arch.training import Options, checkpoints, random_states

__all__ = ["Best", "Resumption", "Saver", "TrainState", "find_resumption"]

BEST = "best"
# Real-ESRGAN's pool of training pairs.
_POOL = ("queue_lr", "queue_gt", "queue_ptr")
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
class TrainState:
    """
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
        model: its ``save_network`` and ``save_training_state`` are replaced, so all that its
            ``save`` writes through them belongs to the checkpoint.
        opt: the run's options.
    """

    def __init__(self, model: BaseModel, opt: Options) -> None:
        self._model = model
        self._opt = opt
        self._experiment = Path(opt["path"]["experiments_root"])
        self._keep_last = opt["logger"].get("keep_last")
        self._contents: dict[str, dict[str, Any]] = {}
        self._own: dict[str, Any] = {}
        model.save_network = self._take_network
        model.save_training_state = self._take_state

    def save(self, state: TrainState) -> None:
        """Write a checkpoint; all processes of a job call this together.

        Raises:
            UserError: when the file system refuses; says what is safe.
        """
        pool = {name: getattr(self._model, name) for name in _POOL if hasattr(self._model, name)}
        pool = {key: v.cpu() if torch.is_tensor(v) else v for key, v in pool.items()}
        ranks = _gathered({"random_states": random_states.capture(), "pool": pool})
        if self._opt["rank"] != 0:
            return
        best_metrics = _plain(getattr(self._model, "best_metric_results", {}))
        self._own = {**asdict(state), "ranks": ranks, "best_metric_results": best_metrics}
        facts = {
            "iter": state.iteration,
            "epoch": state.epoch,
            "saved": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "best_metric_results": best_metrics,
            "best": state.best and asdict(state.best),
        }
        with self.stopping(f"checkpoint {state.iteration}"):
            checkpoints.forget(self._experiment, state.iteration)
            self._write(state.epoch, state.iteration, facts)
            if self._keep_last is not None:
                checkpoints.delete_older(self._experiment, state.iteration, self._keep_last)

    def save_latest(self) -> None:
        """Write ``net_*_latest.pth``, BasicSR's name for the trained networks.

        Raises:
            UserError: as of :meth:`save`.
        """
        if self._opt["rank"] == 0:
            with self.stopping("the trained networks, net_*_latest.pth"):
                self._write(-1, -1)

    def save_best(self, state: TrainState) -> None:
        """Write ``net_*_best.pth`` with a record of their own.

        Raises:
            UserError: as of :meth:`save`.
        """
        if self._opt["rank"] == 0:
            facts = {**asdict(state)["best"], "epoch": state.epoch}
            with self.stopping("the best networks so far, net_*_best.pth"):
                self._write(state.epoch, BEST, facts)

    def check_space(self, iterations: int) -> None:
        """Check before a run that its checkpoints fit on the disk.

        Args:
            iterations: that are left.

        Raises:
            UserError: when not even one does.
        """
        if self._opt["rank"] != 0:
            return
        networks = [
            value.state_dict()
            for name, value in vars(self._model).items()
            if name.startswith("net_") and isinstance(value, nn.Module)
        ]
        trained = [group["params"] for o in self._model.optimizers for group in o.param_groups]
        needed = _bytes(networks) + _STATE_PER_PARAMETER * _bytes(trained) + _MARGIN_BYTES
        with self.stopping("a first checkpoint"):
            for folder in (checkpoints.MODELS, checkpoints.STATES):
                path = self._experiment / folder
                path.mkdir(parents=True, exist_ok=True)
                remove_parts(path)
                # A quota or a read-only mount shows in no figure.
                write_durably(path / ".writable", lambda file: file.write(b"1"))
                (path / ".writable").unlink()
        free = self._require(needed, "a checkpoint")
        count = iterations // int(self._opt["logger"]["save_checkpoint_freq"])
        kept = count if self._keep_last is None else min(count, self._keep_last + 1)
        if kept * needed > free:
            _logger.warning(
                f"{self._experiment}: the {kept} checkpoints of this run need about "
                f"{decimal(kept * needed)}, and {decimal(free)} are free. The run stops when the "
                "disk is full; `logger: keep_last: n` keeps the newest ones only."
            )

    def _require(self, needed: int, what: str) -> int:
        """Check that there is room; returns the free bytes."""
        free = free_bytes(self._experiment)
        if free < needed:
            raise UserError(
                f"{self._experiment}: expected {decimal(needed)} of free space for {what}; found "
                f"{decimal(free)}. {self._safe()} Free some space, or set `logger: keep_last`, "
                "and go on with --auto_resume."
            )
        return free

    def _safe(self) -> str:
        newest = checkpoints.newest_recorded(self._experiment)
        if newest is None:
            return "No checkpoint of this run is on disk."
        return f"Safe on disk is checkpoint {newest.iteration}, {newest.state}."

    @contextmanager
    def stopping(self, what: str, where: Path | None = None) -> Iterator[None]:
        """Turn an error of the file system into the one that ends the run.

        Args:
            what: that is written inside the block.
            where: for errors without a file's name; None: the experiment's folder.
        """
        try:
            yield
        except OSError as error:
            place = error.filename or where or self._experiment
            raise UserError(
                f"{place}: expected to write {what}; found: {error.strerror or error}. "
                f"{self._safe()} Correct this (space, quota, permissions), and go on with "
                "--auto_resume."
            ) from error

    def _write(self, epoch: int, iteration: int | str, facts: dict[str, Any] | None = None) -> None:
        """Write the files of ``model.save``, and then a record of the facts, if there are any."""
        self._contents.clear()
        self._model.save(epoch, iteration)
        needed = sum(_bytes(content) + _MARGIN_BYTES for content in self._contents.values())
        self._require(needed, f"checkpoint {iteration}")
        digests: dict[str, Digest] = {}
        try:
            for name, content in self._contents.items():
                path = self._experiment / name
                digests[name] = write_durably(path, functools.partial(torch.save, content))
            if facts is not None:
                checkpoints.write_record(self._experiment, iteration, digests, facts)
        except BaseException:
            # Networks without their record: only in the way, above all on a full disk.
            if facts is not None and iteration != BEST:
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
        """Replaces ``BaseModel.save_network``."""
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        content = {}
        for key, network in zip(keys, nets, strict=True):
            state = self._model.get_bare_model(network).state_dict()
            content[key] = {
                name.removeprefix("module."): value.cpu() for name, value in state.items()
            }
        name = "latest" if current_iter == -1 else current_iter
        self._contents[os.path.join(checkpoints.MODELS, f"{net_label}_{name}.pth")] = content

    def _take_state(self, epoch: int, current_iter: int | str) -> None:
        """Replaces ``BaseModel.save_training_state``."""
        if current_iter in (-1, BEST):
            return
        self._contents[os.path.join(checkpoints.STATES, f"{current_iter}.state")] = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in self._model.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self._model.schedulers],
            checkpoints.OWN: self._own,
        }


def _gathered(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The sections of all processes, in the first one."""
    if not distributed.is_initialized():
        return [own]
    everyone: list[dict[str, Any]] = [{}] * distributed.get_world_size()
    distributed.gather_object(own, everyone if distributed.get_rank() == 0 else None)
    return everyone


def _plain(value: Any) -> Any:
    """Nested numbers without NumPy's types, which neither JSON nor a safe load knows."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value.item() if hasattr(value, "item") else value


def _bytes(content: object) -> int:
    """Of all tensors in nested sections and lists."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        content = list(content.values())
    return sum(map(_bytes, content)) if isinstance(content, (list, tuple)) else 0


@dataclass
class Resumption:
    """
    Attributes:
        state: content of the training state; None for a run from the beginning.
        messages: to log when there is a log.
    """

    state: dict[str, Any] | None
    messages: list[str]

    @property
    def seed(self) -> int | None:
        """Of the samples so far, None when it is not known."""
        return self._own.get("seed")

    @property
    def _own(self) -> dict[str, Any]:
        """The section that BasicSR's states do not have."""
        own: dict[str, Any] = (self.state or {}).get(checkpoints.OWN, {})
        return own

    def train_state(self, length: int, seed: int) -> TrainState:
        """Where to go on.

        Args:
            length: samples of an epoch.
            seed: of the samples.
        """
        if self.state is None:
            return TrainState(0, 0, 0, length, seed)
        own = self._own
        best = own.get("best")
        train_state = TrainState(
            iteration=self.state["iter"],
            epoch=self.state["epoch"],
            samples=own.get("samples", 0),
            length=length,
            seed=seed,
            is_validated=own.get("is_validated", True),
            best=best and Best(**best),
            bad_samples=list(own.get("bad_samples", ())),
        )
        if own and own["length"] != length:
            _logger.warning(
                f"An epoch has {length} samples and had {own['length']} when the state was saved: "
                f"epoch {train_state.epoch} begins again."
            )
            train_state.samples = 0
        return train_state

    def restore(self, model: BaseModel, opt: Options) -> None:
        """Restore optimisers, schedulers, the best metrics and the training pairs."""
        if self.state is None:
            return
        _resume_training(model, self.state)
        metrics = (opt.get("val") or {}).get("metrics") or {}
        model.best_metric_results = {
            name: record
            for name, record in self._own.get("best_metric_results", {}).items()
            # BasicSR looks up every metric in each record.
            if record.keys() == metrics.keys()
        }
        ranks = self._own.get("ranks", [])
        pool = ranks[opt["rank"]]["pool"] if opt["rank"] < len(ranks) else {}
        if not pool or len(pool["queue_lr"]) != getattr(model, "queue_size", None):
            return
        for name in _POOL:
            value = pool[name]
            setattr(model, name, value.to(model.device) if torch.is_tensor(value) else value)

    def restore_random_states(self, opt: Options, iteration: int) -> None:
        """Restore this process's generators, after all that draws from them at the start."""
        ranks = self._own.get("ranks", [])
        if opt["rank"] < len(ranks):
            random_states.restore(ranks[opt["rank"]]["random_states"])
        elif ranks:
            # One of more processes than there were: its own numbers, not those of the start.
            random_states.seed_cpu(opt["manual_seed"], iteration, opt["rank"])
            torch.cuda.manual_seed_all(torch.initial_seed())


def find_resumption(opt: Options) -> Resumption:
    """Find the checkpoint to resume from; changes ``path`` so that BasicSR loads its networks.

    Raises:
        UserError: when the state that ``path.resume_state`` names is damaged.
    """
    choice: list[Any] = [_chosen(opt) if opt["rank"] == 0 else None]
    if distributed.is_initialized():
        distributed.broadcast_object_list(choice)
    path, messages = choice[0]
    opt["path"]["resume_state"] = path
    if path is None:
        return Resumption(None, messages)
    # A copy: read_file maps the file, which `keep_last` deletes some time.
    state: Any = copy.deepcopy(read_file(path))
    check_resume(opt, state["iter"])
    for label in checkpoints.networks_of(opt):
        # check_resume replaces `params_ema`; a bare file's ~ stays, and no saved one is bare.
        opt["path"][f"param_key_{label}"] = "params"
    if checkpoints.OWN not in state:
        messages.append(
            f"{path} was saved by BasicSR's own training: random states, best metrics and the "
            f"position in epoch {state['epoch']} are not in it, so this epoch begins again."
        )
    return Resumption(state, messages)


def _chosen(opt: Options) -> tuple[str | None, list[str]]:
    """The state's file, with messages on others."""
    if opt["auto_resume"]:
        root, networks = Path(opt["path"]["experiments_root"]), checkpoints.networks_of(opt)
        found = checkpoints.find_newest(root, networks)
        return (str(found.checkpoint.state) if found.checkpoint else None), found.skipped
    named: str | None = opt["path"].get("resume_state")
    return named, [] if named is None else _check_named(Path(named))


def _check_named(state: Path) -> list[str]:
    """Check a state that the user named against its record, if it has one."""
    experiment = state.resolve().parents[1]
    is_ours = state.resolve().parent.name == checkpoints.STATES and state.stem.isdecimal()
    if not is_ours or not checkpoints.record_path(experiment, int(state.stem)).exists():
        return []
    iteration = int(state.stem)
    try:
        checkpoints.check(experiment, iteration, ())
    except checkpoints.Damaged as reason:
        raise UserError(
            f"path.resume_state: expected a complete checkpoint; found that {reason}. Name "
            "another one, or use --auto_resume, which takes the newest that is complete."
        ) from None
    newest = checkpoints.newest_recorded(experiment)
    if newest is None or newest.iteration <= iteration:
        return []
    return [
        f"This run goes on from checkpoint {iteration}, and {experiment} has newer ones, up to "
        f"{newest.iteration}, which --auto_resume would take. Move them away if they are not "
        "wanted."
    ]


def _resume_training(model: BaseModel, state: dict[str, Any]) -> None:
    for what, own in (("optimizers", model.optimizers), ("schedulers", model.schedulers)):
        if len(state[what]) != len(own):
            raise UserError(
                f"path.resume_state: expected {len(own)} {what}; found {len(state[what])} in the "
                "training state. Resume with the model that saved it."
            )
    try:
        model.resume_training(state)
    except (ValueError, KeyError) as error:
        raise UserError(
            "path.resume_state: expected the state of this file's optimisers; found one that "
            f"does not fit: {error}. Resume with the options that it was saved with."
        ) from error
