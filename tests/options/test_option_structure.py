"""Every mistake of the table gives a message with file, key and remedy; nothing else."""

import copy
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from option_cases import (
    COSINE,
    DELETE,
    DOWNSAMPLE,
    PERCEPTUAL,
    SINGLE,
    TEST,
    TEST_CASES,
    TRAIN,
    TRAIN_CASES,
    mutated,
)
from option_cases import Case as OptionCase

from esc_arch import options
from esc_arch.errors import UserError


def message(opt: dict, is_train: bool = True) -> str:
    before = copy.deepcopy(opt)
    with pytest.raises(UserError) as caught:
        options.check_structure(opt, "tiny.yml", is_train)
    assert opt == before, "a check must not change the options"
    return str(caught.value)


def name(case: object) -> str:
    return f"{case.key}={str(case.value)[:20]}" if isinstance(case, OptionCase) else ""


@pytest.mark.parametrize("case", TRAIN_CASES, ids=name)
def test_training_mistake(case):
    text = message(mutated(TRAIN, case.key, case.value))
    assert text.startswith("tiny.yml: ")
    assert all(fragment in text for fragment in case.fragments), text


@pytest.mark.parametrize("case", TEST_CASES, ids=name)
def test_testing_mistake(case):
    text = message(mutated(TEST, case.key, case.value), is_train=False)
    assert text.startswith("tiny.yml: ")
    assert all(fragment in text for fragment in case.fragments), text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.scheduler", COSINE),
        ("train.optim_g.type", "AdamW"),
        ("train.optim_g", {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True}),
        ("train.optim_g", {"type": "Adafactor", "lr": 0.1, "eps": [None, 1e-3]}),
        ("datasets.train", DOWNSAMPLE),
        ("datasets.train", DOWNSAMPLE | {"dataroot_gt": "data/HR", "meta_info_file": "names.txt"}),
        ("datasets.train", DOWNSAMPLE | {"meta_info_file": [None, "names.txt"]}),
        ("datasets.train", DOWNSAMPLE | {"downsampling": "matlab_bicubic"}),
        ("datasets.val", {key: DOWNSAMPLE[key] for key in list(DOWNSAMPLE)[:4]} | {"name": "v"}),
        ("train.scheduler", COSINE | {"periods": [9]}),
        ("train.scheduler.type", "MultiStepRestartLR"),
        ("train.total_iter", 10.0),
        ("train.perceptual_opt", PERCEPTUAL),
        ("train.pixel_opt.loss_weight", 1),
        ("val.metrics", None),
        ("val.metrics.psnr.better", "higher"),
        ("val.metrics.niqe", {"type": "calculate_niqe", "crop_border": 2, "better": "lower"}),
        ("network_g.exp_ratio", 2),
        ("network_g.attn_type", "Flex"),
        ("datasets.train.use_shuffle", True),
        ("logger.wandb", {"project": None, "resume_id": None}),
        ("num_gpu", 8),
        ("path.ignore_resume_networks", ["network_d"]),
        ("path.param_key_g", None),
        ("dist_params", {"backend": "nccl", "port": 29500}),
        ("manual_seed", None),
    ],
)
def test_right_option_passes(key, value):
    options.check_structure(mutated(TRAIN, key, value), "tiny.yml", True)


@pytest.mark.parametrize(
    "network",
    [
        {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1}
        | {"upscale": 2, "res_scale": 0.1, "img_range": 255.0, "rgb_mean": [0.4, 0.4, 0.4]},
        {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2},
        # Cannot be built on the meta device, though nothing is wrong with it.
        {"type": "SwinIR", "upscale": 2, "embed_dim": 12, "depths": [2], "num_heads": [2]}
        | {"img_size": 16, "window_size": 8, "upsampler": "pixelshuffledirect"},
        # Registered with the suffix _basicsr.
        {"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 1, "upscale": 2},
    ],
    ids=lambda network: network["type"],
)
def test_networks_of_basicsr_pass(network):
    options.check_structure(mutated(TRAIN, "network_g", network), "tiny.yml", True)


def test_default_scale_of_the_network_counts():
    network = {"type": "MSRResNet", "num_feat": 8, "num_block": 1}
    text = message(mutated(TRAIN, "network_g", network))
    assert "network_g.upscale: expected 2" in text
    assert "its default, 4" in text


@pytest.mark.parametrize("model", ["SwinIRModel", "ESRModel"])
def test_models_that_pad_need_a_window_size(model):
    opt = mutated(TRAIN, "model_type", model)
    options.check_structure(opt, "tiny.yml", True)
    opt["network_g"] = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2}
    assert "network_g.window_size: expected" in message(opt)


def test_other_models_may_have_other_keys():
    opt = mutated(TRAIN, "model_type", "SRGANModel") | {"queue_size": 180, "gt_usm": True}
    opt["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 8}
    opt["train"] |= {"net_d_iters": 1, "optim_d": {"type": "Adam", "lr": 1e-4}}
    opt["train"]["gan_opt"] = {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1}
    opt["path"] |= {"pretrain_network_d": None, "param_key_d": "params", "strict_load_d": True}
    options.check_structure(opt, "tiny.yml", True)
    opt["train"]["gan_opt"]["type"] = "GanLos"
    assert "train.gan_opt.type" in message(opt)


def test_single_images_can_be_tested_without_metrics():
    opt = mutated(TEST, "datasets.test_1", SINGLE)
    opt["val"]["metrics"] = None
    del opt["scale"]
    options.check_structure(opt, "tiny.yml", False)


def test_all_problems_are_listed_and_numbered():
    opt = mutated(mutated(TRAIN, "network_g.dim", "64"), "logger.print_freq", 0)
    opt["train"]["optim_g"]["type"] = "LBFGS"
    text = message(opt)
    assert text.startswith("tiny.yml: 3 problems\n  1. ")
    assert [line[:5] for line in text.splitlines()[1:]] == ["  1. ", "  2. ", "  3. "]


def test_a_misspelt_required_key_is_one_problem():
    opt = mutated(TRAIN, "logger.print_freq", DELETE)
    opt["logger"]["print_frq"] = 5
    assert "problems" not in message(opt)


def test_a_list_for_the_name_of_a_loss():
    opt = mutated(TRAIN, "train.pixel_opt.type", ["L1Loss"])
    with pytest.raises(UserError, match=r"train\.pixel_opt\.type: expected the name of a"):
        options.check(opt, "tiny.yml", options.Run(is_train=True))


def places(opt: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in opt.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += places(value, f"{prefix}{key}.")
    return found


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    # A larger n_blocks would build for minutes.
    st.integers(-3, 40),
    st.floats(-10, 10) | st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    st.text(max_size=5),
    st.sampled_from(["auto", "Adam", "ESC", "RCAN", "SRModel", "lmdb", "cuda", "train", "{}"]),
    st.binary(max_size=2),
    st.dates(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "lr", "a", 1, None]), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_changes_raise_nothing_but_user_error(data):
    is_train = data.draw(st.booleans())
    opt = TRAIN if is_train else TEST
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(places(opt)).filter(bool))
        value = data.draw(st.just(DELETE) | VALUES)
        try:
            opt = mutated(opt, key, value)
        except (KeyError, TypeError):
            continue  # a key that is no text, or that holds a dot
    run = options.Run(is_train, auto_resume=data.draw(st.booleans()))
    for check, last in ((options.check_structure, is_train), (options.check, run)):
        try:
            check(opt, "tiny.yml", last)
        except UserError as error:
            assert str(error).startswith("tiny.yml: ")


@pytest.mark.parametrize("name", ["dataroot_gt", "dataroot_lq"])
def test_a_list_of_folders(name):
    roots = ["data/HR", "data/more"]
    text = message(mutated(TRAIN, f"datasets.train.{name}", roots))
    assert f"datasets.train.{name}: expected one folder or LMDB" in text
    assert "a list of 2" in text and "DownsampleImageDataset" in text
    text = message(mutated(TEST, f"datasets.test_1.{name}", roots), is_train=False)
    assert f"datasets.test_1.{name}: expected one folder" in text and "test_1, test_2" in text


@pytest.mark.parametrize("key", ["name", "datasets.val.name", "path.pretrain_network_g"])
def test_text_that_file_names_cannot_have(monkeypatch, key):
    """In a locale of few letters, which is not ASCII's."""
    opt = mutated(TRAIN, key, "山")
    options.check_structure(opt, "tiny.yml", True)
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("latin-1"))
    text = message(opt)
    assert f"{key}: " in text and r"\u5c71" in text and "PYTHONUTF8=1" in text
