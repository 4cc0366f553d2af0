"""Training samples that cannot be made: named, replaced or the end of the run, counted.

A sample is bad when its images cannot be read or decoded, or do not fit together.  The process
that makes it hands on what is wrong beside the batch, as an error of a worker would arrive with
the worker's traceback; the training process says it and decides.
"""

import errno
import logging
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np
import torch
from basicsr.utils.file_client import FileClient
from torch.utils.data import Dataset, default_collate

from esc_arch.errors import UserError

__all__ = ["ATTEMPTS", "BadSample", "BadSamples", "collate", "get_item"]

# Where a batch has what was found bad on the way to it.
KEY = "esc_arch_bad_samples"
# Samples that are tried in place of a bad one.
ATTEMPTS = 100
# Without `max_bad_samples`: one in so many, and never more than LIMIT.
SHARE, LIMIT = 100, 100
_LISTED = 20

# The machine's, not the sample's.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# What decoders and size checks raise.  Others, as a NameError, are mistakes of the code.
_OF_DATA = (
    OSError,
    UserError,
    ValueError,
    EOFError,
    cv2.error,
    zlib.error,
    struct.error,
    SyntaxError,  # Pillow's, of a broken PNG
)

_logger = logging.getLogger("basicsr.esc_arch")


class BadSample(Exception):
    """What is wrong with a sample: ``name: reason``."""


class _Unreadable(Exception):
    """An image that cannot be read.  No OSError: RealESRGANDataset takes another image then,
    which depends on nothing that a resumed run knows."""


class _Read(NamedTuple):
    name: str
    content: bytes


def get_item(dataset: Dataset, index: int) -> object:
    """``dataset[index]``.

    Raises:
        BadSample: when the sample is bad.  Other errors of the dataset pass.
    """
    reads: list[_Read] = []
    try:
        with _noting(reads):
            return dataset[index]
    except _Unreadable as error:
        raise BadSample(str(error)) from None
    except Exception as error:
        # BasicSR's datasets stop in many ways at an image that OpenCV could not decode.
        shapes = [_shape(read.content) for read in reads]
        for read, shape in zip(reads, shapes, strict=True):
            if shape is None:
                raise BadSample(f"{read.name}: no readable image") from None
        if not _is_of_data(error):
            raise
        reason = " ".join(str(part) for part in error.args) or type(error).__name__
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            name = error.filename or _name(dataset, index)
            raise BadSample(f"{name}: {reason}") from None
        sizes = [f"{r.name} {width}x{height}" for r, (height, width) in zip(reads, shapes)]  # noqa: B905
        if isinstance(error, UserError) and reads and reason.startswith(reads[-1].name):
            raise BadSample(reason) from None
        place = " with ".join(sizes) or _name(dataset, index)
        raise BadSample(f"{place}: {reason}") from None


def collate(samples: list) -> dict:
    """Samples as a batch, with what was bad on the way to them under ``KEY``.

    Args:
        samples: (sample, reasons); the sample is None when there is none.
    """
    reasons = [reason for _, own in samples for reason in own]
    if any(sample is None for sample, _ in samples):
        return {KEY: (reasons, True)}
    batch = default_collate([sample for sample, _ in samples])
    return {**batch, KEY: (reasons, False)} if reasons else batch


class BadSamples:
    """What the training process knows of bad samples; the same in all processes of a job.

    Args:
        opt: the run's options.
        length: of the dataset.
        found: list of those found so far, which grows.
    """

    def __init__(self, opt: dict, length: int, found: list[str]) -> None:
        section = opt["datasets"]["train"]
        self.skips = section.get("on_error", "stop") == "skip"
        self.found = found
        self._name = section["name"]
        self._limit = section.get("max_bad_samples") or min(LIMIT, max(1, length // SHARE))

    def take(self, batch: dict, device: torch.device) -> UserError | None:
        """Take the reasons out of a batch, say the new ones, and return why to stop, if so.

        Args:
            device: where the job's backend reduces tensors; all processes call this together.
        """
        reasons, is_without = batch.pop(KEY, ((), False))
        reasons, is_without = _of_all_processes(list(reasons), is_without, device)
        new = [reason for reason in dict.fromkeys(reasons) if reason not in self.found]
        if not self.skips:
            return self._stop(reasons[0]) if reasons else None
        for reason in new:
            self.found.append(reason)
            _logger.warning(
                f"Bad sample of {self._name}, another one takes its place: {reason} "
                f"(so far {len(self.found)}, at most {self._limit})"
            )
        if is_without:
            return self._end(f"no good one after {ATTEMPTS} bad ones in place of one sample")
        if len(self.found) > self._limit:
            return self._end(f"{len(self.found)}")
        return None

    def _stop(self, reason: str) -> UserError:
        return UserError(
            f"datasets.train: expected samples of {self._name} that can be read and fit together; "
            f"found {reason}. Mend or remove it, or write `on_error: skip` under datasets.train, "
            "and go on with --auto_resume."
        )

    def _end(self, found: str) -> UserError:
        listed = "".join(f"\n  {reason}" for reason in self.found[:_LISTED])
        rest = len(self.found) - _LISTED
        more = f"\n  and {rest} more, see the log" if rest > 0 else ""
        return UserError(
            f"datasets.train.max_bad_samples: expected at most {self._limit} bad samples of "
            f"{self._name}; found {found}. Mend or remove them (`basicsr data verify` finds all), "
            f"or raise max_bad_samples, and go on with --auto_resume:{listed}{more}"
        )


def _of_all_processes(
    reasons: list[str], is_without: bool, device: torch.device
) -> tuple[list[str], bool]:
    if not torch.distributed.is_initialized():
        return reasons, is_without
    is_any = torch.tensor(int(bool(reasons)), device=device)
    torch.distributed.all_reduce(is_any, torch.distributed.ReduceOp.MAX)
    if not is_any:
        return reasons, is_without
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, (reasons, is_without))
    return [reason for own, _ in everyone for reason in own], any(flag for _, flag in everyone)


@contextmanager
def _noting(reads: list[_Read]) -> Iterator[None]:
    """Note what BasicSR's file clients read, and say what they cannot."""
    get = FileClient.get

    def noted(self: FileClient, filepath: str, client_key: str = "default") -> bytes:
        name = _place(self, str(filepath), client_key)
        try:
            content = get(self, filepath, client_key)
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise
            raise _Unreadable(f"{name}: {error.strerror or error}") from None
        except Exception as error:
            if _is_of_data(error):
                raise _Unreadable(f"{name}: {error}") from None
            raise
        if not content:
            found = "no such key" if content is None else "empty, no image"
            raise _Unreadable(f"{name}: {found}")
        reads.append(_Read(name, content))
        return content

    FileClient.get = noted
    try:
        yield
    finally:
        FileClient.get = get


def _place(client: FileClient, path: str, key: str) -> str:
    """The file, or the LMDB and the key in it."""
    if client.backend != "lmdb":
        return path
    roots = dict(zip(client.client._client, client.client.db_paths, strict=True))
    return f"{roots.get(key, key)}, key {path}"


def _shape(content: bytes) -> tuple[int, int] | None:
    """Height and width of an encoded image; None when OpenCV cannot decode it."""
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # too many pixels
        return None
    return None if image is None else image.shape[:2]


def _is_of_data(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        return False
    lmdb = sys.modules.get("lmdb")
    return (
        isinstance(error, _OF_DATA)
        or (lmdb is not None and isinstance(error, lmdb.Error))
        # What torchvision's decoders raise; other packages' errors of that kind are their own.
        or type(error) is RuntimeError
    )


def _name(dataset: Dataset, index: int) -> str:
    """What a dataset calls a sample, by the list of paths that BasicSR's datasets have."""
    paths = getattr(dataset, "paths", None)
    entry = paths[index] if isinstance(paths, (list, tuple)) and index < len(paths) else None
    if isinstance(entry, Mapping):
        entry = entry.get("gt_path")
    return f"sample {index}" if not isinstance(entry, str) else entry
