"""The models that come with the package: small ones, to try it without a network.

They lie in ``experiments/pretrained_models`` of the repository, and in ``shipped_files`` beside
this file in an installed package, each as NAME.safetensors with a card NAME.md.  SHIPPED.json
lists them with their checksums and names the one that is taken when none is named.
"""

import json
from pathlib import Path

from esc_arch.errors import UserError, listed
from esc_arch.files import sha256_of

__all__ = ["LIST", "folder", "names", "shipped"]

LIST = "SHIPPED.json"

# Of an installed package, and of the repository.
_FOLDERS = (
    Path(__file__).parent / "shipped_files",
    Path(__file__).parents[2] / "experiments" / "pretrained_models",
)


def folder() -> Path | None:
    """Where the shipped models lie; None when they were left out of the installation."""
    return next((path for path in _FOLDERS if (path / LIST).is_file()), None)


def names() -> list[str]:
    """Of the shipped models."""
    return sorted(_read()["sha256"])


def shipped(name: str | None = None) -> Path:
    """The file of a shipped model, its checksum compared.

    Args:
        name: None for the default.

    Raises:
        UserError: when there is no such model, or its file is not the one that was shipped.
    """
    found = _read()
    known = found["sha256"]
    if name is None:
        name = found["default"]
        if name is None:
            raise UserError(
                "expected a shipped model, as no weights are named; found none in this "
                "installation. Name a checkpoint file or its address."
            )
    if name not in known:
        raise UserError(
            f"{name}: expected the name of a shipped model: {listed(sorted(known)) or 'none'}; "
            "found another. Name one, a checkpoint file or its address."
        )
    path = folder() / f"{name}.safetensors"
    try:
        present = sha256_of(path)
    except OSError as error:
        raise UserError(
            f"{path}: expected the shipped model {name}; found {error.strerror or error}. Install "
            "the package again."
        ) from error
    if present != known[name]:
        raise UserError(
            f"{path}: expected the shipped model {name}, sha256 {known[name]}; found {present}. "
            "Restore the file, or install the package again."
        )
    return path


def _read() -> dict:
    place = folder()
    if place is None:
        return {"default": None, "sha256": {}}
    try:
        found = json.loads((place / LIST).read_text(encoding="utf-8"))
        default, known = found["default"], dict(found["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{place / LIST}: expected the list of shipped models; found one that does not read "
            f"({error}). Install the package again."
        ) from error
    return {"default": default, "sha256": known}
