"""A run that was stopped and goes on ends where one ends that was not."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from tiny_run import NETWORK, assert_equal, iterations, models, options, train, validated

from esc_arch.options import parsing
from esc_arch.training import checkpoints
from tests import tiny

KERNELS = {
    f"{name}{ending}": value
    for ending in ("", "2")
    for name, value in {
        "blur_kernel_size": 21,
        "kernel_list": ["iso", "aniso"],
        "kernel_prob": [0.5, 0.5],
        "sinc_prob": 0.1,
        "blur_sigma": [0.2, 3],
        "betag_range": [0.5, 4],
        "betap_range": [1, 2],
    }.items()
} | {"final_sinc_prob": 0.8}


def sr_options(**changes: object) -> dict:
    return options(model_type="SRModel", **changes)


def gan_options() -> dict:
    opt = options(model_type="SRGANModel")
    opt["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
    opt["path"] |= {"pretrain_network_d": None, "strict_load_d": True}
    gan = {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1}
    opt["train"] |= {"optim_d": {"type": "AdamW", "lr": 1e-3}, "gan_opt": gan}
    opt["train"] |= {"net_d_iters": 1, "net_d_init_iters": 0}
    return opt


def real_options() -> dict:
    """The model degrades the images itself, and mixes them in a pool."""
    opt = options(model_type="RealESRNetModel", **tiny.DEGRADATION)
    opt |= {"gt_size": 16, "queue_size": 4, "gt_usm": True, "high_order_degradation": True}
    data = opt["datasets"]["train"]
    for name in ("dataroot_lq", "gt_size"):
        del data[name]
    names = "".join(f"{path.name}\n" for path in sorted(Path("data/HR").iterdir()))
    Path("names.txt").write_text(names)
    data |= {"type": "RealESRGANDataset", "meta_info": "names.txt", "gt_size": 16, **KERNELS}
    return opt


@pytest.fixture
def small_photos(monkeypatch):
    """The dataset extends every image to 400 x 400 pixels, which take seconds to degrade."""
    read = RealESRGANDataset.__getitem__

    def small(self, index: int) -> dict:
        sample = read(self, index)
        return sample | {"gt": sample["gt"][:, :48, :48]}

    monkeypatch.setattr(RealESRGANDataset, "__getitem__", small)


@pytest.mark.parametrize("make", [options, sr_options, gan_options, real_options])
def test_every_model_ends_where_it_would_have_ended(folder, small_photos, make):
    """Stopped inside the first epoch, of five iterations, and at the end of it."""
    whole = make()
    whole["train"]["total_iter"] = 6
    assert train(whole | {"name": "whole"}) == 0
    for total in (3, 5, 6):
        part = make()
        part["train"]["total_iter"] = total
        assert train(part, "--auto_resume") == 0
    assert_equal(models(), models("whole"))
    assert iterations() == [2, 3, 4, 5, 6]


def test_a_drawn_seed_stays(folder, monkeypatch):
    opt = options(manual_seed=None)
    # Where the option file's seed is drawn, and nowhere else.
    monkeypatch.setattr(parsing, "random", SimpleNamespace(randint=lambda *_: 123))
    train(opt | {"name": "whole"})
    opt["train"]["total_iter"] = 3
    train(opt)
    monkeypatch.setattr(parsing, "random", SimpleNamespace(randint=lambda *_: 77))
    opt["train"]["total_iter"] = 8
    train(opt, "--auto_resume")
    assert_equal(models(), models("whole"))


def test_validation_and_saving_change_nothing(folder):
    often, never = validated(options("often")), options("never")
    never["logger"]["save_checkpoint_freq"] = 1000
    for opt in (often, never):
        train(opt)
    assert_equal(models("often"), models("never"))
    assert iterations("never") == [8]


def test_an_older_state_by_name(folder, capfd, log):
    train(options())
    expected = models()
    opt = options()
    opt["path"]["resume_state"] = "experiments/tiny/training_states/4.state"
    assert train(opt) == 0
    said = "\n".join(log)
    assert "goes on from checkpoint 4" in said and "up to 8" in said
    assert_equal(models(), expected)
    flipped = Path("experiments/tiny/models/net_g_4.pth")
    flipped.write_bytes(flipped.read_bytes().replace(b"params", b"parans", 1))
    assert train(opt) == 2
    said = capfd.readouterr().err
    assert "net_g_4.pth" in said and "Traceback" not in said


def test_damaged_checkpoints_are_passed_over_and_made_again(folder, log):
    train(options())
    expected = models()
    saved = Path("experiments/tiny")
    state = saved / "training_states" / "8.state"
    state.write_bytes(state.read_bytes()[:-100])
    (saved / "models" / "net_g_6.pth").unlink()
    log.clear()
    assert train(options(), "--auto_resume") == 0
    said = "\n".join(log)
    assert "checkpoint 8 is skipped" in said and "8.state" in said
    assert "checkpoint 6 is skipped" in said and "net_g_6.pth" in said
    assert "Resuming training from epoch: 0, iter: 4." in said
    assert_equal(models(), expected)
    assert checkpoints.find_newest(saved, ("g",)).skipped == []


def test_without_a_complete_checkpoint_the_run_begins_anew_beside_the_old(folder, log):
    train(options(total=2))
    Path("experiments/tiny/training_states/2.json").unlink()
    log.clear()
    assert train(options(total=2), "--auto_resume") == 0
    said = "\n".join(log)
    assert "checkpoint 2 is skipped" in said and "Start training from epoch: 0, iter: 0" in said
    assert len(list(Path("experiments").glob("tiny_archived_*/training_states/2.state"))) == 1


def test_a_state_of_basicsr_is_taken(folder, log):
    train(options())
    saved = Path("experiments/tiny/training_states")
    for record in saved.glob("*.json"):
        state = torch.load(record.with_suffix(".state"), weights_only=False)
        del state[checkpoints.OWN]
        torch.save(state, record.with_suffix(".state"))
        record.unlink()
    log.clear()
    assert train(options(total=10), "--auto_resume") == 0
    said = "\n".join(log)
    assert "saved by BasicSR's own training" in said and "iter: 8." in said
    assert all(tensor.isfinite().all() for tensor in models().values())


def test_the_average_is_resumed_whatever_param_key_says(folder):
    train(options("start", total=2))
    opt = options(total=3)
    opt["path"] |= {
        "pretrain_network_g": "experiments/start/models/net_g_latest.pth",
        "param_key_g": "params_ema",
    }
    whole = opt | {"name": "whole", "train": opt["train"] | {"total_iter": 6}}
    train(whole)
    train(opt)
    opt["train"]["total_iter"] = 6
    train(opt, "--auto_resume")
    resumed = models()
    assert_equal(resumed, models("whole"))
    assert not torch.equal(resumed["g params to_img.weight"], resumed["g params_ema to_img.weight"])


def test_another_model_of_the_state_is_one_error(folder, capfd):
    train(options(total=2))
    opt = options()
    opt["train"]["optim_g"] = {"type": "SGD", "lr": 0.1}
    opt["network_g"] = NETWORK | {"n_blocks": 2}
    assert train(opt, "--auto_resume") == 2
    assert "missing (blocks.1." in capfd.readouterr().err


def test_a_changed_batch_goes_on_at_the_same_sample(folder, log):
    train(options(total=3))
    opt = options(total=5)
    opt["datasets"]["train"]["batch_size_per_gpu"] = 1
    train(opt, "--auto_resume")
    state = torch.load("experiments/tiny/training_states/5.state", weights_only=True)
    assert (state["epoch"], state[checkpoints.OWN]["samples"]) == (0, 8)
    opt["datasets"]["train"]["dataset_enlarge_ratio"] = 4
    opt["train"]["total_iter"] = 6
    log.clear()
    train(opt, "--auto_resume")
    assert "epoch 0 begins again" in "\n".join(log)


def test_an_epoch_without_a_batch_is_one_error(folder, capfd):
    opt = options()
    opt["datasets"]["train"] |= {"dataset_enlarge_ratio": 1, "batch_size_per_gpu": 6}
    assert train(opt) == 2
    assert "datasets.train" in capfd.readouterr().err
