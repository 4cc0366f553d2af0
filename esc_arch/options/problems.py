"""Collects the mistakes of one option file, and words them.

A problem names the key, the expected value, the found value and the remedy.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from esc_arch.errors import UserError, listed


@dataclass(frozen=True)
class Problem:
    key: str
    expected: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.key}: expected {self.expected}; found {self.found}. {self.advice}"


MISSING = "no such key"


class Problems:
    """The problems of one option file; a ``with`` block raises them at its end.

    Args:
        source: the file's name, for the message.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[Problem] = []

    def __enter__(self) -> "Problems":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None:
            self.raise_if_any()

    def add(self, key: str, expected: str, found: str, advice: str) -> None:
        """Note one problem; ``key`` is the dotted path of the option."""
        problem = Problem(key, expected, found, advice)
        if problem not in self._found:
            self._found.append(problem)

    def wrong(
        self,
        place: str,
        section: Mapping[str, object],
        name: str,
        expected: str,
        advice: str,
        absent: str = MISSING,
    ) -> None:
        """Note the value of a key of a section, or its absence.

        Args:
            place: dotted path of the section; "" for the file's top level.
            absent: found where the section has no such key.
        """
        found = describe(section[name]) if name in section else absent
        self.add(dotted(place, name), expected, found, advice)

    def under(self, key: str) -> bool:
        """Whether a problem is known at ``key``, below it or above it."""
        return any(
            problem.key == key
            or problem.key.startswith(f"{key}.")
            or key.startswith(f"{problem.key}.")
            for problem in self._found
        )

    def has(self, key: str) -> bool:
        """Whether a problem is known at exactly ``key``."""
        return any(problem.key == key for problem in self._found)

    def raise_if_any(self) -> None:
        """Raises: UserError: listing every problem, when there is one."""
        if not self._found:
            return
        if len(self._found) == 1:
            raise UserError(f"{self.source}: {self._found[0]}")
        lines = [f"  {number}. {problem}" for number, problem in enumerate(self._found, 1)]
        raise UserError("\n".join([f"{self.source}: {len(self._found)} problems", *lines]))


def dotted(place: str, name: object) -> str:
    """The dotted path of a key."""
    return f"{place}.{name}" if place else str(name)


def describe(value: object) -> str:
    """A value as a user wrote it, with its kind: ``'abc' (text)``."""
    if value is None:
        return "nothing (~)"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true or false)"
    if isinstance(value, dict):
        return f"a section with the keys {listed(value)}" if value else "an empty section"
    kind = {int: "whole number", float: "number", str: "text", list: "list"}.get(type(value))
    return f"{shortened(repr(value))} ({kind or type(value).__name__})"


def shortened(text: str, limit: int = 80) -> str:
    """``text``, cut to ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def nearest(name: object, known: Iterable[str], closeness: float = 0.6) -> str | None:
    """The known name closest to ``name``, ignoring case, or None when none is close."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=closeness)
    return by_lower[close[0]] if close else None


def unregistered(name: object, known: Iterable[str], kind: str) -> str:
    """Advice for a name that nothing is registered by: the nearest one where that is near, and
    how to train with one that the user's own package registers."""
    known = list(known)
    close = nearest(name, known, 0.75) or next(
        (k for k in known if len(str(name)) > 1 and str(name).lower() in k.lower()), None
    )
    advice = f"Did you mean '{close}'? " if close else ""
    return (
        f"{advice}If a package of your own registers this {kind}, start by a script of three "
        "lines, `import sys, esc_arch, YOUR_PACKAGE`, `from esc_arch.cli.main import main`, "
        "`sys.exit(main())`, as `python SCRIPT.py train -opt FILE`."
    )


def suggestion(name: object, known: Iterable[str]) -> str:
    """Advice for an unknown name: the nearest known one, or all."""
    known = sorted(known)
    if not known:
        return "Remove it."
    # A part of a name, as in `psnr` for calculate_psnr, is close to it too.
    containing = [k for k in known if len(str(name)) > 1 and str(name).lower() in k.lower()]
    close = nearest(name, known) or min(containing, key=len, default=None)
    if close is not None:
        return f"Did you mean '{close}'?"
    return f"Known are: {listed(known)}."
