"""Checks of images on the disk: each decodes, LMDBs agree with their lists, pairs fit."""

import functools
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from esc_arch.data.found_sets import FoundPair, FoundSet, find_sets, pair_up
from esc_arch.data.image_set import LmdbSet, open_image_set, opened
from esc_arch.data.lmdb_reader import DamagedLmdb
from esc_arch.data.processes import Processes, ProcessKilled
from esc_arch.errors import UserError
from esc_arch.imaging.codecs import Shape, decode
from esc_arch.progress import progress

__all__ = ["Problem", "Report", "SetReport", "verify", "verify_pair"]


class Problem(NamedTuple):
    """Something that training would stumble over.

    Attributes:
        kind: short, the same for all of its kind.
        text: which image, what was expected and what found.
    """

    kind: str
    text: str


class SetReport(NamedTuple):
    """One set: how many images it names, how many bytes those that were read have."""

    name: str
    images: int
    bytes: int
    problems: int


class Report(NamedTuple):
    """What was found.

    Attributes:
        pairs: for each pair its name and number of problems.
        duplicates: groups of HR images with the same pixels.
    """

    sets: list[SetReport]
    pairs: list[tuple[str, int]]
    problems: list[Problem]
    duplicates: list[list[str]]


class _Image(NamedTuple):
    """An image as a process found it: with its shape, or with what is wrong."""

    bytes: int
    shape: Shape | None
    pixels: bytes
    wrong: str


class _Checked(NamedTuple):
    """A set after its check: images by stem, those that decode with their shapes."""

    shapes: dict[str, Shape | None]
    report: SetReport
    problems: list[Problem]
    duplicates: list[list[str]]


def verify(path: str | os.PathLike[str], jobs: int) -> Report:
    """Check a folder of images, an LMDB, or a folder that ``basicsr data prepare`` made.

    Args:
        jobs: number of processes.

    Raises:
        UserError: when the path holds no images at all.
    """
    sets, pairs = find_sets(path)
    return _verify(sets, pairs, jobs)


def verify_pair(
    hr: str | os.PathLike[str], lq: str | os.PathLike[str], scale: int, jobs: int
) -> Report:
    """Check two folders or LMDBs and that the images of one were made of the other's.

    Each LR side must be the HR side over the scale, without remainder.

    Args:
        jobs: number of processes.

    Raises:
        UserError: when a path holds no images at all.
    """
    sets = [FoundSet(str(hr), Path(hr)), FoundSet(str(lq), Path(lq), scale)]
    return _verify(sets, [FoundPair(*sets, is_exact=False)], jobs)


def _verify(sets: list[FoundSet], pairs: list[FoundPair], jobs: int) -> Report:
    for found in sets:
        _require_images(found)
    with Processes(jobs) as processes:
        checked = {found: _check_set(found, processes) for found in sets}
    problems = [problem for done in checked.values() for problem in done.problems]
    pair_rows = []
    for pair in pairs:
        wrong = list(_check_pair(pair, checked))
        problems += wrong
        name = pair.hr.name if pair.hr else "no HR"
        pair_rows.append((f"{name} and {pair.lq.name}", len(wrong)))
    duplicates = [group for done in checked.values() for group in done.duplicates]
    return Report([done.report for done in checked.values()], pair_rows, problems, duplicates)


def _require_images(found: FoundSet) -> None:
    """What has nothing in it is a wrong path, not a damaged set."""
    images = open_image_set(found.path)
    if not isinstance(images, LmdbSet):
        _ = images.names
    elif not any((found.path / name).is_file() for name in ("data.mdb", "meta_info.txt")):
        raise UserError(
            f"{found.path}: expected an LMDB with data.mdb and meta_info.txt; found neither. "
            "Check the path, or make it with `basicsr data lmdb`."
        )


def _check_set(found: FoundSet, processes: Processes) -> _Checked:
    images = open_image_set(found.path)
    shapes: dict[str, Shape | None] = {}
    problems: list[Problem] = []
    same: dict[bytes, list[str]] = defaultdict(list)
    total = 0
    names: tuple[str, ...] = ()
    try:
        (names,) = processes.map(_names, [found.path])
        shapes = dict.fromkeys(map(images.stem, names))
        inspect = functools.partial(_inspect, found.path)
        with progress(f"checking {found.name}", len(names)) as advance:
            results = processes.map(inspect, names)
            for name, image in zip(names, results, strict=True):
                total += image.bytes
                shapes[images.stem(name)] = image.shape
                if image.shape is None:
                    problems.append(Problem(f"{found.name}: unreadable", image.wrong))
                else:
                    same[image.pixels].append(images.where(name))
                advance(1)
    except DamagedLmdb as error:
        problems.append(Problem(f"{found.name}: damaged", f"{found.path}: {error}. {_AGAIN}"))
    except ProcessKilled:
        text = (
            f"{found.path}: expected to read all images; found that a process was killed by it: "
            "damaged, or too little memory."
        )
        problems.append(Problem(f"{found.name}: damaged", text))
    repeated = [stem for stem, n in Counter(map(images.stem, names)).items() if n > 1]
    problems += [
        Problem(
            f"{found.name}: same name",
            f"{images.where(stem)}: expected one image of this name; found more, with other "
            "extensions. Rename or remove one.",
        )
        for stem in repeated
    ]
    if isinstance(images, LmdbSet):
        problems += _check_list(found, images, names, shapes)
    report = SetReport(found.name, len(names), total, len(problems))
    # LR images are the same where the HR images are.
    groups = [group for group in same.values() if len(group) > 1] if found.scale == 1 else []
    return _Checked(shapes, report, problems, groups)


_AGAIN = "Make the LMDB again."


def _names(path: Path) -> tuple[str, ...]:
    return opened(path).names


def _inspect(path: Path, name: str) -> _Image:
    images = opened(path)
    size = 0
    try:
        content = images.read(name)
        size = len(content)
        image = decode(content, images.where(name)).image
    except UserError as error:
        return _Image(size, None, b"", str(error))
    height, width = image.shape[:2]
    shape = Shape(height, width, 1 if image.ndim == 2 else image.shape[2])
    digest = hashlib.blake2b(f"{image.dtype} {shape}".encode(), digest_size=16)
    digest.update(image)
    return _Image(size, shape, digest.digest(), "")


def _check_list(
    found: FoundSet, images: LmdbSet, names: tuple[str, ...], shapes: dict[str, Shape | None]
) -> Iterator[Problem]:
    """meta_info.txt against the keys and the images."""
    try:
        lines = images.meta_lines()
    except UserError as error:
        yield Problem(f"{found.name}: meta_info.txt", f"{error} {_AGAIN}")
        return
    file = found.path / "meta_info.txt"
    listed = Counter(line.key for line in lines)
    # Where the LMDB cannot be read, that is said, and not for each image again.
    if names:
        for key in sorted(listed.keys() - set(names)):
            text = f"{images.where(key)}: expected in data.mdb, as listed in {file}; found none."
            yield Problem(f"{found.name}: missing", text)
        for key in sorted(set(names) - listed.keys()):
            text = f"{images.where(key)}: expected a line in {file}; found none."
            yield Problem(f"{found.name}: not listed", text)
    for key in sorted(key for key, count in listed.items() if count > 1):
        text = f"{file}: expected {key} once; found it {listed[key]} times. {_AGAIN}"
        yield Problem(f"{found.name}: listed twice", text)
    for line in lines:
        shape = shapes.get(line.key)
        if line.shape is None:
            text = f"{file}: expected (height,width,channels) of {line.key}; found none. {_AGAIN}"
            yield Problem(f"{found.name}: no shape", text)
        elif shape is not None and line.shape != shape[: len(line.shape)]:
            text = (
                f"{images.where(line.key)}: expected {line.shape}, as {file} says; found "
                f"{tuple(shape)}. {_AGAIN}"
            )
            yield Problem(f"{found.name}: other shape", text)


def _check_pair(pair: FoundPair, checked: dict[FoundSet, _Checked]) -> Iterator[Problem]:
    lq_name = pair.lq.name
    if pair.hr is None:
        yield Problem(
            f"{lq_name}: no HR",
            f"{pair.lq.path}: expected the HR images that it was made of; found none beside it.",
        )
        return
    kind = f"{pair.hr.name} and {lq_name}"
    hr, lq = checked[pair.hr].shapes, checked[pair.lq].shapes
    if not hr or not lq:
        return  # one cannot be read, which is said already
    partners = pair_up(hr, lq, pair.lq.scale)
    is_lmdb = pair.hr.path.name.endswith(".lmdb")
    if is_lmdb and pair.lq.path.name.endswith(".lmdb"):
        # BasicSR takes one key for both.
        partners = {key: key if key in hr else None for key in lq}
    for stem in sorted(hr.keys() - set(partners.values())):
        text = f"{pair.hr.path}/{stem}: expected its LR image in {pair.lq.path}; found none."
        yield Problem(f"{kind}: without LR", text)
    for stem in sorted(lq):
        partner = partners[stem]
        if partner is None:
            text = f"{pair.lq.path}/{stem}: expected its HR image in {pair.hr.path}; found none."
            yield Problem(f"{kind}: without HR", text)
        elif (small := lq[stem]) and (large := hr[partner]):
            yield from _check_sizes(pair, kind, (stem, small), (partner, large))


def _check_sizes(
    pair: FoundPair, kind: str, lq: tuple[str, Shape], hr: tuple[str, Shape]
) -> Iterator[Problem]:
    (lq_stem, small), (hr_stem, large) = lq, hr
    scale = pair.lq.scale
    fits = (large.height // scale, large.width // scale) == small[:2]
    if pair.is_exact and fits:
        fits = (small.height * scale, small.width * scale) == large[:2]
    if not fits:
        text = (
            f"{pair.lq.path}/{lq_stem}: expected 1/{scale} of {large.width}x{large.height}, the "
            f"size of {pair.hr.path}/{hr_stem}; found {small.width}x{small.height}."
        )
        yield Problem(f"{kind}: sizes", text)
