"""Cut off and bit-flipped images, LMDBs and checkpoints: refused by name, or read."""

import contextlib
import io
import shutil
import struct
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esc_arch.checkpoints import read_state_dict
from esc_arch.data.lmdb_reader import DamagedLmdb, open_lmdb
from esc_arch.data.processes import Processes, ProcessKilled
from esc_arch.errors import UserError
from esc_arch.imaging.codecs import decode, shape_of
from esc_arch.imaging.picture import read_picture
from tests.faults.bad_images import by_pillow, encoded
from tests.faults.fuzzing import examples
from tests.faults.workplace import furnish, network

FORMATS = {
    f"{extension} {channels}x{dtype.__name__}": encoded(extension, channels, dtype)
    for extension, dtypes in (
        (".png", (np.uint8, np.uint16)), (".tiff", (np.uint8, np.uint16)),
        (".jpg", (np.uint8,)), (".webp", (np.uint8,)), (".bmp", (np.uint8,)))
    for dtype in dtypes
    for channels in (1, 3, 4)
    if (extension, channels) not in ((".jpg", 4), (".webp", 1))
}  # fmt: skip
FORMATS |= {
    "palette": by_pillow("P", "PNG"),
    "one bit": by_pillow("1", "TIFF"),
    "progressive": by_pillow("RGB", "JPEG", progressive=True),
}


def damaged(data, content: bytes, most_flips: int = 4) -> bytes:
    changed = bytearray(content)
    # Half of the flips in the first bytes, where headers are.
    for _ in range(data.draw(st.integers(0, most_flips))):
        place = data.draw(st.integers(0, len(changed) - 1) | st.integers(0, 200))
        changed[min(place, len(changed) - 1)] ^= 1 << data.draw(st.integers(0, 7))
    return bytes(changed[: data.draw(st.integers(0, len(changed)) | st.just(len(changed)))])


@examples(250)
@given(data=st.data())
def test_images(data, tmp_path_factory):
    content = damaged(data, FORMATS[data.draw(st.sampled_from(sorted(FORMATS)))])
    try:
        image = decode(content, "x.png").image
    except UserError as error:
        assert str(error).startswith("x.png: expected")
    else:
        assert image.dtype in (np.uint8, np.uint16) and image.ndim in (2, 3)
        # The header may say another size only where it is not believed.
        assert shape_of(content, "x.png")[:2] == image.shape[:2]
    path = tmp_path_factory.getbasetemp() / "fuzzed.png"
    path.write_bytes(content)
    try:
        read_picture(path)
    except UserError as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("name", sorted(name for name in FORMATS if name.startswith(".png")))
def test_no_flipped_bit_of_a_png_is_taken_for_pixels(name):
    content = FORMATS[name]
    whole = decode(content, "x").image
    for place in range(8, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 4
        with contextlib.suppress(UserError):
            assert np.array_equal(decode(bytes(changed), "x").image, whole)


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    furnish(folder)
    return folder


# No fixture, whose bytes hypothesis would print.
WHOLE: dict[bool, bytes] = {}


def database(folder: Path, by_library: bool) -> bytes:
    """An LMDB of many small and some large values, three levels deep, or one of some images."""
    if not by_library:
        return (folder / "hr.lmdb/data.mdb").read_bytes()
    shutil.rmtree(folder / "many.lmdb", ignore_errors=True)
    with lmdb.open(str(folder / "many.lmdb"), map_size=1 << 24) as opened:
        for part in range(3):  # several transactions leave free pages
            with opened.begin(write=True) as transaction:
                for i in range(part, 300, 3):
                    key = f"{i:04d}{'k' * 150}".encode()
                    transaction.put(key, bytes(i % 7 * 900))
    return (folder / "many.lmdb/data.mdb").read_bytes()


def read_all(folder: Path) -> str:
    """By the library, as a reader of images does; in a process that it may kill."""
    try:
        with open_lmdb(folder) as opened, opened.begin(buffers=True) as transaction:
            keys = [bytes(key) for key in transaction.cursor().iternext(values=False)]
            for key in keys:
                if (value := transaction.get(key)) is None:
                    return f"{key!r}: no such key"  # its branch says another order
                bytes(value)
            transaction.get(b"none")
    except (DamagedLmdb, lmdb.Error) as error:
        return str(error)
    return ""


def test_whole_databases_are_whole(furnished):
    for by_library in (False, True):
        database(furnished, by_library)
    assert read_all(furnished / "hr.lmdb") == ""
    assert read_all(furnished / "many.lmdb") == ""


@pytest.mark.parametrize("by_library", [False, True])
@examples(250)
@given(data=st.data())
def test_lmdb(furnished, workers, by_library, data):
    if by_library not in WHOLE:
        WHOLE[by_library] = database(furnished, by_library)
    content = bytearray(WHOLE[by_library])
    for _ in range(data.draw(st.integers(1, 3))):
        page = data.draw(st.integers(0, len(content) // 4096 - 1))
        place = data.draw(st.integers(0, 160) | st.integers(0, 4095))
        content[page * 4096 + place] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        # A link to any page, where the root or a branch has one.
        place = data.draw(st.integers(0, len(content) // 8 - 1)) * 8
        struct.pack_into("<Q", content, place, data.draw(st.integers(0, len(content) // 4096)))
    folder = furnished / "flipped.lmdb"
    folder.mkdir(exist_ok=True)
    (folder / "data.mdb").write_bytes(content)
    # The library may follow a damaged link to where no memory is; the pool names that.
    with contextlib.suppress(ProcessKilled):
        list(workers.map(read_all, [folder]))


@pytest.mark.parametrize("by_library", [False, True])
@examples(100)
@given(data=st.data())
def test_a_truncated_lmdb_kills_no_process(furnished, workers, by_library, data):
    """Also with flipped bits in the two pages that say how long the file is."""
    if by_library not in WHOLE:
        WHOLE[by_library] = database(furnished, by_library)
    content = bytearray(WHOLE[by_library])
    for _ in range(data.draw(st.integers(0, 2))):
        content[data.draw(st.integers(0, 8191))] ^= 1 << data.draw(st.integers(0, 7))
    folder = furnished / "truncated.lmdb"
    folder.mkdir(exist_ok=True)
    length = data.draw(st.integers(0, len(content) - 1))
    (folder / "data.mdb").write_bytes(content[:length])
    # A killed process is a ProcessKilled, which fails the test.
    (said,) = workers.map(read_all, [folder])
    assert said


@pytest.fixture(scope="module")
def workers():
    with Processes(1) as pool:
        yield pool


def saved(form: str) -> bytes:
    state = {"params": network().state_dict()}
    file = io.BytesIO()
    if form == "safetensors":
        from safetensors.torch import save

        return save(state["params"])
    torch.save(state, file, _use_new_zipfile_serialization=form == "zip")
    return file.getvalue()


CHECKPOINTS = {form: saved(form) for form in ("zip", "legacy", "safetensors")}


@pytest.mark.parametrize("form", CHECKPOINTS)
@examples(80)
@given(data=st.data())
def test_checkpoints(form, data, tmp_path_factory):
    name = "x.safetensors" if form == "safetensors" else "x.pth"
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(damaged(data, CHECKPOINTS[form]))
    try:
        state = read_state_dict(path)
    except UserError as error:
        assert str(error).startswith(str(path))
        return
    if form == "zip":
        # Its parts have checksums.
        whole = network().state_dict()
        assert all(torch.equal(state[key], whole[key]) for key in whole)
