"""Facts beside a measurement: the processor, the versions, this process's memory."""

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

__all__ = ["extra_peak_bytes", "processor", "versions"]


def processor() -> str:
    """The processor's own name, or at least its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of installed packages, by name.

    Raises:
        importlib.metadata.PackageNotFoundError: for a package that is not installed.
    """
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def extra_peak_bytes(function: Callable[[], object]) -> int:
    """The most that a call adds to this process's resident memory, in bytes.

    Memory that the process had freed before and not given back is not seen: a process of its own,
    in which nothing large ran before, gives the true number.  Linux only.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _memory_status("VmRSS")
    function()
    return _memory_status("VmHWM") - before


def _memory_status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
