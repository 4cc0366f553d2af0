"""Lines on the terminal: nothing of a name moves or colours it, and no closed output ends work."""

import errno
import io
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.table import Table

from esc_arch import terminal
from esc_arch.cli.main import main
from esc_arch.errors import UserError, bounded, escaped, starred
from esc_arch.upscale.planning import Existing, plan
from tests.upscale.stand_ins import photo, use

ODD = "\x1b[31m\x1b]0;x\x07\x9b\u202e\u2066\u2028\r\n\t\x00\x7f\ud800"


@given(st.text(st.characters() | st.sampled_from(ODD), max_size=40))
def test_no_control_character_is_left(text):
    """By the categories of Unicode: control, format of direction, surrogates, separators."""
    for character in escaped(text):
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in (
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        )  # fmt: skip
    if not set(text) & set(map(chr, range(32))) and text.isprintable():
        assert escaped(text) == text


def test_escapes_say_which_character_it_was():
    assert escaped("a\x1b[31m\u202eb\udcff\nc") == r"a\x1b[31m\u202eb\udcff\nc"
    assert str(UserError("x\x1b\ny")) == "x\\x1b\ny"
    assert escaped("ümläüt 日本 🙂") == "ümläüt 日本 🙂"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host/a: found", "https://me:***@host/a: found"),
        ("http://secret@host/a", "http://***@host/a"),
        ("https://me:se@cret@host/a?x=1", "https://me:***@host/a?x=1"),
        ("https://host/a?token=secret&x=1", "https://host/a?token=***&x=1"),
        ("https://host/a?token=secret: expected", "https://host/a?token=***: expected"),
        ("http:/me:secret@host/a", "http:/me:***@host/a"),
        ("C:/me@home/a", "C:/me@home/a"),
        ("https://host/a?X-Amz-Signature=secret", "https://host/a?X-Amz-Signature=***"),
        ("https://host/a, by x@y.org", "https://host/a, by x@y.org"),
        ("no address: a@b", "no address: a@b"),
    ],
)
def test_passwords_are_starred(text, shown):
    assert starred(text) == shown == str(UserError(text))


def test_lines_are_bounded():
    assert bounded("a\nb", 1) == "a\nb"
    assert bounded("x" * 15 + "end\ny", 10) == "x" * 5 + "... (8 characters) ...xxend\ny"


class Refusing(io.StringIO):
    """A stream that cannot be written to."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text=""):
        raise OSError(self.number, os.strerror(self.number))

    flush = write


@pytest.fixture
def photo_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use(monkeypatch)
    Image.fromarray(photo(8, 10)).save("a.png")


@pytest.mark.parametrize(
    ("stdout", "stderr"),
    [(None, None), (errno.ENOSPC, errno.ENOSPC), (errno.EPIPE, errno.EIO), (None, errno.EPIPE)],
)
def test_the_work_is_done_whoever_reads(photo_here, monkeypatch, stdout, stderr):
    for name, number in (("stdout", stdout), ("stderr", stderr)):
        monkeypatch.setattr(sys, name, None if number is None else Refusing(number))
    assert main(["upscale", "a.png", "-o", "b.png"]) == 0
    assert Image.open("b.png").size == (20, 16)
    for command in (["data", "stats", "."], ["runs", "."], ["nets"], ["data", "verify", "."]):
        assert main(command) == 0
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0


def test_an_output_that_is_the_work_must_come_to_its_place(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "stdout", Refusing(errno.ENOSPC))
    assert main(["options", "reference"]) == 1
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err
    assert main(["options", "new", "esc"]) == 1
    assert main(["options", "new", "--all", str(tmp_path)]) == 0 and list(tmp_path.iterdir())


CLOSED = (">&- 2>&-", ">/dev/full", "| true", "<&-")


@pytest.mark.parametrize("closing", CLOSED)
def test_a_process_without_its_outputs(closing):
    line = f"{sys.executable} -m esc_arch nets {closing}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == "", done


def test_what_is_opened_first_is_no_output(tmp_path):
    """With standard error closed, the next file would get its number, and the messages."""
    code = "import os, sys; from esc_arch.terminal import guarded\nwith guarded():\n"
    code += " file = open(sys.argv[1], 'w'); os.write(2, b'message'); file.write('content')"
    file = tmp_path / "a"
    subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "$1" "$2" 2>&-', "", code, str(file)], check=True
    )
    assert file.read_text() == "content"


CHARACTERS = st.characters(blacklist_characters="/\0") | st.sampled_from(ODD)


@settings(max_examples=40, deadline=None)
@given(name=st.text(CHARACTERS, min_size=1, max_size=300).filter(lambda name: name[0] != "."))
def test_any_name_of_a_file(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("names")
    try:
        (folder / f"{name}.png").write_bytes(b"no image")
    except (OSError, ValueError, UnicodeError):
        with pytest.raises(UserError) as caught:
            plan([str(folder)], str(folder / "out"), None, Existing())
        assert escaped(str(caught.value), keep="\n\t") == str(caught.value)
        return
    (job,) = plan([str(folder)], f"{folder}/out", None, Existing()).jobs
    assert job.target == folder / "out" / f"{name}.png"


def test_names_in_all_lines_are_escaped(photo_here, capfd, monkeypatch):
    name = "a\x1b[31m\u202e\udcff\x9b.png"
    os.rename("a.png", name)
    Path("b\x1b]0;x\x07\n.png").write_bytes(b"")
    Path("c\x1b.gif").write_bytes(b"")
    os.mkfifo("d\x1b.png")
    for command in (
        ["upscale", ".", "-o", "out\x1b/"],
        ["data", "verify", "."],
        ["data", "stats", "."],
        ["data", "prepare", ".", "--dest", "../made\x1b", "--scales", "2"],
        ["data", "lmdb", "."],
        ["upscale", "x\x1b.png", "-o", "y.png"],
        ["options", "new", "x\x1b"],
        ["runs", "x\x1b"],
        ["test", "-opt", "x\x1b"],
    ):
        assert main(command) in (0, 1, 2)
        said = "".join(capfd.readouterr())
        assert "Traceback" not in said and said
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said), said
        assert r"\x1b" in said


def test_tables_and_bars_keep_their_own_colours(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with terminal.guarded():
        table = Table("name")
        table.add_row("a\x1b[5mb")
        terminal.console().print(table, style="red")
    said = capsys.readouterr().out
    assert r"a\x1b[5mb" in said and "\x1b[5m" not in said and "\x1b[" in said


UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_names_beyond_ascii_in_a_locale_of_ascii(tmp_path):
    Image.fromarray(photo(8, 10)).save(tmp_path / "ümläüt.png")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LC_")} | UTF8
    for arguments in (["data", "stats", "."], ["data", "verify", "."]):
        done = subprocess.run(
            [sys.executable, "-m", "esc_arch", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr.decode()
    stats = done.stdout.decode()
    assert "1" in stats


@pytest.mark.parametrize(
    "command",
    [
        ["upscale", "in", "-o", "out"],
        ["data", "verify", "in"],
        ["data", "stats", "in"],
        ["data", "prepare", "in", "--dest", "made", "--scales", "2"],
        ["data", "lmdb", "in"],
    ],
)
def test_what_a_folder_leaves_out_is_said_once(photo_here, command, capfd):
    os.mkdir("in")
    for name in ("x.png", "y.jfif"):
        Image.fromarray(photo(8, 10)).save(f"in/{name}", "JPEG" if "jfif" in name else "PNG")
    for name in ("a.gif", "b.HEIC", "notes.txt"):
        Path("in", name).touch()
    assert main(command) == 0
    said = "".join(capfd.readouterr())
    for each in ("1 .gif", "1 .heic", "a.gif", "b.HEIC"):
        assert said.count(each) == 1
    assert "notes" not in said
