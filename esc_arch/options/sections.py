"""Models of the option file's sections, apart from datasets.

Loss, optimiser, scheduler, metric and network sections are passed to constructors: their models
hold what this package asks for beyond the constructors' own arguments.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from pydantic import create_model

from esc_arch.options.types import (
    Count,
    Decay,
    FolderName,
    Iterations,
    Kind,
    Mapped,
    Natural,
    OpenSection,
    Port,
    Positive,
    Section,
    Seed,
    Size,
    Text,
    key,
)

ESC_MODEL, LTE_MODEL = "ESCModel", "ESCLTEModel"
# Those that read ESCModel's keys under train.
ESC_MODELS = (ESC_MODEL, LTE_MODEL)
# Models of which all keys are known; others may read more, at the top and under train, val.
SECTIONS_MODEL = "SectionsModel"
PLAIN_MODELS = (
    *("SRModel", "SwinIRModel", "ESRModel", SECTIONS_MODEL, "TenthSectionsModel"),
    *ESC_MODELS,
)
# Sections that are checked on their own.
APART = ("datasets", "path", "train", "val", "logger")

NumGpu = Annotated[Literal["auto"] | Natural, Kind("auto or a whole number of at least 0")]
Warmup = Annotated[
    float,
    Kind(
        "a whole number, -1 for no warm-up",
        lambda v: v.is_integer() and v >= -1,
        {"type": "integer", "minimum": -1},
    ),
]
Texts = Annotated[Text | Sequence[Text] | None, Kind("text or a list of texts")]
Periods = Annotated[Sequence[Count], MinLen(1), Kind("a list of whole numbers of at least 1")]


_VAL = "test, and validation during training where there are datasets for it"


class Network(OpenSection):
    """A network: its registered name, and the arguments of its constructor."""

    type: Text = key("registered name of the network", "ESC")


class Loss(OpenSection):
    """A loss: its registered name, and the arguments of its constructor."""

    type: Text = key("registered name of the loss", "L1Loss")
    loss_weight: float = key("factor of the loss in the sum", "1.0", 1.0)
    reduction: Literal["mean", "sum"] = key("how pixels become one number", "mean", "mean")


class GANLossSection(Loss):
    """An adversarial loss."""

    gan_type: Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"] = key(
        "form of the adversarial loss", "vanilla"
    )


class PerceptualLossSection(OpenSection):
    """A loss on features of VGG."""

    type: Text = key("PerceptualLoss or VGGPerceptualLoss", "PerceptualLoss")
    layer_weights: Mapped = key("weight of each layer of VGG, by name", "{conv5_4: 1}")
    vgg_type: Literal["vgg11", "vgg13", "vgg16", "vgg19"] = key(
        "which VGG gives the features", "vgg19", "vgg19"
    )
    criterion: Text = key("distance of the features", "l1", "l1")


class Optimizer(OpenSection):
    """An optimiser of PyTorch: its name, and the arguments of its constructor."""

    type: Text = key("class of torch.optim", "AdamW")
    lr: float = key("learning rate", "!!float 5e-4")


class Scheduler(OpenSection):
    """The schedule of the learning rate; its other keys are the constructor's arguments."""

    type: Literal["MultiStepLR", "MultiStepRestartLR", "CosineAnnealingRestartLR"] = key(
        "form of the schedule", "MultiStepLR"
    )
    milestones: Sequence[int] = key(
        "iterations at which the rate falls; for MultiStepLR", "[250000, 400000]", None, "(*)"
    )
    gamma: float = key("factor of the rate at a milestone", "0.5", 0.1)
    restarts: Sequence[int] = key("iterations at which the schedule restarts", "[0]", [0])
    restart_weights: Sequence[float] = key("factor of the rate at each restart", "[1]", [1])
    periods: Periods = key(
        "iterations of each cosine period; for CosineAnnealingRestartLR",
        "[250000, 250000]",
        None,
        "(*)",
    )


class Metric(OpenSection):
    """A metric: its registered name, and the arguments of its function."""

    type: Text = key("registered name of the metric", "calculate_psnr")
    better: Literal["higher", "lower"] = key("which value is the better one", "higher", "higher")
    crop_border: Natural = key(
        "pixels left out at each border; for PSNR and SSIM", "2", None, "(*)"
    )
    input_order: Literal["HWC", "HW"] = key(
        "order of the axes, as BasicSR's validation has them", "HWC", "HWC"
    )


class IoBackend(OpenSection):
    """How image files are read."""

    type: Literal["disk", "lmdb", "memcached"] = key("disk for folders, lmdb for LMDBs", "disk")


class Train(Section):
    """Training: losses, optimiser, schedule."""

    total_iter: Iterations = key("iterations in all", "500000")
    optim_g: Mapped = key("optimiser of network_g", "{type: AdamW, lr: !!float 5e-4}")
    scheduler: Mapped = key(
        "schedule of the learning rate", "{type: MultiStepLR, milestones: [250000]}"
    )
    warmup_iter: Warmup = key("iterations in which the rate rises from 0", "20000", -1)
    ema_decay: Decay = key("decay of the averaged weights; 0 keeps none", "0.999", 0)
    pixel_opt: Mapped | None = key(
        "loss on pixels; this or perceptual_opt", "{type: L1Loss}", None, "(†)"
    )
    perceptual_opt: Mapped | None = key(
        "loss on features of VGG; this or pixel_opt",
        "{type: PerceptualLoss, layer_weights: {conv5_4: 1}}",
        None,
        "(†)",
    )


class ESCTrain(Train):
    """Training with ESCModel."""

    amp: Literal["bf16", "fp16"] | None = key("the network in mixed precision", "bf16", None)
    compile: bool = key("compile the network by torch.compile", "true", False)
    channels_last: bool = key("memory format of the network and its inputs", "true", False)
    accumulate: Size = key("parts of a batch that share one step", "2", 1)
    grad_clip: Positive | None = key("largest norm of the gradients", "0.5", None)
    skip_nonfinite: bool = key("skip steps whose gradients are not finite", "false", True)
    checkpoint_activations: bool = key("compute activations twice to save memory", "true", False)


class OpenTrain(Train):
    """Training with a model that may read further keys."""

    model_config = OpenSection.model_config


class Val(Section):
    """Validation during training, and the test of ``basicsr test``."""

    save_img: bool = key("write the images of the network", "false")
    val_freq: Count = key("iterations between validations; for training", "5000", None, "†")
    suffix: Any = key(
        "end of the written files' names, ~ for the experiment's name; for a test with save_img",
        "~  # add the experiment's name",
        None,
        "(‡)",
    )
    pbar: bool = key("show a progress bar", "false", False)
    tile: Size | None = key(
        "side of tiles to test large images in, in LR pixels; ~ for whole images", "256", None
    )
    metrics: Mapped | None = key(
        "metrics by name", "{psnr: {type: calculate_psnr, crop_border: 2}}", None
    )

    @classmethod
    def needed(cls, section: Mapping[str, object], is_train: bool) -> Collection[str]:
        if is_train:
            return ("val_freq",)
        return ("suffix",) if section.get("save_img") is True else ()


class ESCVal(Val):
    """Validation with ESCModel."""

    whole_windows: bool = key("pad LR images to multiples of window_size", "true", False)


class LTEVal(Val):
    """Validation with ESCLTEModel."""

    max_scale: Positive = key("scale whose pixel sides queries of larger ones have", "4", 4)


class SectionsVal(Val):
    """Validation with SectionsModel."""

    use_chop: bool = key("test large images in sections", "true", False)


class OpenVal(Val):
    """Validation with a model that may read further keys."""

    model_config = OpenSection.model_config


class Wandb(Section):
    """Weights & Biases."""

    project: Text | None = key("project to log to; ~ for none", "~", None)
    resume_id: Text | None = key("run to continue", "~", None)


class Logger(Section):
    """Logs and checkpoints of a training."""

    print_freq: Count = key("iterations between lines of the log", "100")
    save_checkpoint_freq: Count = key("iterations between checkpoints", "5000")
    use_tb_logger: bool = key("log to TensorBoard", "true")
    wandb: Wandb | None = key("log to Weights & Biases", "{project: ~, resume_id: ~}", None)
    keep_last: Size | None = key("how many of the newest checkpoints to keep; ~: all", "3", None)
    keep_best: Text | None = key(
        "metric whose best checkpoint is kept, by its name under val.metrics", "psnr", None
    )


class Path(Section):
    """Files to start from.  Further networks have keys of their own: ``pretrain_network_d``."""

    resume_state: Text | None = key("training state to resume from", "~", None)
    ignore_resume_networks: Texts = key(
        "networks whose weights are not those of the resumed training", "[network_d]", None
    )
    pretrain_network_g: Text | None = key("checkpoint to start from", "~", None)
    param_key_g: Text | None = key("key of the weights in that file", "params_ema", "params")
    strict_load_g: bool = key("every parameter has to be in that file and fit", "true", True)
    pretrain_network_d: Text | None = key("the same for the discriminator", "~", None)
    param_key_d: Text | None = key("the same for the discriminator", "params", "params")
    strict_load_d: bool = key("the same for the discriminator", "true", True)

    @classmethod
    def of_networks(cls, networks: Collection[str]) -> "type[Path]":
        """The model with the keys of these networks (``g``, ``d``, ...) too."""
        own = {
            f"{name[:-1]}{network}": (field.annotation, field)
            for network in networks
            for name, field in cls.model_fields.items()
            if name.endswith("_g")
        }
        extra: Any = {name: field for name, field in own.items() if name not in cls.model_fields}
        return create_model("Path", __base__=cls, **extra) if extra else cls


class LTEPath(Path):
    """Files to start from, with ESCLTEModel."""

    pretrain_network_encoder: Text | None = key(
        "checkpoint of ESC to start the encoder from", "~", None
    )
    param_key_encoder: Text | None = key("key of the weights in that file", "params_ema", "params")


class DistParams(OpenSection):
    """Arguments of torch.distributed's initialisation."""

    backend: Text = key("how processes talk to each other", "nccl", "nccl")
    port: Port | None = key("port of the first process", "29500", None)


class Options(Section):
    """The option file of SRModel, SwinIRModel and ESRModel."""

    name: FolderName = key("name of the experiment and its folder", "train_ESC_x2")
    model_type: Text = key("registered name of the model", "SRModel")
    num_gpu: NumGpu = key("GPUs to use; auto for all, 0 for the CPU", "auto")
    network_g: Mapped = key("the network", "{type: ESC, dim: 64}")
    scale: Size = key("upscaling factor; for datasets of HR images", "2", None, "(*)")
    manual_seed: Seed | None = key("seed of all random numbers; ~ for a random one", "0", None)
    find_unused_parameters: bool = key("for torch's DistributedDataParallel", "false", False)
    dist_params: DistParams = key(
        "for torch.distributed, with the launcher slurm", "{backend: nccl, port: 29500}", None
    )
    datasets: Mapped = key("datasets by phase: train, val, val_1, test_1, ...", "{}", None, "*")
    path: Mapped = key("files to start from", "{pretrain_network_g: ~}", None, "*")
    train: Train = key("training", "{}", None, "†")
    val: Val = key(_VAL, "{save_img: false}", None, "‡(†)")
    logger: Logger = key("logs and checkpoints", "{}", None, "†")
    is_train: Any = key("set by BasicSR", "true", None)
    print_network: Any = key("read by nothing", "false", None)
    save_img: Any = key("read by nothing: the one under val counts", "false", None)
    suffix: Any = key("read by nothing: the one under val counts", "~", None)
    use_static_graph: Any = key("read by nothing", "false", None)


class SectionsOptions(Options):
    """The option file of SectionsModel."""

    val: SectionsVal = key(_VAL, "{save_img: false}", None, "‡(†)")


class ESCOptions(Options):
    """The option file of ESCModel."""

    train: ESCTrain = key("training", "{}", None, "†")
    val: ESCVal = key(_VAL, "{save_img: false}", None, "‡(†)")


class LTEOptions(ESCOptions):
    """The option file of ESCLTEModel."""

    val: LTEVal = key(_VAL, "{save_img: false}", None, "‡(†)")  # type: ignore[assignment]


class OpenOptions(Options):
    """The option file of any other model, which may read further keys."""

    model_config = OpenSection.model_config

    scale: Positive = key("upscaling factor; for datasets of HR images", "2", None, "(*)")  # type: ignore[assignment]
    train: OpenTrain = key("training", "{}", None, "†")
    val: OpenVal = key(_VAL, "{save_img: false}", None, "‡(†)")
