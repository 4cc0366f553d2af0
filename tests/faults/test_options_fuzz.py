"""Random changes to the committed option files: accepted, or a UserError, and nothing else."""

import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from esc_arch import options
from esc_arch.errors import UserError
from esc_arch.options.yaml import parse_yaml
from tests.faults.fuzzing import ends, examples

FILES = sorted(Path(__file__).parents[2].glob("options/*.yml"))

odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from([10**6, 2**31, 2**62, -(2**62), 10**400]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "{}", "{0.x}", "~", "a/b", "../x", "\u2028", "😀", "auto", "None"]),
    st.dates(),
    st.binary(max_size=4),
    st.recursive(
        st.none() | st.integers(0, 3) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=6,
    ),
    st.dictionaries(st.integers() | st.none() | st.booleans(), st.none(), max_size=2),
)

snippets = st.sampled_from([
    "\t", "\0", "&a", "*a", "<<: *a\n", "<<: [1]\n", "!!python/object/apply:os.system ['x']",
    "!!float x", "!!int ''", "!!set {a}", "!!binary '*'", "!!omap [a: 1]", "2024-99-99",
    "0x" + "f" * 9999,
    "1e999", ".nan", "[" * 500, "{" * 500, "- " * 500, "? [a]\n: b\n", "---\n", "...\n",
    "%YAML 9.9\n",
    "|\n", ">\n", "'", '"', ": ", "\ufeff", "\x85", "=: 1\n", "1:2:3", "\r", "#", "@", "`",
])  # fmt: skip


def judged(check) -> None:
    """Run it: only a UserError may come out."""
    try:
        with ends():
            check()
    except UserError as error:
        assert str(error)


def places(section: object) -> list[tuple[dict | list, object]]:
    """Every place of a value: its container and key."""
    keys = list(section) if isinstance(section, dict) else range(len(section))
    found = [(section, key) for key in keys]
    for _, key in tuple(found):
        if isinstance(section[key], (dict, list)):
            found += places(section[key])
    return found


def run_checks(opt: dict, is_train: bool, folder: str) -> None:
    run = options.Run(is_train, folder)
    options.check(opt, "fuzz.yml", run)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@examples(60)
@given(data=st.data())
def test_values_are_changed(empty, data):
    file = data.draw(st.sampled_from(FILES))
    opt = options.read(str(file))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(opt)))
        change = data.draw(st.sampled_from(["replace", "delete", "rename", "wrap", "copy"]))
        value = container[key] if isinstance(container, list) or key in container else None
        if change == "replace":
            container[key] = data.draw(odd_values)
        elif change == "delete":
            del container[key]
        elif change == "wrap":
            container[key] = data.draw(st.sampled_from([[value], {"x": value}, {"type": value}]))
        elif isinstance(container, dict):
            container[data.draw(st.text(max_size=5))] = value
            if change == "rename":
                container.pop(key, None)
        if not opt:
            break
    judged(lambda: run_checks(opt, "train" in file.name, str(empty)))
    assert not os.listdir(empty)


@examples(80)
@given(data=st.data())
def test_text_is_changed(empty, data):
    file = data.draw(st.sampled_from(FILES))
    text = file.read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text)))
        end = place + data.draw(st.integers(0, 20))
        text = text[:place] + data.draw(snippets | st.text(max_size=5)) + text[end:]
    content = text.encode("utf-8", "surrogatepass")
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) - 1))
        content = content[:place] + data.draw(st.binary(max_size=2)) + content[place + 1 :]
    changed = empty / "changed.yml"
    changed.write_bytes(content)
    judged(lambda: run_checks(options.read(str(changed)), "train" in file.name, str(empty)))
    assert os.listdir(empty) == ["changed.yml"]


@examples(150)
@given(text=st.lists(snippets | st.text(max_size=6) | st.sampled_from(list("{}[],:- \n&*!")),
                     max_size=12).map("".join))  # fmt: skip
def test_any_text_as_yaml(text):
    judged(lambda: parse_yaml(text, "fuzz.yml"))


@examples(150)
@given(data=st.data())
def test_force_yml(data):
    opt = options.read(str(FILES[0]))
    key = data.draw(st.sampled_from(["scale", "network_g:dim", "val:x", "", ":", "name:a:b"])
                    | st.text(max_size=6))  # fmt: skip
    value = data.draw(
        odd_values.map(str) | snippets | st.text(max_size=8)
        | st.from_regex(re.compile(r"(!!float)?[-+\[]?[0-9_:.xeE]{1,30}\]?")))  # fmt: skip
    joint = data.draw(st.sampled_from(["=", "", "=="]))
    judged(lambda: options.force(opt, [f"{key}{joint}{value}"], "fuzz.yml"))


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9)), min_size=1, max_size=4)
)
@examples(100)
def test_merge_keys_mean_what_pyyaml_says(sections):
    lines = [f"s0: &s0 {sections[0]}"]
    for number, section in enumerate(sections[1:], 1):
        own = ", ".join(f"{k}: {v}" for k, v in section.items())
        sources = ", ".join(f"*s{i}" for i in range(number))
        lines.append(f"s{number}: &s{number} {{<<: [{sources}]{', ' if own else ''}{own}}}")
    text = "\n".join(lines).replace("'", "")
    assert parse_yaml(text, "x") == yaml.safe_load(text)


def test_a_file_for_a_network_that_is_no_section(empty):
    """Found by the test above, with no model to ask for the network's section."""
    opt = {"name": "x", "network_g": None, "path": {"pretrain_network_g": "gone.pth"}}
    judged(lambda: run_checks(opt, False, str(empty)))
