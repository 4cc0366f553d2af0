"""Starting the process group of a job: torchrun or SLURM, NCCL on GPUs or gloo on CPUs.

Defect: BasicSR's start divides by the number of GPUs and asks for NCCL.  It takes a process's
place in the job for its place on the machine, and under SLURM needs ``scontrol``, and one port
for all jobs of a machine.
"""

import datetime
import os
import re
import time

import torch
from torch import distributed
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from esc_arch.errors import UserError, first_line

__all__ = ["first_host", "job_store", "start_pytorch", "start_slurm"]

# Processes of one job start within seconds, over a slow network file system within minutes.
RENDEZVOUS_S = 300
_POLL_S = 0.1
# The first process may be long in writing a checkpoint over a network.
_COLLECTIVE = datetime.timedelta(minutes=30)
# SLURM jobs that share a machine need distinct ports, below those that systems hand out.
_FIRST_PORT, _PORTS = 20000, 10000


def start_pytorch(backend: str, timeout: datetime.timedelta = _COLLECTIVE) -> None:
    """Start the process group from torchrun's variables.

    The GPU is that of the local rank: machines may have different numbers of them.

    Args:
        backend: ``nccl`` becomes ``gloo`` where there is no GPU.
        timeout: of a collective operation.

    Raises:
        UserError: when the processes do not find each other.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if torch.cuda.is_available() and backend != "gloo":
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    else:
        backend = "gloo"
    store = job_store()
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=timeout
    )


def job_store() -> Store:
    """The store of this attempt of the job, once all processes have reached it.

    Raises:
        UserError: when they do not find each other; it names the ranks that are missing.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} (MASTER_ADDR, MASTER_PORT)"
    expected = f"--launcher: expected the {size} processes of the job to find each other at {place}"
    try:
        wait = datetime.timedelta(seconds=RENDEZVOUS_S)
        store, _, _ = next(rendezvous("env://", timeout=wait))
        # torchrun keeps its store, and in it the addresses of the processes before a restart.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"attempt_{attempt}", store)
        store.set(f"here/{rank}", "1")
        end = time.monotonic() + RENDEZVOUS_S
        missing = list(range(size))
        while missing and time.monotonic() < end:
            missing = [other for other in missing if not store.check([f"here/{other}"])]
            time.sleep(_POLL_S if missing else 0)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{expected}; found, in process {rank}: {first_line(error)}. Set another MASTER_PORT "
            "when it is in use, start all processes with the same WORLD_SIZE, and check that the "
            "machines reach each other."
        ) from error
    if missing:
        raise UserError(
            f"{expected}; found, after {RENDEZVOUS_S} s, none of rank "
            f"{', '.join(map(str, missing))}. Start all of them with the same WORLD_SIZE, "
            "MASTER_ADDR and MASTER_PORT."
        )
    return store


def start_slurm(backend: str, port: int | None = None) -> None:
    """Start the process group after setting torchrun's variables from SLURM's.

    ``MASTER_ADDR`` and ``MASTER_PORT`` of the environment are kept.

    Args:
        backend: as of :func:`start_pytorch`.
        port: of the store, on the machine of the first process.

    Raises:
        UserError: as of :func:`start_pytorch`.
    """
    environment = os.environ
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = environment["SLURM_NTASKS"]
    environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", environment["SLURM_PROCID"])
    nodes = environment.get("SLURM_STEP_NODELIST", environment["SLURM_NODELIST"])
    environment.setdefault("MASTER_ADDR", first_host(nodes))
    if port is not None:
        environment["MASTER_PORT"] = str(port)
    own = _FIRST_PORT + int(environment.get("SLURM_JOB_ID", "0")) % _PORTS
    environment.setdefault("MASTER_PORT", str(own))
    start_pytorch(backend)


def first_host(nodes: str) -> str:
    """The first of a SLURM list of hosts, such as ``gpu[003-005,9],other``: ``gpu003``.

    Containers often lack ``scontrol``, which would say so too.
    """
    first = re.split(r",(?![^\[]*\])", nodes, maxsplit=1)[0]
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first)
