"""Option files as text: what is read, what is refused, and --force_yml."""

import json
from pathlib import Path

import pytest
from basicsr.utils.options import _postprocess_yml_value

from esc_arch import options
from esc_arch.errors import UserError


def read(folder: Path, text: str | bytes) -> dict:
    file = folder / "x.yml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return options.read(str(file))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1e-4", 1e-4),
        ("!!float 5e-4", 5e-4),
        ("!!float 5e3", 5000.0),
        ("1.5e3", 1500.0),
        ("-2E+2", -200.0),
        (".5e1", 5.0),
        ("1e", "1e"),
        ("e4", "e4"),
        (".e4", ".e4"),
        ("'5e-4'", "5e-4"),
        ("0.999", 0.999),
        ("64", 64),
        ("~", None),
        ("", None),
        ("true", True),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("'{}x2'", "{}x2"),
    ],
)
def test_values(tmp_path, text, value):
    read_value = read(tmp_path, f"a: {text}\n")["a"]
    assert read_value == value
    assert type(read_value) is type(value)


def test_keys_keep_their_order(tmp_path):
    assert list(read(tmp_path, "z: 1\na: 2\nm: 3\n")) == ["z", "a", "m"]


def test_aliases_and_merges_give_independent_sections(tmp_path):
    opt = read(tmp_path, "a: &a {type: Adam, lr: 1}\nb: *a\nc: {<<: *a, lr: 2}\n")
    assert opt == {"a": {"type": "Adam", "lr": 1}, "b": opt["a"], "c": {"type": "Adam", "lr": 2}}
    assert opt["a"] is not opt["b"]


def test_byte_order_mark_and_other_scripts(tmp_path):
    assert read(tmp_path, b"\xef\xbb\xbfname: \xc3\xa9\n") == {"name": "é"}


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("a: 1\nb: !!python/object/apply:os.system [touch x]\n", (":2:", "!!python/object/apply")),
        ("a: !!python/name:os.system\n", (":1:", "tag", "is refused", "without a tag")),
        ("a: !secret 1\n", (":1:", "'!secret'", "is refused")),
        ("a: 1\nb: 2\na: 3\n", (":3:", "'a' is given twice", "line 1")),
        ("s:\n  x: 1\n  x: 1\n", (":3:", "'x' is given twice", "line 2")),
        ("a: [1, 2\nb: 3\n", (":2:", "not a usable option file", "flow sequence")),
        ("a: b: c\n", (":1:", "mapping values are not allowed")),
        ("a:\n\tb: 1\n", (":2:", "tab")),
        ("a: 1\n--- \nb: 2\n", (":2:", "single document")),
        ("a: \x07\n", (":1:", "control character 0x07")),
        ("a: 1\nb: !!float x\n", ("'x'", "without the tag")),
        ("a: 2024-99-99\n", ("as text in quotes",)),
        ("a: &a [*a]\n", ("nesting without end",)),
        ("[" * 5000, ("nesting without end",)),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n"
            for i in range(8)
        ), ("at most 100000 values",)),
        ("? [a, b]\n: 1\n", (":1:", "unhashable")),
        ("", ("found it empty",)),
        ("# only a comment\n", ("found it empty",)),
        ("- a\n- b\n", ("keys such as `name:`", "list")),
        ("just text", ("keys such as `name:`", "str")),
        (b"name: \xff\n", ("UTF-8", "0xff", "position 6")),
    ],
)  # fmt: skip
def test_refused_files(tmp_path, text, fragments):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "x.yml"))
    assert all(fragment in message for fragment in fragments), message
    assert list(tmp_path.iterdir()) == [tmp_path / "x.yml"], "something was run"


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match=r"no\.yml: .*found no such file"):
        options.read(str(tmp_path / "no.yml"))
    with pytest.raises(UserError, match="found a folder"):
        options.read(str(tmp_path))
    with pytest.raises(UserError, match="readable option file"):
        options.read("a\0b")


SAME_AS_BASICSR = [
    "~", "none", "None", "true", "True", "false", "FALSE", "3", "007", "0.5", "2.", ".5",
    "!!float 1e-4", "!!float1e-4", "[1, 2]", "[0.9, 0.99]", "['a', 'b']", "[]", "[None, 1]",
    "datasets/x", "a b", "{}x2", "1:30", "a#b", "", "x=y", "2024-01-01", "-", "a: b",
]  # fmt: skip


@pytest.mark.parametrize("text", SAME_AS_BASICSR)
def test_forced_values_are_those_of_basicsr(text):
    opt = {"a": {"b": 0}}
    options.force(opt, [f"a:b={text}"], "x.yml")
    expected = _postprocess_yml_value(text)
    assert opt["a"]["b"] == expected
    assert type(opt["a"]["b"]) is type(expected)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("-1", -1), ("-0.5", -0.5), ("'007'", "007"), ("[a]", ["a"])],
)
def test_forced_values_beyond_basicsr(text, value):
    opt = {"a": 0}
    options.force(opt, [f"a={text}"], "x.yml")
    assert opt["a"] == value
    assert type(opt["a"]) is type(value)


@pytest.mark.parametrize(
    ("entry", "fragments"),
    [
        ("train:ema_decay", ("KEY:KEY=VALUE", "no '='")),
        ("=3", ("KEY:KEY=VALUE", "no key")),
        ("train:ema_dekay=3", ("x.yml", "no train.ema_dekay", "'ema_decay'?")),
        ("trian:ema_decay=3", ("no trian", "'train'?")),
        ("name:x=3", ("expected name to be a section", "'n' (text)")),
        ("name=[1, 2", ("not a usable option file",)),
        ('name=["a"].__class__', ("not a usable option file",)),
        ("name=[!!python/name:os.system ]", ("is refused",)),
        ("name=!!float x", ("--force_yml name=!!float x", "'x'")),
    ],
)
def test_refused_entries(entry, fragments):
    opt = {"name": "n", "train": {"ema_decay": 0.9}}
    with pytest.raises(UserError) as caught:
        options.force(opt, [entry], "x.yml")
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
    assert opt == {"name": "n", "train": {"ema_decay": 0.9}}


def test_code_in_an_entry_is_text():
    opt = {"name": "n"}
    options.force(opt, ["name=__import__('os').getcwd()"], "x.yml")
    assert opt["name"] == "__import__('os').getcwd()"
    with pytest.raises(UserError):
        options.force(opt, ['name"]=1;x["name=1'], "x.yml")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.toml", b'name = "x"\n[train]\ntotal_iter = 5\n'),
        ("x.TOML", b"name = 'x'\n"),
        ("x.ini", b"[train]\ntotal_iter = 5\n"),
        ("x.py", b"name = 'x'\n"),
    ],
)
def test_options_of_another_format(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: expected an option file in YAML .*found one in"):
        options.read(str(tmp_path / name))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le"])
def test_utf_16(tmp_path, encoding):
    """As `>` of PowerShell writes it."""
    text = "name: x\n" if encoding == "utf-16" else "\ufeffname: x\n"
    (tmp_path / "x.yml").write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=r"x\.yml: expected .*; found: it is UTF-16 text"):
        options.read(str(tmp_path / "x.yml"))


def test_json_is_yaml(tmp_path):
    content = {"name": "ü", "train": {"optim_g": {"lr": 1e-4}, "periods": [1, 2.5], "x": None}}
    for escaped in (True, False):
        (tmp_path / "x.json").write_text(
            json.dumps(content, indent=2, ensure_ascii=escaped), encoding="utf-8"
        )
        assert options.read(str(tmp_path / "x.json")) == content
