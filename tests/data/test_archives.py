"""Archives as they should be, broken ones, and those that mean harm."""

import gzip
import io
import os
import random
import stat
import tarfile
import time
import zipfile
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest

from esc_arch.data import archives
from esc_arch.data.archives import extract
from esc_arch.errors import UserError

IMAGES = {
    f"set/HR/{i}.png": random.Random(i).randbytes(size)
    for i, size in enumerate([0, 1, 70_000, 300_000])
}
REST = {"set/readme.txt": b"text", "other/x.png": b"x", "setting/x.png": b"x"}


def make_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w", extra=()) -> Path:
    with tarfile.open(path, mode) as archive:
        for info in extra:
            archive.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(archive: Path, says: str, folder: str = "set") -> None:
    """Nothing of the archive is left, inside or outside of where it should go."""
    before = tree(archive.parent)
    with pytest.raises(UserError) as error:
        extract(archive, {folder: archive.parent / "out" / "Set"})
    assert says in str(error.value) and str(error.value).startswith(f"{archive}: expected")
    assert tree(archive.parent) == before
    assert list((archive.parent / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["stored", "deflated", "tar", "tar.gz", "pax", "dot", "folders"])
def test_takes_the_wanted_folders_only(tmp_path, kind):
    files, path = IMAGES | REST, tmp_path / "archive"
    match kind:
        case "stored":
            make_zip(path, files, zipfile.ZIP_STORED)
        case "deflated":
            make_zip(path, files)
        case "tar":
            make_tar(path, files)
        case "tar.gz":
            make_tar(path, files, "w:gz")
        case "pax":
            files = {f"set/HR/{'ü' * 90}/{'n' * 90}.png": b"long"} | files
            make_tar(path, files)
        case "dot":
            make_tar(path, {f"./{name}": content for name, content in files.items()})
        case "folders":
            names = [".", "set", "set/HR", "set"]
            make_tar(path, files, extra=[tar_member(name, tarfile.DIRTYPE) for name in names])
    extract(path, {"set/HR": tmp_path / "data" / "Set5" / "HR", "other": tmp_path / "other"})
    wanted = {
        name.removeprefix("set/HR/"): content
        for name, content in files.items()
        if name.startswith("set/HR/")
    }
    assert tree(tmp_path / "data") == {f"Set5/HR/{name}": wanted[name] for name in wanted}
    assert tree(tmp_path / "other") == {"x.png": b"x"}
    assert sorted(os.listdir(tmp_path)) == ["archive", "data", "other"]
    assert os.listdir(tmp_path / "data" / "Set5") == ["HR"]


def test_files_get_plain_permissions(tmp_path):
    info = tar_member("set/x.png")
    info.mode, info.uid = 0o4777, 1234
    extract(make_tar(tmp_path / "a.tar", {}, extra=[info]), {"set": tmp_path / "Set"})
    mode = (tmp_path / "Set" / "x.png").stat()
    assert stat.S_IMODE(mode.st_mode) & 0o7111 == 0 and mode.st_uid == os.getuid()


OUTSIDE = ["../x.png", "set/../../x.png", "/tmp/x.png", "//x", "C:/x.png", "set\\..\\x.png", "c:x"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_lead_elsewhere(tmp_path, make, name):
    refused(make(tmp_path / "archive", IMAGES | {name: b"x"}), "names that lead nowhere else")


def test_a_name_twice_in_a_zip(tmp_path):
    make_zip(tmp_path / "a.zip", IMAGES)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive, pytest.warns(UserWarning):
        archive.writestr("set/HR/1.png", b"other")
    refused(tmp_path / "a.zip", "each name once")


def test_a_name_twice_in_a_tar(tmp_path):
    again = tar_member("set/./HR//1.png")
    refused(make_tar(tmp_path / "a.tar", IMAGES, extra=[again]), "each name once")


@pytest.mark.parametrize(
    ("kind", "link", "says"),
    [
        (tarfile.SYMTYPE, "/etc", "a link to '/etc'"),
        (tarfile.SYMTYPE, "../..", "a link to '../..'"),
        (tarfile.SYMTYPE, "1.png", "a link to '1.png'"),
        (tarfile.LNKTYPE, "/etc/passwd", "a link to '/etc/passwd'"),
        (tarfile.LNKTYPE, "set/HR/1.png", "a link to 'set/HR/1.png'"),
        (tarfile.FIFOTYPE, "", "a device"),
        (tarfile.CHRTYPE, "", "a device"),
        (tarfile.BLKTYPE, "", "a device"),
    ],
)
def test_tar_members_that_are_no_files(tmp_path, kind, link, says):
    # The link comes first and a file is to be written through it.
    files = {"set/HR/link/passwd": b"x"} | IMAGES
    path = make_tar(tmp_path / "archive", files, extra=[tar_member("set/HR/link", kind, link)])
    refused(path, says)


def test_a_sparse_tar_member(tmp_path):
    """A terabyte of nothing in a block."""
    header = bytearray(tar_member("set/HR/x.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[483:495] = b"%011o\0" % (1 << 32)
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    refused(tmp_path / "a.tar", "which has holes")


def test_a_zip_with_a_symbolic_link(tmp_path):
    info = zipfile.ZipInfo("set/HR/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    make_zip(tmp_path / "a.zip", IMAGES)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr(info, "/etc")
    refused(tmp_path / "a.zip", "a link or a device")


def test_an_encrypted_zip(tmp_path):
    content = bytearray(make_zip(tmp_path / "a.zip", IMAGES).read_bytes())
    for signature, flags in [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)]:
        content[content.index(signature) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", "which is encrypted")


def test_a_zip_compressed_in_another_way(tmp_path):
    refused(make_zip(tmp_path / "a.zip", IMAGES, zipfile.ZIP_LZMA), "in an unusual way")


def test_a_zip_bomb_that_tells_its_size(tmp_path):
    path = make_zip(tmp_path / "a.zip", IMAGES | {"set/HR/bomb.png": bytes(30 << 20)})
    assert path.stat().st_size < 500_000
    refused(path, "31457280 bytes")


@pytest.mark.parametrize("told", [100, 40 << 20])
def test_a_zip_bomb_that_lies_about_its_size(tmp_path, told, monkeypatch):
    monkeypatch.setattr(archives, "SMALL_BYTES", 100 << 20)
    real = 30 << 20
    content = make_zip(tmp_path / "a.zip", {"set/HR/bomb.png": bytes(real)}).read_bytes()
    size, lie = real.to_bytes(4, "little"), told.to_bytes(4, "little")
    assert content.count(size) == 2
    (tmp_path / "a.zip").write_bytes(content.replace(size, lie))
    refused(tmp_path / "a.zip", "expected")


def test_a_bomb_of_members_that_share_their_bytes(tmp_path):
    """Fifield's: the directory names the same megabyte a hundred times."""
    make_zip(tmp_path / "one.zip", {"set/HR/00.png": bytes(1 << 20)})
    content = (tmp_path / "one.zip").read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entries = b"".join(
        content[start:end].replace(b"00.png", f"{number:02}.png".encode()) for number in range(100)
    )
    tail = bytearray(content[end:])
    tail[8:12] = (100).to_bytes(2, "little") * 2
    tail[12:16] = len(entries).to_bytes(4, "little")
    (tmp_path / "one.zip").unlink()
    (tmp_path / "a.zip").write_bytes(content[:start] + entries + tail)
    assert len(zipfile.ZipFile(tmp_path / "a.zip").infolist()) == 100
    refused(tmp_path / "a.zip", "expected")


@pytest.mark.parametrize("wanted", ["set", "other"])
def test_a_tar_bomb(tmp_path, wanted):
    """Also in a member that is not wanted, as it has to be unpacked to get past it.

    Of the member there is the header alone: to unpack more would be another error.
    """
    path = make_tar(tmp_path / "a.tar.gz", {"set/HR/x.png": bytes(30 << 20)} | REST, "w:gz")
    path.write_bytes(path.read_bytes()[:2000])
    refused(path, "31457280 bytes", wanted)


def test_a_tar_with_a_name_of_a_gigabyte(tmp_path):
    info = tar_member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    info.size = 1 << 30
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    refused(tmp_path / "a.tar.gz", "a header of 1073741824 bytes")


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_with_a_negative_size(tmp_path, kind):
    """It would lead tarfile back to where it has been, for ever."""
    info = tar_member("set/HR/x.png", kind)
    info.size = -1024
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(tmp_path / "a.tar", "-")


def test_a_tar_with_a_bomb_behind_its_end(tmp_path):
    make_tar(tmp_path / "a.tar", IMAGES)
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write((tmp_path / "a.tar").read_bytes() + bytes(30 << 20))
    refused(tmp_path / "a.tar.gz", "much follows the end")


def test_more_members_than_any_set_has(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    folders = [tar_member(f"set/{number}", tarfile.DIRTYPE) for number in range(11)]
    refused(make_tar(tmp_path / "a.tar", {}, extra=folders), "at most 10 members; found more")


@pytest.mark.parametrize("mode", ["w", "w:gz", "zip"])
def test_an_archive_cut_off_anywhere(tmp_path, mode):
    path = tmp_path / "archive"
    content = (
        make_zip(path, IMAGES) if mode == "zip" else make_tar(path, IMAGES, mode)
    ).read_bytes()
    data = 4 * 512 + sum(-(-len(image) // 512) * 512 for image in IMAGES.values())
    whole = len(content) if mode != "w" else data
    # Also exactly between two members of a plain tar, where nothing else is odd.
    for length in [0, 3, 100, 512, 1024, 1536, 2048, whole // 2, whole - 512, whole - 30, whole]:
        if mode == "w" or length < whole:
            path.write_bytes(content[:length])
            refused(path, "expected")


@pytest.mark.parametrize("mode", ["w", "w:gz", "zip"])
def test_a_byte_changed_anywhere_is_found_or_changes_no_name(tmp_path, mode):
    """A tar has checksums of its headers only; nothing may come out half."""
    path = tmp_path / "archive"
    content = (
        make_zip(path, IMAGES) if mode == "zip" else make_tar(path, IMAGES, mode)
    ).read_bytes()
    for seed in range(25):
        changed = bytearray(content)
        changed[random.Random(seed).randrange(len(content))] ^= 0x5A
        path.write_bytes(changed)
        out = tmp_path / f"{seed}"
        try:
            extract(path, {"set/HR": out})
        except UserError:
            assert not out.exists()
        else:
            assert {n: len(c) for n, c in tree(out).items()} == {
                name[7:]: len(image) for name, image in IMAGES.items()
            }
            assert mode == "w" or tree(out) == {n[7:]: image for n, image in IMAGES.items()}


@pytest.mark.parametrize(
    "content", [b"<html>404</html>", b"", b"PK\x03\x04" + bytes(900), b"\x1f\x8b" + bytes(900)]
)
def test_not_an_archive(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", "expected a complete zip or tar archive; found a broken one")


def test_not_the_expected_archive(tmp_path):
    refused(make_zip(tmp_path / "a.zip", IMAGES), "in its folder benchmark", "benchmark")


def test_a_file_where_a_folder_has_to_be(tmp_path):
    files = {"set/a": b"x", "set/a/b": b"x"}
    refused(make_tar(tmp_path / "a.tar", files), "expected to extract it; found")


def test_no_room(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    refused(make_zip(tmp_path / "a.zip", IMAGES), "of room for its images")


@pytest.mark.parametrize("kind", ["folder", "file", "dangling"])
def test_what_is_there_stays(tmp_path, kind):
    archive = make_zip(tmp_path / "a.zip", IMAGES)
    out = tmp_path / "Set"
    match kind:
        case "folder":
            out.mkdir()
            (out / "mine.txt").write_text("mine")
        case "file":
            out.write_text("mine")
        case "dangling":
            out.symlink_to(tmp_path / "nowhere")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="Move it away"):
        extract(archive, {"set": out})
    assert tree(tmp_path) == before and os.path.lexists(out)
    assert not (tmp_path / "nowhere").exists()


def test_killed_while_extracting(tmp_path):
    """Whenever that is, the folder is complete or not there, and the next run makes it."""
    files = {f"set/{i}.png": random.Random(i).randbytes(20_000) for i in range(300)}
    archive = make_zip(tmp_path / "a.zip", files, zipfile.ZIP_STORED)
    part, out = tmp_path / ".Set.extracting", tmp_path / "Set"
    process = get_context("fork").Process(target=extract, args=(archive, {"set": out}))
    process.start()
    deadline = time.monotonic() + 30
    while not (part / "100.png").exists() and not out.exists():
        assert time.monotonic() < deadline
    process.kill()
    process.join()
    assert part.exists() and not out.exists()
    # What the killed run left is not taken over.
    (part / "stale.png").write_bytes(b"x")
    extract(archive, {"set": out})
    assert tree(out) == {name[4:]: content for name, content in files.items()}
    assert not part.exists()
