"""Finds the images to enlarge, and names their outputs, before anything is computed."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from esc_arch.errors import UserError, listed
from esc_arch.imaging.codecs import SUFFIXES, walk_images
from esc_arch.imaging.picture import FORMATS, format_of

__all__ = ["Existing", "Job", "Plan", "plan"]

_SHOWN = 10


class Job(NamedTuple):
    """One image file to be made of another.

    Attributes:
        source: is read.
        target: is written.
        format: of the target, one of :data:`esc_arch.imaging.picture.FORMATS`.
    """

    source: Path
    target: Path
    format: str


@dataclass(frozen=True)
class Plan:
    """Files to read and to write.

    Attributes:
        jobs: in order.
        skipped: targets that are there already and stay.
        unreadable: folders that could not be searched, with the reason.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Path, ...] = ()
    unreadable: tuple[str, ...] = ()


class Existing(NamedTuple):
    """How to treat targets that exist; with neither of the two they are an error."""

    overwrite: bool = False
    skip: bool = False


class _Found(NamedTuple):
    """A source, and its path below the output folder."""

    source: Path
    below: Path


def plan(inputs: Sequence[str], output: str, image_format: str | None, existing: Existing) -> Plan:
    """Find the images, and name their outputs.

    An input is a file, a folder (searched to the bottom, by the extensions of image files;
    hidden files are left out), or a pattern with ``*``, ``?``, ``[...]`` or ``**`` that is no
    file itself.  What lies below a folder, or below the part of a pattern before its first
    such sign, keeps its place below the output folder.

    Args:
        inputs: at least one.
        output: the file to make of one file, or else a folder: so when it is one already, ends
            with a slash, or there are several inputs or folders.
        image_format: one of FORMATS; None for the one of the output's extension, or else of
            each input's.
        existing: how to treat targets that exist.

    Raises:
        UserError: when an input is not there, nothing is found, two inputs would make the same
            file, or a target is there and ``existing`` does not say what to do.
    """
    into_folder = (
        output.endswith(("/", os.sep)) or os.path.isdir(output) or any(map(os.path.isdir, inputs))
    )
    unreadable: list[str] = []
    found = list(dict.fromkeys(_find(inputs, Path(output), unreadable)))
    if not found:
        raise UserError(
            f"{listed(inputs, _SHOWN)}: expected images ({', '.join(sorted(SUFFIXES))}); found "
            f"none. Name files, or folders of such files.{''.join(f' {r}' for r in unreadable)}"
        )
    if into_folder or len(found) > 1:
        _refuse_file_name(output, len(found))
        jobs = [_into_folder(each, Path(output), image_format) for each in found]
    else:
        jobs = [_to_file(found[0].source, Path(output), image_format)]
    _refuse_same_targets(jobs)
    there = [job.target for job in jobs if os.path.lexists(job.target)]
    if folders := [path for path in there if path.is_dir()]:
        raise UserError(
            f"{listed(folders, _SHOWN)}: expected a name for an image file; found a folder. "
            "Name another output."
        )
    if there and existing.skip:
        jobs = [job for job in jobs if not os.path.lexists(job.target)]
        return Plan(tuple(jobs), tuple(there), tuple(unreadable))
    if there and not existing.overwrite:
        raise UserError(
            f"{listed(there, _SHOWN)}: expected no such output yet; found {len(there)} of "
            f"{len(jobs)}. Use --overwrite to replace, --skip-existing to go on with the "
            "others, or another output."
        )
    return Plan(tuple(jobs), (), tuple(unreadable))


def _find(inputs: Sequence[str], output: Path, unreadable: list[str]) -> Iterator[_Found]:
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            yield from _below(path, output, unreadable)
        elif os.path.lexists(path):
            yield _Found(path, Path(path.name))
        elif glob.has_magic(name):
            yield from _matching(name, output, unreadable)
        else:
            raise UserError(f"{name}: expected an image file or a folder; found no such thing.")


def _matching(pattern: str, output: Path, unreadable: list[str]) -> Iterator[_Found]:
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    for match in sorted(map(Path, glob.glob(pattern, recursive=True))):
        # A ** matches folders too, and what lies below them besides.
        if match.is_dir():
            if "**" not in parts:
                yield from _below(match, output, unreadable)
        elif match.suffix.lower() in SUFFIXES:
            yield _Found(match, match.relative_to(base))


def _below(folder: Path, output: Path, unreadable: list[str]) -> Iterator[_Found]:
    """The images below a folder, without those of an earlier run that went into it."""

    def note(error: OSError) -> None:
        unreadable.append(f"{error.filename}: could not be searched: {error.strerror}.")

    for path in walk_images(folder, without=output, onerror=note):
        yield _Found(path, path.relative_to(folder))


def _refuse_file_name(output: str, count: int) -> None:
    path = Path(output)
    if path.is_dir():
        return
    if os.path.lexists(path):
        raise UserError(
            f"{output}: expected a folder for the outputs; found a file. Name a folder."
        )
    if format_of(path) is not None and not output.endswith(("/", os.sep)):
        raise UserError(
            f"{output}: expected a folder for the outputs of {count} images; found the name of "
            f"a file. Name a folder; end it with / if it is to be called so."
        )


def _into_folder(found: _Found, output: Path, image_format: str | None) -> Job:
    chosen = image_format or format_of(found.source) or "png"
    target = output / found.below
    if format_of(target) != chosen:
        # Not with_suffix: of a name without a known extension, nothing is taken off.
        known = format_of(target) is not None
        target = target.with_name((target.stem if known else target.name) + FORMATS[chosen])
    return Job(found.source, target, chosen)


def _to_file(source: Path, output: Path, image_format: str | None) -> Job:
    by_name = format_of(output)
    if by_name is None and image_format is None:
        raise UserError(
            f"-o {output}: expected an extension of {', '.join(sorted(SUFFIXES))}; found "
            f"{output.suffix or 'none'}. Give it one, or --format; end it with / if it is to be "
            "a folder."
        )
    if by_name is not None and image_format not in (None, by_name):
        raise UserError(
            f"-o {output}: expected an extension of --format {image_format}; found "
            f"{output.suffix}. Change one of them, or leave out --format."
        )
    chosen = image_format or by_name
    assert chosen is not None  # the first check
    return Job(source, output, chosen)


def _refuse_same_targets(jobs: Sequence[Job]) -> None:
    counts = Counter(os.path.abspath(job.target) for job in jobs)
    same = [job for job in jobs if counts[os.path.abspath(job.target)] > 1]
    if same:
        first = os.path.abspath(same[0].target)
        sources = [job.source for job in same if os.path.abspath(job.target) == first]
        more = len({os.path.abspath(job.target) for job in same}) - 1
        raise UserError(
            f"{listed(sources, _SHOWN)}: expected an output of its own for each; found "
            f"{same[0].target} for {len(sources)}{f', and {more} more such' if more else ''}. "
            "Leave out --format, or give each folder a run and an output of its own."
        )
