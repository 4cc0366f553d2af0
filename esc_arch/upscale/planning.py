"""Finds the images to enlarge, and names their outputs, before anything is computed."""

import glob
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from esc_arch.errors import UserError, listed
from esc_arch.files import remedy
from esc_arch.imaging.codecs import SUFFIXES, UNREAD_SUFFIXES, left_out, walk_images
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
        unread: image files of kinds that are not read, in words; empty when there are none.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Path, ...] = ()
    unreadable: tuple[str, ...] = ()
    unread: str = ""


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
            file, a target is an input or cannot be written, or it is there and ``existing``
            does not say what to do.
    """
    into_folder = (
        output.endswith(("/", os.sep)) or os.path.isdir(output) or any(map(os.path.isdir, inputs))
    )
    search = _Search(Path(output))
    found = list(dict.fromkeys(search.find(inputs)))
    unread = left_out(list(dict.fromkeys(search.unread))) if search.unread else ""
    if not found:
        others = f": {unread}" if unread else ". Name files, or folders of such files."
        raise UserError(
            f"{listed(inputs, _SHOWN)}: expected images ({', '.join(sorted(SUFFIXES))}); found "
            f"none{others}{''.join(f' {reason}' for reason in search.unreadable)}"
        )
    if into_folder or len(found) > 1:
        _refuse_file_name(output, len(found))
        jobs = [_into_folder(each, Path(output), image_format) for each in found]
    else:
        jobs = [_to_file(found[0].source, Path(output), image_format)]
    _refuse_same_targets(jobs, found, image_format)
    there = [job.target for job in jobs if os.path.lexists(job.target)]
    if folders := [path for path in there if path.is_dir()]:
        raise UserError(
            f"{listed(folders, _SHOWN)}: expected a name for an image file; found a folder. "
            "Name another output."
        )
    _refuse_inputs(jobs, there)
    unreadable = tuple(search.unreadable)
    if there and existing.skip:
        jobs = [job for job in jobs if not os.path.lexists(job.target)]
        _refuse_unwritable(jobs)
        return Plan(tuple(jobs), tuple(there), unreadable, unread)
    if there and not existing.overwrite:
        raise UserError(
            f"{listed(there, _SHOWN)}: expected no such output yet; found {len(there)} of "
            f"{len(jobs)}. Use --overwrite to replace, --skip-existing to go on with the "
            "others, or another output."
        )
    _refuse_unwritable(jobs)
    return Plan(tuple(jobs), (), unreadable, unread)


class _Search:
    """Finds the images of inputs, and notes what it passes over.

    Args:
        output: is left out of the folders above it, as it may be an earlier run's.

    Attributes:
        unreadable: folders that could not be searched, with the reason.
        unread: image files of kinds that are not read.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self.unreadable: list[str] = []
        self.unread: list[Path] = []

    def find(self, inputs: Sequence[str]) -> Iterator[_Found]:
        for name in inputs:
            path = Path(name)
            if path.is_dir():
                yield from self._below(path)
            elif os.path.lexists(path):
                yield _Found(path, Path(path.name))
            elif glob.has_magic(name):
                yield from self._matching(name)
            else:
                raise UserError(
                    f"{name}: expected an image file or a folder; found no such thing. Check the "
                    "path."
                )

    def _matching(self, pattern: str) -> Iterator[_Found]:
        parts = Path(pattern).parts
        fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        base = Path(*parts[:fixed])
        for match in sorted(map(Path, glob.glob(pattern, recursive=True))):
            # A ** matches folders too, and what lies below them besides.
            if match.is_dir():
                if "**" not in parts:
                    yield from self._below(match)
            elif match.suffix.lower() in SUFFIXES:
                yield _Found(match, match.relative_to(base))
            elif match.suffix.lower() in UNREAD_SUFFIXES:
                self.unread.append(match)

    def _below(self, folder: Path) -> Iterator[_Found]:
        def note(error: OSError) -> None:
            self.unreadable.append(f"{error.filename}: could not be searched: {error.strerror}.")

        for path in walk_images(folder, self._output, note, self.unread.append):
            yield _Found(path, path.relative_to(folder))


def _refuse_inputs(jobs: Sequence[Job], there: Sequence[Path]) -> None:
    """Refuse targets that are the images which are to be read."""
    if not there:
        return
    sources = {_identity(job.source) for job in jobs} - {None}
    same = [path for path in there if _identity(path) in sources]
    if same:
        raise UserError(
            f"{listed(same, _SHOWN)}: expected an output that is none of the inputs; found "
            f"{len(same)} that are. Name another output: even --overwrite replaces no input."
        )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refuse_unwritable(jobs: Sequence[Job]) -> None:
    """Refuse, before anything is computed, targets that cannot be written.

    What the system allows is tried, as its permissions do not tell of all that forbids it.
    """
    checked: set[Path] = set()
    for job in jobs:
        folder = job.target.parent
        try:
            missing = [job.target.name]
            while not os.path.lexists(folder):
                missing.append(folder.name)
                folder = folder.parent
            for name in missing:
                with suppress(FileNotFoundError):
                    os.lstat(folder / name)  # says so when a name is too long
            if folder not in checked:
                checked.add(folder)
                with tempfile.TemporaryFile(dir=folder):
                    pass
        except OSError as error:
            raise UserError(
                f"{job.target}: expected to write it; found: {error.strerror or error}. "
                f"{remedy(error)}"
            ) from None


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


def _refuse_same_targets(
    jobs: Sequence[Job], found: Sequence[_Found], image_format: str | None
) -> None:
    counts = Counter(os.path.abspath(job.target) for job in jobs)
    same = [job for job in jobs if counts[os.path.abspath(job.target)] > 1]
    if same:
        first = os.path.abspath(same[0].target)
        sources = [job.source for job in same if os.path.abspath(job.target) == first]
        more = len({os.path.abspath(job.target) for job in same}) - 1
        own = {_into_folder(each, Path(), None).target for each in found if each.source in sources}
        without = "Leave out --format, or give" if image_format and len(own) > 1 else "Give"
        raise UserError(
            f"{listed(sources, _SHOWN)}: expected an output of its own for each; found "
            f"{same[0].target} for {len(sources)}{f', and {more} more such' if more else ''}. "
            f"{without} each a run and an output of its own, or rename them."
        )
