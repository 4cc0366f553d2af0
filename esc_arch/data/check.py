"""The checker of image data: folders and LMDBs, their images, lists, pairs and sizes.

:func:`verify` decodes all images, for ``basicsr data verify``.  The other functions look at
data as BasicSR's datasets find it, for the check of an option file before a training: they
list all names, and read at most SIZE_SAMPLE images spread over a set, since opening every file
of a large one takes minutes on a network disk.
"""

import functools
import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from esc_arch.data.image_sets import (
    FoundPair,
    FoundSet,
    ImageSet,
    find_sets,
    open_image_set,
    opened,
    pair_up,
    read_meta_info,
)
from esc_arch.data.lmdb_reader import DamagedLmdb, MetaLine
from esc_arch.data.processes import Processes, ProcessKilled
from esc_arch.errors import UserError, listed
from esc_arch.files import read_regular, special_kind
from esc_arch.imaging.codecs import (
    BASICSR_SUFFIXES,
    SUFFIXES,
    ImageError,
    Shape,
    decode,
    find_images,
    read_header,
)
from esc_arch.progress import progress

__all__ = [
    "SIZE_SAMPLE",
    "Finding",
    "Listing",
    "Report",
    "SetReport",
    "Size",
    "check_folder",
    "check_least",
    "check_lmdb",
    "check_names",
    "check_pair_sizes",
    "check_sizes",
    "no_folder",
    "sample",
    "verify",
]

SIZE_SAMPLE = 2000
_AGAIN = "Make the LMDB again."
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Finding:
    """Something that training would stumble over.

    Attributes:
        kind: short, the same for all of its kind.
        expected, found, advice: for a message.
        images: names, with what is wrong with each where that differs.
        place: the file or folder, where the message does not name it otherwise.
        about: what of a dataset it concerns: its images, their list, or the size of its crops.
    """

    kind: str
    expected: str
    found: str
    advice: str
    images: tuple[str, ...] = ()
    place: str = ""
    about: str = "images"

    def found_text(self, limit: int = 3) -> str:
        """``found`` with the first images."""
        return f"{self.found}: {listed(self.images, limit)}" if self.images else self.found

    @property
    def number(self) -> int:
        """How many images or files it is about."""
        return len(self.images) or 1

    def __str__(self) -> str:
        return f"{self.place}: expected {self.expected}; found {self.found_text(20)}. {self.advice}"


class Size(NamedTuple):
    """In pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def sample(items: Sequence[_Item]) -> Sequence[_Item]:
    """At most SIZE_SAMPLE of the items, evenly spread."""
    return items[:: max(math.ceil(len(items) / SIZE_SAMPLE), 1)]


@dataclass
class Listing:
    """The images of a folder or LMDB as BasicSR's datasets find them.

    Attributes:
        root: as the option file names it.
        names: of the files, or keys of the LMDB.
        findings: what is wrong with it.
        recorded: sizes in the list of an LMDB; None of a folder.
    """

    root: str
    names: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    recorded: dict[str, Size | None] | None = None

    @property
    def path(self) -> str:
        return os.path.expanduser(self.root)

    def add(self, kind: str, expected: str, found: str, advice: str, *images: object) -> None:
        self.findings.append(Finding(kind, expected, found, advice, tuple(map(str, images))))


def no_folder(root: str) -> Finding:
    """The finding for a folder that does not exist."""
    found = f"{root}, which is a file" if os.path.exists(root) else f"no folder {root}"
    parent = os.path.dirname(os.path.abspath(os.path.expanduser(root)))
    advice = "Check the path. Paths start at the current folder."
    if not os.path.isdir(parent):
        advice += f" {os.path.relpath(parent)} does not exist either."
    return Finding("no folder", "a folder", found, advice)


def check_folder(
    root: str, list_file: str | None = None, renamed: Callable[[str], str] | None = None
) -> Listing:
    """The files of a folder, or those that ``list_file`` names at the start of each line.

    Args:
        renamed: the name of a file of this folder by that in the list.
    """
    listing = Listing(root)
    path = listing.path
    if not os.path.isdir(path):
        listing.findings.append(no_folder(root))
    elif not os.access(path, os.R_OK | os.X_OK):
        listing.add("permission", "a readable folder", f"no permission for {root}", "Change it.")
    elif path.rstrip("/").endswith(".lmdb") and os.path.exists(os.path.join(path, "data.mdb")):
        listing.add("LMDB", "a folder of images", f"the LMDB {root}", "Write `type: lmdb`.")
    if list_file is not None:
        lines, findings = _read_list(list_file)
        names = [line.name.split(" ")[0] for line in lines]
        listing.names = [renamed(name) if renamed and name else name for name in names]
        if not listing.findings:
            missing = [n for n in listing.names if n and not os.path.isfile(os.path.join(path, n))]
            _add_missing(listing, "files", missing, list_file)
        listing.findings += findings
    elif not listing.findings:
        _list_files(listing, path)
    return listing


def _list_files(listing: Listing, path: str) -> None:
    """File names as BasicSR's scandir lists them: all but hidden ones."""
    root = listing.root
    with os.scandir(path) as entries:
        found = sorted((e for e in entries if e.name[0] != "."), key=lambda entry: entry.name)
    dangling = [e.name for e in found if e.is_symlink() and not os.path.exists(e.path)]
    special = [e.name for e in found if not (e.is_file() or e.is_dir()) and special_kind(e.path)]
    if special:
        listing.add(
            "special files",
            "regular files, as BasicSR leaves the others out without a word",
            f"{len(special)} FIFOs, sockets or devices in {root}",
            "Remove them.",
            *special,
        )
    if dangling:
        listing.add(
            "dangling links",
            "links to images, as BasicSR leaves the others out without a word",
            f"{len(dangling)} links to nothing in {root}",
            "Correct or remove them.",
            *dangling,
        )
    listing.names = [entry.name for entry in found if entry.is_file()]
    suffixes = tuple(BASICSR_SUFFIXES)
    if not listing.names:
        found_text, advice = f"none in {root}", "Put the images there."
        below = {e.name: _count_images(e.path, suffixes) for e in found if e.is_dir()}
        folders = [os.path.join(root, name) for name, count in below.items() if count]
        if folders:
            found_text += f", and {sum(below.values()):,} one folder down"
            advice = f"Name {listed(folders, 3)} instead, or move the images up."
        listing.add("no images", "image files", found_text, advice)
    others = [name for name in listing.names if not name.lower().endswith(suffixes)]
    if others:
        listing.add(
            "other files",
            "only image files, as BasicSR reads every file of the folder",
            f"{len(others)} other files in {root}",
            "Move them away.",
            *others,
        )


def _count_images(folder: str, suffixes: tuple[str, ...]) -> int:
    try:
        return sum(name.lower().endswith(suffixes) for name in os.listdir(folder))
    except OSError:
        return 0


def _read_list(file: str) -> tuple[list[MetaLine], list[Finding]]:
    """The lines of a list of images, and its errors."""
    expected, found = "a text file of image names", ""
    try:
        lines = read_meta_info(file)
    except FileNotFoundError:
        lines, found, advice = [], f"no file {file}", "Check the path."
    except (OSError, ValueError) as error:
        lines, found, advice = [], f"{file}: {error}", "Check the file."
    else:
        expected = "an image name in each line"
        blank = [str(number) for number, line in enumerate(lines, 1) if not line.name]
        if not lines:
            found, advice = f"an empty file {file}", "Fill the file."
        elif blank:
            found, advice = f"{file} with blank lines", "Remove the blank lines."
            finding = Finding("list", expected, found, advice, tuple(blank), about="list")
            return lines, [finding]
    return lines, [Finding("list", expected, found, advice, about="list")] if found else []


def _add_missing(listing: Listing, what: str, missing: list[str], list_file: str) -> None:
    if missing:
        listing.add(
            "missing",
            f"the {what} that {list_file} lists",
            f"{len(missing)} missing in {listing.root}",
            "Add them, or remove their lines.",
            *missing,
        )


def check_lmdb(root: str, list_file: str | None = None) -> Listing:
    """The keys of an LMDB by its meta_info.txt, or of the images that ``list_file`` names."""
    listing = Listing(root, recorded={})
    path = listing.path
    if not root.endswith(".lmdb"):
        listing.add(
            "name",
            "a folder whose name ends in .lmdb, as io_backend.type is lmdb",
            root,
            "Name the LMDB, without a slash at its end, or write `type: disk`.",
        )
        return listing
    meta = os.path.join(path, "meta_info.txt")
    lacking = [f for f in ("data.mdb", "meta_info.txt") if not os.path.isfile(f"{path}/{f}")]
    if lacking:
        listing.add(
            "no LMDB",
            "an LMDB folder with data.mdb and meta_info.txt",
            f"{root} without {' and '.join(lacking)}" if os.path.isdir(path) else f"no {root}",
            "Check the path, or make the LMDB with `basicsr data lmdb FOLDER`.",
        )
        return listing
    lines, findings = _read_list(meta)
    listing.findings += [replace(finding, about="images") for finding in findings]
    listing.findings += _check_lmdb_names(lines, meta)
    if listing.findings:
        return listing
    listing.recorded = {
        line.key: Size(line.shape[1], line.shape[0]) if line.shape else None for line in lines
    }
    listing.names = list(listing.recorded)
    _check_lmdb_keys(listing)
    if list_file is not None:
        lines, findings = _read_list(list_file)
        listing.names = [line.name.split(" ")[0].split(".")[0] for line in lines]
        listing.findings += findings
        missing = [name for name in listing.names if name and name not in listing.recorded]
        _add_missing(listing, "images", missing, list_file)
    return listing


def _check_lmdb_names(lines: Iterable[MetaLine], meta: str) -> Iterator[Finding]:
    dotted = [line.name for line in lines if "." in os.path.splitext(line.name)[0]]
    foreign = [line.name for line in lines if not line.key.isascii()]
    for names, expected, found in (
        (dotted, "names with one dot, as BasicSR takes what stands before the first for the key",
         "names with more"),
        (foreign, "names in ASCII, as BasicSR encodes keys so", "others"),
    ):  # fmt: skip
        if names:
            advice = "Rename the images and make the LMDB again."
            found = f"{len(names)} {found} in {meta}"
            yield Finding("names", expected, found, advice, tuple(names))


def _check_lmdb_keys(listing: Listing) -> None:
    again = "Make the LMDB again; it was cut off or changed."
    try:
        with closing(ImageSet(listing.path)) as images:
            keys = set(images.names)
    except DamagedLmdb as error:
        listing.add("damaged", error.expected, error.found, again)
        return
    missing = [name for name in listing.names if name not in keys]
    if missing:
        expected = "every image of meta_info.txt in data.mdb"
        found = f"{len(missing)} missing in {listing.root}"
        listing.add("missing", expected, found, again, *missing)


def check_sizes(
    listing: Listing, names: Iterable[str], decoded: bool
) -> tuple[dict[str, Size], list[Finding]]:
    """Sizes of images by their headers, or by the list of an LMDB, as BasicSR reads them.

    Args:
        decoded: decode the images too, as of a validation or test set, which has few.  BasicSR
            takes what OpenCV makes of a damaged file, or stops at the first.

    Returns:
        The sizes that can be read, and the images that cannot be read.
    """
    sizes: dict[str, Size] = {}
    findings: list[Finding] = []
    recorded = listing.recorded
    with closing(ImageSet(listing.path)) as images:
        for name in names:
            place = os.path.join(listing.path, name)
            try:
                if recorded is not None:
                    size = recorded.get(name)
                    if decoded:
                        decode(images.read(name), place)
                else:
                    size = _file_size(place, decoded)
            except (ImageError, DamagedLmdb) as error:
                findings.append(_unreadable(place, error))
            else:
                if size is not None:
                    sizes[name] = size
    return sizes, findings


def _file_size(file: str, decoded: bool) -> Size:
    height, width, _ = read_header(file).shape  # upright, as OpenCV reads it
    if decoded and os.path.splitext(file)[1].lower() in SUFFIXES:
        decode(read_regular(file), file)
    return Size(width, height)


def _unreadable(place: str, error: Exception) -> Finding:
    found = error.found if isinstance(error, ImageError | DamagedLmdb) else str(error)
    advice = "Copy or make the image again, or remove it."
    return Finding("unreadable", "readable images", found.rstrip("."), advice, place=place)


def check_names(
    hr: Iterable[str],
    partners: Mapping[str, str | None],
    advice: str,
    lq_name: Callable[[str], str] | None = None,
) -> list[Finding]:
    """HR images without an LR image, and the other way round.

    Args:
        hr: names of all HR images.
        partners: HR name of each LR image, None for one without.
        lq_name: the LR name of an HR name, to be shown.
    """
    paired = set(partners.values())
    without_lq = [name for name in hr if name not in paired]
    without_hr = [name for name, partner in partners.items() if partner is None]
    if lq_name is not None:
        without_lq = [f"{name} (LR {lq_name(name)})" for name in without_lq]
    return [
        Finding(
            f"without {other}",
            f"an {other} image for each {kind} image",
            f"{len(names)} {kind} images without one",
            advice,
            tuple(names),
        )
        for kind, other, names in (("HR", "LR", without_lq), ("LR", "HR", without_hr))
        if names
    ]


def check_pair_sizes(
    pairs: Iterable[tuple[str, Size, Size]], scale: int, exact: bool
) -> list[Finding]:
    """Compare HR and LR sizes.

    Args:
        pairs: HR name, HR size, LR size.
        scale: of the HR side over the LR side.
        exact: whether the HR sides must be multiples of the scale, as in training; otherwise
            BasicSR crops what the HR image has beyond that.
    """
    unequal = []
    for name, hr, lq in pairs:
        spare = [large - side * scale for large, side in zip(hr, lq, strict=True)]
        want = Size(hr.width // scale, hr.height // scale)
        if all(0 <= s < (1 if exact else scale) for s in spare):
            continue
        if lq == want:
            whole = Size(want.width * scale, want.height * scale)
            unequal.append(f"{name} HR {hr} instead of {whole}, for LR {lq}")
        else:
            unequal.append(f"{name} HR {hr}, LR {lq} instead of {want}")
    if not unequal:
        return []
    exactly = ", and HR sides that are multiples of it" if exact else ""
    expected = f"LR images {scale} times smaller than HR{exactly}"
    advice = "Use the LR folder of this scale, or crop the HR images and make the LR ones again."
    return [Finding("sizes", expected, f"{len(unequal)} that are not", advice, tuple(unequal))]


def check_least(
    sizes: Iterable[tuple[str, Size]], least: int, expected: str | None = None
) -> list[Finding]:
    """HR images with a side below ``least``, which is that of a crop if ``expected`` is None."""
    small = tuple(f"{name} ({size})" for name, size in sizes if min(size) < least)
    if not small:
        return []
    found = f"{len(small)} smaller images"
    if expected is not None:
        return [Finding("small", expected, found, "Remove these images.", small)]
    expected, found = "no more than the smaller side of each HR image", f"{least}, and {found}"
    advice = "Remove these images, or lower gt_size."
    return [Finding("small", expected, found, advice, small, about="gt_size")]


@dataclass
class SetReport:
    """One set.

    Attributes:
        images: how many it names.
        bytes: of those that were read.
        findings: each with the set before its kind.
        shapes: by stem, None of what does not decode.
        duplicates: groups of HR images with the same pixels.
    """

    name: str
    images: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    shapes: dict[str, Shape | None] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)


class Report(NamedTuple):
    """The findings on each set, and on pairs of sets by their names.

    Attributes:
        notes: what is right for some uses alone.
    """

    sets: list[SetReport]
    pairs: dict[str, list[Finding]]
    notes: list[str]

    @property
    def problems(self) -> list[Finding]:
        findings = [done.findings for done in self.sets] + list(self.pairs.values())
        return [finding for group in findings for finding in group]


class _Image(NamedTuple):
    """An image as a process found it: its shape and digest, or its error."""

    size: int
    shape: Shape | None
    pixels: bytes
    wrong: Finding | None


def verify(
    path: str | os.PathLike[str],
    jobs: int,
    lq: str | os.PathLike[str] | None = None,
    scale: int = 1,
    gt_size: int = 1,
) -> Report:
    """Check a folder of images, an LMDB, or a folder that ``basicsr data prepare`` made.

    Args:
        jobs: number of processes.
        lq: images that were made of those in ``path``: each LR side must be the HR side over
            the scale, without remainder.
        gt_size: side of the HR crops that a training is to take.

    Raises:
        UserError: when a path holds no images at all.
    """
    if lq is None:
        sets, pairs = find_sets(path)
    else:
        sets = [FoundSet(str(path), Path(path)), FoundSet(str(lq), Path(lq), scale)]
        pairs = [FoundPair(sets[0], sets[1], is_exact=False)]
    for found in sets:
        _require_images(found)
    with Processes(jobs) as processes:
        checked = {found: _check_set(found, processes) for found in sets}
    for found, done in checked.items():
        sizes = [(n, Size(of.width, of.height)) for n, of in done.shapes.items() if of]
        small = check_least(sizes, gt_size // found.scale)
        done.findings += _of(done.name, [replace(f, place=str(found.path)) for f in small])
    names = {pair: f"{pair.hr.name if pair.hr else 'no HR'} and {pair.lq.name}" for pair in pairs}
    found_of = {name: _of(name, _check_pair(pair, checked)) for pair, name in names.items()}
    to_train = {pair.lq for pair in pairs if pair.is_exact}
    notes = [note for pair in pairs if pair.lq not in to_train for note in _notes(pair, checked)]
    return Report(list(checked.values()), found_of, notes)


def _notes(pair: FoundPair, checked: Mapping[FoundSet, SetReport]) -> Iterator[str]:
    if pair.hr is None:
        return
    shapes, scale = checked[pair.hr].shapes, pair.lq.scale
    uneven = [n for n, of in shapes.items() if of and (of.height % scale or of.width % scale)]
    if uneven:
        yield (
            f"{pair.hr.path}: expected sides that are multiples of {scale}, to train with; found "
            f"{len(uneven)} others: {listed(uneven, 3)}. To test with they are right; `basicsr "
            "data prepare` makes pairs to train with."
        )


def _of(name: str, findings: Iterable[Finding]) -> list[Finding]:
    return [replace(finding, kind=f"{name}: {finding.kind}") for finding in findings]


def _require_images(found: FoundSet) -> None:
    """Refuse an empty set: its path is wrong, rather than the set damaged."""
    images = open_image_set(found.path)
    if not images.is_lmdb:
        find_images(found.path)  # what it leaves out is said when the set is checked
    elif not any((found.path / name).is_file() for name in ("data.mdb", "meta_info.txt")):
        raise UserError(
            f"{found.path}: expected an LMDB with data.mdb and meta_info.txt; found neither. "
            "Check the path, or make it with `basicsr data lmdb`."
        )


def _check_set(found: FoundSet, processes: Processes) -> SetReport:
    images = open_image_set(found.path)
    report = SetReport(found.name)
    findings: list[Finding] = []
    same: dict[bytes, list[str]] = defaultdict(list)
    names: tuple[str, ...] = ()
    try:
        (names,) = processes.map(_names, [found.path])
        report.shapes = dict.fromkeys(map(images.stem, names))
        inspect = functools.partial(_inspect, found.path)
        with progress(f"checking {found.name}", len(names)) as advance:
            results = processes.map(inspect, names)
            for name, image in zip(names, results, strict=True):
                report.bytes += image.size
                report.shapes[images.stem(name)] = image.shape
                if image.wrong is not None:
                    findings.append(image.wrong)
                else:
                    same[image.pixels].append(images.where(name))
                advance(1)
    except DamagedLmdb as error:
        findings.append(Finding("damaged", error.expected, error.found, _AGAIN))
    except ProcessKilled:
        text = "that a process was killed by it: damaged, or too little memory"
        findings.append(Finding("damaged", "to read all images", text, _AGAIN))
    if found.name != str(found.path) and not images.is_lmdb:
        # BasicSR reads all that is in a folder of `data prepare`.
        findings += check_folder(str(found.path)).findings
    repeated = [stem for stem, n in Counter(map(images.stem, names)).items() if n > 1]
    if repeated:
        expected, advice = "one image of each name", "Rename or remove one."
        what = "names of more, with other extensions"
        findings.append(Finding("same name", expected, what, advice, tuple(repeated)))
    if images.is_lmdb:
        findings += _check_list(found.path / "meta_info.txt", names, report.shapes)
    report.images = len(names)
    report.findings = _of(
        found.name, [replace(f, place=f.place or str(found.path)) for f in findings]
    )
    if found.scale == 1:  # LR images are the same where the HR images are
        report.duplicates = [group for group in same.values() if len(group) > 1]
    return report


def _names(path: Path) -> tuple[str, ...]:
    return opened(path).names


def _inspect(path: Path, name: str) -> _Image:
    images = opened(path)
    size = 0
    try:
        content = images.read(name)
        size = len(content)
        image = decode(content, images.where(name)).image
    except ImageError as error:
        return _Image(size, None, b"", _unreadable(images.where(name), error))
    height, width = image.shape[:2]
    shape = Shape(height, width, 1 if image.ndim == 2 else image.shape[2])
    digest = hashlib.blake2b(f"{image.dtype} {shape}".encode(), digest_size=16)
    digest.update(image.data)
    return _Image(size, shape, digest.digest(), None)


def _check_list(
    file: Path, keys: Sequence[str], shapes: Mapping[str, Shape | None]
) -> Iterator[Finding]:
    """meta_info.txt against the keys and the images."""
    lines, findings = _read_list(str(file))
    yield from findings
    if not lines:
        return
    listed_keys = Counter(line.key for line in lines)
    other_shapes = [
        f"{line.key} {tuple(shape)} instead of {line.shape}"
        for line in lines
        if line.shape and (shape := shapes.get(line.key)) and line.shape != shape[: len(line.shape)]
    ]
    # Where the LMDB cannot be read, that is said, and not for each image again.
    missing = sorted(listed_keys.keys() - set(keys)) if keys else []
    for kind, expected, images in (
        ("missing", f"in data.mdb what {file} lists", missing),
        ("not listed", f"each image in {file}", sorted(set(keys) - listed_keys.keys())),
        ("listed twice", f"each image once in {file}",
         [key for key, number in listed_keys.items() if number > 1]),
        ("no shape", f"(height,width,channels) of each image in {file}",
         [line.key for line in lines if line.shape is None]),
        ("other shape", f"the shapes that {file} lists", other_shapes),
    ):  # fmt: skip
        if images:
            yield Finding(kind, expected, f"{len(images)} {kind}", _AGAIN, tuple(images))


def _check_pair(pair: FoundPair, checked: Mapping[FoundSet, SetReport]) -> Iterator[Finding]:
    if pair.hr is None:
        expected, place = "the HR images that it was made of", str(pair.lq.path)
        yield Finding("no HR", expected, "none beside it", "Make them again.", place=place)
        return
    hr, lq = checked[pair.hr].shapes, checked[pair.lq].shapes
    if not hr or not lq:
        return  # one cannot be read, which is said already
    if all(found.path.name.endswith(".lmdb") for found in (pair.hr, pair.lq)):
        # BasicSR uses one key for both.
        partners = {key: key if key in hr else None for key in lq}
    else:
        partners = pair_up(hr, lq, pair.lq.scale)
    place = f"{pair.hr.path} and {pair.lq.path}"
    advice = "Add or remove images, or make the LR images again."
    sizes = [
        (partner, Size(large.width, large.height), Size(small.width, small.height))
        for stem, partner in sorted(partners.items())
        if partner is not None and (small := lq[stem]) and (large := hr[partner])
    ]
    findings = check_names(sorted(hr), dict(sorted(partners.items())), advice)
    for finding in findings + check_pair_sizes(sizes, pair.lq.scale, pair.is_exact):
        yield replace(finding, place=place)
