"""SHA-256 of a file."""

import hashlib
from pathlib import Path

__all__ = ["sha256_of"]

_AT_ONCE = 1 << 20


def sha256_of(path: str | Path) -> str:
    """The checksum of a file, in hex.

    Raises:
        OSError: when it cannot be read.
    """
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_AT_ONCE):
            checksum.update(chunk)
    return checksum.hexdigest()
