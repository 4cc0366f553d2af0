"""A valid training file, a valid test file, and the mistakes that are made in them.

``python -m tests.options.option_cases`` prints the message of each mistake.
"""

from typing import NamedTuple

from tests import tiny
from tests.tiny import DELETE


class Case(NamedTuple):
    """A change to a valid file: at ``key``, ``value``; and what the message has to say."""

    key: str
    value: object
    fragments: tuple[str, ...]


TRAIN = tiny.options(
    num_gpu="auto",
    datasets__train__filename_tmpl="{}x2",
    datasets__train__prefetch_mode=None,
    datasets__val={"name": "tiny", **tiny.pair(filename_tmpl="{}x2")},
    network_g__exp_ratio=1.25,
    train__warmup_iter=2,
    val__val_freq=5.0,
)
TEST = tiny.evaluation(TRAIN)

COSINE = {"type": "CosineAnnealingRestartLR", "periods": [10], "restart_weights": [1]}
SINGLE = {
    "name": "photos",
    "type": "SingleImageDataset",
    "dataroot_lq": "data/LR",
    "io_backend": {"type": "disk"},
}
DOWNSAMPLE = {
    "name": "tiny",
    "type": "DownsampleImageDataset",
    "dataroot_gt": ["data/HR", "data/more"],
    "io_backend": {"type": "disk"},
    "gt_size": 16,
    "use_hflip": True,
    "use_rot": True,
    "num_worker_per_gpu": 0,
    "batch_size_per_gpu": 2,
}
PERCEPTUAL = {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1.0}}

TRAIN_CASES = [
    # names in registries
    Case("model_type", "SRmodel", ("model_type:", "registered model", "'SRModel'?")),
    Case("network_g.type", "ESCC", ("network_g.type:", "registered network", "'ESC'?")),
    Case("network_g.type", DELETE, ("network_g.type:", "no such key", "Add `type: ESC`")),
    Case(
        "datasets.train.type",
        "PairedImagesDataset",
        ("datasets.train.type:", "'PairedImageDataset'?"),
    ),
    Case("train.pixel_opt.type", "L1", ("train.pixel_opt.type:", "'L1' (text)", "'L1Loss'?")),
    Case("train.pixel_opt.type", "L1loss", ("train.pixel_opt.type:", "'L1Loss'?")),
    Case("val.metrics.psnr.type", "psnr", ("val.metrics.psnr.type:", "'calculate_psnr'?")),
    Case("train.optim_g.type", "LBFGS", ("train.optim_g.type:", "one of ASGD, Adadelta", "AdamW")),
    Case("train.optim_g.type", "Adamw", ("train.optim_g.type:", "'AdamW'?")),
    Case("train.optim_g.type", DELETE, ("train.optim_g.type:", "Add `type: AdamW`")),
    Case("train.optim_g.type", "adam", ("train.optim_g.type:", "'Adam'?")),
    Case("train.scheduler.type", "StepLR", ("train.scheduler.type:", "'MultiStepLR'?")),
    Case("train.scheduler.type", DELETE, ("train.scheduler.type:", "no such key")),
    # arguments of constructors
    Case("network_g.dims", 64, ("network_g.dims:", "an argument of ESC", "'dim'?")),
    Case("network_g.dim", "64", ("network_g.dim:", "a whole number", "'64' (text)")),
    Case("network_g.dim", 64.0, ("network_g.dim:", "a whole number", "64.0 (number)")),
    Case("network_g.dim", True, ("network_g.dim:", "a whole number", "true")),
    Case("network_g.dim", None, ("network_g.dim:", "a whole number", "nothing (~)")),
    Case("network_g.dim", DELETE, ("network_g.dim:", "no such key", "ESC requires")),
    Case("network_g.exp_ratio", [2], ("network_g.exp_ratio:", "a number", "[2] (list)")),
    Case("network_g.use_ln", 1, ("network_g.use_ln:", "true or false", "1 (whole number)")),
    Case("network_g.num_heads", 3, ("network_g:", "arguments that ESC accepts", "ValueError")),
    Case("network_g.kernel_size", 4, ("network_g:", "kernel_size 4")),
    Case("network_g.attn_type", "flux", ("network_g:", "flux")),
    Case("train.optim_g.lr", "5e-4", ("train.optim_g.lr:", "a number", "'5e-4' (text)")),
    Case("train.optim_g.lr", DELETE, ("train.optim_g.lr:", "no such key", "Add `lr:")),
    Case("train.optim_g.beta", [0.9, 0.9], ("train.optim_g.beta:", "'betas'?")),
    Case("train.optim_g.betas", [0.9], ("train.optim_g.betas:", "a list of 2", "[0.9] (list)")),
    Case("train.optim_g.betas", [0.9, 2.0], ("train.optim_g:", "Invalid beta")),
    Case("train.optim_g.params", [], ("train.optim_g.params:", "passes it itself")),
    Case("train.scheduler.milestones", DELETE, ("train.scheduler.milestones:", "requires")),
    Case("train.scheduler.milestones", 5, ("train.scheduler.milestones:", "5 (whole number)")),
    Case("train.scheduler.milestone", [5], ("train.scheduler.milestone:", "an unknown key")),
    Case("train.scheduler.restarts", [0, 5], ("train.scheduler:", "restarts", "do not match")),
    Case("train.pixel_opt.loss_weight", "1", ("train.pixel_opt.loss_weight:", "a number")),
    Case("train.pixel_opt.weight", 1, ("train.pixel_opt.weight:", "'loss_weight'?")),
    Case("train.pixel_opt.reduction", "none", ("train.pixel_opt.reduction:", "'mean' or 'sum'")),
    Case(
        "train.perceptual_opt",
        PERCEPTUAL | {"layer_weights": {"conv54": 1.0}},
        ("train.perceptual_opt.layer_weights.conv54:", "a layer of vgg19", "'conv5_4'?"),
    ),
    Case("train.perceptual_opt", PERCEPTUAL | {"criterion": "mse"}, ("criterion:", "'fro'")),
    Case("val.metrics.psnr.crop_border", DELETE, ("val.metrics.psnr.crop_border:", "requires")),
    Case("val.metrics.psnr.crop_border", -1, ("val.metrics.psnr.crop_border:", "at least 0")),
    # swallowed by **kwargs otherwise
    Case(
        "val.metrics.psnr",
        {"type": "calculate_psnr", "crop_border": 2, "test_y_chanel": True},
        ("val.metrics.psnr.test_y_chanel:", "an unknown key", "'test_y_channel'?"),
    ),
    Case("val.metrics.psnr.better", "more", ("val.metrics.psnr.better:", "'higher' or 'lower'")),
    Case("val.metrics.psnr.img", 1, ("val.metrics.psnr.img:", "passes it itself")),
    Case("val.metrics.psnr", "psnr", ("val.metrics.psnr:", "a section")),
    Case("val.metrics.psnr.type", "calculate_psnr_pt", ("a metric of images", "`type: calculate_")),
    # schedules
    Case(
        "train.scheduler",
        COSINE | {"restart_weights": [1, 1]},
        ("train.scheduler:", "same length"),
    ),
    Case("train.scheduler", COSINE | {"periods": []}, ("train.scheduler.periods:", "[] (list)")),
    Case(
        "train.scheduler",
        COSINE | {"periods": [8]},
        ("train.scheduler.periods:", "add up to train.total_iter, 10", "a sum of 8"),
    ),
    Case("train.total_iter", DELETE, ("train.total_iter:", "no such key", "`total_iter: 500000`")),
    Case("train.total_iter", 0, ("train.total_iter:", "from 1 to 10**9", "0 (whole number)")),
    Case("train.warmup_iter", -2, ("train.warmup_iter:", "-1 for no warm-up")),
    Case("train.ema_decay", 1, ("train.ema_decay:", "from 0 to below 1")),
    Case("train.ema_dekay", 0.9, ("train.ema_dekay:", "an unknown key", "Did you mean 'ema_decay")),
    Case("train.pixel_opt", None, ("train.pixel_opt:", "a pixel or a perceptual loss")),
    Case("train.optim_g", DELETE, ("train.optim_g:", "no such key")),
    Case("train.scheduler", None, ("train.scheduler:", "a section", "nothing (~)")),
    Case("train", DELETE, ("train:", "a section", "no such key")),
    # scale
    Case("scale", 3, ("network_g.upscaling_factor:", "3, the `scale`", "2 (whole number)")),
    Case("scale", 2.5, ("scale:", "a whole number of at least 1")),
    Case("scale", DELETE, ("scale:", "no such key", "Add `scale: 2`")),
    Case("datasets.train.scale", 4, ("datasets.train.scale:", "Remove the key")),
    # data sections
    Case("datasets", DELETE, ("datasets:", "a section", "no such key")),
    Case("datasets", [], ("datasets:", "a section", "[] (list)")),
    Case("datasets.train", DELETE, ("datasets.train:", "Add the training data")),
    Case("datasets.test", {}, ("datasets.test:", "train, val", "Rename")),
    Case("datasets.valid", {}, ("datasets.valid:", "train, val", "Rename")),
    Case("datasets.val_2", TRAIN["datasets"]["val"], ("datasets.val_2.name:", "of its own")),
    Case("datasets.val", None, ("datasets.val:", "a section", "nothing (~)")),
    Case("datasets.train.name", DELETE, ("datasets.train.name:", "no such key")),
    Case("datasets.train.type", DELETE, ("datasets.train.type:", "no such key")),
    Case("datasets.train.dataroot_gt", None, ("datasets.train.dataroot_gt:", "text", "nothing")),
    Case("datasets.train.dataroot_lq", DELETE, ("datasets.train.dataroot_lq:", "no such key")),
    Case("datasets.train.datarot_gt", "x", ("datasets.train.datarot_gt:", "'dataroot_gt'?")),
    Case("datasets.train.gt_size", DELETE, ("datasets.train.gt_size:", "no such key")),
    Case("datasets.train.gt_size", 17, ("datasets.train.gt_size:", "multiple of the scale 2")),
    Case("datasets.train.use_rot", "yes", ("datasets.train.use_rot:", "true or false")),
    Case("datasets.train.use_flip", True, ("datasets.train.use_flip:", "Did you mean 'use_hflip'")),
    Case("datasets.train.io_backend", "disk", ("datasets.train.io_backend:", "a section")),
    Case("datasets.train.io_backend.type", "disc", ("io_backend.type:", "'lmdb'", "'disk'?")),
    Case("datasets.train.io_backend.path", "x", ("io_backend.path:", "an unknown key")),
    Case("datasets.train.batch_size_per_gpu", 0, ("batch_size_per_gpu:", "at least 1")),
    Case("datasets.train.batch_size_per_gpu", DELETE, ("batch_size_per_gpu:", "no such key")),
    Case("datasets.train.num_worker_per_gpu", -1, ("num_worker_per_gpu:", "from 0")),
    Case("datasets.train.prefetch_mode", "gpu", ("prefetch_mode:", "'cpu' or 'cuda'")),
    Case("datasets.train.prefetch_mode", "cuda", ("datasets.train.pin_memory:", "true, as")),
    Case("datasets.train.persistent_workers", True, ("num_worker_per_gpu is 0",)),
    Case("datasets.val.persistent_workers", True, ("datasets.val.persistent_workers:", "without")),
    Case("datasets.train.filename_tmpl", "x2", ("filename_tmpl:", "{}", "'x2' (text)")),
    Case("datasets.train.filename_tmpl", "{} {}", ("filename_tmpl:", "'{} {}' (text)")),
    Case("datasets.train.mean", [0.5, 0.5, 0.5], ("datasets.train.std:", "mean and std")),
    Case("datasets.train.dataset_enlarge_ratio", 0, ("dataset_enlarge_ratio:", "above 0")),
    Case("datasets.train.type", "SingleImageDataset", ("datasets.train.type:", "ground truth")),
    Case("datasets.val", SINGLE, ("val.metrics.psnr:", "datasets.val of type SingleImageDataset")),
    Case("datasets.val", SINGLE | {"meta_info_file": None}, ("val.meta_info_file:", "nothing")),
    Case(
        "datasets.train",
        DOWNSAMPLE | {"downsampling": "pil_bicubik"},
        ("datasets.train.downsampling:", "'matlab_bicubic'", "'pil_bicubic'?"),
    ),
    Case(
        "datasets.train",
        DOWNSAMPLE | {"dataroot_gt": []},
        ("datasets.train.dataroot_gt:", "text or a list of texts", "[] (list)"),
    ),
    Case(
        "datasets.train",
        DOWNSAMPLE | {"dataroot_gt": ["data/HR", None]},
        ("datasets.train.dataroot_gt:", "text or a list of texts"),
    ),
    Case(
        "datasets.train",
        DOWNSAMPLE | {"meta_info_file": "data/names.txt"},
        ("datasets.train.meta_info_file:", "one for each of the 2 roots", "found 1"),
    ),
    Case("datasets.train", DOWNSAMPLE | {"gt_size": 17}, ("datasets.train.gt_size:", "multiple")),
    Case(
        "datasets.train",
        DOWNSAMPLE | {"dataroot_lq": "data/LR"},
        ("datasets.train.dataroot_lq:", "an unknown key"),
    ),
    Case(
        "datasets.train",
        DOWNSAMPLE | {"io_backend": {"type": "disc"}},
        ("datasets.train.io_backend.type:", "'disk'?"),
    ),
    # other sections
    Case("val", DELETE, ("val:", "validation datasets", "Add `val:")),
    Case("val.val_freq", DELETE, ("val.val_freq:", "no such key", "Add `val_freq: 5000`")),
    Case("val.val_freq", 0.5, ("val.val_freq:", "a whole number of at least 1")),
    Case("val.save_img", DELETE, ("val.save_img:", "no such key")),
    Case("val.save_image", True, ("val.save_image:", "'save_img'?")),
    Case("path", DELETE, ("path:", "a section", "no such key")),
    Case("path.pretrain_network", "x", ("path.pretrain_network:", "'pretrain_network_g'?")),
    Case("path.models", "x", ("path.models:", "an unknown key")),
    Case("path.strict_load_g", "no", ("path.strict_load_g:", "true or false")),
    Case("path.pretrain_network_g", 5, ("path.pretrain_network_g:", "text")),
    Case("logger.keep_last", 0, ("logger.keep_last", "whole number of at least 1")),
    Case("logger.keep_best", "pnsr", ("logger.keep_best", "under val.metrics", "Did you mean")),
    Case("logger.keep_best", ["psnr"], ("logger.keep_best", "text")),
    Case("logger", DELETE, ("logger:", "a section", "print_freq")),
    Case("logger.print_freq", 0, ("logger.print_freq:", "at least 1")),
    Case("logger.use_tb_logger", DELETE, ("logger.use_tb_logger:", "no such key")),
    Case("logger.save_checkpoint_freq", "often", ("logger.save_checkpoint_freq:", "'often'")),
    Case("logger.print_frequency", 5, ("logger.print_frequency:", "'print_freq'?")),
    Case("logger.wandb", {"project": "x"}, ("logger.use_tb_logger:", "wandb")),
    # top level
    Case("name", DELETE, ("name:", "no such key")),
    Case("name", "a/b", ("name:", "a plain folder name", "'a/b'")),
    Case("name", "..", ("name:", "a plain folder name")),
    Case("name", 5, ("name:", "a plain folder name", "5 (whole number)")),
    Case("num_gpu", DELETE, ("num_gpu:", "auto", "no such key")),
    Case("num_gpu", -1, ("num_gpu:", "auto or a whole number", "-1")),
    Case("num_gpu", "two", ("num_gpu:", "auto", "'two'")),
    Case("manual_seed", "zero", ("manual_seed:", "a whole number")),
    Case("manual_seed", -1, ("manual_seed:", "from 0")),
    Case("network_g", DELETE, ("network_g:", "no such key")),
    Case("netwrok_g", {}, ("netwrok_g:", "an unknown key", "'network_g'?")),
    Case("use_amp", True, ("use_amp:", "an unknown key")),
    Case("train.1", {1: 2}, ("train.1.1:", "text as a key", "'1'")),
]

TEST_CASES = [
    Case("val", DELETE, ("val:", "a section", "no such key")),
    Case("val.suffix", DELETE, ("val.suffix:", "no such key")),
    Case("val.save_img", None, ("val.save_img:", "true or false")),
    Case("datasets.train", TRAIN["datasets"]["train"], ("datasets.train:", "test, test_1")),
    Case("datasets", {}, ("datasets:", "test sections", "Add the test data")),
    Case("datasets.test_1.name", DELETE, ("datasets.test_1.name:", "no such key")),
    Case("datasets.test_1.name", "a/b", ("datasets.test_1.name:", "a plain folder name")),
]


def mutated(opt: dict, key: str, value: object) -> dict:
    """A copy of ``opt`` with ``value`` at the dotted ``key``, or without that key."""
    return tiny.changed(opt, **{key.replace(".", "__"): value})


def main() -> None:
    from esc_arch import options
    from esc_arch.errors import UserError

    for valid, cases in ((TRAIN, TRAIN_CASES), (TEST, TEST_CASES)):
        for case in cases:
            try:
                options.check_structure(
                    mutated(valid, case.key, case.value), "tiny.yml", valid is TRAIN
                )
            except UserError as error:
                print(error)


if __name__ == "__main__":
    main()
