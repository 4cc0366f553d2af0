"""Models of the option files of BasicSR's Real-ESRGAN, and the rules across their keys.

Both models make the LR images themselves, by two rounds of blur, resizing, noise and JPEG,
and read how from the top of the option file.  The keys of the second round end in 2.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from esc_arch.options.constructors import memory_bytes
from esc_arch.options.datasets import LOADER_KEYS, PAIRED, REAL, SINGLE, Dataset, training_data
from esc_arch.options.problems import Problems, describe
from esc_arch.options.sections import (
    ESC_MODEL,
    LTE_MODEL,
    PLAIN_MODELS,
    SECTIONS_MODEL,
    ESCOptions,
    LTEOptions,
    Options,
    SectionsOptions,
    Train,
)
from esc_arch.options.types import (
    Amount,
    Chance,
    Count,
    Decay,
    Kind,
    Mapped,
    Natural,
    Quality,
    Size,
    Text,
    accepts,
    is_number,
    key,
    pair,
)

NET, GAN = "RealESRNetModel", "RealESRGANModel"
MODELS = (NET, GAN)

# Side to which the dataset crops or pads each image, in pixels.
IMAGE_SIZE = 400
# The sharpening's 51x51 blur mirrors 25 pixels at each border, so it takes one more.
LEAST_SHARPENED = 26
# The blur kernels of 21x21 mirror 10 pixels; a resized image has to have one more.
LEAST_RESIZING = 11 / IMAGE_SIZE

_INF = float("inf")
_WEIGHTS = {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1}


def _are_weights(value: Sequence[float]) -> bool:
    """Whether ``random.choices`` accepts the value as weights."""
    return isinstance(value, list) and all(0 <= v < _INF for v in value) and sum(value) > 0


ResizeChances = Annotated[
    Sequence[float],
    Kind(
        "a list of 3 numbers of at least 0, the weights of up, down and keep",
        lambda value: _are_weights(value) and len(value) == 3,
        {**_WEIGHTS, "minItems": 3, "maxItems": 3},
    ),
]
KernelChances = Annotated[
    Sequence[float], Kind("a list of numbers of at least 0, not all 0", _are_weights, _WEIGHTS)
]
Resizing = Annotated[
    Sequence[float],
    pair(
        f"from {LEAST_RESIZING} to 1 and from 1", lambda a, b: LEAST_RESIZING <= a <= 1 <= b < _INF
    ),
]
Sigma = Annotated[
    Sequence[float], pair("the lower one first and above 0", lambda a, b: 0 < a < b < _INF)
]
AroundOne = Annotated[
    Sequence[float], pair("above 0 to 1 and from 1", lambda a, b: 0 < a <= 1 <= b < _INF)
]
Kernels = Sequence[
    Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
]


class Degradation(Options):
    """How both models make LR images; the marks in brackets hold where they do."""

    resize_prob: ResizeChances = key("weights of up, down, keep", "[0.2, 0.7, 0.1]", None, "(†)")
    resize_range: Resizing = key("factors of the resizing", "[0.15, 1.5]", None, "(†)")
    gaussian_noise_prob: Chance = key("chance of Gaussian noise, else Poisson", "0.5", None, "(†)")
    noise_range: Amount = key("sigma of Gaussian noise", "[1, 30]", None, "(†)")
    poisson_scale_range: Amount = key("scale of Poisson noise", "[0.05, 3]", None, "(†)")
    gray_noise_prob: Chance = key("chance of grey noise", "0.4", None, "(†)")
    jpeg_range: Quality = key("quality of JPEG", "[30, 95]", None, "(†)")
    second_blur_prob: Chance = key("chance of a second blur", "0.8", None, "(†)")
    resize_prob2: ResizeChances = key("weights of up, down, keep", "[0.3, 0.4, 0.3]", None, "(†)")
    resize_range2: Resizing = key("factors of the resizing", "[0.3, 1.2]", None, "(†)")
    gaussian_noise_prob2: Chance = key("chance of Gaussian noise, else Poisson", "0.5", None, "(†)")
    noise_range2: Amount = key("sigma of Gaussian noise", "[1, 25]", None, "(†)")
    poisson_scale_range2: Amount = key("scale of Poisson noise", "[0.05, 2.5]", None, "(†)")
    gray_noise_prob2: Chance = key("chance of grey noise", "0.4", None, "(†)")
    jpeg_range2: Quality = key("quality of JPEG", "[30, 95]", None, "(†)")
    gt_size: Size = key("side of the HR patch in pixels", "256", None, "(†)")
    queue_size: Size = key("training pairs from which each batch is drawn", "180", 180)
    high_order_degradation: bool = key("make LR images; false to train on pairs", "true", True)


DEGRADATION_KEYS = tuple(
    name
    for name in Degradation.__annotations__
    if name not in ("queue_size", "high_order_degradation")
)


class RealESRNetOptions(Degradation):
    """The option file of RealESRNetModel."""

    gt_usm: bool = key("sharpen the ground truth; with high_order_degradation", "true", None, "(†)")

    @classmethod
    def needed(cls, section: Mapping[str, object], is_train: bool) -> Collection[str]:
        return (*DEGRADATION_KEYS, "gt_usm") if is_train and synthesizes(section) else ()


class GANTrain(Train):
    """Training with RealESRGANModel."""

    optim_d: Mapped = key("optimiser of network_d", "{type: Adam, lr: !!float 1e-4}")
    gan_opt: Mapped = key(
        "adversarial loss", "{type: GANLoss, gan_type: vanilla, loss_weight: 0.1}"
    )
    ema_decay: Decay = key("decay of the averaged weights; above 0 with ldl_opt", "0.999", 0, "(†)")
    pixel_opt: Mapped | None = key("loss on pixels", "{type: L1Loss}", None)
    perceptual_opt: Mapped | None = key(
        "loss on features of VGG", "{type: PerceptualLoss, layer_weights: {conv5_4: 1}}", None
    )
    ldl_opt: Mapped | None = key("locally discriminative loss", "{type: L1Loss}", None)
    net_d_iters: Count = key("steps of the discriminator for one of the network", "1", 1)
    net_d_init_iters: Natural = key("iterations of the discriminator alone, first", "0", 0)


class RealESRGANOptions(Degradation):
    """The option file of RealESRGANModel."""

    l1_gt_usm: bool = key("compare pixels with the sharpened ground truth", "true", None, "†")
    percep_gt_usm: bool = key("compare features with the sharpened ground truth", "true", None, "†")
    gan_gt_usm: bool = key("show the sharpened ground truth to network_d", "true", None, "†")
    network_d: Mapped = key(
        "the discriminator", "{type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 64}", None, "†"
    )
    train: GANTrain = key("training", "{}", None, "†")

    @classmethod
    def needed(cls, section: Mapping[str, object], is_train: bool) -> Collection[str]:
        # It reads them with given LR images too.
        own = ("l1_gt_usm", "percep_gt_usm", "gan_gt_usm", "network_d") if is_train else ()
        return (*DEGRADATION_KEYS, *own) if is_train and synthesizes(section) else own


# The models of option files, by their model_type; OpenOptions for any other.
FILES: Mapping[str, type[Options]] = {
    **dict.fromkeys(PLAIN_MODELS, Options),
    ESC_MODEL: ESCOptions,
    LTE_MODEL: LTEOptions,
    SECTIONS_MODEL: SectionsOptions,
    NET: RealESRNetOptions,
    GAN: RealESRGANOptions,
}


class RealESRGAN(Dataset):
    """HR images, and the blur kernels that a Real-ESRGAN model degrades them with."""

    dataroot_gt: Text = key("folder or LMDB of HR images", "datasets/DF2K")
    meta_info: Text = key("text file that lists the images", "datasets/DF2K/meta_info.txt")
    io_backend: Mapped = key("how files are read: type is disk or lmdb", "{type: disk}")
    use_hflip: bool = key("flip images at random", "true")
    use_rot: bool = key("turn images by 90 degrees at random", "false")
    gt_size: Size = key("read by nothing: the one at the top counts", "256", None)
    blur_kernel_size: Size = key("side of the blur kernels in pixels", "21")
    kernel_list: Kernels = key("forms of the blur", "[iso, aniso]")
    kernel_prob: KernelChances = key("weight of each form", "[0.7, 0.3]")
    sinc_prob: Chance = key("chance of a sinc filter", "0.1")
    blur_sigma: Sigma = key("standard deviation of the blur", "[0.2, 3]")
    betag_range: AroundOne = key("shape of generalized Gaussian kernels", "[0.5, 4]")
    betap_range: AroundOne = key("shape of plateau kernels", "[1, 2]")
    blur_kernel_size2: Size = key("side of the blur kernels in pixels", "21")
    kernel_list2: Kernels = key("forms of the blur", "[iso, aniso]")
    kernel_prob2: KernelChances = key("weight of each form", "[0.7, 0.3]")
    sinc_prob2: Chance = key("chance of a sinc filter", "0.1")
    blur_sigma2: Sigma = key("standard deviation of the blur", "[0.2, 1.5]")
    betag_range2: AroundOne = key("shape of generalized Gaussian kernels", "[0.5, 4]")
    betap_range2: AroundOne = key("shape of plateau kernels", "[1, 2]")
    final_sinc_prob: Chance = key("chance of a sinc filter at the end", "0.8")

    @classmethod
    def needed(cls, section: Mapping[str, object], is_train: bool) -> Collection[str]:
        return LOADER_KEYS


class RealESRGANOfLmdb(RealESRGAN):
    """The same from an LMDB, which brings its own list of images."""

    meta_info: Text | None = key("read by nothing", "~", None)  # type: ignore[assignment]


def synthesizes(opt: Mapping[str, object]) -> bool:
    """Whether the model makes the LR images of training itself."""
    return opt.get("model_type") in MODELS and opt.get("high_order_degradation", True) is not False


def check_real_esrgan(problems: Problems, opt: Mapping[str, Any]) -> None:
    """Check the rules across the keys of a training file of one of the two models."""
    data = training_data(opt)
    if data is None:
        return
    kind, is_real = data.get("type"), opt.get("model_type") in MODELS
    wrong = partial(problems.wrong, "datasets.train", data)
    if kind == REAL and not synthesizes(opt):
        asks = "high_order_degradation" if is_real else "model_type"
        wrong(
            "type",
            f"a dataset with LR images, which this {asks} asks for",
            f"Write `model_type: {NET}` or {GAN} without high_order_degradation, or train on "
            f"{PAIRED}.",
        )
    if kind == REAL:
        _check_kernels(problems, data)
    if not is_real:
        return
    if synthesizes(opt):
        if kind in (PAIRED, SINGLE, "RealESRGANPairedDataset"):
            advice = f"Write `type: {REAL}`, or `high_order_degradation: false` to train on pairs."
            wrong("type", f"{REAL}, from whose images the model makes LR images", advice)
        _check_sizes(problems, opt, data)
    if opt["model_type"] == GAN:
        _check_gan(problems, opt)


def _check_kernels(problems: Problems, data: Mapping[str, Any]) -> None:
    for ending in ("", "2"):
        names, chances = data.get(f"kernel_list{ending}"), data.get(f"kernel_prob{ending}")
        if not accepts(Kernels, names) or not accepts(KernelChances, chances):
            continue
        assert isinstance(names, list) and isinstance(chances, list)
        if len(names) != len(chances):
            key = f"datasets.train.kernel_prob{ending}"
            expected = f"{len(names)} numbers, one for each of kernel_list{ending}"
            problems.add(key, expected, str(len(chances)), "Make the two lists equally long.")


def _check_sizes(problems: Problems, opt: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    scale, size, own = opt.get("scale"), opt.get("gt_size"), data.get("gt_size")
    wrong = partial(problems.wrong, "", opt)
    if accepts(Size, scale):
        if IMAGE_SIZE % opt["scale"] and data.get("type") == REAL:
            expected = f"a divisor of {IMAGE_SIZE}, the side of the images that {REAL} gives"
            wrong("scale", expected, "Train for x2 or x4.")
        elif accepts(Size, size):
            least = LEAST_SHARPENED if opt["model_type"] == GAN else opt["scale"]
            if opt["gt_size"] % opt["scale"] or not least <= opt["gt_size"] <= IMAGE_SIZE:
                advice = f"Write `gt_size: {min(64 * opt['scale'], IMAGE_SIZE)}`."
                expected = f"a multiple of the scale {scale} from {least} to {IMAGE_SIZE}"
                wrong("gt_size", expected, advice)
    if own is not None and accepts(Size, size) and own != size:
        expected = f"{size}, the gt_size at the top of the file, which counts"
        problems.wrong("datasets.train", data, "gt_size", expected, "Remove the key.")
    check_queue(problems, opt, data.get("batch_size_per_gpu"))


def check_queue(problems: Problems, opt: Mapping[str, Any], batch: Any) -> None:
    """Check that the pool of training pairs holds whole batches.

    Args:
        batch: images in one process's batch.
    """
    queue, side = opt.get("queue_size", 180), opt.get("gt_size")
    if not accepts(Size, batch) or not accepts(Size, queue):
        return
    if accepts(Size, side):
        # HR and LR patches in float32; these are at most as large.
        most = memory_bytes() // (3 * 4 * 2 * opt["gt_size"] ** 2)
        if queue > most:
            expected = f"at most {most:,}, the pairs of {side}x{side} that the memory holds"
            problems.wrong("", opt, "queue_size", expected, "Lower it.")
            return
    if queue % batch == 0:
        return
    advice = f"Write `queue_size: {max(1, round(queue / batch)) * batch}`."
    expected, absent = f"a multiple of the batch size {batch}", f"its default, {describe(queue)}"
    problems.wrong("", opt, "queue_size", expected, advice, absent)


def _check_gan(problems: Problems, opt: Mapping[str, Any]) -> None:
    train = opt.get("train")
    if isinstance(train, dict) and train.get("ldl_opt"):
        decay = train.get("ema_decay", 0)
        if not is_number(decay) or decay <= 0:
            expected = "a number above 0, as ldl_opt compares with the averaged network"
            advice = "Write `ema_decay: 0.999`, or remove ldl_opt."
            problems.wrong("train", train, "ema_decay", expected, advice)
