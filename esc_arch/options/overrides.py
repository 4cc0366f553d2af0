"""``--force_yml key:key=value``: replaces values of an option file."""

from collections.abc import Sequence
from typing import Any

import yaml

from esc_arch.errors import UserError
from esc_arch.options.problems import describe, suggestion
from esc_arch.options.yaml import OptionLoader, parse_yaml

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
    tag = OptionLoader("").resolve(yaml.ScalarNode, text, (True, False))
    if text and ":" not in text and tag in _SCALAR_TAGS:
        return parse_yaml(text, place)
    return text


def _without_none_words(value: object) -> object:
    """BasicSR evaluates lists as Python, where None is written so."""
    if isinstance(value, list):
        return [_without_none_words(item) for item in value]
    return None if value == "None" else value
