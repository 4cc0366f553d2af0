"""Facts about the machine: the processor, the versions, the memory."""

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

__all__ = ["available_bytes", "extra_peak_bytes", "processor", "versions"]

# Where the system does not say how much is available: 4 GB.
_UNKNOWN_MEMORY = 4 << 30


def available_bytes() -> int:
    """Memory that the system could give now, or that the control group's limit leaves."""
    return min([_system_memory(), *_group_memory()])


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


def _system_memory() -> int:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    with suppress(AttributeError, ValueError):  # no Linux, perhaps Windows
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return _UNKNOWN_MEMORY


def _group_memory() -> list[int]:
    """Bytes below the limit of each control group that this process is in."""
    rooms = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers == "":
                root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
            elif "memory" in controllers.split(","):
                root = Path("/sys/fs/cgroup/memory")
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            else:
                continue
            group = root / name.lstrip("/")
            # Inside a container the group may be mounted as the root.
            for folder in {root, group, *group.parents} - set(root.parents):
                with suppress(OSError, ValueError):  # no limit there, or "max"
                    limit, used = (int((folder / file).read_text()) for file in names)
                    rooms.append(max(limit - used + _cached(folder), 0))
    return rooms


def _cached(group: Path) -> int:
    """Bytes of files that a group would give back when asked for memory."""
    for line in (group / "memory.stat").read_text().splitlines():
        key, value = line.split()
        if key in ("total_inactive_file", "inactive_file"):
            return int(value)
    return 0
