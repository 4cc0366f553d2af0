"""A training as a process: its lock on the experiment's folder, and the signals that end it."""

import json
import multiprocessing.util
import os
import shutil
import signal
import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed

from esc_arch.errors import UserError
from esc_arch.files import Held, locked, write_durably

__all__ = [
    "LOCK",
    "ExperimentLock",
    "StopRequested",
    "StopSignals",
    "note_worker_folder",
    "remove_worker_folders",
    "require_files",
]

LOCK = ".lock"
# In the experiment's folder: where the workers of a process have their sockets.
_WORKERS = ".workers_{}.json"
# Open files of a training, and of each of its workers, at the least.
_FILES, _FILES_OF_WORKER = 32, 16
_NOTED = (
    "\nbasicsr: {name}: ending this iteration and saving; another Ctrl-C stops without saving.\n"
)


class ExperimentLock(ExitStack):
    """Holds the lock of an experiment's folder inside its block, from :meth:`take` on.

    The lock ends with the process, however that ends.

    Args:
        experiment: the folder; it may be made, or renamed and made again, inside the block.
    """

    def __init__(self, experiment: Path) -> None:
        super().__init__()
        self._path = experiment / LOCK
        self._held: os.stat_result | None = None

    def take(self) -> None:
        """Lock the folder that has the experiment's name now, if there is one.

        Raises:
            UserError: when another process has locked it.
        """
        if not self._path.parent.is_dir():
            return
        if self._held and self._path.exists() and os.path.samestat(self._held, self._path.stat()):
            return
        try:
            with ExitStack() as new:
                new.enter_context(locked(self._path))
                self.release()
                self._held = self._path.stat()
                self.push(new.pop_all())
        except Held as error:
            raise UserError(
                f"{self._path.parent}: expected no other training in this experiment; found one"
                f"{error.holder}. Wait until it ends or stop it, or train under another `name`."
            ) from None
        except OSError:
            return  # what is written next says why

    def release(self) -> None:
        """Unlock; on Windows, a folder cannot be renamed with an open file in it."""
        self._held = None
        self.close()


class StopRequested(Exception):
    """Raised between the images of a validation when the process was asked to stop."""


class StopSignals:
    """Notes SIGTERM and SIGINT inside its block instead of ending the process.

    A second signal that is a Ctrl-C ends the process at once, with the exit code 130.

    Attributes:
        received: number of the first signal; None when there was none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                # A shell has its background processes ignore Ctrl-C.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # print() must not be called from within print().
        if self.received is not None and number == signal.SIGINT:
            with suppress(OSError):  # nobody may read it
                os.write(2, b"\nbasicsr: stopped by a second Ctrl-C, without saving\n")
            os._exit(128 + number)
        if self.received is None:
            self.received = number
            with suppress(OSError):
                os.write(2, _NOTED.format(name=signal.Signals(number).name).encode())

    def agreed(self, device: torch.device) -> int | None:
        """The signal that any process of the job has received; all call this together.

        Args:
            device: where the job's backend reduces tensors.
        """
        if not distributed.is_initialized():
            return self.received
        # BasicSR reduces the losses in each iteration anyway.
        number = torch.tensor(self.received or 0, device=device)
        distributed.all_reduce(number, distributed.ReduceOp.MAX)
        return int(number) or None


def require_files(workers: int) -> None:
    """See that the process may open the files that it needs, where it may raise its own limit.

    Raises:
        UserError: when the limit is too low.
    """
    try:
        import resource
    except ImportError:  # on Windows, which has no such limit
        return
    needed = _FILES + _FILES_OF_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return
    raise UserError(
        f"ulimit -n: expected at least {needed} open files for a training with {workers} workers; "
        f"found a limit of {hard}. Raise it, or lower datasets.train.num_worker_per_gpu."
    )


def note_worker_folder(experiment: Path, rank: int) -> None:
    """Give the workers of this process one folder for their sockets, and note it: a kill leaves
    it behind.

    Raises:
        OSError: when it cannot be made, or noted.
    """
    folder = multiprocessing.util.get_temp_dir()
    content = {"host": socket.gethostname(), "pid": os.getpid(), "folder": folder}
    text = json.dumps(content).encode()
    write_durably(experiment / _WORKERS.format(rank), lambda file: file.write(text))


def remove_worker_folders(experiment: Path) -> None:
    """Remove what killed trainings of an experiment, which is locked, have left behind."""
    for note in experiment.glob(_WORKERS.format("*")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(note.read_bytes())
            folder = Path(content["folder"])
            # One that `multiprocessing` makes, on this machine, of this user.
            is_own = folder.name.startswith("pymp-") and not folder.is_symlink()
            if is_own and content["host"] == socket.gethostname():
                if content["pid"] != os.getpid():
                    shutil.rmtree(folder, ignore_errors=True)
                note.unlink()
