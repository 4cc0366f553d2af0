"""Reads an option file: YAML that cannot run code, and ``--force_yml`` on top of it."""

import re
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from esc_arch.errors import UserError
from esc_arch.files import open_regular
from esc_arch.options.problems import describe, suggestion

# Far above any option file; a few lines of aliases can otherwise stand for gigabytes.
MAX_VALUES = 100_000
MAX_BYTES = 1_000_000

# Formats of other programs' options, which YAML would take for odd text.
OTHER_FORMATS = {
    ".toml": "TOML",
    ".ini": "INI",
    ".cfg": "INI",
    ".conf": "INI",
    ".xml": "XML",
    ".py": "Python",
}

# Python writes no number of thousands of digits, and nothing that reads options takes one.
_MOST_BITS = 63

_MERGE = "tag:yaml.org,2002:merge"


class OptionLoader(yaml.SafeLoader):
    """SafeLoader that reads ``5e-4`` as a number, and refuses a key given twice, numbers of more
    than 63 bits, and merge keys (``<<``) that multiply."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._flat: set[int] = set()
        self._merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace ``<<`` by the keys of the sections it names, before the section's own keys.

        SafeLoader's own copies as often as merge keys of merge keys ask for.
        """
        if id(node) in self._flat:
            return
        self._flat.add(id(node))
        self._refuse_repeated(node)
        pairs, node.value = node.value, []
        merged, own = [], []
        for key_node, value_node in pairs:
            if key_node.tag == _MERGE:
                merged += self._merge(key_node, value_node)
                continue
            if key_node.tag == "tag:yaml.org,2002:value":
                key_node.tag = "tag:yaml.org,2002:str"
            own.append((key_node, value_node))
        node.value = merged + own

    def _merge(
        self, key_node: yaml.Node, value_node: yaml.Node
    ) -> list[tuple[yaml.Node, yaml.Node]]:
        """The keys and values that ``<<`` stands for; of equal keys the last one counts."""
        is_list = isinstance(value_node, yaml.SequenceNode)
        pairs = []
        # The first of several sections has the last word.
        for section in reversed(value_node.value) if is_list else [value_node]:
            if not isinstance(section, yaml.MappingNode):
                _refuse(section, "expected sections for the merge key '<<'; found something else")
            self.flatten_mapping(section)
            self._merged += len(section.value)
            if self._merged > MAX_VALUES:
                _refuse(
                    key_node,
                    f"expected merge keys ('<<') that give at most {MAX_VALUES} values; "
                    "found more, remove those that multiply them",
                )
            pairs += section.value
        return pairs

    def _refuse_repeated(self, node: yaml.MappingNode) -> None:
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, Hashable) and lines.setdefault(key, line) != line:
                first = f"key '{key}' is given twice in one section, first in line {lines[key]}"
                _refuse(key_node, f"{first}; keep one of them")

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if value.bit_length() > _MOST_BITS:
            limit = f"expected a whole number of at most {_MOST_BITS} bits; found a larger one"
            _refuse(node, f"{limit}, write a smaller one or, for text, quotes")
        return value

    def construct_undefined(self, node: yaml.Node) -> NoReturn:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        advice = "expected plain values, write the value without a tag"
        _refuse(node, f"tag '{tag}' is refused, as it could run code; {advice}")


def _refuse(node: yaml.Node, problem: str) -> NoReturn:
    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)


# YAML 1.1 asks for a dot in a number with an exponent; people write 5e-4.
OptionLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
OptionLoader.add_constructor(None, OptionLoader.construct_undefined)
OptionLoader.add_constructor("tag:yaml.org,2002:int", OptionLoader.construct_yaml_int)


def read(path: str) -> dict[str, Any]:
    """Read an option file.

    Args:
        path: file name of the YAML file.

    Returns:
        Its content as plain dicts, lists and scalars, keys in the file's order; no part
        is shared between two places, even where the file uses an alias.

    Raises:
        UserError: when there is no such file, or it is not UTF-8, not YAML, has a key
            twice, a tag that asks for a Python object, or no mapping at its top.
    """
    file = Path(path)
    if file.is_dir():
        raise UserError(f"{path}: expected an option file (.yml); found a folder. Name the file.")
    try:
        # Not one byte more of a file without end, or of one that is no option file at all.
        with open_regular(file) as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise OSError(f"it has more than {MAX_BYTES:,} bytes")
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise OSError("it is UTF-16 text, and YAML is read in UTF-8")
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"{path}: expected an option file; found no such file. Check the path: the current "
            f"folder is {Path.cwd()}."
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected a YAML file in UTF-8; found byte {error.object[error.start]:#04x} "
            f"at position {error.start}. Save the file as UTF-8 text."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: expected a readable option file; found: {error}. Check the path and its "
            "permissions."
        ) from None
    kind = OTHER_FORMATS.get(file.suffix.lower())
    if kind is not None:
        raise UserError(
            f"{path}: expected an option file in YAML (.yml), of which JSON is a part; found one "
            f"in {kind}. Start from a file under options/, or from `basicsr options new`."
        )
    opt = parse_yaml(text, path)
    if opt is None:
        raise UserError(
            f"{path}: expected an option file; found it empty. Start from a file under options/."
        )
    if not isinstance(opt, dict):
        raise UserError(
            f"{path}: expected keys such as `name:` at the top; found a {type(opt).__name__}. "
            "Start from a file under options/."
        )
    return opt


def parse_yaml(text: str, source: str) -> object:
    """The value of one YAML document.

    Args:
        source: name for the message, usually the file's.

    Raises:
        UserError: with source and line.
    """
    loader = None
    try:
        loader = OptionLoader(text)
        return _unshared(loader.get_single_data(), source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        context = f"{error.context}, " if error.context else ""
        raise UserError(
            f"{source}{line}: not a usable option file: {context}{error.problem}."
            f"{_hint(text, mark)}"
        ) from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{source}:{number}: expected text; found the control character "
            f"{error.character:#04x}. Remove it."
        ) from None
    except (ValueError, OverflowError, LookupError, TypeError, AttributeError) as error:
        # SafeLoader lets these through for `!!float abc`, `!!int ""` or a date like 2024-99-99.
        number = loader.line + 1 if loader else 1
        raise UserError(
            f"{source}: expected values that fit their tags; found one that does not, before "
            f"line {number}: {error}. Write it as text in quotes, or without the tag."
        ) from None
    except RecursionError:
        raise UserError(
            f"{source}: expected a few levels of sections; found nesting without end. "
            "Remove the aliases (*name) or brackets that cause it."
        ) from None


def _hint(text: str, mark: yaml.Mark | None) -> str:
    """A likely cause of a mistake in the line at ``mark``."""
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in line:
        return " The line holds a tab: indent with spaces."
    return " Look at this line and the one before: indentation, quotes, a space after each colon."


def _unshared(value: object, source: str) -> object:
    """A copy without shared parts: BasicSR pops keys from sections while it reads them."""
    left = MAX_VALUES

    def copy(part: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise UserError(
                f"{source}: expected at most {MAX_VALUES} values; found more. "
                "Remove the aliases (*name) that multiply them."
            )
        if isinstance(part, dict):
            return {key: copy(item) for key, item in part.items()}
        if isinstance(part, list):
            return [copy(item) for item in part]
        return part

    return copy(value)


_SCALAR_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")}


def force(opt: dict[str, Any], entries: Sequence[str] | None, source: str) -> None:
    """Replace values in place.

    Args:
        opt: the option file's content.
        entries: texts of the form ``train:ema_decay=0.99``; None for none.
        source: the option file's name, for the message.

    Raises:
        UserError: for an entry without ``=``, a key that the file does not have, or a
            list that is not YAML.
    """
    for entry in entries or ():
        keys, equals, value = entry.partition("=")
        place = f"--force_yml {entry}"
        if not equals or not keys.strip():
            raise UserError(
                f"{place}: expected KEY:KEY=VALUE; found no "
                f"{'key before ' if equals else ''}'='. Write, for example, "
                "--force_yml train:ema_decay=0.99."
            )
        section, path = opt, [key.strip() for key in keys.split(":")]
        for depth, key in enumerate(path):
            if not isinstance(section, dict):
                raise UserError(
                    f"{place}: {source}: expected {'.'.join(path[:depth])} to be a section; "
                    f"found {describe(section)}. Shorten the key."
                )
            if key not in section:
                raise UserError(
                    f"{place}: {source}: expected a key of the option file; found no "
                    f"{'.'.join(path[: depth + 1])}. {suggestion(key, map(str, section))} "
                    "New keys go into the file."
                )
            if depth == len(path) - 1:
                section[key] = parse_value(value.strip(), place)
            section = section[key]


def parse_value(text: str, place: str) -> object:
    """The value that BasicSR would give to ``text``, without ``eval``.

    Beyond BasicSR: signs, ``1e-4`` and quoted text are read as in the option file.

    Args:
        place: named in the message.

    Raises:
        UserError: for a list or quoted text that is not YAML.
    """
    if text.lower() == "none":
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.isascii() and text.isdigit():
        # As YAML, except that zeros before a number do not make it octal.
        return parse_yaml(text.lstrip("0") or "0", place)
    if text.startswith("!!float"):
        # BasicSR accepts `!!float1e-4` too.
        text = f"!!float {text.removeprefix('!!float').strip()}"
        return parse_yaml(text, place)
    if text.startswith("["):
        return _without_none_words(parse_yaml(text, place))
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return parse_yaml(text, place)
    # A colon would make 1:30 a base-60 number.
    resolve: Callable[..., str] = OptionLoader("").resolve
    tag = resolve(yaml.ScalarNode, text, (True, False))
    if text and ":" not in text and tag in _SCALAR_TAGS:
        return parse_yaml(text, place)
    return text


def _without_none_words(value: object) -> object:
    """BasicSR evaluates lists as Python, where None is written so."""
    if isinstance(value, list):
        return [_without_none_words(item) for item in value]
    return None if value == "None" else value
