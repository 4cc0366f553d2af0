"""Names of prepared images and keys of LMDBs: one rule for each, by which no two are the same."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import quote

from esc_arch.errors import UserError, listed

__all__ = ["MOST_KEY_BYTES", "key_of", "require_one_each", "unique_names"]

MOST_KEY_BYTES = 511  # of lmdb
# Of a file, which most file systems take; there is room for x16, _s00001 and .png.
_MOST_NAME_BYTES = 255 - 16
_SHOWN = 20
# All that a key may have: BasicSR ends it at the first dot and reads ASCII, its lists split at
# spaces, and % begins an escape.
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "%.")
_Place = TypeVar("_Place")


def key_of(name: str) -> str:
    """The LMDB key of an image.

    What a key cannot hold is written as in addresses of the web, ``%20`` for a space, so that
    different names have different keys whatever other names there are.
    """
    key = quote(os.fsencode(name), safe=_PLAIN).replace(".", "%2E")
    return _shortened(key, key.encode(), MOST_KEY_BYTES)


def unique_names(paths: Iterable[str]) -> dict[str, str]:
    """A file name, without extension, for each path below a folder of images.

    The path's own name where no other is the same, or differs in capitals or in how accents are
    written, which some file systems take for the same; its folders are put before it otherwise.

    Args:
        paths: with slashes.

    Returns:
        Names by path.

    Raises:
        UserError: for all images at once that differ in nothing but the extension.
    """
    paths = list(paths)
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(str(PurePosixPath(path).with_suffix("")), []).append(path)
    require_one_each(groups, "image of each name")
    names = {path: _short_name(path, PurePosixPath(path).stem) for path in paths}
    for full in (_with_folders, _with_digest):
        taken: dict[str, list[str]] = {}
        for path, name in names.items():
            taken.setdefault(_folded(name), []).append(path)
        for several in taken.values():
            if len(several) > 1:
                names |= {path: _short_name(path, full(path)) for path in several}
    return names


def require_one_each(groups: Mapping[str, list[_Place]], expected: str) -> None:
    """Raise a UserError that names every group of more than one."""
    several = [f"{name} ({listed(of, 5)})" for name, of in groups.items() if len(of) > 1]
    if several:
        raise UserError(
            f"expected one {expected}; found {len(several)} with more: {listed(several, _SHOWN)}. "
            "Rename or remove one of each."
        )


def _with_folders(path: str) -> str:
    return "_".join(PurePosixPath(path).with_suffix("").parts)


def _with_digest(path: str) -> str:
    # a_b/c.png and a/b_c.png
    return f"{_with_folders(path)}_{_digest(os.fsencode(path))}"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _short_name(path: str, name: str) -> str:
    return _shortened(name, os.fsencode(path), _MOST_NAME_BYTES)


def _shortened(name: str, whole: bytes, most: int) -> str:
    if len(os.fsencode(name)) <= most:
        return name
    ending = f"_{_digest(whole)}"
    start = os.fsencode(name)[: most - len(ending)].decode("utf-8", "ignore")
    # Not half of an escape.
    return re.sub(r"%.?$", "", start) + ending


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
