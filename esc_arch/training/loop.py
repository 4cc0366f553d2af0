"""The training loop of ``basicsr train``: BasicSR's, made to survive.

It takes the steps of ``basicsr.train.train_pipeline`` with BasicSR's models, datasets and
logger, and differs in this: checkpoints are complete or do not count
(:mod:`esc_arch.training.checkpoints`), a run goes on exactly where its checkpoint was, signals
end it with a checkpoint, and it ends at ``total_iter`` where BasicSR's loses the incomplete
batches of the epochs.
"""

import datetime
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.train import init_tb_loggers
from basicsr.utils import (
    AvgTimer,
    MessageLogger,
    get_env_info,
    get_root_logger,
    make_exp_dirs,
    mkdir_and_rename,
)
from basicsr.utils.options import dict2str
from torch.utils.data import DataLoader

from esc_arch.errors import DivergedError, UserError, first_line, listed
from esc_arch.models.esc_model import MAX_IN_A_ROW
from esc_arch.plugin.workarounds import sort_paths
from esc_arch.training import Options, random_states, run_log
from esc_arch.training.bad_samples import BadSamples
from esc_arch.training.jobs import Job
from esc_arch.training.log_reader import next_log
from esc_arch.training.runtime import (
    ExperimentLock,
    StopSignals,
    note_worker_folder,
    remove_worker_folders,
)
from esc_arch.training.samples import TrainSampler, batches, shortage, train_loader
from esc_arch.training.train_state import (
    LOWER_RATE,
    Resumption,
    Saver,
    TrainState,
    find_resumption,
    nonfinite,
)
from esc_arch.training.validation import Validation, is_out_of_memory

__all__ = ["train_pipeline"]


def train_pipeline(opt: Options, opt_file: str, job: Job, seed: int | None = None) -> int:
    """Train a network.

    Args:
        opt: checked and completed options, see :func:`esc_arch.options.parse`.
        opt_file: a copy of it goes into the experiment's folder.
        job: the processes that train together.
        seed: that the option file names; None where one was drawn.

    Returns:
        The exit code: 0 when the last iteration was done, 128 and the number of the signal
        that ended the run before.

    Raises:
        UserError: when a checkpoint cannot be written, nothing fits to resume from, samples
            are bad, or another training runs in this experiment.
    """
    with ExperimentLock(Path(opt["path"]["experiments_root"])) as lock:
        if opt["rank"] == 0:
            lock.take()
            remove_worker_folders(Path(opt["path"]["experiments_root"]))
        return _train(opt, opt_file, lock, job, seed)


def _train(
    opt: Options, opt_file: str, lock: ExperimentLock, job: Job, named_seed: int | None
) -> int:
    torch.backends.cudnn.benchmark = True
    resumption = find_resumption(opt, named_seed)
    root = opt["path"]["experiments_root"]
    try:
        logger = _open_experiment(opt, opt_file, resumption, lock)
        job.note_opened(Path(root))
        if opt["datasets"]["train"]["num_worker_per_gpu"]:
            note_worker_folder(Path(root), opt["rank"])
    except OSError as error:
        raise UserError(
            f"{error.filename or root}: expected to write into {root}; found: {error.strerror}. "
            "Correct this (space, quota, permissions), or start in another folder."
        ) from error
    tb_logger = init_tb_loggers(opt)
    if resumption.state is not None:
        run_log.continue_events(tb_logger, resumption.state["iter"])
    seed = _agreed_seed(opt, resumption)

    loader, sampler = _training_data(opt, seed, logger)
    validation_loaders = _validation_data(opt, logger)
    model = build_model(opt)
    saver = Saver(model, opt, resumption.asked)
    resumption.restore(model, opt)
    state = resumption.train_state(sampler.length, seed)
    if resumption.state is not None:
        logger.info(f"Resuming training from epoch: {state.epoch}, iter: {state.iteration}.")
    saver.check_space(int(opt["train"]["total_iter"]) - state.iteration)
    validation = Validation(model, validation_loaders, opt, saver, tb_logger)
    messages = MessageLogger(opt, state.iteration, tb_logger)
    resumption.restore_random_states(opt, state.iteration)

    with StopSignals() as signals:
        run = _Run(opt, model, saver, validation, messages, state, signals, logger)
        with run.bar.shown(), run_log.curve_errors_logged_once(), saver.naming_safe():
            code = run.train(loader, sampler)
            if tb_logger:
                with run_log.writing_curves(tb_logger, saver):
                    tb_logger.close()
    return code


@dataclass
class _Run:
    """One training from its state on."""

    opt: Options
    model: BaseModel
    saver: Saver
    validation: Validation
    messages: MessageLogger
    state: TrainState
    signals: StopSignals
    logger: logging.Logger

    def __post_init__(self) -> None:
        self.total = int(self.opt["train"]["total_iter"])
        # Where the last checkpoint was written; a resumed run begins at one.
        self.saved_at = self.state.iteration or None
        self.bar = run_log.TrainingBar(self.opt, self.state.iteration)
        self.finite = _FiniteLosses(self.model)
        # How to go back to the end of the last iteration, while one is under way.
        self.go_back: Callable[[], None] | None = None
        self.optimizer_steps = 0
        for optimizer in self.model.optimizers:
            optimizer.register_step_pre_hook(self._count_step)

    def _count_step(self, *args: object) -> None:
        self.optimizer_steps += 1

    def train(self, loader: "DataLoader[Any]", sampler: TrainSampler) -> int:
        """Take the remaining steps; returns the exit code.

        An error of any kind leaves a checkpoint of the iterations that were done.
        """
        try:
            return self._train(loader, sampler)
        except DivergedError:
            raise  # the last checkpoint is better than what there is now
        except Exception as error:
            self._save_after(error)
            if is_out_of_memory(error):
                raise UserError(
                    f"datasets.train: expected memory for iteration {self.state.iteration + 1}; "
                    f"found none left: {first_line(error)}. Lower batch_size_per_gpu or gt_size, "
                    "or take `model_type: ESCModel` with `amp`, `accumulate` or "
                    "`checkpoint_activations` under train, and go on with --auto_resume."
                ) from error
            if (named := shortage(error)) is not None:
                raise named from error
            raise

    def _save_after(self, error: Exception) -> None:
        """Save what is there when an error ends the run, which the other processes of a job do
        not know of."""
        state = self.state
        if self.go_back is not None and self.optimizer_steps == 0:
            self.go_back()
        is_saved = not state.iteration or self.saved_at == state.iteration
        if is_saved or self.is_saving or self.opt["rank"] != 0:
            return
        if self.opt["dist"] and isinstance(error, RuntimeError) and not is_out_of_memory(error):
            # Another process has died, without whose random states a checkpoint is less than
            # the one before.
            return
        if self.optimizer_steps and self.go_back is not None:
            if shortage(error) is not None:
                return  # raised anywhere, maybe with half of the weights changed
            self.logger.warning(
                f"The error came in the middle of iteration {state.iteration}: some of its steps "
                "are taken, and the checkpoint has them."
            )
        try:
            self._save(together=False)
        except Exception as second:
            self.logger.warning(f"No checkpoint could be saved after the error: {second}")
            return
        if not isinstance(error, UserError):
            self.logger.error(
                f"Ended by an error after iteration {state.iteration} of {self.total}: "
                f"{type(error).__name__}: {first_line(error)}. {self.saver.safe()} The same "
                "command with --auto_resume goes on from there."
            )

    def _train(self, loader: "DataLoader[Any]", sampler: TrainSampler) -> int:
        state = self.state
        self.logger.info(f"Start training from epoch: {state.epoch}, iter: {state.iteration}")
        start = time.time()
        batch_samples = loader.batch_size * self.opt["world_size"]
        self.bad = BadSamples(self.opt, len(sampler.dataset), state.bad_samples)
        if not state.is_validated:
            self._validate()
        self.pace = run_log.Pace(self.opt, state.iteration, self.model.device)
        stopped_by = self.signals.agreed(self.model.device)
        while state.iteration < self.total and stopped_by is None:
            sampler.begin(state.epoch, state.samples)
            stopped_by = self._train_epoch(loader, batch_samples)
        if stopped_by is not None:
            return self._stop(stopped_by)
        has_validation = self.opt.get("val") is not None
        # A longer run goes on from it.
        if self.saved_at != state.iteration:
            state.is_validated = not has_validation
            self._save()
        self.logger.info("Save the latest model.")
        self.saver.save_latest()
        consumed = datetime.timedelta(seconds=int(time.time() - start))
        self.logger.info(f"End of training. Time consumed: {consumed}")
        if has_validation:
            self._validate()
        stopped_by = self.signals.agreed(self.model.device)
        return 0 if stopped_by is None else self._stop(stopped_by)

    def _train_epoch(self, loader: "DataLoader[Any]", batch_samples: int) -> int | None:
        """Train to the end of an epoch or of the run; returns the signal that asks to stop."""
        state = self.state
        data_timer, iter_timer = AvgTimer(), AvgTimer()
        is_empty = state.samples == 0
        for batch in batches(loader, self.opt):
            data_timer.record()
            is_empty = False
            if (error := self.bad.take(batch, self.model.device)) is not None:
                # After the repair, the run goes on with this very batch.
                if state.iteration and self.saved_at != state.iteration:
                    self._save()
                raise error
            self._step(batch, batch_samples)
            iter_timer.record()
            self._after_step(iter_timer.get_avg_time(), data_timer.get_avg_time())
            stopped_by = self.signals.agreed(self.model.device)
            if stopped_by is not None or state.iteration == self.total:
                return stopped_by
            data_timer.start()
            iter_timer.start()
        if is_empty:
            raise UserError(
                f"datasets.train: expected at least one batch of {batch_samples} samples in an "
                f"epoch; found {state.length}. Raise dataset_enlarge_ratio, or lower "
                "batch_size_per_gpu."
            )
        state.epoch += 1
        state.samples = 0
        return None

    def _step(self, batch: dict[str, Any], batch_samples: int) -> None:
        """One iteration."""
        model, state = self.model, self.state
        self.go_back, self.optimizer_steps = self._way_back(), 0
        state.iteration += 1
        state.samples += batch_samples
        warmup = self.opt["train"].get("warmup_iter", -1)
        model.update_learning_rate(state.iteration, warmup_iter=warmup)
        model.feed_data(batch)
        model.optimize_parameters(state.iteration)
        self.go_back = None
        state.is_validated = not self.validation.is_due(state.iteration)
        if self.opt["rank"] == 0:
            self.finite.check(state.iteration)

    def _way_back(self) -> Callable[[], None]:
        """A function that undoes an iteration of which no optimiser's step was taken."""
        state, iteration, samples = self.state, self.state.iteration, self.state.samples
        is_validated = state.is_validated
        generators = random_states.noted()
        schedules = [(vars(s), dict(vars(s))) for s in self.model.schedulers]
        groups = [group for o in self.model.optimizers for group in o.param_groups]
        rates = [group["lr"] for group in groups]

        def go_back() -> None:
            state.iteration, state.samples = iteration, samples
            state.is_validated = is_validated
            generators()
            for values, before in schedules:
                values.update(before)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

        return go_back

    def _after_step(self, iteration_s: float, data_s: float) -> None:
        """The logging, saving and validation due after an iteration."""
        iteration = self.state.iteration
        self.bar.advance(self.model.get_current_log())
        if iteration == 1:
            self.messages.reset_start_time()
        is_due = iteration % self.opt["logger"]["print_freq"] == 0
        if (text := self.pace.text(iteration)) is not None:
            self.logger.info(text)
        if self.pace.is_line_due(is_due) or is_due:
            with run_log.writing_curves(self.messages.tb_logger, self.saver):
                self._print(iteration_s, data_s)
        # Before the validation, which may fail; what it finds goes into the record.
        if iteration % self.opt["logger"]["save_checkpoint_freq"] == 0:
            self._save()
        if self.validation.is_due(iteration):
            self._validate()

    def _validate(self) -> None:
        self.validation.run(self.state, self.signals)
        if self.state.is_validated and self.saved_at == self.state.iteration:
            self.saver.note_validated(self.state)

    def _print(self, iteration_s: float, data_s: float) -> None:
        """Log the numbers of this iteration, in TensorBoard, too."""
        model, iteration = self.model, self.state.iteration
        rates = model.get_current_learning_rate()
        log = {
            "epoch": self.state.epoch,
            "iter": iteration,
            "lrs": rates,
            "time": iteration_s,
            "data_time": data_s,
            **model.get_current_log(),
            **run_log.numbers(model, iteration_s),
        }
        if self.bad.skips:
            log["bad_samples"] = len(self.bad.found)
        if self.messages.tb_logger is not None:
            # BasicSR's lines have these two in a form of their own.
            self.messages.tb_logger.add_scalar("lr", rates[0], iteration)
            self.messages.tb_logger.add_scalar("data_time", data_s, iteration)
        self.messages(log)

    is_saving = False

    def _save(self, together: bool = True) -> None:
        self.logger.info("Saving models and training states.")
        # TensorBoard does not draw again what lies before a checkpoint.
        if self.messages.tb_logger is not None and together:
            with run_log.writing_curves(self.messages.tb_logger, self.saver):
                self.messages.tb_logger.flush()
        self.is_saving = True
        self.saver.save(self.state, together)
        self.is_saving = False
        self.saved_at = self.state.iteration

    def _stop(self, number: int) -> int:
        """Save and log how to go on; returns the exit code."""
        if self.state.iteration and self.saved_at != self.state.iteration:
            self._save()
        name, iteration = signal.Signals(number).name, self.state.iteration
        self.logger.info(
            f"Stopped by {name} after iteration {iteration} of {self.total}; the same command "
            "with --auto_resume goes on from there."
        )
        return 128 + number


class _FiniteLosses:
    """Stops a training that has broken down, and costs no wait for a GPU while it has not: the
    models' logs hold numbers."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model
        self._in_a_row = 0

    def check(self, iteration: int) -> None:
        """
        Raises:
            DivergedError: when a loss is not finite and weights are not, or after ``MAX_IN_A_ROW``
                such losses.
        """
        losses = {
            name: float(value)
            for name, value in self._model.get_current_log().items()
            if name.startswith("l_") or "loss" in name
        }
        bad = [f"{name} {value}" for name, value in losses.items() if not math.isfinite(value)]
        if not bad:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        broken = [
            f"{label}.{name}"
            for label, network in vars(self._model).items()
            if label.startswith("net_") and isinstance(network, torch.nn.Module)
            for name in nonfinite(network)
        ]
        if broken or self._in_a_row == MAX_IN_A_ROW:
            weights = f" and weights of no finite numbers, {listed(broken, 3)}" if broken else ""
            raise DivergedError(
                f"train: expected finite losses; found {', '.join(bad)} at iteration {iteration}, "
                f"the last of {self._in_a_row} such in a row{weights}. {LOWER_RATE}"
            )


def _open_experiment(
    opt: Options, opt_file: str, resumption: Resumption, lock: ExperimentLock
) -> logging.Logger:
    """Make the folders, or find them, and open the log."""
    root = Path(opt["path"]["experiments_root"])
    if opt["rank"] == 0:
        if resumption.state is None:
            if os.name == "nt":
                lock.release()  # an open file in a folder keeps it from being renamed
            make_exp_dirs(opt)
            if opt["logger"].get("use_tb_logger") and "debug" not in opt["name"]:
                mkdir_and_rename(os.path.join(opt["root_path"], "tb_logger", opt["name"]))
        # Also when the state is another experiment's.
        root.mkdir(parents=True, exist_ok=True)
        lock.take()
        copy = root / Path(opt_file).name
        if not (copy.exists() and copy.samefile(opt_file)):
            _copy_options(Path(opt_file), copy)
    if opt["dist"]:
        torch.distributed.barrier()
    # On a full disk each line would be followed by a traceback of the log file's.
    logging.raiseExceptions = False
    number, log_file = next_log(Path(opt["path"]["log"]), opt["name"])
    logger: logging.Logger = get_root_logger(log_file=str(log_file))
    # The clock may be set back between two logs.
    logger.info(f"Log {number} of this experiment.")
    logger.info(get_env_info())
    logger.info(dict2str(opt))
    for message in resumption.messages:
        logger.warning(message)
    return logger


def _copy_options(opt_file: Path, copy: Path) -> None:
    """Defect: BasicSR's ``copy_opt_file`` reads the file by the locale, which may lack letters."""
    command = os.fsencode(" ".join(sys.argv))
    head = f"# GENERATE TIME: {time.asctime()}\n# CMD:\n# ".encode()
    copy.write_bytes(head + command + b"\n\n" + opt_file.read_bytes())


def _agreed_seed(opt: Options, resumption: Resumption) -> int:
    """The seed of the samples: of the run so far, or the option's in the first process.

    With ``manual_seed: ~``, each process draws another at each start.
    """
    seed = [opt["manual_seed"] if resumption.seed is None else resumption.seed]
    if opt["dist"]:
        torch.distributed.broadcast_object_list(seed)
    return int(seed[0])


def _training_data(
    opt: Options, seed: int, logger: logging.Logger
) -> tuple["DataLoader[Any]", TrainSampler]:
    section = opt["datasets"]["train"]
    ratio = section.get("dataset_enlarge_ratio", 1)
    dataset = build_dataset(section)
    sort_paths(dataset, section)
    sampler = TrainSampler(dataset, opt["world_size"], opt["rank"], ratio)
    loader = train_loader(dataset, opt, sampler, seed)
    per_epoch = len(loader)
    total = int(opt["train"]["total_iter"])
    logger.info(
        "Training statistics:"
        f"\n\tNumber of train images: {len(dataset)}"
        f"\n\tDataset enlarge ratio: {ratio}"
        f"\n\tBatch size per gpu: {section['batch_size_per_gpu']}"
        f"\n\tWorld size (gpu number): {opt['world_size']}"
        f"\n\tRequire iter number per epoch: {per_epoch}"
        f"\n\tTotal epochs: {math.ceil(total / max(1, per_epoch))}; iters: {total}."
    )
    return loader, sampler


def _validation_data(opt: Options, logger: logging.Logger) -> list["DataLoader[Any]"]:
    loaders = []
    for phase, section in opt["datasets"].items():
        if phase.split("_")[0] != "val":
            continue
        dataset = build_dataset(section)
        sort_paths(dataset, section)
        loaders.append(build_dataloader(dataset, section, num_gpu=opt["num_gpu"], dist=opt["dist"]))
        logger.info(f"Number of val images/folders in {section['name']}: {len(dataset)}")
    return loaders
