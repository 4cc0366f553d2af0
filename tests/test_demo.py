"""The demo: its photos, its option files, and what its report reads."""

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
SUB_IMAGE = 128  # as the Makefile asks for


def _load(name: str) -> ModuleType:
    """A program of demo/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"demo_{name}", ROOT / "demo" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the module of a class
    spec.loader.exec_module(module)
    return module


extract_photos = _load("extract_photos")
report = _load("report")

TRAINING = [name for scene in extract_photos.TRAINING.values() for name in scene]
HELD_OUT = [name for scene in extract_photos.HELD_OUT.values() for name in scene]


@pytest.fixture
def few_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        extract_photos, "TRAINING", {"coins": ("coins.png",), "page": ("page.png",)}
    )
    monkeypatch.setattr(extract_photos, "HELD_OUT", {"chelsea": ("chelsea.png",)})


def test_enough_photos_on_both_sides():
    assert len(TRAINING) >= 5
    assert len(HELD_OUT) >= 2
    assert not set(TRAINING) & set(HELD_OUT)
    assert not set(extract_photos.TRAINING) & set(extract_photos.HELD_OUT)


def _likeness(first: str, second: str) -> float:
    """Correlation of two photos, shrunk to 24 x 24 grey pixels, over small shifts."""

    def standardised(values: np.ndarray) -> np.ndarray:
        return (values - values.mean()) / values.std()

    def thumbnail(name: str) -> np.ndarray:
        return np.asarray(extract_photos.read_photo(name).convert("L").resize((24, 24)), float)

    a, b = thumbnail(first), standardised(thumbnail(second)[4:-4, 4:-4])
    shifts = itertools.product(range(9), repeat=2)
    return max(float((standardised(a[y : y + 16, x : x + 16]) * b).mean()) for y, x in shifts)


def test_no_scene_is_on_both_sides():
    same_scene = _likeness("motorcycle_left.png", "motorcycle_right.png")
    other_scenes = {pair: _likeness(*pair) for pair in itertools.product(TRAINING, HELD_OUT)}
    assert same_scene > 0.8
    assert max(other_scenes.values()) < 0.7, other_scenes


@pytest.mark.parametrize("name", TRAINING + HELD_OUT)
def test_photo_is_rgb_and_holds_a_sub_image(name: str):
    photo = extract_photos.read_photo(name)
    assert photo.mode == "RGB"
    assert min(photo.size) >= SUB_IMAGE


def test_missing_photo_is_named():
    with pytest.raises(SystemExit, match=r"nowhere\.png is missing.*scikit-image"):
        extract_photos.read_photo("nowhere.png")


def test_photos_are_written_pixel_by_pixel(tmp_path: Path, few_photos: None):
    folder = tmp_path / "photos"
    extract_photos.extract(folder)
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert written == ["test/chelsea.png", "train/coins.png", "train/page.png"]
    hr = cv2.imread(str(folder / "test/chelsea.png"))
    np.testing.assert_array_equal(hr[..., ::-1], extract_photos.read_photo("chelsea.png"))
    report = json.loads((folder / "photos.json").read_text())
    assert report["held_out"] == {"chelsea.png": [451, 300]}


def test_a_failed_extraction_leaves_the_old_photos(
    tmp_path: Path, few_photos: None, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "old").touch()

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(extract_photos, "read_photo", stop)
    with pytest.raises(KeyboardInterrupt):
        extract_photos.extract(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert [path.name for path in folder.iterdir()] == ["old"]


def test_extraction_replaces_old_photos_and_the_rest_of_a_killed_one(
    tmp_path: Path, few_photos: None
):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "old").touch()
    (tmp_path / ".photos.killed" / "train").mkdir(parents=True)
    extract_photos.extract(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert sorted(path.name for path in folder.iterdir()) == ["photos.json", "test", "train"]


def test_option_files_agree_with_each_other_and_the_data():
    train, test = (
        yaml.safe_load((ROOT / f"options/demo/{mode}_ESC_x2.yml").read_text())
        for mode in ("train", "test")
    )
    assert train["network_g"] == test["network_g"]
    assert train["network_g"]["upscaling_factor"] == train["scale"] == report.SCALE
    assert train["datasets"]["val"] == test["datasets"]["test"]
    assert train["datasets"]["train"]["gt_size"] <= SUB_IMAGE
    assert test["path"]["pretrain_network_g"].startswith(f"experiments/{train['name']}/")
    set_name = test["datasets"]["test"]["name"]
    assert str(report.ESC_IMAGES) == f"results/{test['name']}/visualization/{set_name}"
    assert str(report.TRAIN_LOGS) == f"experiments/{train['name']}"
    # The report finds the iteration of a validation by the loss that is printed before it.
    assert train["val"]["val_freq"] % train["logger"]["print_freq"] == 0


def test_the_report_leaves_the_checkout_clean():
    """What it writes is ignored; the committed results of one run are elsewhere."""
    files = [str(report.OUTPUT / name) for name in ("comparison.png", "results.json")]
    ignored = subprocess.run(
        ["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True
    )
    if ignored.returncode > 1:
        pytest.skip("no checkout of git")
    assert ignored.stdout.split() == files
    assert (ROOT / "experiments/demo/comparison.png").is_file()
    makefile = (ROOT / "Makefile").read_text()
    assert f"DEMO_REPORT := {report.OUTPUT}/results.json" in makefile


@pytest.mark.parametrize(
    ("gains", "passes"),
    [
        ({"a": 0.6, "b": 0.7}, True),
        ({"a": 2.0, "b": -0.1}, False),  # good on average, worse on one
        ({"a": 2.0, "b": 0.0}, False),
        ({"a": 0.4, "b": 0.5}, False),  # better on each, too little on average
    ],
)
def test_the_report_fails_below_its_margins(gains: dict[str, float], passes: bool):
    message = report.check(gains)
    assert (message is None) == passes
    if message:
        assert f"b {gains['b']:+.2f}" in message


def test_the_report_scores_as_the_formula_says():
    generator = np.random.default_rng(0)
    hr = generator.integers(16, 236, (40, 50, 3), dtype=np.uint8)
    image = np.clip(hr.astype(int) + generator.integers(-9, 10, hr.shape), 0, 255).astype(np.uint8)
    # BT.601 luma on 8-bit RGB
    weights = np.array([65.481, 128.553, 24.966]) / 255
    error = ((hr.astype(float) - image) @ weights)[2:-2, 2:-2]
    expected = 10 * np.log10(255**2 / (error**2).mean())
    score = report.score(Image.fromarray(image), Image.fromarray(hr))
    assert score.psnr == pytest.approx(expected, abs=1e-4)
