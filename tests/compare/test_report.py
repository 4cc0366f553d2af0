"""The report: every number from the rows, missing parts said, pictures that can be read."""

import json
import math
import re
import sys
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_psnr
from matplotlib import style
from matplotlib.colors import rgb_to_hsv, to_rgb

from esc_arch.cli.main import main
from esc_arch.compare import crops, figures, results
from esc_arch.compare.published import PUBLISHED
from esc_arch.compare.report import merge_folders, write_report
from esc_arch.compare.series import Series, labels
from esc_arch.errors import UserError

NETWORKS = ("esc", "esc_light", "esc_fp", "hit_srf", "swinir_light", "omnisr")
RUN = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "basicsr compare cost --name a|b",
    "versions": {"esc_arch": "0.1", "torch": "2.6"},
    "machine": "Processor x 2",
    "threads": 2,
    "commit": "0123abc",
}


def cost(network: str, number: int, **other) -> dict:
    row = {"network": network, "scale": 4, "width": 320, "height": 180, "device": "cpu"}
    row |= {"dtype": "float32", "machine": "Processor x 2", "parameters": 1000 * number + 400}
    row |= {"multiply_adds": 10**9 * number, "median_ms": 100.0 * number, "runs": 5}
    row |= {"fastest_ms": 99.0 * number, "slowest_ms": 105.0 * number, "peak_mb": 7.0 * number}
    return {**row, "run": 0, **other}


def quality(network: str, psnr: float | None, image: str = "one", **other) -> dict:
    weights = None if network == "bicubic" else f"runs/{network}.pth"
    row = {"network": network, "scale": 4, "weights": weights, "set": "Set5", "image": image}
    return {**row, "psnr": psnr, "ssim": psnr and psnr / 40, "run": 0, **other}


def training(network: str, gain: float, **other) -> dict:
    curve = [[100 * i, 0.5 * i, 0.1, 25 + gain * i if i % 2 else None] for i in range(1, 6)]
    row = {"network": network, "scale": 4, "weights": f"runs/{network}.pth", "minutes": 3.0}
    return {**row, "option": "o.yml", "iterations": 500, "curve": curve, "run": 0, **other}


def rows_of(**kinds) -> dict:
    return {**results.empty(), "runs": [RUN], **kinds}


def reported(folder: Path, found: dict) -> str:
    results.write(folder, found)
    write_report(folder)
    return (folder / "report.md").read_text()


def table(text: str, title: str) -> list[list[str]]:
    """The cells below the heading that has ``title`` in it, without the rules."""
    section = next(part for part in re.split(r"^## ", text, flags=re.M)[1:] if title in part)
    lines = [line for line in section.splitlines()[1:] if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(line) for line in cells}) == 1
    return [cells[0], *cells[2:]]


def images(folder: Path, networks, sides=(90, 120), seed=0) -> list[dict]:
    """Quality rows with files: noise of a strength of its own for each network."""
    rng = np.random.default_rng(seed)
    rows = []
    for index, image in enumerate(("plain", "wide")):
        hr = cv2.GaussianBlur(rng.integers(0, 256, (*sides, 3), dtype=np.uint8), (0, 0), 2)
        path = folder / f"{image}.png"
        cv2.imwrite(str(path), hr)
        inner = hr[: sides[0] // 4 * 4, : sides[1] // 4 * 4]
        for strength, network in enumerate(networks):
            noise = rng.normal(0, 1 + strength * (1 + 4 * index), inner.shape)
            noise[:, : inner.shape[1] // 2] /= 8
            name = f"images/{network}/Set5/{image}x4.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            output = (inner + noise).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / name), output)
            psnr = calculate_psnr(output, inner, 4, test_y_channel=True)
            rows.append(quality(network, float(psnr), image, hr=str(path), output=name))
    return rows


def test_every_cost_is_told_beside_the_published_one(tmp_path):
    costs = [cost(network, 2 + i) for i, network in enumerate(NETWORKS)]
    text = reported(tmp_path, rows_of(cost=costs))
    header, *lines = table(text, "cost")
    assert [line[0] for line in lines] == sorted(NETWORKS, key=[n for n, _ in PUBLISHED].index)
    by_name = {line[0]: line[1:] for line in lines}
    for row in costs:
        ours, theirs = by_name[row["network"]], PUBLISHED[row["network"], 4]
        assert float(ours[0]) == row["parameters"] // 1000
        assert int(ours[1]) == theirs.parameters_k
        assert float(ours[2]) == row["multiply_adds"] / 1e9
        assert float(ours[3]) == theirs.multiply_adds_g
        numbers = [float(n) for n in re.fullmatch(r"(\S+) \[(\S+)-(\S+)\]", ours[4]).groups()]
        assert numbers == [row["median_ms"], row["fastest_ms"], row["slowest_ms"]]
        assert float(ours[5]) == row["median_ms"] / 200
        assert float(ours[6]) == row["peak_mb"]
        assert [float(n) for n in ours[7:9]] == [theirs.latency_ms, theirs.memory_mb]
    assert all("authors' GPU" in name for name in header[8:10]) and len(header) == 10
    run = table(text, "How it was run")[1]
    assert run[1:] == [
        RUN["date"],
        r"`basicsr compare cost --name a\|b`",
        *(RUN["machine"], "2", "esc_arch 0.1, torch 2.6", RUN["commit"], "6 cost"),
    ]


def test_errors_stand_in_their_row(tmp_path):
    broken = {key: cost("rcan", 1)[key] for key in ("network", "scale", "width", "height")}
    broken |= {"device": "cpu", "dtype": "float32", "machine": "Processor x 2", "run": 0}
    half = cost("esc_fp", 3, error="not done after 9 s")
    del half["multiply_adds"]
    rows = [cost("esc", 2), broken | {"error": "a | b `c`\nd"}, half]
    header, *lines = table(reported(tmp_path, rows_of(cost=rows)), "cost")
    by_name = {line[0]: line for line in lines}
    assert header[-1] == "error"
    assert by_name["rcan"][-1] == r"`` a \| b `c` d ``" and by_name["rcan"][5:8] == ["–"] * 3
    assert by_name["esc_fp"][-1] == "`not done after 9 s`" and by_name["esc_fp"][3] == "–"
    assert by_name["esc_fp"][5].startswith("300.0 ") and by_name["esc"][-1] == ""


def test_two_machines_are_two_tables_each_with_its_fastest(tmp_path):
    other = [cost(n, 50 + i, machine="Other x 64") for i, n in enumerate(NETWORKS[:2])]
    found = rows_of(cost=[cost("esc", 4), cost("esc_fp", 2), *other])
    text = reported(tmp_path, found)
    assert [line[6] for line in table(text, "Processor x 2")[1:]] == ["1.00", "2.00"]
    assert [line[6] for line in table(text, "Other x 64")[1:]] == ["1.02", "1.00"]
    shown, _ = figures.tradeoff_panels(found)
    assert [len(panel.points) for panel in shown] == [2, 2]


def test_quality_is_the_mean_of_the_images(tmp_path):
    rows = [quality(n, 30 + i, f"{j}") for i, n in enumerate(("bicubic", "esc")) for j in range(2)]
    rows[-1]["psnr"] = 33.5
    rows += [quality("esc_fp", 35.0), quality("esc", 20.0, set="mine", weights=None)]
    found = rows_of(quality=rows, training=[training("esc", 0.1)])
    text = reported(tmp_path, found)
    header, *lines = table(text, "quality")
    fully = "published: fully trained"
    expected = ["network", "weights", "Set5 (2)", f"Set5, {fully}", "mine (1)", f"mine, {fully}"]
    assert header == expected
    by_name = {tuple(line[:2]): line[2:] for line in lines}
    assert by_name["bicubic", "–"] == ["30.00 / 0.7500", "–", "–", "–"]
    here = by_name["esc", "*trained here*, 500 iterations: `runs/esc.pth`"]
    assert here == ["32.25 / 0.7750", "32.68 / 0.9011", "–", "–"]
    untrained = by_name["esc", "initial, untrained"]
    assert untrained[0] == "–" and untrained[2] == "20.00 / 0.5000"
    fewer = by_name["esc_fp", "`runs/esc_fp.pth`"]
    assert fewer[0] == "35.00 / 0.8750 (only 1 of 2 images)" and fewer[1] == "32.56 / –"
    assert "cannot be compared" in text
    assert "cannot be compared" not in reported(tmp_path, rows_of(quality=rows))


def test_training_is_told(tmp_path):
    lines = table(reported(tmp_path, rows_of(training=[training("esc", 0.5)])), "Training")[1:]
    assert lines == [
        ["esc", "x4", "500", "3.0", "0.360", "27.50", "`o.yml`", "`runs/esc.pth`"],
    ]
    bare = training("esc", 0, curve=[], minutes=None, iterations=0)
    text = reported(tmp_path, rows_of(training=[bare]))
    assert table(text, "Training")[1][2:6] == ["0", "–", "–", "–"]
    assert "esc x4 is left out: no validation PSNR." in text
    assert not (tmp_path / "curves.png").exists()


def test_not_a_number_is_told_and_not_drawn(tmp_path):
    rows = [quality("esc", math.nan), quality("esc_fp", 31.0), quality("hit_srf", math.inf)]
    costs = [cost("esc", 2), cost("esc_fp", 3, peak_mb=math.nan), cost("hit_srf", 4)]
    costs += [cost("omnisr", 1, median_ms=math.nan), cost("esc_light", 5)]
    found = rows_of(cost=costs, quality=rows)
    text = reported(tmp_path, found)
    assert [line[2] for line in table(text, "quality")[1:]] == [
        "inf / inf",
        "31.00 / 0.7750",
        "nan / nan",
    ]
    by_name = {line[0]: line for line in table(text, "cost")[1:]}
    assert by_name["omnisr"][5].startswith("nan ") and by_name["omnisr"][6] == "–"
    assert by_name["esc"][6] == "1.00" and by_name["esc_fp"][7] == "nan"
    (panel,), notes = figures.tradeoff_panels(found)
    assert [point.series.network for point in panel.points] == ["esc_fp"]
    for name in ("omnisr", "esc_light", "esc ", "hit_srf", "esc_fp"):
        assert sum(f": {name.strip()} " in note for note in notes) == 1, name


def test_nothing_at_all(tmp_path):
    text = reported(tmp_path, results.empty())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "report.md",
        "results.csv",
        "results.json",
    ]
    assert "There are no rows." in text and "No quality was measured." in text


def test_pictures_without_rows_go_and_the_report_says_why(tmp_path):
    names = ("esc", "esc_fp")
    found = rows_of(
        cost=[cost(n, i + 1) for i, n in enumerate(names)],
        quality=images(tmp_path, ("bicubic", *names)),
        training=[training("esc", 0.5)],
    )
    text = reported(tmp_path, found)
    pictures = ("tradeoff.png", "crops.png", "curves.png")
    for name in pictures:
        assert f"![{name}]({name})" in text
        height, width = cv2.imread(str(tmp_path / name)).shape[:2]
        assert width == 1340 and 350 < height < 950  # 6.7 inches of 200 dots
    before = {name: (tmp_path / name).read_bytes() for name in pictures}
    with style.context("dark_background"):
        write_report(tmp_path)
    assert before == {name: (tmp_path / name).read_bytes() for name in pictures}
    # Written images are not kept as long as the report.
    for path in (tmp_path / "images").rglob("*.png"):
        path.unlink()
    found["cost"].clear()
    found["training"].clear()
    text = reported(tmp_path, found)
    assert [(tmp_path / name).exists() for name in pictures] == [False, True, False]
    assert "`tradeoff.png` is not drawn." in text and "x4: no cost was measured." in text
    assert "`crops.png` is not drawn; this one is of an earlier report" in text
    assert "No network was trained" in text


def test_published_psnr_is_drawn_only_under_its_name():
    costs = [cost(n, i + 1) for i, n in enumerate(("esc", "esc_fp", "esc_real"))]
    (panel,), notes = figures.tradeoff_panels(rows_of(cost=costs))
    assert panel.is_published and "PUBLISHED" in panel.title[0] and panel.set == "Urban100"
    assert {p.series.network: p.psnr for p in panel.points} == {"esc": 27.07, "esc_fp": 26.90}
    assert any("esc_real is left out: no published PSNR" in note for note in notes)
    # As soon as anything is measured, nothing published is drawn.
    shown, notes = figures.tradeoff_panels(rows_of(cost=costs, quality=[quality("rcan", 30.0)]))
    assert shown == [] and any("nothing to draw" in note for note in notes)


def test_the_set_is_the_first_that_all_have():
    costs = [cost("esc", 1), cost("esc_fp", 2)]
    rows = [quality(n, 30.0, set=s) for n in ("esc", "esc_fp") for s in ("B100", "Set5", "mine")]
    rows += [quality("esc", 25.0, set="Urban100"), quality("bicubic", 20.0, set="Set14")]
    (panel,), _ = figures.tradeoff_panels(rows_of(cost=costs, quality=rows))
    assert panel.set == "Set5" and len(panel.points) == 2
    rows.append(quality("esc", 33.0, "two"))
    (panel,), notes = figures.tradeoff_panels(rows_of(cost=costs, quality=rows))
    assert [p.psnr for p in panel.points] == [31.5]
    assert any("esc_fp is left out: 1 of 2 images of Set5" in note for note in notes)


def boxes_of(figure) -> list:
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in axes.texts] + figure.texts
    for axes in figure.axes:
        texts += [axes.xaxis.label, *(axes.get_legend().get_texts() if axes.get_legend() else [])]
    texts += [text for part in figure.subfigs for text in part.texts]
    return [text.get_window_extent() for text in texts if text.get_text()]


def apart(boxes) -> bool:
    return not any(
        a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
        for a, b in combinations(boxes, 2)
    )


def within(figure, boxes) -> bool:
    width, height = figure.get_size_inches() * figure.dpi
    return all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in boxes)


def test_labels_of_a_crowded_tradeoff_stay_apart():
    rng = np.random.default_rng(0)
    names = sorted({name for name, scale in PUBLISHED if scale == 4})
    # Half of them crowd in one place.
    near = [1 + 0.2 * rng.random() if i % 2 else 10 * rng.random() + 1 for i in range(len(names))]
    costs = [
        cost(n, 1, median_ms=10 * x, peak_mb=50 + 900 * rng.random())
        for n, x in zip(names, near, strict=True)
    ]
    rows = [quality(n, 30 + x / 10 + 0.02 * rng.random()) for n, x in zip(names, near, strict=True)]
    rows.append(quality(names[0], 30.4, weights="other/checkpoint.pth"))
    found = rows_of(cost=costs, quality=rows)
    shown, _ = figures.tradeoff_panels(found)
    everyone = [Series(row["network"], row.get("weights")) for row in costs + rows]
    with figures.fixed_style():
        figure = figures.draw_tradeoff(shown, everyone)
        first = figures.png(figure)
        assert first == figures.png(figures.draw_tradeoff(shown, everyone))
        boxes = boxes_of(figure)
    assert len(boxes) > len(names) + 3 and apart(boxes) and within(figure, boxes)
    (axes,) = figure.axes
    texts = {text.get_text(): text.get_window_extent() for text in axes.texts}
    wanted = labels(point.series for point in shown[0].points)
    assert set(wanted.values()) <= set(texts) and f"{names[0]}, checkpoint" in texts
    largest = max(row["peak_mb"] for row in costs)
    drawn = [
        c
        for c in axes.collections
        if c.get_sizes()[0] > 22 and c.get_offset_transform() == axes.transData
    ]
    # The area is the memory.
    areas = sorted({round(float(c.get_sizes()[0]), 3) for c in drawn})
    memory = sorted({round(1500 * row["peak_mb"] / largest, 3) for row in costs})
    np.testing.assert_allclose(areas, memory, rtol=1e-3)


def test_labels_of_the_tradeoff_stay_off_the_bubbles():
    rng = np.random.default_rng(3)
    names = sorted({name for name, scale in PUBLISHED if scale == 4})
    costs = [
        cost(n, 1, median_ms=100 * 8 ** rng.random(), peak_mb=50 + 900 * rng.random())
        for n in names
    ]
    rows = [quality(n, 30 + 2 * rng.random()) for n in names]
    shown, _ = figures.tradeoff_panels(rows_of(cost=costs, quality=rows))
    with figures.fixed_style():
        figure = figures.draw_tradeoff(shown, [point.series for point in shown[0].points])
    (axes,) = figure.axes
    texts = {text.get_text(): text for text in axes.texts}
    pixels_of_a_point = figure.dpi / 72
    largest = max(row["peak_mb"] for row in costs)
    for name in names:
        box = texts[name].get_window_extent()
        for point in shown[0].points:
            x, y = axes.transData.transform((point.latency_ms, point.psnr))
            radius = math.sqrt(1500 * point.peak_mb / largest) / 2 * pixels_of_a_point
            nearest = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
            assert math.dist(nearest, (x, y)) >= radius, (name, point)


def test_the_family_has_one_hue_and_no_rival_has_it():
    names = sorted({name for name, scale in PUBLISHED if scale == 4})
    shown, _ = figures.curve_panels(rows_of(training=[training(name, 0.5) for name in names]))
    with figures.fixed_style():
        figure = figures.draw_curves(shown, [line.series for line in shown[0].lines])
    hues = {}
    for line, drawn in zip(shown[0].lines, figure.axes[0].lines, strict=False):
        hue, saturation, _ = rgb_to_hsv(to_rgb(drawn.get_color()))
        hues[line.series.network] = hue if saturation > 0.1 else None  # grey
    family = [hue for name, hue in hues.items() if name.startswith("esc")]
    assert len(family) == 3 and max(family) - min(family) < 0.03
    for name, hue in hues.items():
        if not name.startswith("esc"):
            assert hue is None or abs(hue - family[0]) > 0.1, name


def test_names_are_as_short_as_distinguishes_series():
    paths = {
        "esc": ["runs/a/models/net_g_latest.pth", "runs/b/models/net_g_latest.pth"],
        "esc_fp": ["x/net_g_1.pth", "y/net_g_2.pth"],
        "esc_light": ["w.pth", "w.safetensors"],
        "hit_srf": ["only.pth", None],
        "omnisr": ["w.pth", "v/w.pth"],
        "bicubic": [None],
    }
    series = [Series(network, path) for network, several in paths.items() for path in several]
    named = labels(series)
    assert [named[one] for one in series] == [
        *("esc, a", "esc, b", "esc_fp, net_g_1", "esc_fp, net_g_2"),
        *("esc_light, w.pth", "esc_light, w.safetensors"),
        *("hit_srf", "hit_srf, initial weights", "omnisr, w", "omnisr, v/w", "bicubic"),
    ]


def test_every_curve_has_a_label_apart_from_the_others():
    trainings = [
        training(n, 0.5 + i / 1000) for i, n in enumerate(sorted({n for n, _ in PUBLISHED}))
    ]
    found = rows_of(training=[*trainings, training("esc", 0.1, scale=2)])
    shown, notes = figures.curve_panels(found)
    assert [panel.scale for panel in shown] == [2, 4] and notes == []
    assert shown[0].lines[0].minutes == [0.5, 1.5, 2.5]
    assert shown[0].lines[0].psnr == [25.1, 25.3, 25.5]
    with figures.fixed_style():
        figure = figures.draw_curves(shown, [Series(r["network"], r["weights"]) for r in trainings])
        boxes = boxes_of(figure)
        assert (
            len(boxes) == len(trainings) + 1 + len(shown) and apart(boxes) and within(figure, boxes)
        )
    drawn = figure.axes[1].lines[: len(trainings)]
    for line, curve in zip(shown[1].lines, drawn, strict=True):
        np.testing.assert_array_equal(curve.get_xydata(), np.stack([line.minutes, line.psnr], 1))
    styles = {(c.get_color(), c.get_marker()) for c in drawn}
    assert len(styles) == len(trainings)


def test_crops_show_where_networks_differ_on_the_image_of_the_widest_spread(tmp_path):
    names = ("bicubic", "esc", "esc_fp", "hit_srf")
    rows = images(tmp_path, names)
    (panel,), notes = crops.crop_panels(rows_of(quality=rows), tmp_path)
    assert notes == [] and panel.title.startswith("x4: wide (Set5)")
    assert panel.whole.shape == (88, 120, 3)
    left, top, width, height = panel.box
    assert (width, height) == (64, 64) and left >= 52  # the noise is in the right half
    # bicubic first, then as the published table has them
    order = ("bicubic", "hit_srf", "esc_fp", "esc")
    stacked = []
    for tile, name in zip(panel.tiles[1:], order, strict=True):
        row = next(r for r in rows if r["network"] == name and r["image"] == "wide")
        assert tile.lines == [name, f"{row['psnr']:.2f} dB"]
        output = cv2.imread(str(tmp_path / row["output"]))[..., ::-1]
        np.testing.assert_array_equal(tile.pixels, output[top : top + 64, left : left + 64])
        stacked += [output.astype(float)] if name != "bicubic" else []
    variance = np.var(stacked, axis=0).sum(-1)
    sums = {(y, x): variance[y : y + 64, x : x + 64].sum() for y in range(25) for x in range(57)}
    assert sums[top, left] == pytest.approx(max(sums.values()))
    with figures.fixed_style():
        figure = crops.draw_crops([panel])
        boxes = boxes_of(figure)
    assert apart(boxes) and within(figure, boxes) and len(figure.axes) == 6


def test_crops_of_one_network_of_a_small_grey_image(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)
    for name in ("hr", "out"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), grey)
    row = quality("esc", math.inf, hr=str(tmp_path / "hr.png"), output="out.png")
    (panel,), _ = crops.crop_panels(rows_of(quality=[row]), tmp_path)
    assert panel.box == (0, 0, 48, 40) and panel.tiles[1].lines == ["esc", "inf dB"]
    np.testing.assert_array_equal(panel.whole, np.repeat(grey[..., None], 3, 2))


def test_crops_say_what_is_missing(tmp_path):
    rows = images(tmp_path, ("bicubic", "esc", "esc_fp"))
    for row in rows:
        if row["network"] == "esc":
            (tmp_path / row["output"]).unlink()
    (panel,), (note,) = crops.crop_panels(rows_of(quality=rows), tmp_path)
    assert note.startswith("x4: esc is left out: no output of ")
    assert [tile.lines[0] for tile in panel.tiles] == ["HR", "bicubic", "esc_fp"]
    for row in rows:
        if row["network"] == "esc_fp":
            cv2.imwrite(str(tmp_path / row["output"]), np.zeros((8, 9, 3), np.uint8))
    shown, (note,) = crops.crop_panels(rows_of(quality=rows), tmp_path)
    assert shown == [] and "found 9 x 8" in note
    (tmp_path / rows[0]["output"]).write_bytes(b"no image")
    (tmp_path / rows[3]["output"]).write_bytes(b"no image")
    shown, (note,) = crops.crop_panels(rows_of(quality=rows), tmp_path)
    assert shown == [] and "found a file that does not read as an image" in note
    shown, (note,) = crops.crop_panels(rows_of(quality=[quality("esc", 30.0)]), tmp_path)
    assert shown == [] and "not there" in note


def test_without_matplotlib_the_tables_are_written(tmp_path, monkeypatch):
    found = rows_of(cost=[cost("esc", 2), cost("esc_fp", 3)])
    results.write(tmp_path, found)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Matplotlib is not installed" in text and len(table(text, "cost")) == 3
    assert not (tmp_path / "tradeoff.png").exists() and (tmp_path / "results.csv").exists()
    results.write(tmp_path, results.empty())
    write_report(tmp_path)  # nothing to draw, nothing to miss


def test_merging_keeps_the_newer_row_and_finds_the_images(tmp_path):
    first, second, into = (tmp_path / name for name in ("a", "b", "deep/er/ab"))
    results.write(first, rows_of(cost=[cost("esc", 2), cost("esc_fp", 3)]))
    second.mkdir()
    later = {**RUN, "date": "2026-01-03"}
    rows = images(second, ("bicubic", "esc"))
    newer = {**rows_of(cost=[cost("esc", 5)], quality=rows), "runs": [later]}
    results.write(second, newer)
    merge_folders([first, second], into)
    found = results.read(into)
    assert {row["network"]: row["median_ms"] for row in found["cost"]} == {
        "esc_fp": 300.0,
        "esc": 500.0,
    }
    assert [run["date"] for run in found["runs"]] == [RUN["date"], "2026-01-03"]
    for row, before in zip(found["quality"], rows, strict=True):
        assert (into / row["output"]).samefile(second / before["output"])
    merge_folders([first], into)
    again = results.read(into)
    assert len(again["quality"]) == len(rows) and len(again["cost"]) == 2
    assert next(r for r in again["cost"] if r["network"] == "esc")["median_ms"] == 200.0


def run_command(*arguments: str) -> None:
    assert main(["compare", "report", *arguments]) == 0


def refused(capsys, *arguments: str) -> str:
    assert main(["compare", "report", *arguments]) == 2
    return capsys.readouterr().err


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    results.write(Path("one"), rows_of(cost=[cost("esc", 2)]))
    results.write(Path("two"), rows_of(cost=[cost("esc_fp", 2)]))
    run_command("one")
    assert capsys.readouterr().out.splitlines() == [
        str(Path("one", name)) for name in ("results.csv", "tradeoff.png", "report.md")
    ]
    run_command("one", "two", "--name", "both")
    text = Path("experiments/compare/both/report.md").read_text()
    assert text.startswith("# Comparison both\n")
    assert [line[0] for line in table(text, "cost")[1:]] == ["esc_fp", "esc"]
    assert "--name" in refused(capsys, "one", "two")
    assert "--name" in refused(capsys, "one", "two", "--name", "")
    said = refused(capsys, "one", "absent", "--name", "new")
    assert "absent: expected a comparison's folder" in said
    assert not Path("experiments/compare/new").exists() and not Path("absent").exists()
    Path("two/results.json").write_text(json.dumps([1]))
    assert "another file" in refused(capsys, "two")
