"""One training at a time in an experiment's folder."""

import json
import os
import socket
import time
from pathlib import Path

from esc_arch.errors import UserError

try:
    import fcntl
except ImportError:  # not there on Windows, where nothing is locked
    fcntl = None

__all__ = ["LOCK", "ExperimentLock", "is_held"]

LOCK = ".lock"
# The processes of a run that was killed, and who lists the runs, hold it for a moment.
_WAIT_S = 1.0
_POLL_S = 0.1

_held: set[int] = set()


def _close_in_child() -> None:
    # Data workers outlive a killed training by seconds, in which it shall be resumed.
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class ExperimentLock:
    """Holds the lock of an experiment's folder inside its block, from :meth:`take` on.

    The lock ends with the process, however that ends.

    Args:
        experiment: the folder; it may be made, or renamed and made anew, inside the block.
    """

    def __init__(self, experiment: Path) -> None:
        self._experiment = experiment
        self._file: int | None = None

    def __enter__(self) -> "ExperimentLock":
        return self

    def __exit__(self, *exception: object) -> None:
        self._release()

    def take(self) -> None:
        """Lock the folder that has the experiment's name now, if there is one.

        Raises:
            UserError: when another process has locked it.
        """
        if fcntl is None or not self._experiment.is_dir():
            return
        path = self._experiment / LOCK
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            return  # what is written next says why
        try:
            is_ours = self._is_same(file) or _locked(file)
        except OSError:
            is_ours = None  # a file system without locks
        if not is_ours:
            holder = _read(file)
            os.close(file)
            if is_ours is None:
                return
            raise UserError(
                f"{self._experiment}: expected no other training in this experiment; found one"
                f"{holder}. Wait until it ends or stop it, or train under another `name`."
            )
        if self._is_same(file):
            os.close(file)
            return
        self._release()
        self._file = file
        _held.add(file)
        text = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, text.encode(), 0)
        except OSError:
            pass  # a full disk; who holds it is a comfort only

    def _is_same(self, file: int) -> bool:
        return self._file is not None and os.path.sameopenfile(self._file, file)

    def _release(self) -> None:
        if self._file is not None:
            _held.discard(self._file)
            os.close(self._file)
            self._file = None


def is_held(experiment: Path) -> bool | None:
    """Whether a training holds the lock; None when there is no lock file, or no telling."""
    try:
        file = os.open(experiment / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, AttributeError):
        return None
    finally:
        os.close(file)
    return False


def _locked(file: int) -> bool:
    end = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_S)
        else:
            return True


def _read(file: int) -> str:
    try:
        holder = json.loads(os.pread(file, 1000, 0))
        return f" (process {holder['pid']} on {holder['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
