"""Starting the process group of a job: torchrun or SLURM, NCCL on GPUs or gloo on CPUs."""

import datetime
import os
import re
import time

import torch
from torch import distributed

from esc_arch.errors import UserError

__all__ = ["first_host", "start_pytorch", "start_slurm"]

# Processes of one job start within seconds, over a slow network file system within minutes.
MEETING_S = 300
# Dead processes are found by esc_arch.training.liveness.  Slow ones, as the first while it
# writes a checkpoint over a network, have to be waited for.
COLLECTIVE = datetime.timedelta(minutes=30)
_POLL_S = 0.1
# SLURM jobs that share a machine must not meet at one port; below those that systems hand out.
_FIRST_PORT, _PORTS = 20000, 10000


def start_pytorch(backend: str, **kwargs: object) -> None:
    """Stands in for ``basicsr.utils.dist_util._init_dist_pytorch``.

    The GPU is that of the local rank: machines may have different numbers of them.

    Args:
        backend: ``nccl`` becomes ``gloo`` where there is no GPU.
        kwargs: further ones for ``init_process_group``.

    Raises:
        UserError: when the processes do not meet.
    """
    if torch.cuda.is_available() and backend != "gloo":
        local_rank = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    else:
        backend = "gloo"
    store = _meet()
    kwargs = {"timeout": COLLECTIVE, **kwargs}
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, **kwargs)


def start_slurm(backend: str, port: int | None = None) -> None:
    """Stands in for ``basicsr.utils.dist_util._init_dist_slurm``.

    SLURM's variables become those of torchrun.  ``MASTER_ADDR`` and ``MASTER_PORT`` of the
    environment are kept.

    Args:
        backend: as of :func:`start_pytorch`.
        port: at which the processes meet, on the machine of the first.

    Raises:
        UserError: when the processes do not meet.
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


def _meet() -> distributed.Store:
    """A store that all processes of the job have reached."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        timeout = datetime.timedelta(seconds=MEETING_S)
        store, _, _ = next(distributed.rendezvous("env://", timeout=timeout))
        # torchrun may keep its store, and in it where the processes before a restart listened.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = distributed.PrefixStore(f"attempt_{attempt}", store)
        store.set(f"here/{rank}", "1")
        end = time.monotonic() + MEETING_S
        missing = list(range(size))
        while missing and time.monotonic() < end:
            missing = [other for other in missing if not store.check([f"here/{other}"])]
            time.sleep(_POLL_S if missing else 0)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--launcher: expected the {size} processes of the job to meet at {place} "
            f"(MASTER_ADDR, MASTER_PORT); found, in process {rank}: {reason}. Set another "
            "MASTER_PORT when it is in use, and check that the machines reach each other there."
        ) from error
    if missing:
        raise UserError(
            f"--launcher: expected the {size} processes of the job to meet at {place}; found, "
            f"after {MEETING_S} s, none of rank {', '.join(map(str, missing))}. Start all of "
            "them with the same WORLD_SIZE, MASTER_ADDR and MASTER_PORT."
        )
    return store
