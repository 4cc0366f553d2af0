"""The state of the trainings in folders of experiments, BasicSR's own among them."""

import math
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from esc_arch.files import is_locked, read_regular
from esc_arch.training import checkpoints, log_reader
from esc_arch.training.log_reader import Best
from esc_arch.training.runtime import LOCK

__all__ = ["Experiment", "find_experiments", "read_experiment"]

# A run without a lock, as BasicSR's own, counts as running so long after its last line.
RECENT_S = 600
# Checkpoints of which a listing compares the checksums, the latest runs' first.
READ_BYTES = 2 * 10**9
_LARGEST_OPTIONS = 2**20
_NETWORK = re.compile(r"net_(.+)_(?:\d+|latest|best)\.pth")
# Smaller is better; BasicSR's option files say so of these.
_LOWER = ("niqe", "lpips")


@dataclass
class Experiment:
    """
    Attributes:
        name: of the folder.
        status: ``complete``, ``running`` or ``stopped``.
        iteration: that was done last, as far as the log or a checkpoint says.
        total: iterations of the whole training; None where it is not known.
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
    best: list[Best] = field(default_factory=list)
    iterations_per_s: float | None = None
    written: float | None = None
    resume: str | None = None
    resume_iteration: int | None = None
    is_verified: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def main_result(self) -> Best | None:
        """The PSNR on the first validation set, or else the first metric."""
        psnr = [result for result in self.best if result.metric.lower() == "psnr"]
        return next(iter(psnr or self.best), None)

    def facts(self) -> dict[str, Any]:
        """As JSON values, of which there are no infinite ones."""
        own = {key: value for key, value in vars(self).items() if key not in ("best", "written")}
        stamp = self.written and datetime.fromtimestamp(self.written).astimezone()
        main = self.main_result
        return {
            **own,
            "written": stamp.isoformat(timespec="seconds") if stamp else None,
            "best": main and _json(main),
            "all_best": [_json(result) for result in self.best],
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
    """The state of one experiment.

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
    held = is_locked(path / LOCK)
    # Either way: the clock may have been set back since.
    is_recent = abs(time.time() - (experiment.written or 0)) < RECENT_S
    if held or (held is None and is_recent and not is_ended):
        experiment.status = "running"
    elif is_ended:
        experiment.status = "complete"
    return experiment, read


def _listed(path: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder; none where it cannot be listed."""
    try:
        return list(os.scandir(path))
    except OSError:
        return []


def _is_experiment(path: Path) -> bool:
    return any(e.name == checkpoints.STATES or log_reader.is_log(e.name) for e in _listed(path))


def _json(result: Best) -> dict[str, Any]:
    return {**asdict(result), "value": result.value if math.isfinite(result.value) else None}


def _written(path: Path) -> float | None:
    times = []
    for entry in _listed(path) + _listed(path / checkpoints.STATES):
        if log_reader.is_log(entry.name) or entry.name.endswith((".state", ".json")):
            with suppress(OSError):  # deleted since
                times.append(entry.stat().st_mtime)
    return max(times, default=None)


def _options(path: Path, problems: list[str]) -> Mapping[str, Any]:
    """The copy of the option file; empty where there is none that can be read."""
    for file in sorted(path.glob("*.yml")) + sorted(path.glob("*.yaml")):
        try:
            if file.stat().st_size > _LARGEST_OPTIONS:
                continue
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            content = yaml.load(read_regular(file), loader)
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            problems.append(f"{file}: no readable options ({type(error).__name__})")
            continue
        if isinstance(content, dict):
            return content
    return {}


def _total(options: Mapping[str, Any]) -> int | None:
    train = options.get("train")
    total = train.get("total_iter") if isinstance(train, dict) else None
    if isinstance(total, bool) or not isinstance(total, (int, float)):
        return None
    return int(total) if 0 < total < math.inf else None


def _read_logs(path: Path, experiment: Experiment, options: Mapping[str, Any]) -> bool:
    """Read the logs; returns whether the last one reports the end of the training."""
    best: dict[tuple[str, str], Best] = {}
    is_ended = False
    problems: list[OSError] = []
    logs: list[tuple[Path, str]] = []
    try:
        logs = log_reader.log_texts(path, problems)
    except OSError as error:
        error.filename = str(path)
        problems.append(error)
    experiment.problems += [f"{error.filename}: {error.strerror}" for error in problems]
    for _, text in logs:
        summary = log_reader.summarize(text)
        if not summary.is_begun:
            continue
        # Results after the state that this log resumes from are no part of the run.
        best = {key: result for key, result in best.items() if result.iteration <= summary.start}
        experiment.total = experiment.total if summary.total is None else summary.total
        experiment.iteration, is_ended = summary.iteration, summary.is_ended
        if summary.seconds is not None:
            experiment.iterations_per_s = round(1 / max(summary.seconds, 1e-3), 3)
        for result in summary.best:
            key = (result.dataset, result.metric)
            if key not in best or _is_better(result, best[key], options):
                best[key] = result
    experiment.best = list(best.values())
    return is_ended


def _is_better(one: Best, other: Best, options: Mapping[str, Any]) -> bool:
    lower = one.metric.lower() in _LOWER
    with suppress(KeyError, TypeError):
        lower = options["val"]["metrics"][one.metric]["better"] == "lower"
    return one.value < other.value if lower else one.value > other.value


def _find_resumption(
    path: Path, experiment: Experiment, options: Mapping[str, Any], read_bytes: int
) -> int:
    """Look for the newest complete checkpoint; returns the bytes that were read."""
    size = _size_of_newest(path)
    reads = size <= read_bytes
    try:
        found = checkpoints.find_newest(path, _networks(path, options), reads)
    except OSError as error:
        experiment.problems.append(f"{error.filename}: {error.strerror}")
        return 0
    experiment.problems += found.skipped
    if found.checkpoint is not None:
        experiment.resume = str(found.checkpoint.state)
        experiment.resume_iteration = found.checkpoint.iteration
        experiment.is_verified = reads
    return size if reads else 0


def _size_of_newest(path: Path) -> int:
    """Bytes of the newest training state, and about as much for the networks."""
    newest = (0.0, 0)
    for entry in _listed(path / checkpoints.STATES):
        if entry.name.endswith(".state"):
            with suppress(OSError):  # deleted since
                newest = max(newest, (entry.stat().st_mtime, entry.stat().st_size))
    return 2 * newest[1]


def _networks(path: Path, options: Mapping[str, Any]) -> list[str]:
    """Labels of the networks that a state of BasicSR's own training needs beside it."""
    if any(str(key).startswith("network_") for key in options):
        section = options.get("path")
        kept = section.get("ignore_resume_networks") if isinstance(section, dict) else None
        kept = kept if isinstance(kept, (list, str)) else []
        own = {str(key): value for key, value in options.items()}
        return checkpoints.networks_of(own | {"path": {"ignore_resume_networks": kept}})
    matches = (_NETWORK.fullmatch(entry.name) for entry in _listed(path / checkpoints.MODELS))
    return sorted({match[1] for match in matches if match})
