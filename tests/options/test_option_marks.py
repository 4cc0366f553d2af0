"""Marks and defaults of the reference page against the checker and against the code that reads."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from basicsr.losses.basic_loss import L1Loss, PerceptualLoss
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR
from option_cases import COSINE, DELETE, mutated

from esc_arch import options
from esc_arch.errors import UserError
from esc_arch.options import sections
from esc_arch.options.datasets import Dataset
from esc_arch.options.option_file import dataset_model, options_model
from esc_arch.options.recipes import recipe
from esc_arch.options.schema import SECTIONS
from esc_arch.options.types import Section, mark_of
from tests import tiny

RECIPES = [
    ("esc", 2, False, "SRModel"),
    ("esc", 2, False, "ESCModel"),
    ("esc", 2, True, "ESRModel"),
    ("esc_dflip", 2, False, "SRModel"),
    ("esc_real_mse", 4, False, "RealESRNetModel"),
    ("esc_real_gan", 4, False, "RealESRGANModel"),
    ("esc_real", 4, True, None),
    ("esc_lte", None, False, None),
]


def small_recipe(name: str, scale: int | None, test: bool, model: str | None) -> dict:
    """A recipe with small networks, which the checker builds."""
    opt = yaml.safe_load(recipe(name, scale, test)[1])
    kind = opt["network_g"]["type"]
    opt["network_g"] = tiny.network(type=kind, upscaling_factor=scale or 4)
    if "network_d" in opt:
        opt["network_d"]["num_feat"] = 4
    return opt | ({"model_type": model} if model else {})


def sections_of(opt: dict, test: bool) -> dict[str, tuple[type[Section], dict]]:
    """Model and content of the sections of a file, by their dotted path."""
    top = options_model(opt["model_type"])
    found = {"": (top, opt), "path": (sections.Path, opt["path"])}
    for phase, data in opt["datasets"].items():
        found[f"datasets.{phase}"] = (dataset_model(data, phase == "train"), data)
    for name in {"val", *(() if test else ("train",))} & opt.keys():
        found[name] = (top.model_fields[name].annotation, opt[name])
    for name, metric in opt.get("val", {}).get("metrics", {}).items():
        found[f"val.metrics.{name}"] = (sections.Metric, metric)
    if not test:
        train = opt["train"]
        found["logger"] = (sections.Logger, opt["logger"])
        found["train.optim_g"] = (sections.Optimizer, train["optim_g"])
        found["train.scheduler"] = (sections.Scheduler, train["scheduler"])
        if "pixel_opt" in train:
            found["train.pixel_opt"] = (sections.Loss, train["pixel_opt"])
        if "gan_opt" in train:
            found["train.gan_opt"] = (sections.GANLossSection, train["gan_opt"])
    return found


def is_missed(opt: dict, place: str, test: bool) -> bool:
    """Whether the checker complains when the key at a place is deleted."""
    try:
        options.check_structure(mutated(opt, place, DELETE), "a.yml", is_train=not test)
    except UserError as error:
        assert place.rpartition(".")[2] in str(error), error
        return True
    return False


@pytest.mark.parametrize("case", RECIPES, ids=lambda case: f"{case[0]}-{case[3]}")
def test_marked_keys_are_those_that_the_checker_misses(case):
    opt, test = small_recipe(*case), case[2]
    options.check_structure(opt, "a.yml", is_train=not test)
    for place, (model, content) in sections_of(opt, test).items():
        trains = not test and (place == "datasets.train" or not place.startswith("datasets."))
        for name in content:
            if name not in model.model_fields:
                continue
            mark = mark_of(model.model_fields[name])
            always, _, conditional = mark.partition("(")
            symbols = "*†" if trains else "*‡"
            missed = is_missed(opt, f"{place}.{name}".lstrip("."), test)
            if any(symbol in always for symbol in symbols):
                assert missed, f"{place}.{name} is marked {mark}"
            elif missed:
                assert any(symbol in conditional for symbol in symbols), f"{place}.{name}: {mark}"


TRAIN, TEST = small_recipe("esc", 2, False, None), small_recipe("esc", 2, True, None)
NET = small_recipe("esc_real_mse", 4, False, None)
GAN = mutated(small_recipe("esc_real_gan", 4, False, None), "train.ldl_opt", {"type": "L1Loss"})
COSINE_TRAIN = mutated(TRAIN, "train.scheduler", COSINE | {"periods": [500000]})
CUDA = mutated(
    mutated(TRAIN, "datasets.train.prefetch_mode", "cuda"), "datasets.train.pin_memory", True
)
SKIP = mutated(
    mutated(TRAIN, "datasets.train.on_error", "skip"), "datasets.train.max_bad_samples", 9
)
GREY = mutated(mutated(TRAIN, "datasets.val.mean", [0.5] * 3), "datasets.val.std", [0.5] * 3)
SAVES = mutated(mutated(TEST, "val.save_img", True), "val.suffix", None)
# For each key with a mark in brackets: a file where its condition holds.
CONDITIONS = {
    "scale": TRAIN,
    "val": TRAIN,
    "train.pixel_opt": TRAIN,
    "datasets.train.pin_memory": CUDA,
    "datasets.train.on_error": SKIP,
    "datasets.val.mean": GREY,
    "datasets.val.std": GREY,
    "val.suffix": SAVES,
    "val.metrics.psnr.crop_border": TRAIN,
    "train.scheduler.milestones": TRAIN,
    "train.scheduler.periods": COSINE_TRAIN,
    "train.ema_decay": GAN,
    "gt_usm": NET,
    **dict.fromkeys((n for n in NET if "2" in n or n.endswith(("prob", "range"))), NET),
    "gt_size": NET,
}


@pytest.mark.parametrize("place", CONDITIONS)
def test_marks_in_brackets_hold_under_their_condition(place):
    opt, test = CONDITIONS[place], CONDITIONS[place] is SAVES
    options.check_structure(opt, "a.yml", is_train=not test)
    assert is_missed(opt, place, test)


def test_every_mark_in_brackets_has_its_condition_here():
    marked = {
        name
        for model in SECTIONS.values()
        for name, field in model.model_fields.items()
        if "(" in mark_of(field)
    }
    # One of two losses: deleting both is what the checker misses.
    assert marked - {"perceptual_opt"} == {place.rpartition(".")[2] for place in CONDITIONS}


def modules() -> list[ModuleType]:
    names = [f"models.{name}_model" for name in ("sr", "base", "realesrgan", "realesrnet")]
    names += ["train", "data", "data.prefetch_dataloader", "utils.options", "utils.logger"]
    ours = ["models.esc_model", "models.esr_model", "training.loop", "training.bad_samples"]
    ours += ["training.validation", "data.downsample_image_dataset", "plugin.workarounds"]
    found = [import_module(f"basicsr.{name}") for name in names]
    return found + [import_module(f"esc_arch.{name}") for name in ours]


def defaults_read() -> dict[str, set[object]]:
    """Defaults of ``section.get("key", default)`` in the code that reads option files, by key."""
    found: dict[str, set[object]] = {}
    for module in modules():
        for node in ast.walk(ast.parse(Path(inspect.getsourcefile(module)).read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "get"
                and len(node.args) in (1, 2)
                and all(isinstance(argument, ast.Constant | ast.UnaryOp) for argument in node.args)
            ):
                key, *default = (ast.literal_eval(argument) for argument in node.args)
                found.setdefault(key, set()).update(default or [None])
    return found


def test_defaults_are_those_of_the_code_that_reads_them():
    read = defaults_read()
    models = [*SECTIONS.values(), sections.ESCOptions, Dataset]
    compared = set()
    for model in models:
        for name, field in model.model_fields.items():
            # Sections, and keys whose absence is a case of its own in this or that model.
            if field.is_required() or name not in read or name in ("scale", "type"):
                continue
            own = field.default
            # Beside a default, some code asks whether the key is there at all.
            stated = read[name] - {None} or {None}
            assert {own} == stated or (stated == {None} and not own), (model, name, own, stated)
            compared.add(name)
    own_keys = {*sections.ESCTrain.model_fields} - {*sections.Train.model_fields}
    own_keys |= {*sections.ESCVal.model_fields} - {*sections.Val.model_fields}
    assert own_keys <= compared
    assert {"ema_decay", "param_key_g", "queue_size", "warmup_iter", "pbar", "better"} <= compared


@pytest.mark.parametrize(
    ("model", "constructor"),
    [
        (sections.Loss, L1Loss),
        (sections.PerceptualLossSection, PerceptualLoss),
        (sections.Scheduler, MultiStepRestartLR),
        (sections.Scheduler, CosineAnnealingRestartLR),
    ],
)
def test_defaults_are_those_of_the_constructors(model, constructor):
    parameters = inspect.signature(constructor).parameters
    for name, field in model.model_fields.items():
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        if default is not inspect.Parameter.empty and not field.is_required():
            own = tuple(field.default) if isinstance(field.default, list) else field.default
            assert own == default, name
