"""Preparing data: what is made, what an earlier run has left, what is wrong."""

import hashlib
import json
import os
import resource
import shutil
import signal
import time
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import yaml
from basicsr.data.paired_image_dataset import PairedImageDataset
from PIL import Image

from esc_arch.data.check import verify
from esc_arch.data.image_sets import read_meta_info
from esc_arch.data.lmdb_writer import folder_entries, write_lmdb
from esc_arch.data.prepare import prepare, run, settings, summary
from esc_arch.data.prepare.records import WORK, Journal, read_state
from esc_arch.errors import UserError
from esc_arch.files import locked
from esc_arch.imaging.imresize import imresize
from tests.run_python import output_of, start_python

PHOTOS = Path(__file__).parents[3] / "shared" / "data"
SUFFIXES = {8: (".png", ".jpg", ".bmp", ".tif", ".webp"), 16: (".png", ".tif")}


def smooth(height: int, width: int, channels: int = 3, bits: int = 8, seed: int = 0) -> np.ndarray:
    """An image whose neighbouring pixels are alike."""
    coarse = np.random.default_rng(seed).random((height // 8 + 2, width // 8 + 2, channels))
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    return (image * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image


def shrunk(image: np.ndarray, scale: int) -> np.ndarray:
    height, width = (side // scale * scale for side in image.shape[:2])
    return imresize(image[:height, :width], 1 / scale)


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def src(tmp_path):
    """Six images in two folders; sides between multiples of 12."""
    folder = tmp_path / "src"
    (folder / "more").mkdir(parents=True)
    for index in range(6):
        image = smooth(70 + 5 * index, 95 - 4 * index, seed=index)
        cv2.imwrite(str(folder / ("more" if index % 2 else "") / f"im{index}.png"), image)
    return folder


def test_every_format_becomes_hr_and_lr(tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    for bits, suffixes in SUFFIXES.items():
        for suffix in suffixes:
            for channels in (1, 3, 4):
                if channels == 4 and suffix in (".jpg", ".bmp"):
                    continue
                path = folder / f"{suffix[1:]}_{channels}_{bits}{suffix}"
                assert cv2.imwrite(str(path), smooth(41, 50, channels, bits))
    done = prepare(folder, tmp_path / "out", settings([2, 3, 4]))
    sources = sorted(folder.iterdir())
    assert (done.images, done.new, done.skipped) == (len(sources), len(sources), [])
    for path in sources:
        hr = read(tmp_path / "out" / "HR" / f"{path.stem}.png")
        expected = read(path)
        if path.suffix == ".webp" and expected.ndim == 2:
            expected = cv2.cvtColor(expected, cv2.COLOR_GRAY2BGR)
        np.testing.assert_array_equal(hr, expected)
        assert hr.dtype == (np.uint16 if "_16" in path.stem else np.uint8)
        if path.suffix == ".png":
            assert (tmp_path / "out" / "HR" / path.name).read_bytes() == path.read_bytes()
        for scale in (2, 3, 4):
            lr = read(tmp_path / "out" / f"LR_bicubic/X{scale}/{path.stem}x{scale}.png")
            np.testing.assert_array_equal(lr, shrunk(hr, scale))
    made = {"HR", "HR_X2", "HR_X3", "HR_X4", "LR_bicubic", "prepared.jsonl"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == made


def test_odd_files_become_the_pixels_that_they_mean(tmp_path):
    """Planes apart, white as zero, inks: what a TIFF reader or a press would show."""
    folder = tmp_path / "src"
    folder.mkdir()
    image, grey = smooth(40, 48, 3, 16), smooth(40, 48, 1, 16)
    planes = np.moveaxis(image[..., ::-1], -1, 0)
    tifffile.imwrite(folder / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(folder / "white.tif", 65535 - grey, photometric="miniswhite")
    for name in ("ink.jpg", "ink2.jpg"):
        ink = Image.new("CMYK", (48, 40), (255, 0, 0, 0))
        ink.save(folder / name, quality=100)
    done = prepare(folder, tmp_path / "out", settings([2]))
    assert (done.images, done.skipped) == (4, [])
    np.testing.assert_array_equal(read(tmp_path / "out/HR/planes.png"), image)
    np.testing.assert_array_equal(read(tmp_path / "out/HR/white.png"), grey)
    assert np.abs(read(tmp_path / "out/HR/ink.png").astype(int) - (255, 255, 0)).max() <= 2
    ((note, count),) = done.noted.items()
    assert "CMYK" in note and count == 2
    assert note in summary(done, tmp_path / "out", settings([2]))


def test_hr_alone_of_one_file(tmp_path, src):
    done = prepare(src / "im0.png", tmp_path / "out", settings([]))
    assert done.images == 1
    assert sorted(tree(tmp_path / "out")) == ["HR/im0.png", "prepared.jsonl"]


def dataset(dest: Path, chosen, scale: int, done) -> PairedImageDataset:
    """What the printed lines say, as BasicSR gets them."""
    text = summary(done, dest, chosen).split(f"# scale: {scale}\n")[1].split("\n\n")[0]
    return PairedImageDataset(yaml.safe_load(text) | {"scale": scale, "phase": "val"})


@pytest.mark.parametrize("lmdb", [False, True])
@pytest.mark.parametrize("sub_image", [None, 48])
def test_basicsr_reads_aligned_pairs(tmp_path, src, sub_image, lmdb):
    shutil.copy(src / "im0.png", src / "Ünïcode na.me.png")
    chosen = settings([2, 3], sub_image, 24 if sub_image else None, lmdb=lmdb)
    done = prepare(src, tmp_path / "out", chosen)
    wholes = {p.stem: read(p) for p in src.rglob("*.png")}
    for scale in (2, 3):
        pairs = dataset(tmp_path / "out", chosen, scale, done)
        assert len(pairs) == (done.sub_images if sub_image else done.images) > 6
        for pair in pairs:
            gt, lq = (
                np.rint(pair[k].numpy().transpose(1, 2, 0)[..., ::-1] * 255).astype(np.uint8)
                for k in ("gt", "lq")
            )
            name = Path(pair["gt_path"]).name.removesuffix(".png")
            if sub_image:
                name = name[: name.rindex("_s")]
                assert gt.shape == (48, 48, 3) and lq.shape == (48 // scale, 48 // scale, 3)
            whole = wholes.get(name, wholes["im0"])
            top, left = place_of(gt, whole)
            assert top % scale == left % scale == 0
            small = shrunk(whole, scale)[top // scale :, left // scale :]
            np.testing.assert_array_equal(lq, small[: lq.shape[0], : lq.shape[1]])


def place_of(part: np.ndarray, whole: np.ndarray) -> tuple[int, int]:
    """Where an image is in another, by comparing it at each place."""
    h, w = part.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(whole, (h, w, 3))[:, :, 0]
    found = np.argwhere((windows == part).all(axis=(2, 3, 4)))
    assert len(found) == 1
    return tuple(found[0].tolist())


def test_bad_images_are_named_and_the_rest_is_made(tmp_path, src):
    whole = (src / "im0.png").read_bytes()
    (src / "cut.png").write_bytes(whole[: len(whole) // 2])
    cv2.imwrite(str(src / "cut2.jpg"), smooth(64, 64))
    jpeg = (src / "cut2.jpg").read_bytes()
    (src / "cut2.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (src / "empty.png").touch()
    (src / "text.bmp").write_text("no image")
    (src / "gone.png").symlink_to(tmp_path / "nowhere.png")
    cv2.imwrite(str(src / "small.png"), smooth(3, 40))
    bad = ["cut.png", "cut2.jpg", "empty.png", "text.bmp", "gone.png", "small.png"]
    done = prepare(src, tmp_path / "out", settings([2, 4], lmdb=True))
    assert (done.images, len(done.skipped)) == (6, 6)
    for name in bad:
        assert sum(str(src / name) in reason for reason in done.skipped) == 1
    for name in bad:
        (src / name).unlink()
    prepare(src, tmp_path / "good", settings([2, 4], lmdb=True))
    assert tree(tmp_path / "out") == tree(tmp_path / "good")


def test_strict_stops_at_the_first_bad_image_and_keeps_the_rest(tmp_path, src):
    (src / "im9.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"im9.*empty"):
        prepare(src, tmp_path / "out", settings([2]), jobs=1, strict=True)
    assert len(list((tmp_path / "out" / "HR").iterdir())) == 6
    (src / "im9.png").unlink()
    assert prepare(src, tmp_path / "out", settings([2])).new == 0


def test_a_second_run_writes_nothing(tmp_path, src):
    chosen = settings([2, 3], 48, 24, lmdb=True)
    prepare(src, tmp_path / "out", chosen)
    before = {p: p.stat().st_ino for p in (tmp_path / "out").rglob("*")}
    done = prepare(src, tmp_path / "out", chosen)
    assert (done.images, done.new) == (6, 0)
    assert {p: p.stat().st_ino for p in (tmp_path / "out").rglob("*")} == before


def test_what_is_wrong_is_made_again_and_nothing_else(tmp_path, src):
    chosen = settings([2], 48, 24, lmdb=True)
    out = tmp_path / "out"
    prepare(src, out, chosen)
    expected = tree(out)
    (out / "HR" / "im0.png").unlink()
    (out / "LR_bicubic" / "X2_sub" / "im1_s001.png").write_bytes(b"half")
    untouched = (out / "HR_sub" / "im1_s001.png").stat().st_ino
    assert prepare(src, out, chosen).new == 2
    assert tree(out) == expected
    assert (out / "HR_sub" / "im1_s001.png").stat().st_ino == untouched
    # A source that is smaller now leaves no sub-image of its old self.
    cv2.imwrite(str(src / "im2.png"), smooth(48, 48))
    assert prepare(src, out, chosen).new == 1
    prepare(src, tmp_path / "fresh", chosen)
    assert tree(out) == tree(tmp_path / "fresh")
    assert not (out / "HR_sub" / "im2_s002.png").exists()
    # One that is no image any more leaves nothing.
    (src / "im2.png").write_bytes(b"")
    assert len(prepare(src, out, chosen).skipped) == 1
    assert not list(out.rglob("im2*"))


def test_scales_sub_images_and_lmdbs_may_be_added(tmp_path, src):
    out = tmp_path / "out"
    for chosen in (
        settings([2]),
        settings([2, 4]),
        settings([2, 4], 48, 24),
        settings([2, 4], 48, 24, lmdb=True),
    ):
        prepare(src, out, chosen)
    prepare(src, tmp_path / "fresh", chosen)
    assert tree(out) == tree(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (settings([2], 48, 24, lmdb=True), "the scales 4 too"),
        (settings([2, 4], 48, 24), "--lmdb"),
        (settings([2, 4], 48, 48, lmdb=True), "--sub-image 48 --step 24 --thresh 0"),
        (settings([2, 4], lmdb=True), "--sub-image 48"),
        # Windows move with the scales.
        (settings([2, 3, 4], 48, 24, lmdb=True), "multiples of 4"),
    ],
)
def test_other_settings_than_before(tmp_path, src, other, says):
    out = tmp_path / "out"
    prepare(src, out, settings([2, 4], 48, 24, lmdb=True))
    before = tree(out)
    with pytest.raises(UserError, match=says):
        prepare(src, out, other)
    assert tree(out) == before


def test_files_of_others_are_not_mixed_in(tmp_path, src):
    out = tmp_path / "out"
    (out / "HR").mkdir(parents=True)
    (out / "HR" / "im0.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"out/HR.*im0\.png"):
        prepare(src, out, settings([2]))
    assert (out / "HR" / "im0.png").read_bytes() == b"mine"
    (out / "HR" / "im0.png").unlink()
    prepare(src, out, settings([2]))
    (src / "im0.png").unlink()
    with pytest.raises(UserError, match=r"out: .* 3 of others: HR/im0\.png, LR"):
        prepare(src, out, settings([2]))
    for name in ("HR/im0.png", "HR_X2/im0.png", "LR_bicubic/X2/im0x2.png"):
        (out / name).unlink()
    assert prepare(src, out, settings([2])).images == 5
    prepare(src, tmp_path / "fresh", settings([2]))
    assert tree(out) == tree(tmp_path / "fresh")


def paired(dest: Path, chosen, scale: int, done) -> list[dict]:
    """The pairs of a training, crops and all."""
    pairs = dataset(dest, chosen, scale, done)
    pairs.opt |= {"phase": "train", "gt_size": 24, "use_hflip": False, "use_rot": False}
    return [pairs[index] for index in range(len(pairs))]


@pytest.mark.parametrize("lmdb", [False, True])
@pytest.mark.parametrize("scales", [(2,), (3,), (2, 3, 4)])
def test_what_is_made_of_odd_sides_trains(tmp_path, scales, lmdb):
    folder = tmp_path / "photos"
    folder.mkdir()
    sides = [(36, 48), (37, 48), (36, 49), (35, 47)]
    for height, width in sides:
        cv2.imwrite(str(folder / f"{height}_{width}.png"), smooth(height, width))
    chosen = settings(scales, lmdb=lmdb)
    for _ in range(2):
        done = prepare(folder, tmp_path / "out", chosen)
        for scale in scales:
            assert done.cropped[scale] == sum(h % scale + w % scale > 0 for h, w in sides)
            assert len(paired(tmp_path / "out", chosen, scale, done)) == len(sides)
            for height, width in sides:
                name = f"{height}_{width}.png"
                original = read(tmp_path / "out" / "HR" / name)
                assert original.shape == (height, width, 3)
                np.testing.assert_array_equal(
                    read(tmp_path / "out" / f"HR_X{scale}" / name),
                    original[: height // scale * scale, : width // scale * scale],
                )
    assert f"HR_X{scales[0]}" in summary(done, tmp_path / "out", chosen)
    assert not verify(tmp_path / "out", 1).problems
    for path in folder.iterdir():
        if path.name != "36_48.png":
            cv2.imwrite(str(path), smooth(36, 48, seed=1))
    done = prepare(folder, tmp_path / "out", chosen)
    assert not done.cropped and not list((tmp_path / "out").glob("HR_X?"))
    assert len(paired(tmp_path / "out", chosen, scales[-1], done)) == len(sides)


def test_originals_beside_crops_follow_their_sources(tmp_path, src):
    """Those that need no crop are links to HR, or copies."""
    cv2.imwrite(str(src / "even.png"), smooth(40, 40))
    prepare(src, tmp_path / "out", settings([2]))
    cv2.imwrite(str(src / "even.png"), smooth(40, 40, seed=9))
    prepare(src, tmp_path / "out", settings([2]))
    there = read(tmp_path / "out" / "HR_X2" / "even.png")
    np.testing.assert_array_equal(there, smooth(40, 40, seed=9))


NAMES = [
    "a/0001.png", "b/0001.png", "b/c/0001.png", "A/x.png", "a/X.png", "a_b/d.png", "a/b_d.png",
    "b/d.png", "山.png", "川.png", "1, 2 (3,4,5) 1.png", "a.b.png", "a b.png", "a%20b.png",
    "café.png", "cafe\u0301.png", "n" * 250 + ".png", "山" * 80 + "1.png", "山" * 80 + "2.png",
]  # fmt: skip


def test_every_name_has_one_key(tmp_path):
    folder = tmp_path / "src"
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        value = 40 + number  # by which the pairs know each other
        cv2.imwrite(str(folder / "one.png"), np.full((24, 24, 3), value, np.uint8))
        (folder / "one.png").rename(folder / name)
    chosen = settings([2], lmdb=True)
    done = prepare(folder, tmp_path / "out", chosen)
    assert (done.images, done.skipped) == (len(NAMES), [])
    pairs = paired(tmp_path / "out", chosen, 2, done)
    means = [tuple(round(float(pair[k].mean()) * 255) for k in ("gt", "lq")) for pair in pairs]
    assert sorted(means) == [(40 + n, 40 + n) for n in range(len(NAMES))]
    names = [path.stem for path in (tmp_path / "out" / "HR").iterdir()]
    # As file systems do that take capitals, or ways to write an accent, for the same.
    assert len({unicodedata.normalize("NFD", name).lower() for name in names}) == len(NAMES)
    assert {"a_0001", "b_0001", "b_c_0001", "山", "a b"} <= set(names)
    # Keys of `data lmdb` are the same ones.
    for path in (tmp_path / "out" / "HR", tmp_path / "out" / "LR_bicubic" / "X2"):
        write_lmdb(tmp_path / "again.lmdb", folder_entries(path)[0])
        again = read_meta_info(tmp_path / "again.lmdb" / "meta_info.txt")
        packed = read_meta_info(path.with_name(f"{path.name}.lmdb") / "meta_info.txt")
        assert [line.key for line in again] == [line.key for line in packed]


def test_names_that_differ_in_the_extension_alone_are_all_told(tmp_path, src):
    shutil.copy(src / "im0.png", src / "im0.jpg")
    shutil.copy(src / "im0.png", src / "more" / "im1.bmp")
    with pytest.raises(UserError, match=r"2 with more.*im0\.jpg.*im1\.bmp"):
        prepare(src, tmp_path / "out", settings([2]))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"1 with more.*im0\.jpg"):
        folder_entries(src)


def test_wrong_arguments(tmp_path, src):
    shutil.copytree(src, tmp_path / "set" / "HR")
    hr = tmp_path / "set" / "HR"
    for source, dest in ((src, src), (src, src / "out"), (hr, tmp_path / "set")):
        with pytest.raises(UserError, match="--dest: expected a folder whose results are not"):
            prepare(source, dest, settings([2]))
    assert prepare(src, tmp_path, settings([2])).images  # around the sources
    with pytest.raises(UserError, match="no folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out", settings([2]))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        prepare(src, tmp_path / "file", settings([2]))
    with pytest.raises(UserError, match=r"--scales.*found 1"):
        settings([1, 2])
    with pytest.raises(UserError, match=r"--step.*--sub-image"):
        settings([2], step=24)


def test_one_run_at_a_time(tmp_path, src):
    out = tmp_path / "out"
    with locked(out / ".prepare.lock"):
        with pytest.raises(UserError, match=rf"no other run .* \(process {os.getpid()} on "):
            prepare(src, out, settings([2]))
        assert not (out / "HR").exists()
    assert prepare(src, out, settings([2])).images == 6


def test_a_disk_that_takes_no_more(tmp_path, src):
    cv2.imwrite(str(src / "large.png"), np.random.default_rng(0).integers(0, 256, (300, 300, 3)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"HR/large\.png: could not write it: .*run again"):
            prepare(src, tmp_path / "out", settings([2]), jobs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    names = {p.name for p in (tmp_path / "out").rglob("*.png")}
    assert not {name for name in names if not name.startswith("im")}
    assert prepare(src, tmp_path / "out", settings([2])).new == 1
    prepare(src, tmp_path / "fresh", settings([2]))
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_a_killed_process_is_told_with_its_images(tmp_path, src, monkeypatch):
    def decode_or_die(content, path):
        if path.stem == "im3":
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(content, path)

    decode = run.decode
    with monkeypatch.context() as patch:
        patch.setattr(run, "decode", decode_or_die)
        with pytest.raises(UserError, match=r"found one killed.*im3\.png.*Run again"):
            prepare(src, tmp_path / "out", settings([2]), jobs=1)
    prepare(src, tmp_path / "out", settings([2]))
    prepare(src, tmp_path / "fresh", settings([2]))
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def wait_until(happened) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_images_behind_a_slow_one_are_recorded(tmp_path, monkeypatch):
    folder, gate = tmp_path / "src", tmp_path / "gate"
    folder.mkdir()
    for index in range(20):
        cv2.imwrite(str(folder / f"im{index:02d}.png"), smooth(20, 20, seed=index))
    added = []

    class Observed(Journal):
        def add(self, line):
            super().add(line)
            added.append(Path(json.loads(line)["source"]).stem)
            if len(added) == 19:
                gate.touch()

    def decode_slowly(content, path):
        if path.stem == "im00":
            wait_until(gate.exists)
        return decode(content, path)

    decode = run.decode
    monkeypatch.setattr(run, "decode", decode_slowly)
    monkeypatch.setattr(run, "Journal", Observed)
    assert prepare(folder, tmp_path / "out", settings([2]), jobs=2).images == 20
    assert added[-1] == "im00"


@pytest.mark.parametrize("end", ["killed", "strict", "Ctrl-C"])
def test_whatever_ends_a_run_the_finished_images_are_recorded(tmp_path, src, monkeypatch, end):
    """The first one is in work until the others are done, and then ends all."""
    out, begun = tmp_path / "out", tmp_path / "begun"
    interrupted = []

    def decode_in_order(content, path):
        if path.stem == "im5":
            begun.touch()  # so the result of each one before has left the process
        if path.stem == "im0" and end != "Ctrl-C":
            wait_until(begun.exists)
            if end == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise UserError("bad")
        return decode(content, path)

    class Interrupted(Journal):
        def add(self, line):
            if end == "Ctrl-C" and not interrupted:
                interrupted.append(line)
                raise KeyboardInterrupt
            super().add(line)

    decode = run.decode
    with monkeypatch.context() as patch:
        patch.setattr(run, "decode", decode_in_order)
        patch.setattr(run, "Journal", Interrupted)
        with pytest.raises(KeyboardInterrupt if end == "Ctrl-C" else UserError):
            prepare(src, out, settings([2]), jobs=2, strict=True)
    recorded = set(read_state(out).lines)
    if end == "Ctrl-C":
        complete = {path.stem[:-2] for path in (out / "LR_bicubic" / "X2").iterdir()}
        assert recorded == complete and Path(json.loads(interrupted[0])["source"]).stem in recorded
    else:
        assert recorded >= {"im1", "im2", "im3", "im4"}
    done = prepare(src, out, settings([2]))
    assert (done.images, done.new) == (6, 6 - len(recorded))


@pytest.mark.parametrize("tail", [b'{"source":"im5.png","size":12', b"\x00" * 50, b"[]\n", b"7\n"])
def test_a_journal_with_a_broken_end(tmp_path, src, tail):
    out = tmp_path / "out"
    prepare(src, out, settings([2]))
    expected = tree(out)
    lines = (out / "prepared.jsonl").read_bytes().splitlines(keepends=True)
    (out / "prepared.jsonl").unlink()
    (out / WORK).mkdir()
    (out / WORK / "journal.jsonl").write_bytes(b"".join(lines[:4]) + tail)
    (out / WORK / "123.png").write_bytes(b"half")
    assert prepare(src, out, settings([2])).new == 3
    assert tree(out) == expected


def test_the_record_tells_sources_and_sizes(tmp_path, src):
    prepare(src, tmp_path / "out", settings([2, 4]))
    header, *images = map(json.loads, (tmp_path / "out" / "prepared.jsonl").open())
    assert header["scales"] == [2, 4]
    assert [image["source"] for image in images] == [
        ("more/" if index % 2 else "") + f"im{index}.png" for index in range(6)
    ]
    for image in images:
        assert image["size"] == (src / image["source"]).stat().st_size
        path = tmp_path / "out" / "LR_bicubic" / "X4" / f"{Path(image['source']).stem}x4.png"
        assert image["outputs"]["LR_bicubic/X4"] == [path.stat().st_size]


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no ../shared/data beside the repository")
def test_set5_as_published(tmp_path):
    prepare(PHOTOS / "Set5" / "HR", tmp_path / "Set5", settings([2, 3, 4]))
    digests = dict(
        line.split("\t")
        for line in (PHOTOS / "LR_PIXELS.tsv").read_text().splitlines()
        if line.startswith("Set5/")
    )
    assert len(digests) == 15
    for path, digest in digests.items():
        image = read(tmp_path / path)
        head = "{}x{}x{}:".format(*(*image.shape, 1)[:3]).encode()
        assert hashlib.md5(head + image.tobytes()).hexdigest() == digest
    for path in (PHOTOS / "Set5" / "HR").iterdir():
        assert (tmp_path / "Set5" / "HR" / path.name).read_bytes() == path.read_bytes()


def test_a_caller_whose_opencv_has_threads(tmp_path, src):
    """Their children waited for threads that they did not have."""
    code = """
        import sys
        import cv2, numpy as np
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.float32), (31, 31), 5)
        before = cv2.getNumThreads()
        from esc_arch.data.prepare import prepare, settings
        from esc_arch.data.check import verify
        print(prepare(sys.argv[1], sys.argv[2], settings([2])).images)
        print(len(verify(sys.argv[2], 2).problems), cv2.getNumThreads() == before)
    """
    said = output_of(start_python(code, str(src), str(tmp_path / "out")))
    assert said.splitlines()[-2:] == ["6", "0 True"], said
