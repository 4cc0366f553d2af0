"""Option files of ESCLTEModel: each mistake gives a message that says what to do."""

import pytest
import torch
from basicsr.archs import build_network
from option_cases import DELETE, TRAIN, Case, mutated
from small_images import write_images

from esc_arch import UserError, options
from tests import tiny

QUERIES = {
    "name": "tiny",
    "type": "RandomScaleImageDataset",
    "dataroot_gt": "data/HR",
    "io_backend": {"type": "disk"},
    "lq_size": 4,
    "sample_q": 16,
    "use_hflip": True,
    "use_rot": True,
    "num_worker_per_gpu": 0,
    "batch_size_per_gpu": 2,
}
MADE = {
    "name": "tiny_x2.5",
    "type": "RandomScaleImageDataset",
    "dataroot_gt": "data/HR",
    "io_backend": {"type": "disk"},
    "scale": 2.5,
}
PAIRED = {"name": "tiny_x2", **tiny.pair(filename_tmpl="{}x2"), "scale": 2}
LTE = tiny.changed(
    TRAIN,
    model_type="ESCLTEModel",
    scale=DELETE,
    datasets={"train": QUERIES, "val_1": PAIRED, "val_2": MADE},
    network_g={"type": "ESCLTE", **tiny.SIZES, "hidden_dim": 16},
    val__metrics={"psnr": {"type": "calculate_psnr_lte"}},
)
TEST = tiny.changed(
    LTE,
    datasets={"test_1": PAIRED, "test_2": MADE},
    val={"save_img": False, "metrics": {"psnr": {"type": "calculate_psnr_lte"}}},
    train=DELETE,
    logger=DELETE,
)


def message(opt: dict, is_train: bool = True) -> str:
    with pytest.raises(UserError) as caught:
        options.check_structure(opt, "tiny.yml", is_train)
    return str(caught.value)


def test_files_to_train_and_to_test_with_are_right():
    options.check_structure(LTE, "tiny.yml", True)
    options.check_structure(TEST, "tiny.yml", False)
    esc = {"amp": "bf16", "compile": True, "accumulate": 2, "checkpoint_activations": True}
    options.check_structure(LTE | {"train": LTE["train"] | esc}, "tiny.yml", True)


def test_any_model_validates_on_it():
    opt = mutated(TRAIN, "datasets.val", {n: v for n, v in MADE.items() if n != "scale"})
    options.check_structure(opt, "tiny.yml", True)
    opt["val"]["metrics"] = {"psnr": {"type": "calculate_psnr_lte", "scale": 2}}
    options.check_structure(opt, "tiny.yml", True)
    del opt["val"]["metrics"]["psnr"]["scale"]
    assert "val.metrics.psnr.scale: expected a number; found no such key" in message(opt)


LR_ALONE = {
    "name": "photos",
    "type": "SingleImageDataset",
    "dataroot_lq": "data/LR",
    "io_backend": {"type": "disk"},
}
CASES = [
    Case("datasets.train.lq_size", DELETE, ("datasets.train.lq_size:", "Add `lq_size: 64`")),
    Case("datasets.train.sample_q", DELETE, ("datasets.train.sample_q:", "`sample_q: 2304`")),
    Case("datasets.train.sample_q", 17, ("datasets.train.sample_q:", "at most 16", "raise lq_s")),
    Case("datasets.train.sample_k", 16, ("datasets.train.sample_k:", "'sample_q'?")),
    Case("datasets.train.gt_size", 16, ("datasets.train.gt_size:", "an unknown key")),
    Case("datasets.train.use_rot", DELETE, ("datasets.train.use_rot:", "no such key")),
    Case("datasets.train.scale_range", [4, 1], ("train.scale_range:", "the lower one first")),
    Case("datasets.train.scale_range", [0.5, 4], ("train.scale_range:", "at least 1")),
    Case("datasets.train.scale_range", 4, ("train.scale_range:", "a list of two numbers")),
    Case("datasets.train.downsampling", "pil_bicubic", ("train.downsampling:", "an unknown key")),
    Case("datasets.train.meta_info_file", ["a", "b"], ("train.meta_info_file:", "1 roots")),
    Case("datasets.train.type", "RandomScaleDataset", ("train.type:", "'RandomScaleImageDataset")),
    Case(
        "datasets.train",
        TRAIN["datasets"]["train"],
        ("datasets.train.type: expected RandomScaleImageDataset", "'PairedImageDataset' (text)"),
    ),
    Case("datasets.val_2.scale", DELETE, ("datasets.val_2.scale:", "1 or more", "`scale: 4`")),
    Case("datasets.val_1.scale", DELETE, ("datasets.val_1.scale:", "no such key")),
    Case("datasets.val_2.scale", 0.5, ("datasets.val_2.scale:", "a number of at least 1")),
    Case("datasets.val_2.scale", "x3", ("datasets.val_2.scale:", "a number of at least 1")),
    Case("datasets.val_1.scale", 2.5, ("datasets.val_1.scale:", "a whole number of at least 1")),
    Case("scale", 4, ("scale: expected nothing", "tests each set at its own scale", "Remove it")),
    Case("network_g.hidden", 16, ("network_g.hidden:", "'hidden_dim'?")),
    Case("network_g.hidden_dim", 15, ("network_g:", "hidden_dim 15")),
    Case("network_g", TRAIN["network_g"], ("network_g.type:", "any scale", "`type: ESCLTE`")),
    Case("datasets.val_2", LR_ALONE | {"scale": "3"}, ("datasets.val_2.scale:", "1 or more")),
    Case("val.tile", 64, ("val.tile: expected nothing (~)", "the whole image")),
    Case("val.max_scale", 0, ("val.max_scale:", "a number above 0")),
    Case("val.whole_windows", True, ("val.whole_windows:", "an unknown key")),
    Case("val.metrics.psnr.scale", 2, ("val.metrics.psnr.scale:", "passes it itself")),
    Case("val.metrics.psnr.type", "psnr_lte", ("val.metrics.psnr.type:", "'calculate_psnr_lte'?")),
    Case("path.pretrain_encoder", "x", ("path.pretrain_encoder:", "'pretrain_network_encoder'?")),
    Case("train.amp", "fp8", ("train.amp: expected 'bf16' or 'fp16'",)),
    Case("model_type", "ESCLTEmodel", ("model_type:", "'ESCLTEModel'?")),
    Case("model_type", "ESCModel", ("model_type: expected a model that trains on queries",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.key}={case.value}"[:40])
def test_mistakes(case):
    found = message(mutated(LTE, case.key, case.value))
    assert all(fragment in found for fragment in case.fragments), found


def test_one_start_alone():
    path = {"pretrain_network_g": "a.pth", "pretrain_network_encoder": "b.pth"}
    found = message(LTE | {"path": path})
    assert "path.pretrain_network_encoder: expected one of" in found and "Remove one." in found


def test_other_models_have_no_encoder():
    found = message(mutated(TRAIN, "path.pretrain_network_encoder", "x.pth"))
    assert "path.pretrain_network_encoder: expected" in found and "an unknown key" in found


def files_message(opt: dict) -> str:
    with pytest.raises(UserError) as caught:
        options.check_files(opt, "tiny.yml", options.Run(is_train=True))
    return str(caught.value)


def test_data_that_is_right(workplace):
    options.check_files(LTE, "tiny.yml", options.Run(is_train=True))


@pytest.mark.parametrize(
    ("key", "value", "fragments"),
    [
        ("datasets.train.lq_size", 5, ("train.dataroot_gt:", "at least 20, lq_size", "c.png")),
        ("datasets.val_2.scale", 19, ("val_2.dataroot_gt:", "the scale 19", "c.png (18x16)")),
        # Of 18x16 pixels, 16x11 are tested, of which 6 are left out at each side.
        ("datasets.val_2.scale", 5.5, ("val.metrics.psnr:", "leaves out 6", "c.png", "val_2")),
        ("datasets.train.batch_size_per_gpu", 4, ("train.batch_size_per_gpu:", "the 3 images")),
    ],
)
def test_data_that_does_not_fit(workplace, key, value, fragments):
    found = files_message(mutated(LTE, key, value))
    assert all(fragment in found for fragment in fragments), found


@pytest.fixture
def encoder(workplace) -> dict:
    torch.save({"params_ema": build_network(ESC).state_dict()}, "esc_x2.pth")
    path = {"pretrain_network_encoder": "esc_x2.pth", "param_key_encoder": "params_ema"}
    return LTE | {"path": path}


# With the arguments of the encoder.
ESC = tiny.network(exp_ratio=1.25)


def test_esc_of_any_scale_starts_the_encoder(encoder):
    options.check(encoder, "tiny.yml", options.Run(is_train=True))


def test_weights_that_start_no_encoder(encoder):
    torch.save({"params_ema": build_network({**ESC, "dim": 16}).state_dict()}, "esc_x2.pth")
    found = files_message(encoder)
    assert "path.pretrain_network_encoder: expected" in found and "esc_x2.pth" in found
    encoder["path"]["pretrain_network_encoder"] = "none.pth"
    assert "none.pth" in files_message(encoder)


@pytest.mark.parametrize("layout", ["public", "plain", "basicsr"])
def test_checkpoints_of_every_layout(workplace, layout):
    weights = build_network(LTE["network_g"]).state_dict()
    content = {
        "public": {"model": {"name": "lte", "args": {"imnet_spec": {}}, "sd": weights}},
        "plain": weights,
        "basicsr": {"params": weights},
    }[layout]
    torch.save(content, "lte.pth")
    opt = mutated(LTE, "path.pretrain_network_g", "lte.pth")
    options.check_files(opt, "tiny.yml", options.Run(is_train=True))
    del weights["phase.weight"]
    torch.save(content, "lte.pth")
    assert "path.pretrain_network_g: expected" in files_message(opt)


def test_the_small_images_have_room_for_a_patch_at_the_largest_scale(workplace):
    write_images(workplace / "data" / "HR", {"d.png": (15, 40)})
    assert "d.png (40x15)" in files_message(LTE)
