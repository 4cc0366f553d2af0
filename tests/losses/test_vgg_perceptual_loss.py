"""VGGPerceptualLoss against BasicSR's own calculation, on the same random weights."""

import pytest
import torch
from basicsr.archs import vgg_arch
from basicsr.losses import build_loss
from torchvision.models import vgg11

from esc_arch import UserError
from esc_arch.losses.vgg_features import VGGFeatures

LAYERS = {"conv1_1": 0.1, "relu2_1": 0.5, "conv3_2": 1.0}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return vgg11()


@pytest.fixture
def weights(network, tmp_path):
    """A file with the layers up to conv3_2 only."""
    kept = {f"features.{index}." for index in (0, 3, 6, 8)}
    state = network.state_dict()
    torch.save({k: v for k, v in state.items() if k.startswith(tuple(kept))}, tmp_path / "vgg.pth")
    return str(tmp_path / "vgg.pth")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"criterion": "fro", "style_weight": 2.0},
        {"use_input_norm": False, "range_norm": True, "perceptual_weight": 0.5},
        {"perceptual_weight": 0, "style_weight": 1.0},
    ],
)
def test_equals_the_loss_of_basicsr(network, weights, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(vgg_arch, "VGG_PRETRAIN_PATH", str(tmp_path / "whole.pth"))
    torch.save(network.state_dict(), tmp_path / "whole.pth")
    shared = {"layer_weights": LAYERS, "vgg_type": "vgg11", **arguments}
    theirs = build_loss({"type": "PerceptualLoss", **shared})
    ours = build_loss({"type": "VGGPerceptualLoss", "weights": weights, **shared})
    x, gt = torch.rand(2, 2, 3, 32, 24)
    x.requires_grad_()
    for expected, found in zip(theirs(x, gt), ours(x, gt), strict=True):
        assert (expected is None) == (found is None)
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
            one, other = (
                torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in (found, expected)
            )
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-9)


def test_l2_is_the_mean_squared_difference(weights):
    section = {"type": "VGGPerceptualLoss", "vgg_type": "vgg11", "weights": weights}
    loss = build_loss(section | {"layer_weights": {"conv1_1": 3.0}, "criterion": "l2"})
    x, gt = torch.rand(2, 1, 3, 8, 8)
    difference = loss.vgg(x)["conv1_1"] - loss.vgg(gt)["conv1_1"]
    torch.testing.assert_close(loss(x, gt)[0], 3 * difference.square().mean())


def test_features_are_those_of_torchvision(network):
    features = VGGFeatures(LAYERS, "vgg11", network.state_dict(), use_input_norm=False)
    x = torch.rand(1, 3, 32, 32)
    found = features(x)
    assert set(found) == set(LAYERS)
    for name, index in (("conv1_1", 0), ("relu2_1", 4), ("conv3_2", 8)):
        # Cloned: the ReLU after a convolution works in place.
        expected = network.features[: index + 1](x).clone()
        torch.testing.assert_close(found[name], expected)
    assert not any(parameter.requires_grad for parameter in features.parameters())


def test_weights_that_do_not_fit(weights):
    section = {"type": "VGGPerceptualLoss", "weights": weights}
    with pytest.raises(UserError, match=r"vgg.pth: no features.2.weight, which vgg19 has"):
        build_loss(section | {"layer_weights": {"conv1_2": 1.0}})
    with pytest.raises(UserError, match=r"no features.11.weight"):
        build_loss(section | {"layer_weights": {"conv4_1": 1.0}, "vgg_type": "vgg11"})


def test_no_weights_and_no_download(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"no experiments/pretrained_models/vgg19-dcbb9e9d.pth and"):
        build_loss({"type": "VGGPerceptualLoss", "layer_weights": {"conv1_2": 1.0}})
