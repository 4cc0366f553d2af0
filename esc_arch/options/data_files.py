"""Checks that the data of an option file is there and fits: names, pairs, sizes.

File names are all looked at.  Image sizes are read from file headers, of at most
SIZE_SAMPLE images spread over a dataset, since opening every file of a large one takes
minutes on a network disk; an LMDB tells all its sizes in one text file.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from esc_arch.data.downsample_image_dataset import one_per_root, roots_of
from esc_arch.data.image_set import LmdbSet
from esc_arch.errors import UserError, listed
from esc_arch.imaging.codecs import SUFFIXES, decode
from esc_arch.options.datasets import DOWNSAMPLE, PAIRED, REAL, SINGLE
from esc_arch.options.lmdb_files import Records, inspect_lmdb
from esc_arch.options.problems import Problems
from esc_arch.options.real_esrgan import LEAST_SHARPENED, check_queue, synthesizes
from esc_arch.options.real_esrgan import MODELS as REAL_MODELS
from esc_arch.options.run import Run

SIZE_SAMPLE = 2000

# What both OpenCV, which BasicSR reads with, and Pillow decode to 8 or 16 bits.
IMAGE_SUFFIXES = (
    ".bmp", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


class Size(NamedTuple):
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Pair(NamedTuple):
    """Names of an HR and an LR image for the message, and how to get their sizes."""

    gt: str
    lq: str
    gt_size: Callable[[], Size | None]
    lq_size: Callable[[], Size | None]


def inspect_data(problems: Problems, opt: Mapping[str, object], run: Run) -> None:
    """Look at the files of every dataset whose section has no problem yet."""
    datasets = opt.get("datasets")
    for phase, section in datasets.items() if isinstance(datasets, dict) else ():
        key = f"datasets.{phase}"
        if problems.under(key) or not isinstance(section, dict):
            continue
        if section.get("type") == PAIRED:
            least = LEAST_SHARPENED if opt.get("model_type") in REAL_MODELS else 1
            scale = opt.get("scale")
            count = _inspect_paired(problems, key, section, scale, phase == "train", least)
        elif section.get("type") == SINGLE:
            count = _inspect_single(problems, key, section)
        elif section.get("type") == REAL:
            count = _inspect_real(problems, key, section)
        elif section.get("type") == DOWNSAMPLE:
            count = _inspect_downsample(problems, key, section, opt.get("scale"), phase == "train")
        else:
            _inspect_roots(problems, key, section)
            continue
        is_lmdb = section["io_backend"]["type"] == "lmdb"
        if phase != "train" and is_lmdb and not problems.under(key):
            _inspect_lmdb_pixels(problems, key, section)
        if phase == "train" and run.is_train and not problems.under(key):
            replicas = _replicas(opt.get("num_gpu"), run)
            _inspect_batch(problems, key, section, count, replicas)
            if synthesizes(opt) and not problems.under("queue_size"):
                check_queue(problems, opt, section["batch_size_per_gpu"] * _split(replicas, run))


def _inspect_paired(
    problems: Problems, key: str, section: Mapping, scale: object, train: bool, least: int
) -> int:
    gt_root, lq_root = section["dataroot_gt"], section["dataroot_lq"]
    gt_key, lq_key = f"{key}.dataroot_gt", f"{key}.dataroot_lq"
    scale = section.get("scale") if scale is None else scale
    if section["io_backend"]["type"] == "lmdb":
        gt = inspect_lmdb(problems, gt_key, gt_root)
        lq = inspect_lmdb(problems, lq_key, lq_root)
        if gt is None or lq is None:
            return 0
        if os.path.realpath(os.path.expanduser(gt_root)) == os.path.realpath(
            os.path.expanduser(lq_root)
        ):
            problems.add(lq_key, "the LMDB of LR images", f"that of {gt_key}", "Name the LR one.")
            return 0
        pairs = _lmdb_pairs(problems, lq_key, gt, lq)
    elif section.get("meta_info_file") is not None:
        pairs = _listed_pairs(problems, key, section)
    else:
        pairs = _folder_pairs(problems, key, section)
    if not problems.under(key) and not problems.under("scale"):
        patch = section["gt_size"] if train else None
        _inspect_sizes(problems, key, pairs, scale, patch, least)
    return len(pairs)


def _inspect_single(problems: Problems, key: str, section: Mapping) -> int:
    root, root_key = os.path.expanduser(section["dataroot_lq"]), f"{key}.dataroot_lq"
    if section["io_backend"]["type"] == "lmdb":
        return len(inspect_lmdb(problems, root_key, section["dataroot_lq"]) or ())
    if section.get("meta_info_file") is not None:
        if not _is_folder(problems, root_key, section["dataroot_lq"]):
            return 0
        names = _listed_names(problems, f"{key}.meta_info_file", section["meta_info_file"])
        _note_missing(problems, root_key, root, names, section["meta_info_file"])
    else:
        names = _image_names(problems, root_key, section["dataroot_lq"])
    if not problems.under(key):
        files = [(name, _reader(problems, root_key, os.path.join(root, name))) for name in names]
        for _, size in _sample(files):
            size()
    return len(names)


def _inspect_real(problems: Problems, key: str, section: Mapping) -> int:
    """HR images of any size: the dataset pads small ones."""
    root, root_key = section["dataroot_gt"], f"{key}.dataroot_gt"
    if section["io_backend"]["type"] == "lmdb":
        return len(inspect_lmdb(problems, root_key, root) or ())
    if not _is_folder(problems, root_key, root):
        return 0
    root, meta = os.path.expanduser(root), section["meta_info"]
    names = _listed_names(problems, f"{key}.meta_info", meta)
    _note_missing(problems, root_key, root, names, meta)
    if not problems.under(key):
        for file in _sample(names):
            _reader(problems, root_key, os.path.join(root, file))()
    return len(names)


def _inspect_downsample(
    problems: Problems, key: str, section: Mapping, scale: object, train: bool
) -> int:
    """HR images of one or several roots, each as large as a patch or as one LR pixel."""
    roots = roots_of(section["dataroot_gt"])
    metas = one_per_root(section.get("meta_info_file"), len(roots))
    is_lmdb = section["io_backend"]["type"] == "lmdb"
    sizes: list[tuple[str, Callable[[], Size | None]]] = []
    for root, meta in zip(roots, metas, strict=True):
        sizes += (_lmdb_sizes if is_lmdb else _file_sizes)(problems, key, root, meta)
    if problems.under(key) or problems.under("scale"):
        return len(sizes)
    least = section["gt_size"] if train else section.get("scale") if scale is None else scale
    read = [(name, size()) for name, size in (sizes if is_lmdb else _sample(sizes))]
    small = [f"{name} ({size})" for name, size in read if size and min(size) < least]
    if small and train:
        _add_small(problems, key, least, small)
    elif small:
        problems.add(
            f"{key}.dataroot_gt",
            f"sides of at least the scale {least}, for one LR pixel",
            f"{len(small)} smaller images: {listed(small, 3)}",
            "Remove these images.",
        )
    return len(sizes)


def _file_sizes(
    problems: Problems, key: str, root: str, meta: str | None
) -> list[tuple[str, Callable[[], Size | None]]]:
    """Names in a folder, or in the text file ``meta``, and how to get the images' sizes."""
    root_key = f"{key}.dataroot_gt"
    if meta is None:
        names = _image_names(problems, root_key, root)
    else:
        names = []
        if _is_folder(problems, root_key, root):
            names = _listed_names(problems, f"{key}.meta_info_file", meta)
            _note_missing(problems, root_key, root, names, meta)
    return [(name, _reader(problems, root_key, os.path.join(root, name))) for name in names]


def _lmdb_sizes(
    problems: Problems, key: str, root: str, meta: str | None
) -> list[tuple[str, Callable[[], Size | None]]]:
    """As :func:`_file_sizes`, of an LMDB."""
    records = inspect_lmdb(problems, f"{key}.dataroot_gt", root)
    if records is None:
        return []
    names = list(records)
    if meta is not None:
        listed_names = _listed_names(problems, f"{key}.meta_info_file", meta)
        names = [name.split(".")[0] for name in listed_names]
        missing = [name for name in names if name and name not in records]
        if missing:
            problems.add(
                f"{key}.dataroot_gt",
                f"the images that {meta} lists",
                f"{len(missing)} missing in {root}: {listed(missing, 3)}",
                "Add them, or remove their lines.",
            )
            return []
    return [(name, _recorded(records, name)) for name in names]


def _recorded(records: Records, name: str) -> Callable[[], Size | None]:
    return lambda: Size(*records[name]) if records.get(name) else None


def _inspect_lmdb_pixels(problems: Problems, key: str, section: Mapping) -> None:
    """As :func:`_decode` of the files of a validation or test set."""
    for root_key in ("dataroot_gt", "dataroot_lq"):
        for root in roots_of(section.get(root_key) or []):
            with LmdbSet(root) as images:
                for name in _sample(images.names):
                    _decode(problems, f"{key}.{root_key}", images.where(name), images.read(name))


def _decode(problems: Problems, key: str, file: str, content: bytes) -> None:
    """Decode an image of a validation or test set, which has few.

    BasicSR takes what OpenCV makes of a damaged file, or stops at the first in the midst.
    """
    try:
        decode(content, file)
    except UserError as error:
        found = str(error).partition("; found")[2].lstrip(": ").partition(". ")[0].rstrip(".")
        problems.add(
            key,
            "readable images",
            f"{file}: {found}",
            "Copy or make the image again, or remove it.",
        )


def _inspect_roots(problems: Problems, key: str, section: Mapping) -> None:
    """Of other datasets, only that the folders they name exist can be told."""
    for name, value in section.items():
        if (
            name.startswith("dataroot")
            and isinstance(value, str)
            and not os.path.exists(os.path.expanduser(value))
        ):
            _add_no_folder(problems, f"{key}.{name}", value)


def _inspect_batch(
    problems: Problems, key: str, section: Mapping, count: int, replicas: int
) -> None:
    """BasicSR drops an incomplete batch; with no complete one it trains nothing, silently."""
    ratio = section.get("dataset_enlarge_ratio", 1)
    batch = section["batch_size_per_gpu"] * replicas
    if count * ratio < batch:
        problems.add(
            f"{key}.batch_size_per_gpu",
            f"no more than the {count} images times dataset_enlarge_ratio {ratio} in a batch",
            f"a batch of {batch}",
            f"Write `dataset_enlarge_ratio: {math.ceil(batch / count)}`, or a smaller batch.",
        )


def _replicas(num_gpu: object, run: Run) -> int:
    """How many copies of the network train together, each on its part of the batch."""
    if run.launcher != "none":
        return run.processes()
    if num_gpu == "auto":
        return max(torch.cuda.device_count(), 1)
    return max(num_gpu, 1) if isinstance(num_gpu, int) else 1


def _split(replicas: int, run: Run) -> int:
    """In how many parts one process splits its batch."""
    return replicas if run.launcher == "none" else 1


def _folder_pairs(problems: Problems, key: str, section: Mapping) -> list[Pair]:
    """Pairs as BasicSR's paired_paths_from_folder makes them."""
    gt_names = _image_names(problems, f"{key}.dataroot_gt", section["dataroot_gt"])
    lq_names = _image_names(problems, f"{key}.dataroot_lq", section["dataroot_lq"])
    if problems.under(key):
        return []
    wanted = {_lq_name(section, name): name for name in gt_names}
    present = set(lq_names)
    without_lq = [f"{gt} (LR {lq})" for lq, gt in wanted.items() if lq not in present]
    without_gt = [name for name in lq_names if name not in wanted]
    advice = (
        f"LR files are named by filename_tmpl '{section.get('filename_tmpl', '{}')}' with the "
        "extension of the HR file."
    )
    if without_lq:
        problems.add(
            f"{key}.dataroot_lq",
            "an LR image for each HR image",
            f"{len(without_lq)} HR images without one: {listed(without_lq, 3)}",
            advice,
        )
    if without_gt:
        problems.add(
            f"{key}.dataroot_gt",
            "an HR image for each LR image",
            f"{len(without_gt)} LR images without one: {listed(without_gt, 3)}",
            advice,
        )
    return _file_pairs(problems, key, section, gt_names)


def _listed_pairs(problems: Problems, key: str, section: Mapping) -> list[Pair]:
    """Pairs as BasicSR's paired_paths_from_meta_info_file makes them."""
    for name in ("dataroot_gt", "dataroot_lq"):
        _is_folder(problems, f"{key}.{name}", section[name])
    meta = section["meta_info_file"]
    names = _listed_names(problems, f"{key}.meta_info_file", meta)
    if problems.under(key):
        return []
    gt_root = os.path.expanduser(section["dataroot_gt"])
    lq_root = os.path.expanduser(section["dataroot_lq"])
    lq_names = [_lq_name(section, name) for name in names]
    _note_missing(problems, f"{key}.dataroot_gt", gt_root, names, meta)
    _note_missing(problems, f"{key}.dataroot_lq", lq_root, lq_names, meta)
    return _file_pairs(problems, key, section, names)


def _file_pairs(
    problems: Problems, key: str, section: Mapping, gt_names: Iterable[str]
) -> list[Pair]:
    gt_root = os.path.expanduser(section["dataroot_gt"])
    lq_root = os.path.expanduser(section["dataroot_lq"])
    pairs = []
    for gt in gt_names:
        lq = _lq_name(section, gt)
        read_gt = _reader(problems, f"{key}.dataroot_gt", os.path.join(gt_root, gt))
        read_lq = _reader(problems, f"{key}.dataroot_lq", os.path.join(lq_root, lq))
        pairs.append(Pair(gt, lq, read_gt, read_lq))
    return pairs


def _lmdb_pairs(problems: Problems, key: str, gt: Records, lq: Records) -> list[Pair]:
    """Pairs as BasicSR's paired_paths_from_lmdb makes them."""
    for some, others, what in ((gt, lq, "HR"), (lq, gt, "LR")):
        alone = sorted(some.keys() - others.keys())
        if alone:
            problems.add(
                key,
                "the same keys in the LR and the HR LMDB",
                f"{len(alone)} keys of {what} only: {listed(alone, 3)}",
                "Make both LMDBs from images of the same names.",
            )

    return [Pair(name, name, _recorded(gt, name), _recorded(lq, name)) for name in gt if name in lq]


def _inspect_sizes(
    problems: Problems, key: str, pairs: list[Pair], scale: int, patch: int | None, least: int
) -> None:
    """Compare HR and LR sizes.

    Args:
        scale: the upscaling factor.
        patch: gt_size in training, where sizes have to fit exactly; None otherwise,
            where BasicSR crops what the HR image has beyond a multiple of the scale.
        least: the smallest side of an HR image that the model takes.
    """
    unequal, small, tiny = [], [], []
    for pair in _sample(pairs):
        gt, lq = pair.gt_size(), pair.lq_size()
        if gt is None or lq is None:
            continue
        spare = [g - side * scale for g, side in zip(gt, lq, strict=True)]
        if not all(0 <= s < (1 if patch else scale) for s in spare):
            unequal.append(_unequal(pair.gt, gt, lq, scale))
        elif patch and min(gt) < patch:
            small.append(f"{pair.gt} ({gt})")
        elif scale * min(lq) < least:
            tiny.append(f"{pair.gt} ({gt})")
    if tiny:
        problems.add(
            f"{key}.dataroot_gt",
            f"HR images with sides of at least {least}, which this model_type sharpens",
            f"{len(tiny)} smaller images: {listed(tiny, 3)}",
            "Remove these images.",
        )
    if unequal:
        exactly = ", and HR sides that are multiples of it" if patch else ""
        problems.add(
            f"{key}.dataroot_lq",
            f"LR images {scale} times smaller than HR{exactly}",
            f"{len(unequal)} that are not: {listed(unequal, 3)}",
            "Take the LR folder of this scale, or crop the HR images and make the LR ones again.",
        )
    if small:
        _add_small(problems, key, patch, small)


def _unequal(name: str, gt: Size, lq: Size, scale: int) -> str:
    want = Size(gt.width // scale, gt.height // scale)
    if lq == want:
        whole = Size(want.width * scale, want.height * scale)
        return f"{name} HR {gt} instead of {whole}, for LR {lq}"
    return f"{name} HR {gt}, LR {lq} instead of {want}"


def _add_small(problems: Problems, key: str, patch: int, small: list[str]) -> None:
    problems.add(
        f"{key}.gt_size",
        "no more than the smaller side of each HR image",
        f"{patch}, and {len(small)} smaller images: {listed(small, 3)}",
        "Remove these images, or lower gt_size.",
    )


def _image_names(problems: Problems, key: str, root: str) -> list[str]:
    """File names in a folder, as BasicSR's scandir lists them: all but hidden ones."""
    if not _is_folder(problems, key, root):
        return []
    with os.scandir(os.path.expanduser(root)) as entries:
        entries = sorted((e for e in entries if e.name[0] != "."), key=lambda entry: entry.name)
    dangling = [e.name for e in entries if e.is_symlink() and not os.path.exists(e.path)]
    if dangling:
        problems.add(
            key,
            "links to images, as BasicSR leaves the others out without a word",
            f"{len(dangling)} links to nothing in {root}: {listed(dangling, 3)}",
            "Mend or remove them.",
        )
    names = [entry.name for entry in entries if entry.is_file()]
    if not names:
        problems.add(key, "image files", f"none in {root}", "Put the images there.")
    others = [name for name in names if not name.lower().endswith(IMAGE_SUFFIXES)]
    if others:
        problems.add(
            key,
            "only image files, as BasicSR reads every file of the folder",
            f"{len(others)} other files in {root}: {listed(others, 3)}",
            "Move them away.",
        )
    return names


def _listed_names(problems: Problems, key: str, file: str) -> list[str]:
    """First word of each line of a meta information file."""
    try:
        with open(file, encoding="utf-8") as lines:
            names = [line.strip().split(" ")[0] for line in lines]
    except FileNotFoundError:
        problems.add(key, "a text file of image names", f"no file {file}", "Check the path.")
        return []
    except (OSError, ValueError) as error:
        problems.add(key, "a text file of image names", f"{file}: {error}", "Check the file.")
        return []
    if not names:
        problems.add(key, "image names, one in each line", f"{file} empty", "Fill the file.")
    blank = [number for number, name in enumerate(names, 1) if not name]
    if blank:
        problems.add(
            key,
            "an image name in each line",
            f"{file} with blank lines: {listed(blank, 5)}",
            "Remove the blank lines.",
        )
    return names


def _note_missing(problems: Problems, key: str, root: str, names: list[str], meta: str) -> None:
    missing = [name for name in names if name and not os.path.isfile(os.path.join(root, name))]
    if missing:
        problems.add(
            key,
            f"the files that {meta} lists",
            f"{len(missing)} missing in {root}: {listed(missing, 3)}",
            "Add them, or remove their lines.",
        )


def _is_folder(problems: Problems, key: str, root: str) -> bool:
    path = os.path.expanduser(root)
    if not os.path.isdir(path):
        _add_no_folder(problems, key, root)
        return False
    if not os.access(path, os.R_OK | os.X_OK):
        problems.add(key, "a readable folder", f"no permission for {root}", "Change it.")
        return False
    if path.rstrip("/").endswith(".lmdb") and os.path.exists(os.path.join(path, "data.mdb")):
        problems.add(key, "a folder of images", f"the LMDB {root}", "Write `type: lmdb`.")
        return False
    return True


def _add_no_folder(problems: Problems, key: str, root: str) -> None:
    found = f"{root}, which is a file" if os.path.exists(root) else f"no folder {root}"
    parent = os.path.dirname(os.path.abspath(os.path.expanduser(root)))
    advice = "Paths start at the current folder."
    if not os.path.isdir(parent):
        advice += f" {os.path.relpath(parent)} does not exist either."
    problems.add(key, "a folder", found, f"Check the path. {advice}")


def _lq_name(section: Mapping, gt_name: str) -> str:
    stem, suffix = os.path.splitext(os.path.basename(gt_name))
    return f"{section.get('filename_tmpl', '{}').format(stem)}{suffix}"


def _reader(problems: Problems, key: str, file: str) -> Callable[[], Size | None]:
    """Reads the size from a file's header; notes a problem when there is none."""

    # Of training data, whose patches are read for days, headers have to be enough.
    is_whole = not key.startswith("datasets.train.") and file.lower().endswith(tuple(SUFFIXES))

    def read() -> Size | None:
        size = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(file) as image:
                    size = Size(*image.size)
                    # OpenCV turns a JPEG as its EXIF orientation says; 5 to 8 swap the sides.
                    if image.format in ("JPEG", "MPO") and image.getexif().get(274) in (5, 6, 7, 8):
                        size = Size(size.height, size.width)
            if is_whole:
                _decode(problems, key, file, Path(file).read_bytes())
        except Image.DecompressionBombError:
            # OpenCV reads larger images than Pillow, which thinks them suspicious.
            if is_whole:
                _decode(problems, key, file, Path(file).read_bytes())
        except Exception as error:
            reason = str(error) or type(error).__name__
            found = reason if _size_of(file) else "an empty file"
            problems.add(
                key, "readable images", f"{file}: {found}", "Copy or make the image again."
            )
        return size

    return read


def _size_of(file: str) -> int:
    """In bytes; 1 of a file that is gone, which the error says."""
    try:
        return os.path.getsize(file)
    except OSError:
        return 1


def _sample(items: list) -> list:
    """At most SIZE_SAMPLE of the items, evenly spread."""
    step = max(math.ceil(len(items) / SIZE_SAMPLE), 1)
    return items[::step]
