"""LMDBs: what the library and BasicSR read of them, kills, power cuts, replacement."""

import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import lmdb
import numpy as np
import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import FileClient
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from png_cases import FORK, pixels, start, write_png, write_pngs

from esc_arch.data import lmdb_writer
from esc_arch.data.lmdb_reader import DamagedLmdb, open_lmdb
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


@pytest.mark.parametrize("count", [1, 2, 37, 3000])
@pytest.mark.parametrize("key_bytes", [4, 60, 511])
def test_keys_and_values_of_all_sizes(tmp_path, count, key_bytes):
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


def kill_at(monkeypatch, call: int, *owners_and_names) -> None:
    """Kill this process at the n-th call of these functions together."""
    calls = 0

    def counted(original):
        def wrapper(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return wrapper

    for owner, name in owners_and_names:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


READ = (lmdb_writer, "read_regular")
OTHERS = (
    (lmdb, "open"),
    (os, "fsync"),
    (os, "truncate"),
    (Path, "touch"),
    (shutil, "rmtree"),
    (Path, "mkdir"),
    (Path, "rename"),
)


def killed_and_resumed(path, entries, monkeypatch, call: int, *functions) -> bool:
    """Whether a killed call, and another one after it, leave what an undisturbed one makes."""

    def killed():
        kill_at(monkeypatch, call, *functions)
        write_lmdb(path, entries)

    whole = path.with_name("whole.lmdb")
    if not whole.exists():
        write_lmdb(whole, entries)
    process = start(killed)
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0)
    write_lmdb(path, entries)
    assert left_beside(path) == []
    return files_of(path) == files_of(whole)


@pytest.mark.parametrize("image", [1, 2, 40, 64, 65, 100, 128, 129, 149, 150])
def test_killed_inside_a_transaction(tmp_path, entries, monkeypatch, image):
    """While it reads an image, so after some of the same batch."""
    assert killed_and_resumed(tmp_path / "X.lmdb", entries, monkeypatch, image, READ)


@pytest.mark.parametrize("call", range(1, 23))
def test_killed_at_each_kind_of_call(tmp_path, entries, monkeypatch, call):
    """Also between the renames: the old LMDB or the new one is there after the next run."""
    path = tmp_path / "X.lmdb"
    write_lmdb(path, entries[:20])
    assert killed_and_resumed(path, entries, monkeypatch, call, *OTHERS)


def test_killed_again_and_again(tmp_path, entries, monkeypatch):
    """Also at random times, so inside of the library."""
    path, rng = tmp_path / "X.lmdb", random.Random(0)
    for _ in range(5):
        for image in (70, 30, 60, 30):
            process = start(
                lambda image=image: (kill_at(monkeypatch, image, READ), write_lmdb(path, entries))
            )
            process.join(rng.uniform(0.001, 0.08))
            process.kill()
            process.join()
        assert killed_and_resumed(path, entries, monkeypatch, 10**6, READ)
        shutil.rmtree(path)


def test_kill_between_the_renames(tmp_path, entries, monkeypatch):
    path = tmp_path / "X.lmdb"
    write_lmdb(path, entries[:20])
    old = files_of(path)

    def killed():
        kill_at(monkeypatch, 2, (Path, "rename"))
        write_lmdb(path, entries)

    process = start(killed)
    process.join()
    assert not path.exists()
    # Asked for the old content: it is put back as it was.
    assert not write_lmdb(path, entries[:20])
    assert files_of(path) == old and left_beside(path) == []


@pytest.mark.parametrize("torn", [b"", b"0149.png (9", bytes(4096)])
def test_power_cut(tmp_path, entries, monkeypatch, torn):
    """What was not flushed is lost, or there in part."""
    path, part = tmp_path / "X.lmdb", tmp_path / ".X.lmdb.part"
    snapshots = []
    flush = os.fsync

    def recorded(descriptor):
        flush(descriptor)
        if (part / "data.mdb").exists():
            snapshots.append(files_of(part))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", recorded)
        write_lmdb(path, entries)
    whole = files_of(path)
    assert len({files["data.mdb"] for files in snapshots}) == 4
    for files in snapshots:
        shutil.rmtree(path)
        part.mkdir()
        for name, content in files.items():
            # Lines are ahead of the images; pages that follow are those of a lost transaction.
            is_whole = name == "plan.json" or content == whole["data.mdb"]
            (part / name).write_bytes(content + (b"" if is_whole else torn))
        write_lmdb(path, entries)
        assert files_of(path) == whole


@pytest.mark.parametrize("content", [b"", bytes(40_000), b"text" * 9000])
def test_an_unfinished_lmdb_that_cannot_be_read_is_begun_again(
    tmp_path, entries, monkeypatch, content
):
    """Such as that of an older version, which wrote the first pages last."""
    path, part = tmp_path / "X.lmdb", tmp_path / ".X.lmdb.part"
    process = start(lambda: (kill_at(monkeypatch, 100, READ), write_lmdb(path, entries)))
    process.join()
    assert (part / "data.mdb").stat().st_size > 4096
    (part / "data.mdb").write_bytes(content)
    write_lmdb(path, entries)
    assert content_of(path) == expected_of(entries)


def test_resumed_build_reads_the_rest_alone(tmp_path, entries, monkeypatch):
    read = []
    plain = lmdb_writer.read_regular

    def counted(path):
        if path.suffix == ".png":
            if len(read) == 100:
                raise KeyboardInterrupt
            read.append(path)
        return plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_writer, "read_regular", counted)
        with pytest.raises(KeyboardInterrupt):
            write_lmdb(tmp_path / "X.lmdb", entries)
        read.clear()
        write_lmdb(tmp_path / "X.lmdb", entries)
    assert len(read) == len(entries) - 64
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
    plain = Path.touch

    def waiting(*arguments):
        reached.set()
        assert go_on.wait(20)
        plain(*arguments)

    monkeypatch.setattr(Path, "touch", waiting)
    builder = threading.Thread(target=write_lmdb, args=(path, entries))
    builder.start()
    assert reached.wait(20)
    with pytest.raises(UserError, match=r"X\.lmdb: .*another process"):
        write_lmdb(path, entries)
    go_on.set()
    builder.join()
    assert content_of(path) == expected_of(entries)


def allocated() -> int:
    """Bytes of this process as RLIMIT_DATA counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmData:")) * 1024


def test_memory_does_not_grow_with_the_images(tmp_path):
    """For 400 MB of images."""
    source = write_png(tmp_path / "a.png", pixels(0, 260, 260))
    made = [Entry(f"{i:05d}", source) for i in range(2000)]
    assert 2000 * source.stat().st_size > 400e6

    def limited():
        # Threads' stacks take 8 MB each, and 64 images 13 MB.
        resource.setrlimit(resource.RLIMIT_DATA, (allocated() + 64_000_000,) * 2)
        write_lmdb(tmp_path / "X.lmdb", made)

    process = start(limited)
    process.join()
    assert process.exitcode == 0
    with open_lmdb(tmp_path / "X.lmdb") as database:
        assert database.stat()["entries"] == 2000


class CountedSize(int):
    """The size of a file, which counts how often something is added to it."""

    additions = 0

    def __add__(self, other):
        CountedSize.additions += 1
        return int(self) + other

    __radd__ = __add__


def test_the_work_beside_the_images_grows_as_their_number(tmp_path, monkeypatch):
    """Not as its square: nothing goes through all sizes for each batch."""
    source = write_png(tmp_path / "a.png", pixels(0))
    status = source.stat()
    size_and_time = SimpleNamespace(
        st_size=CountedSize(status.st_size),
        st_mtime_ns=status.st_mtime_ns,
        st_mode=status.st_mode,
    )
    plain = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **named: size_and_time if path == source else plain(path, **named)
    )
    assert write_lmdb(tmp_path / "X.lmdb", [Entry(f"{i:04d}", source) for i in range(1280)])
    assert 1280 <= CountedSize.additions < 10 * 1280


@pytest.mark.parametrize("done", [1, 63, 70])
def test_an_unfinished_lmdb_of_other_batches_goes_on(tmp_path, entries, done):
    """As a version with other limits of a transaction leaves it."""
    path, part = tmp_path / "X.lmdb", tmp_path / ".X.lmdb.part"
    write_lmdb(path, entries)
    lines = (path / "meta_info.txt").read_bytes()
    part.mkdir()
    shutil.copy(path / "plan.json", part)
    (part / "meta_info.txt").write_bytes(b"".join(lines.splitlines(keepends=True)[:done]))
    with lmdb.open(str(part), map_size=2**24) as database, database.begin(write=True) as writing:
        for entry in entries[:done]:
            writing.put(entry.key.encode(), entry.source.read_bytes())
    inode = (part / "data.mdb").stat().st_ino
    shutil.rmtree(path)
    write_lmdb(path, entries)
    assert (path / "data.mdb").stat().st_ino == inode
    assert content_of(path) == expected_of(entries)
    assert (path / "meta_info.txt").read_bytes() == lines


def test_large_images_are_committed_one_by_one(tmp_path):
    image = write_png(tmp_path / "a.png", pixels(0)).read_bytes()
    (tmp_path / "large.png").write_bytes(image + bytes(40_000_000))
    made = [Entry(f"{i}", tmp_path / "large.png") for i in range(6)]

    def limited():
        resource.setrlimit(resource.RLIMIT_DATA, (allocated() + 200_000_000,) * 2)
        write_lmdb(tmp_path / "X.lmdb", made)

    process = start(limited)
    process.join()
    assert process.exitcode == 0


def test_full_disk(tmp_path, entries):
    """Writing fails half-way; with room again the next run continues."""
    path = tmp_path / "X.lmdb"
    receiving, sending = FORK.Pipe(False)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        try:
            write_lmdb(path, entries)
        except UserError as error:
            sending.send(str(error))

    process = start(limited)
    assert receiving.poll(20)
    process.join()
    message = receiving.recv()
    assert str(path) in message and re.search(r"error, with [\d.]+ .B free on the disk", message)
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
        ([Entry("b", text)], r"t\.png.*a file that does not read as an image"),
        ([Entry("b", tmp_path)], "expected an image file.*directory"),
    ):
        with pytest.raises(UserError, match=message):
            write_lmdb(path, [Entry("a", good), *other])
        assert not path.exists()
    with pytest.raises(UserError, match="found none"):
        write_lmdb(path, [])


def test_source_that_changes_meanwhile(tmp_path, entries, monkeypatch):
    plain = Path.mkdir

    def changed(*arguments, **named):
        entries[70].source.write_bytes(entries[71].source.read_bytes())
        plain(*arguments, **named)

    monkeypatch.setattr(Path, "mkdir", changed)
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
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"X\.lmdb: expected a folder"):
        write_lmdb(tmp_path / "file" / "X.lmdb", entries)
    assert write_lmdb(tmp_path / "new" / "one" / "X.lmdb", entries)


@pytest.mark.parametrize("keep", [0, 100, 4096, 5000, 9000, -4096, -1])
def test_a_truncated_lmdb_is_refused_before_it_is_read(tmp_path, entries, keep):
    path = tmp_path / "X.lmdb"
    write_lmdb(path, entries)
    data = path / "data.mdb"
    os.truncate(data, keep if keep >= 0 else data.stat().st_size + keep)
    with pytest.raises(DamagedLmdb, match=r"expected .*; found .*data\.mdb"):
        open_lmdb(path)


def test_few_pages_are_free(tmp_path, entries):
    """The library's own copy leaves them out."""
    path, copy = tmp_path / "X.lmdb", tmp_path / "copy"
    write_lmdb(path, entries)
    copy.mkdir()
    with lmdb.open(str(path), readonly=True, lock=False) as database:
        database.copy(str(copy), compact=True)
    ours, theirs = ((p / "data.mdb").stat().st_size for p in (path, copy))
    assert theirs <= ours <= theirs + 16 * 4096


def test_damage_is_named(tmp_path):
    path = tmp_path / "X.lmdb"
    for content, says in (
        (None, "No such file"),
        (b"", "an empty file"),
        (b"text" * 9000, "another file"),
    ):
        path.mkdir(exist_ok=True)
        if content is not None:
            (path / "data.mdb").write_bytes(content)
        with pytest.raises(DamagedLmdb, match=says):
            open_lmdb(path)


def test_the_record_of_the_sources(tmp_path):
    """It stays as it is, or LMDBs of earlier versions would be made again."""
    write_png(tmp_path / "a.png", pixels(0))
    os.utime(tmp_path / "a.png", ns=(0, 10**18))
    write_lmdb(tmp_path / "X.lmdb", [Entry("a", tmp_path / "a.png")])
    size = (tmp_path / "a.png").stat().st_size
    assert json.loads((tmp_path / "X.lmdb/plan.json").read_text()) == {
        "format": 1,
        "images": 1,
        "bytes": size,
        "sources_sha256": hashlib.sha256(f"a {size} {10**18}\n".encode()).hexdigest(),
    }
