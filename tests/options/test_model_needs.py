"""What BasicSR's models and datasets need is asked for before anything is written."""

import numpy as np
import pytest
from basicsr.metrics import calculate_niqe, calculate_psnr, calculate_ssim
from basicsr.utils.registry import MODEL_REGISTRY
from option_cases import DELETE, SINGLE, TEST, TRAIN
from small_images import SIZES, write_images

from esc_arch import options
from esc_arch.errors import UserError
from esc_arch.options.model_needs import needs_pixel_loss
from tests import tiny

ADAM = {"type": "Adam", "lr": 1e-4}
GAN = tiny.changed(
    TRAIN,
    model_type="SRGANModel",
    network_d={"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 8},
    train__optim_d=ADAM,
    train__gan_opt={"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1},
    datasets__train__gt_size=128,
)
SWINIR = {"type": "SwinIR", "upscale": 2, "embed_dim": 12, "depths": [2], "num_heads": [2]} | {
    "img_size": 16,
    "window_size": 8,
    "upsampler": "pixelshuffledirect",
}


def message(opt: dict, is_train: bool = True) -> str:
    with pytest.raises(UserError) as caught:
        options.check_structure(opt, "tiny.yml", is_train)
    return str(caught.value)


@pytest.mark.parametrize("model", ["SRGANModel", "ESRGANModel"])
def test_adversarial_models_need_their_sections(model):
    opt = tiny.changed(GAN, model_type=model)
    options.check_structure(opt, "tiny.yml", True)
    for key in ("network_d", "train.optim_d", "train.gan_opt"):
        for value in (DELETE, None):
            text = message(tiny.changed(opt, **{key.replace(".", "__"): value}))
            assert text.startswith(f"tiny.yml: {key}: expected a section"), text
    # A test builds the network alone.
    options.check_structure(tiny.changed(TEST, model_type=model), "tiny.yml", False)


@pytest.mark.parametrize(
    ("input_size", "gt_size", "is_right"), [(128, 128, True), (128, 64, False), (256, 128, False)]
)
def test_a_discriminator_judges_patches_of_gt_size(input_size, gt_size, is_right):
    opt = tiny.changed(GAN, network_d__input_size=input_size, datasets__train__gt_size=gt_size)
    if is_right:
        options.check_structure(opt, "tiny.yml", True)
    else:
        assert f"network_d: expected a network that judges RGB images of gt_size, {gt_size}x" in (
            message(opt)
        )


VIDEO = ("EDVRModel", "VideoBaseModel", "VideoRecurrentModel", "VideoGANModel")


@pytest.mark.parametrize("model", [*VIDEO, "VideoRecurrentGANModel"])
def test_models_of_videos_need_clips(model):
    text = message(tiny.changed(TRAIN, model_type=model, val__save_img=True))
    assert "val.save_img: expected false" in text
    assert "datasets.train.type: expected a dataset of clips" in text
    assert "datasets.val.type: expected a dataset of clips" in text
    text = message(tiny.changed(TEST, model_type=model), False)
    assert "datasets.test_1.type: expected a dataset of clips" in text


def test_keys_of_a_dataset_of_clips():
    clips = {"name": "REDS4", "type": "VideoRecurrentTestDataset", "dataroot_gt": "gt"}
    opt = tiny.changed(
        TEST,
        model_type="VideoRecurrentModel",
        datasets__test_1=clips | {"dataroot_lq": "lq", "io_backend": {"type": "disk"}},
        val__metrics=DELETE,
    )
    text = message(opt, False)
    assert "datasets.test_1.cache_data: expected the key" in text
    assert "val.metrics: expected metrics" in text
    opt["datasets"]["test_1"]["cache_data"] = False
    opt["val"]["metrics"] = None
    options.check_structure(opt, "tiny.yml", False)


@pytest.mark.parametrize("model", sorted(name for name, _ in MODEL_REGISTRY))
def test_every_registered_model_says_what_is_missing(model):
    """A file of SRModel is right for models that read no more; others name the key."""
    model = model.removesuffix("_basicsr")
    opt = tiny.changed(TRAIN, model_type=model, train__pixel_opt=DELETE)
    text = message(opt)
    assert text.startswith("tiny.yml: ")
    theirs = MODEL_REGISTRY.get(model)
    assert ("train.pixel_opt: expected" in text) == needs_pixel_loss(theirs)


def test_a_model_with_methods_of_its_own_is_not_asked(monkeypatch):
    class OwnGAN(MODEL_REGISTRY.get("SRGANModel")):
        def init_training_settings(self):
            pass

        def setup_optimizers(self):
            pass

        def optimize_parameters(self, current_iter):
            pass

    monkeypatch.setattr(MODEL_REGISTRY, "_obj_map", dict(MODEL_REGISTRY._obj_map))
    MODEL_REGISTRY.register(OwnGAN)
    opt = tiny.changed(TRAIN, model_type="OwnGAN", train__pixel_opt=DELETE)
    options.check_structure(opt, "tiny.yml", True)


@pytest.mark.parametrize("phase", ["train", "val"])
def test_grey_images_need_a_network_of_one_channel(phase):
    grey = {"datasets__train__color": "y", "datasets__val__color": "y"}
    text = message(tiny.changed(TRAIN, **{f"datasets__{phase}__color": "y"}))
    assert f"datasets.{phase}.color: expected images of 3 channels" in text
    one = SWINIR | {"in_chans": 1}
    options.check_structure(tiny.changed(TRAIN, network_g=one, **grey), "tiny.yml", True)
    text = message(tiny.changed(TRAIN, network_g=one))
    assert f"datasets.{phase}.color: expected images of 1 channel" in text


def test_mean_and_std_have_a_number_for_each_channel():
    half = [0.5] * 3
    opt = tiny.changed(TRAIN, datasets__train__mean=half, datasets__train__std=half)
    options.check_structure(opt, "tiny.yml", True)
    assert "train.mean: expected a list of 3" in message(
        tiny.changed(opt, datasets__train__mean=[0.5])
    )
    assert "train.std: expected numbers other than 0" in message(
        tiny.changed(opt, datasets__train__std=[0.5, 0, 0.5])
    )


@pytest.mark.parametrize("order", ["CHW", "HW", "hwc"])
def test_metrics_get_images_in_one_order(order):
    assert "val.metrics.psnr.input_order: expected 'HWC'" in message(
        tiny.changed(TRAIN, val__metrics__psnr__input_order=order)
    )
    options.check_structure(
        tiny.changed(TRAIN, val__metrics__psnr__input_order="HWC"), "tiny.yml", True
    )


def is_measured(metric, size: tuple[int, int], border: int) -> bool:
    """Whether BasicSR's metric gives a number for an image of this size."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    images = [image] if metric is calculate_niqe else [image, image[::-1]]
    try:
        with np.errstate(all="ignore"):
            return bool(np.isfinite(metric(*images, crop_border=border)))
    except (ValueError, RuntimeError, ZeroDivisionError, np.linalg.LinAlgError):
        return False


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("metric", "size", "border"),
    [
        *((calculate_psnr, (16, 18), border) for border in (7, 8, 9)),
        *((calculate_ssim, (16, 18), border) for border in (2, 3)),
        *((calculate_niqe, size, 0) for size in ((96, 80), (96, 96), (192, 96), (190, 190))),
        *((calculate_niqe, (196, 100), border) for border in (2, 3)),
    ],
)
def test_images_that_a_metric_leaves_nothing_of(workplace, metric, size, border):
    write_images(workplace / "data/HR", {f"{n}.png": size for n in SIZES})
    write_images(workplace / "data/LR", {f"{n}x2.png": (size[0] // 2, size[1] // 2) for n in SIZES})
    opt = tiny.changed(TEST, val__metrics={"m": {"type": metric.__name__, "crop_border": border}})
    run = options.Run(is_train=False)
    if is_measured(metric, size, border):
        options.check_files(opt, "tiny.yml", run)
        return
    with pytest.raises(UserError, match=r"val\.metrics\.m: expected .*c\.png"):
        options.check_files(opt, "tiny.yml", run)


def test_single_images_too_small_for_niqe(workplace):
    opt = tiny.changed(TEST, datasets__test_1=SINGLE)
    opt["val"]["metrics"] = {"niqe": {"type": "calculate_niqe", "crop_border": 0}}
    with pytest.raises(UserError, match=r"val\.metrics\.niqe: expected .*datasets\.test_1.*32x24"):
        options.check_files(opt, "tiny.yml", options.Run(is_train=False))
