"""The JSON schema of option files, as editors read it, and the reference page."""

import json
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from basicsr.archs.vgg_arch import NAMES as VGG_LAYERS
from option_cases import DELETE, TEST, TRAIN, mutated

from esc_arch import options
from esc_arch.cli.main import main
from esc_arch.data.downsample_image_dataset import DOWNSAMPLING
from esc_arch.models.esc_model import PRECISIONS
from esc_arch.options.components import SCHEDULERS
from esc_arch.options.datasets import Downsample
from esc_arch.options.schema import SECTIONS, reference, schema, schema_text
from esc_arch.options.sections import ESCTrain, PerceptualLossSection, Scheduler

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "options").rglob("*.yml"))


def errors(opt: dict) -> list[str]:
    """The places of mistakes, those in one of several alternatives too."""
    todo = list(jsonschema.Draft202012Validator(schema()).iter_errors(opt))
    found = []
    while todo:
        error = todo.pop()
        found.append("/".join(map(str, error.absolute_path)))
        todo += error.context
    return found


def test_the_committed_schema_is_current(capsys):
    assert (ROOT / "options/schema.json").read_text(encoding="utf-8") == schema_text()
    assert main(["options", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_the_committed_reference_is_current(capsys):
    assert (ROOT / "docs/options.md").read_text(encoding="utf-8") == reference()
    assert main(["options", "reference"]) == 0
    assert capsys.readouterr().out == reference()


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_right_files_are_valid(file):
    assert errors(options.read(str(file))) == []


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("scale", "2", "scale"),
        ("nmae", "x", ""),
        ("model_type", DELETE, ""),
        ("datasets.train.gt_sise", 48, "datasets/train"),
        ("datasets.train.use_rot", "yes", "datasets/train/use_rot"),
        ("datasets.train.prefetch_mode", "gpu", "datasets/train/prefetch_mode"),
        ("train.total_iter", 0.5, "train/total_iter"),
        ("train.amp", "bf16", "train"),
        ("train.scheduler.type", "StepLR", "train/scheduler/type"),
        ("train.optim_g.lr", "5e-4", "train/optim_g/lr"),
        ("val.save_img", DELETE, "val"),
        ("logger.wandb", {"projet": None}, "logger/wandb"),
        ("network_g.dim", "64", "network_g/dim"),
    ],
)
def test_mistakes_are_marked(key, value, place):
    assert place in errors(mutated(TRAIN, key, value))


def test_keys_depend_on_the_model():
    assert errors(TRAIN) == errors(TEST) == []
    assert errors(mutated(mutated(TRAIN, "model_type", "ESCModel"), "train.amp", "bf16")) == []
    assert errors(mutated(TRAIN, "model_type", "SRGANModel") | {"other": 1}) == []


def test_every_key_is_explained():
    for model in SECTIONS.values():
        for name, field in model.model_fields.items():
            assert field.description, (model, name)
            assert f"| `{name}`" in reference()


def choices(model: type, name: str) -> set:
    annotation = model.model_fields[name].annotation
    inner = [a for part in get_args(annotation) for a in (get_args(part) or (part,))]
    return {value for value in inner if isinstance(value, str)}


def test_names_are_those_of_the_code_that_reads_them():
    assert choices(ESCTrain, "amp") == set(PRECISIONS)
    assert choices(Downsample, "downsampling") == set(DOWNSAMPLING)
    assert choices(Scheduler, "type") == set(SCHEDULERS)
    assert choices(PerceptualLossSection, "vgg_type") == set(VGG_LAYERS)
