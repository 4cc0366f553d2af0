"""Measuring networks, each in a process of its own, and keeping what was found."""

import json

import pytest

from esc_arch.cli.main import main
from esc_arch.compare import cost, results
from esc_arch.compare.cost import Request, measure
from esc_arch.errors import UserError


@pytest.mark.slow
def test_costs_are_measured_and_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--networks", "esc_light", "rcan", "--scales", "4", "--output-size", "64x48"]
    assert main(["compare", "cost", *arguments, "--runs", "3", "--name", "mine"]) == 0
    found = json.loads((tmp_path / "experiments/compare/mine/results.json").read_text())
    rows = {row["network"]: row for row in found["cost"]}
    assert (rows["esc_light"]["parameters"], rows["rcan"]["parameters"]) == (624_372, 15_592_355)
    for row in rows.values():
        assert (row["width"], row["height"], row["runs"]) == (16, 12, 3)
        assert 0 < row["fastest_ms"] <= row["median_ms"] <= row["slowest_ms"]
        assert row["peak_mb"] > 0
    # Counted at the published size, whatever was measured.
    assert round(rows["esc_light"]["multiply_adds"] / 1e9, 1) == 91.0
    assert "624" in (tmp_path / "experiments/compare/mine/report.md").read_text()


def test_counting_alone():
    row = measure(Request("esc_fp", 3, 426, 240, "cpu", "float32", 1, 0), timeout_s=120)
    assert row == {"parameters": 530_170, "multiply_adds": row["multiply_adds"]}
    assert round(row["multiply_adds"] / 1e9, 1) == 110.0


def test_a_failing_network_says_why():
    request = Request("esc_light", 4, 16, 12, "cuda:99", "float32", 1, 1)
    row = measure(request, timeout_s=120)
    assert row["parameters"] == 624_372
    assert round(row["multiply_adds"] / 1e9, 1) == 91.0
    assert "error" in row and "median_ms" not in row


def test_a_slow_network_is_given_up():
    request = Request("esc_light", 4, 16, 12, "cpu", "float32", 1, 1)
    assert measure(request, timeout_s=0.05)["error"] == "not done after 0 s"


@pytest.mark.parametrize(
    ("text", "size"), [("HD", (1280, 720)), ("4k", (3840, 2160)), ("640x360", (640, 360))]
)
def test_output_sizes(text, size):
    assert cost.output_size(text) == size


@pytest.mark.parametrize("text", ["", "8K", "640", "0x3", "ax3", "-1x2"])
def test_wrong_output_sizes(text):
    with pytest.raises(UserError, match="--output-size"):
        cost.output_size(text)


def test_a_newer_row_replaces_the_same_one():
    found = results.empty()
    row = {"network": "esc", "scale": 2, "weights": None, "set": "Set5", "image": "baby"}
    results.add(found, "quality", [{**row, "psnr": 1.0}, {**row, "image": "bird"}], {"date": "1"})
    results.add(found, "quality", [{**row, "psnr": 2.0}], {"date": "2"})
    assert [(r["image"], r.get("psnr")) for r in found["quality"]] == [
        ("bird", None),
        ("baby", 2.0),
    ]
    assert [found["runs"][r["run"]]["date"] for r in found["quality"]] == ["1", "2"]
    results.add(found, "quality", [{**row, "image": "bird"}], {"date": "3"})
    assert {run["date"] for run in found["runs"]} == {"2", "3"}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"runs": []}', '{"runs": [], "cost": [{}], "quality": [], "training": []}']
)
def test_a_damaged_file_is_one_clear_message(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=r"results\.json: "):
        results.read(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x"])
def test_a_comparison_stays_in_its_folder(name):
    with pytest.raises(UserError, match="--name"):
        results.folder_of(name)
