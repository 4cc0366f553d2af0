"""Checks the ``datasets`` section without looking at any data."""

from collections.abc import Mapping

from basicsr.utils.file_client import FileClient
from basicsr.utils.registry import DATASET_REGISTRY

from esc_arch.data.downsample_image_dataset import DOWNSAMPLING, one_per_root, roots_of
from esc_arch.options.constructors import check_arguments, resolve_type
from esc_arch.options.kinds import (
    BOOL,
    FOLDER_NAME,
    NUMBER,
    POSITIVE,
    SECTION,
    SIZE,
    TEXT,
    WORKERS,
    Kind,
    list_of,
    one_of,
    optional,
)
from esc_arch.options.problems import MISSING, Problems, describe
from esc_arch.options.real_esrgan import DATASET as REAL
from esc_arch.options.real_esrgan import check_real_dataset
from esc_arch.options.sections import (
    Field,
    add_missing,
    check_fields,
    dotted,
    subsection,
)

PAIRED, SINGLE = "PairedImageDataset", "SingleImageDataset"
DOWNSAMPLE = "DownsampleImageDataset"

LOADER_FIELDS = {
    "pin_memory": Field(BOOL, "true"),
    "persistent_workers": Field(BOOL, "false"),
    "prefetch_mode": Field(optional(one_of("cpu", "cuda")), "cuda"),
    "num_prefetch_queue": Field(SIZE, "1"),
    "dataset_enlarge_ratio": Field(POSITIVE, "100"),
}

TRAIN_LOADER_FIELDS = {
    "batch_size_per_gpu": Field(SIZE, "16", required=True),
    "num_worker_per_gpu": Field(WORKERS, "6", required=True),
}

# What this package's training does with samples that cannot be read.
ERROR_FIELDS = {
    "on_error": Field(one_of("stop", "skip"), "skip"),
    "max_bad_samples": Field(SIZE, "100"),
}

IMAGE_FIELDS = {
    "io_backend": Field(SECTION, "{type: disk}", required=True),
    "dataroot_lq": Field(TEXT, "datasets/Set5/LR_bicubic/X2", required=True),
    "mean": Field(optional(list_of(NUMBER)), "[0.5, 0.5, 0.5]"),
    "std": Field(optional(list_of(NUMBER)), "[0.5, 0.5, 0.5]"),
    "color": Field(optional(TEXT), "y"),
}

PAIRED_FIELDS = {
    "dataroot_gt": Field(TEXT, "datasets/Set5/HR", required=True),
    "filename_tmpl": Field(TEXT, "'{}x2'"),
    "meta_info_file": Field(optional(TEXT), "datasets/meta_info.txt"),
}

# SingleImageDataset opens the file as soon as the key is there.
SINGLE_FIELDS = {"meta_info_file": Field(TEXT, "datasets/meta_info.txt")}

TRAIN_PATCH_FIELDS = {
    "gt_size": Field(SIZE, "128", required=True),
    "use_hflip": Field(BOOL, "true", required=True),
    "use_rot": Field(BOOL, "true", required=True),
}

# Every key that PairedImageDataset, SingleImageDataset or the loader reads, and
# use_shuffle, which public files carry: the training sampler shuffles in any case.
KNOWN = {
    "name",
    "type",
    "phase",
    "scale",
    "use_shuffle",
    *LOADER_FIELDS,
    *TRAIN_LOADER_FIELDS,
    *ERROR_FIELDS,
    *IMAGE_FIELDS,
    *PAIRED_FIELDS,
    *TRAIN_PATCH_FIELDS,
}

DOWNSAMPLE_FIELDS = {
    "io_backend": Field(SECTION, "{type: disk}", required=True),
    "dataroot_gt": Field(
        Kind(
            "text or a list of texts",
            lambda v: TEXT.accepts(v) or (list_of(TEXT).accepts(v) and len(v) > 0),
        ),
        "[datasets/DIV2K/DIV2K_train_HR, datasets/Flickr2K/HR]",
        required=True,
    ),
    "meta_info_file": Field(
        Kind(
            "text, nothing (~), or a list of these",
            lambda v: optional(TEXT).accepts(v) or list_of(optional(TEXT)).accepts(v),
        ),
        "[datasets/meta_info.txt, ~]",
    ),
    "downsampling": Field(one_of(*DOWNSAMPLING), "pil_bicubic"),
}

# Every key that the loader or any dataset reads.
COMMON_KNOWN = {
    "name",
    "type",
    "phase",
    "scale",
    "use_shuffle",
    *LOADER_FIELDS,
    *TRAIN_LOADER_FIELDS,
    *ERROR_FIELDS,
}

# Every key that DownsampleImageDataset or the loader reads.
DOWNSAMPLE_KNOWN = {
    "name",
    "type",
    "phase",
    "scale",
    "use_shuffle",
    *LOADER_FIELDS,
    *TRAIN_LOADER_FIELDS,
    *ERROR_FIELDS,
    *TRAIN_PATCH_FIELDS,
}


def check_datasets(
    problems: Problems, opt: Mapping[str, object], is_train: bool, plain: bool
) -> None:
    """Check every section under ``datasets``.

    Args:
        plain: whether the model is SRModel or reads the same keys.
    """
    datasets = subsection(
        problems, "datasets", opt, "{train: ...}" if is_train else "{test_1: ...}"
    )
    if datasets is None:
        return
    if is_train and "train" not in datasets:
        problems.add("datasets.train", "a section", MISSING, "Add the training data as `train:`.")
    if not is_train and not datasets:
        problems.add("datasets", "test sections", "none", "Add the test data as `test_1:`.")
    folder_names: dict[object, str] = {}
    for phase, section in datasets.items():
        key = f"datasets.{phase}"
        if not _is_phase(phase, is_train):
            allowed = "train, val, val_1, ..." if is_train else "test, test_1, ..., val, val_1, ..."
            problems.add(key, f"one of {allowed}", f"'{phase}'", "Rename the section.")
        elif not isinstance(section, dict):
            problems.add(key, SECTION.text, describe(section), "Fill the section or remove it.")
        else:
            _check_section(problems, key, section, opt.get("scale"), phase == "train", plain)
            name = section.get("name")
            if phase != "train" and isinstance(name, str):
                first = folder_names.setdefault(name, key)
                if first != key:
                    problems.add(
                        f"{key}.name",
                        "a name of its own",
                        f"{describe(name)}, the name of {first} too",
                        "Results are kept by name: rename one of them.",
                    )


def evaluated(opt: Mapping[str, object]) -> list[tuple[str, dict]]:
    """Key and section of each dataset that is validated or tested on."""
    datasets = opt.get("datasets")
    if not isinstance(datasets, dict):
        return []
    return [
        (f"datasets.{phase}", section)
        for phase, section in datasets.items()
        if phase != "train" and isinstance(section, dict)
    ]


def _is_phase(phase: str, is_train: bool) -> bool:
    first = phase.split("_")[0]
    return phase == "train" or first == "val" if is_train else first in ("test", "val")


def _check_section(
    problems: Problems,
    key: str,
    section: Mapping[str, object],
    scale: object,
    train: bool,
    plain: bool,
) -> None:
    check_fields(problems, key, section, {"name": Field(FOLDER_NAME, "Set5", required=True)})
    dataset = resolve_type(problems, key, section, DATASET_REGISTRY, PAIRED)
    _check_loader(problems, key, section, train)
    if dataset is None:
        return
    kind = section["type"]
    if kind == DOWNSAMPLE:
        _check_downsample(problems, key, section, scale, train)
        return
    if kind == REAL:
        check_real_dataset(problems, key, section, COMMON_KNOWN, train)
        if isinstance(section.get("io_backend"), dict):
            _check_io_backend(problems, key, section["io_backend"])
        return
    if kind not in (PAIRED, SINGLE):
        # Other datasets have keys of their own; all of BasicSR's read images this way.
        if "io_backend" in section:
            _check_io_backend(problems, key, section["io_backend"])
        return
    fields = {**IMAGE_FIELDS, **(PAIRED_FIELDS if kind == PAIRED else SINGLE_FIELDS)}
    if train:
        fields |= TRAIN_PATCH_FIELDS
    check_fields(problems, key, section, fields, known=KNOWN)
    if isinstance(section.get("io_backend"), dict):
        _check_io_backend(problems, key, section["io_backend"])
    if train and plain and kind == SINGLE:
        problems.add(
            f"{key}.type",
            "a dataset with ground truth",
            describe(kind),
            f"Train with `type: {PAIRED}`.",
        )
    if (section.get("mean") is None) != (section.get("std") is None):
        absent = "mean" if section.get("mean") is None else "std"
        problems.add(
            f"{key}.{absent}", "mean and std together", f"no {absent}", f"Add `{absent}:`."
        )
    if kind == PAIRED:
        _check_template(problems, key, section)
        _check_scale(problems, key, section, scale, train)


def _check_downsample(
    problems: Problems, key: str, section: Mapping[str, object], scale: object, train: bool
) -> None:
    fields = DOWNSAMPLE_FIELDS | (TRAIN_PATCH_FIELDS if train else {})
    check_fields(problems, key, section, fields, known=DOWNSAMPLE_KNOWN)
    if isinstance(section.get("io_backend"), dict):
        _check_io_backend(problems, key, section["io_backend"])
    if not any(problems.under(f"{key}.{name}") for name in ("dataroot_gt", "meta_info_file")):
        roots = len(roots_of(section["dataroot_gt"]))
        metas = len(one_per_root(section.get("meta_info_file"), roots))
        if metas != roots:
            problems.add(
                f"{key}.meta_info_file",
                f"one for each of the {roots} roots of dataroot_gt, ~ for all images of a root",
                f"{metas}",
                "Write a list of as many.",
            )
    _check_scale(problems, key, section, scale, train)


def _check_loader(problems: Problems, key: str, section: Mapping[str, object], train: bool) -> None:
    fields = LOADER_FIELDS | TRAIN_LOADER_FIELDS
    if not train:
        fields = {name: field._replace(required=False) for name, field in fields.items()}
    check_fields(problems, key, section, fields)
    _check_on_error(problems, key, section, train)
    if section.get("persistent_workers") is True:
        if not train:
            problems.add(
                f"{key}.persistent_workers",
                "false: BasicSR reads this data without workers",
                "true",
                "Remove the key.",
            )
        elif section.get("num_worker_per_gpu") == 0:
            problems.add(
                f"{key}.persistent_workers",
                "false while num_worker_per_gpu is 0",
                "true",
                "Remove the key, or set `num_worker_per_gpu: 6`.",
            )
    if train and section.get("prefetch_mode") == "cuda" and section.get("pin_memory") is not True:
        problems.add(
            f"{key}.pin_memory",
            "true, as prefetch_mode is cuda",
            describe(section["pin_memory"]) if "pin_memory" in section else MISSING,
            "Write `pin_memory: true`.",
        )


def _check_on_error(
    problems: Problems, key: str, section: Mapping[str, object], train: bool
) -> None:
    if train:
        check_fields(problems, key, section, ERROR_FIELDS)
        if "max_bad_samples" in section and section.get("on_error") != "skip":
            problems.add(
                f"{key}.max_bad_samples",
                "`on_error: skip` beside it",
                describe(section["on_error"]) if "on_error" in section else MISSING,
                "Write `on_error: skip`, or remove max_bad_samples.",
            )
        return
    for name in ERROR_FIELDS:
        if name in section:
            problems.add(
                f"{key}.{name}",
                "this key under datasets.train only: a result counts every image",
                describe(section[name]),
                "Remove it.",
            )


def _check_io_backend(problems: Problems, key: str, section: object) -> None:
    key = dotted(key, "io_backend")
    if not isinstance(section, dict):
        problems.add(key, SECTION.text, describe(section), "Write `io_backend: {type: disk}`.")
        return
    backends = FileClient._backends
    check_fields(problems, key, section, {"type": Field(one_of(*backends), "disk", required=True)})
    if not problems.under(f"{key}.type"):
        # The dataset adds where the LMDBs are.
        supplied = ("db_paths", "client_keys")
        check_arguments(problems, key, backends[section["type"]], section, supplied)


def _check_template(problems: Problems, key: str, section: Mapping[str, object]) -> None:
    template = section.get("filename_tmpl", "{}")
    if not isinstance(template, str):
        return
    try:
        usable = "\0stem\0" in template.format("\0stem\0")
    except (AttributeError, IndexError, KeyError, ValueError):
        usable = False
    if not usable:
        problems.add(
            f"{key}.filename_tmpl",
            "the LR file's name with {} for the HR file's, without extension",
            describe(template),
            "Write, for example, `filename_tmpl: '{}x2'`.",
        )


def _check_scale(
    problems: Problems, key: str, section: Mapping[str, object], scale: object, train: bool
) -> None:
    if "scale" in section and scale is not None and section["scale"] != scale:
        problems.add(
            f"{key}.scale",
            "the scale at the top of the file, which replaces it",
            describe(section["scale"]),
            "Remove the key.",
        )
    if scale is None and "scale" not in section:
        add_missing(problems, "scale", Field(SIZE, "2"))
        return
    scale = section.get("scale") if scale is None else scale
    size = section.get("gt_size")
    if not SIZE.accepts(scale):
        if "scale" in section:
            problems.add(f"{key}.scale", SIZE.text, describe(scale), "Write `scale: 2`.")
    elif train and SIZE.accepts(size) and size % scale:
        problems.add(
            f"{key}.gt_size",
            f"a multiple of the scale {scale}",
            describe(size),
            f"Write, for example, `gt_size: {64 * scale}`, for LR patches of 64.",
        )
