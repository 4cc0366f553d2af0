"""What a benchmark's numbers depend on: the machine and the versions."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch


def description(*packages: str) -> dict[str, object]:
    """CPU, threads and versions, for the JSON of a benchmark.

    Args:
        packages: further installed packages whose versions matter.
    """
    return {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in packages},
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
