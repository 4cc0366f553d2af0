"""Validation in the course of a training, and the best networks so far."""

import logging
import math
from collections.abc import Sequence

import torch
from basicsr.models.base_model import BaseModel
from torch.utils.data import DataLoader

from esc_arch.training import random_states
from esc_arch.training.saving import Best, Position, Saver
from esc_arch.training.signals import StopRequested, StopSignals
from esc_arch.training.spreading import is_spread, validate_together

__all__ = ["Validation"]

_logger = logging.getLogger("basicsr.esc_arch")


class Validation:
    """Runs ``model.validation``, spread over the processes of a job, and keeps the networks of
    the best ``logger.keep_best``.

    With several validation sets, the mean of the metric over the sets decides, each set
    counting once.

    Args:
        loaders: of the validation sets.
        opt: the run's options.
    """

    def __init__(
        self,
        model: BaseModel,
        loaders: Sequence[DataLoader],
        opt: dict,
        saver: Saver,
        tb_logger: object,
    ) -> None:
        self._model = model
        self._loaders = loaders
        self._opt = opt
        self._saver = saver
        self._tb_logger = tb_logger
        self._metric = opt["logger"].get("keep_best")

    def is_due(self, iteration: int) -> bool:
        val = self._opt.get("val")
        return val is not None and iteration % val["val_freq"] == 0

    def run(self, position: Position, signals: StopSignals) -> None:
        """Validate; leaves ``position.is_validated`` false when a signal came in between.

        What is drawn in it leaves the generators of training as they were, so a run that was
        killed between a checkpoint and its validation goes on as any other.
        """
        values: list[float] = []
        with random_states.kept():
            for loader in self._loaders:
                try:
                    results = self._validate(loader, position.iteration, signals)
                except StopRequested:
                    position.is_validated = False
                    return
                values.append(results.get(self._metric, math.nan))
        position.is_validated = True
        if self._metric is not None:
            self._note(sum(values) / len(values) if values else math.nan, position)

    def _validate(self, loader: DataLoader, iteration: int, signals: StopSignals) -> dict:
        """Validate on one set; returns its metrics, the same ones in all processes."""
        save_img = self._opt["val"]["save_img"]
        with self._saver.stopping("what the validation gives"):
            if is_spread(self._model):
                validate_together(
                    self._model, loader, iteration, self._tb_logger, save_img, signals
                )
            else:
                loader = signals.interrupting(loader)
                self._model.validation(loader, iteration, self._tb_logger, save_img)
        results = [getattr(self._model, "metric_results", None) or {}]
        if self._opt["dist"]:
            # Where the first process alone validates, the others have none.
            torch.distributed.broadcast_object_list(results)
        return results[0]

    def _note(self, value: float, position: Position) -> None:
        better = self._opt["val"]["metrics"][self._metric].get("better", "higher")
        best = position.best
        if best is not None and best.metric != self._metric:
            best = None
        sign = 1 if better == "higher" else -1
        if math.isnan(value) or (best is not None and sign * value <= sign * best.value):
            return
        position.best = Best(self._metric, float(value), position.iteration)
        self._saver.save_best(position)
        _logger.info(
            f"Best {self._metric} so far: {value:.4f} @ {position.iteration} iter, in "
            "net_*_best.pth."
        )
