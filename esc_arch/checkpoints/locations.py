"""Where a checkpoint file is: a path, an address on the web, or the name of a shipped model.

Shipped models are small ones, to try the package offline.  They lie in
``experiments/pretrained_models`` of the repository, and in ``shipped_files`` beside this file in
an installed package, each as NAME.safetensors with a card NAME.md.  SHIPPED.json lists them with
their SHA-256 and names the default.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

from esc_arch.checkpoints.file_kinds import kind_of
from esc_arch.errors import UserError, listed
from esc_arch.files import sha256_of
from esc_arch.transfer import fetch

__all__ = ["FOLDERS", "LIST", "cache_folder", "cached", "is_url", "locate", "shipped"]
__all__ += ["shipped_folder", "shipped_names"]

LIST = "SHIPPED.json"

# Of an installed package, and of the repository.
FOLDERS = (
    Path(__file__).parent / "shipped_files",
    Path(__file__).parents[2] / "experiments" / "pretrained_models",
)

_CHECKSUM = re.compile(r"sha256=([0-9a-fA-F]{64})")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 80


def locate(source: str | Path | None) -> Path:
    """The path of a checkpoint file.

    Args:
        source: a path; an address, see :func:`cached`; the name of a shipped model; None for the
            default one.

    Raises:
        UserError: when there is no such file, or it is not the expected one.
    """
    if source is None:
        return shipped()
    if is_url(source):
        return cached(str(source))
    path = Path(source)
    if path.exists():
        return path
    names = shipped_names()
    if str(source) in names:
        return shipped(str(source))
    raise UserError(
        f"{source}: expected a checkpoint file, its address, or the name of a shipped model "
        f"({listed(names) or 'there is none'}); found no such file. Check the path: the current "
        f"folder is {Path.cwd()}."
    )


def is_url(source: object) -> bool:
    """Whether this is the address of a file on the web."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def cache_folder() -> Path:
    """``esc_arch/weights`` in ``XDG_CACHE_HOME``, or in ``~/.cache``."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says that a relative one is to be ignored.
    root = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"
    return root / "esc_arch" / "weights"


def cached(url: str) -> Path:
    """The file of an address, downloaded once.

    Each address has a folder of its own, named by the address's SHA-256, so that no two files
    can collide.  A file without a checksum is never downloaded again: delete it to have a newer
    one.

    Args:
        url: http or https; may end with ``#sha256=`` and the file's checksum in hex, which is
            then compared.

    Raises:
        UserError: when it cannot be downloaded or is not the expected file.
    """
    address, fragment = urldefrag(url)
    match = _CHECKSUM.fullmatch(fragment)
    if fragment and not match:
        raise UserError(
            f"{url}: expected #sha256= and 64 hexadecimal digits, or nothing, after the address; "
            f"found #{fragment}. Correct it."
        )
    sha256 = match[1].lower() if match else None
    # Another checksum is another file, though the address may stay.
    folder = hashlib.sha256(f"{address}#{sha256 or ''}".encode()).hexdigest()
    path = cache_folder() / folder / _file_name(address)
    if path.is_file() and _no_weights(path):
        path.unlink()  # an earlier version kept whatever an address gave
    try:
        return fetch(address, path, sha256=sha256, refuse=_no_weights)
    except UserError as error:
        if better := _file_of_page(address):
            raise UserError(
                f"{error} This is the address of a page; its file's is {better}"
            ) from error
        raise


def _no_weights(path: Path) -> str | None:
    kind = kind_of(path)
    if kind.form:
        return None
    return f"expected a file of weights; found that the address gave {kind.words}. {kind.advice}"


# Addresses of pages about a file, and how the file's own is made of them.
_PAGES = (
    (
        re.compile(r"(https?://(?:huggingface\.co|hf\.co|hf-mirror\.com)/.+?)/(?:blob|raw)/"),
        r"\1/resolve/",
    ),
    (re.compile(r"(https?://github\.com/[^/]+/[^/]+)/blob/"), r"\1/raw/"),
    (re.compile(r"(https?://gitlab\.[^/]+/.+?)/-/blob/"), r"\1/-/raw/"),
    (re.compile(r"(https?://(?:www\.)?dropbox\.com/.+[?&])dl=0"), r"\1dl=1"),
)


def _file_of_page(address: str) -> str | None:
    for pattern, file in _PAGES:
        found, count = pattern.subn(file, address, count=1)
        if count:
            return found
    return None


def _file_name(address: str) -> str:
    """The last part of an address, with only the characters that are safe in file names."""
    try:
        last = unquote(urlsplit(address).path).replace("\\", "/").rpartition("/")[2]
    except ValueError:  # fetch says what is wrong with the address
        last = ""
    # The end is the file type.
    return _UNSAFE.sub("_", last)[-_LONGEST_NAME:].lstrip(".") or "weights"


class _Shipped(NamedTuple):
    default: str | None
    sha256: dict[str, str]


def shipped_folder() -> Path | None:
    """The folder of the shipped models; None when the installation has none."""
    return next((path for path in FOLDERS if (path / LIST).is_file()), None)


def shipped_names() -> list[str]:
    """The names of the shipped models."""
    return sorted(_read_list(shipped_folder()).sha256)


def shipped(name: str | None = None) -> Path:
    """The file of a shipped model, its checksum compared.

    Args:
        name: None for the default.

    Raises:
        UserError: when there is no such model, or its file is not the one that was shipped.
    """
    folder = shipped_folder()
    models = _read_list(folder)
    name = models.default if name is None else name
    if folder is None or name is None:
        raise UserError(
            "expected a shipped model, as no weights are named; found none in this "
            "installation. Name a checkpoint file or its address."
        )
    if name not in models.sha256:
        raise UserError(
            f"{name}: expected the name of a shipped model: "
            f"{listed(sorted(models.sha256)) or 'none'}; found another. Name one, a checkpoint "
            "file or its address."
        )
    path = folder / f"{name}.safetensors"
    try:
        found = sha256_of(path)
    except OSError as error:
        raise UserError(
            f"{path}: expected the shipped model {name}; found {error.strerror or error}. Install "
            "the package again."
        ) from error
    if found != models.sha256[name]:
        raise UserError(
            f"{path}: expected the shipped model {name}, sha256 {models.sha256[name]}; found "
            f"{found}. Restore the file, or install the package again."
        )
    return path


def _read_list(folder: Path | None) -> _Shipped:
    if folder is None:
        return _Shipped(None, {})
    try:
        content = json.loads((folder / LIST).read_text(encoding="utf-8"))
        return _Shipped(content["default"], dict(content["sha256"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / LIST}: expected the list of shipped models; found one that does not load "
            f"({error}). Install the package again."
        ) from error
