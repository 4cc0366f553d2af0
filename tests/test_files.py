"""A file is whole under its name, or it is not there."""

import errno
import hashlib
import resource

import pytest
import torch

from esc_arch.files import digest_of, remove_parts, whole_file, write_durably

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
