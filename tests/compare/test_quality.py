"""PSNR and SSIM of a comparison, against the formulas, skimage and published numbers."""

import errno
import os
import shutil
from math import ceil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from PIL import Image
from skimage.metrics import structural_similarity

import esc_arch
from esc_arch.cli.main import main
from esc_arch.compare import quality, results
from esc_arch.compare.candidates import Candidate, read_candidate, read_candidates
from esc_arch.compare.series import BICUBIC, Series, set_means
from esc_arch.errors import UserError
from tests import tiny
from tests.compare.photos import make_set, photo
from tests.reference_cases import fill_parameters
from tests.run_python import output_of, start_python

SHARED = Path(__file__).parents[3] / "shared"
RUN = {"command": "a test"}


def luma(image: np.ndarray) -> np.ndarray:
    """BT.601 luma of 8-bit BGR, float64."""
    return 16 + image.astype(float) @ np.array([24.966, 128.553, 65.481]) / 255


def psnr(image: np.ndarray, hr: np.ndarray, border: int) -> float:
    inside = (slice(border, -border),) * 2
    return 10 * np.log10(255**2 / ((luma(image) - luma(hr))[inside] ** 2).mean())


def ssim(image: np.ndarray, hr: np.ndarray, border: int) -> float:
    """With Gaussian windows of 11 pixels that lie inside the image."""
    inside = (slice(border, -border),) * 2
    _, map_ = structural_similarity(
        luma(image)[inside],
        luma(hr)[inside],
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return map_[5:-5, 5:-5].mean()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_set(tmp_path / "data" / "Little", 2, [(45, 52), (40, 41), (50, 40)], grey=2)
    make_set(tmp_path / "data" / "Bare", 2, [(43, 50)], lr=False)
    return tmp_path / "data"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """ESC-light x2, near to a plain enlargement, as trained ones are."""
    network = esc_arch.create("esc_light", 2)
    path = tmp_path / "somewhere" / "net_g_latest.pth"
    path.parent.mkdir()
    torch.save({"params": network.state_dict()}, path)
    return path


def test_scores_and_outputs_agree_with_the_formulas(tmp_path: Path, data: Path, weights: Path):
    test_sets = [quality.open_benchmark(data, name, 2) for name in ("Little", "Bare")]
    assert [test_set.rule is None for test_set in test_sets] == [True, False]
    candidates = [read_candidate(str(weights))]
    tested = quality.compare(candidates, test_sets, tmp_path / "out", "cpu", RUN)
    assert not tested.errors
    assert len(tested.rows) == 2 * 4
    network = esc_arch.create("esc_light", 2, weights=weights).eval()
    for row in tested.rows:
        hr = cv2.imread(row["hr"])
        hr = hr[: hr.shape[0] // 2 * 2, : hr.shape[1] // 2 * 2]
        output = cv2.imread(str(tmp_path / "out" / row["output"]))
        assert row["output"] == f"images/{row['network']}/{row['set']}/{row['image']}x2.png"
        assert row["psnr"] == pytest.approx(psnr(output, hr, 2), abs=1e-4)
        assert row["ssim"] == pytest.approx(ssim(output, hr, 2), abs=1e-4)
        lr = data / row["set"] / "LR_bicubic" / "X2" / f"{row['image']}x2.png"
        if row["network"] == BICUBIC or not lr.is_file():
            continue
        # As the authors validate: reflected to whole windows of 32 pixels first.
        lq = cv2.imread(str(lr))[..., ::-1] / np.float32(255)
        ends = [(0, -side % 32) for side in lq.shape[:2]]
        lq = np.pad(lq, [*ends, (0, 0)], mode="reflect").transpose(2, 0, 1)[None]
        with torch.no_grad():
            wanted = network(torch.from_numpy(lq.copy()))[0].permute(1, 2, 0).numpy()
        wanted = (wanted.clip(0, 1) * 255).round()[: hr.shape[0], : hr.shape[1], ::-1]
        assert np.abs(wanted - output).max() <= 1  # a half may be rounded either way
        assert (wanted != output).mean() < 1e-3
    little = [r for r in tested.rows if (r["set"], r["network"]) == ("Little", BICUBIC)]
    mean = set_means(tested.rows)[Series(BICUBIC, None)]["Little"]
    assert mean.psnr == pytest.approx(np.mean([row["psnr"] for row in little]))
    assert [row["image"] for row in quality.without_greyscale(little)] == ["photo0", "photo1"]
    assert results.read(tmp_path / "out")["quality"] == [{**row, "run": 0} for row in tested.rows]


def test_a_network_for_any_scale_is_tested_at_each(tmp_path: Path, data: Path):
    sizes = {**tiny.SIZES, "hidden_dim": 8}
    network = fill_parameters(esc_arch.create("esc_lte", **sizes)).eval()
    network.freq.weight.data *= 0.1
    torch.save(
        {"model": {"name": "lte", "args": {}, "sd": network.state_dict()}}, tmp_path / "a.pth"
    )
    scales = [2, 2.5, 5]
    candidates = read_candidates(str(tmp_path / "a.pth"), scales)
    assert [c.scale for c in candidates] == scales
    test_sets = [quality.open_benchmark(data, "Little", scale) for scale in scales]
    tested = quality.compare(candidates, test_sets, tmp_path / "out", "cpu", RUN)
    assert not tested.errors
    assert {(r["scale"], r["network"] == BICUBIC) for r in tested.rows} == {
        (scale, is_bicubic) for scale in scales for is_bicubic in (True, False)
    }
    for row in tested.rows:
        scale, hr = row["scale"], cv2.imread(row["hr"])
        height, width = (int(side / scale) for side in hr.shape[:2])
        hr = hr[: round(height * scale), : round(width * scale)]
        output = cv2.imread(str(tmp_path / "out" / row["output"]))
        border = ceil(scale)
        assert row["lr_rule"] == "Pillow's bicubic" if scale != 2 else "lr_rule" not in row
        assert row["psnr"] == pytest.approx(psnr(output, hr, border), abs=1e-4)
        if row["network"] == BICUBIC or scale != 2.5:
            continue
        lr = Image.fromarray(hr[..., ::-1].copy()).resize((width, height), Image.BICUBIC)
        x = torch.from_numpy(np.array(lr)).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            wanted = network(x, size=hr.shape[:2])[0].permute(1, 2, 0).numpy()
        wanted = (wanted.clip(0, 1) * 255).round()[..., ::-1]
        assert np.abs(wanted - output).max() <= 1
        assert (wanted != output).mean() < 1e-3


def test_a_network_of_another_scale_than_those_asked_for(weights: Path):
    assert [c.scale for c in read_candidates(str(weights), [2, 3.5])] == [2]
    with pytest.raises(UserError, match=r"x3 or x3\.5.*found esc_light x2"):
        read_candidates(str(weights), [3, 3.5])


def test_made_lr_images_are_those_that_the_benchmark_has(data: Path):
    made = quality.open_benchmark(data, "Bare", 2).pairs[0]
    hr = photo(0, 43, 50)
    cv2.imwrite(str(data / "Bare" / "HR" / "photo0.png"), hr)
    make_set(data / "Full", 2, [(43, 50)])
    read = quality.open_benchmark(data, "Full", 2).pairs[0]
    assert torch.equal(made["lq"], read["lq"]) and torch.equal(made["gt"], read["gt"])


def test_a_network_that_fails_leaves_the_others(
    tmp_path: Path, data: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    gone = Candidate("esc_light", "esc_light", 2, str(tmp_path / "gone.pth"))
    hungry = Candidate("esc", "esc", 2, "hungry.pth")

    class Hungry(torch.nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("out of memory\nand pages more")

    build = Candidate.build
    monkeypatch.setattr(Candidate, "build", lambda c: Hungry() if c is hungry else build(c))
    candidates = [gone, hungry, read_candidate(str(weights))]
    test_sets = [quality.open_benchmark(data, "Little", 2)]
    tested = quality.compare(candidates, test_sets, tmp_path / "out", "cpu", RUN)
    assert {row["network"] for row in tested.rows} == {"bicubic", "esc_light"}
    assert len(tested.errors) == 2
    assert "gone.pth" in tested.errors[0] and "no such file" in tested.errors[0]
    assert tested.errors[1] == "esc x2 (hungry.pth) on Little failed: out of memory"


@pytest.fixture
def compact(tmp_path: Path) -> list[Path]:
    """Two files of one network that spandrel alone knows."""
    torch.manual_seed(0)
    files = [tmp_path / "runs" / name / "models" / "net_g_latest.pth" for name in ("wide", "long")]
    for file in files:
        network = SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2)
        file.parent.mkdir(parents=True)
        torch.save({"params_ema": network.state_dict()}, file)
    return files


def test_weights_that_spandrel_knows_are_compared_with_rows_apart(
    tmp_path: Path, data: Path, compact: list[Path], monkeypatch, capsys
):
    pytest.importorskip("spandrel")
    monkeypatch.chdir(tmp_path)
    weights = [str(file.relative_to(tmp_path)) for file in compact]
    arguments = ["--weights", *weights, "--data", str(data), "--sets", "Little"]
    assert main(["compare", "quality", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, other in (("wide", "long"), ("long", "wide")):
        assert any(f"runs/{name}" in line or name in line.split() for line in lines), lines
        assert not any(name in line and other in line for line in lines)
    found = results.read(Path("experiments/compare/quality"))["quality"]
    assert {row["weights"] for row in found} == {None, *weights}
    for row in found:
        if row["weights"] is None:
            continue
        network = SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2)
        network.load_state_dict(torch.load(row["weights"])["params_ema"])
        lr = data / "Little" / "LR_bicubic" / "X2" / f"{row['image']}x2.png"
        lq = np.ascontiguousarray(cv2.imread(str(lr))[..., ::-1].transpose(2, 0, 1)) / 255
        with torch.no_grad():
            wanted = network(torch.from_numpy(lq).float()[None])[0].permute(1, 2, 0).numpy()
        wanted = (wanted[..., ::-1].clip(0, 1) * 255).round()
        output = cv2.imread(str(Path("experiments/compare/quality", row["output"])))
        assert np.abs(wanted - output).max() <= 1
        hr = cv2.imread(row["hr"])[: output.shape[0], : output.shape[1]]
        assert row["psnr"] == pytest.approx(psnr(output, hr, 2), abs=1e-4)


def test_values_that_are_not_finite_are_an_error_that_names_the_image(tmp_path: Path, data: Path):
    network = esc_arch.ESC(8, 4, 5, 1, 1, 16, 2, 2)
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 1e30)
    torch.save({"params": network.state_dict()}, tmp_path / "large.pth")
    test_sets = [quality.open_benchmark(data, "Little", 2)]
    candidate = read_candidate(str(tmp_path / "large.pth"))
    tested = quality.compare([candidate], test_sets, tmp_path, "cpu", RUN)
    assert {row["network"] for row in tested.rows} == {BICUBIC}
    assert len(tested.errors) == 1 and ".png" in tested.errors[0]


@pytest.mark.parametrize("kind", ["rgb16", "grey16", "grey", "rgba", "la", "palette"])
@pytest.mark.parametrize("made", [True, False])
def test_other_kinds_of_images_count_as_eight_bits_of_colour(tmp_path: Path, kind: str, made: bool):
    """As every 8-bit reader has them: the high byte, and colours without the alpha."""
    make_set(tmp_path / "Set", 2, [(40, 44)], lr=not made)
    file = tmp_path / "Set" / "HR" / "photo0.png"
    rgb = np.asarray(Image.open(file))
    noise = np.random.default_rng(0).integers(0, 256, rgb.shape, dtype=np.uint16)
    rgb16 = rgb.astype(np.uint16) << 8 | noise
    alpha = np.random.default_rng(1).integers(0, 256, rgb.shape[:2], dtype=np.uint8)
    if kind == "rgb16":
        cv2.imwrite(str(file), rgb16[..., ::-1])
    elif kind == "grey16":
        cv2.imwrite(str(file), rgb16[..., 1])
    elif kind == "palette":
        Image.fromarray(rgb).quantize(64).save(file)
        rgb = np.asarray(Image.open(file).convert("RGB"))
    else:
        parts = {"grey": rgb[..., 1], "rgba": np.dstack([rgb, alpha]),
                 "la": np.dstack([rgb[..., 1], alpha])}  # fmt: skip
        Image.fromarray(parts[kind], {"la": "LA", "rgba": "RGBA"}.get(kind)).save(file)
    expected = rgb if kind in ("rgb16", "rgba", "palette") else np.dstack([rgb[..., 1]] * 3)
    tested = quality.compare([], [quality.open_benchmark(tmp_path, "Set", 2)], tmp_path, "cpu", RUN)
    assert not tested.errors
    (row,) = tested.rows
    output = cv2.imread(str(tmp_path / row["output"]))
    assert row["psnr"] == pytest.approx(psnr(output, expected[..., ::-1], 2), abs=1e-4)


def test_names_that_would_take_each_others_row_are_refused(tmp_path: Path, data: Path):
    shutil.copy(data / "Bare" / "HR" / "photo0.png", data / "Bare" / "HR" / "photo0.bmp")
    with pytest.raises(UserError, match=r"photo0\.bmp.*photo0\.png"):
        quality.open_benchmark(data, "Bare", 2)
    with pytest.raises(UserError, match="--sets"):
        quality.open_benchmark(data, "../data/Little", 2)


def test_validation_sets_of_one_name_are_apart(tmp_path: Path, data: Path):
    section = {"name": "Same", "type": "DownsampleImageDataset", "io_backend": {"type": "disk"}}
    sets = {
        "val": {**section, "dataroot_gt": str(data / "Little" / "HR")},
        "val_2": {**section, "dataroot_gt": str(data / "Bare" / "HR")},
    }
    test_sets = quality.open_validation_sets({"scale": 2, "datasets": sets})
    tested = quality.compare([], test_sets, tmp_path / "out", "cpu", RUN)
    assert len(tested.rows) == len({row["output"] for row in tested.rows}) == 4
    assert len(results.read(tmp_path / "out")["quality"]) == 4


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, data: Path, weights: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/compare").touch()
    monkeypatch.setattr(quality, "compare", None)
    arguments = ["--weights", str(weights), "--data", str(data), "--sets", "Little"]
    for command in (["quality", *arguments], ["cost", "--networks", "esc_light"]):
        assert main(["compare", *command]) == 2
        assert "experiments/compare" in capsys.readouterr().err


def test_a_full_disk_ends_the_work(tmp_path: Path, data: Path, weights: Path, monkeypatch):
    """The other networks need not be computed: nothing of them could be kept."""

    def full(path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    built = []
    monkeypatch.setattr(Candidate, "build", built.append)
    monkeypatch.setattr(os, "fsync", full)
    test_sets = [quality.open_benchmark(data, "Little", 2)]
    with pytest.raises(UserError, match=r"photo\dx2\.png.*No space"):
        quality.compare([read_candidate(str(weights))], test_sets, tmp_path / "out", "cpu", RUN)
    assert not built


@pytest.mark.slow
def test_any_name_in_the_locale_of_c(tmp_path: Path, weights: Path):
    """Also names that are formulas or commands elsewhere."""
    pytest.importorskip("matplotlib")
    make_set(tmp_path / "sets" / "ü", 2, [(40, 44), (44, 40)])
    for folder, suffix in (("HR", ""), ("LR_bicubic/X2", "x2")):
        place = tmp_path / "sets" / "ü" / folder
        (place / f"photo0{suffix}.png").rename(place / f"山{suffix}.png")
        (place / f"photo1{suffix}.png").rename(place / f"a$b$[red]{suffix}.png")
    arguments = ["--weights", str(weights), "--data", "sets", "--sets", "ü"]
    code = f"""
        import os
        os.chdir({str(tmp_path)!r})
        from esc_arch.cli.main import main
        arguments = [os.fsdecode(text.encode()) for text in {arguments!a}]
        assert main(["compare", "quality", *arguments]) == 0
    """
    root = str(Path(__file__).parents[2])
    output_of(start_python(code, LC_ALL="C", PYTHONUTF8="0", PYTHONPATH=root))
    folder = tmp_path / "experiments" / "compare" / "quality"
    assert "ü (2)" in (folder / "report.md").read_text("utf-8")
    assert (folder / "crops.png").is_file()
    assert sorted(path.name for path in (folder / "images" / "bicubic" / "ü").iterdir()) == [
        "a$b$[red]x2.png",
        "山x2.png",
    ]


def test_other_weights_of_a_network_have_a_folder_of_their_own():
    first = Candidate("esc", "esc", 4, "a.pth")
    second = Candidate("esc", "esc", 4, "b.pth")
    assert quality.output_folder(first, []) == "images/esc"
    rows = [
        {"network": "esc", "scale": 4, "weights": "a.pth", "output": "images/esc/Set5/babyx4.png"}
    ]
    assert quality.output_folder(first, rows) == "images/esc"
    assert quality.output_folder(second, rows) == "images/esc_2"
    assert quality.output_folder(Candidate("esc", "esc", 2, "b.pth"), rows) == "images/esc"


def test_a_checkpoint_tells_its_network_and_scale(tmp_path: Path, weights: Path):
    assert read_candidate(str(weights)) == Candidate("esc_light", "esc_light", 2, str(weights), 32)
    assert read_candidate(f"esc_light={weights}", 2).scale == 2
    small = esc_arch.ESC(8, 4, 5, 1, 1, 16, 2, 3)
    torch.save(small.state_dict(), tmp_path / "small.pth")
    found = read_candidate(str(tmp_path / "small.pth"))
    assert (found.preset, found.scale, found.window) == (None, 3, 16)
    assert found.network.startswith("ESC (") and "dim 8" in found.network
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(found.build()(image), small.eval()(image))


def test_weights_that_only_spandrel_knows(tmp_path: Path, data: Path):
    network = RRDBNet(3, 3, scale=2, num_feat=8, num_block=1).eval()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        torch.save({"generator": network.state_dict()}, tmp_path / name / "net.pth")
    found = [read_candidate(str(tmp_path / name / "net.pth")) for name in ("a", "b")]
    assert [(one.network, one.preset, one.scale) for one in found] == [("ESRGAN", None, 2)] * 2
    test_set = quality.open_benchmark(data, "Little", 2)
    rows = quality.compare(found, [test_set], tmp_path / "out", "cpu", RUN).rows
    assert {row["weights"] for row in rows} == {None, *(str(one.weights) for one in found)}
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = network(image).clamp(0, 1)
        assert torch.allclose(found[0].build()(image), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("entry", "scale", "parts"),
    [
        ("{}", 3, ["expected a network for x3", "found esc_light x2"]),
        ("esc={}", None, ["parameters of esc (x2, x3, x4)", "found those of esc_light x2"]),
        ("ecs={}", None, ["expected PRESET=FILE", "'ecs'"]),
        ("{}.gone", None, ["no such file"]),
        ("{}/../other.pth", None, ["found 1 tensors of another (weight)"]),
    ],
)
def test_wrong_weights_are_one_clear_message(
    weights: Path, entry: str, scale: int | None, parts: list[str]
):
    torch.save({"weight": torch.zeros(3)}, weights.parent / "other.pth")
    entry = entry.format(weights) if "/.." not in entry else str(weights.parent / "other.pth")
    with pytest.raises(UserError) as error:
        read_candidate(entry, scale)
    for part in parts:
        assert part in str(error.value)


def test_a_set_without_pairs_is_one_clear_message(data: Path):
    with pytest.raises(UserError, match=r"Nothing.*HR"):
        quality.open_benchmark(data, "Nothing", 2)
    (data / "Little" / "LR_bicubic" / "X2" / "photo1x2.png").unlink()
    with pytest.raises(UserError, match=r"photo1\.png \(LR photo1x2\.png\)"):
        quality.open_benchmark(data, "Little", 2)


@pytest.mark.skipif(not (SHARED / "data" / "Set5").is_dir(), reason="no ../shared/data/Set5")
@pytest.mark.parametrize(("scale", "published"), [(2, 33.67), (3, 30.395), (4, 28.425)])
def test_bicubic_of_set5_is_as_published(tmp_path: Path, scale: int, published: float):
    test_set = quality.open_benchmark(SHARED / "data", "Set5", scale)
    tested = quality.compare([], [test_set], tmp_path, "cpu", RUN)
    mean = set_means(tested.rows)[Series(BICUBIC, None)]["Set5"]
    assert mean.psnr == pytest.approx(published, abs=0.0151)


@pytest.mark.skipif(
    not (SHARED / "weights" / "HiT_SRF_x4_official.pth").is_file()
    or not (SHARED / "data" / "Set5").is_dir(),
    reason="no ../shared/weights/HiT_SRF_x4_official.pth or ../shared/data/Set5",
)
@pytest.mark.slow
def test_hit_srf_of_set5_is_as_published(tmp_path: Path):
    candidate = read_candidate(str(SHARED / "weights" / "HiT_SRF_x4_official.pth"))
    assert (candidate.network, candidate.scale) == ("hit_srf", 4)
    test_set = quality.open_benchmark(SHARED / "data", "Set5", 4)
    tested = quality.compare([candidate], [test_set], tmp_path, "cpu", RUN)
    rows = [row for row in tested.rows if row["network"] == "hit_srf"]
    assert round(float(np.mean([row["psnr"] for row in rows])), 2) == 32.55
