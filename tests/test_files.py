"""A file is whole under its name, or it is not there."""

import errno
import fcntl
import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from esc_arch.files import (
    Held,
    digest_of,
    free_bytes,
    is_locked,
    locked,
    read_regular,
    remove_parts,
    special_kind,
    whole_file,
    write_durably,
)

TENSORS = {"a": torch.arange(100_000), "b": torch.ones(3, 3)}


def save(file):
    torch.save(TENSORS, file)


def test_the_digest_is_that_of_the_file(tmp_path):
    path = tmp_path / "a.pth"
    digest = write_durably(path, save)
    content = path.read_bytes()
    assert digest == (len(content), hashlib.sha256(content).hexdigest()) == digest_of(path)
    assert torch.equal(torch.load(path, weights_only=True)["a"], TENSORS["a"])
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_files():
    """A limit of 100 kB, as of a quota: the system refuses the write that passes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_refused_write_leaves_the_file_that_was_there(tmp_path, small_files):
    path = tmp_path / "a.pth"
    path.write_bytes(b"before")
    with pytest.raises(OSError) as caught:
        write_durably(path, save)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_writer_is_told_as_it_is(tmp_path):
    def fail(file):
        file.write(b"half")
        raise KeyError("reason")

    with pytest.raises(KeyError, match="reason"):
        write_durably(tmp_path / "a", fail)
    assert not list(tmp_path.iterdir())


def test_parts_of_killed_writers_are_removed(tmp_path):
    (tmp_path / ".net_g_5.pth.part").touch()
    (tmp_path / "net_g_5.pth").touch()
    remove_parts(tmp_path)
    remove_parts(tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["net_g_5.pth"]


@pytest.mark.parametrize("flush", [True, False])
def test_a_file_has_its_name_when_the_block_has_ended(tmp_path, flush):
    path, work = tmp_path / "a.txt", tmp_path / "work"
    path.write_text("before")
    work.mkdir()
    with whole_file(path, work, flush) as part:
        part.write_text("after")
        assert part.parent == work and path.read_text() == "before"
    assert path.read_text() == "after" and list(work.iterdir()) == []


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(KeyError), whole_file(path) as part:
        part.write_text("half")
        raise KeyError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_and_not_its_temporary_name(tmp_path):
    path = tmp_path / "absent" / "a.txt"
    with pytest.raises(FileNotFoundError) as error, whole_file(path) as part:
        part.write_text("x")
    assert error.value.filename == str(path)


def test_the_longest_name(tmp_path):
    """255 bytes, as file systems have it; of characters that take four each, too."""
    for name in ("a" * 251 + ".png", "\N{GRINNING FACE}" * 62 + ".png"):
        with whole_file(tmp_path / name) as part:
            part.write_bytes(b"x")
        assert (tmp_path / name).read_bytes() == b"x"


def test_permissions_are_those_of_a_plain_file(tmp_path):
    (tmp_path / "plain").touch()
    with whole_file(tmp_path / "whole") as part:
        part.touch()
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_lock_says_who_holds_it(tmp_path):
    path = tmp_path / "a.lock"
    assert is_locked(path) is None
    with locked(path):
        assert is_locked(path) is True
        with pytest.raises(Held, match=rf"process {os.getpid()} on "), locked(path, wait_s=0.05):
            pass
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert is_locked(path) is False
    with locked(path):
        pass


def test_the_file_of_a_lock_can_go_at_its_end(tmp_path):
    path = tmp_path / "a.lock"
    for _ in range(2):
        with locked(path, remove=True):
            assert is_locked(path) is True
        assert not path.exists()


HOLDER = """
import os, sys, time
from pathlib import Path
from esc_arch.files import locked

with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        os.close(1)
        time.sleep(60)
    print("child", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_frees_its_lock_though_its_children_live(tmp_path):
    path = tmp_path / "a.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert holder.stdout.readline() == b"child\n"
        assert is_locked(path) is True
        waited_for = []

        def stop(who: str) -> None:
            waited_for.append(who)
            holder.kill()
            holder.wait()

        with locked(path, wait_s=0.05, waiting=stop):
            os.killpg(holder.pid, 0)  # the child lives
        assert str(holder.pid) in waited_for[0]
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_no_lock_where_the_file_system_has_none(tmp_path, monkeypatch):
    def refused(file, kind):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refused)
    with locked(tmp_path / "a.lock"):
        assert is_locked(tmp_path / "a.lock") is None


def test_the_lock_of_another_user_can_be_asked(tmp_path, monkeypatch):
    """Its file may only be read, which root's permissions do not show."""
    path = tmp_path / "a.lock"
    plain = os.open

    def read_only(name, flags, *rest, **named):
        if os.fspath(name) == str(path) and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(name, flags, *rest, **named)

    with locked(path):
        path.chmod(0o444)
        monkeypatch.setattr(os, "open", read_only)
        assert is_locked(path) is True
    assert is_locked(path) is False


def test_two_who_ask_at_once_do_not_find_each_other(tmp_path):
    path = tmp_path / "a.lock"
    path.touch()
    with open(path) as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert is_locked(path) is False
        fcntl.flock(other, fcntl.LOCK_EX)
        assert is_locked(path) is True


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder that takes no file")
def test_a_lock_file_in_a_folder_that_takes_none():
    """The message is that of the system, not that another process holds it."""
    with pytest.raises(OSError, match=r"x\.lock"), locked(Path("/proc/x.lock"), wait_s=0.1):
        pass


def test_a_lock_file_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError), locked(tmp_path / "file" / "a.lock"):
        pass


def test_free_bytes_are_those_of_the_file_system(tmp_path):
    status = os.statvfs(tmp_path)
    assert abs(free_bytes(tmp_path) - status.f_bavail * status.f_frsize) < 1 << 30


@pytest.fixture
def special(tmp_path):
    """Names that are no files on a disk, with what they are."""
    os.mkfifo(tmp_path / "fifo")
    os.symlink("/dev/zero", tmp_path / "device")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        yield {tmp_path / name: name for name in ("fifo", "device", "socket")}


def test_only_regular_files_are_opened(tmp_path, special):
    for path, kind in special.items():
        with pytest.raises(OSError, match=f"(?i){kind}") as caught:
            read_regular(path)
        assert caught.value.filename == str(path)
        assert special_kind(path) is not None
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    assert read_regular(tmp_path / "b") == b"content"
    assert special_kind(tmp_path / "b") is None
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "absent")


def test_a_fifo_that_appears_while_a_file_is_opened_is_not_waited_for(special, monkeypatch):
    fifo = next(iter(special))
    monkeypatch.setattr(os, "stat", lambda path: os.lstat("/etc/passwd"))
    with pytest.raises(OSError, match="FIFO"):
        read_regular(fifo)


WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
from esc_arch.files import whole_file
with whole_file(Path(sys.argv[1])) as part:
    part.write_bytes(b"half")
    print(part, flush=True)
    time.sleep(60)
"""


def writer(path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_WAIT, str(path)], stdout=subprocess.PIPE, text=True
    )
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_killed_writers_left_goes_and_what_others_write_stays(tmp_path, number):
    downloads = {".12-3-a.zip.part", ".12-3-a.zip.part.json", ".12-3-b.part", ".12-3-b.lock"}
    for name in downloads:
        (tmp_path / name).touch()
    dead, left = writer(tmp_path / "a.png")
    alive, in_work = writer(tmp_path / "b.png")
    try:
        dead.send_signal(number)
        dead.wait()
        # As of a process of another container, whose number nobody has here.
        foreign = in_work.with_name(in_work.name.replace(f".{alive.pid}-", f".{dead.pid}-"))
        os.rename(in_work, foreign)
        with whole_file(tmp_path / "c.png") as part:
            part.write_bytes(b"whole")
            assert not left.exists() and foreign.exists() and part.exists()
    finally:
        alive.kill()
        alive.wait()
    assert {p.name for p in tmp_path.iterdir()} == {*downloads, foreign.name, "c.png"}


def test_a_device_is_never_replaced(tmp_path, special):
    before = {path: os.lstat(path).st_ino for path in special}
    for path in special:
        with pytest.raises(OSError) as caught, whole_file(path) as part:
            part.write_bytes(b"x")
        assert caught.value.filename == str(path)
    assert {path: os.lstat(path).st_ino for path in special} == before
