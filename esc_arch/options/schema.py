"""The JSON schema of option files, for editors, and the reference page of their keys."""

import json
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from esc_arch.archs.presets import PRESETS
from esc_arch.options import datasets, real_esrgan, sections
from esc_arch.options.constructors import parameters_of
from esc_arch.options.real_esrgan import FILES, RealESRGAN, RealESRGANOptions, RealESRNetOptions
from esc_arch.options.types import NEEDED, Section, example_of, json_schema, mark_of, type_of, words

_Json = dict[str, Any]

# The sections of the reference page, in its order, and where they stand in a file.
SECTIONS: Mapping[str, type[Section]] = {
    "Top level": sections.Options,
    "Top level, RealESRNetModel": RealESRNetOptions,
    "Top level, RealESRGANModel": RealESRGANOptions,
    "datasets: any type": datasets.Dataset,
    "datasets: PairedImageDataset": datasets.Paired,
    "datasets: SingleImageDataset": datasets.Single,
    "datasets: DownsampleImageDataset": datasets.Downsample,
    "datasets: PhotoImageDataset": datasets.Photo,
    "datasets: RandomScaleImageDataset": datasets.RandomScale,
    "datasets: RealESRGANDataset": RealESRGAN,
    "io_backend": sections.IoBackend,
    "network_g": sections.Network,
    "path": sections.Path,
    "path, ESCLTEModel": sections.LTEPath,
    "train": sections.Train,
    "train, ESCModel": sections.ESCTrain,
    "train, RealESRGANModel": real_esrgan.GANTrain,
    "train.optim_g, optim_d": sections.Optimizer,
    "train.scheduler": sections.Scheduler,
    "train.pixel_opt": sections.Loss,
    "train.perceptual_opt": sections.PerceptualLossSection,
    "train.gan_opt": sections.GANLossSection,
    "val": sections.Val,
    "val, ESCModel": sections.ESCVal,
    "val, ESCLTEModel": sections.LTEVal,
    "val.metrics": sections.Metric,
    "logger": sections.Logger,
    "logger.wandb": sections.Wandb,
}
# Keys whose value is a section of another model, by the key or its ending.
_INNER = {
    "optim_g": "Optimizer",
    "optim_d": "Optimizer",
    "scheduler": "Scheduler",
    "pixel_opt": "Loss",
    "ldl_opt": "Loss",
    "perceptual_opt": "PerceptualLossSection",
    "gan_opt": "GANLossSection",
    "network_g": "Network",
    "network_d": "Network",
    "io_backend": "IoBackend",
}


def schema() -> _Json:
    """The JSON schema (draft 2020-12) of an option file, to train or to test with."""
    models: dict[type[Section], None] = dict.fromkeys(
        [*SECTIONS.values(), *FILES.values(), sections.OpenOptions, datasets.OpenDataset]
    )
    _, document = models_json_schema([(model, "validation") for model in models])
    definitions: _Json = document["$defs"]
    for definition in definitions.values():
        for name, value in definition.get("properties", {}).items():
            _refine(name, value)
    definitions["Network"]["allOf"] = _networks()
    by_type = {name: model.__name__ for name, model in datasets.MODELS.items()}
    definitions["AnyDataset"] = _switch(
        "type", by_type | {datasets.REAL: RealESRGAN.__name__}, datasets.OpenDataset.__name__
    )
    by_model = {name: model.__name__ for name, model in FILES.items()}
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "Option file of BasicSR with esc_arch",
        "type": "object",
        "required": [*definitions["Options"]["required"], "datasets", "path"],
        **_switch("model_type", by_model, sections.OpenOptions.__name__),
        "$defs": definitions,
    }


def schema_text() -> str:
    """The schema as the text of ``options/schema.json``."""
    return json.dumps(schema(), indent=1) + "\n"


def _refine(name: str, value: _Json) -> None:
    """Make a key's schema refer to the models of sections, with example values."""
    value.pop("title", None)
    value.pop(NEEDED, None)
    if "examples" in value:
        value["examples"] = [yaml.safe_load(text) for text in value["examples"]]
    if value.get("default", ...) is None and not any(
        inner.get("type") == "null" for inner in value.get("anyOf", [])
    ):
        del value["default"]
    inner: _Json | None = None
    if name in _INNER:
        inner = {"$ref": f"#/$defs/{_INNER[name]}"}
    elif name == "datasets":
        inner = {"type": "object", "additionalProperties": {"$ref": "#/$defs/AnyDataset"}}
    elif name == "metrics":
        inner = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Metric"}}
    elif name == "path":
        inner = {"$ref": "#/$defs/Path"}
    if inner is not None:
        is_optional = "anyOf" in value
        for old in ("type", "additionalProperties", "anyOf"):
            value.pop(old, None)
        value |= {"anyOf": [inner, {"type": "null"}]} if is_optional else inner
    if name == "val" and "$ref" in value:
        # Nothing under `val:` means no validation.
        value["anyOf"] = [{"$ref": value.pop("$ref")}, {"type": "null"}]


def _switch(key: str, definitions: Mapping[str, str], otherwise: str) -> _Json:
    """A section whose definition depends on the value of one of its keys."""
    cases: list[_Json] = [
        {"if": _has(key, {"const": name}), "then": {"$ref": f"#/$defs/{definition}"}}
        for name, definition in definitions.items()
    ]
    others: _Json = {"if": _has(key, {"enum": list(definitions)}), "then": True}
    others["else"] = {"$ref": f"#/$defs/{otherwise}"}
    known = {"anyOf": [{"enum": list(definitions)}, {"type": "string"}]}
    return {"properties": {key: known}, "allOf": [*cases, others]}


def _has(key: str, value: _Json) -> _Json:
    return {"properties": {key: value}, "required": [key]}


def _networks() -> list[_Json]:
    """The arguments of the networks of this package's presets, by the network's type."""
    kinds = {preset.network.__name__: preset.network for preset in PRESETS.values()}
    return [
        {"if": _has("type", {"const": name}), "then": {"properties": _arguments(network)}}
        for name, network in kinds.items()
    ]


def _arguments(network: Any) -> _Json:
    found, _ = parameters_of(network)
    properties: _Json = {}
    for name, (annotation, default) in found.items():
        properties[name] = {"description": words(annotation), **json_schema(annotation)}
        if isinstance(default, (bool, int, float, str)):
            properties[name]["default"] = default
    return properties


def reference() -> str:
    """The page ``docs/options.md``: a table of keys for each section."""
    lines = [
        "# Option files",
        "",
        "Every key that `basicsr train` and `basicsr test` read, as `basicsr options reference`",
        "prints it. Networks, losses, optimisers, schedulers and metrics have the arguments of",
        "their constructors beside the keys below. `*` marks a key that its section has to have,",
        "`†` one that it has to have to train, `‡` to test; a mark in brackets holds where the",
        "meaning says so.",
        "",
    ]
    shown: set[tuple[str, str]] = set()
    for title, model in SECTIONS.items():
        rows = []
        for name, field in model.model_fields.items():
            row = _row(name, field)
            # A model's own keys alone, without those of a table before.
            if (title.partition(":")[0].partition(",")[0], row) not in shown:
                shown.add((title.partition(":")[0].partition(",")[0], row))
                rows.append(row)
        about = (model.__doc__ or "").strip().partition("\n")[0]
        head = ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [f"## {title}", "", about, "", *head, *rows, ""]
    return "\n".join(lines)


def _row(name: str, field: Any) -> str:
    default = "" if field.is_required() or field.default is None else f"`{_plain(field.default)}`"
    example = example_of(field).partition("  #")[0]
    meaning = field.description + (f", as in `{name}: {example}`" if example != "{}" else "")
    kind = words(type_of(field)).replace("|", "\\|")
    return f"| `{name}`{mark_of(field)} | {kind} | {default} | {meaning} |"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
