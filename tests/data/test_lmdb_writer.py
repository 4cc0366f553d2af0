"""LMDBs: what the library and BasicSR read of them, kills, power cuts, replacement."""

import os
import random
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import FileClient
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from png_cases import FORK, pixels, start, write_png, write_pngs

from esc_arch.data import lmdb_pages, lmdb_writer
from esc_arch.data.lmdb_writer import Entry, is_current, write_lmdb
from esc_arch.errors import UserError


def entries_of(sources: list[Path]) -> list[Entry]:
    return [Entry(source.stem, source) for source in sources]


def content_of(path: Path) -> dict[str, bytes]:
    with lmdb.open(str(path), readonly=True, lock=False) as database, database.begin() as reading:
        return {key.decode(): value for key, value in reading.cursor()}


def expected_of(entries: list[Entry]) -> dict[str, bytes]:
    return {entry.key: entry.source.read_bytes() for entry in entries}


def files_of(path: Path) -> dict[str, bytes]:
    """All that must be the same whenever an LMDB is made; the lock file names a process."""
    return {f.name: f.read_bytes() for f in path.iterdir() if f.name != "lock.mdb"}


def left_beside(path: Path) -> list[str]:
    return sorted(f.name for f in path.parent.iterdir() if f.name.startswith(f".{path.name}"))


@pytest.fixture
def entries(tmp_path):
    return entries_of(write_pngs(tmp_path / "HR", 150))


@pytest.fixture
def small_flushes(monkeypatch):
    monkeypatch.setattr(lmdb_writer, "_FLUSH_BYTES", 20_000)


@pytest.mark.parametrize("count", [1, 2, 37, 3000])
@pytest.mark.parametrize("key_bytes", [4, 60, 511])
def test_pages_are_read_by_the_library(tmp_path, count, key_bytes):
    """Trees of one to five levels; the library can also change and enlarge them."""
    rng = random.Random(count * key_bytes)
    image = write_png(tmp_path / "a.png", pixels(0, 4, 4)).read_bytes()
    sources = []
    # Below, at and above the size from which a value has its own pages.
    for size in (len(image), 1400, *range(1465, 2060, 16), 4080, 4081, 9000):
        sources.append(tmp_path / f"{size}.png")
        sources[-1].write_bytes(image + bytes(size - len(image)))
    keys = {f"{i:04d}" + "k" * rng.randint(0, key_bytes - 4) for i in range(count)}
    made = [Entry(key, rng.choice(sources)) for key in keys]
    path = tmp_path / "X.lmdb"
    assert write_lmdb(path, made)
    expected = expected_of(made)
    assert content_of(path) == expected
    with (
        lmdb.open(str(path), map_size=2**28) as database,
        database.begin(write=True) as writing,
    ):
        for key in rng.sample(sorted(expected), count // 2):
            assert writing.delete(key.encode())
            del expected[key]
        for i in range(50):
            expected[f"new{i}"] = bytes(rng.randint(1, 5000))
            assert writing.put(f"new{i}".encode(), expected[f"new{i}"])
    assert content_of(path) == expected


def test_same_as_basicsr_makes(tmp_path):
    """Keys, order, meta_info.txt, pixels."""
    images = [("b_2", 3), ("a", 1), ("B", 4), ("a_1", 3)]
    sources = [
        write_png(tmp_path / f"{name}.png", pixels(i, 20 + i, 30, channels))
        for i, (name, channels) in enumerate(images)
    ]
    names = sorted(source.name for source in sources)
    theirs, ours = tmp_path / "theirs.lmdb", tmp_path / "ours.lmdb"
    keys = [name[:-4] for name in names]
    make_lmdb_from_imgs(str(tmp_path), str(theirs), names, keys, map_size=2**24)
    write_lmdb(ours, entries_of(sources))
    assert (ours / "meta_info.txt").read_text() == (theirs / "meta_info.txt").read_text()
    of_theirs, of_ours = content_of(theirs), content_of(ours)
    assert list(of_theirs) == list(of_ours) == keys
    for key in keys:
        one, other = (
            cv2.imdecode(np.frombuffer(content[key], np.uint8), cv2.IMREAD_UNCHANGED)
            for content in (of_theirs, of_ours)
        )
        assert np.array_equal(one, other)


def test_basicsr_reads_pairs(tmp_path):
    for i in range(5):
        write_png(tmp_path / f"HR/{i}.png", pixels(i, 24, 32))
        write_png(tmp_path / f"LR/{i}x2.png", pixels(100 + i, 12, 16))
    write_lmdb(tmp_path / "HR.lmdb", entries_of(sorted((tmp_path / "HR").iterdir())))
    low = [Entry(p.stem[:-2], p) for p in (tmp_path / "LR").iterdir()]
    write_lmdb(tmp_path / "LR.lmdb", low)
    dataset = PairedImageDataset(
        {
            "dataroot_gt": str(tmp_path / "HR.lmdb"),
            "dataroot_lq": str(tmp_path / "LR.lmdb"),
            "io_backend": {"type": "lmdb"},
            "scale": 2,
            "phase": "val",
        }
    )
    assert len(dataset) == 5
    for i in range(5):
        pair = dataset[i]
        for tensor, image in (
            (pair["gt"], pixels(i, 24, 32)),
            (pair["lq"], pixels(100 + i, 12, 16)),
        ):
            assert np.array_equal(
                (tensor.numpy() * 255).round().transpose(1, 2, 0)[..., ::-1], image
            )


def test_killed_at_random_and_resumed(tmp_path, entries, small_flushes, monkeypatch):
    """The bytes are those of a build that nothing interrupted."""
    write_lmdb(tmp_path / "whole.lmdb", entries)
    plain_read = lmdb_writer._read

    def slow_read(*arguments):
        time.sleep(0.0005)
        return plain_read(*arguments)

    monkeypatch.setattr(lmdb_writer, "_read", slow_read)
    rng = random.Random(0)
    path = tmp_path / "X.lmdb"
    gone_on = 0
    for _ in range(6):
        shutil.rmtree(path, ignore_errors=True)
        for _ in range(4):
            process = start(lambda: write_lmdb(path, entries))
            time.sleep(rng.uniform(0, 0.12))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            journal = path.with_name(f".{path.name}.part") / "meta_info.txt"
            gone_on += journal.exists() and 0 < journal.read_bytes().count(b"\n") < len(entries)
        write_lmdb(path, entries)
        assert files_of(path) == files_of(tmp_path / "whole.lmdb")
        assert left_beside(path) == []
    assert gone_on > 3


@pytest.mark.parametrize("call", range(1, 40, 4))
def test_killed_at_each_kind_of_call(tmp_path, entries, small_flushes, monkeypatch, call):
    """Also between the renames: the old LMDB or the new one is there after the next run."""
    path = tmp_path / "X.lmdb"
    write_lmdb(path, entries[:20])
    write_lmdb(tmp_path / "whole.lmdb", entries)

    def killed():
        calls = 0

        def counted(original, every):
            def wrapper(*arguments, **named):
                nonlocal calls
                calls += every
                if calls >= call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **named)

            return wrapper

        # Few of the writes, each of the others.
        monkeypatch.setattr(os, "pwrite", counted(os.pwrite, 0.1))
        for name in ("fdatasync", "fsync", "rename"):
            monkeypatch.setattr(os, name, counted(getattr(os, name), 1))
        monkeypatch.setattr(Path, "rename", counted(Path.rename, 1))
        monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree, 1))
        write_lmdb(path, entries)

    process = start(killed)
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0)
    write_lmdb(path, entries)
    assert files_of(path) == files_of(tmp_path / "whole.lmdb")
    assert left_beside(path) == []


def test_kill_between_the_renames(tmp_path, entries, monkeypatch):
    path = tmp_path / "X.lmdb"
    write_lmdb(path, entries[:20])
    old = files_of(path)

    def killed():
        monkeypatch.setattr(
            Path, "rename", lambda p, to: (os.rename(p, to), os.kill(os.getpid(), signal.SIGKILL))
        )
        write_lmdb(path, entries)

    process = start(killed)
    process.join()
    assert not path.exists()
    # Asked for the old content: it is put back as it was.
    assert not write_lmdb(path, entries[:20])
    assert files_of(path) == old and left_beside(path) == []


def test_power_cut(tmp_path, entries, small_flushes, monkeypatch):
    """What was not flushed is lost; lines of the journal that are there hold true."""
    path, part = tmp_path / "X.lmdb", tmp_path / ".X.lmdb.part"
    snapshots = []
    flush = os.fdatasync

    def recorded(descriptor):
        # Lines that are there now were written after the flush before this one.
        if snapshots:
            snapshots[-1]["meta_info.txt"] = (part / "meta_info.txt").read_bytes()
        flush(descriptor)
        snapshots.append(files_of(part))

    monkeypatch.setattr(os, "fdatasync", recorded)
    write_lmdb(path, entries)
    whole = files_of(path)
    monkeypatch.undo()
    assert len(snapshots) > 5
    for number, files in enumerate(snapshots[:-1]):
        shutil.rmtree(path)
        part.mkdir()
        for name, content in files.items():
            # And what the journal may look like beyond its last whole line.
            torn = b"\0\0\0\0" if name == "meta_info.txt" and number % 2 else b""
            (part / name).write_bytes(content + torn)
        assert files["meta_info.txt"].count(b"\n") > 0
        write_lmdb(path, entries)
        assert files_of(path) == whole


def test_resumed_build_reads_the_rest_alone(tmp_path, entries, small_flushes, monkeypatch):
    read = []
    plain_read = lmdb_writer._read

    def counted(source, *arguments):
        if len(read) == 100:
            raise KeyboardInterrupt
        read.append(source)
        return plain_read(source, *arguments)

    monkeypatch.setattr(lmdb_writer, "_read", counted)
    with pytest.raises(KeyboardInterrupt):
        write_lmdb(tmp_path / "X.lmdb", entries)
    monkeypatch.setattr(
        lmdb_writer, "_read", lambda source, *a: (read.append(source), plain_read(source, *a))[1]
    )
    read.clear()
    write_lmdb(tmp_path / "X.lmdb", entries)
    assert 50 <= len(read) < 140
    assert content_of(tmp_path / "X.lmdb") == expected_of(entries)


def test_same_sources_are_not_written_again(tmp_path, entries):
    path = tmp_path / "X.lmdb"
    assert not is_current(path, entries)
    assert write_lmdb(path, entries)
    inode = (path / "data.mdb").stat().st_ino
    assert is_current(path, entries) and not write_lmdb(path, entries[::-1])
    assert (path / "data.mdb").stat().st_ino == inode
    os.utime(entries[3].source)
    assert not is_current(path, entries) and write_lmdb(path, entries)
    os.truncate(path / "data.mdb", 9000)
    assert write_lmdb(path, entries) and content_of(path) == expected_of(entries)


def test_readers_go_on_while_it_is_replaced(tmp_path):
    """Three processes with BasicSR's client; each reads on in what it opened."""
    old, new = (
        entries_of(write_pngs(tmp_path / name, 40, seed)) for name, seed in (("a", 0), ("b", 99))
    )
    path = tmp_path / "X.lmdb"
    write_lmdb(path, old)
    expected = expected_of(old)
    opened, stop = FORK.Semaphore(0), FORK.Event()

    def read():
        client = FileClient("lmdb", db_paths=str(path), client_keys="gt")
        opened.release()
        rounds = 0
        while not stop.is_set() or rounds < 20:
            for key, value in expected.items():
                assert client.get(key, "gt") == value
            rounds += 1

    readers = [start(read) for _ in range(3)]
    for _ in readers:
        assert opened.acquire(timeout=20)
    for entries in (new, old, new):
        assert write_lmdb(path, entries)
    stop.set()
    for reader in readers:
        reader.join(20)
        assert reader.exitcode == 0
    assert content_of(path) == expected_of(new)


def test_two_builders_do_not_mix(tmp_path, entries, monkeypatch):
    path = tmp_path / "X.lmdb"
    reached, go_on = threading.Event(), threading.Event()
    plain = lmdb_writer._check

    def waiting(*arguments):
        reached.set()
        assert go_on.wait(20)
        plain(*arguments)

    monkeypatch.setattr(lmdb_writer, "_check", waiting)
    builder = threading.Thread(target=write_lmdb, args=(path, entries))
    builder.start()
    assert reached.wait(20)
    with pytest.raises(UserError, match=r"X\.lmdb: .*another process"):
        write_lmdb(path, entries)
    go_on.set()
    builder.join()
    assert content_of(path) == expected_of(entries)


def test_memory_does_not_grow_with_the_images(tmp_path):
    source = write_png(tmp_path / "a.png", pixels(0, 130, 160))

    def growth(count: int) -> int:
        made = [Entry(f"{i:05d}", source) for i in range(count)]
        receiving, sending = FORK.Pipe(False)

        def measured():
            Path("/proc/self/clear_refs").write_text("5")
            before = status("VmRSS")
            write_lmdb(tmp_path / f"{count}.lmdb", made)
            sending.send(status("VmHWM") - before)

        process = start(measured)
        assert receiving.poll(30)
        process.join()
        return receiving.recv()

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024

    few, many = growth(150), growth(1500)
    assert many < few + 4e6 < 40e6 < 1500 * source.stat().st_size


def test_full_disk(tmp_path, entries, small_flushes):
    """Writing fails half-way; with room again the next run goes on."""
    path = tmp_path / "X.lmdb"
    receiving, sending = FORK.Pipe(False)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            write_lmdb(path, entries)
        except UserError as error:
            sending.send(str(error))

    process = start(limited)
    assert receiving.poll(20)
    process.join()
    message = receiving.recv()
    assert str(path) in message and "File too large" in message
    assert not path.exists() and left_beside(path) == [".X.lmdb.part"]
    write_lmdb(path, entries)
    assert content_of(path) == expected_of(entries)


def test_no_room(tmp_path, entries, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(UserError, match=r"X\.lmdb: expected .* of room .* found 100\.0 kB"):
        write_lmdb(tmp_path / "X.lmdb", entries)


@pytest.mark.parametrize("key", ["a.b", "a b", "ü", "", "a\n", "k" * 512])
def test_keys_that_basicsr_cannot_read(tmp_path, key):
    source = write_png(tmp_path / "a.png", pixels(0))
    with pytest.raises(UserError, match=r"a\.png: expected a name in ASCII"):
        write_lmdb(tmp_path / "X.lmdb", [Entry(key, source)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png"]


def test_wrong_sources(tmp_path):
    good = write_png(tmp_path / "a.png", pixels(0))
    path = tmp_path / "X.lmdb"
    text = tmp_path / "t.png"
    text.write_text("no image")
    empty = tmp_path / "e.png"
    empty.touch()
    for other, message in (
        ([Entry("a", good)], "each key once"),
        ([Entry("b", tmp_path / "none.png")], r"none\.png.*No such file"),
        ([Entry("b", empty)], r"e\.png.*empty"),
        ([Entry("b", text)], r"t\.png.*no such image"),
        ([Entry("b", tmp_path)], "expected an image file.*directory"),
    ):
        with pytest.raises(UserError, match=message):
            write_lmdb(path, [Entry("a", good), *other])
        assert not path.exists()
    with pytest.raises(UserError, match="found none"):
        write_lmdb(path, [])


def test_source_that_changes_meanwhile(tmp_path, entries, monkeypatch):
    plain = lmdb_writer._write

    def changed(*arguments):
        entries[70].source.write_bytes(entries[71].source.read_bytes())
        plain(*arguments)

    monkeypatch.setattr(lmdb_writer, "_write", changed)
    with pytest.raises(UserError, match=r"0070\.png: .*another size"):
        write_lmdb(tmp_path / "X.lmdb", entries)


def test_never_removes_what_is_no_lmdb(tmp_path, entries):
    path = tmp_path / "X.lmdb"
    path.mkdir()
    with pytest.raises(UserError, match="an empty folder"):
        write_lmdb(path, entries)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        write_lmdb(path, entries)
    assert (path / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match=r"ends in \.lmdb"):
        write_lmdb(tmp_path / "X", entries)
    with pytest.raises(UserError, match="found no"):
        write_lmdb(tmp_path / "none" / "X.lmdb", entries)


def test_meta_pages_say_what_the_library_says(tmp_path, entries):
    path = tmp_path / "X.lmdb"
    write_lmdb(path, entries)
    keys = sorted(entry.key.encode() for entry in entries)
    tree = lmdb_pages.plan_tree(keys, [len(v) for v in expected_of(entries).values()])
    with lmdb.open(str(path), readonly=True, lock=False) as database:
        stat = database.stat()
    assert stat == {
        "psize": 4096,
        "depth": 1 + len(tree.levels),
        "branch_pages": sum(map(len, tree.levels)),
        "leaf_pages": len(tree.leaves),
        "overflow_pages": tree.overflow,
        "entries": len(entries),
    }
    # As dense as the library's own copy that leaves out free pages.
    (tmp_path / "copy").mkdir()
    with lmdb.open(str(path), readonly=True, lock=False) as database:
        database.copy(str(tmp_path / "copy"), compact=True)
    ours, theirs = ((p / "data.mdb").stat().st_size for p in (path, tmp_path / "copy"))
    assert ours == theirs
