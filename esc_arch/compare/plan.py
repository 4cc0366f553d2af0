"""The plan of ``basicsr compare train``: option files, their schedules, and plan.json.

A schedule is stretched or shortened in proportion: milestones, periods, warm-up, averaging,
validation, saving and logging keep their share of the run.  So a network that gets fewer
iterations in the same minutes has the same schedule.
"""

import copy
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from esc_arch import options
from esc_arch.archs.basicsr_networks import SwinIR
from esc_arch.archs.presets import PRESETS
from esc_arch.compare import results
from esc_arch.compare.candidates import ESC_FAMILY
from esc_arch.compare.results import write_file
from esc_arch.errors import UserError
from esc_arch.files import read_regular
from esc_arch.options.problems import describe, suggestion
from esc_arch.options.types import Count, accepts, words

__all__ = [
    "Plan",
    "Request",
    "Speed",
    "affordable",
    "read_plan",
    "scaled",
    "with_network",
    "write_option",
]

# Of a budget of minutes, the most that validation and saving may take.
CHECKS_SHARE = 0.2


@dataclass(frozen=True)
class Request:
    """A comparison as the command line describes it.

    Attributes:
        networks: presets.
        template: path of the option file.
        name: of the comparison.
        steps: iterations of each network; None where there is a budget.
        budget_minutes: training time of each network; None where there are steps.
        force_yml: replaces values of the template, before its schedule is scaled.
    """

    networks: tuple[str, ...]
    template: str
    name: str
    steps: int | None
    budget_minutes: float | None
    force_yml: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: when an argument is wrong.
        """
        for network in self.networks:
            if network not in PRESETS:
                raise UserError(
                    f"--networks: expected presets; found {network}. {suggestion(network, PRESETS)}"
                )
        twice = next((n for n in self.networks if self.networks.count(n) > 1), None)
        if twice:
            raise UserError(f"--networks: expected each preset once; found {twice} twice.")
        # BasicSR validates every 8 iterations when it finds this word in a run's name.
        if not re.fullmatch(r"\w[\w.-]*", self.name) or "debug" in self.name:
            raise UserError(
                "--name: expected letters, digits, dots, dashes and underscores, without the "
                f"word debug; found {self.name!r}."
            )
        if self.steps is not None and self.steps < 1:
            raise UserError(f"--steps: expected a whole number of at least 1; found {self.steps}.")
        budget = self.budget_minutes
        if budget is not None and not 0 < budget < math.inf:
            raise UserError(f"--budget-minutes: expected a number above 0; found {budget}.")

    @property
    def folder(self) -> Path:
        """Of the comparison."""
        return results.folder_of(self.name)

    @property
    def plan_file(self) -> Path:
        """Where the plan is written."""
        return self.folder / "plan.json"

    def run_name(self, network: str) -> str:
        """The experiment of a network."""
        return f"compare_{self.name}_{network}"

    def option_file(self, network: str) -> Path:
        """Where the option file of a network is written."""
        return self.folder / "options" / f"{network}.yml"

    def read_template(self) -> dict[str, Any]:
        """The template with the forced values.

        Raises:
            UserError: when it is no option file, or without a number of iterations to scale or a
                scale of the networks.
        """
        template = options.read(self.template)
        options.force(template, self.force_yml, self.template)
        train = template.get("train")
        total = train.get("total_iter") if isinstance(train, dict) else None
        if not accepts(Count, total):
            raise UserError(
                f"{self.template}: train.total_iter: expected {words(Count)}, from which the "
                f"schedule is scaled; found {describe(total)}. Name an option file of training."
            )
        if template.get("scale") is None:
            raise UserError(
                f"{self.template}: scale: expected the one scale that all networks are trained "
                "for; found none, as in option files for any scale. Name an option file of one "
                "scale."
            )
        return template


@dataclass(frozen=True)
class Speed:
    """How fast a network trains here.

    Attributes:
        iteration_s: seconds of an iteration.
        check_s: seconds of a validation with the saving before it.
    """

    iteration_s: float
    check_s: float


def affordable(template: Mapping[str, Any], budget_minutes: float, speed: Speed) -> tuple[int, int]:
    """The iterations and validations that fit in a budget.

    Returns:
        The number of iterations, at least 1, and of validations, as many as in the template
        unless they would take more than CHECKS_SHARE of the time.
    """
    budget_s = 60 * budget_minutes
    checks = _checks(template)
    if speed.check_s > 0:
        checks = min(checks, int(CHECKS_SHARE * budget_s / speed.check_s))
    iterations = int((budget_s - checks * speed.check_s) / speed.iteration_s)
    return max(1, iterations), checks


def _checks(template: Mapping[str, Any]) -> int:
    """How often a template validates or saves, whichever it does more often."""
    total = int(template["train"]["total_iter"])
    intervals = [template["logger"]["save_checkpoint_freq"]]
    if template.get("val"):
        intervals.append(template["val"]["val_freq"])
    return total // min(intervals)


def with_network(request: Request, template: Mapping[str, Any], network: str) -> dict[str, Any]:
    """The template with the network, the name and the keys that depend on it; for checking."""
    opt = copy.deepcopy(dict(template))
    preset = PRESETS[network]
    section = {"type": preset.network.__name__, **preset.arguments}
    section[preset.scale_argument] = template.get("scale")
    opt["network_g"] = {k: list(v) if isinstance(v, tuple) else v for k, v in section.items()}
    opt["name"] = request.run_name(network)
    # As `compare quality` tests: the published numbers of the ESC family are of whole windows,
    # and BasicSR's SwinIR takes nothing else.
    if template.get("model_type") in ("SRModel", "ESRModel"):
        is_padded = preset.network in (*ESC_FAMILY, SwinIR)
        opt["model_type"] = "ESRModel" if is_padded else "SRModel"
    # One network has one GPU, so that all have the same batch.
    if opt.get("num_gpu") != 0:
        opt["num_gpu"] = "auto"
    if isinstance(opt.get("path"), dict):
        opt["path"] |= {"pretrain_network_g": None, "resume_state": None}
    return opt


def scaled(opt: Mapping[str, Any], total_iter: int, checks: int | None = None) -> dict[str, Any]:
    """A checked option file with its schedule scaled.

    Args:
        total_iter: iterations to train.
        checks: the most validations and savings; None for as many as there were.
    """
    short = copy.deepcopy(dict(opt))
    train, logger = short["train"], short["logger"]
    ratio = total_iter / train["total_iter"]
    train["total_iter"] = total_iter
    if train.get("warmup_iter", -1) > 0:
        train["warmup_iter"] = round(ratio * train["warmup_iter"])
    if train.get("ema_decay"):
        # The average looks back over the same share of the run.
        train["ema_decay"] = train["ema_decay"] ** (1 / ratio)
    scheduler = train["scheduler"]
    if "milestones" in scheduler:
        scheduler["milestones"] = [max(1, round(ratio * m)) for m in scheduler["milestones"]]
    if "restarts" in scheduler:
        scheduler["restarts"] = [round(ratio * r) for r in scheduler["restarts"]]
    if "periods" in scheduler:
        scheduler["periods"] = _scaled_periods(scheduler["periods"], ratio)
    every = max(1, round(ratio * logger["print_freq"]))
    logger["print_freq"] = every
    for section, key in ((logger, "save_checkpoint_freq"), (short.get("val"), "val_freq")):
        if section:
            interval = ratio * section[key]
            if checks is not None:
                interval = max(interval, total_iter / max(checks, 1))
            # Logs have the iteration of a validation only where they have its loss, too.
            section[key] = max(every, every * round(interval / every))
    return short


def _scaled_periods(periods: Sequence[int], ratio: float) -> list[int]:
    """Periods whose ends are where the ratio puts them, rounded up as the last must reach."""
    scaled, end, begin = [], 0, 0
    for period in periods:
        end += period
        scaled.append(max(1, math.ceil(ratio * end - 1e-9) - begin))
        begin += scaled[-1]
    return scaled


def write_option(path: Path, opt: Mapping[str, Any]) -> None:
    """Write an option file."""
    write_file(path, yaml.safe_dump(dict(opt), sort_keys=False, allow_unicode=True).encode())


class Plan(BaseModel):
    """plan.json: the request, the measurements, and the networks to train.

    Attributes:
        asked: the arguments and the content of the template.
        total_iter: iterations of each network that has a schedule.
        checks: the most validations of each; None for as many as in the template.
        speed: what was measured for a budget.
        finished: the networks that are trained.
    """

    model_config = ConfigDict(extra="forbid")

    asked: dict[str, Any]
    total_iter: dict[str, int] = {}
    checks: dict[str, int | None] = {}
    speed: dict[str, Speed] = {}
    finished: list[str] = []

    def write(self, path: Path) -> None:
        """Write plan.json, complete or not at all."""
        write_file(path, (self.model_dump_json(indent=1) + "\n").encode())


def read_plan(request: Request, template: Mapping[str, Any]) -> Plan:
    """The plan of a comparison: that of its earlier run, or a new one, which is not written yet.

    Args:
        request: has to be the one of the earlier run.
        template: its template, with the forced values.

    Raises:
        UserError: when the file is damaged, or the earlier run had other arguments, saying
            which.
    """
    path = request.plan_file
    asked = {
        "networks": list(request.networks),
        "template": request.template,
        "steps": request.steps,
        "budget-minutes": request.budget_minutes,
        "force_yml": list(request.force_yml),
        "template content": json.loads(json.dumps(template, default=str)),
    }
    try:
        plan = Plan.model_validate_json(read_regular(path))
        if plan.asked.keys() != asked.keys():
            raise ValueError
    except FileNotFoundError:
        return Plan(asked=asked)
    except (ValueError, OSError):
        raise UserError(
            f"{path}: expected the plan of a comparison; found another or a damaged "
            "file. Move it away, or give another --name."
        ) from None
    for key, value in asked.items():
        earlier = plan.asked[key]
        if earlier != value:
            if key == "template content":
                difference = _difference(earlier, value)
            else:
                difference = f"--{key}: {value} instead of {earlier}"
            raise UserError(
                f"{path}: expected the arguments that the comparison {request.name} was begun "
                f"with; found another {difference}. Give the same ones to continue it, or another "
                "--name."
            )
    return plan


def _difference(earlier: object, now: object, key: str = "") -> str:
    """The first key in which two templates differ."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for name in [*earlier, *now]:
            if earlier.get(name) != now.get(name):
                return _difference(earlier.get(name), now.get(name), f"{key}.{name}".strip("."))
    return f"{key} in the template: {now} instead of {earlier}"
