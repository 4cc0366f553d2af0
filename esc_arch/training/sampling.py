"""Training samples that depend on the seed and their place in the run, and on nothing else.

A sample is named by its index in the dataset, the epoch and its position in the epoch, which
counts the samples of all processes.  So it is the same whichever worker or process makes it,
however far ahead, and a run can go on at any position on any number of processes.
"""

import functools
import math
import os
import signal
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from basicsr.data import build_dataloader
from basicsr.data.data_sampler import EnlargedSampler
from torch.utils.data import DataLoader, Dataset

from esc_arch.training import random_states

__all__ = ["Sample", "SeededSamples", "TrainSampler", "train_loader"]


class Sample(NamedTuple):
    """The name of a sample; ``position`` counts the samples of all processes in the epoch."""

    index: int
    epoch: int
    position: int


class TrainSampler(EnlargedSampler):
    """EnlargedSampler that gives :class:`Sample` and can begin inside an epoch.

    The order of an epoch is EnlargedSampler's for one process.  Several processes take turns
    in it; where they do not come out even, the first samples are taken again at its end.

    Attributes:
        length: samples of an epoch.
    """

    def __init__(self, dataset: Dataset, num_replicas: int, rank: int, ratio: float = 1) -> None:
        super().__init__(dataset, num_replicas, rank, ratio)
        self.length = math.ceil(len(dataset) * ratio)
        self._begin = 0

    def begin(self, epoch: int, position: int = 0) -> None:
        """Set the epoch, and where in it the next iteration over this begins."""
        self.set_epoch(epoch)
        self._begin = min(position, self.length)

    def __len__(self) -> int:
        return math.ceil((self.length - self._begin) / self.num_replicas)

    def __iter__(self) -> Iterator[Sample]:
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        first = self._begin + self.rank
        for position in range(first, first + len(self) * self.num_replicas, self.num_replicas):
            index = order[position % self.length] % len(self.dataset)
            yield Sample(index, self.epoch, position)


class SeededSamples(Dataset):
    """A dataset by :class:`Sample`, each made with its own random numbers.

    Args:
        dataset: may draw from the generators of Python, NumPy and PyTorch.
        seed: of the run.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, sample: Sample) -> dict:
        # Without workers, the model draws from the same generators.
        with random_states.kept():
            random_states.seed_cpu(self.seed, sample.epoch, sample.position)
            return self.dataset[sample.index]


def train_loader(dataset: Dataset, opt: dict, sampler: TrainSampler, seed: int) -> DataLoader:
    """BasicSR's loader over :class:`SeededSamples`; its batches are whole ones.

    Args:
        dataset: of ``datasets.train``.
        opt: the run's options.
    """
    # The thread of BasicSR's `cpu` mode keeps the loader waiting for ever after an error;
    # esc_arch.training.prefetching has another.
    own = {key: value for key, value in opt["datasets"]["train"].items() if key != "prefetch_mode"}
    loader = build_dataloader(
        SeededSamples(dataset, seed), own, num_gpu=opt["num_gpu"], dist=opt["dist"], sampler=sampler
    )
    if loader.num_workers:
        loader.worker_init_fn = functools.partial(_leave_signals_to, os.getpid())
    # Each start of the workers would draw from the generator that the model draws from.
    loader.generator = torch.Generator()
    return loader


def _leave_signals_to(parent: int, worker: int) -> None:
    """Let a worker end when the training process says so, and by no Ctrl-C or SIGTERM that is
    sent to all processes of a job: the training process has to save first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
