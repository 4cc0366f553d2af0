"""ESCLTEModel: steps on queries, and validation by the rules of the published numbers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from PIL import Image
from tiny_training import ADAMW, SGD, gradients, options, state

from esc_arch.models import esc_lte_model
from tests import tiny

NETWORK = {"type": "ESCLTE", **tiny.SIZES, "hidden_dim": 16}
METRICS = {"psnr": {"type": "calculate_psnr_lte"}}


def build(path: dict | None = None, val: dict | None = None, **train: object):
    torch.manual_seed(0)
    opt = options("ESCLTEModel", val or {"save_img": False, "metrics": METRICS}, **train)
    del opt["scale"]
    return build_model({**opt, "network_g": NETWORK, "path": path or {}})


def batch(index: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(index)
    return {
        "lq": torch.rand(4, 3, 8, 8, generator=generator),
        "gt": torch.rand(4, 30, 3, generator=generator),
        "coord": torch.rand(4, 30, 2, generator=generator) * 2 - 1,
        "cell": torch.full((4, 2), 2 / 20),
    }


def train(model, iterations: int = 3):
    for iteration in range(1, iterations + 1):
        model.update_learning_rate(iteration)
        model.feed_data(batch(iteration))
        model.optimize_parameters(iteration)
    return model


def test_a_step_is_that_of_the_loss_on_queries():
    model = build(**SGD)
    network, data = model.net_g, batch(1)
    answers = network(data["lq"], coord=data["coord"], cell=data["cell"])
    loss = (answers - data["gt"]).abs().mean()
    expected = torch.autograd.grad(loss, list(network.parameters()))
    train(model, 1)
    assert model.log_dict["l_pix"] == pytest.approx(loss.item(), rel=1e-6)
    for own, one in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(own, one)


@pytest.mark.parametrize(
    "keys",
    [{"accumulate": 2}, {"channels_last": True, "checkpoint_activations": True}],
    ids=str,
)
def test_keys_of_esc_model_change_speed_and_memory_only(keys):
    first, second = state(train(build(**SGD))), state(train(build(**SGD, **keys)))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.fixture
def root(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in (("a", (41, 50)), ("b", (37, 44))):
        noise = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    return tmp_path


def loader(root: Path, scale: float, name: str = "noise"):
    section = {
        "name": name,
        "type": "RandomScaleImageDataset",
        "dataroot_gt": str(root),
        "io_backend": {"type": "disk"},
        "phase": "val",
        "scale": scale,
    }
    return build_dataloader(build_dataset(section), section)


def colours(network, lq: torch.Tensor, size: tuple[int, int], cell: tuple[float, float]):
    """Every pixel of a result as a query of its own."""
    rows, columns = (-1 + (2 * np.arange(n) + 1) / n for n in size)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(1, -1, 2)
    with torch.no_grad():
        answers = network.eval()(lq, coord=torch.tensor(grid).float(), cell=torch.tensor([cell]))
    return answers[0].double().numpy().reshape(*size, 3)


@pytest.mark.parametrize("scale", [2, 3.3, 6])
def test_validation_is_the_published_one(root, scale):
    """Against the rules, written down with NumPy and Pillow."""
    model = train(build(optim_g=ADAMW))
    values = []
    for file in sorted(root.iterdir()):
        hr = np.asarray(Image.open(file))
        height, width = (math.floor(side / scale) for side in hr.shape[:2])
        size = round(height * scale), round(width * scale)
        hr = hr[: size[0], : size[1]]
        small = Image.fromarray(hr).resize((width, height), Image.Resampling.BICUBIC)
        lq = torch.tensor(np.asarray(small)).permute(2, 0, 1)[None] / 255
        # The sides of a pixel, for scales above 4 those of 4.
        wide = max(scale / 4, 1)
        sr = colours(model.net_g_ema, lq, size, (2 / size[0] * wide, 2 / size[1] * wide))
        difference = sr.clip(0, 1) - hr / 255
        luma = difference @ np.array([65.738, 129.057, 25.064]) / 256
        border = math.ceil(scale)
        values.append(-10 * np.log10(np.mean(luma[border:-border, border:-border] ** 2)))
    model.validation(loader(root, scale), 3, None, False)
    assert model.metric_results["psnr"] == pytest.approx(np.mean(values), abs=1e-3)


def test_max_scale_is_an_option(root):
    def value(**val: object) -> float:
        model = train(build(val={"save_img": False, "metrics": METRICS, **val}, optim_g=ADAMW))
        with torch.no_grad():
            model.net_g_ema.phase.weight.mul_(50)
        model.validation(loader(root, 6), 3, None, False)
        return model.metric_results["psnr"]

    assert value() == value(max_scale=4) != value(max_scale=8)


def test_each_set_has_its_own_scale_and_best_value(root):
    model = train(build(optim_g=ADAMW))
    found = {}
    for scale in (2, 5):
        model.validation(loader(root, scale, f"x{scale}"), 3, None, False)
        found[f"x{scale}"] = model.metric_results["psnr"]
    best = {name: own["psnr"] for name, own in model.best_metric_results.items()}
    assert {name: one["val"] for name, one in best.items()} == found
    assert model.net_g.training


def test_metrics_get_images_that_are_clamped_and_not_rounded(root, monkeypatch):
    seen = []
    keep = lambda data, section: seen.append((data, section)) or 0.0  # noqa: E731
    monkeypatch.setattr(esc_lte_model, "calculate_metric", keep)
    metrics = {"lte": METRICS["psnr"], **tiny.metrics("psnr")}
    model = train(build(val={"save_img": False, "metrics": metrics}, optim_g=ADAMW))
    model.net_g_ema.imnet.layers[6].bias.data[0] += 1.5
    model.validation(loader(root, 2), 3, None, False)
    for (own, first), (same, second), data in zip(
        seen[::2], seen[1::2], loader(root, 2), strict=True
    ):
        # Those of BasicSR know no scale.
        assert first == {**METRICS["psnr"], "scale": 2} and second == metrics["psnr"]
        assert own is same or all(np.array_equal(own[name], same[name]) for name in own)
        with torch.no_grad():
            output = model.net_g_ema(data["lq"], scale=2)[0].flip(0).permute(1, 2, 0)
        assert output.max() > 1
        np.testing.assert_allclose(own["img"], output.clamp(0, 1) * 255, atol=1e-3)
        gt = data["gt"][0].flip(0).permute(1, 2, 0)
        np.testing.assert_allclose(own["img2"], gt * 255, atol=1e-3)


def test_written_images_are_rounded(root, tmp_path):
    folder = tmp_path / "seen"
    model = train(build(optim_g=ADAMW))
    model.opt["path"]["visualization"] = str(folder)
    model.validation(loader(root, 2.5), 3, None, True)
    (data,) = [d for d in loader(root, 2.5) if d["lq_path"][0].endswith("a.png")]
    with torch.no_grad():
        expected = model.net_g_ema(data["lq"], size=tuple(data["gt"].shape[-2:]))[0]
    expected = (expected.clamp(0, 1) * 255).round().permute(1, 2, 0)
    written = np.asarray(Image.open(folder / "a" / "a_3.png"))
    assert np.abs(written.astype(int) - expected.numpy()).max() <= 1
    assert (written == expected.numpy()).mean() > 0.99


def test_a_set_without_hr_images(root, tmp_path):
    section = {
        "name": "photos",
        "type": "SingleImageDataset",
        "dataroot_lq": str(root),
        "io_backend": {"type": "disk"},
        "phase": "val",
        "scale": 2.5,
    }
    model = train(build(val={"save_img": True}, optim_g=ADAMW))
    model.opt["path"]["visualization"] = str(tmp_path / "seen")
    model.validation(build_dataloader(build_dataset(section), section), 3, None, True)
    written = Image.open(tmp_path / "seen" / "a" / "a_3.png")
    assert written.size == (round(50 * 2.5), round(41 * 2.5))


@pytest.fixture
def esc_file(tmp_path) -> tuple[str, dict[str, torch.Tensor]]:
    torch.manual_seed(7)
    weights = build_network(tiny.network(exp_ratio=1.25)).state_dict()
    torch.save({"params_ema": weights}, tmp_path / "esc_x2.pth")
    return str(tmp_path / "esc_x2.pth"), weights


def test_the_encoder_starts_from_esc(esc_file):
    file, weights = esc_file
    path = {"pretrain_network_encoder": file, "param_key_encoder": "params_ema"}
    model, fresh = build(path), build()
    for network in (model.net_g, model.net_g_ema):
        own = network.state_dict()
        assert own.keys() == fresh.net_g.state_dict().keys()
        for name, value in weights.items():
            if not name.startswith("to_img"):
                assert torch.equal(own[f"encoder.{name}"], value), name
    assert torch.equal(model.net_g.coef.weight, fresh.net_g.coef.weight)


def test_a_checkpoint_of_the_whole_network_goes_before_the_encoders(esc_file, tmp_path):
    trained = train(build(optim_g=ADAMW)).net_g.state_dict()
    public = {"model": {"name": "lte", "args": {"hidden_dim": 16}, "sd": trained}}
    torch.save(public, tmp_path / "epoch-last.pth")
    whole = {"pretrain_network_g": str(tmp_path / "epoch-last.pth"), "strict_load_g": True}
    model = build({**whole, "pretrain_network_encoder": esc_file[0]})
    for network in (model.net_g, model.net_g_ema):
        for name, value in network.state_dict().items():
            assert torch.equal(value, trained[name]), name
