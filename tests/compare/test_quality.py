"""PSNR and SSIM of a comparison, against the formulas, skimage and published numbers."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from skimage.metrics import structural_similarity

import esc_arch
from esc_arch.compare import quality, results
from esc_arch.compare.candidates import Candidate, read_candidate
from esc_arch.compare.series import BICUBIC, Series, set_means
from esc_arch.errors import UserError
from tests.compare.photos import make_set, photo

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
    assert [test_set.is_made for test_set in test_sets] == [False, True]
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
        ("{}", 3, ["expected a network for x3", "found esc_light x2", "Leave --scale out"]),
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
