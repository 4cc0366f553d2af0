"""Recipes: the option files that this package trains and tests its networks with.

The files in ``templates`` hold the text; here is what differs from network to network.
``options/*.yml`` of the repository are what :func:`write_all` writes.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from esc_arch.archs.presets import PRESETS, outline
from esc_arch.errors import UserError
from esc_arch.files import whole_file
from esc_arch.options.problems import suggestion

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained and tested.

    Attributes:
        title: the network in words.
        stem: the network in the files' names.
        preset: its name in :data:`esc_arch.archs.presets.PRESETS`.
        paper: number at arXiv, of a network to compare with; "" for ESC's own.
        committed: the scales of the files in ``options/``.
        from_x2: what else starts from x2 weights, where one to compare with does.
        is_padded: whether the network accepts whole windows alone.
        package: whether the network comes from another package.
    """

    title: str
    stem: str
    preset: str
    paper: str = ""
    committed: tuple[int, ...] = (2, 3, 4)
    from_x2: str = ""
    is_padded: bool = False
    package: bool = False


def _peer(title: str, preset: str, paper: str, package: bool = False) -> Recipe:
    return Recipe(title, title.replace("-", "_"), preset, paper, (4,), package=package)


_HEAD_ESC = "# $title x$scale on $data, as in the paper (arXiv 2503.06671)."
_HEAD_PEER = """\
# $title x$scale (arXiv $paper) on DIV2K by ESC's recipe: the data, patches, batch,
# schedule and metrics are those of train_ESC_x$scale.yml, so that the two can be compared."""
_FROM_INITIAL = "# It starts from initial weights, where ESC starts from its x2 weights."
_PACKAGE = "# The network comes from another package: pip install 'esc-arch[compare]'."
_ABOUT_DIV2K = """\
# Data. DIV2K, cut into pieces of 480x480 every 240 pixels and packed:
#   basicsr data download DIV2K_train_HR
#   basicsr data prepare datasets/DIV2K/DIV2K_train_HR --dest datasets/DIV2K/train \\
#     --scales 2 3 4 --sub-image 480 --step 240 --lmdb"""
_ABOUT_DFLIP = """\
# Data. DFLIP: DIV2K, Flickr2K, LSDIR and DiverSeg-IP; `basicsr data download` says how to get
# each. Only HR images are needed; the LR patches are made from the crops while training.
#   datasets/DIV2K/DIV2K_train_HR     datasets/Flickr2K/Flickr2K_HR
#   datasets/LSDIR/HR                 datasets/DiverSeg_IP/HR
# Sub-folders of these are not searched here. Pieces in an LMDB read faster, and this command
# searches sub-folders:
#   basicsr data prepare datasets/LSDIR/HR --dest datasets/LSDIR/train \\
#     --scales --sub-image 480 --step 240 --lmdb
# Do so for all four, name datasets/LSDIR/train/HR_sub.lmdb and so on below, and write
# `type: lmdb`. Images with a side below gt_size stop the training: `basicsr data stats` names
# them. The check before it sees all of an LMDB, but opens only some files of a folder."""
_LESS_MEMORY = """\
#
# Less time and memory. Write `model_type: ESCModel`, and under `train` any of
#   amp: bf16                     # or fp16: the network in mixed precision
#   compile: true                 # by torch.compile
#   channels_last: true
#   accumulate: 2                 # each batch in 2 parts with one step: the same results
#   checkpoint_activations: true  # activations computed twice instead of kept
#   grad_clip: 0.5                # largest norm of the gradients; the log has the norm before
"""
_DATA_DIV2K = """\
    name: DIV2K
    type: PairedImageDataset
    dataroot_gt: datasets/DIV2K/train/HR_sub.lmdb
    dataroot_lq: datasets/DIV2K/train/LR_bicubic/X${scale}_sub.lmdb
    io_backend:
      type: lmdb"""
_DATA_DFLIP = """\
    name: DFLIP
    type: DownsampleImageDataset
    downsampling: pil_bicubic  # of the 8-bit crop
    dataroot_gt:
      - datasets/DIV2K/DIV2K_train_HR
      - datasets/Flickr2K/Flickr2K_HR
      - datasets/LSDIR/HR
      - datasets/DiverSeg_IP/HR
    io_backend:
      type: disk"""
_ENLARGE = "    dataset_enlarge_ratio: 100  # worker processes restart only every 100 passes\n"
_PADDED = "  # SwinIR takes whole windows only: pads the images of val to them"
_PATH_INITIAL = """\
path:
  pretrain_network_g: ~
  strict_load_g: true
  resume_state: ~"""
_PATH_X2 = """\
path:
  pretrain_network_g: experiments/train_${stem}_x2/models/net_g_latest.pth
  param_key_g: params_ema
  strict_load_g: $strict
  resume_state: ~"""
_FROM_X2 = "# Starts from the averaged x2 weights; loading resizes the upsampler to x$scale."
_FROM_X2_PEER = """\
# Starts from the averaged x2 weights, as $reason; the upsampler, of another
# size, keeps its initial values."""
_PADDING_ESC = """ ESRModel pads each LR image to whole windows first, as the published PSNR
# does; `model_type: SRModel` feeds it as it is."""
_PADDING_SWINIR = " SwinIR takes whole windows only; ESRModel pads each LR image to them."
_NO_TRAINING = """\
# There is no training file for this network here: put its weights where `pretrain_network_g`
# says."""

RECIPES: Mapping[str, Recipe] = {
    "esc": Recipe("ESC", "ESC", "esc"),
    "esc_light": Recipe("ESC-light", "ESC_light", "esc_light"),
    "esc_fp": Recipe("ESC-FP", "ESC_FP", "esc_fp"),
    "esc_dflip": Recipe("ESC", "ESC_DFLIP", "esc"),
    "esc_xl": Recipe("ESC-XL", "ESC_XL", "esc_xl", committed=(2,)),
    "swinir_light": Recipe(
        "SwinIR-light",
        "SwinIR_light",
        "swinir_light",
        "2108.10257",
        from_x2="ESC x$scale does",
        is_padded=True,
    ),
    "hit_srf": Recipe(
        "HiT-SRF", "HiT_SRF", "hit_srf", "2407.05878", from_x2="its public option file does"
    ),
    "elan_light": _peer("ELAN-light", "elan_light", "2203.06697"),
    "omnisr": _peer("OmniSR", "omnisr", "2304.10244", package=True),
    "srformer_light": _peer("SRFormer-light", "srformer_light", "2303.09735", package=True),
    "atd_light": _peer("ATD-light", "atd_light", "2401.08209", package=True),
    "mambairv2_light": _peer("MambaIRv2-light", "mambairv2_light", "2411.15269"),
    "rcan": _peer("RCAN", "rcan", "1807.02758"),
}
# The files of ESC-Real, which have templates of their own: two stages of training, and a test.
_REAL = Recipe("ESC-Real", "", "esc_real", committed=(4,))
_REAL_STAGES = {"esc_real_mse": "train_ESC_Real_x4_mse", "esc_real_gan": "train_ESC_Real_x4_gan"}
_REAL_TEST = {"esc_real": "test_ESC_Real_x4"}


def names(test: bool = False) -> list[str]:
    """The recipes of testing, or of training."""
    own = [name for name in RECIPES if test or name != "esc_xl"]
    return [*own, *(_REAL_TEST if test else _REAL_STAGES)]


def recipe(name: str, scale: int, test: bool = False) -> tuple[str, str]:
    """An option file by its recipe.

    Args:
        name: one of :func:`names`.
        scale: upscaling factor.
        test: the file to test with, instead of the one to train with.

    Returns:
        The file's stem (``train_ESC_x2``) and text.

    Raises:
        UserError: when there is no such recipe, or none for the scale.
    """
    known = names(test)
    if name not in known:
        task = "testing" if test else "training"
        raise UserError(
            f"options new: expected a recipe of {task}: {', '.join(known)}; found {name!r}. "
            f"{suggestion(name, known)}"
        )
    chosen = RECIPES.get(name, _REAL)
    scales = PRESETS[chosen.preset].scales
    if scale not in scales:
        raise UserError(
            f"--scale: expected {' or '.join(map(str, scales))}, for which {name} is published; "
            f"found {scale}. Name one of these."
        )
    values = {"scale": scale, "network": _network(chosen, scale)}
    if chosen is _REAL:
        stem = (_REAL_STAGES | _REAL_TEST)[name]
        return stem, _fill(stem, values)
    stem = f"{'test' if test else 'train'}_{chosen.stem}_x{scale}"
    values |= {"name": stem}
    if test:
        return stem, _fill("test", values | _test_values(chosen, scale))
    return stem, _fill("train", values | _train_values(chosen, scale))


def write_all(folder: Path) -> list[Path]:
    """Write the files that the repository holds into a folder; returns their paths."""
    written = []
    for test in (False, True):
        for name in names(test):
            for scale in RECIPES.get(name, _REAL).committed:
                stem, text = recipe(name, scale, test)
                written.append(folder / f"{stem}.yml")
                with whole_file(written[-1]) as part:
                    part.write_text(text, encoding="utf-8", newline="\n")
    return written


def _fill(template: str, values: Mapping[str, object]) -> str:
    text = (_TEMPLATES / f"{template}.yml").read_text(encoding="utf-8")
    # Values name other values; `$schema` in the first line is no name of one.
    for _ in range(3):
        text = Template(text).safe_substitute(values)
    return text


@functools.cache
def _network(chosen: Recipe, scale: int) -> str:
    preset = PRESETS[chosen.preset]
    arguments = {
        "type": preset.network.__name__,
        preset.scale_argument: scale,
        **preset.arguments,
    }
    lines = [f"  {name}: {_yaml(value)}" for name, value in arguments.items()]
    try:
        count = sum(p.numel() for p in outline(chosen.preset, scale).parameters())
        title = f"# {chosen.title}: {count:,} parameters"
    except UserError:
        # Of another package, which is not installed.
        title = f"# {chosen.title}"
    return "\n".join([title, "network_g:", *lines])


def _yaml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _train_values(chosen: Recipe, scale: int) -> dict[str, object]:
    is_dflip = chosen.stem == "ESC_DFLIP"
    if chosen.paper:
        head = _HEAD_PEER + ("" if 2 in chosen.committed else f"\n{_FROM_INITIAL}")
        head += f"\n#\n{_PACKAGE}" if chosen.package else ""
    else:
        head = _HEAD_ESC
    path = _PATH_INITIAL
    if scale > 2 and (chosen.from_x2 or not chosen.paper):
        path = f"{_FROM_X2_PEER if chosen.paper else _FROM_X2}\n{_PATH_X2}"
    strict = "false  # the upsampler does not fit" if chosen.paper else "true"
    return {
        "head": head,
        "data": "DFLIP" if is_dflip else "DIV2K",
        "about_data": _ABOUT_DFLIP if is_dflip else _ABOUT_DIV2K,
        "train_data": _DATA_DFLIP if is_dflip else _DATA_DIV2K,
        "enlarge": "" if is_dflip else _ENLARGE,
        "less_memory": "" if chosen.paper else _LESS_MEMORY,
        "model_type": f"ESRModel{_PADDED}" if chosen.is_padded else "SRModel",
        "gt_size": 64 * scale,
        "path": path,
        "strict": strict,
        "title": chosen.title,
        "paper": chosen.paper,
        "reason": chosen.from_x2,
        "stem": chosen.stem,
    }


def _test_values(chosen: Recipe, scale: int) -> dict[str, object]:
    remark = "" if chosen.paper else _PADDING_ESC
    if chosen.is_padded:
        remark = _PADDING_SWINIR
    weights = f"experiments/train_{chosen.stem}_x{scale}/models/net_g_latest.pth"
    if chosen.preset == "esc_xl":
        remark += f"\n{_NO_TRAINING}"
        weights = f"experiments/pretrained_models/ESC_XL_x{scale}.pth"
    if chosen.package:
        remark += f"\n#\n{_PACKAGE}"
    trained = ", trained on DFLIP," if chosen.stem == "ESC_DFLIP" else ""
    return {
        "tested": f"{chosen.title} x{scale}{trained}",
        "remark": remark,
        "model_type": "ESRModel" if chosen.is_padded or not chosen.paper else "SRModel",
        "weights": weights,
    }
