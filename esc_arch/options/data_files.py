"""The data that an option file names: what the data checker finds, with the key that names it."""

import functools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from esc_arch.data.check import (
    Finding,
    Listing,
    Size,
    check_folder,
    check_least,
    check_lmdb,
    check_names,
    check_pair_sizes,
    check_sizes,
    no_folder,
    sample,
)
from esc_arch.data.downsample_image_dataset import one_per_root, roots_of
from esc_arch.data.random_scale_image_dataset import SCALE_RANGE, largest_patch, lr_size
from esc_arch.errors import listed
from esc_arch.metrics.psnr_lte import shave_of
from esc_arch.options import types
from esc_arch.options.constructors import memory_bytes
from esc_arch.options.datasets import MADE, PAIRED, RANDOM_SCALE, REAL, SINGLE
from esc_arch.options.invocation import Run
from esc_arch.options.problems import Problems
from esc_arch.options.real_esrgan import LEAST_SHARPENED, check_queue, synthesizes
from esc_arch.options.real_esrgan import MODELS as REAL_MODELS
from esc_arch.options.types import accepts

# A dataset's section, whose keys and kinds of values were checked before.
Section = Mapping[str, Any]
# Names of images and their sizes.
Sizes = list[tuple[str, Size]]


def inspect_data(problems: Problems, opt: Mapping[str, object], run: Run) -> None:
    """Look at the files of every dataset whose section has no problem yet."""
    datasets = opt.get("datasets")
    val: Any = opt.get("val")
    metrics = (val or {}).get("metrics") or {} if not problems.under("val") else {}
    for phase, section in datasets.items() if isinstance(datasets, dict) else ():
        key = f"datasets.{phase}"
        if problems.under(key) or not isinstance(section, dict):
            continue
        kind, train = section.get("type"), phase == "train"
        scale: Any = section.get("scale") if opt.get("scale") is None else opt["scale"]
        used: Sizes = []
        if kind == PAIRED:
            least = LEAST_SHARPENED if opt.get("model_type") in REAL_MODELS else 1
            number, used = _inspect_paired(problems, key, section, scale, train, least)
        elif kind == SINGLE:
            number, sizes = _inspect_one(
                problems, key, section, "dataroot_lq", "meta_info_file", train
            )
            used = _enlarged(sizes, scale)
        elif kind == REAL:
            number, _ = _inspect_one(problems, key, section, "dataroot_gt", "meta_info", train)
        elif kind in (*MADE, RANDOM_SCALE):
            number, used = _inspect_hr(problems, key, section, scale, train)
        else:
            _inspect_roots(problems, key, section)
            continue
        if not train:
            _inspect_metrics(problems, key, metrics, used, scale)
        if train and run.is_train and not problems.under(key):
            replicas = _replicas(opt.get("num_gpu"), run)
            _inspect_batch(problems, key, section, number, replicas)
            _inspect_memory(problems, key, section, scale)
            if synthesizes(opt) and not problems.under("queue_size"):
                check_queue(problems, opt, section["batch_size_per_gpu"] * _split(replicas, run))


def _add(
    problems: Problems, key: str, findings: Iterable[Finding], root: str, meta: str = ""
) -> None:
    """Note findings about a root, the list of its images ``meta``, or the size of crops."""
    names = {"images": root, "list": meta, "gt_size": "gt_size"}
    for finding in findings:
        found = finding.found_text()
        if finding.place:
            found = f"{finding.place}: {found}"
        problems.add(f"{key}.{names[finding.about]}", finding.expected, found, finding.advice)


def _list(
    problems: Problems,
    key: str,
    section: Section,
    root_name: str,
    root: str,
    list_name: str = "",
    list_file: str | None = None,
) -> Listing:
    """The images of ``root``; what is wrong with them is noted.

    Args:
        root_name, list_name: keys of the root and of the list of its images.
    """
    is_lmdb = section["io_backend"]["type"] == "lmdb"
    listing = check_lmdb(root, list_file) if is_lmdb else check_folder(root, list_file)
    _add(problems, key, listing.findings, root_name, list_name)
    return listing


def _inspect_paired(
    problems: Problems, key: str, section: Section, scale: int, train: bool, least: int
) -> tuple[int, Sizes]:
    """The number of pairs, and the sizes of the network's images."""
    gt, lq, pairs = _pairs(problems, key, section)
    number = len(pairs)
    if problems.under(key) or problems.under("scale"):
        return number, []
    pairs = sample(pairs)
    gt_sizes, unreadable_gt = check_sizes(gt, [name for name, _ in pairs], not train)
    lq_sizes, unreadable_lq = check_sizes(lq, [name for _, name in pairs], not train)
    _add(problems, key, unreadable_gt, "dataroot_gt")
    _add(problems, key, unreadable_lq, "dataroot_lq")
    sizes = [
        (name, gt_sizes[name], lq_sizes[lq_name])
        for name, lq_name in pairs
        if name in gt_sizes and lq_name in lq_sizes
    ]
    _add(problems, key, check_pair_sizes(sizes, scale, train), "dataroot_lq")
    if train:
        large = [(name, size) for name, size, _ in sizes]
        _add(problems, key, check_least(large, section["gt_size"]), "dataroot_gt")
    expected = f"HR images with sides of at least {least}, which this model_type sharpens"
    used = _enlarged([(name, lq_size) for name, _, lq_size in sizes], scale)
    _add(problems, key, check_least(used, least, expected), "dataroot_gt")
    return number, used


def _enlarged(sizes: Sizes, scale: Any) -> Sizes:
    if not accepts(types.Size, scale):
        return []
    return [(name, Size(scale * size.width, scale * size.height)) for name, size in sizes]


# SSIM looks at windows of 11x11; NIQE takes the covariance of whole blocks of 96x96.
_SSIM_WINDOW, _NIQE_BLOCK = 11, 96


def _inspect_metrics(
    problems: Problems, key: str, metrics: Mapping[str, Any], sizes: Sizes, scale: Any
) -> None:
    """Images of which a metric leaves nothing to measure: BasicSR gives NaN, or stops."""
    for name, section in metrics.items():
        kind, border = section.get("type"), section.get("crop_border", 0)
        if kind == "calculate_psnr_lte":
            border = shave_of(section.get("scale", scale))
        if kind == "calculate_niqe":
            asked = f"two blocks of {_NIQE_BLOCK}x{_NIQE_BLOCK}"
            small = [s for s in sizes if _blocks(s[1], border) < 2]
        elif kind in ("calculate_psnr", "calculate_psnr_lte", "calculate_ssim"):
            least = 2 * border + (_SSIM_WINDOW if kind == "calculate_ssim" else 1)
            asked = f"sides of at least {least} pixels"
            small = [s for s in sizes if min(s[1]) < least]
        else:
            continue
        if small:
            text = listed([f"{image} ({size})" for image, size in small], 3)
            expected = f"images with {asked} for {kind} with crop_border {border}"
            found = f"{len(small)} smaller images in {key}: {text}"
            advice = "Remove these images, or lower crop_border."
            if kind == "calculate_psnr_lte":
                expected = f"images with {asked} for {kind}, which leaves out {border} at each side"
                advice = "Remove these images."
            problems.add(f"val.metrics.{name}", expected, found, advice)


def _blocks(size: Size, border: int) -> int:
    columns, rows = ((side - 2 * border) // _NIQE_BLOCK for side in size)
    return max(columns, 0) * max(rows, 0)


def _pairs(
    problems: Problems, key: str, section: Section
) -> tuple[Listing, Listing, Sequence[tuple[str, str]]]:
    """HR and LR images, and the names of those that BasicSR's PairedImageDataset pairs."""
    gt_root, lq_root = section["dataroot_gt"], section["dataroot_lq"]
    if section["io_backend"]["type"] == "lmdb":
        gt = _list(problems, key, section, "dataroot_gt", gt_root)
        lq = _list(problems, key, section, "dataroot_lq", lq_root)
        if gt.findings or lq.findings:
            return gt, lq, []
        if os.path.realpath(gt.path) == os.path.realpath(lq.path):
            found = f"that of {key}.dataroot_gt"
            problems.add(f"{key}.dataroot_lq", "the LMDB of LR images", found, "Name the LR one.")
        present = set(gt.names)
        partners = {name: name if name in present else None for name in lq.names}
        advice = "Make both LMDBs from images of the same names."
        _add(problems, key, check_names(gt.names, partners, advice), "dataroot_lq")
        return gt, lq, [(name, name) for name in gt.names]
    file = section.get("meta_info_file")
    lq_name = functools.partial(_lq_name, section)
    gt = _list(problems, key, section, "dataroot_gt", gt_root, "meta_info_file", file)
    lq = check_folder(lq_root, file, lq_name)
    _add(problems, key, lq.findings, "dataroot_lq", "meta_info_file")
    if file is None and not problems.under(key):
        _inspect_names(problems, key, section, gt.names, lq.names)
    return gt, lq, [(name, lq_name(name)) for name in gt.names]


def _inspect_names(
    problems: Problems, key: str, section: Section, gt: list[str], lq: list[str]
) -> None:
    """Pairs as BasicSR's paired_paths_from_folder makes them."""
    wanted = {_lq_name(section, name): name for name in gt}
    advice = (
        f"LR files are named by filename_tmpl '{section.get('filename_tmpl', '{}')}' with the "
        "extension of the HR file."
    )
    partners = {name: wanted.get(name) for name in lq}
    for finding in check_names(gt, partners, advice, lambda name: _lq_name(section, name)):
        root = "dataroot_lq" if finding.kind == "without LR" else "dataroot_gt"
        _add(problems, key, [finding], root)


def _lq_name(section: Section, gt_name: str) -> str:
    stem, suffix = os.path.splitext(os.path.basename(gt_name))
    return f"{section.get('filename_tmpl', '{}').format(stem)}{suffix}"


def _inspect_one(
    problems: Problems, key: str, section: Section, name: str, meta: str, train: bool
) -> tuple[int, Sizes]:
    """Images of any size, of one root: their number and sizes."""
    sizes: dict[str, Size] = {}
    is_lmdb = section["io_backend"]["type"] == "lmdb"
    file = None if is_lmdb else section.get(meta)
    listing = _list(problems, key, section, name, section[name], meta, file)
    if not problems.under(key):
        sizes, findings = check_sizes(listing, sample(listing.names), not train)
        _add(problems, key, findings, name)
    return len(listing.names), list(sizes.items())


def _inspect_hr(
    problems: Problems, key: str, section: Section, scale: int, train: bool
) -> tuple[int, Sizes]:
    """HR images of one or several roots, each as large as a crop or as one LR pixel."""
    roots = roots_of(section["dataroot_gt"])
    files = one_per_root(section.get("meta_info_file"), len(roots))
    listings = [
        _list(problems, key, section, "dataroot_gt", root, "meta_info_file", file)
        for root, file in zip(roots, files, strict=True)
    ]
    number = sum(len(listing.names) for listing in listings)
    if problems.under(key) or problems.under("scale"):
        return number, []
    images = [(root, name) for root, listing in enumerate(listings) for name in listing.names]
    # The list of an LMDB says all sizes; other images are opened.
    is_read = not train or section["io_backend"]["type"] != "lmdb"
    chosen: dict[int, list[str]] = {}
    for root, name in sample(images) if is_read else images:
        chosen.setdefault(root, []).append(name)
    sizes: list[tuple[str, Size]] = []
    for root, names in chosen.items():
        found, unreadable = check_sizes(listings[root], names, not train)
        sizes += found.items()
        _add(problems, key, unreadable, "dataroot_gt")
    is_random = section["type"] == RANDOM_SCALE
    if train and is_random:
        least = largest_patch(section["lq_size"], section.get("scale_range", SCALE_RANGE))
        expected = f"sides of at least {least}, lq_size times the largest scale"
        findings = check_least(sizes, least, expected)
    elif train:
        findings = check_least(sizes, section["gt_size"])
    else:
        expected = f"sides of at least the scale {scale:g}, for one LR pixel"
        findings = check_least(sizes, math.ceil(scale), expected)
    _add(problems, key, findings, "dataroot_gt")
    if train:
        return number, []
    # Their remainder by the scale is cut off.
    return number, [
        (name, Size(*(round(side * scale) for side in lr_size(size.width, size.height, scale))))
        for name, size in sizes
    ]


def _inspect_roots(problems: Problems, key: str, section: Section) -> None:
    """Of other datasets only the existence of the folders that they name can be checked."""
    for name, value in section.items():
        if not (name.startswith("dataroot") and isinstance(value, str)):
            continue
        if not os.path.exists(os.path.expanduser(value)):
            _add(problems, key, [no_folder(value)], name)


def _inspect_batch(
    problems: Problems, key: str, section: Section, number: int, replicas: int
) -> None:
    """BasicSR drops an incomplete batch; with no complete one it trains nothing, silently."""
    ratio = section.get("dataset_enlarge_ratio", 1)
    batch = section["batch_size_per_gpu"] * replicas
    if number * ratio < batch:
        most = f"the {number} images times dataset_enlarge_ratio {ratio}"
        advice = f"Write `dataset_enlarge_ratio: {math.ceil(batch / number)}`, or a smaller batch."
        problems.add(
            f"{key}.batch_size_per_gpu",
            f"no more than {most} in a batch",
            f"a batch of {batch}",
            advice,
        )
    samples = int(memory_bytes() / _SAMPLE_BYTES)
    if number * ratio > samples:
        expected = f"at most {samples // number:,} for {number} images, an order that memory holds"
        problems.wrong(key, section, "dataset_enlarge_ratio", expected, "Lower it.")


# BasicSR draws the order of an epoch as lists of Python's numbers.
_SAMPLE_BYTES = 100
_FLOAT_BYTES = 4
# What a forked process of PyTorch comes to have of its own.
_PROCESS_BYTES = 10**8


def _inspect_memory(problems: Problems, key: str, section: Section, scale: Any) -> None:
    """The batches of LR and HR patches that lie in memory at a time."""
    side: Any = section.get("gt_size")
    batch = section["batch_size_per_gpu"]
    processes = memory_bytes() // _PROCESS_BYTES
    if section["num_worker_per_gpu"] > processes:
        expected = f"at most {processes}, the processes that the memory holds"
        problems.wrong(key, section, "num_worker_per_gpu", expected, "Lower it.")
    if section["type"] == RANDOM_SCALE:
        # Of queries, colour and coordinates.
        side = section["lq_size"]
        image = _FLOAT_BYTES * (3 * side**2 + 5 * section["sample_q"])
    elif accepts(types.Size, side) and accepts(types.Size, scale):
        image = 3 * _FLOAT_BYTES * (side**2 + (side // scale) ** 2)
    else:
        return
    most = memory_bytes() // image
    if batch > most:
        expected = f"at most {most:,}, the patches of {side}x{side} that the memory holds"
        problems.wrong(key, section, "batch_size_per_gpu", expected, "Lower it.")
        return
    # Each process of torch.utils.data.DataLoader loads two batches ahead.
    ahead = {"num_worker_per_gpu": 2 * section["num_worker_per_gpu"]}
    if section.get("prefetch_mode") == "cpu":
        ahead["num_prefetch_queue"] = section.get("num_prefetch_queue", 1)
    name = max(ahead, key=ahead.__getitem__)
    if sum(ahead.values()) * batch > most:
        expected = f"at most {most // batch:,} batches loaded ahead, which the memory holds"
        found = f"{sum(ahead.values()):,}, two for each process and those of num_prefetch_queue"
        problems.add(f"{key}.{name}", expected, found, "Lower it, gt_size or batch_size_per_gpu.")


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
