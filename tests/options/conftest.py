"""A current folder with small data, and options that name it."""

import pytest
from option_cases import TEST, TRAIN, mutated
from small_images import SIZES, write_images


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A current folder with data/HR/a.png, ... and data/LR/ax2.png, ..."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    write_images(data / "HR", {f"{n}.png": size for n, size in SIZES.items()})
    write_images(data / "LR", {f"{n}x2.png": (h // 2, w // 2) for n, (h, w) in SIZES.items()})
    return tmp_path


@pytest.fixture
def train_opt():
    return mutated(TRAIN, "name", "tiny")


@pytest.fixture
def test_opt():
    return mutated(TEST, "name", "tiny")
