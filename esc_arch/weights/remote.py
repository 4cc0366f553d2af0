"""Checkpoints from the web, kept in the user's cache folder."""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from esc_arch.errors import UserError
from esc_arch.transfer import fetch

__all__ = ["cache_folder", "cached", "is_url"]

_CHECKSUM = re.compile(r"sha256=([0-9a-fA-F]{64})")
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 80


def is_url(source: object) -> bool:
    """Whether this is the address of a file on the web."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def cache_folder() -> Path:
    """``esc_arch/weights`` in ``XDG_CACHE_HOME``, or in ``~/.cache``."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says that a relative one is to be ignored.
    root = Path(told) if os.path.isabs(told) else Path.home() / ".cache"
    return root / "esc_arch" / "weights"


def cached(url: str) -> Path:
    """The file of an address, downloaded when it is asked for first.

    Each address has a folder of its own, named by the address's SHA-256, so that no two files
    can collide.  A file without a checksum is never asked for again: delete it to have a newer
    one.

    Args:
        url: http or https; may end with ``#sha256=`` and the file's checksum in hex, which is
            then compared.

    Raises:
        UserError: when it cannot be had or is not the expected file.
    """
    address, fragment = urldefrag(url)
    found = _CHECKSUM.fullmatch(fragment)
    if fragment and not found:
        raise UserError(
            f"{url}: expected #sha256= and 64 hexadecimal digits, or nothing, after the address; "
            f"found #{fragment}. Correct it."
        )
    sha256 = found[1].lower() if found else None
    # Another checksum is another file, though the address may stay.
    place = hashlib.sha256(f"{address}#{sha256 or ''}".encode()).hexdigest()
    return fetch(address, cache_folder() / place / _file_name(address), sha256=sha256)


def _file_name(address: str) -> str:
    """The last part of the address, with nothing in it that a file system may take amiss."""
    try:
        last = unquote(urlsplit(address).path).replace("\\", "/").rpartition("/")[2]
    except ValueError:  # fetch says what is wrong with the address
        last = ""
    # The end tells the form of the file.
    return _ODD.sub("_", last)[-_LONGEST_NAME:].lstrip(".") or "weights"
