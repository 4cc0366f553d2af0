"""The exception for errors that a user can correct, and texts for such messages."""

import re
from collections.abc import Iterable

# Also those that turn the direction of writing, and bytes that are no text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """A mistake in an option file, a path, a checkpoint or a command line.

    Its text says which file and key, what was expected, what was found and what
    to do.  The command line prints it without a traceback and exits with 2.
    """


def printable(text: str) -> str:
    """Text with escapes for what would command a terminal, as names of files may hold it."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def last_line(error: BaseException) -> str:
    """As :func:`first_line`, the last line: the reason where the others say what was tried."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip().rstrip(". ") if lines else type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's text without its full stop; its type where it has no text.

    PyTorch and other libraries add pages to some messages.
    """
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def listed(names: Iterable[object], limit: int = 40) -> str:
    """Names separated by commas, the first ``limit`` of them."""
    texts = [printable(str(name)).replace("\n", "\\n") for name in names]
    rest = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + rest
