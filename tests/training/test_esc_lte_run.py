"""``basicsr train`` and ``basicsr test`` of ESC+LTE on tiny images."""

import json
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from PIL import Image
from tiny_run import assert_equal, models, options, train, validated

from esc_arch.cli.main import main
from tests import tiny

HR = {"type": "RandomScaleImageDataset", "dataroot_gt": "data/HR", "io_backend": {"type": "disk"}}
SCALES = (2, 3.3)


def lte_options(total: int, workers: int = 0) -> dict:
    opt = validated(options(model_type="ESCLTEModel", total=total))
    del opt["scale"]
    data = opt["datasets"]["train"]
    for name in ("dataroot_lq", "gt_size"):
        del data[name]
    data |= {**HR, "lq_size": 4, "sample_q": 12, "scale_range": [1, 4]}
    data["num_worker_per_gpu"] = workers
    opt["datasets"] = {"train": data, **sections("val")}
    opt["network_g"] = {"type": "ESCLTE", **tiny.SIZES, "hidden_dim": 16}
    opt["val"]["metrics"] = {"psnr": {"type": "calculate_psnr_lte"}}
    opt["logger"]["keep_best"] = "psnr"
    return opt


def sections(phase: str) -> dict[str, dict]:
    return {
        f"{phase}_{i}": {"name": f"tiny_x{scale:g}", **HR, "scale": scale}
        for i, scale in enumerate(SCALES, 1)
    }


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_training_ends_where_it_would_have_ended(folder, log, workers):
    assert train(lte_options(6, workers) | {"name": "whole"}) == 0
    said = "\n".join(log)
    for scale in SCALES:
        assert said.count(f"Validation tiny_x{scale:g}\n") == 4  # at 2, 4, 6 and the end
    for total in (3, 6):
        assert train(lte_options(total, workers), "--auto_resume") == 0
    assert_equal(models(), models("whole"))
    assert_equal(models(iteration="best"), models("whole", iteration="best"))

    # The network of the last iteration, in the public release's layout.
    weights = torch.load("experiments/tiny/models/net_g_latest.pth", weights_only=True)
    public = {"model": {"name": "lte", "args": {}, "sd": weights["params_ema"]}}
    torch.save(public, "epoch-last.pth")
    opt = lte_options(6)
    test = {name: opt[name] for name in ("name", "model_type", "num_gpu", "network_g")}
    test |= {"datasets": sections("test"), "path": {"pretrain_network_g": "epoch-last.pth"}}
    test["val"] = {"save_img": True, "suffix": None, "metrics": opt["val"]["metrics"]}
    tiny.write(Path("test.yml"), test)
    before = len(log)
    assert main(["test", "-opt", "test.yml"]) == 0
    tested = [line for line in log[before:] if line.startswith("Validation")]
    validated_last = [line for line in log[:before] if line.startswith("Validation")][-2:]
    # The lines of a training end in the best value so far.
    for line, other in zip(tested, validated_last, strict=True):
        assert line.split()[:5] == other.split()[:5]
    for scale in SCALES:
        images = sorted(Path("results/tiny/visualization", f"tiny_x{scale:g}").iterdir())
        assert len(images) == 5
        side = round(int(20 / scale) * scale)
        assert np.asarray(Image.open(images[0])).shape == (side, side, 3)


def test_a_resumed_training_needs_no_weights_of_esc(folder, log):
    torch.manual_seed(7)
    esc = build_network(tiny.network(exp_ratio=1.25)).state_dict()
    torch.save({"params_ema": esc}, "esc_x2.pth")
    path = {"pretrain_network_encoder": "esc_x2.pth", "param_key_encoder": "params_ema"}
    opt = lte_options(4)
    opt["path"] = path
    assert train(opt | {"name": "whole"}) == 0
    (said,) = [line for line in log if "encoder starts from" in line]
    assert "esc_x2.pth; to_img" in said
    part = lte_options(2)
    part["path"] = path
    assert train(part) == 0
    Path("esc_x2.pth").unlink()
    assert train(opt, "--auto_resume") == 0
    assert_equal(models(), models("whole"))
    # Without them it would have ended elsewhere.
    assert train(lte_options(4) | {"name": "other"}) == 0
    assert not torch.equal(*(models(n)["g params encoder.proj.weight"] for n in ("tiny", "other")))


@pytest.mark.slow
def test_two_processes_train_and_validate_as_one(folder):
    """To rounding, as gradients of two halves of a batch are added in another order."""
    opt = lte_options(6)
    opt["train"]["optim_g"] = {"type": "SGD", "lr": 0.05, "momentum": 0.9}
    found = {}
    for processes in (1, 2):
        opt["name"] = name = f"of_{processes}"
        opt["datasets"]["train"]["batch_size_per_gpu"] = 4 // processes
        if processes == 1:
            assert train(opt) == 0
        else:
            assert jobs.torchrun(opt).wait(jobs.SECONDS) == 0, Path("log").read_text()
        state = Path("experiments", name, "training_states", "6.json").read_text()
        found[processes] = models(name), json.loads(state)["best_metric_results"]
    (one, best), (two, same) = found[1], found[2]
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-4, atol=1e-6, msg=key)
    for scale in SCALES:
        value = same[f"tiny_x{scale:g}"]["psnr"]["val"]
        assert value == pytest.approx(best[f"tiny_x{scale:g}"]["psnr"]["val"], abs=1e-3)
