"""Checks what BasicSR's Real-ESRGAN models and dataset read beside the usual keys.

Both models make the LR images themselves, by two rounds of blur, resizing, noise and JPEG,
and read how from the top of the option file.  The keys of the second round end in 2.
"""

from collections.abc import Callable, Mapping

import torch

from esc_arch.options.constructors import complaint
from esc_arch.options.kinds import (
    BOOL,
    COUNT,
    SECTION,
    SIZE,
    TEXT,
    WORKERS,
    Kind,
    is_number,
    list_of,
    one_of,
    optional,
)
from esc_arch.options.networks import build
from esc_arch.options.problems import MISSING, Problems, describe
from esc_arch.options.sections import Field, check_fields

NET, GAN = "RealESRNetModel", "RealESRGANModel"
MODELS = (NET, GAN)
DATASET = "RealESRGANDataset"

# Side to which the dataset crops or pads each image, in pixels.
IMAGE_SIZE = 400
# The sharpening's 51x51 blur mirrors 25 pixels at each border, so it takes one more.
LEAST_SHARPENED = 26
# The blur kernels of 21x21 mirror 10 pixels; a resized image has to have one more.
LEAST_RESIZING = 11 / IMAGE_SIZE

KERNELS = (
    "iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso",
)  # fmt: skip


def _interval(text: str, fits: Callable[[float, float], bool]) -> Kind:
    return Kind(
        f"a list of two numbers, {text}",
        lambda v: isinstance(v, list) and len(v) == 2 and all(map(is_number, v)) and fits(*v),
    )


def _are_weights(value: object) -> bool:
    """Whether ``random.choices`` takes the value as weights."""
    return (
        isinstance(value, list)
        and all(is_number(item) and 0 <= item < float("inf") for item in value)
        and sum(value) > 0
    )


CHANCE = Kind("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
RESIZE_CHANCES = Kind(
    "a list of 3 numbers of at least 0, the weights of up, down and keep",
    lambda v: _are_weights(v) and len(v) == 3,
)
KERNEL_CHANCES = Kind("a list of numbers of at least 0, not all 0", _are_weights)
RESIZING = _interval(
    f"from {LEAST_RESIZING} to 1 and from 1",
    lambda low, high: LEAST_RESIZING <= low <= 1 <= high < float("inf"),
)
AMOUNT = _interval(
    "the lower one first and at least 0", lambda low, high: 0 <= low <= high < float("inf")
)
SIGMA = _interval("the lower one first and above 0", lambda a, b: 0 < a < b < float("inf"))
AROUND_ONE = _interval("above 0 to 1 and from 1", lambda a, b: 0 < a <= 1 <= b < float("inf"))
# At quality 100 the table of BasicSR's JPEG is 0 and is divided by.
QUALITY = _interval("the lower one first, from 1 to 99", lambda a, b: 1 <= a <= b <= 99)

# What both models read in training with synthetic LR images.
DEGRADATION_FIELDS = {
    "resize_prob": Field(RESIZE_CHANCES, "[0.2, 0.7, 0.1]"),
    "resize_range": Field(RESIZING, "[0.15, 1.5]"),
    "gaussian_noise_prob": Field(CHANCE, "0.5"),
    "noise_range": Field(AMOUNT, "[1, 30]"),
    "poisson_scale_range": Field(AMOUNT, "[0.05, 3]"),
    "gray_noise_prob": Field(CHANCE, "0.4"),
    "jpeg_range": Field(QUALITY, "[30, 95]"),
    "second_blur_prob": Field(CHANCE, "0.8"),
    "resize_prob2": Field(RESIZE_CHANCES, "[0.3, 0.4, 0.3]"),
    "resize_range2": Field(RESIZING, "[0.3, 1.2]"),
    "gaussian_noise_prob2": Field(CHANCE, "0.5"),
    "noise_range2": Field(AMOUNT, "[1, 25]"),
    "poisson_scale_range2": Field(AMOUNT, "[0.05, 2.5]"),
    "gray_noise_prob2": Field(CHANCE, "0.4"),
    "jpeg_range2": Field(QUALITY, "[30, 95]"),
    "gt_size": Field(SIZE, "256"),
}

SHARPENING_FIELDS = {
    NET: {"gt_usm": Field(BOOL, "true")},
    GAN: {name: Field(BOOL, "true") for name in ("l1_gt_usm", "percep_gt_usm", "gan_gt_usm")},
}

GAN_TRAIN_FIELDS = {
    "optim_d": Field(SECTION, "{type: Adam, lr: !!float 1e-4}", required=True),
    "gan_opt": Field(
        SECTION, "{type: GANLoss, gan_type: vanilla, loss_weight: 0.1}", required=True
    ),
    "ldl_opt": Field(optional(SECTION), "{type: L1Loss}"),
    "net_d_iters": Field(COUNT, "1"),
    "net_d_init_iters": Field(WORKERS, "0"),
}

DATASET_FIELDS = {
    "dataroot_gt": Field(TEXT, "datasets/DF2K", required=True),
    "io_backend": Field(SECTION, "{type: disk}", required=True),
    "use_hflip": Field(BOOL, "true", required=True),
    "use_rot": Field(BOOL, "false", required=True),
    "final_sinc_prob": Field(CHANCE, "0.8", required=True),
    "gt_size": Field(SIZE, "256"),
    **{
        f"{name}{ending}": Field(kind, example, required=True)
        for ending in ("", "2")
        for name, kind, example in (
            ("blur_kernel_size", SIZE, "21"),
            ("kernel_list", list_of(one_of(*KERNELS)), "[iso, aniso]"),
            ("kernel_prob", KERNEL_CHANCES, "[0.7, 0.3]"),
            ("sinc_prob", CHANCE, "0.1"),
            ("blur_sigma", SIGMA, "[0.2, 3]"),
            ("betag_range", AROUND_ONE, "[0.5, 4]"),
            ("betap_range", AROUND_ONE, "[1, 2]"),
        )
    },
}


def top_fields(opt: Mapping[str, object], is_train: bool) -> dict[str, Field]:
    """The keys that the model of an option file reads at its top beside the usual ones."""
    model = opt.get("model_type")
    if model not in MODELS:
        return {}
    fields = {
        name: field._replace(required=is_train and synthesizes(opt))
        for name, field in DEGRADATION_FIELDS.items()
    }
    for name, field in SHARPENING_FIELDS[model].items():
        # The GAN model reads them with given LR images too.
        required = is_train and (model == GAN or synthesizes(opt))
        fields[name] = field._replace(required=required)
    fields["queue_size"] = Field(SIZE, "180")
    fields["high_order_degradation"] = Field(BOOL, "true")
    if model == GAN:
        example = "{type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 64}"
        fields["network_d"] = Field(SECTION, example, required=is_train)
    return fields


def train_fields(opt: Mapping[str, object]) -> dict[str, Field]:
    """The same under ``train``."""
    return GAN_TRAIN_FIELDS if opt.get("model_type") == GAN else {}


def synthesizes(opt: Mapping[str, object]) -> bool:
    """Whether the model makes the LR images of training itself."""
    return opt.get("model_type") in MODELS and opt.get("high_order_degradation", True) is not False


def check_real_dataset(
    problems: Problems, key: str, section: Mapping[str, object], known: set[str], train: bool
) -> None:
    """Check a section of type RealESRGANDataset.

    Args:
        known: keys of any dataset.
        train: whether it is the training data.
    """
    if not train:
        problems.add(
            f"{key}.type",
            "a dataset with LR images, as these are made in training only",
            describe(DATASET),
            "Write `type: PairedImageDataset`, or SingleImageDataset without metrics.",
        )
        return
    backend = section.get("io_backend")
    # An LMDB brings its own list.
    from_lmdb = isinstance(backend, dict) and backend.get("type") == "lmdb"
    kind = optional(TEXT) if from_lmdb else TEXT
    meta = Field(kind, "datasets/DF2K/meta_info.txt", required=not from_lmdb)
    check_fields(problems, key, section, DATASET_FIELDS | {"meta_info": meta}, known=known)
    for ending in ("", "2"):
        kernels, chances = f"kernel_list{ending}", f"kernel_prob{ending}"
        if problems.under(f"{key}.{kernels}") or problems.under(f"{key}.{chances}"):
            continue
        if len(section[kernels]) != len(section[chances]):
            problems.add(
                f"{key}.{chances}",
                f"{len(section[kernels])} numbers, one for each of {kernels}",
                str(len(section[chances])),
                "Make the two lists equally long.",
            )


def check_real_esrgan(problems: Problems, opt: Mapping[str, object]) -> None:
    """Check what goes together in a training file of one of the two models."""
    datasets = opt.get("datasets")
    data = datasets.get("train") if isinstance(datasets, dict) else None
    if not isinstance(data, dict):
        return
    kind = data.get("type")
    if kind == DATASET and not synthesizes(opt):
        key = "high_order_degradation" if opt.get("model_type") in MODELS else "model_type"
        problems.add(
            "datasets.train.type",
            f"a dataset with LR images, which this {key} asks for",
            describe(kind),
            f"Write `model_type: {NET}` or {GAN} without high_order_degradation, or train on "
            "PairedImageDataset.",
        )
    if opt.get("model_type") not in MODELS:
        return
    paired = ("PairedImageDataset", "SingleImageDataset", "RealESRGANPairedDataset")
    if synthesizes(opt):
        if kind in paired:
            problems.add(
                "datasets.train.type",
                f"{DATASET}, from whose images the model makes LR images",
                describe(kind),
                f"Write `type: {DATASET}`, or `high_order_degradation: false` to train on pairs.",
            )
        _check_sizes(problems, opt, data)
    if opt["model_type"] == GAN:
        _check_gan(problems, opt)


def _check_sizes(problems: Problems, opt: Mapping, data: Mapping) -> None:
    scale, size = opt.get("scale"), opt.get("gt_size")
    if SIZE.accepts(scale) and IMAGE_SIZE % scale and data.get("type") == DATASET:
        problems.add(
            "scale",
            f"a divisor of {IMAGE_SIZE}, the side of the images that {DATASET} gives",
            describe(scale),
            "Train for x2 or x4.",
        )
    elif SIZE.accepts(scale) and SIZE.accepts(size):
        least = LEAST_SHARPENED if opt["model_type"] == GAN else scale
        if size % scale or not least <= size <= IMAGE_SIZE:
            problems.add(
                "gt_size",
                f"a multiple of the scale {scale} from {least} to {IMAGE_SIZE}",
                describe(size),
                f"Write `gt_size: {min(64 * scale, IMAGE_SIZE)}`.",
            )
    own = data.get("gt_size")
    if own is not None and SIZE.accepts(size) and own != size:
        problems.add(
            "datasets.train.gt_size",
            f"{size}, the gt_size at the top of the file, which counts",
            describe(own),
            "Remove the key.",
        )
    check_queue(problems, opt, data.get("batch_size_per_gpu"))


def check_queue(problems: Problems, opt: Mapping[str, object], batch: object) -> None:
    """Check that the pool of training pairs holds whole batches.

    Args:
        batch: images in one process's batch.
    """
    queue = opt.get("queue_size", 180)
    if not SIZE.accepts(batch) or not SIZE.accepts(queue) or queue % batch == 0:
        return
    problems.add(
        "queue_size",
        f"a multiple of the batch size {batch}",
        describe(queue) if "queue_size" in opt else f"its default, {describe(queue)}",
        f"Write `queue_size: {max(1, round(queue / batch)) * batch}`.",
    )


def _check_gan(problems: Problems, opt: Mapping) -> None:
    train = opt.get("train")
    if isinstance(train, dict) and train.get("ldl_opt"):
        decay = train.get("ema_decay", 0)
        if not is_number(decay) or decay <= 0:
            problems.add(
                "train.ema_decay",
                "a number above 0, as ldl_opt compares with the averaged network",
                describe(decay) if "ema_decay" in train else MISSING,
                "Write `ema_decay: 0.999`, or remove ldl_opt.",
            )
    section, size = opt.get("network_d"), opt.get("gt_size")
    if problems.under("network_d") or problems.under("gt_size") or not SIZE.accepts(size):
        return
    if isinstance(section, dict):
        _check_discriminator(problems, section, size)


def _check_discriminator(problems: Problems, section: Mapping, size: int) -> None:
    """Run it once, without memory if it can; in memory when that fails, to be sure why."""
    try:
        with torch.device("meta"):
            build(section)(torch.zeros(2, 3, size, size))
        return
    except Exception:
        pass
    try:
        with torch.no_grad():
            build(section)(torch.zeros(2, 3, size, size))
    except Exception as error:
        problems.add(
            "network_d",
            f"a network that judges RGB images of gt_size, {size}x{size}",
            f"{section['type']}, which does not: {complaint(error)}",
            "Change its arguments or gt_size.",
        )
