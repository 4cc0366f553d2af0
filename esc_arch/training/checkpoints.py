"""The checkpoints of an experiment, on disk.

A checkpoint is the training state ``training_states/N.state``, the networks
``models/net_*_N.pth`` of iteration N, and ``training_states/N.json``, its record, which is
written last and names the other files with their sizes and checksums.  Without a record that
agrees with the files, there is no checkpoint.  Files of BasicSR's own training have no record;
they count when they load.
"""

import json
import os
import pickle
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esc_arch.checkpoints.state_dicts import read_file
from esc_arch.files import Digest, digest_of, flush_folder, read_regular, write_durably
from esc_arch.version import __version__

__all__ = [
    "MODELS",
    "OWN",
    "STATES",
    "Checkpoint",
    "Damaged",
    "Found",
    "amend_record",
    "check",
    "delete_older",
    "find_newest",
    "forget",
    "networks_of",
    "newest_recorded",
    "read_record",
    "record_path",
    "write_record",
]

# The key of a training state for all that BasicSR's does not have.
OWN = "esc_arch"
STATES, MODELS = "training_states", "models"
# A record under this ending no longer counts: its files are being deleted.
_DELETED = ".deleted"


class Damaged(Exception):
    """Why a checkpoint does not count: names the file and the damage."""


@dataclass(frozen=True)
class Checkpoint:
    """
    Attributes:
        iteration: after which it was saved.
        state: file of the training state.
        is_recorded: false for what BasicSR's own training saved.
    """

    iteration: int
    state: Path
    is_recorded: bool


@dataclass(frozen=True)
class Found:
    """
    Attributes:
        checkpoint: the newest complete one; None when there is none.
        skipped: one line for each newer one that is damaged or incomplete.
    """

    checkpoint: Checkpoint | None
    skipped: list[str]


def record_path(experiment: Path, name: int | str) -> Path:
    """The record of an iteration, or of the ``best`` networks."""
    return experiment / STATES / f"{name}.json"


def write_record(
    experiment: Path, name: int | str, files: Mapping[str, Digest], facts: Mapping[str, object]
) -> None:
    """Make written files a checkpoint.

    Args:
        files: by path relative to the experiment's folder.
        facts: JSON values to record beside them.

    Raises:
        OSError: as of :func:`write_durably`.
    """
    content = {
        "esc_arch": __version__,
        **facts,
        "files": {path: digest._asdict() for path, digest in files.items()},
    }
    text = json.dumps(content, indent=1) + "\n"
    write_durably(record_path(experiment, name), lambda file: file.write(text.encode()))


def amend_record(experiment: Path, name: int | str, facts: Mapping[str, object]) -> None:
    """Replace facts in the record of a checkpoint, which stays complete meanwhile.

    Raises:
        OSError: as of :func:`write_durably`.
        Damaged: when there is no record.
    """
    content = {**read_record(record_path(experiment, name)), **facts}
    del content["esc_arch"]
    write_record(experiment, name, content.pop("files"), content)


def read_record(path: Path) -> dict[str, Any]:
    """The content of a record.

    Raises:
        Damaged: when the file is missing or something else.
    """
    try:
        content: dict[str, Any] = json.loads(read_regular(path))
        # Paths that lead elsewhere are nothing that this package has written.
        if not all(
            Path(name).parts[:1] in ((STATES,), (MODELS,)) and ".." not in Path(name).parts
            for name in content["files"]
        ):
            raise ValueError("it names files outside the experiment")
        content["files"] = {
            name: Digest(int(entry["size"]), str(entry["sha256"]))
            for name, entry in content["files"].items()
        }
    except FileNotFoundError:
        raise Damaged(f"{path}: no such file") from None
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(f"{path}: no record of a checkpoint") from None
    return content


def check(
    experiment: Path, iteration: int, networks: Iterable[str], reads: bool = True
) -> Checkpoint:
    """The checkpoint of an iteration, every byte of which is there.

    Args:
        networks: labels, as ``g``, of the networks that BasicSR's states need beside them.
        reads: whether contents are compared with their checksums, and not sizes alone.

    Raises:
        Damaged: when it is incomplete.
    """
    state = experiment / STATES / f"{iteration}.state"
    record = record_path(experiment, iteration)
    if record.exists():
        files = read_record(record)["files"]
        if str(state.relative_to(experiment)) not in files:
            raise Damaged(f"{record}: no record of {state.name}")
        for name, digest in files.items():
            _check_file(experiment / name, digest, reads)
        return Checkpoint(iteration, state, is_recorded=True)
    content = _load(state)
    if OWN in content:
        raise Damaged(f"{record}: no such file, so the checkpoint was not finished")
    if content.get("iter") != iteration:
        raise Damaged(f"{state}: no training state of iteration {iteration}")
    for label in networks:
        _load(experiment / MODELS / f"net_{label}_{iteration}.pth")
    return Checkpoint(iteration, state, is_recorded=False)


def find_newest(experiment: Path, networks: Iterable[str], reads: bool = True) -> Found:
    """The newest checkpoint that is complete; see :func:`check`."""
    folder = experiment / STATES
    names = os.listdir(folder) if folder.is_dir() else []
    split = (os.path.splitext(name) for name in names)
    iterations = {int(s) for s, end in split if end in (".state", ".json") and _is_number(s)}
    networks = tuple(networks)
    skipped: list[str] = []
    for iteration in sorted(iterations, reverse=True):
        try:
            return Found(check(experiment, iteration, networks, reads), skipped)
        except Damaged as reason:
            skipped.append(f"checkpoint {iteration} is skipped: {reason}")
    return Found(None, skipped)


def networks_of(opt: Mapping[str, Any]) -> list[str]:
    """Labels, as ``g``, of the networks that are resumed from the files beside the state."""
    kept = opt["path"].get("ignore_resume_networks") or ()
    return [
        key.removeprefix("network_")
        for key in opt
        if key.startswith("network_") and key not in kept
    ]


def newest_recorded(experiment: Path) -> Checkpoint | None:
    """The newest checkpoint of which the record agrees with the files."""
    for iteration in reversed(_recorded(experiment)):
        with suppress(Damaged):
            return check(experiment, iteration, ())
    return None


def forget(experiment: Path, iteration: int) -> None:
    """Let a checkpoint count no longer, before its files are written again."""
    record_path(experiment, iteration).unlink(missing_ok=True)


def delete_older(experiment: Path, iteration: int, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints up to an iteration, the records first.

    Files of BasicSR's own training have no record and stay.  So do newer ones: they belong
    to a run that went on from an earlier state.

    Raises:
        OSError: when a file cannot be deleted.
    """
    past = [number for number in _recorded(experiment) if number <= iteration]
    for number in past[:-keep]:
        record = record_path(experiment, number)
        record.rename(record.with_name(f".{record.name}{_DELETED}"))
    # Those of a process that was killed here, too.
    for record in (experiment / STATES).glob(f".*{_DELETED}"):
        with suppress(Damaged):
            for name in read_record(record)["files"]:
                (experiment / name).unlink(missing_ok=True)
        record.unlink()
    flush_folder(experiment / STATES)


def _recorded(experiment: Path) -> list[int]:
    records = (experiment / STATES).glob("*.json")
    return sorted(int(record.stem) for record in records if _is_number(record.stem))


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdecimal() and str(int(stem)) == stem


def _check_file(path: Path, expected: Digest, reads: bool) -> None:
    try:
        size = path.stat().st_size
        if size != expected.size:
            raise Damaged(f"{path}: {size} bytes instead of {expected.size}")
        if reads and digest_of(path) != expected:
            raise Damaged(f"{path}: its content does not agree with its checksum")
    except FileNotFoundError:
        raise Damaged(f"{path}: no such file") from None
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from None


def _load(path: Path) -> dict[str, Any]:
    try:
        content = read_file(path)
    except FileNotFoundError:
        raise Damaged(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        raise Damaged(f"{path}: no checkpoint, or one that could run code") from None
    except Exception as error:  # the unpickler of a garbled file may raise anything
        raise Damaged(f"{path}: does not load ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise Damaged(f"{path}: no checkpoint")
    return content
