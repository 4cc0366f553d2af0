"""Trainings in several processes, each with a log of its own, in the current folder."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

# Of one step of a test, on a machine that does other work, too.
SECONDS = 180
# Of torchrun and SLURM around the tests themselves.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "TORCHELASTIC_", "SLURM_", "GROUP_")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(
    command: list[str],
    launcher: str,
    opt: dict,
    log: str,
    task: str = "train",
    **environment: str,
) -> subprocess.Popen:
    """Start a process that trains or tests; it writes its output into a file."""
    file = Path(f"{opt['name']}.yml")
    file.write_text(yaml.safe_dump(opt, sort_keys=False))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(VARIABLES)}
    arguments = ["-m", "esc_arch", task, "-opt", str(file), "--launcher", launcher]
    with open(log, "w") as output:
        return subprocess.Popen(
            [*command, *arguments],
            env={**kept, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def torchrun(opt: dict, *arguments: str, task: str = "train") -> subprocess.Popen:
    """Two processes by torchrun; the output of all is in ``log``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", *arguments]
    return start(command, "pytorch", opt, "log", task)


def slurm(opt: dict, rank: int, port: int, size: int = 2) -> subprocess.Popen:
    """One process as ``srun`` starts it; its output is in ``NAME.log0`` or ``NAME.log1``."""
    return start(
        [sys.executable],
        "slurm",
        opt,
        f"{opt['name']}.log{rank}",
        SLURM_PROCID=str(rank),
        SLURM_NTASKS=str(size),
        SLURM_LOCALID=str(rank),
        SLURM_NODELIST="localhost",
        MASTER_PORT=str(port),
    )


def await_checkpoint(name: str, process: subprocess.Popen) -> int:
    """Wait for the first complete checkpoint of a running training; its iteration."""
    states = Path("experiments", name, "training_states")
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, name
        if records := list(states.glob("[0-9]*.json")):
            return min(int(record.stem) for record in records)
        time.sleep(0.02)
    raise TimeoutError(name)


def kill_worker(launcher: subprocess.Popen, rank: int) -> None:
    """Kill the process of a rank that torchrun has started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    for child in children:
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            os.kill(int(child), signal.SIGKILL)
            return
    raise ProcessLookupError(rank)
