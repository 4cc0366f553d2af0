"""Models of the dataset sections, and rules across their keys."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from basicsr.utils.registry import DATASET_REGISTRY
from pydantic import Field

from esc_arch.data.downsample_image_dataset import one_per_root, roots_of
from esc_arch.data.random_scale_image_dataset import SCALE_RANGE
from esc_arch.options.constructors import resolve_type
from esc_arch.options.problems import MISSING, Problems, describe
from esc_arch.options.sections import LTE_MODEL
from esc_arch.options.types import (
    Amount,
    Batches,
    Chance,
    FolderName,
    Kind,
    Mapped,
    OpenSection,
    Quality,
    Ratio,
    Section,
    Size,
    Text,
    Workers,
    accepts,
    add_missing,
    key,
    pair,
    words,
)

PAIRED, SINGLE = "PairedImageDataset", "SingleImageDataset"
DOWNSAMPLE, REAL = "DownsampleImageDataset", "RealESRGANDataset"
PHOTO = "PhotoImageDataset"
RANDOM_SCALE = "RandomScaleImageDataset"
# Their LR images are made of HR images, one by one.
MADE = (DOWNSAMPLE, PHOTO)

PATCH_KEYS = ("gt_size", "use_hflip", "use_rot")
LOADER_KEYS = ("batch_size_per_gpu", "num_worker_per_gpu")
ERROR_KEYS = ("on_error", "max_bad_samples")

Roots = Annotated[
    Text | Annotated[Sequence[Text], Field(min_length=1)], Kind("text or a list of texts")
]
Metas = Annotated[
    Text | Sequence[Text | None] | None, Kind("text, nothing (~), or a list of these")
]
Prefetch = Literal["cpu", "cuda"] | None
Factor = Annotated[float, Field(ge=1, allow_inf_nan=False), Kind("a number of at least 1")]
Scales = Annotated[
    Sequence[float], pair("the lower one first and at least 1", lambda a, b: 1 <= a <= b)
]


class Dataset(Section):
    """Keys of the data loader, for any dataset."""

    name: FolderName = key("name in logs, and of the results' folder", "Set5")
    type: Text = key("registered name of the dataset", PAIRED)
    batch_size_per_gpu: Size = key(
        "images in a batch of one process; for training", "16", None, "†"
    )
    num_worker_per_gpu: Workers = key(
        "loading processes for each GPU; for training", "6", None, "†"
    )
    pin_memory: bool = key(
        "load into page-locked memory; with prefetch_mode cuda", "true", False, "(†)"
    )
    persistent_workers: bool = key("keep the loading processes between passes", "false", False)
    prefetch_mode: Prefetch = key("load ahead, by a thread or onto the GPU", "cuda", None)
    num_prefetch_queue: Batches = key("batches that the thread loads ahead", "1", 1)
    dataset_enlarge_ratio: Ratio = key("passes over the images in one epoch", "100", 1)
    use_shuffle: Any = key("read by nothing: training shuffles in any case", "true", None)
    on_error: Literal["stop", "skip"] = key(
        "for a training sample that is damaged; with max_bad_samples", "skip", "stop", "(†)"
    )
    max_bad_samples: Size = key("damaged samples before training stops", "100", None)
    task: Any = key("read by nothing", "SR", None)
    phase: Any = key("set by BasicSR", "train", None)
    scale: Any = key("upscaling factor, where the file has none at its top", "2", None, "(*)")

    @classmethod
    def needed(cls, section: Mapping[str, object], is_train: bool) -> Collection[str]:
        return LOADER_KEYS if is_train else ()


class OpenDataset(Dataset):
    """A dataset with further keys of its own."""

    model_config = OpenSection.model_config


class Patches(Dataset):
    """Keys of datasets of random patches."""

    io_backend: Mapped = key("how files are read: type is disk or lmdb", "{type: disk}")
    gt_size: Size = key("side of the HR patch in pixels; for training", "128", None, "†")
    use_hflip: bool = key("flip patches at random; for training", "true", None, "†")
    use_rot: bool = key("turn patches by 90 degrees at random; for training", "true", None, "†")

    @classmethod
    def needed(cls, section: Mapping[str, object], is_train: bool) -> Collection[str]:
        return (*LOADER_KEYS, *PATCH_KEYS) if is_train else ()


class Images(Patches):
    """Keys of datasets with LR images."""

    dataroot_lq: Text = key("folder or LMDB of LR images", "datasets/Set5/LR_bicubic/X2")
    mean: Sequence[float] | None = key(
        "subtracted from each channel; with std", "[0.5, 0.5, 0.5]", None, "(*)"
    )
    std: Sequence[float] | None = key(
        "each channel is divided by it; with mean", "[0.5, 0.5, 0.5]", None, "(*)"
    )
    color: Text | None = key("y for luma alone", "y", None)


class Paired(Images):
    """Pairs of HR and LR images."""

    dataroot_gt: Text = key("folder or LMDB of HR images", "datasets/Set5/HR")
    filename_tmpl: Text = key("name of an LR file, {} for the HR file's name", "'{}x2'", "{}")
    meta_info_file: Text | None = key(
        "text file that lists the images", "datasets/meta_info.txt", None
    )


class Single(Images):
    """LR images alone, for a test without ground truth."""

    # SingleImageDataset opens the file as soon as the key is there.
    meta_info_file: Text = key("text file that lists the images", "datasets/meta_info.txt", None)
    dataroot_gt: Any = key("read by nothing", "datasets/Set5/HR", None)
    filename_tmpl: Any = key("read by nothing", "'{}'", None)


class Downsample(Patches):
    """HR images of one or several folders, whose LR images are made while training."""

    dataroot_gt: Roots = key("folders or LMDBs of HR images", "[datasets/DIV2K, datasets/Flickr2K]")
    meta_info_file: Metas = key(
        "text files that list the images of each root", "[datasets/meta_info.txt, ~]", None
    )
    downsampling: Literal["pil_bicubic", "matlab_bicubic"] = key(
        "how LR patches are made", "pil_bicubic", "pil_bicubic"
    )


class Photo(Downsample):
    """HR images, whose LR images are lightly blurred, noisy and saved as JPEG."""

    clean_prob: Chance = key("chance of an LR image that is only downsampled", "0.1", 0.1)
    blur_prob: Chance = key("chance of a Gaussian blur before the downsampling", "0.5", 0.5)
    blur_sigma: Amount = key("least and largest sigma, in LR pixels", "[0.2, 0.8]", (0.2, 0.8))
    noise_prob: Chance = key("chance of Gaussian noise", "0.4", 0.4)
    noise_range: Amount = key("least and largest sigma, in levels of 255", "[1, 8]", (1, 8))
    gray_noise_prob: Chance = key("share of noise equal in all channels", "0.4", 0.4)
    jpeg_prob: Chance = key("chance of being saved as JPEG", "0.9", 0.9)
    jpeg_range: Quality = key("least and largest quality", "[30, 95]", (30, 95))
    jpeg_444_prob: Chance = key("share of JPEG files of 4:4:4, others 4:2:0", "0.3", 0.3)


class RandomScale(Dataset):
    """HR images, whose LR images have a random scale in training, and any one otherwise."""

    io_backend: Mapped = key("how files are read: type is disk or lmdb", "{type: disk}")
    dataroot_gt: Roots = key("folders or LMDBs of HR images", "[datasets/DIV2K, datasets/Flickr2K]")
    meta_info_file: Metas = key(
        "text files that list the images of each root", "[datasets/meta_info.txt, ~]", None
    )
    lq_size: Size = key("side of the LR patch in pixels; for training", "64", None, "†")
    sample_q: Size = key("queried pixels of each HR patch; for training", "2304", None, "†")
    scale_range: Scales = key("least and largest scale of training", "[1, 4]", (1, 4))
    use_hflip: bool = key("flip patches at random; for training", "true", None, "†")
    use_rot: bool = key("turn patches by 90 degrees at random; for training", "true", None, "†")
    scale: Factor = key("of validation, where the file has none at its top", "3.3", None, "(*)")

    @classmethod
    def needed(cls, section: Mapping[str, object], is_train: bool) -> Collection[str]:
        own = ("lq_size", "sample_q", "use_hflip", "use_rot")
        return (*LOADER_KEYS, *own) if is_train else ()


MODELS: dict[str, type[Dataset]] = {
    PAIRED: Paired,
    SINGLE: Single,
    DOWNSAMPLE: Downsample,
    PHOTO: Photo,
    RANDOM_SCALE: RandomScale,
}


def evaluated(opt: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Key and section of each dataset that is validated or tested on."""
    datasets = opt.get("datasets")
    return [
        (f"datasets.{phase}", section)
        for phase, section in (datasets.items() if isinstance(datasets, dict) else ())
        if phase != "train" and isinstance(section, dict)
    ]


def training_data(opt: Mapping[str, Any]) -> dict[str, Any] | None:
    """The section of the training data, where there is one."""
    datasets = opt.get("datasets")
    data = datasets.get("train") if isinstance(datasets, dict) else None
    return data if isinstance(data, dict) else None


def is_phase(phase: str, is_train: bool) -> bool:
    """Whether a dataset may have this key."""
    first = phase.split("_")[0]
    return phase == "train" or first == "val" if is_train else first in ("test", "val")


def check_datasets(
    problems: Problems, opt: Mapping[str, Any], is_train: bool, plain: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Check which datasets there are, and the rules across the keys of each.

    Args:
        plain: whether the model is SRModel or reads the same keys.

    Returns:
        Key and section of each dataset of the right phase.
    """
    datasets = opt["datasets"]
    if is_train and "train" not in datasets:
        problems.add("datasets.train", "a section", MISSING, "Add the training data as `train:`.")
    if not is_train and not datasets:
        problems.add("datasets", "test sections", "none", "Add the test data as `test_1:`.")
    names: dict[object, str] = {}
    right = []
    for phase, section in datasets.items():
        place = f"datasets.{phase}"
        if not is_phase(phase, is_train):
            allowed = "train, val, val_1, ..." if is_train else "test, test_1, ..., val, val_1, ..."
            problems.add(place, f"one of {allowed}", f"'{phase}'", "Rename the section.")
        elif not isinstance(section, dict):
            problems.add(place, words(Mapped), describe(section), "Fill the section or remove it.")
        else:
            right.append((place, section))
            _check_dataset(problems, place, section, opt, phase == "train", plain)
            name = section.get("name")
            if phase != "train" and isinstance(name, str):
                first = names.setdefault(name, place)
                if first != place:
                    found = f"{describe(name)}, the name of {first} too"
                    advice = "Results are kept by name: rename one of them."
                    problems.add(f"{place}.name", "a name of its own", found, advice)
    return right


def _check_dataset(
    problems: Problems,
    place: str,
    section: Mapping[str, Any],
    opt: Mapping[str, Any],
    train: bool,
    plain: bool,
) -> None:
    resolve_type(problems, place, section, DATASET_REGISTRY, PAIRED)
    _check_loader(problems, place, section, train)
    kind, wrong = section.get("type"), partial(problems.wrong, place, section)
    if train and plain and kind == SINGLE:
        wrong("type", "a dataset with ground truth", f"Train with `type: {PAIRED}`.")
    if kind == REAL and not train:
        expected = "a dataset with LR images, as these are made in training only"
        wrong("type", expected, f"Write `type: {PAIRED}`, or {SINGLE} without metrics.")
    if kind in (PAIRED, SINGLE) and (section.get("mean") is None) != (section.get("std") is None):
        absent = "mean" if section.get("mean") is None else "std"
        problems.add(
            f"{place}.{absent}", "mean and std together", f"no {absent}", f"Add `{absent}:`."
        )
    if kind in (PAIRED, SINGLE, REAL):
        _check_roots(problems, place, section, train)
    if kind == PAIRED:
        _check_template(problems, place, section)
    if kind in (*MADE, RANDOM_SCALE):
        _check_metas(problems, place, section)
    if kind == RANDOM_SCALE and train:
        _check_queries(problems, place, section)
    elif kind in (PAIRED, *MADE, RANDOM_SCALE):
        is_own = opt.get("model_type") == LTE_MODEL
        _check_scale(problems, place, section, None if is_own else opt.get("scale"), train, is_own)


def _check_loader(problems: Problems, place: str, section: Mapping[str, Any], train: bool) -> None:
    wrong, persists = partial(problems.wrong, place, section), section.get("persistent_workers")
    if not train:
        only_train = "this key under datasets.train only: a result counts every image"
        for name in ERROR_KEYS:
            if name in section:
                wrong(name, only_train, "Remove it.")
        if persists is True:
            expected = "false: BasicSR reads this data without workers"
            wrong("persistent_workers", expected, "Remove the key.")
        return
    if "max_bad_samples" in section and section.get("on_error") != "skip":
        found = describe(section["on_error"]) if "on_error" in section else MISSING
        advice = "Write `on_error: skip`, or remove max_bad_samples."
        problems.add(f"{place}.max_bad_samples", "`on_error: skip` beside it", found, advice)
    if persists is True and section.get("num_worker_per_gpu") == 0:
        advice = "Remove the key, or set `num_worker_per_gpu: 6`."
        wrong("persistent_workers", "false while num_worker_per_gpu is 0", advice)
    if section.get("prefetch_mode") == "cuda" and section.get("pin_memory") is not True:
        wrong("pin_memory", "true, as prefetch_mode is cuda", "Write `pin_memory: true`.")


def _check_metas(problems: Problems, place: str, section: Mapping[str, Any]) -> None:
    roots, metas = section.get("dataroot_gt"), section.get("meta_info_file")
    if not (accepts(Roots, roots) and accepts(Metas, metas)):
        return
    count = len(roots_of(section["dataroot_gt"]))
    given = len(one_per_root(metas, count))
    if given != count:
        expected = f"one for each of the {count} roots of dataroot_gt, ~ for all images of a root"
        problems.add(f"{place}.meta_info_file", expected, f"{given}", "Write a list of as many.")


def _check_roots(problems: Problems, place: str, section: Mapping[str, Any], train: bool) -> None:
    """A dataset that reads one root is given several, as some forks of BasicSR read them."""
    for name in ("dataroot_gt", "dataroot_lq"):
        roots = section.get(name)
        if not isinstance(roots, list) or (name == "dataroot_gt" and section["type"] == SINGLE):
            continue
        if train:
            advice = (
                "Put (links to) all images into one folder, or train on HR images alone by "
                f"`type: {DOWNSAMPLE}`, which takes a list."
            )
        else:
            phase = place.rpartition(".")[2].partition("_")[0]
            advice = f"Give each folder a section of its own: {phase}_1, {phase}_2, ..."
        expected = f"one folder or LMDB, as {section['type']} reads it"
        problems.add(f"{place}.{name}", expected, f"a list of {len(roots)}", advice)


def _check_template(problems: Problems, place: str, section: Mapping[str, Any]) -> None:
    template = section.get("filename_tmpl", "{}")
    if not accepts(Text, template):
        return
    try:
        usable = "\0stem\0" in template.format("\0stem\0")
    except (AttributeError, IndexError, KeyError, ValueError):
        usable = False
    if not usable:
        expected = "the LR file's name with {} for the HR file's, without extension"
        advice = "Write, for example, `filename_tmpl: '{}x2'`."
        problems.wrong(place, section, "filename_tmpl", expected, advice)


def _check_queries(problems: Problems, place: str, section: Mapping[str, Any]) -> None:
    """A patch of the least scale has to have as many pixels as are queried."""
    side, count = section.get("lq_size"), section.get("sample_q")
    scales = section.get("scale_range", list(SCALE_RANGE))
    if accepts(Size, side) and accepts(Size, count) and accepts(Scales, scales):
        most = round(section["lq_size"] * scales[0]) ** 2
        if section["sample_q"] > most:
            expected = f"at most {most}, the pixels of the smallest HR patch"
            advice = "Lower it, or raise lq_size."
            problems.wrong(place, section, "sample_q", expected, advice)


def _check_scale(
    problems: Problems,
    place: str,
    section: Mapping[str, Any],
    scale: Any,
    train: bool,
    is_own: bool,
) -> None:
    """
    Args:
        scale: the file's; None for none.
        is_own: whether each set has its own, which :mod:`esc_arch.options.esc_lte` misses.
    """
    wrong = partial(problems.wrong, place, section)
    if "scale" in section and scale is not None and section["scale"] != scale:
        wrong("scale", "the scale at the top of the file, which replaces it", "Remove the key.")
    if scale is None and "scale" not in section:
        if not is_own:
            add_missing(problems, "scale", Size, "2")
        return
    scale = section.get("scale") if scale is None else scale
    size = section.get("gt_size")
    if section["type"] == RANDOM_SCALE:
        return  # any, as its model says
    if not accepts(Size, scale):
        if "scale" in section:
            wrong("scale", words(Size), "Write `scale: 2`.")
    elif train and accepts(Size, size) and size % scale:
        advice = f"Write, for example, `gt_size: {64 * scale}`, for LR patches of 64."
        wrong("gt_size", f"a multiple of the scale {scale}", advice)
