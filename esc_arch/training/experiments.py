"""What the folders of experiments tell of their trainings, BasicSR's own among them.

Only the ends of files that grow are trusted: a run may be writing while they are read, and may
have been killed while it wrote.
"""

import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import yaml

from esc_arch.training import generations
from esc_arch.training.locking import is_held

__all__ = ["Experiment", "Result", "find_experiments", "read_experiment"]

# A run without a lock, as BasicSR's own, counts as running so long after its last line.
RECENT_S = 600
# Checkpoints of which a listing compares the checksums, the latest runs' first.
READ_BYTES = 2 * 10**9
_LARGEST_OPTIONS = 2**20

_ITERATION = re.compile(rb"iter:\s*(\d{1,3}(?:,\d{3}){0,4}), lr:")
_SECONDS = re.compile(rb"time \(data\): (\d+\.\d+) ")
_RESUMED = re.compile(rb"Resuming training from epoch: \d+, iter: (\d{1,15})")
_TOTAL = re.compile(rb"Total epochs: \d+; iters: (\d{1,15})")
_END = b"End of training."
_VALIDATION = re.compile(rb"Validation ([^\r\n]+)\n((?:\t # [^\n]*\n)+)")
_BEST = re.compile(rb"\t # ([^:\n]+): \S+\tBest: (-?(?:\d+\.\d+|inf)) @ (\d{1,15}) iter\n")
_NETWORK = re.compile(r"net_(.+)_(?:\d+|latest|best)\.pth")
# Smaller is better; BasicSR's option files say so of these.
_LOWER = ("niqe", "lpips")


@dataclass(frozen=True)
class Result:
    """The best value of a metric on a validation set, and the iteration that had it."""

    dataset: str
    metric: str
    value: float
    iteration: int

    def facts(self) -> dict:
        """As JSON values."""
        return {**vars(self), "value": self.value if math.isfinite(self.value) else None}


@dataclass
class Experiment:
    """
    Attributes:
        name: of the folder.
        status: ``complete``, ``running`` or ``stopped``.
        iteration: that was done last, as far as the log or a checkpoint tells.
        total: iterations of the whole training; None where nothing tells.
        best: of each metric and validation set.
        iterations_per_s: as last logged.
        written: when the log or a checkpoint was written last, in seconds since 1970.
        resume: training state that ``--auto_resume`` would take; None for none.
        resume_iteration: of that state.
        is_verified: whether the files of it were read and are right; otherwise their sizes are.
        problems: damaged checkpoints and unreadable files, a line each.
    """

    name: str
    status: str = "stopped"
    iteration: int = 0
    total: int | None = None
    best: list[Result] = field(default_factory=list)
    iterations_per_s: float | None = None
    written: float | None = None
    resume: str | None = None
    resume_iteration: int | None = None
    is_verified: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def main_result(self) -> Result | None:
        """The PSNR on the first validation set, or else what was measured first."""
        psnr = [result for result in self.best if result.metric.lower() == "psnr"]
        return next(iter(psnr or self.best), None)

    def facts(self) -> dict:
        """As JSON values, of which there are no infinite ones."""
        own = {key: value for key, value in vars(self).items() if key not in ("best", "written")}
        stamp = self.written and datetime.fromtimestamp(self.written).astimezone()
        main = self.main_result
        return {
            **own,
            "written": stamp.isoformat(timespec="seconds") if stamp else None,
            "best": main and main.facts(),
            "all_best": [result.facts() for result in self.best],
        }


def find_experiments(folder: Path) -> list[Experiment]:
    """The experiments in a folder, or the one that it is, the last written first.

    Raises:
        OSError: when the folder cannot be listed.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    paths = [folder] if _is_experiment(folder) else [folder / name for name in names]
    dated = [(_written(path), path) for path in paths if _is_experiment(path)]
    dated.sort(key=lambda item: -(item[0] or 0))
    found, left = [], READ_BYTES
    for _, path in dated:
        experiment, read = read_experiment(path, left)
        left -= read
        found.append(experiment)
    return found


def read_experiment(path: Path, read_bytes: int = READ_BYTES) -> tuple[Experiment, int]:
    """What one experiment's folder tells.

    Args:
        read_bytes: how much of checkpoints may be read.

    Returns:
        The experiment, and how many bytes of checkpoints were read.
    """
    experiment = Experiment(path.absolute().name, written=_written(path))
    options = _options(path, experiment.problems)
    is_ended = _read_logs(path, experiment, options)
    if experiment.total is None:
        experiment.total = _total(options)
    read = _find_resumption(path, experiment, options, read_bytes)
    experiment.iteration = max(experiment.iteration, experiment.resume_iteration or 0)
    held = is_held(path)
    is_recent = time.time() - (experiment.written or 0) < RECENT_S
    if held or (held is None and is_recent and not is_ended):
        experiment.status = "running"
    elif is_ended:
        experiment.status = "complete"
    return experiment, read


def _is_experiment(path: Path) -> bool:
    try:
        with os.scandir(path) as entries:
            return any(entry.name == generations.STATES or _is_log(entry.name) for entry in entries)
    except OSError:
        return False


def _is_log(name: str) -> bool:
    return name.startswith("train_") and name.endswith(".log")


def _logs(path: Path) -> list[Path]:
    """Oldest first: BasicSR ends their names with the time."""
    names = [name for name in os.listdir(path) if _is_log(name)]
    names.sort(key=lambda name: name[-len("00000000_000000.log") :])
    return [path / name for name in names]


def _written(path: Path) -> float | None:
    times = []
    for folder in (path, path / generations.STATES):
        try:
            with os.scandir(folder) as entries:
                times += [
                    entry.stat().st_mtime
                    for entry in entries
                    if _is_log(entry.name) or entry.name.endswith((".state", ".json"))
                ]
        except OSError:
            continue
    return max(times, default=None)


def _options(path: Path, problems: list[str]) -> Mapping:
    """The copy of the option file; empty where there is none that can be read."""
    for file in sorted(path.glob("*.yml")) + sorted(path.glob("*.yaml")):
        try:
            if file.stat().st_size > _LARGEST_OPTIONS:
                continue
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            content = yaml.load(file.read_bytes(), loader)
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            problems.append(f"{file}: no readable options ({type(error).__name__})")
            continue
        if isinstance(content, dict):
            return content
    return {}


def _total(options: Mapping) -> int | None:
    train = options.get("train")
    total = train.get("total_iter") if isinstance(train, dict) else None
    is_number = isinstance(total, (int, float)) and not isinstance(total, bool)
    return int(total) if is_number and 0 < total < float("inf") else None


def _read_logs(path: Path, experiment: Experiment, options: Mapping) -> bool:
    """Read what the logs tell; returns whether the last one says that all is done."""
    best: dict[tuple[str, str], Result] = {}
    is_ended = False
    try:
        logs = _logs(path)
    except OSError as error:
        experiment.problems.append(f"{path}: {error.strerror}")
        return False
    for log in logs:
        try:
            text = log.read_bytes()
        except OSError as error:
            experiment.problems.append(f"{log}: {error.strerror}")
            continue
        resumed = _RESUMED.search(text)
        start = int(resumed[1]) if resumed else 0
        # What came after the state that this one went on from is no part of the run.
        best = {key: result for key, result in best.items() if result.iteration <= start}
        total = _TOTAL.search(text)
        experiment.total = int(total[1]) if total else experiment.total
        last = _last(_ITERATION, text)
        experiment.iteration = int(last[1].replace(b",", b"")) if last else start
        is_ended = _END in text
        if is_ended and experiment.total is not None:
            experiment.iteration = experiment.total
        if seconds := _last(_SECONDS, text):
            experiment.iterations_per_s = round(1 / max(float(seconds[1]), 1e-3), 3)
        for validation in _VALIDATION.finditer(text):
            for metric in _BEST.finditer(validation[2]):
                result = Result(
                    validation[1].decode(errors="replace").strip(),
                    metric[1].decode(errors="replace"),
                    float(metric[2]),
                    int(metric[3]),
                )
                key = (result.dataset, result.metric)
                if key not in best or _is_better(result, best[key], options):
                    best[key] = result
    experiment.best = list(best.values())
    return is_ended


def _last(pattern: re.Pattern, text: bytes) -> re.Match | None:
    """The last match, looked for in ever longer ends of a text."""
    length = 2**14
    while True:
        found = None
        for found in pattern.finditer(text, max(0, len(text) - length)):  # noqa: B007
            pass
        if found is not None or length >= len(text):
            return found
        length *= 8


def _is_better(one: Result, other: Result, options: Mapping) -> bool:
    lower = one.metric.lower() in _LOWER
    try:
        better = options["val"]["metrics"][one.metric]["better"]
    except (KeyError, TypeError):
        pass
    else:
        lower = better == "lower"
    return one.value < other.value if lower else one.value > other.value


def _find_resumption(path: Path, experiment: Experiment, options: Mapping, read_bytes: int) -> int:
    """Look for the newest complete checkpoint; returns the bytes that were read."""
    size = _size_of_newest(path)
    reads = size <= read_bytes
    try:
        found = generations.find_newest(path, _networks(path, options), reads)
    except OSError as error:
        experiment.problems.append(f"{error.filename}: {error.strerror}")
        return 0
    experiment.problems += found.skipped
    if found.generation is not None:
        experiment.resume = str(found.generation.state)
        experiment.resume_iteration = found.generation.iteration
        experiment.is_verified = reads
    return size if reads else 0


def _size_of_newest(path: Path) -> int:
    """Bytes of the newest training state, and about as much for the networks."""
    try:
        with os.scandir(path / generations.STATES) as entries:
            states = [entry.stat() for entry in entries if entry.name.endswith(".state")]
    except OSError:
        return 0
    return 2 * max(states, key=lambda stat: stat.st_mtime).st_size if states else 0


def _networks(path: Path, options: Mapping) -> list[str]:
    """Labels of the networks that a state of BasicSR's own training needs beside it."""
    if any(str(key).startswith("network_") for key in options):
        section = options.get("path")
        kept = section.get("ignore_resume_networks") if isinstance(section, dict) else None
        kept = kept if isinstance(kept, (list, str)) else []
        own = {str(key): value for key, value in options.items()}
        return generations.networks_of(own | {"path": {"ignore_resume_networks": kept}})
    try:
        names = os.listdir(path / generations.MODELS)
    except OSError:
        return []
    return sorted({match[1] for name in names if (match := _NETWORK.fullmatch(name))})
