"""ESRModel: the network sees whole windows, the result has the image's size."""

import numpy as np
import pytest
import torch
from basicsr.models import build_model
from basicsr.utils.registry import MODEL_REGISTRY

from esc_arch.models import ESRModel
from tests import tiny

WINDOW = tiny.SIZES["window_size"]


def options(scale: int = 2, is_train: bool = False, **train: object) -> dict:
    return {
        **tiny.options(
            model_type="ESRModel",
            scale=scale,
            network_g__upscaling_factor=scale,
            datasets=tiny.DELETE,
            path={},
            train__optim_g={"type": "AdamW", "lr": 1e-2},
            **{f"train__{key}": value for key, value in {"ema_decay": 0, **train}.items()},
        ),
        "is_train": is_train,
        "dist": False,
        "rank": 0,
    }


def test_registered():
    assert MODEL_REGISTRY.get("ESRModel") is ESRModel


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("size", [(8, 16), (9, 15), (1, 1), (2, 30), (17, 3)])
def test_output_is_the_networks_on_the_reflected_image(size, scale):
    model = build_model(options(scale))
    height, width = size
    lq = torch.rand(1, 3, height, width)
    model.feed_data({"lq": lq})
    model.test()
    ends = [(0, -side % WINDOW) for side in size]
    padded = np.pad(lq.numpy(), [(0, 0), (0, 0), *ends], mode="reflect")
    with torch.no_grad():
        whole = model.net_g.eval()(torch.from_numpy(padded))
    assert model.output.shape == (1, 3, height * scale, width * scale)
    expected = whole[..., : height * scale, : width * scale]
    torch.testing.assert_close(model.output, expected, rtol=0, atol=1e-6)
    assert torch.equal(model.lq, lq), "what was fed must stay"


def test_padding_the_image_is_not_padding_the_features():
    """Otherwise this model would be SRModel."""
    model = build_model(options())
    lq = torch.rand(1, 3, 9, 15)
    model.feed_data({"lq": lq})
    model.test()
    with torch.no_grad():
        raw = model.net_g.eval()(lq)
    assert (model.output - raw).abs().max() > 1e-5


def test_no_scale_is_needed():
    opt = options(3)
    del opt["scale"]
    model = build_model(opt)
    model.feed_data({"lq": torch.rand(1, 3, 5, 7)})
    model.test()
    assert model.output.shape == (1, 3, 15, 21)


def test_training_is_srmodels_and_validation_takes_the_average():
    model = build_model(options(is_train=True, ema_decay=0.5))
    data = {"lq": torch.rand(2, 3, 6, 6), "gt": torch.rand(2, 3, 12, 12)}
    model.feed_data(data)
    model.optimize_parameters(1)
    assert type(model.optimizer_g) is torch.optim.AdamW
    assert model.output.shape == (2, 3, 12, 12)
    image = torch.rand(1, 3, 8, 8)
    model.feed_data({"lq": image})
    model.test()
    with torch.no_grad():
        averaged, current = model.net_g_ema(image), model.net_g.eval()(image)
    torch.testing.assert_close(model.output, averaged, rtol=0, atol=1e-6)
    assert (averaged - current).abs().max() > 1e-4
