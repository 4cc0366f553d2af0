"""The exception for errors that a user can correct, and texts for such messages."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake in an option file, a path, a checkpoint or a command line.

    Its text says which file and key, what was expected, what was found and what
    to do.  The command line prints it without a traceback and exits with 2.
    """


class DivergedError(UserError):
    """A training has broken down: its losses or weights are not finite, and not worth a file."""


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
    texts = [str(name) for name in names]
    rest = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + rest
