"""Mistakes in option files of the Real-ESRGAN models: each gives a message, never a traceback."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from option_cases import DELETE, TRAIN, Case, mutated

from esc_arch import PRESETS, UserError, options

FOLDER = Path(__file__).parents[2] / "options"


def committed(stage: str) -> dict:
    opt = options.read(str(FOLDER / f"train_ESC_Real_x4_{stage}.yml"))
    # The published network builds for too long in a table of so many cases.
    opt["network_g"] |= TRAIN["network_g"] | {"type": "ESCReal", "upscaling_factor": 4}
    opt["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 8}
    if stage == "mse":
        del opt["network_d"]
    return opt


MSE, GAN = committed("mse"), committed("gan")
DATA = "datasets.train"
PAIRS = TRAIN["datasets"]["train"] | {"gt_size": 64, "batch_size_per_gpu": 12}

# Keys that the models and the dataset read by opt[...]: without one they stop at a KeyError.
READ_AT_TOP = [
    f"{name}{ending}"
    for ending in ("", "2")
    for name in (
        "resize_prob",
        "resize_range",
        "gaussian_noise_prob",
        "noise_range",
        "poisson_scale_range",
        "gray_noise_prob",
        "jpeg_range",
    )
] + ["second_blur_prob", "gt_size"]
READ_BY_DATASET = [
    f"{name}{ending}"
    for ending in ("", "2")
    for name in (
        "blur_kernel_size",
        "kernel_list",
        "kernel_prob",
        "sinc_prob",
        "blur_sigma",
        "betag_range",
        "betap_range",
    )
] + ["final_sinc_prob", "dataroot_gt", "meta_info", "io_backend", "use_hflip", "use_rot"]

BOTH = [
    *(
        Case(key, DELETE, (f"{key}: expected", "no such key", f"Add `{key}:"))
        for key in READ_AT_TOP
    ),
    *(Case(f"{DATA}.{key}", DELETE, (f"{DATA}.{key}:", "no such key")) for key in READ_BY_DATASET),
    Case("resize_prob", [0.5, 0.5], ("resize_prob:", "a list of 3", "up, down and keep")),
    Case("resize_prob", [0, 0, 0], ("resize_prob:",)),
    Case("resize_prob2", [0.3, -0.4, 0.3], ("resize_prob2:",)),
    Case("resize_range", [1.5, 0.15], ("resize_range:", "from 0.0275 to 1 and from 1")),
    Case("resize_range", [0.01, 1.5], ("resize_range:",)),
    Case("resize_range2", 0.5, ("resize_range2:", "a list of two numbers")),
    Case("gaussian_noise_prob", 50, ("gaussian_noise_prob:", "a number from 0 to 1")),
    Case("noise_range", [30, 1], ("noise_range:", "the lower one first")),
    Case("poisson_scale_range2", [-1, 1], ("poisson_scale_range2:", "at least 0")),
    Case("jpeg_range", [30, 100], ("jpeg_range:", "from 1 to 99")),
    Case("jpeg_range2", [0, 95], ("jpeg_range2:", "from 1 to 99")),
    Case("gt_size", 258, ("gt_size:", "a multiple of the scale 4", "Write `gt_size: 256`")),
    Case("gt_size", 404, ("gt_size:", "to 400")),
    Case("queue_size", 100, ("queue_size:", "a multiple of the batch size 12", "queue_size: 96")),
    Case("queue_size", 0, ("queue_size:", "at least 1")),
    Case(f"{DATA}.batch_size_per_gpu", 48, ("queue_size:", "batch size 48", "queue_size: 192")),
    Case("quue_size", 180, ("quue_size:", "an unknown key", "'queue_size'?")),
    Case("scale", 3, ("scale:", "a divisor of 400")),
    Case("high_order_degradation", False, (f"{DATA}.type:", "RealESRGANDataset")),
    Case("high_order_degradation", "no", ("high_order_degradation:", "true or false")),
    Case(DATA, PAIRS, (f"{DATA}.type:", "expected RealESRGANDataset", "false` to train on pairs")),
    Case(f"{DATA}.gt_size", 128, (f"{DATA}.gt_size:", "256, the gt_size at the top")),
    Case(f"{DATA}.dataroot_lq", "x", (f"{DATA}.dataroot_lq:", "an unknown key")),
    Case(f"{DATA}.meta_info", None, (f"{DATA}.meta_info:", "text", "nothing (~)")),
    Case(f"{DATA}.meta_info_file", "x", (f"{DATA}.meta_info_file:", "'meta_info'?")),
    Case(f"{DATA}.kernel_list", ["iso", "box"], (f"{DATA}.kernel_list:", "'plateau_aniso'")),
    Case(f"{DATA}.kernel_prob", [0.5, 0.5], (f"{DATA}.kernel_prob:", "6 numbers", "found 2")),
    Case(f"{DATA}.kernel_prob2", [0] * 6, (f"{DATA}.kernel_prob2:", "not all 0")),
    Case(f"{DATA}.blur_sigma", [0, 3], (f"{DATA}.blur_sigma:", "above 0")),
    Case(f"{DATA}.blur_sigma2", [1, 1], (f"{DATA}.blur_sigma2:",)),
    Case(f"{DATA}.betap_range", [1.5, 2], (f"{DATA}.betap_range:", "to 1 and from 1")),
    Case(f"{DATA}.final_sinc_prob", 2, (f"{DATA}.final_sinc_prob:", "from 0 to 1")),
    Case(f"{DATA}.io_backend.type", "disc", ("io_backend.type:", "'disk'?")),
    Case(f"{DATA}.use_rot", 1, (f"{DATA}.use_rot:", "true or false")),
    Case("datasets.val", MSE["datasets"]["train"], ("datasets.val.type:", "LR images")),
    Case("train.total_iters", 5, ("train.total_iters:", "'total_iter'?")),
]
MSE_CASES = [
    *BOTH,
    Case("gt_usm", DELETE, ("gt_usm:", "no such key")),
    Case("gt_usm", "yes", ("gt_usm:", "true or false")),
    Case("network_d", GAN["network_d"], ("network_d:", "an unknown key")),
    Case("train.gan_opt", GAN["train"]["gan_opt"], ("train.gan_opt:", "an unknown key")),
    Case("train.pixel_opt", DELETE, ("train.pixel_opt:", "a pixel or a perceptual loss")),
    Case("model_type", "SRModel", (f"{DATA}.type:", "this model_type", "RealESRNetModel")),
]
GAN_CASES = [
    *BOTH,
    *(
        Case(key, DELETE, (f"{key}:", "no such key"))
        for key in (
            "l1_gt_usm",
            "percep_gt_usm",
            "gan_gt_usm",
            "network_d",
            "train.optim_d",
            "train.gan_opt",
            "train.optim_d.type",
            "train.gan_opt.gan_type",
            "network_d.type",
        )
    ),
    Case("gt_usm", True, ("gt_usm:", "an unknown key", "gt_usm'?")),
    Case("gt_size", 20, ("gt_size:", "from 26 to 400")),
    Case("gt_size", 36, ("network_d:", "judges RGB images of gt_size, 36x36")),
    Case("network_d.num_in_ch", 1, ("network_d:", "RGB images")),
    Case("network_d.num_feats", 8, ("network_d.num_feats:", "'num_feat'?")),
    Case("network_d.type", "UNetDiscriminator", ("network_d.type:", "'UNetDiscriminatorSN'?")),
    Case(
        "network_d",
        {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 8},
        ("network_d:", "256x256", "Input size must be identical"),
    ),
    Case("train.gan_opt.gan_type", "vanila", ("train.gan_opt.gan_type:", "'vanilla'?")),
    Case("train.gan_opt.type", "L1Loss", ("train.gan_opt.type:", "GANLoss or one like it")),
    Case("train.perceptual_opt", {"type": "L1Loss"}, ("perceptual_opt.type:", "PerceptualLoss or")),
    Case("train.perceptual_opt.layer_weights", {}, ("layer_weights:", "at least one layer")),
    Case(
        "train.perceptual_opt",
        {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}, "criterion": "l2"},
        ("train.perceptual_opt.criterion:", "'l1' or 'fro'"),
    ),
    Case("train.perceptual_opt.criterion", "L1", ("criterion:", "'l1'?")),
    Case("train.perceptual_opt.weights", 5, ("train.perceptual_opt.weights:", "text")),
    Case("train.perceptual_opt.weight", "x", ("train.perceptual_opt.weight:", "'weights'?")),
    Case("train.optim_d.lr", DELETE, ("train.optim_d.lr:", "no such key")),
    Case("train.net_d_iters", 0, ("train.net_d_iters:", "at least 1")),
    Case("train.net_d_init_iters", -1, ("train.net_d_init_iters:", "at least 0")),
    Case("path.pretrain_network_d", 5, ("path.pretrain_network_d:", "text")),
]


def message(opt: dict) -> str:
    with pytest.raises(UserError) as caught:
        options.check_structure(opt, "real.yml", is_train=True)
    return str(caught.value)


def name(case: object) -> str:
    return f"{case.key}={str(case.value)[:20]}" if isinstance(case, Case) else ""


@pytest.mark.parametrize("case", MSE_CASES, ids=name)
def test_mistake_in_the_first_stage(case):
    text = message(mutated(MSE, case.key, case.value))
    assert all(fragment in text for fragment in case.fragments), text


@pytest.mark.parametrize("case", GAN_CASES, ids=name)
def test_mistake_in_the_second_stage(case):
    text = message(mutated(GAN, case.key, case.value))
    assert all(fragment in text for fragment in case.fragments), text


def test_a_misspelt_list_of_kernels_is_one_problem():
    opt = mutated(GAN, f"{DATA}.krenel_list", GAN["datasets"]["train"]["kernel_list"])
    text = message(mutated(opt, f"{DATA}.kernel_list", DELETE))
    assert "problems" not in text
    assert "'kernel_list'?" in text


def test_one_mistake_is_one_problem():
    for key in (*READ_AT_TOP, "l1_gt_usm"):
        assert "problems" not in message(mutated(GAN, key, DELETE))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.perceptual_opt", DELETE),
        ("train.ldl_opt", {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"}),
        ("train.gan_opt.gan_type", "hinge"),
        ("train.perceptual_opt.criterion", "l2"),
        ("queue_size", DELETE),
        ("datasets.train.gt_size", 256),
        ("datasets.train.use_shuffle", True),
        ("datasets.train.io_backend", {"type": "lmdb"}),
        ("jpeg_range", [30, 30]),
    ],
)
def test_right_option_passes(key, value):
    opt = mutated(GAN, key, value)
    if value == {"type": "lmdb"}:
        del opt["datasets"]["train"]["meta_info"]
    options.check_structure(opt, "real.yml", is_train=True)


def test_locally_discriminative_loss_needs_an_average():
    opt = mutated(GAN, "train.ldl_opt", {"type": "L1Loss"})
    assert "train.ema_decay:" in message(mutated(opt, "train.ema_decay", DELETE))


def test_training_on_pairs_needs_no_degradation():
    for stage in (MSE, GAN):
        opt = mutated(stage, DATA, PAIRS) | {"high_order_degradation": False}
        for key in {"noise_range", "jpeg_range2", "queue_size", "resize_prob"}:
            del opt[key]
        options.check_structure(opt, "real.yml", is_train=True)


SCALARS = st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | st.text(max_size=3)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.just("type"), SCALARS)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_changes_raise_nothing_but_user_error(data):
    opt = data.draw(st.sampled_from([MSE, GAN]))
    keys = [k for k in opt if k != "network_g"] + [f"{DATA}.{k}" for k in opt["datasets"]["train"]]
    keys += [f"train.{k}" for k in opt["train"]] + ["network_d.num_feat", "train.gan_opt.gan_type"]
    for _ in range(2):
        try:
            opt = mutated(
                opt, data.draw(st.sampled_from(keys)), data.draw(st.just(DELETE) | VALUES)
            )
        except (KeyError, TypeError):
            continue
    try:
        options.check(opt, "real.yml", options.Run(is_train=True))
    except UserError as error:
        assert str(error).startswith("real.yml: ")


def test_recipe_of_the_paper():
    mse, gan = (options.read(str(FOLDER / f"train_ESC_Real_x4_{s}.yml")) for s in ("mse", "gan"))
    test = options.read(str(FOLDER / "test_ESC_Real_x4.yml"))
    preset = PRESETS["esc_real"]
    network = {"type": "ESCReal", "upscaling_factor": 4, **preset.arguments}
    assert mse["network_g"] == gan["network_g"] == test["network_g"] == network
    assert mse["datasets"] == gan["datasets"]
    for key in (*READ_AT_TOP, "queue_size", "scale"):
        assert mse[key] == gan[key]
    data, train = mse["datasets"]["train"], mse["train"]
    assert (mse["gt_size"], data["batch_size_per_gpu"] * 4, mse["gt_usm"]) == (256, 48, True)
    assert (train["total_iter"], train["scheduler"]["milestones"]) == (1_000_000, [100_000])
    assert train["scheduler"]["gamma"] == 0.4
    assert (train["optim_g"]["lr"], train["optim_g"]["betas"]) == (5e-4, [0.9, 0.9])
    train = gan["train"]
    assert train["total_iter"] == 400_000
    assert train["scheduler"]["milestones"] == [400_000]
    adam = {"type": "Adam", "lr": 1e-4, "weight_decay": 0, "betas": [0.9, 0.99]}
    assert train["optim_g"] == train["optim_d"] == adam
    weights = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1}
    assert train["perceptual_opt"]["layer_weights"] == weights
    losses = [train[name]["loss_weight"] for name in ("pixel_opt", "gan_opt")]
    assert (*losses, train["perceptual_opt"]["perceptual_weight"]) == (1, 0.1, 1)
    for opt, earlier in ((gan, mse), (test, gan)):
        file = f"experiments/{earlier['name']}/models/net_g_latest.pth"
        assert opt["path"]["pretrain_network_g"] == file
        assert opt["path"]["param_key_g"] == "params_ema"
