"""Jobs of several processes end as one, with the name of the process that failed and the reason.

A process in a collective operation does not notice that another one was killed, hangs, or ended
with an error; with NCCL it waits for many minutes, and neither torchrun nor SLURM sees a process
that hangs.  So each process has a thread that counts every second in the job's store.  The first
process watches the counts of the others, the others watch that of the first.
"""

import json
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
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from esc_arch.errors import UserError
from esc_arch.files import write_durably

__all__ = ["Job", "joined"]

BEAT_S = 1.0
# A process may be busy for a while without letting its other threads run.
SILENCE_S = 40.0
# After an error in a collective operation of any process, which has seldom another reason.
SUSPICIOUS_SILENCE_S = 5.0
# For a process that failed in a collective operation, to hear which process is at fault.
_BLAME_S = SUSPICIOUS_SILENCE_S + 5 * BEAT_S
# For the others to read the reason; with SLURM the store ends with the first process.
_READ_S = 3 * BEAT_S
_STORE = timedelta(seconds=SILENCE_S)
_FAILED, _SUSPICION = "failed", "suspicion"
# In the experiment's folder: the torchruns of the job that writes there.
_TORCHRUNS = ".torchruns.json"


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
    """A job whose processes watch each other."""

    def __init__(self) -> None:
        self._rank, self._size = distributed.get_rank(), distributed.get_world_size()
        # A connection of its own: another thread's, which waits for a key, would be in the way.
        self._raw = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=_STORE,
        )
        # The store may have seen other attempts of this job.
        prefix = [uuid.uuid4().hex]
        distributed.broadcast_object_list(prefix)
        self._store = PrefixStore(f"esc_arch/{prefix[0]}", self._raw)
        own = f"rank {self._rank} (host {socket.gethostname()}, pid {os.getpid()})"
        entries: list[tuple[str, str | None]] = [(own, None)] * self._size
        distributed.all_gather_object(entries, (own, _torchrun()))
        self._names = [name for name, _ in entries]
        self._torchruns = sorted({torchrun for _, torchrun in entries if torchrun})
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def is_restarted(self, experiment: Path) -> bool:
        choice = [False]
        if self._rank == 0:
            with suppress(OSError, ValueError):
                before = json.loads((experiment / _TORCHRUNS).read_bytes())
                # Some of many may have gone or come since.
                choice = [not set(self._torchruns).isdisjoint(before)]
        distributed.broadcast_object_list(choice)
        return choice[0]

    def note_opened(self, experiment: Path) -> None:
        if self._rank == 0 and self._torchruns:
            content = json.dumps(self._torchruns).encode()
            write_durably(experiment / _TORCHRUNS, lambda file: file.write(content))

    def stop(self) -> None:
        """Wait for the others and watch no longer."""
        distributed.barrier()
        self._stopped.set()
        self._thread.join()
        distributed.barrier()
        distributed.destroy_process_group()

    def blame(self) -> None:
        """After an error that the death of another process may have caused: wait for its name,
        with which the thread ends this process."""
        # Where the store is gone, the thread sees it, too.
        with suppress(RuntimeError):
            self._store.set(_SUSPICION, "1")
        self._thread.join(_BLAME_S)

    def fail(self, reason: str, code: int) -> None:
        """Notify the other processes that this one ends; the first reason is the job's."""
        self._stopped.set()
        self._thread.join()
        try:
            self._store.compare_set(_FAILED, "", f"{code} {self._names[self._rank]}: {reason}")
        except RuntimeError:
            return
        time.sleep(_READ_S)

    def _watch(self) -> None:
        """The thread: count, and end this process when another failed, died or hangs."""
        watched = range(1, self._size) if self._rank == 0 else (0,)
        keys = [f"beat/{rank}" for rank in watched]
        seen = {rank: (b"", time.monotonic()) for rank in watched}
        last = time.monotonic()
        try:
            for rank in range(self._size):
                self._store.add(f"beat/{rank}", 0)
            while not self._stopped.wait(BEAT_S):
                self._store.add(f"beat/{self._rank}", 1)
                if self._store.check([_FAILED]):
                    code, reason = self._store.get(_FAILED).decode().split(" ", 1)
                    self._end(reason, int(code))
                    return
                is_suspicious = self._store.check([_SUSPICION])
                patience = SUSPICIOUS_SILENCE_S if is_suspicious else SILENCE_S
                now = time.monotonic()
                if now - last > SUSPICIOUS_SILENCE_S:
                    # This process itself was held, and maybe the others with it.
                    seen = {rank: (beat, now) for rank, (beat, _) in seen.items()}
                last = now
                for rank, beat in zip(watched, self._store.multi_get(keys), strict=True):
                    if beat != seen[rank][0]:
                        seen[rank] = (beat, now)
                    elif now - seen[rank][1] > patience:
                        self._end_all(f"{self._names[rank]} was killed or hangs")
                        return
        except RuntimeError:
            # The first process, which may hold the store, ends after the others have said
            # that they are done, and maybe before their threads have stopped.
            if not self._stopped.wait(_READ_S):
                self._end(f"the store of the job, with {self._names[0]} or its torchrun, is gone")

    def _end_all(self, reason: str) -> None:
        self._store.compare_set(_FAILED, "", f"1 {reason}")
        self._end(reason)

    def _end(self, reason: str, code: int = 1) -> None:
        # One write: the processes of a machine share their output.
        text = f"basicsr: {self._names[self._rank]} ends with its job, since {reason}\n"
        sys.stderr.flush()
        with suppress(OSError):  # nobody may read it
            os.write(2, text.encode(errors="backslashreplace"))
        if self._rank == 0:
            # It may hold the store, in which the others read the reason.
            time.sleep(_READ_S)
        os._exit(code)


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

    An error that leaves the block ends all processes of the job, and a process that dies ends
    it within :data:`SILENCE_S` and a few seconds; the others then exit with its name.  torchrun
    gives one that was stopped half a minute more.
    """
    if not distributed.is_initialized():
        yield Job()
        return
    job = _Processes()
    try:
        yield job
        job.stop()
    except UserError as error:
        job.fail(str(error), 2)
        raise
    except BaseException as error:
        # Of collective operations; that of the process that was killed comes first.
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            job.blame()
        job.fail(f"{type(error).__name__}: {error}", 1)
        raise
