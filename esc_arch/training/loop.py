"""The training loop of ``basicsr train``: BasicSR's, made to survive.

It takes the steps of ``basicsr.train.train_pipeline`` with BasicSR's models, datasets and
logger, and differs in this: checkpoints are generations (:mod:`esc_arch.training.saving`), a
run goes on exactly where its checkpoint was, signals end it with a checkpoint, and it ends at
``total_iter`` where BasicSR's loses the incomplete batches of the epochs.
"""

import datetime
import logging
import math
import os
import signal
import time
from pathlib import Path

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
    get_time_str,
    make_exp_dirs,
    mkdir_and_rename,
)
from basicsr.utils.options import copy_opt_file, dict2str
from torch.utils.data import DataLoader, Dataset

from esc_arch.errors import UserError
from esc_arch.training import resuming, watching
from esc_arch.training.bad_samples import BadSamples
from esc_arch.training.liveness import Job
from esc_arch.training.locking import ExperimentLock
from esc_arch.training.prefetching import Batches
from esc_arch.training.sampling import TrainSampler, sort_paths, train_loader
from esc_arch.training.saving import Position, Saver
from esc_arch.training.signals import StopSignals
from esc_arch.training.validating import Validation

__all__ = ["train_pipeline"]


def train_pipeline(opt: dict, opt_file: str, job: Job) -> int:
    """Train a network.

    Args:
        opt: checked and completed options, see :func:`esc_arch.options.parse`.
        opt_file: a copy of it goes into the experiment's folder.
        job: the processes that train together.

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
        return _train(opt, opt_file, lock, job)


def _train(opt: dict, opt_file: str, lock: ExperimentLock, job: Job) -> int:
    torch.backends.cudnn.benchmark = True
    resumption = resuming.find(opt)
    root = opt["path"]["experiments_root"]
    try:
        logger = _open_experiment(opt, opt_file, resumption, lock)
        job.note_opened(Path(root))
    except OSError as error:
        raise UserError(
            f"{error.filename or root}: expected to write into {root}; found: {error.strerror}. "
            "Mend this (space, quota, permissions), or start in another folder."
        ) from error
    tb_logger = init_tb_loggers(opt)
    if resumption.state is not None:
        watching.continue_events(tb_logger, resumption.state["iter"])
    seed = _agreed_seed(opt, resumption)

    loader, sampler = _training_data(opt, seed, logger)
    validation_loaders = _validation_data(opt, logger)
    model = build_model(opt)
    saver = Saver(model, opt)
    resumption.restore(model, opt)
    position = resumption.position(sampler.length, seed)
    if resumption.state is not None:
        logger.info(f"Resuming training from epoch: {position.epoch}, iter: {position.iteration}.")
    saver.check_space(int(opt["train"]["total_iter"]) - position.iteration)
    validation = Validation(model, validation_loaders, opt, saver, tb_logger)
    messages = MessageLogger(opt, position.iteration, tb_logger)
    resumption.restore_random_states(opt, position.iteration)

    with StopSignals() as signals:
        run = _Run(opt, model, saver, validation, messages, position, signals, logger)
        with run.bar.shown(), watching.errors_of_curves_told_once():
            code = run.train(loader, sampler)
            if tb_logger:
                with watching.writing_curves(tb_logger, saver):
                    tb_logger.close()
    return code


class _Run:
    """One training from its position on."""

    def __init__(
        self,
        opt: dict,
        model: BaseModel,
        saver: Saver,
        validation: Validation,
        messages: MessageLogger,
        position: Position,
        signals: StopSignals,
        logger: logging.Logger,
    ) -> None:
        self._opt = opt
        self._model = model
        self._saver = saver
        self._validation = validation
        self._messages = messages
        self._position = position
        self._signals = signals
        self._logger = logger
        self._total = int(opt["train"]["total_iter"])
        # Where the last checkpoint was written; a resumed run begins at one.
        self._saved_at = position.iteration if position.iteration else None
        self.bar = watching.TrainingBar(opt, position.iteration)

    def train(self, loader: DataLoader, sampler: TrainSampler) -> int:
        """Take the remaining steps; returns the exit code."""
        position = self._position
        self._logger.info(
            f"Start training from epoch: {position.epoch}, iter: {position.iteration}"
        )
        start = time.time()
        batch_samples = loader.batch_size * self._opt["world_size"]
        batches = Batches(loader, self._opt)
        self._bad = BadSamples(self._opt, len(sampler.dataset), position.bad_samples)
        if not position.is_validated:
            self._validation.run(position, self._signals)
        stopped_by = self._signals.agreed(self._model.device)
        while position.iteration < self._total and stopped_by is None:
            sampler.begin(position.epoch, position.samples)
            stopped_by = self._train_epoch(batches, batch_samples)
        if stopped_by is not None:
            return self._stop(stopped_by)
        consumed = datetime.timedelta(seconds=int(time.time() - start))
        self._logger.info(f"End of training. Time consumed: {consumed}")
        self._logger.info("Save the latest model.")
        self._saver.save_latest()
        best = position.best
        if self._opt.get("val") is not None:
            self._validation.run(position, self._signals)
        stopped_by = self._signals.agreed(self._model.device)
        if stopped_by is not None:
            return self._stop(stopped_by)
        # A longer run goes on from it.
        if self._saved_at != position.iteration or position.best is not best:
            self._save()
        return 0

    def _train_epoch(self, batches: Batches, batch_samples: int) -> int | None:
        """Train to the end of an epoch or of the run; returns the signal that asks to stop."""
        position = self._position
        data_timer, iter_timer = AvgTimer(), AvgTimer()
        is_empty = position.samples == 0
        with batches.epoch() as epoch:
            for batch in epoch:
                data_timer.record()
                is_empty = False
                if (error := self._bad.take(batch, self._model.device)) is not None:
                    # After the mend, the run goes on with this very batch.
                    if position.iteration and self._saved_at != position.iteration:
                        self._save()
                    raise error
                position.iteration += 1
                position.samples += batch_samples
                self._step(batch, iter_timer, data_timer)
                stopped_by = self._signals.agreed(self._model.device)
                if stopped_by is not None or position.iteration == self._total:
                    return stopped_by
                data_timer.start()
                iter_timer.start()
        if is_empty:
            raise UserError(
                f"datasets.train: expected at least one batch of {batch_samples} samples in an "
                f"epoch; found {position.length}. Raise dataset_enlarge_ratio, or lower "
                "batch_size_per_gpu."
            )
        position.epoch += 1
        position.samples = 0
        return None

    def _step(self, batch: dict, iter_timer: AvgTimer, data_timer: AvgTimer) -> None:
        """One iteration with what is due after it."""
        model, iteration = self._model, self._position.iteration
        model.update_learning_rate(iteration, warmup_iter=self._opt["train"].get("warmup_iter", -1))
        model.feed_data(batch)
        model.optimize_parameters(iteration)
        iter_timer.record()
        self.bar.advance(model.get_current_log())
        if iteration == 1:
            self._messages.reset_start_time()
        if iteration % self._opt["logger"]["print_freq"] == 0:
            with watching.writing_curves(self._messages.tb_logger, self._saver):
                self._print(iter_timer.get_avg_time(), data_timer.get_avg_time())
        # Before the checkpoint, which has the best metrics then.
        if self._validation.is_due(iteration):
            self._validation.run(self._position, self._signals)
        if iteration % self._opt["logger"]["save_checkpoint_freq"] == 0:
            self._save()

    def _print(self, iteration_s: float, data_s: float) -> None:
        """Log the numbers of this iteration, in TensorBoard, too."""
        model, iteration = self._model, self._position.iteration
        rates = model.get_current_learning_rate()
        log = {**model.get_current_log(), **watching.numbers(model, iteration_s)}
        if self._bad.skips:
            log["bad_samples"] = len(self._bad.found)
        if self._messages.tb_logger is not None:
            # BasicSR's lines have these two in a form of their own.
            self._messages.tb_logger.add_scalar("lr", rates[0], iteration)
            self._messages.tb_logger.add_scalar("data_time", data_s, iteration)
        self._messages(
            {
                "epoch": self._position.epoch,
                "iter": iteration,
                "lrs": rates,
                "time": iteration_s,
                "data_time": data_s,
                **log,
            }
        )

    def _save(self) -> None:
        self._logger.info("Saving models and training states.")
        if self._messages.tb_logger is not None:
            # What comes before a checkpoint is not drawn again.
            with watching.writing_curves(self._messages.tb_logger, self._saver):
                self._messages.tb_logger.flush()
        self._saver.save(self._position)
        self._saved_at = self._position.iteration

    def _stop(self, number: int) -> int:
        """Save and tell how to go on; returns the exit code."""
        if self._position.iteration and self._saved_at != self._position.iteration:
            self._save()
        name, iteration = signal.Signals(number).name, self._position.iteration
        self._logger.info(
            f"Stopped by {name} after iteration {iteration} of {self._total}; the same command "
            "with --auto_resume goes on from there."
        )
        return 128 + number


def _open_experiment(
    opt: dict, opt_file: str, resumption: resuming.Resumption, lock: ExperimentLock
) -> logging.Logger:
    """Make the folders, or find them, and open the log."""
    root = Path(opt["path"]["experiments_root"])
    if opt["rank"] == 0:
        if resumption.state is None:
            make_exp_dirs(opt)
            if opt["logger"].get("use_tb_logger") and "debug" not in opt["name"]:
                mkdir_and_rename(os.path.join(opt["root_path"], "tb_logger", opt["name"]))
        # Also when the state is another experiment's.
        root.mkdir(parents=True, exist_ok=True)
        lock.take()
        copy = root / Path(opt_file).name
        if not (copy.exists() and copy.samefile(opt_file)):
            copy_opt_file(opt_file, root)
    if opt["dist"]:
        torch.distributed.barrier()
    # On a full disk each line would be followed by a traceback of the log file's.
    logging.raiseExceptions = False
    log_file = os.path.join(opt["path"]["log"], f"train_{opt['name']}_{get_time_str()}.log")
    logger = get_root_logger(log_file=log_file)
    logger.info(get_env_info())
    logger.info(dict2str(opt))
    for message in resumption.messages:
        logger.warning(message)
    return logger


def _agreed_seed(opt: dict, resumption: resuming.Resumption) -> int:
    """The seed of the samples: of the run so far, or the option's in the first process.

    With ``manual_seed: ~``, each process draws another at each start.
    """
    seed = [opt["manual_seed"] if resumption.seed is None else resumption.seed]
    if opt["dist"]:
        torch.distributed.broadcast_object_list(seed)
    return seed[0]


def _training_data(opt: dict, seed: int, logger: logging.Logger) -> tuple[DataLoader, TrainSampler]:
    section = opt["datasets"]["train"]
    ratio = section.get("dataset_enlarge_ratio", 1)
    dataset = _built(section)
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


def _built(section: dict) -> Dataset:
    dataset = build_dataset(section)
    sort_paths(dataset, section)
    return dataset


def _validation_data(opt: dict, logger: logging.Logger) -> list[DataLoader]:
    loaders = []
    for phase, section in opt["datasets"].items():
        if phase.split("_")[0] != "val":
            continue
        dataset = _built(section)
        loaders.append(build_dataloader(dataset, section, num_gpu=opt["num_gpu"], dist=opt["dist"]))
        logger.info(f"Number of val images/folders in {section['name']}: {len(dataset)}")
    return loaders
