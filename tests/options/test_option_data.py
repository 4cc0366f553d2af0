"""Checks of the data that an option file names, each on real images."""

import argparse
import shutil

import cv2
import numpy as np
import pytest
import yaml
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from option_cases import DOWNSAMPLE, SINGLE, mutated
from PIL import Image
from small_images import SIZES, write_images

from esc_arch import options
from esc_arch.data import check
from esc_arch.errors import UserError

TRAIN_RUN = options.Run(is_train=True)


def messages(opt, run=TRAIN_RUN):
    with pytest.raises(UserError) as caught:
        options.check_files(opt, "tiny.yml", run)
    text = str(caught.value)
    assert text.startswith("tiny.yml: ")
    return text


def contains(text, *fragments):
    assert all(fragment in text for fragment in fragments), text


def only_train(opt):
    del opt["datasets"]["val"]
    return opt


def make_lmdb(kind, path, files_by_key):
    """As BasicSR's create_lmdb.py; its estimate of the map is too small for tiny images."""
    files, keys = list(files_by_key.values()), list(files_by_key)
    make_lmdb_from_imgs(f"data/{kind}", path, files, keys, map_size=2**20)


@pytest.fixture
def lmdb_opt(workplace, train_opt):
    """Training data in data/HR.lmdb and data/LR.lmdb, with the keys a, b and c."""
    for kind, tail in (("HR", ""), ("LR", "x2")):
        make_lmdb(kind, f"data/{kind}.lmdb", {n: f"{n}{tail}.png" for n in SIZES})
    train = train_opt["datasets"]["train"]
    train |= {"io_backend": {"type": "lmdb"}, "dataroot_gt": "data/HR.lmdb"}
    train |= {"dataroot_lq": "data/LR.lmdb"}
    return train_opt


def test_right_data_passes(workplace, train_opt, test_opt):
    (workplace / "data/HR/.hidden").write_text("ignored by BasicSR")
    (workplace / "data/HR/folder").mkdir()
    options.check_files(train_opt, "tiny.yml", TRAIN_RUN)
    options.check_files(test_opt, "tiny.yml", options.Run(is_train=False))


def test_right_lmdb_passes(lmdb_opt):
    options.check_files(lmdb_opt, "tiny.yml", TRAIN_RUN)


def test_missing_folder(workplace, train_opt):
    train_opt["datasets"]["train"]["dataroot_gt"] = "dta/HR"
    contains(messages(train_opt), "datasets.train.dataroot_gt:", "no folder dta/HR", "dta does not")


def test_file_instead_of_folder(workplace, train_opt):
    train_opt["datasets"]["train"]["dataroot_gt"] = "data/HR/a.png"
    contains(messages(train_opt), "datasets.train.dataroot_gt:", "which is a file")


def test_lmdb_read_as_a_folder(lmdb_opt):
    lmdb_opt["datasets"]["train"]["io_backend"]["type"] = "disk"
    contains(messages(lmdb_opt), "the LMDB data/HR.lmdb", "`type: lmdb`")


def test_home_folder_is_expanded(workplace, train_opt, monkeypatch):
    monkeypatch.setenv("HOME", str(workplace))
    train_opt["datasets"]["train"] |= {"dataroot_gt": "~/data/HR", "dataroot_lq": "~/data/LR"}
    options.check_files(train_opt, "tiny.yml", TRAIN_RUN)


def test_empty_folder(workplace, train_opt):
    (workplace / "data/none").mkdir()
    train_opt["datasets"]["train"]["dataroot_gt"] = "data/none"
    contains(messages(train_opt), "datasets.train.dataroot_gt:", "image files", "none in data/none")


def test_other_files_among_images(workplace, train_opt):
    (workplace / "data/HR/Thumbs.db").write_bytes(b"x")
    (workplace / "data/HR/README").write_bytes(b"x")
    text = messages(only_train(train_opt))
    contains(text, "datasets.train.dataroot_gt:", "2 other files", "README, Thumbs.db")


def test_images_without_a_pair(workplace, train_opt):
    (workplace / "data/LR/ax2.png").rename(workplace / "data/LR/dx2.png")
    (workplace / "data/LR/bx2.png").rename(workplace / "data/LR/bx2.jpg")
    text = messages(only_train(train_opt))
    contains(text, "datasets.train.dataroot_lq:", "2 HR images without one: a.png (LR ax2.png)")
    contains(text, "datasets.train.dataroot_gt:", "2 LR images without one: bx2.jpg, dx2.png")
    contains(text, "filename_tmpl '{}x2'")


def test_sizes_of_another_scale(workplace, train_opt):
    write_images(workplace / "data/LR", {"ax2.png": (6, 8)})
    text = messages(only_train(train_opt))
    contains(text, "datasets.train.dataroot_lq:", "2 times smaller")
    contains(text, "1 that are not: a.png HR 32x24, LR 8x6 instead of 16x12")


def test_remainder_is_cropped_in_validation_only(workplace, train_opt, test_opt):
    write_images(workplace / "data/HR", {"a.png": (25, 33)})
    options.check_files(test_opt, "tiny.yml", options.Run(is_train=False))
    contains(messages(train_opt), "datasets.train.dataroot_lq:", "HR sides that are multiples")
    assert "datasets.val" not in messages(train_opt)
    write_images(workplace / "data/HR", {"a.png": (26, 34)})
    text = messages(test_opt, options.Run(is_train=False))
    contains(text, "datasets.test_1.dataroot_lq:", "HR 34x26, LR 16x12 instead of 17x13")
    write_images(workplace / "data/HR", {"a.png": (23, 32)})
    contains(messages(test_opt, options.Run(is_train=False)), "HR 32x23")


def test_patch_larger_than_an_image(workplace, train_opt):
    train_opt["datasets"]["train"]["gt_size"] = 20
    text = messages(only_train(train_opt))
    contains(text, "datasets.train.gt_size:", "20, and 1 smaller images: c.png (18x16)")


def test_batch_larger_than_the_data(workplace, train_opt):
    train_opt["datasets"]["train"]["batch_size_per_gpu"] = 64
    text = messages(only_train(train_opt))
    contains(text, "datasets.train.batch_size_per_gpu:", "3 images", "`dataset_enlarge_ratio: 22`")


def test_corrupt_images(workplace, train_opt):
    (workplace / "data/HR/a.png").write_bytes(b"not an image at all")
    (workplace / "data/LR/bx2.png").write_bytes(b"")
    text = messages(only_train(train_opt))
    contains(text, "datasets.train.dataroot_gt:", "HR/a.png: a file that does not read as an image")
    contains(text, "datasets.train.dataroot_lq:", "LR/bx2.png: an empty file")


def test_turned_jpeg_has_the_size_that_opencv_reads(workplace, train_opt):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (32, 24)).save(workplace / "data/HR/d.jpg", exif=exif)
    write_images(workplace / "data/LR", {"dx2.jpg": (16, 12)})
    assert cv2.imread(str(workplace / "data/HR/d.jpg")).shape == (32, 24, 3)
    options.check_files(train_opt, "tiny.yml", TRAIN_RUN)


def test_one_rule_for_training_and_validation(workplace, train_opt):
    """Inks are taken in both, and floating point, whose white is not known, in none."""
    for folder, name, side in (("HR", "d.jpg", (32, 24)), ("LR", "dx2.jpg", (16, 12))):
        Image.new("CMYK", side, (90, 0, 0, 0)).save(workplace / "data" / folder / name)
    val = {**train_opt["datasets"]["val"], "dataroot_gt": "data/HR", "dataroot_lq": "data/LR"}
    train_opt["datasets"]["val"] = val
    options.check_files(train_opt, "tiny.yml", TRAIN_RUN)
    for folder, name, side in (("HR", "e.tif", (24, 32)), ("LR", "ex2.tif", (12, 16))):
        image = Image.fromarray(np.zeros(side, np.float32))
        image.save(workplace / "data" / folder / name)
    text = messages(train_opt)
    for part in ("train", "val"):
        contains(text, f"datasets.{part}.dataroot_gt:", "HR/e.tif: floating point")


def test_sizes_of_large_data_are_sampled(workplace, train_opt, monkeypatch):
    monkeypatch.setattr(check, "SIZE_SAMPLE", 2)
    (workplace / "data/HR/b.png").write_bytes(b"")  # second of three: not among a and c
    options.check_files(train_opt, "tiny.yml", TRAIN_RUN)


def test_meta_info_file(workplace, train_opt):
    train = only_train(train_opt)["datasets"]["train"]
    train["meta_info_file"] = "meta.txt"
    contains(messages(train_opt), "datasets.train.meta_info_file:", "no file meta.txt")
    meta = workplace / "meta.txt"
    meta.write_text("a.png (24,32,3)\nb.png (20,20,3)\n")
    options.check_files(train_opt, "tiny.yml", TRAIN_RUN)
    meta.write_text("a.png\nd.png\n")
    text = messages(train_opt)
    contains(text, "datasets.train.dataroot_gt:", "1 missing in data/HR: d.png")
    contains(text, "datasets.train.dataroot_lq:", "1 missing in data/LR: dx2.png")
    meta.write_text("a.png\n\n")
    contains(messages(train_opt), "blank lines: 2")
    meta.write_text("")
    contains(messages(train_opt), "an empty file meta.txt")


def test_single_images(workplace, test_opt):
    run = options.Run(is_train=False)
    opt = mutated(test_opt, "datasets.test_1", SINGLE)
    options.check_files(opt, "tiny.yml", run)
    (workplace / "data/LR/ax2.png").write_bytes(b"junk")
    contains(messages(opt, run), "datasets.test_1.dataroot_lq:", "ax2.png")
    opt["datasets"]["test_1"]["dataroot_lq"] = "nowhere"
    contains(messages(opt, run), "no folder nowhere")


def test_folders_of_other_datasets(workplace, train_opt):
    train = only_train(train_opt)["datasets"]["train"]
    train |= {"type": "REDSDataset", "dataroot_gt": "nowhere"}
    contains(messages(train_opt), "datasets.train.dataroot_gt:", "no folder nowhere")


def test_lmdb_missing(lmdb_opt):
    lmdb_opt["datasets"]["train"]["dataroot_lq"] = "data/XX.lmdb"
    contains(messages(lmdb_opt), "datasets.train.dataroot_lq:", "no data/XX.lmdb")


@pytest.mark.parametrize("root", ["data/LR", "data/LR.lmdb/"])
def test_lmdb_name(lmdb_opt, root):
    lmdb_opt["datasets"]["train"]["dataroot_lq"] = root
    contains(messages(lmdb_opt), "datasets.train.dataroot_lq:", "ends in .lmdb", "without a slash")


@pytest.mark.parametrize("name", ["data.mdb", "meta_info.txt"])
def test_lmdb_without_a_file(lmdb_opt, workplace, name):
    (workplace / "data/LR.lmdb" / name).unlink()
    contains(messages(lmdb_opt), "datasets.train.dataroot_lq:", f"data/LR.lmdb without {name}")


def test_lmdb_of_other_keys(lmdb_opt, workplace):
    shutil.rmtree(workplace / "data/LR.lmdb")
    make_lmdb("LR", "data/LR.lmdb", {"a": "ax2.png", "bx2": "bx2.png"})
    text = messages(lmdb_opt)
    contains(text, "2 HR images without one: b, c", "1 LR images without one: bx2")


@pytest.mark.parametrize(
    ("lines", "fragments"),
    [
        ("a.x.png (24,32,3) 1\n", ("names with one dot", "a.x.png")),
        ("é.png (24,32,3) 1\n", ("names in ASCII", "é.png")),
        ("a.png (24,32,3) 1\n\n", ("blank lines: 2",)),
        ("", ("an empty file",)),
        ("a.png (24,32,3) 1\nz.png (24,32,3) 1\n", ("1 missing in data/HR.lmdb: z",)),
    ],
)
def test_lmdb_meta_info(lmdb_opt, workplace, lines, fragments):
    (workplace / "data/HR.lmdb/meta_info.txt").write_text(lines)
    contains(messages(lmdb_opt), "datasets.train.dataroot_gt:", *fragments)


def test_lmdb_cut_off(lmdb_opt, workplace):
    data = workplace / "data/HR.lmdb/data.mdb"
    whole = data.read_bytes()
    data.write_bytes(whole[:-4096])
    contains(messages(lmdb_opt), "datasets.train.dataroot_gt:", "cut off")
    data.write_bytes(b"junk" * 4096)
    contains(messages(lmdb_opt), "datasets.train.dataroot_gt:", "data.mdb")


def test_lmdb_sizes(lmdb_opt, workplace):
    lmdb_opt["datasets"]["train"]["gt_size"] = 20
    contains(messages(lmdb_opt), "datasets.train.gt_size:", "c (18x16)")
    shutil.rmtree(workplace / "data/LR.lmdb")
    make_lmdb("HR", "data/LR.lmdb", {n: f"{n}.png" for n in SIZES})
    contains(messages(lmdb_opt), "3 that are not: a HR 32x24, LR 32x24 instead of 16x12")


def test_one_lmdb_for_both(lmdb_opt):
    lmdb_opt["datasets"]["train"]["dataroot_lq"] = "data/HR.lmdb"
    contains(messages(lmdb_opt), "datasets.train.dataroot_lq:", "the LMDB of LR images")


def test_what_passes_is_read_by_basicsr(lmdb_opt, workplace):
    """The checks accept what BasicSR's own dataset then reads."""
    from basicsr.data import build_dataset

    options.check_files(lmdb_opt, "tiny.yml", TRAIN_RUN)
    for phase in ("train", "val"):
        section = lmdb_opt["datasets"][phase] | {"phase": phase, "scale": 2}
        dataset = build_dataset(section)
        shapes = [np.shape(dataset[index]["lq"]) for index in range(len(dataset))]
        assert len(shapes) == len(SIZES)


@pytest.fixture
def downsample_opt(workplace, train_opt):
    """Training data in data/HR and data/more, and no LR images."""
    write_images(workplace / "data/more", {"d.png": (30, 17)})
    train_opt["datasets"] = {"train": dict(DOWNSAMPLE)}
    return train_opt


def test_right_hr_images_pass(downsample_opt):
    options.check_files(downsample_opt, "tiny.yml", TRAIN_RUN)


@pytest.mark.parametrize("roots", ["data/nore", ["data/HR", "data/nore"]])
def test_each_root_of_hr_images_has_to_exist(downsample_opt, roots):
    downsample_opt["datasets"]["train"]["dataroot_gt"] = roots
    contains(messages(downsample_opt), "datasets.train.dataroot_gt:", "no folder data/nore")


def test_patch_larger_than_an_hr_image(downsample_opt):
    downsample_opt["datasets"]["train"]["gt_size"] = 18
    text = messages(downsample_opt)
    contains(text, "datasets.train.gt_size:", "18, and 2 smaller images: c.png (18x16), d.png")


def test_batch_larger_than_all_roots_together(downsample_opt):
    downsample_opt["datasets"]["train"]["batch_size_per_gpu"] = 4
    options.check_files(downsample_opt, "tiny.yml", TRAIN_RUN)
    downsample_opt["datasets"]["train"]["batch_size_per_gpu"] = 5
    contains(messages(downsample_opt), "datasets.train.batch_size_per_gpu:", "4 images")


def test_listed_hr_images(downsample_opt, workplace):
    (workplace / "names.txt").write_text("a.png (24,32,3)\nz.png\n")
    downsample_opt["datasets"]["train"]["meta_info_file"] = ["names.txt", None]
    contains(messages(downsample_opt), "datasets.train.dataroot_gt:", "1 missing", "z.png")


def test_hr_images_smaller_than_one_lr_pixel(downsample_opt, workplace):
    write_images(workplace / "data/more", {"e.png": (1, 40)})
    section = downsample_opt["datasets"].pop("train")
    downsample_opt["datasets"]["test"] = section
    text = messages(downsample_opt, options.Run(is_train=False))
    contains(text, "datasets.test.dataroot_gt:", "at least the scale 2", "e.png (40x1)")


def test_hr_images_of_lmdbs(downsample_opt, workplace):
    make_lmdb("HR", "data/HR.lmdb", {n: f"{n}.png" for n in SIZES})
    make_lmdb("more", "data/more.lmdb", {"d": "d.png"})
    section = downsample_opt["datasets"]["train"]
    section |= {"io_backend": {"type": "lmdb"}, "dataroot_gt": ["data/HR.lmdb", "data/more.lmdb"]}
    options.check_files(downsample_opt, "tiny.yml", TRAIN_RUN)
    section["gt_size"] = 18
    contains(messages(downsample_opt), "datasets.train.gt_size:", "2 smaller images: c (18x16)")
    section["gt_size"] = 16
    (workplace / "names.txt").write_text("a.png\nq.png\n")
    section["meta_info_file"] = ["names.txt", None]
    contains(messages(downsample_opt), "datasets.train.dataroot_gt:", "1 missing", "q")


def test_a_list_of_roots_is_completed(downsample_opt, workplace):
    """BasicSR expands ~ in one path; a list of paths goes through as it is."""
    args = argparse.Namespace(
        opt="tiny.yml", force_yml=None, launcher="none", auto_resume=False, debug=False
    )
    (workplace / "tiny.yml").write_text(yaml.safe_dump(downsample_opt))
    opt = options.parse(args, str(workplace), is_train=True)
    assert opt["datasets"]["train"]["dataroot_gt"] == ["data/HR", "data/more"]


def test_images_one_folder_down(workplace, train_opt):
    (workplace / "data/parent").mkdir()
    (workplace / "data/HR").rename(workplace / "data/parent/HR")
    train_opt["datasets"]["train"]["dataroot_gt"] = "data/parent"
    text = messages(only_train(train_opt))
    contains(text, "datasets.train.dataroot_gt:", "none in data/parent", "3 one folder down")
    contains(text, "data/parent/HR")


def test_a_list_of_images_that_begins_with_a_byte_order_mark(workplace, train_opt):
    train = only_train(train_opt)["datasets"]["train"]
    train["meta_info_file"] = "meta.txt"
    (workplace / "meta.txt").write_text("a.png\nb.png\n", encoding="utf-8-sig")
    options.check_files(train_opt, "tiny.yml", TRAIN_RUN)
