"""Training samples that cannot be made: named, replaced or the end of the run, counted.

A sample is bad when its images cannot be read or decoded, or do not fit together.  The process
that makes it passes the reason along with the batch, as an error of a worker would arrive with
the worker's traceback; the training process logs it and decides.
"""

import logging
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from torch import distributed
from torch.utils.data import default_collate

from esc_arch.errors import UserError
from esc_arch.plugin.workarounds import SHORTAGES, UnreadableError, recorded_reads
from esc_arch.training import Options

__all__ = ["ATTEMPTS", "BadSample", "BadSamples", "collate", "get_item"]

# The key of a batch for the reasons of bad samples.
KEY = "esc_arch_bad_samples"
# Samples that are tried in place of a bad one.
ATTEMPTS = 100
# Without `max_bad_samples`: one in so many, and never more than LIMIT.
SHARE, LIMIT = 100, 100
_LISTED = 20

# Errors of decoders and size checks.  Others, as a NameError, are mistakes of the code.
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
    """The reason why a sample is bad: ``name: reason``."""


def get_item(dataset: Any, index: int, make: Callable[[], Any] | None = None) -> Any:
    """``dataset[index]``.

    Args:
        make: gives this sample; None: the dataset.

    Raises:
        BadSample: when the sample is bad.  Other errors of the dataset pass.
    """
    # Defect: BasicSR's datasets take `type` out of these at their first use, so after an error
    # there the second one is a KeyError, which hides the first.
    backend = getattr(dataset, "io_backend_opt", None)
    before = dict(backend) if isinstance(backend, dict) else {}
    with recorded_reads() as reads:
        try:
            return dataset[index] if make is None else make()
        except UnreadableError as error:
            raise BadSample(str(error)) from None
        except Exception as error:
            if isinstance(backend, dict) and getattr(dataset, "file_client", None) is None:
                backend.update(before)
            # BasicSR's datasets stop in many ways at an image that OpenCV could not decode.
            sizes = []
            for read in reads:
                if (shape := _shape(read.content)) is None:
                    raise BadSample(f"{read.name}: no readable image") from None
                sizes.append(f"{read.name} {shape[1]}x{shape[0]}")
            if not _is_of_data(error):
                raise
            reason = " ".join(str(part) for part in error.args) or type(error).__name__
            if isinstance(error, OSError):
                reason = error.strerror or str(error)
                name = error.filename or _name(dataset, index)
                raise BadSample(f"{name}: {reason}") from None
            if isinstance(error, UserError) and reads and reason.startswith(reads[-1].name):
                raise BadSample(reason) from None
            place = " with ".join(sizes) or _name(dataset, index)
            raise BadSample(f"{place}: {reason}") from None


def collate(samples: list[tuple[Any, list[str]]]) -> dict[str, Any]:
    """Samples as a batch, with the reasons of bad ones under ``KEY``.

    Args:
        samples: (sample, reasons); the sample is None when there is none.
    """
    reasons = [reason for _, own in samples for reason in own]
    if any(sample is None for sample, _ in samples):
        return {KEY: (reasons, True)}
    batch = default_collate([sample for sample, _ in samples])
    return {**batch, KEY: (reasons, False)} if reasons else batch


class BadSamples:
    """The bad samples of a run; the same in all processes of a job.

    Args:
        opt: the run's options.
        length: of the dataset.
        found: list of those found so far, which grows.
    """

    def __init__(self, opt: Options, length: int, found: list[str]) -> None:
        section = opt["datasets"]["train"]
        self.skips = section.get("on_error", "stop") == "skip"
        self.found = found
        self._name = section["name"]
        self._limit = section.get("max_bad_samples") or min(LIMIT, max(1, length // SHARE))

    def take(self, batch: dict[str, Any], device: torch.device) -> UserError | None:
        """Take the reasons out of a batch, log the new ones, and return the error to stop with.

        Args:
            device: where the job's backend reduces tensors; all processes call this together.
        """
        reasons, is_without = batch.pop(KEY, ((), False))
        reasons, is_without = _of_all_processes(list(reasons), is_without, device)
        new = [reason for reason in dict.fromkeys(reasons) if reason not in self.found]
        if not self.skips:
            if not reasons:
                return None
            return UserError(
                f"datasets.train: expected samples of {self._name} that can be read and fit "
                f"together; found {reasons[0]}. Repair or remove it, or write `on_error: skip` "
                "under datasets.train, and go on with --auto_resume."
            )
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

    def _end(self, found: str) -> UserError:
        listed = "".join(f"\n  {reason}" for reason in self.found[:_LISTED])
        rest = len(self.found) - _LISTED
        more = f"\n  and {rest} more, see the log" if rest > 0 else ""
        return UserError(
            f"datasets.train.max_bad_samples: expected at most {self._limit} bad samples of "
            f"{self._name}; found {found}. Repair or remove them (`basicsr data verify` finds "
            f"all), or raise max_bad_samples, and go on with --auto_resume:{listed}{more}"
        )


def _of_all_processes(
    reasons: list[str], is_without: bool, device: torch.device
) -> tuple[list[str], bool]:
    if not distributed.is_initialized():
        return reasons, is_without
    is_any = torch.tensor(int(bool(reasons)), device=device)
    distributed.all_reduce(is_any, distributed.ReduceOp.MAX)
    if not is_any:
        return reasons, is_without
    everyone: list[tuple[list[str], bool]] = [([], False)] * distributed.get_world_size()
    distributed.all_gather_object(everyone, (reasons, is_without))
    return [reason for own, _ in everyone for reason in own], any(flag for _, flag in everyone)


def _shape(content: bytes) -> tuple[int, int] | None:
    """Height and width of an encoded image; None when OpenCV cannot decode it."""
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # too many pixels
        return None
    return None if image is None else (image.shape[0], image.shape[1])


def _is_of_data(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in SHORTAGES:
        return False
    lmdb = sys.modules.get("lmdb")
    return (
        isinstance(error, _OF_DATA)
        or (lmdb is not None and isinstance(error, lmdb.Error))
        # Raised by torchvision's decoders; subclasses of other packages are not of data.
        or type(error) is RuntimeError
    )


def _name(dataset: Any, index: int) -> str:
    """The name of a sample by the list of paths that BasicSR's datasets have."""
    paths = getattr(dataset, "paths", None)
    entry = paths[index] if isinstance(paths, (list, tuple)) and index < len(paths) else None
    if isinstance(entry, Mapping):
        entry = entry.get("gt_path")
    return f"sample {index}" if not isinstance(entry, str) else entry
