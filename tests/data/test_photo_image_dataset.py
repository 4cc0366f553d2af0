"""LR images made to look like photographs: each step against another program's."""

import io
import random
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from PIL import Image
from scipy import ndimage
from tensor_pixels import pixels

STEPS = ("blur", "noise", "jpeg")


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder of two crops of a photo."""
    photo = Image.open(files("skimage") / "data" / "chelsea.png").convert("RGB")
    for name, left in (("a", 60), ("b", 200)):
        photo.crop((left, 40, left + 150, 180)).save(tmp_path / f"{name}.png")
    return tmp_path


def options(root: Path, phase: str = "val", only: str = "", **changes: object) -> dict:
    """A section whose LR images have one step, always."""
    chances = {f"{step}_prob": float(step == only) for step in STEPS} | {"clean_prob": 0.0}
    patches = {"gt_size": 48, "use_hflip": False, "use_rot": False} if phase == "train" else {}
    return {
        "name": "photos",
        "type": "PhotoImageDataset",
        "dataroot_gt": str(root),
        "io_backend": {"type": "disk"},
        "scale": 2,
        "phase": phase,
        **chances,
        **patches,
        **changes,
    }


def bicubic(image: np.ndarray, scale: int) -> np.ndarray:
    height, width = image.shape[0] // scale, image.shape[1] // scale
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def as_jpeg(image: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("scale", [2, 4])
def test_clean_images_are_only_downsampled(root, scale):
    everything = dict.fromkeys((f"{step}_prob" for step in STEPS), 1.0)
    item = build_dataset(options(root, scale=scale, **everything, clean_prob=1.0))[0]
    np.testing.assert_array_equal(pixels(item["lq"]), bicubic(pixels(item["gt"]), scale))


@pytest.mark.parametrize(("full", "subsampling"), [(0.0, "4:2:0"), (1.0, "4:4:4")])
def test_jpeg_is_that_of_pillow(root, full, subsampling):
    section = options(root, only="jpeg", jpeg_range=[40, 40], jpeg_444_prob=full)
    item = build_dataset(section)[0]
    expected = as_jpeg(bicubic(pixels(item["gt"]), 2), 40, subsampling)
    np.testing.assert_array_equal(pixels(item["lq"]), expected)


@pytest.mark.parametrize("scale", [2, 3])
def test_blur_is_a_gaussian_of_lr_pixels(root, scale):
    item = build_dataset(options(root, only="blur", blur_sigma=[0.7, 0.7], scale=scale))[0]
    gt = pixels(item["gt"]).astype(np.float64)
    blurred = ndimage.gaussian_filter(gt, (0.7 * scale, 0.7 * scale, 0), mode="mirror")
    expected = bicubic(np.rint(blurred).astype(np.uint8), scale)
    # OpenCV's kernel is of fixed point, and ends at 3 sigma.
    assert np.abs(pixels(item["lq"]).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_noise_has_its_sigma(tmp_path, grey):
    Image.new("RGB", (400, 400), (128, 128, 128)).save(tmp_path / "flat.png")
    section = options(tmp_path, only="noise", noise_range=[5, 5], gray_noise_prob=grey)
    noise = pixels(build_dataset(section)[0]["lq"]).astype(float) - 128
    # 5, and what rounding adds.
    assert noise.std() == pytest.approx(np.sqrt(25 + 1 / 12), rel=0.02)
    assert abs(noise.mean()) < 0.1
    between = np.corrcoef(noise.reshape(-1, 3).T)[0, 1]
    assert between == pytest.approx(grey, abs=0.02)


def test_validation_makes_the_same_images_each_time(root):
    section = options(root) | dict.fromkeys((f"{step}_prob" for step in STEPS), 1.0)
    first, second = build_dataset(section), build_dataset(section)
    random.seed(1)
    images = [first[0]["lq"], first[1]["lq"]]
    random.seed(2)
    assert torch.equal(second[1]["lq"], images[1]) and torch.equal(second[0]["lq"], images[0])
    assert not torch.equal(images[0], images[1])


def test_patches_are_seeded_and_belong_together(root):
    """An LR patch lies where its HR patch lies, wherever the blocks of the JPEG begin."""
    section = options(root, "train", only="jpeg", jpeg_range=[95, 95], jpeg_444_prob=1.0)
    dataset = build_dataset(section)
    for seed in range(20):
        random.seed(seed)
        item = dataset[0]
        assert item["lq"].shape == (3, 24, 24) and item["gt"].shape == (3, 48, 48)
        # Inside, as at the border the HR patch lacks what bicubic sees.
        difference = pixels(item["lq"]).astype(int) - bicubic(pixels(item["gt"]), 2)
        assert np.abs(difference[2:-2, 2:-2]).mean() < 3
        random.seed(seed)
        assert torch.equal(dataset[0]["lq"], item["lq"])


def test_blocks_of_the_jpeg_begin_anywhere_in_half_of_the_patches(root):
    dataset = build_dataset(options(root, "train", only="jpeg", jpeg_range=[5, 5]))
    edges = []
    for seed in range(60):
        random.seed(seed)
        grey = pixels(dataset[0]["lq"]).astype(int).sum(2)
        steps = np.abs(np.diff(grey, axis=1)).sum(0)  # [k]: between the columns k and k + 1
        edges.append(int(np.argmax([steps[(k + 7) % 8 :: 8].mean() for k in range(8)])))
    aligned = edges.count(0) / len(edges)
    assert 0.35 < aligned < 0.8
    assert len(set(edges)) >= 6


def test_images_as_small_as_the_patch(root):
    dataset = build_dataset(options(root, "train", only="jpeg", gt_size=140))
    assert dataset[0]["lq"].shape == (3, 70, 70)
