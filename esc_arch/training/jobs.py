"""A job of several processes ends as one, with the name of the process that failed, and why.

torchrun ends the processes of a job when one of them fails, and a collective operation ends
after its timeout.  Neither gives the others the reason, and SLURM does not end them.  So
each process has a thread that waits in the job's store for the word of a failure, and answers.
"""

import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed
from torch.distributed import DistStoreError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from esc_arch.errors import UserError
from esc_arch.files import write_durably

__all__ = ["Job", "joined"]

# How long the threads of the others, which have nothing else to do, may take to answer.
ANSWER_S = 5.0
# Of one wait for a key, after which the next one begins.
_WAIT = timedelta(hours=1)
# Keys in the store: the first one wakes the threads, the second one has the exit code and reason.
_END, _REASON = "end", "reason"
# In the experiment's folder: the torchrun of the job that writes there.
_TORCHRUN = ".torchrun"


class Job:
    """The processes of a job, as one of them sees it; alone, without a launcher, too."""

    def is_restarted(self, experiment: Path) -> bool:
        """Whether torchrun has started the processes again after they had opened the
        experiment, so the run has to go on instead of beginning."""
        return False

    def note_opened(self, experiment: Path) -> None:
        """Note that the experiment's folder is this job's from now on.

        Raises:
            OSError: when it cannot be written to.
        """


class _Processes(Job):
    """A job whose processes notify each other of failures."""

    def __init__(self) -> None:
        self._rank, self._size = distributed.get_rank(), distributed.get_world_size()
        # The store may have seen other attempts of this job.
        prefix = [uuid.uuid4().hex]
        distributed.broadcast_object_list(prefix)
        # Two connections: one is busy while the thread waits.
        self._store, self._waiting = (_connection(prefix[0]) for _ in range(2))
        self._names = [""] * self._size
        own = f"rank {self._rank} (host {socket.gethostname()}, pid {os.getpid()})"
        distributed.all_gather_object(self._names, own)
        self._torchrun = _torchrun()
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def is_restarted(self, experiment: Path) -> bool:
        choice = [False]
        if self._rank == 0 and self._torchrun is not None:
            with suppress(OSError):
                choice = [(experiment / _TORCHRUN).read_text() == self._torchrun]
        distributed.broadcast_object_list(choice)
        return choice[0]

    def note_opened(self, experiment: Path) -> None:
        if self._rank == 0 and self._torchrun is not None:
            content = self._torchrun.encode()
            write_durably(experiment / _TORCHRUN, lambda file: file.write(content))

    def stop(self) -> None:
        """Wait for the others and listen no longer."""
        distributed.barrier()
        self._is_ending.set()
        self._store.compare_set(_END, "", "done")
        self._thread.join()
        distributed.barrier()
        distributed.destroy_process_group()

    def fail(self, reason: str, code: int, is_of_others: bool) -> None:
        """Notify the other processes that this one ends; the first reason is the job's.

        Args:
            is_of_others: whether the death of another process may be the cause.  Then those are
                named that do not answer, and this process ends with that or an earlier reason.
        """
        self._is_ending.set()
        own = f"{code} {self._names[self._rank]}: {reason}"
        try:
            if not is_of_others:
                self._tell(own)
            self._store.set(_END, "failed")
            # The others answer or end; the store may end with this process.
            time.sleep(ANSWER_S)
            if not is_of_others:
                return
            silent = [
                name
                for rank, name in enumerate(self._names)
                if not self._store.check([f"answer/{rank}"])
            ]
            self._tell(f"1 {' and '.join(silent)} was killed or hangs" if silent else own)
            first = self._store.get(_REASON).decode()
        except RuntimeError:
            first = self._no_store()
        if first == own:
            time.sleep(ANSWER_S)
        elif is_of_others:
            self._end(first)

    def _tell(self, text: str) -> None:
        self._store.compare_set(_REASON, "", text)

    def _no_store(self) -> str:
        return f"1 the store of the job, with {self._names[0]} or its torchrun, is gone"

    def _listen(self) -> None:
        """Wait for the end, answer, and end this process with the reason of a failure."""
        try:
            _wait(self._waiting, _END, _WAIT)
            if self._waiting.get(_END) == b"done":
                return
            self._waiting.set(f"answer/{self._rank}", "1")
            if self._is_ending.is_set():
                return
            _wait(self._waiting, _REASON, _WAIT)
            text = self._waiting.get(_REASON).decode()
        except RuntimeError:
            # The first process, which may hold the store, ends after all have said that they
            # are done, and maybe before this one has read it.
            if self._is_ending.wait(ANSWER_S):
                return
            text = self._no_store()
        self._end(text)

    def _end(self, text: str) -> None:
        code, _, reason = text.partition(" ")
        # One write: the processes of a machine share their output.
        line = f"basicsr: {self._names[self._rank]} ends with its job, since {reason}\n"
        sys.stderr.flush()
        os.write(2, line.encode())
        if self._rank == 0:
            time.sleep(ANSWER_S)  # the others read the reason in its store
        os._exit(int(code))


def _connection(prefix: str) -> Store:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore(f"esc_arch/{prefix}", TCPStore(host, port))


def _wait(store: Store, key: str, at_once: timedelta) -> None:
    """Wait for a key without end.

    Raises:
        RuntimeError: when the store is gone.
    """
    while not store.check([key]):
        with suppress(DistStoreError):  # not yet
            store.wait([key], at_once)


def _torchrun() -> str | None:
    """The torchrun that has started this process: it stays while it starts processes again."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    began = ""
    with suppress(OSError):
        # Field 22, the ticks from the machine's start to the process's: containers and machines
        # start again with the same numbers.  The second field may have spaces, in brackets.
        stat = Path("/proc", str(os.getppid()), "stat").read_text()
        began = stat.rpartition(")")[2].split()[19]
    return f"{os.environ['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {os.getppid()} {began}"


@contextmanager
def joined() -> Iterator[Job]:
    """The job that this process is in, while its block runs.

    An error that leaves the block ends all processes of the job.  So does the death of a process
    once a collective operation has noticed it: at once with gloo; with NCCL after the timeout, if
    the launcher does not end the others before.
    """
    if not distributed.is_initialized():
        yield Job()
        return
    job = _Processes()
    try:
        yield job
        job.stop()
    except UserError as error:
        job.fail(str(error), 2, is_of_others=False)
        raise
    except BaseException as error:
        # Of collective operations; that of the process that was killed comes first.
        is_of_others = isinstance(error, RuntimeError)
        is_of_others &= not isinstance(error, torch.OutOfMemoryError)
        job.fail(f"{type(error).__name__}: {error}", 1, is_of_others)
        raise
