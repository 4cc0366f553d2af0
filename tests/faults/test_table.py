"""Every row of the table: exit code, message, what is written, and no traceback."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from esc_arch.cli.main import main
from tests.faults.bad_images import ODD, encoded
from tests.faults.table import CASES, IMAGES
from tests.faults.workplace import TEST, furnish, write_options


@pytest.fixture(scope="session")
def furnished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("furnished")
    furnish(folder)
    return folder


@pytest.fixture
def here(furnished, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    shutil.copytree(furnished, folder)
    monkeypatch.chdir(folder)
    return folder


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if not path.is_dir()}


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: re.sub(r"\W+", "_", f"{c.command[:50]}_{c.given}")
)
def test_case(case, here, monkeypatch, capfd):
    case.prepare()
    before = files()
    if case.breaks:
        module, name = case.breaks.split(".")
        assert module == "os"

        def fail(*args, **kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, name, fail)
    code = main(case.command.split(" "))
    printed = capfd.readouterr()
    text = printed.err + printed.out
    assert "Traceback" not in text
    assert code == case.code, text
    assert re.search(case.says, " ".join(text.split())), text
    if case.made is not None:
        assert files() - before == set(case.made)
    else:
        assert not [name for name in files() - before if name.endswith((".png", "meta_info.txt"))
                    and "part" not in name]  # fmt: skip
    assert not Path("ran").exists()


class Ran:
    """A command on all odd images, run once."""

    def __init__(self, folder: Path, surface) -> None:
        self.folder, self.text, self.code = folder, "", None
        self.surface = surface

    def run(self, capfd) -> None:
        if self.code is None:
            _lay_out()
            for name in self.surface.apart:
                os.unlink(f"odd/{name}")
            self.code = main(list(self.surface.arguments))
            printed = capfd.readouterr()
            self.text = printed.err + printed.out


def _lay_out() -> None:
    """Below ``odd``; also as a test set: ``sets/odd/HR``, whose LR images are to be made."""
    os.mkdir("odd")
    for odd in ODD:
        if odd.content is None:
            os.symlink("nothing", f"odd/{odd.name}")
        else:
            Path("odd", odd.name).write_bytes(odd.content())
    Path("odd/good.png").write_bytes(encoded(".png"))
    os.makedirs("sets/odd")
    os.symlink("../../odd", "sets/odd/HR")
    section = {
        "name": "odd",
        "type": "DownsampleImageDataset",
        "dataroot_gt": "odd",
        "io_backend": {"type": "disk"},
    }
    write_options(Path("odd.yml"), TEST, datasets={"test_1": section})


@pytest.fixture(scope="module")
def runs(furnished, tmp_path_factory):
    found = {}
    for surface in IMAGES:
        folder = tmp_path_factory.mktemp("odd") / "here"
        shutil.copytree(furnished, folder)
        found[surface.command] = Ran(folder, surface)
    return found


@pytest.mark.parametrize(
    "surface, odd",
    [
        pytest.param(surface, odd, id=f"{surface.command}-{odd.name}")
        for surface in IMAGES
        for odd in ODD
        if odd.name not in surface.apart
    ],
)
def test_image(surface, odd, runs, monkeypatch, capfd):
    ran = runs[surface.command]
    monkeypatch.chdir(ran.folder)
    ran.run(capfd)
    assert "Traceback" not in ran.text
    assert ran.code == surface.code, ran.text
    slash = "" if odd.name in surface.too_small else "/"
    lines = [line for line in ran.text.splitlines() if not line.startswith("note: ")]
    told = [line for line in lines if f"{slash}{odd.name}" in line]
    if odd.name in surface.too_small:
        assert told
    elif odd.is_bad:
        assert any(re.search(odd.says, line) for line in told), ran.text
    else:
        assert not told or surface.command == "data verify", told
        if surface.command == "upscale":
            image = Image.open(Path("made", odd.name))
            assert image.size == tuple(2 * side for side in odd.size)
            assert image.mode == odd.says
    if odd.is_bad and surface.command == "upscale":
        assert not Path("made", odd.name).exists()
    if surface.code == 2:
        assert not any(map(os.path.exists, ("made", "made.lmdb", "results", "experiments")))
