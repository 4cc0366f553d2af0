"""Every damage that training would stumble over is found; whole sets pass."""

import os
import shutil

import cv2
import lmdb
import numpy as np
import pytest
from png_cases import pixels, write_png

from esc_arch.data.check import check_folder, check_lmdb, verify
from esc_arch.data.image_sets import pair_up, read_meta_info
from esc_arch.data.lmdb_reader import open_lmdb
from esc_arch.data.lmdb_writer import Entry, folder_entries, write_lmdb
from esc_arch.errors import UserError
from tests.run_python import output_of, start_python

JOBS = 2
LR_X2 = "LR_bicubic/X2"


@pytest.fixture
def prepared(tmp_path):
    """What `basicsr data prepare` makes, with odd sides of whole images."""
    for i in range(4):
        name = f"{i:04d}"
        write_png(tmp_path / f"HR/{name}.png", pixels(i, 21, 31))
        write_png(tmp_path / f"{LR_X2}/{name}x2.png", pixels(50 + i, 10, 15))
        write_png(tmp_path / f"HR_sub/{name}_s001.png", pixels(100 + i, 20, 20))
        write_png(tmp_path / f"{LR_X2}_sub/{name}_s001.png", pixels(150 + i, 10, 10))
    for folder in ("HR", "HR_sub", LR_X2, f"{LR_X2}_sub"):
        pack(tmp_path / folder, tmp_path / f"{folder}.lmdb")
    return tmp_path


def pack(folder, path):
    write_lmdb(path, [Entry(p.stem.removesuffix("x2"), p) for p in folder.iterdir()])


def kinds(report):
    return sorted({problem.kind for problem in report.problems})


def duplicates(report):
    return [group for row in report.sets for group in row.duplicates]


def texts(report):
    return "\n".join(map(str, report.problems))


def test_whole(prepared):
    report = verify(prepared, JOBS)
    assert report.problems == [] and duplicates(report) == []
    assert {row.name: row.images for row in report.sets} == dict.fromkeys(
        (
            *("HR", "HR.lmdb", "HR_sub", "HR_sub.lmdb", LR_X2, f"{LR_X2}.lmdb"),
            *(f"{LR_X2}_sub", f"{LR_X2}_sub.lmdb"),
        ),
        4,
    )
    assert len(report.pairs) == 4
    folder = sum(p.stat().st_size for p in (prepared / "HR").iterdir())
    assert next(row.bytes for row in report.sets if row.name == "HR") == folder


def test_one_set(prepared):
    for path in (prepared / "HR", prepared / "HR.lmdb"):
        report = verify(path, 1)
        assert report.problems == [] and [row.images for row in report.sets] == [4]


@pytest.mark.parametrize("keep", [0, 100, 5000, 9000, -4096])
def test_truncated_lmdb(prepared, keep):
    data = prepared / "HR.lmdb/data.mdb"
    os.truncate(data, keep if keep >= 0 else data.stat().st_size + keep)
    report = verify(prepared, JOBS)
    assert kinds(report) == ["HR.lmdb: damaged"]
    assert str(data) in texts(report)


def test_overwritten_lmdb(prepared):
    """Zeros in every page but the first two, one after another; nothing may die of it."""
    data = prepared / "HR.lmdb/data.mdb"
    whole = data.read_bytes()
    for page in range(2, len(whole) // 4096):
        data.write_bytes(whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :])
        report = verify(prepared / "HR.lmdb", 1)
        assert report.problems, page


def test_lmdb_that_kills_its_reader(prepared, monkeypatch):
    """As a bad sector would: the rest is checked all the same."""
    plain = lmdb.open

    def killing(path, **named):
        if os.fsdecode(path).endswith("HR_sub.lmdb"):
            os.kill(os.getpid(), 9)
        return plain(path, **named)

    monkeypatch.setattr(lmdb, "open", killing)
    report = verify(prepared, JOBS)
    assert kinds(report) == ["HR_sub.lmdb: damaged"]
    assert len(report.sets) == 8


def test_list_of_an_lmdb(prepared):
    meta = prepared / "HR.lmdb/meta_info.txt"
    lines = meta.read_text().splitlines(keepends=True)
    meta.write_text(
        "0000.png (21,32,3) 1\n" + lines[1] + lines[1] + "new.png (21,31,3) 1\n0003.png\n"
    )
    report = verify(prepared, JOBS)
    assert kinds(report) == [
        f"HR.lmdb: {kind}"
        for kind in ("listed twice", "missing", "no shape", "not listed", "other shape")
    ]
    problems = sorted(report.problems, key=lambda problem: problem.kind)
    for problem, name in zip(problems, ("0001", "new", "0003", "0002", "0000"), strict=True):
        assert name in str(problem)
    meta.unlink()
    assert kinds(verify(prepared, JOBS)) == ["HR.lmdb: list"]


def test_keys_in_one_lmdb_alone(prepared):
    with (
        lmdb.open(str(prepared / "HR.lmdb"), map_size=2**24) as database,
        database.begin(write=True) as writing,
    ):
        writing.delete(b"0002")
        writing.put(b"9999", (prepared / "HR/0001.png").read_bytes())
    report = verify(prepared, JOBS)
    pair = f"HR.lmdb and {LR_X2}.lmdb"
    assert kinds(report) == [
        *(f"{pair}: without HR", f"{pair}: without LR"),
        *("HR.lmdb: missing", "HR.lmdb: not listed"),
    ]
    assert "9999" in texts(report) and "0002" in texts(report)
    assert [len(group) for group in duplicates(report)] == [2]


def test_undecodable_image(prepared):
    for name in ("HR/0001.png", f"{LR_X2}/0002x2.png"):
        content = bytearray((prepared / name).read_bytes())
        content[len(content) // 2] ^= 1
        (prepared / name).write_bytes(content)
    (prepared / "HR_sub/0003_s001.png").write_bytes(b"")
    report = verify(prepared, JOBS)
    assert kinds(report) == [f"{name}: unreadable" for name in ("HR", "HR_sub", LR_X2)]
    for name in ("HR/0001.png", f"{LR_X2}/0002x2.png", "HR_sub/0003_s001.png"):
        assert str(prepared / name) in texts(report)


def test_sizes_of_pairs(prepared):
    write_png(prepared / f"{LR_X2}/0001x2.png", pixels(7, 11, 15))
    # Enough for a whole image, but a crop of the LR image has no crop of 21 pixels.
    write_png(prepared / "HR_sub/0002_s001.png", pixels(7, 21, 20))
    report = verify(prepared, JOBS)
    assert kinds(report) == [
        f"HR and {LR_X2}: sizes",
        f"HR_sub and {LR_X2}_sub: sizes",
    ]
    assert "0001 HR 31x21, LR 15x11 instead of 15x10" in texts(report)
    assert "0002_s001 HR 20x21 instead of 20x20" in texts(report)


def test_missing_images_and_sets(prepared):
    (prepared / "HR/0001.png").unlink()
    (prepared / f"{LR_X2}/0002x2.png").unlink()
    shutil.rmtree(prepared / "HR_sub")
    report = verify(prepared, JOBS)
    assert kinds(report) == [
        *(f"HR and {LR_X2}: without HR", f"HR and {LR_X2}: without LR"),
        f"no HR and {LR_X2}_sub: no HR",
    ]


def test_duplicates_are_no_problem(prepared):
    shutil.copy(prepared / "HR/0001.png", prepared / "HR/0009.png")
    # The same pixels in another file.
    write_png(prepared / "HR/0001.bmp", pixels(1, 21, 31))
    report = verify(prepared / "HR", JOBS)
    assert kinds(report) == [f"{prepared / 'HR'}: same name"]
    assert duplicates(report) == [
        [str(prepared / "HR" / name) for name in ("0001.bmp", "0001.png", "0009.png")]
    ]


def test_pairs_elsewhere(prepared):
    hr, lq = prepared / "HR", prepared / LR_X2
    assert verify(hr, JOBS, lq, 2).problems == []
    assert verify(f"{hr}.lmdb", JOBS, f"{lq}.lmdb", 2).problems == []
    assert verify(f"{hr}.lmdb", JOBS, lq, 2).problems == []
    for large, scale, number in ((hr, 2, 8), (f"{hr}_sub", 3, 4)):
        report = verify(large, JOBS, f"{lq}_sub", scale)
        assert sum(problem.number for problem in report.problems) == number


def test_wrong_paths(tmp_path):
    for name in ("none", "X.lmdb", "empty"):
        if name != "none":
            (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=name):
            verify(tmp_path / name, 1)


def test_pairing_by_name():
    assert pair_up(["a", "b"], ["ax2", "bx2"], 2) == {"ax2": "a", "bx2": "b"}
    assert pair_up(["a", "b"], ["a", "c"], 2) == {"a": "a", "c": None}
    assert pair_up(["a", "ax2"], ["ax2", "ax2x2"], 2) == {"ax2": "a", "ax2x2": "ax2"}


def test_lists_with_a_byte_order_mark_and_foreign_names(tmp_path):
    """As editors on Windows write them, in any locale."""
    for folder, side in (("HR", 48), ("LR", 24)):
        (tmp_path / folder).mkdir()
        for name in ("ä.png", "b.png"):
            image = np.full((side, side, 3), 100, np.uint8)
            (tmp_path / folder / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
        entries, _ = folder_entries(tmp_path / folder)
        write_lmdb(tmp_path / f"{folder}.lmdb", entries)
        meta = tmp_path / f"{folder}.lmdb" / "meta_info.txt"
        meta.write_text(meta.read_text(), "utf-8-sig")
    listed = tmp_path / "list.txt"
    listed.write_text("ä.png (48,48,3)\nb.png (48,48,3)\n", "utf-8-sig")
    assert [line.name for line in read_meta_info(listed)] == ["ä.png", "b.png"]
    assert not verify(tmp_path / "HR.lmdb", 1).problems
    assert not check_folder(str(tmp_path / "HR"), str(listed)).findings
    code = f"""
        import os, esc_arch
        from basicsr.data import build_dataset
        os.chdir({str(tmp_path)!r})
        common = dict(phase="val", scale=2, name="x", gt_size=48, type="PairedImageDataset")
        disk, lmdb = dict(type="disk"), dict(type="lmdb")
        for section in (
            dict(dataroot_gt="HR", dataroot_lq="LR", meta_info_file="list.txt", io_backend=disk),
            dict(dataroot_gt="HR.lmdb", dataroot_lq="LR.lmdb", io_backend=lmdb),
            dict(dataroot_lq="LR", meta_info_file="list.txt", io_backend=disk,
                 type="SingleImageDataset"),
        ):
            pairs = build_dataset({{**common, **section}})
            assert len(pairs) == 2
            assert [pair["lq"].shape[1] for pair in map(pairs.__getitem__, range(2))] == [24, 24]
    """
    output_of(start_python(code, LC_ALL="C", PYTHONUTF8="0"))


def test_one_lmdb_has_many_readers_in_a_process(prepared):
    """Among them the check of an option file, whose sections name it again."""
    first, second = open_lmdb(prepared / "HR.lmdb"), open_lmdb(f"{prepared}/HR.lmdb/")
    assert not check_lmdb(f"{prepared}/HR.lmdb").findings
    del first
    with second.begin() as transaction:
        assert transaction.get(b"0000")
    del second, transaction
    lmdb.open(f"{prepared}/HR.lmdb", readonly=True, lock=False).close()  # no one has it open


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_special_files_are_one_finding(tmp_path):
    write_png(tmp_path / "a.png", pixels(0, 4, 4))
    os.mkfifo(tmp_path / "pipe.png")
    (finding,) = check_folder(str(tmp_path)).findings
    assert finding.images == ("pipe.png",) and finding.number == 1
