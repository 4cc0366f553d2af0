"""The training samples: the same ones whoever makes them, from any position on."""

import random

import numpy as np
import pytest
import torch
from basicsr.data.data_sampler import EnlargedSampler
from torch.utils.data import BatchSampler, Dataset

from esc_arch.training import random_states
from esc_arch.training.samples import TrainSampler, batches, train_loader


class Noise(Dataset):
    """Draws from all generators, a different number of times for each sample."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> dict:
        for _ in range(index):
            random.random(), np.random.rand(), torch.rand(1)
        drawn = [random.random(), np.random.rand(), torch.rand(1).item(), np.random.randint(99)]
        return {"index": index, "drawn": torch.tensor(drawn)}


class Broken(Noise):
    def __getitem__(self, index: int) -> dict:
        raise TypeError("no number")


def opt_of(workers: int = 0, batch: int = 2, ratio: float = 3, **data: object) -> dict:
    train = {
        "phase": "train",
        "num_worker_per_gpu": workers,
        "batch_size_per_gpu": batch,
        "dataset_enlarge_ratio": ratio,
        **data,
    }
    return {"num_gpu": 0, "dist": False, "datasets": {"train": train}}


def epochs(opt: dict, starts: list[tuple[int, int]], dataset: Dataset | None = None, seed: int = 5):
    """Index and draws of each sample of some epochs, from positions on."""
    dataset = dataset or Noise()
    sampler = TrainSampler(dataset, 1, 0, opt["datasets"]["train"]["dataset_enlarge_ratio"])
    loader = train_loader(dataset, opt, sampler, seed)
    found = []
    for epoch, position in starts:
        sampler.begin(epoch, position)
        rows = [
            (int(index), *drawn.tolist())
            for batch in batches(loader, opt)
            for index, drawn in zip(batch["index"], batch["drawn"], strict=True)
        ]
        found.append(rows)
    return found


WHOLE = [(0, 0), (1, 0)]


@pytest.fixture(scope="module")
def expected() -> list[list[tuple]]:
    return epochs(opt_of(), WHOLE)


def test_no_two_samples_are_alike(expected):
    rows = [row for epoch in expected for row in epoch]
    assert len(rows) == 2 * 20  # 21 in whole batches
    for column in (1, 2, 3):
        assert len({row[column] for row in rows}) == len(rows)
    other_seed = epochs(opt_of(), WHOLE, seed=6)
    assert all(
        a[0] == b[0] and a[1] != b[1] for a, b in zip(other_seed[0], expected[0], strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 2},
        {"workers": 3, "persistent_workers": True},
        {"workers": 2, "prefetch_mode": "cpu", "num_prefetch_queue": 2},
        {"workers": 1, "prefetch_mode": "cpu", "persistent_workers": True},
        {"prefetch_mode": "cpu"},
        {"batch": 4},
    ],
    ids=str,
)
def test_who_makes_a_sample_changes_nothing(expected, options):
    assert epochs(opt_of(**options), WHOLE) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_begin_anywhere(expected, workers):
    resumed = epochs(opt_of(workers), [(0, 6), (1, 20), (1, 0)])
    assert resumed == [expected[0][6:], [], expected[1]]


def test_samples_leave_the_generators_alone():
    before = random_states.capture()
    epochs(opt_of(), WHOLE)
    after = random_states.capture()
    assert before["python"][0::2] == after["python"][0::2]
    for name, place in (("python", 1), ("numpy", 1)):
        assert torch.equal(before[name][place], after[name][place])
    assert torch.equal(before["torch"], after["torch"])


def test_captured_states_come_back_through_a_file(tmp_path):
    random.gauss(0, 1), np.random.randn()  # both keep a second number
    torch.save(random_states.capture(), tmp_path / "states")

    def draw() -> list:
        return [random.gauss(0, 1), random.random(), *np.random.randn(3), *torch.rand(3).tolist()]

    drawn = draw()
    random_states.restore(torch.load(tmp_path / "states", weights_only=True))
    assert draw() == drawn


def indices(sampler: TrainSampler) -> list[int]:
    return [sample.index for sample in sampler]


@pytest.mark.parametrize("ratio", [1, 3, 2.5])
def test_the_order_is_basicsrs(ratio):
    own, theirs = TrainSampler(Noise(), 1, 0, ratio), EnlargedSampler(Noise(), 1, 0, ratio)
    for epoch in (0, 3):
        own.begin(epoch)
        theirs.set_epoch(epoch)
        assert indices(own) == list(theirs)
        assert len(own) == len(theirs)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_take_turns_in_one_order(world):
    alone = TrainSampler(Noise(), 1, 0, 3)
    ranks = [TrainSampler(Noise(), world, rank, 3) for rank in range(world)]
    for sampler in (alone, *ranks):
        sampler.begin(2, 4)
    turns = [sample for turn in zip(*ranks, strict=True) for sample in turn]
    rest = list(alone)
    assert turns == rest[: len(turns)]
    assert all(len(list(sampler)) == len(sampler) for sampler in ranks)
    assert 0 <= len(rest) - len(turns) < world


@pytest.mark.parametrize("length", [12, 13, 14, 23])
@pytest.mark.parametrize(("world", "batch"), [(2, 1), (2, 3), (3, 2), (4, 3)])
def test_each_step_has_the_samples_of_one_process_with_the_whole_batch(length, world, batch):
    dataset = [0] * length

    def steps(world: int, rank: int, batch: int, begin: int) -> list[list]:
        sampler = TrainSampler(dataset, world, rank)
        sampler.begin(1, begin)
        return list(BatchSampler(sampler, batch, drop_last=True))

    whole = world * batch
    for begin in (0, whole, 5):
        alone = steps(1, 0, whole, begin)
        ranks = [steps(world, rank, batch, begin) for rank in range(world)]
        together = [
            [sample for turn in zip(*parts, strict=True) for sample in turn]
            for parts in zip(*ranks, strict=True)
        ]
        assert together == alone


@pytest.mark.parametrize("mode", [None, "cpu"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_dataset_arrives(mode, workers):
    with pytest.raises(TypeError, match="no number"):
        epochs(opt_of(workers, prefetch_mode=mode), WHOLE, Broken())
