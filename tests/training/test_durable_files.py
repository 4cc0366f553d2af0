"""A file is whole under its name, or it is not there."""

import errno
import hashlib
import resource

import pytest
import torch

from esc_arch.training.durable_files import digest_of, remove_parts, write_durably

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
