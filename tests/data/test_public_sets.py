"""The table of image sets, and getting a set from a server into place."""

import hashlib
import io
import os
import re
import tarfile
import time
import zipfile
from multiprocessing import get_context
from pathlib import Path

import pytest
import yaml

from esc_arch import transfer
from esc_arch.data.download_sets import download_set
from esc_arch.data.public_sets import PUBLIC_SETS, Archive, Folder, PublicSet, find
from esc_arch.errors import UserError
from tests.loopback_server import File, served

OPTIONS = Path(__file__).parents[2] / "options"
ARCHIVES = [archive for public_set in PUBLIC_SETS for archive in public_set.archives]
COUNTS = {"One": 2, "Two": 3}

# Forked, as another interpreter takes seconds to import torch.
Process = get_context("fork").Process


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSE_S", 0.001)


@pytest.fixture(scope="module")
def server():
    with served() as server:
        yield server


def image(name: str) -> bytes:
    return name.encode() * 20_000


def names(folder: str) -> list[str]:
    """What the archive holds of one of its folders."""
    return [
        f"{folder}/{kind}/{number}.png"
        for kind in ("HR", "LR_bicubic/X2")
        for number in range(COUNTS[folder])
    ]


def small_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in [*names("One"), *names("Two"), "README"]:
            info = tarfile.TarInfo(f"benchmark/{name}")
            info.size = len(image(name))
            archive.addfile(info, io.BytesIO(image(name)))
    return file.getvalue()


def small_set(url: str, body: bytes) -> PublicSet:
    folders = tuple(Folder(f"benchmark/{n}", f"sub/{n}", "HR", c) for n, c in COUNTS.items())
    return PublicSet(
        "small",
        "5 HR",
        "none",
        (Archive(url, folders, hashlib.md5(body).hexdigest(), size=len(body)),),
    )


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


WHOLE = {f"sub/{name}": image(name) for name in [*names("One"), *names("Two")]}


@pytest.fixture
def small(server):
    """A set, and the file that the server has of it."""
    body = small_tar()
    return small_set(server.put("small.tar", file := File(body, breaks=[50_000])), body), file


def test_every_set_says_all_that_is_needed():
    assert len({public_set.name.casefold() for public_set in PUBLIC_SETS}) == len(PUBLIC_SETS)
    for public_set in PUBLIC_SETS:
        assert public_set.images and public_set.terms
        # Either it can be downloaded, or it is said what to do and where it belongs.
        assert bool(public_set.archives) != bool(public_set.by_hand and public_set.folder)


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.name)
def test_addresses_and_checksums_are_well_formed(archive):
    assert re.fullmatch(r"https://[a-z.]+/[\w/]+\.(zip|tar)", archive.url)
    assert re.fullmatch(r"[0-9a-f]{32}", archive.md5)
    assert archive.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", archive.sha256)
    assert archive.size is None or archive.size > 10**8
    assert archive.folders


def test_no_checksum_is_there_twice():
    distinct = set(ARCHIVES)
    assert len({archive.md5 for archive in distinct}) == len(distinct) == 10
    assert len({folder.destination for a in distinct for folder in a.folders}) == 13


def roots(node) -> set[str]:
    """All image folders that an option file names."""
    if isinstance(node, dict):
        found = set().union(*map(roots, node.values()), set())
        keys = [key for key in node if key.startswith("dataroot_")]
        return found | {root for key in keys if isinstance(root := node[key], str)}
    return set()


@pytest.mark.parametrize("file", sorted(OPTIONS.glob("t*.yml")), ids=lambda file: file.stem)
def test_the_folders_of_the_option_files_are_those_that_sets_bring(file):
    brought = {folder.destination for archive in ARCHIVES for folder in archive.folders}
    # LR images of sets that are got by hand are made from the HR ones, beside them.
    brought |= {public_set.folder.split("/")[0] for public_set in PUBLIC_SETS if public_set.folder}
    named = roots(yaml.safe_load(file.read_text()))
    assert named
    for root in named:
        if "_sub" in root or root == "datasets/photos" or root.startswith("datasets/mine"):
            # Cut from what a set brings, and the user's own.
            continue
        inside = root.removeprefix("datasets/")
        assert any(inside == place or inside.startswith(f"{place}/") for place in brought), root


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("DIV2K", "DIV2K"),
        ("div2k_train_hr", "DIV2K_train_HR"),
        ("DIV2K_valid_LR_bicubic_X3", "DIV2K_valid_LR_bicubic_X3"),
        ("set14", "benchmark"),
        ("Urban100", "benchmark"),
        ("manga109", "Manga109"),
    ],
)
def test_finds_sets_by_their_name_or_what_they_bring(name, found):
    assert find(name).name == found


@pytest.mark.parametrize("name", ["", "Set6", "DIV2K/DIV2K"])
def test_an_unknown_set(name):
    with pytest.raises(UserError, match=r"expected one of DIV2K, DIV2K_train_HR, .*benchmark"):
        find(name)


def test_brings_a_set_and_then_leaves_it(small, tmp_path):
    public_set, file = small
    said = []
    download_set(public_set, tmp_path / "datasets", said.append)
    assert tree(tmp_path / "datasets") == WHOLE
    assert os.listdir(tmp_path / "datasets") == ["sub"]
    assert len(said) == 2 and "sub/One: 2 images from http" in said[0]
    asked = len(file.asked)
    assert asked == 2
    download_set(public_set, tmp_path / "datasets", said.append)
    assert len(file.asked) == asked
    assert said[2].endswith("sub/One: is there, with 2 images")


def test_a_folder_of_the_user_is_kept_and_the_others_are_brought(small, tmp_path):
    public_set, _ = small
    mine = tmp_path / "sub" / "One" / "HR"
    mine.mkdir(parents=True)
    for name in ("a.PNG", "b.jpg", "._b.jpg", "notes.txt"):
        (mine / name).write_text("mine")
    before = tree(tmp_path / "sub" / "One")
    download_set(public_set, tmp_path, print)
    assert tree(tmp_path / "sub" / "One") == before
    assert set(os.listdir(tmp_path / "sub")) == {"One", "Two"}


@pytest.mark.parametrize("kind", ["empty", "one image", "a file", "dangling"])
def test_a_folder_with_something_else_stops_before_any_download(small, tmp_path, kind):
    public_set, file = small
    place = tmp_path / "sub" / "Two"
    (place.parent).mkdir()
    match kind:
        case "empty":
            place.mkdir()
        case "one image":
            (place / "HR").mkdir(parents=True)
            (place / "HR" / "a.png").write_text("mine")
        case "a file":
            place.write_text("mine")
        case "dangling":
            place.symlink_to("nowhere")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"sub/Two/HR: expected 3 images .* left as they are"):
        download_set(public_set, tmp_path, print)
    assert tree(tmp_path) == before and file.asked == []


def test_an_archive_of_the_user_is_used_and_kept(small, tmp_path):
    public_set, file = small
    (tmp_path / "small.tar").write_bytes(file.body)
    download_set(public_set, tmp_path, print)
    assert tree(tmp_path) == WHOLE | {"small.tar": file.body}
    assert file.asked == []


def test_a_wrong_archive_of_the_user_is_not_used(small, tmp_path):
    public_set, file = small
    (tmp_path / "small.tar").write_bytes(bytes(len(file.body)))
    with pytest.raises(UserError, match=r"small.tar: expected .* expected md5 .* Move it away"):
        download_set(public_set, tmp_path, print)
    assert os.listdir(tmp_path) == ["small.tar"] and file.asked == []


def test_a_page_instead_of_the_archive(server, tmp_path):
    url = server.put("small.tar", File(b"<html>moved</html>"))
    with pytest.raises(UserError, match="the server announces 18"):
        download_set(small_set(url, small_tar()), tmp_path, print)
    assert os.listdir(tmp_path) == []


def test_an_archive_without_one_of_its_folders(server, tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("benchmark/One/HR/0.png", b"x")
        archive.writestr("evil.png", b"x")
    url = server.put("evil.zip", File(file.getvalue()))
    with pytest.raises(UserError, match="expected files in its folder benchmark/Two; found none"):
        download_set(small_set(url, file.getvalue()), tmp_path / "in" / "datasets", print)
    assert not list(tmp_path.rglob("evil.png"))


def test_sets_to_get_by_hand(tmp_path):
    with pytest.raises(UserError, match=r"Manga109/HR; found none.* http://www.manga109.org"):
        download_set(find("Manga109"), tmp_path, print)
    folder = tmp_path / "Manga109" / "HR"
    folder.mkdir(parents=True)
    (folder / "a.png").write_text("")
    said = []
    download_set(find("Manga109"), tmp_path, said.append)
    assert said == [f"{folder}: is there, with 1 images"]


def test_a_place_that_is_no_folder(small, tmp_path):
    (tmp_path / "datasets").write_text("")
    with pytest.raises(UserError, match="expected a folder to write to; found"):
        download_set(small[0], tmp_path / "datasets", print)


def _slowly(public_set: PublicSet, root: Path) -> None:
    extract = tarfile.TarFile.extract

    def slow(*arguments, **named):
        time.sleep(0.04)
        extract(*arguments, **named)

    tarfile.TarFile.extract = slow
    download_set(public_set, root, print)


def wait_until(happened) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_while_downloading_and_again_while_extracting(small, tmp_path):
    public_set, file = small
    file.breaks, file.pace_s = [], 0.1
    part = tmp_path / ".small.tar.download" / ".small.tar.part"
    process = Process(target=download_set, args=(public_set, tmp_path, print))
    process.start()
    wait_until(lambda: part.exists() and part.stat().st_size > 65536)
    process.kill()
    process.join()
    assert not (tmp_path / "sub").exists()

    file.pace_s = 0
    process = Process(target=_slowly, args=(public_set, tmp_path))
    process.start()
    wait_until(lambda: (tmp_path / "sub/.One.extracting/benchmark/One/HR/1.png").exists())
    process.kill()
    process.join()
    assert sorted(os.listdir(tmp_path / "sub")) == [".One.extracting", ".Two.extracting"]
    assert "Range" in file.asked[1]

    download_set(public_set, tmp_path, print)
    assert tree(tmp_path) == WHOLE
    # The third run had the archive.
    assert len(file.asked) == 2


def test_processes_that_want_the_same_set(small, tmp_path):
    public_set, file = small
    file.breaks = []
    processes = [Process(target=_slowly, args=(public_set, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert tree(tmp_path) == WHOLE and len(file.asked) == 1
