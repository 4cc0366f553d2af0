"""Training several networks by one template: schedules, kills, failures, wrong arguments."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from esc_arch import options
from esc_arch.compare import results, training
from esc_arch.compare.plan import Request, Speed, affordable, read_plan, scaled, with_network
from esc_arch.errors import UserError
from esc_arch.options.constructors import build
from tests.compare.template import write_template

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's current folder with a template in it."""
    write_template(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def request_of(*networks: str, steps: int | None = 4, **changes: object) -> Request:
    return Request(networks, "template.yml", "pair", steps, **{"budget_minutes": None, **changes})


def public_template() -> tuple[Request, dict]:
    path = ROOT / "options" / "train_ESC_light_x2.yml"
    request = Request(("swinir_light",), str(path), "paper", 5000, None)
    return request, request.read_template()


def test_a_schedule_keeps_its_proportions():
    request, template = public_template()
    opt = scaled(with_network(request, template, "swinir_light"), 5000)
    train = opt["train"]
    assert train["total_iter"] == 5000 and train["warmup_iter"] == 200
    assert train["scheduler"]["milestones"] == [2500, 4000, 4500, 4750, 4900]
    assert (opt["val"]["val_freq"], opt["logger"]["save_checkpoint_freq"]) == (50, 50)
    assert opt["logger"]["print_freq"] == 1
    # 0.999 looks back over 1000 of 500000 iterations, so over 10 of 5000.
    assert train["ema_decay"] == pytest.approx(0.999**100)
    assert opt["datasets"] == template["datasets"]
    assert opt["name"] == "compare_paper_swinir_light"
    assert opt["network_g"]["type"] == "SwinIR" and opt["network_g"]["upscale"] == 2
    options.check_structure(opt, "scaled", is_train=True)
    assert template["train"]["total_iter"] == 500000  # left as it was


@pytest.mark.parametrize(
    ("network", "model"),
    [("esc", "ESRModel"), ("swinir_light", "ESRModel"), ("omnisr", "SRModel"), ("rcan", "SRModel")],
)
def test_networks_are_validated_as_they_are_tested(network: str, model: str):
    request, template = public_template()
    assert with_network(request, template, network)["model_type"] == model


@pytest.mark.parametrize("total", [1, 3, 59, 500001])
@pytest.mark.parametrize("checks", [None, 0, 3])
def test_every_length_is_a_right_option_file(total: int, checks: int | None):
    request, template = public_template()
    opt = scaled(with_network(request, template, "esc_light"), total, checks)
    options.check_structure(opt, "scaled", is_train=True)
    val_freq = opt["val"]["val_freq"]
    # Else the log does not tell at which iteration it was validated.
    assert val_freq % opt["logger"]["print_freq"] == 0
    if checks is not None:
        assert total // val_freq <= max(checks, 1) + 1


@pytest.mark.parametrize(
    ("periods", "total"), [([100], 7), ([30, 30, 40], 10), ([30, 70], 333), ([1, 1, 98], 5)]
)
def test_periods_reach_the_end(periods: list[int], total: int):
    request, template = public_template()
    template["train"]["scheduler"] = {
        "type": "CosineAnnealingRestartLR",
        "periods": periods,
        "restart_weights": [1] * len(periods),
    }
    template["train"]["total_iter"] = 100
    opt = scaled(with_network(request, template, "esc_light"), total)
    options.check_structure(opt, "scaled", is_train=True)
    found = opt["train"]["scheduler"]["periods"]
    assert sum(found) >= total
    for index in range(1, len(periods)):
        assert sum(found[:index]) == pytest.approx(sum(periods[:index]) * total / 100, abs=2)


def test_a_budget_buys_what_fits():
    _, template = public_template()  # 100 validations
    total, checks = affordable(template, 60, Speed(iteration_s=0.5, check_s=2))
    assert checks == 100
    assert total * 0.5 + checks * 2 <= 3600 < (total + 2) * 0.5 + checks * 2
    # 100 validations would take the half of the time.
    total, checks = affordable(template, 60, Speed(iteration_s=0.5, check_s=18))
    assert checks == 40
    assert total * 0.5 + checks * 18 <= 3600 < (total + 2) * 0.5 + checks * 18
    assert affordable(template, 0.001, Speed(iteration_s=5, check_s=9))[0] == 1


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"steps": 5}, "another --steps: 5 instead of 4"),
        ({"steps": None, "budget_minutes": 2.0}, "another --steps: None instead of 4"),
        ({"force_yml": ("train:optim_g:lr=0.1",)}, "another --force_yml"),
        ({"networks": ("esc_light", "esc")}, "another --networks"),
        ({}, "train.optim_g.lr in the template: 0.5 instead of 0.001"),
    ],
)
def test_other_arguments_do_not_continue_a_comparison(folder: Path, changes: dict, part: str):
    first = request_of("esc_light", "esc_fp")
    plan = read_plan(first, first.read_template())
    plan.finished.append("esc_fp")
    plan.write(first.plan_file)
    assert read_plan(first, first.read_template()) == plan
    if not changes:
        path = folder / "template.yml"
        path.write_text(path.read_text().replace("lr: 0.001", "lr: 0.5"))
    networks = changes.pop("networks", first.networks)
    second = request_of(*networks, **changes)
    with pytest.raises(UserError) as error:
        read_plan(second, second.read_template())
    assert part in str(error.value) and "another --name" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"networks": ("esc_lihgt",)}, "Did you mean 'esc_light'?"),
        ({"networks": ("esc", "esc")}, "found esc twice"),
        ({"name": "debug"}, "without the word debug"),
        ({"name": "a/b"}, "'a/b'"),
        ({"steps": 0}, "--steps: expected a whole number of at least 1"),
        ({"steps": None, "budget_minutes": -1.0}, "--budget-minutes: expected a number above 0"),
    ],
)
def test_wrong_arguments_are_one_clear_message(changes: dict, part: str):
    arguments = {
        "networks": ("esc",),
        "template": "template.yml",
        "name": "pair",
        "steps": 4,
        "budget_minutes": None,
    }
    with pytest.raises(UserError) as error:
        Request(**{**arguments, **changes})
    assert part in str(error.value)


def test_a_template_for_any_scale_is_refused():
    request = Request(("esc",), str(ROOT / "options" / "train_ESC_LTE.yml"), "any", 4, None)
    with pytest.raises(UserError, match="expected the one scale"):
        request.read_template()


def test_nothing_is_written_before_all_is_checked(folder: Path):
    path = folder / "template.yml"
    path.write_text(path.read_text().replace("data/val/HR", "data/gone/HR"))
    with pytest.raises(UserError, match="data/gone/HR"):
        training.train(request_of("esc_light"))
    assert not (folder / "experiments").exists()


def test_states_of_an_earlier_comparison_are_not_continued(folder: Path):
    (folder / "experiments" / "compare_pair_esc_light").mkdir(parents=True)
    with pytest.raises(UserError, match=r"compare_pair_esc_light: expected no such experiment"):
        training.train(request_of("esc_light"))


def test_a_damaged_plan_is_one_clear_message(folder: Path):
    request = request_of("esc_light")
    plan = read_plan(request, request.read_template())
    plan.write(request.plan_file)
    for content in (request.plan_file.read_bytes()[:50], b"{}", b'{"asked": {}}', b"[]"):
        request.plan_file.write_bytes(content)
        with pytest.raises(UserError, match="found another or a damaged file"):
            read_plan(request, request.read_template())


def test_a_network_that_fails_leaves_the_others(folder: Path):
    def command(option_file: Path) -> list[str]:
        if option_file.stem == "esc_light":
            return [sys.executable, "-c", "print('step 1'); raise MemoryError('no more')"]
        weights = Path("experiments", f"compare_pair_{option_file.stem}", "models")
        weights.mkdir(parents=True)
        network = build(yaml.safe_load(option_file.read_text())["network_g"])
        torch.save({"params": network.state_dict()}, weights / "net_g_latest.pth")
        return [sys.executable, "-c", "pass"]

    trained = training.train(request_of("esc_light", "esc_fp"), command)
    assert [row["network"] for row in trained.rows] == ["esc_fp"]
    assert {row["network"] for row in trained.tested.rows} == {"bicubic", "esc_fp"}
    (error,) = trained.errors
    assert error.startswith("esc_light failed: exit code 1")
    assert "step 1" in error and error.endswith("MemoryError: no more")


def test_each_gpu_trains_a_network_at_the_same_time(folder: Path):
    # Each waits until the other has begun.
    code = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)
sys.exit("no weights")
"""
    names = ["esc_light", "esc_fp"]

    def command(option_file: Path) -> list[str]:
        own = names.index(option_file.stem)
        return [sys.executable, "-c", code, names[own], names[1 - own]]

    trained = training.train(request_of(*names), command, gpus=["3", "5"])
    assert len(trained.errors) == 2 and not trained.rows
    assert {(folder / name).read_text() for name in names} == {"3", "5"}


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def children_of(process: int) -> list[int]:
    found = []
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        found += [int(child) for child in tasks.read_text().split()]
    return found


@pytest.mark.slow
def test_a_killed_comparison_continues(folder: Path):
    arguments = ["--networks", "esc_light", "esc_fp", "--template", "template.yml"]
    arguments += ["--name", "pair", "--steps", "4"]
    log = (folder / "output.txt").open("w")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "esc_arch", "compare", "train", *arguments]
    killed = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    first = folder / "experiments" / "compare_pair_esc_light"
    end = time.monotonic() + 100
    # The newest one may be incomplete.
    while len(list(first.glob("training_states/*.state"))) < 2:
        assert killed.poll() is None and time.monotonic() < end, Path(log.name).read_text()
        time.sleep(0.01)
    (child,) = children_of(killed.pid)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    end = time.monotonic() + 10
    while is_running(child):
        assert time.monotonic() < end, "the training outlives the comparison"
        time.sleep(0.01)
    plan = json.loads((folder / "experiments/compare/pair/plan.json").read_text())
    assert plan["finished"] == []

    # The same command again, to its end.
    done = subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=200)
    assert done.returncode == 0, Path(log.name).read_text()
    comparison = folder / "experiments" / "compare" / "pair"
    found = results.read(comparison)
    assert [row["network"] for row in found["training"]] == ["esc_light", "esc_fp"]
    for row in found["training"]:
        assert row["iterations"] == 4 and row["minutes"] > 0
        assert [point[0] for point in row["curve"]] == [1, 2, 3, 4]
        assert all(point[2] is not None for point in row["curve"])
        # BasicSR does not repeat a validation that was killed after its iteration was saved.
        assert sum(point[3] is None for point in row["curve"]) <= 1
        assert torch.load(row["weights"], weights_only=True)["params_ema"]
        tested = [r for r in found["quality"] if r["network"] == row["network"]]
        assert sorted(r["image"] for r in tested) == ["photo0", "photo1"]
        # The network that was validated last is the one that was tested.
        mean = sum(r["psnr"] for r in tested) / 2
        assert mean == pytest.approx(row["curve"][-1][3], abs=1e-3)
    logs = [path.read_text() for path in sorted(first.glob("train_*.log"))]
    assert len(logs) == 2 and "Resuming training from epoch" in logs[1]
    assert (comparison / "report.md").is_file()

    # Once more: nothing is left to train.
    def command_not_wanted(option_file: Path) -> list[str]:
        raise AssertionError(f"{option_file} is trained again")

    again = training.train(request_of("esc_light", "esc_fp"), command_not_wanted)
    assert not again.errors
    assert [row["curve"] for row in again.rows] == [row["curve"] for row in found["training"]]


def test_two_processes_do_not_train_the_same_comparison(folder: Path):
    first = request_of("esc_light")
    first.folder.mkdir(parents=True)
    code = """
import sys
from pathlib import Path
from esc_arch.files import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(first.folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match="another process"):
            training.train(first)
        other.stdin.close()
