"""HR images alone as training data: what comes out, from where, in which order."""

import random
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from PIL import Image
from tensor_pixels import pixels

from esc_arch.data.downsample_image_dataset import DownsampleImageDataset
from esc_arch.errors import UserError
from esc_arch.imaging.imresize import imresize


@pytest.fixture
def roots(tmp_path) -> list[str]:
    """Two folders of crops of a photo, written in an order that is not the names'."""
    photo = Image.open(files("skimage") / "data" / "chelsea.png").convert("RGB")
    for folder, names in (("first", "cab"), ("second", "ed")):
        (tmp_path / folder).mkdir()
        for name in names:
            left = 30 * (ord(name) - ord("a"))
            photo.crop((left, 50, left + 50, 91)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "first" / ".hidden").write_text("no image")
    (tmp_path / "first" / "folder").mkdir()
    return [str(tmp_path / "first"), str(tmp_path / "second")]


def options(dataroot: object, phase: str = "train", **changes: object) -> dict:
    patches = {"gt_size": 24, "use_hflip": True, "use_rot": True} if phase == "train" else {}
    return {
        "name": "cats",
        "type": "DownsampleImageDataset",
        "dataroot_gt": dataroot,
        "io_backend": {"type": "disk"},
        "scale": 2,
        "phase": phase,
        **patches,
        **changes,
    }


def stems(dataset: DownsampleImageDataset) -> list[str]:
    return [Path(dataset[i]["gt_path"]).stem for i in range(len(dataset))]


def test_the_options_of_basicsr_build_it(roots):
    dataset = build_dataset(options(roots))
    assert type(dataset) is DownsampleImageDataset
    assert len(dataset) == 5


def test_order_is_by_root_and_name(roots):
    assert stems(build_dataset(options(roots))) == list("abcde")
    assert stems(build_dataset(options(roots[::-1]))) == list("deabc")
    assert stems(build_dataset(options(roots[1]))) == list("de")


def test_keys_types_and_shapes(roots):
    item = build_dataset(options(roots, scale=3))[0]
    assert set(item) == {"lq", "gt", "lq_path", "gt_path"}
    assert item["gt"].shape == (3, 24, 24) and item["lq"].shape == (3, 8, 8)
    assert item["gt"].dtype == item["lq"].dtype == torch.float32
    assert item["gt_path"] == item["lq_path"] == str(Path(roots[0]) / "a.png")
    assert item["gt"].min() >= 0 and 0.2 < item["gt"].max() <= 1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pil_lr_is_made_of_the_8_bit_crop(roots, scale):
    """By default; from the pixels of the pair alone, after flips and rotation."""
    dataset = build_dataset(options(roots, scale=scale))
    for index in range(5):
        item = dataset[index]
        gt = Image.fromarray(pixels(item["gt"]))
        expected = gt.resize((24 // scale, 24 // scale), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(pixels(item["lq"]), np.asarray(expected))


def test_matlab_lr(roots):
    dataset = build_dataset(options(roots, downsampling="matlab_bicubic", scale=3))
    item = dataset[1]
    np.testing.assert_array_equal(pixels(item["lq"]), imresize(pixels(item["gt"]), 1 / 3))


def test_unknown_downsampling(roots):
    with pytest.raises(ValueError, match="known are pil_bicubic, matlab_bicubic"):
        build_dataset(options(roots, downsampling="nearest"))


def test_patches_are_all_places_and_all_turns_of_the_image(roots, tmp_path):
    """A 5x4 image of 20 colours and patches of 4: 2 places times 8 turns."""
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    (tmp_path / "numbers").mkdir()
    Image.fromarray(image).save(tmp_path / "numbers" / "n.png")
    dataset = build_dataset(options(str(tmp_path / "numbers"), gt_size=4))
    random.seed(0)
    seen = {pixels(dataset[0]["gt"]).tobytes() for _ in range(300)}
    expected = set()
    for place in (image[:, :4], image[:, 1:]):
        for turn in range(4):
            turned = np.rot90(place, turn)
            expected |= {turned.tobytes(), turned[:, ::-1].tobytes()}
    assert seen == expected
    plain = options(str(tmp_path / "numbers"), gt_size=4, use_hflip=False, use_rot=False)
    dataset = build_dataset(plain)
    seen = {pixels(dataset[0]["gt"]).tobytes() for _ in range(50)}
    assert seen == {image[:, :4].tobytes(), image[:, 1:].tobytes()}


@pytest.mark.parametrize("phase", ["val", "test"])
def test_validation_takes_the_whole_image(roots, phase):
    item = build_dataset(options(roots, phase, scale=3))[0]
    with Image.open(item["gt_path"]) as image:
        whole = np.asarray(image)[:39, :48]
    np.testing.assert_array_equal(pixels(item["gt"]), whole)
    expected = Image.fromarray(whole).resize((16, 13), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels(item["lq"]), np.asarray(expected))


@pytest.mark.parametrize("mode", ["L", "RGBA", "1", "I;16"])
def test_other_modes_come_as_opencv_reads_colour(tmp_path, mode):
    ramp = np.arange(24 * 24, dtype=np.uint16).reshape(24, 24)
    if mode == "I;16":
        Image.fromarray(ramp * 113).save(tmp_path / "x.png")
    else:
        Image.fromarray((ramp % 256).astype(np.uint8)).convert(mode).save(tmp_path / "x.png")
    gt = pixels(build_dataset(options(str(tmp_path), "val"))[0]["gt"])
    expected = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_COLOR)[..., ::-1]
    assert gt.shape == (24, 24, 3)
    np.testing.assert_array_equal(gt, expected)


def test_lmdbs_give_what_folders_give(roots):
    lmdbs = []
    for root in roots:
        names = sorted(path.name for path in Path(root).glob("[a-z].png"))
        lmdbs.append(f"{root}.lmdb")
        make_lmdb_from_imgs(root, lmdbs[-1], names, [Path(n).stem for n in names], map_size=2**22)
    opt = options(lmdbs, "val", io_backend={"type": "lmdb"})
    from_lmdb, from_disk = build_dataset(opt), build_dataset(options(roots, "val"))
    assert stems(from_lmdb) == list("abcde")
    for index in range(5):
        one, other = from_lmdb[index], from_disk[index]
        assert torch.equal(one["gt"], other["gt"]) and torch.equal(one["lq"], other["lq"])
    # An LMDB cannot be open twice in one process.
    del from_lmdb
    twice = options([lmdbs[1]] * 2, "val", io_backend={"type": "lmdb"})
    assert stems(build_dataset(twice)) == list("dede")
    one = options(lmdbs[0], "val", io_backend={"type": "lmdb"})
    assert stems(build_dataset(one)) == list("abc")


def test_listed_images_come_in_the_order_of_the_list(roots, tmp_path):
    listed = tmp_path / "names.txt"
    listed.write_text("c.png (41,50,3)\na.png\n")
    assert stems(build_dataset(options(roots[0], meta_info_file=str(listed)))) == list("ca")
    both = options(roots, meta_info_file=[str(listed), None])
    assert stems(build_dataset(both)) == list("cade")


def test_home_folder(roots, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(roots[0]).parent))
    assert len(build_dataset(options(["~/first", "~/second"]))) == 5


def test_small_images_are_named(roots):
    dataset = build_dataset(options(roots, gt_size=42))
    with pytest.raises(UserError, match=r"a\.png: .*gt_size 42; found 50x41"):
        dataset[0]
    dataset = build_dataset(options(roots, "val", scale=42))
    with pytest.raises(UserError, match=r"a\.png: .*scale 42; found 50x41"):
        dataset[0]


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_unreadable_images_are_named(roots, content):
    (Path(roots[0]) / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: expected an image"):
        build_dataset(options(roots))[0]


def test_an_empty_root_is_named(tmp_path):
    with pytest.raises(UserError, match="expected images; found none"):
        build_dataset(options(str(tmp_path)))


@pytest.mark.parametrize("workers", [0, 2])
def test_one_seed_gives_the_same_batches(roots, workers):
    def batches() -> list[torch.Tensor]:
        opt = options(roots, batch_size_per_gpu=2, num_worker_per_gpu=workers)
        random.seed(5)
        torch.manual_seed(5)
        loader = build_dataloader(build_dataset(opt), opt, num_gpu=0, seed=5)
        return [batch["gt"] for batch in loader]

    first, second = batches(), batches()
    assert len(first) == 2 and first[0].shape == (2, 3, 24, 24)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
