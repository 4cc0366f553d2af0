"""Archives as they should be, broken ones, and names that lead out of their folder."""

import io
import os
import random
import shutil
import stat
import tarfile
import time
import zipfile
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest

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
    assert stat.S_IMODE(mode.st_mode) & 0o7133 == 0 and mode.st_uid == os.getuid()


@pytest.mark.parametrize(
    "name",
    [
        "set/../../x.png",
        "set//../../../x.png",
        "set/HR/../../../../x.png",
        "set/HR/../4.png",
        "../x.png",
        "/tmp/x.png",
        "//x",
    ],
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_lead_elsewhere(tmp_path, make, name):
    refused(make(tmp_path / "archive", {name: b"x"} | IMAGES), "of safe names; found: ")


@pytest.mark.parametrize("name", ["C:/x.png", "c:x", "set\\..\\x.png", "other/..x.png"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_odd_names_of_other_folders_stay_in_the_archive(tmp_path, make, name):
    path = make(tmp_path / "archive", {name: b"x"} | IMAGES)
    extract(path, {"set": tmp_path / "in" / "Set"})
    expected = {f"in/Set/{n[4:]}": image for n, image in IMAGES.items()}
    assert tree(tmp_path) == expected | {"archive": path.read_bytes()}


def test_a_name_twice_in_a_zip(tmp_path):
    make_zip(tmp_path / "a.zip", IMAGES)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive, pytest.warns(UserWarning):
        archive.writestr("set/HR/1.png", b"other")
    refused(tmp_path / "a.zip", "found: 'set/HR/1.png' twice")


def test_a_name_twice_in_a_tar(tmp_path):
    again = tar_member("set/./HR//1.png")
    refused(make_tar(tmp_path / "a.tar", IMAGES, extra=[again]), "found: 'set/HR/1.png' twice")


def test_a_zip_with_a_symbolic_link(tmp_path):
    info = zipfile.ZipInfo("set/HR/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    make_zip(tmp_path / "a.zip", IMAGES)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr(info, "/etc")
    refused(tmp_path / "a.zip", "safe names; found: 'set/HR/link', which is a link")


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc"),
        (tarfile.SYMTYPE, "../../../.."),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
    ],
)
def test_tar_members_that_are_no_files(tmp_path, kind, link):
    # The link comes first and a file is to be written through it.
    files = {"set/HR/link/passwd": b"x"} | IMAGES
    path = make_tar(tmp_path / "archive", files, extra=[tar_member("set/HR/link", kind, link)])
    refused(path, "safe names")


def test_an_encrypted_zip(tmp_path):
    content = bytearray(make_zip(tmp_path / "a.zip", IMAGES).read_bytes())
    for signature, flags in [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)]:
        content[content.index(signature) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", "is encrypted")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_a_truncated_archive(tmp_path, mode):
    """A plain tar only inside a member: its checksum, compared before, finds the rest."""
    path = tmp_path / "archive"
    make_zip(path, IMAGES) if mode == "zip" else make_tar(path, IMAGES, mode)
    content = path.read_bytes()
    for length in [0, 3, 100, 2048 + 300, len(content) // 2, len(content) - 20_000]:
        path.write_bytes(content[:length])
        refused(path, "expected")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "zip"])
def test_a_changed_byte(tmp_path, mode):
    """It is found, or changes nothing that is extracted; a plain tar has no such checksums."""
    path = tmp_path / "archive"
    make_zip(path, IMAGES) if mode == "zip" else make_tar(path, IMAGES, mode)
    content = path.read_bytes()
    for seed in range(25):
        changed = bytearray(content)
        changed[random.Random(seed).randrange(len(content))] ^= 0x5A
        path.write_bytes(changed)
        out = tmp_path / f"{seed}"
        try:
            extract(path, {"set/HR": out})
        except UserError as error:
            assert not out.exists() and "expected a complete zip or tar" in str(error)
        else:
            assert tree(out) == {n[7:]: image for n, image in IMAGES.items()}


def test_a_changed_byte_far_behind_the_beginning(tmp_path):
    """In another block of bzip2 than the first header, so that it is a tar until then."""
    path = tmp_path / "archive"
    with tarfile.open(path, "w:bz2", compresslevel=1) as archive:
        for name, image in IMAGES.items():
            info = tarfile.TarInfo(name)
            info.size = len(image)
            archive.addfile(info, io.BytesIO(image))
    content = bytearray(path.read_bytes())
    content[-100_000] ^= 0x5A
    path.write_bytes(content)
    assert tarfile.is_tarfile(path)
    refused(path, "expected a complete zip or tar archive of safe names; found: Invalid data")


@pytest.mark.parametrize(
    "content", [b"<html>404</html>", b"", b"PK\x03\x04" + bytes(900), b"\x1f\x8b" + bytes(900)]
)
def test_not_an_archive(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", "expected a complete zip or tar archive of safe names; found")


def test_not_the_expected_archive(tmp_path):
    refused(make_zip(tmp_path / "a.zip", IMAGES), "in its folder benchmark", "benchmark")


def test_a_file_where_a_folder_has_to_be(tmp_path):
    files = {"set/a": b"x", "set/a/b": b"x"}
    refused(make_tar(tmp_path / "a.tar", files), "expected to extract it; found")


def test_no_room(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
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
    while not (part / "set" / "100.png").exists() and not out.exists():
        assert time.monotonic() < deadline
    process.kill()
    process.join()
    assert part.exists() and not out.exists()
    # What the killed run left is not taken over.
    (part / "stale.png").write_bytes(b"x")
    extract(archive, {"set": out})
    assert tree(out) == {name[4:]: content for name, content in files.items()}
    assert not part.exists()
