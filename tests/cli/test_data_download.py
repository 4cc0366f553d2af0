"""``basicsr data download`` as it is typed."""

import hashlib
import io
import zipfile

import pytest

from esc_arch.cli.main import main
from esc_arch.data import public_sets
from esc_arch.data.public_sets import PUBLIC_SETS, Archive, Folder, PublicSet
from tests.loopback_server import File, served


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def typed(*arguments: str) -> int:
    return main(["data", "download", *arguments])


def test_without_a_name_it_lists_all_sets(capsys, folder):
    assert typed() == 0
    printed = capsys.readouterr().out
    for public_set in PUBLIC_SETS:
        assert public_set.name in printed
    for text in ("3.5 GB", "over 5.0 GB", "about 250.0 MB", "not known", "by hand"):
        assert text in printed
    # Nothing that the user has to follow is cut off.
    for public_set in PUBLIC_SETS:
        assert public_set.by_hand in printed and f"Terms: {public_set.terms}\n" in printed
        for archive in public_set.archives:
            assert f"from {archive.url.removesuffix(archive.name)}\n" in printed
    assert "Manga109, to datasets/Manga109/HR\n" in printed
    assert list(folder.iterdir()) == []


def test_an_unknown_name_stops_before_the_first_download(capsys, folder):
    assert typed("DIV2K", "DIV3K") == 2
    said = capsys.readouterr().err
    assert said.startswith("basicsr: DIV3K: expected one of DIV2K, ")
    assert list(folder.iterdir()) == []


def test_a_set_to_get_by_hand_says_what_to_do(capsys):
    assert typed("manga109", "--dest", "elsewhere") == 2
    said = capsys.readouterr().err
    assert "elsewhere/Manga109/HR" in said and "http://www.manga109.org/en/" in said


def test_a_set_is_brought_to_the_folder_of_the_option_files(monkeypatch, capsys, folder):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("DIV2K_train_HR/0001.png", b"image")
    body = file.getvalue()
    with served() as server:
        url = server.put("DIV2K_train_HR.zip", served_file := File(body))
        place = Folder("DIV2K_train_HR", "DIV2K/DIV2K_train_HR", "", 1)
        md5 = hashlib.md5(body).hexdigest()
        public_set = PublicSet("tiny", "1 HR", "anyone", (Archive(url, (place,), md5),))
        monkeypatch.setattr(public_sets, "PUBLIC_SETS", (public_set,))
        assert typed("tiny") == 0
        first = capsys.readouterr().out
        assert typed("tiny") == 0
        second = capsys.readouterr().out
        assert len(served_file.asked) == 1
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert files == ["datasets/DIV2K/DIV2K_train_HR/0001.png"]
    assert "tiny: 1 HR. Terms: anyone" in first
    assert f"datasets/DIV2K/DIV2K_train_HR: 1 images from {url}" in first
    assert "datasets/DIV2K/DIV2K_train_HR: is there, with 1 images" in second
