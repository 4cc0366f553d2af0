"""The state of a run: written with each checkpoint, and restored when the run goes on."""

import copy
import functools
import logging
import math
import os
import warnings
from collections import defaultdict
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
from esc_arch.errors import DivergedError, UserError, first_line, listed
from esc_arch.files import Digest, free_bytes, remove_parts, write_durably
from esc_arch.training import Options, checkpoints, random_states

__all__ = [
    "LOWER_RATE",
    "Best",
    "Resumption",
    "Saver",
    "TrainState",
    "asked_options",
    "changed_options",
    "find_resumption",
    "nonfinite",
]

BEST = "best"
# Real-ESRGAN's pool of training pairs.
_POOL = ("queue_lr", "queue_gt", "queue_ptr")
# For the zip structure of a file and the record.
_MARGIN_BYTES = 2**20
# Adam and its like keep two averages of each parameter.
_STATE_PER_PARAMETER = 2

# What to do about a training that has broken down.
LOWER_RATE = (
    "Go on with --auto_resume and a lower `lr`, or with `model_type: ESCModel`, which skips such "
    "steps and has `grad_clip`, and look for broken images (`basicsr data verify`)."
)

# Keys of the options that do not make a run another one.
_OF_PROCESS = (
    *("name", "path", "root_path", "rank", "world_size", "dist", "dist_params", "num_gpu"),
    *("auto_resume", "is_train"),
)
_ABSENT = "not there"
# Of a training state, what the record may say anew.
_VALIDATED = ("is_validated", "best", "best_metric_results")
# Attributes of a scheduler that change with the iterations, or are not of the option file.
_OF_SCHEDULE = (
    *("optimizer", "last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step"),
    *("_is_initial", "verbose", "last_lr"),
)
# Settings of an optimiser that other releases of PyTorch may lack.
_OF_MACHINE = {"foreach", "fused", "capturable", "differentiable", "maximize"}
_OF_MACHINE |= {"decoupled_weight_decay"}

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
        asked: those of the option file, as :func:`asked_options` gives them.
    """

    def __init__(self, model: BaseModel, opt: Options, asked: dict[str, Any]) -> None:
        self._model = model
        self._opt = opt
        self._asked = asked
        self._broken: list[str] = []
        self._experiment = Path(opt["path"]["experiments_root"])
        self._keep_last = opt["logger"].get("keep_last")
        self._contents: dict[str, dict[str, Any]] = {}
        self._own: dict[str, Any] = {}
        model.save_network = self._take_network
        model.save_training_state = self._take_state

    def save(self, state: TrainState, together: bool = True) -> None:
        """Write a checkpoint; all processes of a job call this together.

        Args:
            together: false after an error of this process, when the others cannot join in; their
                random states are not in the checkpoint then.

        Raises:
            DivergedError: when weights are not finite; nothing has been written then.
            UserError: when the file system refuses.
        """
        pool = {name: getattr(self._model, name) for name in _POOL if hasattr(self._model, name)}
        pool = {key: v.cpu() if torch.is_tensor(v) else v for key, v in pool.items()}
        own = {"random_states": random_states.capture(), "pool": pool}
        ranks = _gathered(own) if together else [own]
        if self._opt["rank"] != 0:
            return
        best_metrics = _plain(getattr(self._model, "best_metric_results", {}))
        self._own = {**asdict(state), "ranks": ranks, "best_metric_results": best_metrics}
        self._own["options"] = self._asked
        facts = {
            "iter": state.iteration,
            "epoch": state.epoch,
            "saved": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **self._validation_facts(state),
        }
        with self.stopping(f"checkpoint {state.iteration}"):
            checkpoints.forget(self._experiment, state.iteration)
            self._write(state.epoch, state.iteration, facts)
            if self._keep_last is not None:
                checkpoints.delete_older(self._experiment, state.iteration, self._keep_last)

    def note_validated(self, state: TrainState) -> None:
        """Add what the validation after a checkpoint has found to the checkpoint's record.

        There is none after a resumption from a state of BasicSR's own training.

        Raises:
            UserError: when the file system refuses.
        """
        record = checkpoints.record_path(self._experiment, state.iteration)
        if self._opt["rank"] == 0 and record.exists():
            with self.stopping(f"the record of checkpoint {state.iteration}"):
                facts = self._validation_facts(state)
                checkpoints.amend_record(self._experiment, state.iteration, facts)

    def _validation_facts(self, state: TrainState) -> dict[str, Any]:
        """Of the state, what a validation changes; a record goes before its training state."""
        return {
            "is_validated": state.is_validated,
            "best": state.best and asdict(state.best),
            "best_metric_results": _plain(getattr(self._model, "best_metric_results", {})),
        }

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
        with self.naming_safe(), self.stopping("a first checkpoint"):
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
                f"{decimal(free)}. Free some space, or set `logger: keep_last`, and go on with "
                "--auto_resume."
            )
        return free

    def safe(self) -> str:
        """A sentence on the newest checkpoint that is complete."""
        newest = checkpoints.newest_recorded(self._experiment)
        if newest is None:
            return "No checkpoint of this run is on disk."
        return f"Safe on disk is checkpoint {newest.iteration}, {newest.state}."

    @contextmanager
    def naming_safe(self) -> Iterator[None]:
        """Let an error that ends the run say which checkpoint is safe."""
        try:
            yield
        except UserError as error:
            apart = "\n" if "\n" in str(error) else " "
            raise type(error)(f"{error}{apart}{self.safe()}") from error.__cause__

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
                "Correct this (space, quota, permissions), and go on with --auto_resume."
            ) from error

    def _write(self, epoch: int, iteration: int | str, facts: dict[str, Any] | None = None) -> None:
        """Write the files of ``model.save``, and then a record of the facts, if there are any."""
        self._contents.clear()
        self._broken.clear()
        self._model.save(epoch, iteration)
        if self._broken:
            raise DivergedError(
                f"{self._experiment}: expected finite numbers to save; found others in "
                f"{listed(self._broken, 5)}. The training has broken down, and nothing of it is "
                f"written. {LOWER_RATE}"
            )
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
            self._broken += [f"{net_label}.{name} ({key})" for name in nonfinite(network)]
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
        for optimizer in self._model.optimizers:
            tensors = [
                value
                for own in optimizer.state.values()
                for value in own.values()
                if torch.is_tensor(value)
            ]
            # One wait for a GPU.
            flags = [value.isfinite().all().to(self._model.device) for value in tensors]
            if flags and not torch.stack(flags).all():
                self._broken.append(f"the state of {type(optimizer).__name__}")


def nonfinite(network: nn.Module) -> list[str]:
    """Names of the parameters with infinite numbers or NaN, and of buffers with NaN: masks of
    attention may hold infinite ones."""
    checked = [(name, value.isfinite().all()) for name, value in network.named_parameters()]
    checked += [(name, ~value.isnan().any()) for name, value in network.named_buffers()]
    if not checked or torch.stack([is_good.reshape(()) for _, is_good in checked]).all():
        return []
    return [name.removeprefix("module.") for name, is_good in checked if not is_good]


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
        asked: options of the option file, see :func:`asked_options`.
    """

    state: dict[str, Any] | None
    messages: list[str]
    asked: dict[str, Any]

    @property
    def seed(self) -> int | None:
        """Of the samples so far, None when it is not known or the option file has another now."""
        own, asked = self._own, self.asked["manual_seed"]
        is_other = asked not in (None, own.get("options", self.asked)["manual_seed"])
        return None if is_other else own.get("seed")

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
        changes = _resume_training(model, self.state, self.asked)
        if changes:
            _logger.warning(
                "Other than in the training state, by the option file: " + "; ".join(changes)
            )
        if self.state["iter"] >= int(self.asked["train"]["total_iter"]):
            _logger.warning(
                f"train.total_iter: the training state is of iteration {self.state['iter']} of "
                f"{self.asked['train']['total_iter']}, so nothing is left to train."
            )
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


def find_resumption(opt: Options, seed: int | None) -> Resumption:
    """Find the checkpoint to resume from; changes ``path`` so that BasicSR loads its networks.

    Args:
        opt: the run's options, before BasicSR's models change them.
        seed: that the option file names; None where one is drawn.

    Raises:
        UserError: when the state that ``path.resume_state`` names is damaged, or no state of a
            training like this one.
    """
    asked = asked_options(opt, seed)
    choice: list[Any] = [_chosen(opt) if opt["rank"] == 0 else None]
    if distributed.is_initialized():
        distributed.broadcast_object_list(choice)
    path, messages = choice[0]
    opt["path"]["resume_state"] = path
    if path is None:
        return Resumption(None, messages, asked)
    state: Any = read_file(path)
    check_resume(opt, state["iter"])
    for label in checkpoints.networks_of(opt):
        # check_resume replaces `params_ema`; a bare file's ~ stays, and no saved one is bare.
        opt["path"][f"param_key_{label}"] = "params"
        file = Path(opt["path"][f"pretrain_network_{label}"])
        if not file.is_file():
            raise UserError(
                f"path.resume_state: expected {file} for network_{label} beside the training state "
                f"{path}; found no such file. {_like(state['iter'])}"
            )
    if checkpoints.OWN not in state:
        messages.append(
            f"{path} was saved by BasicSR's own training: random states, best metrics and the "
            f"position in epoch {state['epoch']} are not in it, so this epoch begins again."
        )
        return Resumption(state, messages, asked)
    own = state[checkpoints.OWN]
    with suppress(checkpoints.Damaged):
        # The validation after the checkpoint is in the record alone.
        record = checkpoints.read_record(Path(path).with_suffix(".json"))
        own |= {key: record[key] for key in _VALIDATED if key in record}
    if changes := changed_options(own.get("options", asked), asked):
        lines = "".join(f"\n  {line}" for line in changes)
        messages.append(
            "These options are not those that the training state was saved with; the option "
            f"file's are used from here on:{lines}"
        )
    return Resumption(state, messages, asked)


def asked_options(opt: Options, seed: int | None) -> dict[str, Any]:
    """The options that make a run what it is, as plain values: without paths and processes."""
    return {key: _simple(value) for key, value in opt.items() if key not in _OF_PROCESS} | {
        "manual_seed": seed
    }


def changed_options(before: Any, now: Any, place: str = "") -> list[str]:
    """A line for each value that differs: ``train.optim_g.lr: 0.001, now 0.0002``."""
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for name in {**before, **now}
            for line in changed_options(
                before.get(name, _ABSENT),
                now.get(name, _ABSENT),
                f"{place}.{name}" if place else name,
            )
        ]
    return [f"{place}: {before}, now {now}"]


def _simple(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _simple(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_simple(inner) for inner in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _like(iteration: int) -> str:
    return (
        "Resume with the options that it was saved with, or begin another training from its "
        f"weights: `pretrain_network_g: .../models/net_g_{iteration}.pth`, under another `name`."
    )


def _chosen(opt: Options) -> tuple[str | None, list[str]]:
    """The state's file, with messages on others."""
    if opt["auto_resume"]:
        root, networks = Path(opt["path"]["experiments_root"]), checkpoints.networks_of(opt)
        found = checkpoints.find_newest(root, networks)
        if found.checkpoint is not None:
            return str(found.checkpoint.state), found.skipped
        none = (
            f"--auto_resume: {root} has no complete checkpoint to go on from, so the training "
            "begins at iteration 0."
        )
        return None, [*found.skipped, none]
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


def _resume_training(model: BaseModel, state: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Load optimisers and schedulers; settings in which they differ are the option file's.

    Returns:
        A line for each such setting.
    """
    for what, own in (("optimizers", model.optimizers), ("schedulers", model.schedulers)):
        if len(state[what]) != len(own):
            raise UserError(
                f"path.resume_state: expected {len(own)} {what}; found {len(state[what])} in the "
                f"training state, so another model_type saved it. {_like(state['iter'])}"
            )
    for optimizer, saved in zip(model.optimizers, state["optimizers"], strict=True):
        if reason := _misfit(optimizer, saved):
            raise UserError(
                f"path.resume_state: expected the state of {type(optimizer).__name__} as this "
                f"file has it; found one with {reason}. {_like(state['iter'])}"
            )
    groups = [group for o in model.optimizers for group in o.param_groups]
    saved_groups = [group for saved in state["optimizers"] for group in saved["param_groups"]]
    settings = [_settings(group) for group in groups]
    changes = [
        f"{name}: {saved[name]}, now {value}"
        for own, saved in zip(settings, saved_groups, strict=True)
        for name, value in own.items()
        if name in saved
        and name not in _OF_MACHINE
        and _plain_list(saved[name]) != _plain_list(value)
    ]
    rates = [group["initial_lr"] for group in groups]
    schedules = [_schedule(vars(scheduler)) for scheduler in model.schedulers]
    train = asked["train"]
    before = state.get(checkpoints.OWN, {}).get("options", {}).get("train")
    is_other = (
        rates != [group.get("initial_lr") for group in saved_groups]
        or schedules != [_schedule(saved) for saved in state["schedulers"]]
        or (before is not None and before.get("warmup_iter") != train.get("warmup_iter"))
    )
    replayed: list[dict[str, Any]] = []
    # The warm-up of BasicSR's own training is not in its states: there the rates say it.
    if is_other or before is None:
        # The rates that a run with these options has here, whatever the model does for them.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there were no steps of the optimisers between
            for iteration in range(1, min(state["iter"], int(train["total_iter"])) + 1):
                model.update_learning_rate(iteration, warmup_iter=train.get("warmup_iter", -1))
        if is_other or any(
            not math.isclose(group["lr"], saved["lr"], rel_tol=1e-9)
            for group, saved in zip(groups, saved_groups, strict=True)
        ):
            replayed = [dict(vars(scheduler)) for scheduler in model.schedulers]
            settings = [
                {**own, "lr": group["lr"], "initial_lr": group["initial_lr"]}
                for own, group in zip(settings, groups, strict=True)
            ]
    try:
        model.resume_training(state)
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            "path.resume_state: expected the state of this file's optimisers; found one that "
            f"does not fit: {first_line(error)}. {_like(state['iter'])}"
        ) from error
    groups = [group for o in model.optimizers for group in o.param_groups]
    for group, own, saved in zip(groups, settings, saved_groups, strict=True):
        if "lr" in own and own["lr"] != saved["lr"]:
            changes.append(f"learning rate here: {saved['lr']}, now {own['lr']}")
        group.update(own)
    for scheduler, values in zip(model.schedulers, replayed, strict=bool(replayed)):
        vars(scheduler).clear()
        vars(scheduler).update(values)
    return list(dict.fromkeys(changes))


def _misfit(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> str | None:
    """Why an optimiser cannot go on with a saved state; None when it can."""
    groups = optimizer.param_groups
    sizes = [len(group["params"]) for group in groups]
    saved_sizes = [len(group["params"]) for group in saved["param_groups"]]
    if sizes != saved_sizes:
        return f"{saved_sizes} parameters in its groups instead of {sizes}"
    for group, other in zip(groups, saved["param_groups"], strict=True):
        if unknown := sorted(other.keys() - group.keys() - _OF_MACHINE):
            return f"{', '.join(unknown)}, so of another optimiser"
    # It takes a step with the state of its smallest parameter.
    parameters = [(p, group) for group in groups for p in group["params"]]
    ids = [number for group in saved["param_groups"] for number in group["params"]]
    known = [
        (parameter, group, saved["state"][number])
        for (parameter, group), number in zip(parameters, ids, strict=True)
        if saved["state"].get(number)
    ]
    if not known:
        return None
    parameter, group, own = min(known, key=lambda entry: entry[0].numel())
    probe = type(optimizer).__new__(type(optimizer))
    copied = parameter.detach().clone().requires_grad_()
    copied.grad = torch.zeros_like(copied)
    entry = {
        name: value.to(copied.device, copy=True) if torch.is_tensor(value) and value.ndim else value
        for name, value in copy.deepcopy(own).items()
    }
    probe.__setstate__(
        {
            "defaults": optimizer.defaults,
            "state": defaultdict(dict, {copied: entry}),
            "param_groups": [{**group, "params": [copied]}],
        }
    )
    try:
        probe.step()
    except Exception as error:  # each optimiser has its own
        return f"{', '.join(map(str, own))} for each parameter ({type(error).__name__}: {error})"
    return None


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """Of a group of parameters, all but these and the learning rates."""
    return {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr")}


def _schedule(values: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a scheduler that it was made with."""
    return {k: _plain_list(v) for k, v in values.items() if k not in _OF_SCHEDULE}


def _plain_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
