"""Queries of HR patches at random scales: against the images' pixels, and one scale a batch."""

import math
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from PIL import Image
from tensor_pixels import pixels

from esc_arch.errors import UserError
from esc_arch.training.samples import TrainSampler, batches, train_loader


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder of noise of 60x52."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        noise = rng.integers(0, 256, (52, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    return tmp_path


def section(root: Path, **changes: object) -> dict:
    return {
        "name": "noise",
        "type": "RandomScaleImageDataset",
        "dataroot_gt": str(root),
        "io_backend": {"type": "disk"},
        "phase": "train",
        "lq_size": 12,
        "sample_q": 100,
        "use_hflip": False,
        "use_rot": False,
        "num_worker_per_gpu": 0,
        "batch_size_per_gpu": 3,
        **changes,
    }


def image_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("size", "side"), [(13, 52), (16, 52), (52, 52)])
def test_queries_are_pixels_of_the_patch(tmp_path, size, side):
    """Where the patch is the whole image, at scales of 4, 3.25 and 1."""
    image = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    scales = [side / size] * 2
    changes = {"lq_size": size, "sample_q": 400, "scale_range": scales}
    item = build_dataset(section(tmp_path, **changes))[0]
    np.testing.assert_array_equal(pixels(item["lq"]), bicubic(image, size, size))
    seen = set()
    for (y, x), colour in zip(item["coord"].tolist(), item["gt"], strict=True):
        # Of the pixel whose centre it is: the first one's lies half a pixel from -1.
        row, column = ((value + 1) / 2 * side - 0.5 for value in (y, x))
        assert abs(row - round(row)) < 1e-4 and abs(column - round(column)) < 1e-4
        seen.add((round(row), round(column)))
        np.testing.assert_allclose(colour * 255, image[round(row), round(column)], atol=1e-3)
    assert len(seen) == 400
    assert item["cell"].tolist() == pytest.approx([2 / side, 2 / side])


def test_all_pixels_when_as_many_are_asked_for(root):
    item = build_dataset(section(root, sample_q=144, scale_range=[1, 1]))[0]
    order = np.lexsort(item["coord"].numpy().T[::-1])
    asked = item["gt"].numpy()[order].reshape(12, 12, 3)
    # At scale 1 the LR patch is the HR patch.
    np.testing.assert_array_equal(asked, item["lq"].permute(1, 2, 0))


def test_patches_are_turned_in_eight_ways(tmp_path):
    image = np.random.default_rng(2).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    changes = {"use_hflip": True, "use_rot": True, "scale_range": [1, 1]}
    dataset = build_dataset(section(tmp_path, **changes))
    turned = [np.rot90(i, k) for i in (image, image[:, ::-1]) for k in range(4)]
    seen = set()
    for seed in range(60):
        random.seed(seed)
        lq = pixels(dataset[0]["lq"])
        (which,) = [k for k, one in enumerate(turned) if np.array_equal(lq, one)]
        seen.add(which)
    assert seen == set(range(8))


def test_scales_are_uniform(root):
    dataset = build_dataset(section(root))
    drawn = [dataset.draw_for_batch() for _ in range(4000)]
    counts, _ = np.histogram(drawn, bins=6, range=(1, 4))
    assert counts.sum() == 4000
    assert abs(counts / 4000 - 1 / 6).max() < 0.03
    one = dataset.get_item(0, 2.29)
    assert one["cell"].tolist() == pytest.approx([2 / round(12 * 2.29)] * 2)


@pytest.mark.parametrize("scale", [2, 3.3, 2.5, 6])
def test_validation_cuts_the_remainder_off(root, scale):
    item = build_dataset(section(root, phase="val", scale=scale))[0]
    image = image_of(root / "a.png")
    height, width = math.floor(52 / scale), math.floor(60 / scale)
    hr = image[: round(height * scale), : round(width * scale)]
    np.testing.assert_array_equal(pixels(item["gt"]), hr)
    np.testing.assert_array_equal(pixels(item["lq"]), bicubic(hr, height, width))


def test_a_side_that_is_a_multiple_keeps_its_last_pixel(tmp_path):
    Image.new("RGB", (33, 66)).save(tmp_path / "x.png")
    item = build_dataset(section(tmp_path, phase="val", scale=3.3))[0]
    assert item["lq"].shape == (3, 20, 10) and item["gt"].shape == (3, 66, 33)


def test_images_that_are_too_small(root):
    with pytest.raises(UserError, match=r"a\.png: expected sides of at least 56.*found 60x52"):
        build_dataset(section(root, lq_size=14))[0]
    with pytest.raises(UserError, match=r"a\.png: expected sides of at least the scale 60"):
        build_dataset(section(root, phase="val", scale=60))[0]


def run_of(root: Path, begin: int = 0, rank: int = 0, ranks: int = 1, **changes: object) -> list:
    """The batches of the third epoch from a position on."""
    own = section(root, dataset_enlarge_ratio=6, **changes)
    dataset = build_dataset(own)
    sampler = TrainSampler(dataset, ranks, rank, 6)
    opt = {"num_gpu": 0, "dist": ranks > 1, "datasets": {"train": own}}
    loader = train_loader(dataset, opt, sampler, seed=3)
    sampler.begin(2, begin)
    return list(batches(loader, opt))


def scales_of(batch: dict) -> list[int]:
    """The sides of the HR patches, by which each sample tells its scale."""
    return [round(2 / cell) for cell in batch["cell"][:, 0].tolist()]


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("lq", "gt", "coord", "cell"):
            assert torch.equal(one[name], other[name]), name


def test_one_scale_for_each_batch(root):
    run = run_of(root)
    assert len(run) == 8
    assert all(len(set(scales_of(batch))) == 1 for batch in run)
    assert len({scales_of(batch)[0] for batch in run}) > 4
    # Each sample has places and queries of its own.
    assert all(not torch.equal(a, b) for batch in run for a, b in pairwise(batch["coord"]))


@pytest.mark.parametrize("changes", [{"num_worker_per_gpu": 2}, {"begin": 9}], ids=str)
def test_batches_are_the_same_whoever_makes_them_and_wherever_a_run_goes_on(root, changes):
    expected = run_of(root)[changes.get("begin", 0) // 3 :]
    assert_same(run_of(root, **changes), expected)


def test_processes_share_the_scale_of_a_batch(root):
    whole = run_of(root, batch_size_per_gpu=6)
    own = [run_of(root, rank=rank, ranks=2) for rank in range(2)]
    for batch, *parts in zip(whole, *own, strict=True):
        assert scales_of(batch) == [one for part in parts for one in scales_of(part)]
        assert torch.equal(batch["lq"][0::2], parts[0]["lq"])
        assert torch.equal(batch["lq"][1::2], parts[1]["lq"])


def test_a_run_that_goes_on_with_another_batch_has_one_scale_in_each(root):
    run = run_of(root, begin=3, batch_size_per_gpu=4)
    assert len(run) == 5
    assert all(len(set(scales_of(batch))) == 1 for batch in run)


def test_a_sample_in_place_of_a_bad_one_has_the_scale_of_the_batch(root):
    expected = [scales_of(batch) for batch in run_of(root)]
    (root / "b.png").write_bytes(b"no image")
    assert [scales_of(batch) for batch in run_of(root, on_error="skip")] == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_basicsrs_own_training_has_one_scale_for_each_batch(root, workers):
    own = section(root, num_worker_per_gpu=workers)
    dataset = build_dataset(own)
    run = list(build_dataloader(dataset, own, num_gpu=0)) * 3
    assert run
    assert all(len(set(scales_of(batch))) == 1 for batch in run)
