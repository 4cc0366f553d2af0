"""The exception for errors that a user can correct, and texts for such messages."""

import re
from collections.abc import Iterable

# Those that move a cursor, change colours, or turn the order of what follows: C0, DEL and C1,
# separators of lines, marks of direction, tags; and surrogates, for bytes that are no text.
_CONTROL = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff"
    "\U000e0000-\U000e007f]"
)
# One slash, too: that is what a path makes of an address.
_USER_INFO = re.compile(r"([a-z][a-z0-9+.-]+:/{1,2})([^/\s?#'\"]*)@", re.IGNORECASE)
_SECRET = re.compile(
    r"([?&;][\w.-]*(?:token|secret|passw(?:or)?d|signature|credential|api[-_]?key|auth)[\w.-]*="
    r"|[?&;](?:sig|key|pwd)=)[^&;\s#'\"]+?(?=[:,.)]*(?:[&;\s#'\"]|$))",
    re.IGNORECASE,
)


def escaped(text: str, keep: str = "") -> str:
    """A text from a file, a server or a file system, safe to print on a terminal.

    Args:
        keep: control characters that stay.
    """

    def code(match: re.Match[str]) -> str:
        character = match[0]
        return character if character in keep else character.encode("unicode_escape").decode()

    # Nearly every text is clean.
    return _CONTROL.sub(code, text) if not text.isprintable() else text


def starred(text: str) -> str:
    """A text without the passwords and keys in its addresses."""
    if ":/" not in text:
        return text

    def stars(match: re.Match[str]) -> str:
        name, colon, _ = match[2].partition(":")
        return f"{match[1]}{name if colon else '***'}{':***' * bool(colon)}@"

    return _SECRET.sub(r"\1***", _USER_INFO.sub(stars, text))


def bounded(text: str, most: int = 4000) -> str:
    """A text whose lines keep so many characters; what their middle lacks is counted."""
    if len(text) <= most:
        return text
    end = most // 2  # has the reason and the advice
    return "\n".join(
        line
        if len(line) <= most
        else f"{line[: most - end]}... ({len(line) - most:,} characters) ...{line[-end:]}"
        for line in text.split("\n")
    )


class UserError(Exception):
    """A mistake in an option file, a path, a checkpoint or a command line.

    Its text says which file and key, what was expected, what was found and what
    to do.  The command line prints it without a traceback and exits with 2.

    Control characters in it are escaped, and passwords in addresses starred.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(escaped(starred(text), keep="\n\t"))


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
