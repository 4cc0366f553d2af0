"""Keys that some of BasicSR's models and datasets read, and others do not.

A need belongs to the method that reads it, so that a subclass with a method of its own is not
asked for what it does not read.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

from esc_arch.options.constructors import (
    complaint,
    default_of,
    has_parameter,
    registered,
    try_network,
)
from esc_arch.options.datasets import (
    DOWNSAMPLE,
    PAIRED,
    PATCH_KEYS,
    REAL,
    SINGLE,
    evaluated,
    training_data,
)
from esc_arch.options.problems import MISSING, Problems, describe
from esc_arch.options.types import Mapped, Size, accepts, is_number, words

_OPTIMIZER = "{type: Adam, lr: !!float 1e-4}"
_GAN_LOSS = "{type: GANLoss, gan_type: vanilla, loss_weight: 0.1}"
_DISCRIMINATOR = "{type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 64}"
_GAN = {"network_d": _DISCRIMINATOR}
_LOSS = {"train.gan_opt": _GAN_LOSS}


class _Need(NamedTuple):
    """Keys, each with an example, that a method of a model reads without a default.

    Attributes:
        is_section: whether each is a section; otherwise a number or a name.
    """

    model: str
    method: str
    keys: Mapping[str, str]
    is_section: bool = True


_TRAINING = (
    *(
        _Need(model, method, keys)
        for model in ("SRGANModel", "VideoRecurrentGANModel", "HiFaceGANModel", "StyleGAN2Model")
        for method, keys in (
            ("init_training_settings", _GAN),
            ("setup_optimizers", {"train.optim_d": _OPTIMIZER}),
            ("optimize_parameters", _LOSS),
        )
    ),
    _Need("ESRGANModel", "optimize_parameters", _LOSS),
    _Need("RealESRGANModel", "optimize_parameters", _LOSS),
    _Need("VideoRecurrentGANModel", "setup_optimizers", {"train.fix_flow": "5000"}, False),
    _Need(
        "StyleGAN2Model",
        "init_training_settings",
        {
            "network_g.num_style_feat": "512",
            "train.r1_reg_weight": "10",
            "train.path_reg_weight": "2",
            "train.path_batch_shrink": "2",
            "train.net_g_reg_every": "4",
            "train.net_d_reg_every": "16",
            "train.mixing_prob": "0.9",
        },
        False,
    ),
)

# Datasets of BasicSR by the keys that they read without a default, with examples.
_ROOTS = {"dataroot_gt": "datasets/train/GT", "io_backend": "{type: disk}"}
_PAIRS = {**_ROOTS, "dataroot_lq": "datasets/train/LR"}
_PATCHES = {"gt_size": "256", "use_hflip": "true", "use_rot": "false"}
_FRAMES = {"num_frame": "7"}
_LISTED = {"meta_info_file": "datasets/meta_info.txt"}
_REDS = {**_PAIRS, **_PATCHES, **_LISTED, **_FRAMES, "val_partition": "REDS4"}
_VIMEO = {**_PAIRS, **_PATCHES, **_LISTED, **_FRAMES, "random_reverse": "true"}
_CACHED = {**_PAIRS, "cache_data": "false"}
_DATASETS: Mapping[str, Mapping[str, str]] = {
    "REDSDataset": {
        **_REDS,
        "dataroot_flow": "~",
        "interval_list": "[1]",
        "random_reverse": "false",
    },
    "REDSRecurrentDataset": {**_REDS, "test_mode": "false"},
    "Vimeo90KDataset": _VIMEO,
    "Vimeo90KRecurrentDataset": {**_VIMEO, "flip_sequence": "true"},
    "VideoTestDataset": {**_CACHED, **_FRAMES, "padding": "reflection_circle"},
    "VideoTestDUFDataset": {
        **_CACHED,
        **_FRAMES,
        "padding": "reflection_circle",
        "use_duf_downsampling": "true",
    },
    "VideoTestVimeo90KDataset": {**_CACHED, **_FRAMES, **_LISTED},
    "VideoRecurrentTestDataset": _CACHED,
    "FFHQDataset": {
        **_ROOTS,
        "mean": "[0.5, 0.5, 0.5]",
        "std": "[0.5, 0.5, 0.5]",
        "use_hflip": "true",
    },
    "RealESRGANPairedDataset": {**_PAIRS, **_PATCHES},
}
_VIDEO_TESTS = (
    "VideoTestDataset",
    "VideoTestDUFDataset",
    "VideoTestVimeo90KDataset",
    "VideoRecurrentTestDataset",
)

_CLIPS_OF_TRAINING = tuple(name for name in _DATASETS if name.startswith(("REDS", "Vimeo")))
_IMAGES = (PAIRED, SINGLE, DOWNSAMPLE, REAL, "RealESRGANPairedDataset", "FFHQDataset")

# The names that networks give to the channels of their input.
_CHANNELS = ("in_chans", "num_in_ch", "in_channels", "in_nc")


def reads(model: Any, owner: str, method: str) -> bool:
    """Whether a model's class has a method from BasicSR's class of this name."""
    theirs = registered(MODEL_REGISTRY, owner)
    own = getattr(model, method, None)
    return theirs is not None and own is not None and own is getattr(theirs, method, None)


def needs_pixel_loss(model: Any) -> bool:
    """Whether the model trains by a pixel or a perceptual loss, and stops without either."""
    if reads(model, "SRModel", "init_training_settings"):
        return True
    # Ours call the method from their own.
    ours = getattr(model, "__module__", "").startswith("esc_arch.")
    return ours and not reads(model, "SRGANModel", "init_training_settings")


def check_model_needs(
    problems: Problems, opt: Mapping[str, Any], model: Any, is_train: bool
) -> None:
    """Note what the model's class reads and the file lacks."""
    for place, section in _sections(opt):
        _check_dataset(problems, place, section)
    if is_train:
        for need in _TRAINING:
            if reads(model, need.model, need.method):
                for key, example in need.keys.items():
                    _require(problems, opt, key, example, need.is_section)
        _check_discriminator(problems, opt, model)
    _check_video(problems, opt, model, is_train)


def _sections(opt: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    data = training_data(opt)
    if data is not None:
        yield "datasets.train", data
    yield from evaluated(opt)


def _check_dataset(problems: Problems, place: str, section: Mapping[str, Any]) -> None:
    needed = _DATASETS.get(str(section.get("type")), {})
    for name, example in needed.items():
        # Evaluation reads whole images.
        if name in PATCH_KEYS and place != "datasets.train":
            continue
        if name not in section and not problems.under(f"{place}.{name}"):
            advice = f"Add `{name}: {example}`."
            expected = f"the key, which {section['type']} reads"
            problems.add(f"{place}.{name}", expected, MISSING, advice)


def _require(
    problems: Problems, opt: Mapping[str, Any], key: str, example: str, is_section: bool
) -> None:
    section: Any = opt
    *places, name = key.split(".")
    for place in places:
        section = section.get(place)
        if not isinstance(section, dict):
            return
    if problems.under(key):
        return
    if name not in section:
        expected = words(Mapped) if is_section else f"the key, which {opt['model_type']} reads"
        problems.add(key, expected, MISSING, f"Add `{name}: {example}`.")
    elif is_section and not isinstance(section[name], dict):
        problems.add(key, words(Mapped), describe(section[name]), f"Write `{name}: {example}`.")


def is_video_model(model: Any) -> bool:
    """Whether the model validates whole clips."""
    owners = ("VideoBaseModel", "VideoRecurrentModel")
    return any(reads(model, owner, "dist_validation") for owner in owners)


def _check_video(problems: Problems, opt: Mapping[str, Any], model: Any, is_train: bool) -> None:
    """BasicSR's video models validate on datasets that know the folders of clips."""
    if not is_video_model(model):
        return
    for place, section in _sections(opt):
        kind, is_trained = section.get("type"), place == "datasets.train"
        if kind in _IMAGES or (kind in _CLIPS_OF_TRAINING and not is_trained):
            known = _CLIPS_OF_TRAINING if is_trained else _VIDEO_TESTS
            expected = f"a dataset of clips, as {opt['model_type']} is a model of videos"
            advice = f"Write one of {', '.join(known)}, or `model_type: SRModel` for images."
            problems.wrong(place, section, "type", expected, advice)
    val = opt.get("val")
    if isinstance(val, dict) and evaluated(opt) and "metrics" not in val:
        expected, advice = "metrics by name, or nothing (~)", "Add `metrics: ~`."
        problems.add("val.metrics", expected, MISSING, advice)
    if is_train and isinstance(val, dict) and val.get("save_img") is True:
        expected = "false, as models of videos write no images during training"
        problems.wrong("val", val, "save_img", expected, "Write `save_img: false`.")


def _check_discriminator(problems: Problems, opt: Mapping[str, Any], model: Any) -> None:
    """Let network_d judge patches of the size that it will be given."""
    section, data = opt.get("network_d"), training_data(opt)
    side: Any = opt.get("gt_size", (data or {}).get("gt_size"))
    if data is None or not isinstance(section, dict) or not accepts(Size, side):
        return
    judges = [reads(model, "SRGANModel", "init_training_settings")]
    judges.append(reads(model, "VideoRecurrentGANModel", "init_training_settings"))
    place = "gt_size" if "gt_size" in opt else "datasets.train.gt_size"
    if not any(judges) or problems.under("network_d") or problems.under(place):
        return
    channels = 1 if data.get("color") == "y" else 3
    # Of two, as batch normalisation takes no single one.
    images = (2, channels, side, side)
    error = try_network(section, lambda network: network(torch.zeros(images)))
    if error is not None:
        kind = "grey" if channels == 1 else "RGB"
        expected = f"a network that judges {kind} images of gt_size, {side}x{side}"
        found = f"{section['type']}, which does not: {complaint(error)}"
        problems.add("network_d", expected, found, "Change its arguments or gt_size.")


def check_channels(problems: Problems, opt: Mapping[str, Any]) -> None:
    """Compare the channels of the images with those that network_g takes."""
    section = opt.get("network_g")
    if not isinstance(section, dict) or problems.under("network_g"):
        return
    network = registered(ARCH_REGISTRY, section["type"])
    assert network is not None
    name = next((name for name in _CHANNELS if has_parameter(network, name)), None)
    if name is None and not network.__module__.startswith(("esc_arch.", "basicsr.")):
        return
    # Ours and BasicSR's without an argument take RGB.
    wanted = 3 if name is None else section.get(name, default_of(network, name))
    if not is_number(wanted):
        return
    for place, data in _sections(opt):
        given = 1 if data.get("color") == "y" else 3
        if given != wanted and data.get("type") in (PAIRED, SINGLE):
            is_grey = given == 1
            images = "grey images, by `color: y`" if is_grey else "RGB images"
            of = f"network_g.{name}" if name else section["type"]
            advice = "Remove `color`" if is_grey else "Write `color: y`"
            problems.add(
                f"{place}.color",
                f"images of {wanted} channels, which {of} takes",
                images,
                f"{advice}, or change the network. PSNR of luma is `test_y_channel: true` of the "
                "metric.",
            )
        for key in ("mean", "std"):
            values = data.get(key)
            if isinstance(values, list) and len(values) != given:
                expected = f"a list of {given}, one for each channel"
                problems.add(f"{place}.{key}", expected, describe(values), "Write as many.")
        if isinstance(data.get("std"), list) and 0 in data["std"]:
            expected = "numbers other than 0, as images are divided by them"
            problems.add(f"{place}.std", expected, describe(data["std"]), "Change them.")
