"""What is left of a run that an error ends, and what the error says."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.losses.basic_loss import L1Loss
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import METRIC_REGISTRY
from tiny_run import assert_equal, iterations, models, options, train, validated

from esc_arch.cli.main import main
from esc_arch.training.experiments import read_experiment
from tests import tiny

SAVED = Path("experiments/tiny")


def sr_options(**changes: object) -> dict:
    return validated(options(model_type="SRModel", **changes))


def ended(opt: dict, capfd, code: int = 2) -> str:
    """Train to an error; returns its line."""
    assert train(opt) == code
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return " ".join(said[said.index("basicsr: ") :].split())


def damage(name: str = "3.png") -> None:
    (Path("data/LR") / name).write_bytes(b"no image")


def delete(name: str = "3.png") -> None:
    (Path("data/LR") / name).unlink()


def at_second_validation(monkeypatch, break_it) -> None:
    """Break a file when two checkpoints are to be written: validation is every two, too."""
    test, count = SRModel.test, []

    def breaking(self) -> None:
        count.append(1)
        if len(count) == 6:  # the first of the five images of the second validation
            break_it()
        test(self)

    monkeypatch.setattr(SRModel, "test", breaking)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [(damage, "no readable"), pytest.param(delete, "No such", marks=pytest.mark.slow)],
)
def test_an_image_of_a_validation_that_breaks_is_named_and_costs_no_iteration(
    folder, capfd, monkeypatch, break_it, reason
):
    whole = sr_options(name="whole")
    whole["datasets"]["train"]["dataroot_lq"] = "data/LR_train"
    Path("data/LR").rename("data/LR_train")
    shutil.copytree("data/LR_train", "data/LR")
    assert train(whole) == 0
    content = Path("data/LR/3.png").read_bytes()
    with monkeypatch.context() as patch:
        at_second_validation(patch, break_it)
        line = ended(whole | {"name": "tiny"}, capfd)
    assert "data/LR/3.png" in line and reason in line and "write" not in line
    assert "Safe on disk is checkpoint 4," in line
    assert iterations() == [2, 4]
    Path("data/LR/3.png").write_bytes(content)
    assert train(whole | {"name": "tiny"}, "--auto_resume") == 0
    assert_equal(models(), models("whole"))


def fails_at(monkeypatch, owner, name: str, number: int, error: Exception) -> None:
    """Let a method raise an error at its n-th call."""
    original, count = getattr(owner, name), []

    def failing(*args, **kwargs):
        count.append(1)
        if len(count) == number:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


def test_memory_that_runs_out_in_a_validation(folder, capfd, monkeypatch):
    opt = sr_options(total=4)
    opt["val"]["val_freq"] = 3
    fails_at(monkeypatch, SRModel, "test", 2, torch.OutOfMemoryError("CUDA out of memory."))
    line = ended(opt, capfd)
    assert re.search(r"data/LR/\d.png", line) and "tile" in line
    assert "Safe on disk is checkpoint 3," in line


def broken_metric(img, img2, crop_border=0) -> float:
    raise ZeroDivisionError("no such thing")


@pytest.mark.parametrize("save_every", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_an_error_in_a_metric_names_it_and_its_image(folder, capfd, monkeypatch, save_every):
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, "broken_metric", broken_metric)
    opt = sr_options()
    opt["val"]["metrics"] = {"odd": {"type": "broken_metric"}}
    opt["logger"]["save_checkpoint_freq"] = save_every
    line = ended(opt, capfd)
    assert "broken_metric" in line and "no such thing" in line and "data/LR/" in line
    assert "Safe on disk is checkpoint 2," in line


def test_a_metric_without_a_number_ends_the_run(folder, capfd, monkeypatch):
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, "broken_metric", lambda img, img2: float("nan"))
    opt = sr_options()
    opt["val"]["metrics"] = {"odd": {"type": "broken_metric"}}
    line = ended(opt, capfd)
    assert "val.metrics.odd" in line and "nan" in line and "data/LR/" in line


def test_an_error_in_an_iteration_leaves_the_one_before_to_the_last_bit(folder, monkeypatch):
    """The error comes before a step of an optimiser, here in the loss at its sixth call."""
    whole = options("whole", model_type="SRModel")
    whole["logger"]["save_checkpoint_freq"] = 100
    assert train(whole) == 0
    with monkeypatch.context() as patch:
        fails_at(patch, L1Loss, "forward", 6, RuntimeError("a loss of one's own"))
        with pytest.raises(RuntimeError, match="one's own"):
            train(whole | {"name": "tiny"})
    assert iterations() == [5]
    assert train(whole | {"name": "tiny"}, "--auto_resume") == 0
    assert_equal(models(), models("whole"))


@pytest.mark.slow
def test_memory_that_runs_out_in_an_iteration(folder, capfd, monkeypatch):
    fails_at(monkeypatch, L1Loss, "forward", 4, torch.OutOfMemoryError("CUDA out of memory."))
    line = ended(options(model_type="SRModel"), capfd)
    assert "batch_size_per_gpu" in line and "Safe on disk is checkpoint 3," in line


# A training that breaks down.


@pytest.mark.parametrize(
    "model",
    ["SRModel", *(pytest.param(m, marks=pytest.mark.slow) for m in ("SwinIRModel", "SRGANModel"))],
)
def test_weights_that_are_not_finite_end_the_run_and_are_never_written(
    folder, capfd, monkeypatch, model
):
    opt = options(model_type=model, total=12)
    if model == "SRGANModel":
        opt["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
        opt["path"] |= {"pretrain_network_d": None, "strict_load_d": True}
        gan = {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1}
        opt["train"] |= {"optim_d": {"type": "Adam", "lr": 1e-3}, "gan_opt": gan}
        opt["train"] |= {"net_d_iters": 1, "net_d_init_iters": 0}
    opt["logger"] |= {"keep_last": 2}
    feed, count = SRModel.feed_data, []

    def feeding(self, data) -> None:
        count.append(1)
        feed(self, data)
        if len(count) > 6:
            self.lq = self.lq * float("nan")

    monkeypatch.setattr(SRModel, "feed_data", feeding)
    line = ended(opt, capfd)
    assert "l_" in line and "nan" in line and "net_g" in line
    assert "Safe on disk is checkpoint 6," in line
    assert iterations() == [4, 6]
    for iteration in (4, 6):
        assert all(tensor.isfinite().all() for tensor in models(iteration=iteration).values())
    assert read_experiment(SAVED)[0].status == "stopped"


@pytest.mark.parametrize(
    "where",
    [
        "params_ema",
        *(pytest.param(w, marks=pytest.mark.slow) for w in ("params", "optimizer", "last")),
    ],
)
def test_what_no_loss_shows_is_found_before_it_is_written(folder, capfd, monkeypatch, where):
    """Infinite gradients, an average that overflows, in the last iteration, too."""
    opt = options(model_type="SRModel", total=6 if where != "last" else 5)
    optimize, count = SRModel.optimize_parameters, []

    def optimizing(self, iteration: int) -> None:
        optimize(self, iteration)
        if iteration == opt["train"]["total_iter"]:
            if where == "optimizer":
                state = next(iter(self.optimizer_g.state.values()))
                state["exp_avg"].view(-1)[0] = float("inf")
            else:
                network = self.net_g_ema if where == "params_ema" else self.net_g
                next(network.parameters()).data.view(-1)[0] = float("inf")

    monkeypatch.setattr(SRModel, "optimize_parameters", optimizing)
    line = ended(opt, capfd)
    assert "finite" in line and "Safe on disk is checkpoint 4," in line
    assert iterations() == [2, 4] and not count
    assert not list(SAVED.rglob("*latest*"))
    assert read_experiment(SAVED)[0].status == "stopped"


@pytest.mark.slow
def test_losses_that_are_not_finite_are_borne_as_long_as_weights_are(folder, monkeypatch):
    """As ESCModel does, whose weights do not follow."""
    opt = options(model_type="ESCModel")
    step, count = SRModel.feed_data, []

    def feeding(self, data) -> None:
        count.append(1)
        step(self, data)
        if len(count) in (2, 3):
            self.lq = self.lq * float("nan")

    monkeypatch.setattr(SRModel, "feed_data", feeding)
    assert train(opt) == 0
    assert all(tensor.isfinite().all() for tensor in models().values())


# Images that are written.


@pytest.mark.slow
def test_images_of_two_sets_have_files_of_their_own(folder):
    """Of the same names."""
    opt = sr_options(total=2)
    opt["datasets"]["val_2"] = {"name": "more", **tiny.pair(dataroot_lq="data/HR2")}
    opt["datasets"]["val_2"] |= {"dataroot_gt": "data/HR4"}
    for root, side in (("HR2", 20), ("HR4", 40)):
        Path("data", root).mkdir()
        for file in Path("data/HR").iterdir():
            image = cv2.resize(cv2.imread(str(file)), (side, side))
            cv2.imwrite(f"data/{root}/{file.name}", image)
    opt["val"]["save_img"] = True
    assert train(opt) == 0
    files = sorted(str(p.relative_to(SAVED)) for p in SAVED.glob("visualization/**/*.png"))
    assert files == sorted(
        f"visualization/{name}/{i}/{i}_2.png" for i in range(5) for name in ("tiny_val", "more")
    )
    assert {cv2.imread(str(SAVED / name)).shape[0] for name in files if "/more/" in name} == {40}


def test_images_of_one_name_in_folders_have_files_of_their_own(folder):
    """Of a list, as BasicSR reads folders below a folder."""
    names = {"a/0.png": 10, "b/0.png": 12, "b/1.png": 14, "b/c/1.png": 16, "2.png": 18}
    for name, side in names.items():
        Path("lr", name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(f"lr/{name}", np.zeros((side, side, 3), np.uint8))
    Path("names.txt").write_text("".join(f"{name} ({s},{s},3)\n" for name, s in names.items()))
    data = {"name": "lists", "type": "SingleImageDataset", "dataroot_lq": "lr"}
    data |= {"meta_info_file": "names.txt", "io_backend": {"type": "disk"}}
    opt = tiny.evaluation(tiny.options(), datasets={"test_1": data}, val__metrics=None)
    tiny.write(Path("test.yml"), opt)
    assert main(["test", "-opt", "test.yml", "--untrained"]) == 0
    found = {
        str(path.relative_to("results/tiny/visualization")): cv2.imread(str(path)).shape[0]
        for path in Path("results/tiny/visualization").glob("**/*.png")
    }
    assert sorted(found.values()) == [20, 24, 28, 32, 36]
    assert found["lists/2_tiny.png"] == 36 and found["a/lists/0_tiny.png"] == 20


def test_a_test_of_random_weights_is_refused_unless_asked_for(folder, capfd):
    tiny.write(Path("test.yml"), tiny.evaluation(tiny.options()))
    assert main(["test", "-opt", "test.yml"]) == 2
    said = capfd.readouterr().err
    assert "path.pretrain_network_g" in said and "--untrained" in said
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("border", "name"),
    [({"crop_border": 10}, "crop_border"), ({"input_order": "CHW"}, "input_order")],
)
@pytest.mark.parametrize("metric", ["psnr", "ssim"])
def test_a_metric_that_has_no_pixels_is_refused(folder, capfd, border, name, metric):
    opt = sr_options()
    opt["val"]["metrics"] = {"m": {"type": f"calculate_{metric}", "crop_border": 2, **border}}
    line = ended(opt, capfd)
    assert name in line
    assert not Path("experiments").exists()


def test_a_validation_in_tiles_is_that_of_the_whole_for_a_local_network(folder, capfd):
    """EDSR looks few pixels far, so tiles of 8 pixels with their surroundings are exact."""
    edsr = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 1}
    edsr |= {"upscale": 2, "img_range": 255.0, "rgb_mean": [0.4, 0.4, 0.4]}
    results = []
    for tile in (None, 8):
        opt = sr_options(name=f"tiles_{tile}", total=2, network_g=edsr)
        opt["val"] |= {"save_img": True} | ({} if tile is None else {"tile": tile})
        for section in opt["datasets"].values():
            section |= {"dataroot_gt": "large/HR", "dataroot_lq": "large/LR"}
        if not results:
            rng = np.random.default_rng(0)
            for root, side in (("HR", 140), ("LR", 70)):
                Path("large", root).mkdir(parents=True)
                image = rng.integers(0, 256, (side, side + side // 10, 3), dtype=np.uint8)
                cv2.imwrite(f"large/{root}/0.png", image)
        assert train(opt) == 0
        (file,) = Path("experiments", opt["name"]).glob("visualization/**/0_2.png")
        results.append(cv2.imread(str(file)).astype(int))
    assert np.abs(results[0] - results[1]).max() <= 1


def test_two_sets_of_one_name_are_refused(folder, capfd):
    opt = sr_options()
    opt["datasets"]["val_2"] = opt["datasets"]["val"]
    line = ended(opt, capfd)
    assert "datasets.val_2.name" in line and "tiny_val" in line
    assert not Path("experiments").exists()


def test_nothing_to_resume_from_is_said(folder, log):
    assert train(options(total=1), "--auto_resume") == 0
    said = "\n".join(log)
    assert "--auto_resume" in said and "iteration 0" in said and "experiments/tiny" in said
