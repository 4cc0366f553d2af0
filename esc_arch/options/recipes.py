"""Recipes: the option files that this package trains and tests its networks with.

The files in ``templates`` hold the text; this file holds the differences between networks.
``options/*.yml`` of the repository are written by :func:`write_all`.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import yaml

from esc_arch.errors import UserError, listed
from esc_arch.files import read_regular, whole_file
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
        from_x2: for a network to compare with: the precedent of starting from x2 weights.
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
# Networks of one training, with templates of their own: a small one for a machine without a GPU,
# and one for any scale.
_SINGLE = {"esc_cpu": "ESC_cpu_x2", "esc_lte": "ESC_LTE"}
# Sets and scales on which the one for any scale is published.
_SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")
_LR_FOLDERS = (2, 3, 4)


def names(test: bool = False) -> list[str]:
    """The recipes of testing, or of training."""
    own = [name for name in RECIPES if test or name != "esc_xl"]
    return [*own, *_SINGLE, *(_REAL_TEST if test else _REAL_STAGES)]


def recipe(name: str, scale: int | None = None, test: bool = False) -> tuple[str, str]:
    """An option file by its recipe.

    Args:
        name: one of :func:`names`.
        scale: upscaling factor; None for 2, or else the least for which it is published.
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
            f"options new: expected the name of a recipe of {task}; found {name!r}. "
            f"{suggestion(name, known)}"
        )
    if name in _SINGLE:
        is_any = name == "esc_lte"
        if scale not in ((None,) if is_any else (None, 2)):
            expected = "none, as it is for all" if is_any else "2, for which it is"
            raise UserError(f"--scale: {name}: expected {expected}; found {scale}. Leave it out.")
        stem = f"{'test' if test else 'train'}_{_SINGLE[name]}"
        return stem, _fill(stem, _lte_values() if is_any else {})
    # Here, as importing PyTorch takes seconds.
    from esc_arch.archs.presets import PRESETS

    chosen = RECIPES.get(name, _REAL)
    scales = PRESETS[chosen.preset].scales
    if scale is None:
        scale = 2 if 2 in scales else min(scales)
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


def write_all(folder: Path, overwrite: bool = False) -> list[Path]:
    """Write the files that the repository holds into a folder; returns their paths.

    Args:
        overwrite: replace files of these names that hold something else.

    Raises:
        UserError: when there are such, before anything is written.
    """
    contents = {
        folder / f"{stem}.yml": text.encode()
        for test in (False, True)
        for name in names(test)
        for scale in (RECIPES.get(name, _REAL).committed if name not in _SINGLE else (None,))
        for stem, text in (recipe(name, scale, test),)
    }
    others = [
        file.name
        for file, content in contents.items()
        if os.path.lexists(file) and not (file.is_file() and read_regular(file) == content)
    ]
    if others and not overwrite:
        raise UserError(
            f"{folder}: expected no other files of the names of the recipes; found "
            f"{listed(others, 5)} with another content. Name another folder, or replace them by "
            "--overwrite."
        )
    for file, content in contents.items():
        with whole_file(file) as part:
            part.write_bytes(content)
    return list(contents)


def _fill(template: str, values: Mapping[str, object]) -> str:
    text, parts = (
        (_TEMPLATES / f"{name}.yml").read_text(encoding="utf-8") for name in (template, "parts")
    )
    known = {**yaml.safe_load(parts), **values}
    # Values name other values; `$schema` in the first line is the name of none.
    for _ in range(4):
        text = Template(text).safe_substitute(known)
    return text


@functools.cache
def _network(chosen: Recipe, scale: int | None) -> str:
    from esc_arch.archs.presets import PRESETS, build_meta

    preset = PRESETS[chosen.preset]
    own = {} if scale is None else {preset.scale_argument: scale}
    arguments = {"type": preset.network.__name__, **own, **preset.arguments}
    lines = [f"  {name}: {_yaml(value)}" for name, value in arguments.items()]
    try:
        count = sum(
            p.numel() for p in build_meta(chosen.preset, scale or preset.scales[0]).parameters()
        )
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
    data = "DFLIP" if chosen.stem == "ESC_DFLIP" else "DIV2K"
    head, path, strict = "$head_esc", "$path_initial", "true"
    if chosen.paper:
        head = "$head_peer" + ("" if 2 in chosen.committed else "\n$from_initial")
        head += "\n#\n$package" if chosen.package else ""
        strict = "false  # the upsampler does not fit"
    if scale > 2 and (chosen.from_x2 or not chosen.paper):
        path = f"{'$from_x2_peer' if chosen.paper else '$from_x2'}\n$path_x2"
    return {
        "head": head,
        "data": data,
        "about_data": f"$about_{data.lower()}",
        "train_data": f"$data_{data.lower()}",
        "enlarge": "$more_passes" if data == "DIV2K" else "",
        "less_memory": "" if chosen.paper else "$esc_model",
        "model_type": "ESRModel$padded" if chosen.is_padded else "SRModel",
        "gt_size": 64 * scale,
        "path": path,
        "strict": strict,
        "title": chosen.title,
        "paper": chosen.paper,
        "reason": chosen.from_x2,
        "stem": chosen.stem,
    }


def _lte_values() -> dict[str, object]:
    tests = [(name, scale) for scale in (*_LR_FOLDERS, 6, 8) for name in _SETS]
    return {
        "network": _network(Recipe("ESC+LTE", "ESC_LTE", "esc_lte"), None),
        "validation_lte": _scale_sections("val", [("Set5", scale) for scale in (2, 3.3, 4, 6)]),
        "tests_lte": _scale_sections("test", tests),
    }


def _scale_sections(phase: str, sets: Sequence[tuple[str, float]]) -> str:
    """A section of datasets for each set and scale."""
    sections = []
    # BasicSR takes them in the order of their names.
    digits = len(str(len(sets)))
    for number, (name, scale) in enumerate(sets, 1):
        lines = [f"name: {name}_x{scale:g}"]
        if scale in _LR_FOLDERS:
            lines += [
                "type: PairedImageDataset",
                f"dataroot_gt: datasets/{name}/HR",
                f"dataroot_lq: datasets/{name}/LR_bicubic/X{scale}",
                f"filename_tmpl: '{{}}x{scale}'",
            ]
        else:
            lines += ["type: RandomScaleImageDataset", f"dataroot_gt: datasets/{name}/HR"]
        lines += [f"scale: {scale:g}", "io_backend:", "  type: disk"]
        sections.append(
            "\n".join([f"  {phase}_{number:0{digits}}:", *(f"    {line}" for line in lines)])
        )
    return "\n".join(sections)


def _test_values(chosen: Recipe, scale: int) -> dict[str, object]:
    remark = "$padding_swinir" if chosen.is_padded else "" if chosen.paper else "$padding_esc"
    weights = f"experiments/train_{chosen.stem}_x{scale}/models/net_g_latest.pth"
    if chosen.preset == "esc_xl":
        remark += "\n$no_training"
        weights = f"experiments/pretrained_models/ESC_XL_x{scale}.pth"
    if chosen.package:
        remark += "\n#\n$package"
    trained = ", trained on DFLIP," if chosen.stem == "ESC_DFLIP" else ""
    return {
        "tested": f"{chosen.title} x{scale}{trained}",
        "remark": remark,
        "model_type": "ESRModel" if chosen.is_padded or not chosen.paper else "SRModel",
        "weights": weights,
    }
