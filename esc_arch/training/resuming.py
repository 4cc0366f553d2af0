"""Finding what to resume from, and putting a model back to where it was."""

import copy
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import check_resume

from esc_arch.checkpoints.state_dicts import read_file
from esc_arch.errors import UserError
from esc_arch.training import generations, random_states
from esc_arch.training.saving import POOL, Best, Position

__all__ = ["Resumption", "find"]

_logger = logging.getLogger("basicsr.esc_arch")


@dataclass
class Resumption:
    """
    Attributes:
        state: content of the training state; None for a run from the beginning.
        messages: what to log when there is a log.
    """

    state: dict | None
    messages: list[str]

    @property
    def seed(self) -> int | None:
        """That of the samples so far, None when it is not known."""
        return self._own.get("seed")

    @property
    def _own(self) -> dict:
        """What BasicSR's states do not have."""
        return (self.state or {}).get(generations.OWN, {})

    def position(self, length: int, seed: int) -> Position:
        """Where to go on.

        Args:
            length: samples of an epoch.
            seed: of the samples.
        """
        if self.state is None:
            return Position(0, 0, 0, length, seed)
        own = self._own
        best = own.get("best")
        position = Position(
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
                f"epoch {position.epoch} begins anew."
            )
            position.samples = 0
        return position

    def restore(self, model: BaseModel, opt: dict) -> None:
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
        self._restore_pool(model, opt)

    def _restore_pool(self, model: BaseModel, opt: dict) -> None:
        ranks = self._own.get("ranks", [])
        pool = ranks[opt["rank"]]["pool"] if opt["rank"] < len(ranks) else {}
        if not pool or len(pool["queue_lr"]) != getattr(model, "queue_size", None):
            return
        for name in POOL:
            value = pool[name]
            setattr(model, name, value.to(model.device) if torch.is_tensor(value) else value)

    def restore_random_states(self, opt: dict, iteration: int) -> None:
        """Restore this process's generators, after all that draws from them at the start."""
        ranks = self._own.get("ranks", [])
        if opt["rank"] < len(ranks):
            random_states.restore(ranks[opt["rank"]]["random_states"])
        elif ranks:
            # One of more processes than there were: its own numbers, not those of the start.
            random_states.seed_cpu(opt["manual_seed"], iteration, opt["rank"])
            torch.cuda.manual_seed_all(torch.initial_seed())


def find(opt: dict) -> Resumption:
    """What the run goes on from; changes ``path`` so that BasicSR loads the networks of it.

    Raises:
        UserError: when the state that ``path.resume_state`` names is damaged.
    """
    path, messages = _agreed(opt)
    opt["path"]["resume_state"] = path
    if path is None:
        return Resumption(None, messages)
    # A copy: read_file maps the file, which `keep_last` deletes some time.
    state = copy.deepcopy(read_file(path))
    check_resume(opt, state["iter"])
    for label in generations.networks_of(opt):
        # check_resume replaces `params_ema`; a bare file's ~ stays, and no saved one is bare.
        opt["path"][f"param_key_{label}"] = "params"
    if generations.OWN not in state:
        messages.append(
            f"{path} was saved by BasicSR's own training: random states, best metrics and the "
            f"position in epoch {state['epoch']} are not in it, so this epoch begins anew."
        )
    return Resumption(state, messages)


def _agreed(opt: dict) -> tuple[str | None, list[str]]:
    """The state's file as the first process sees it, with what to say of others."""
    choice = [_chosen(opt) if opt["rank"] == 0 else None]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(choice)
    return choice[0]


def _chosen(opt: dict) -> tuple[str | None, list[str]]:
    networks = generations.networks_of(opt)
    if opt["auto_resume"]:
        found = generations.find_newest(Path(opt["path"]["experiments_root"]), networks)
        return found.generation and str(found.generation.state), found.skipped
    named = opt["path"].get("resume_state")
    if named is None:
        return None, []
    return named, _check_named(Path(named))


def _check_named(state: Path) -> list[str]:
    """Check a state that the user named against its record, if it has one."""
    experiment = state.resolve().parents[1]
    is_ours = state.resolve().parent.name == generations.STATES and state.stem.isdecimal()
    if not is_ours or not generations.record_path(experiment, int(state.stem)).exists():
        return []
    try:
        generations.check(experiment, int(state.stem), ())
    except generations.Damaged as reason:
        raise UserError(
            f"path.resume_state: expected a complete checkpoint; found that {reason}. Name "
            "another one, or take --auto_resume, which takes the newest that is complete."
        ) from None
    return _newer(experiment, int(state.stem))


def _newer(experiment: Path, iteration: int) -> list[str]:
    newest = generations.newest_recorded(experiment)
    if newest is None or newest.iteration <= iteration:
        return []
    return [
        f"This run goes on from checkpoint {iteration}, and {experiment} has newer ones, up to "
        f"{newest.iteration}, which --auto_resume would take. Move them away if they are not "
        "wanted."
    ]


def _resume_training(model: BaseModel, state: dict) -> None:
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
