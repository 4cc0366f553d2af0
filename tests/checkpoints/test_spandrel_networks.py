"""Every network of spandrel's is known as theirs, loaded as theirs, and never as ours."""

# First, as it makes torchvision importable beside a PyTorch that it was not built for.
import esc_arch.spandrel

# isort: split
from pathlib import Path

import pytest
import spandrel
import torch
from basicsr.archs.ecbsr_arch import ECBSR
from basicsr.archs.edsr_arch import EDSR
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact

from esc_arch import UserError, checkpoints, create
from esc_arch.checkpoints import spandrel_networks
from esc_arch.cli.main import main
from esc_arch.export.onnx_file import write_onnx
from tests.checkpoints.public_networks import NETWORKS, SHARED, found_by, network_of, registry
from tests.reference_cases import fill_parameters

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"


@pytest.fixture(scope="module")
def rules():
    """Spandrel's networks and ours in the order in which they are asked."""
    known = registry()
    esc_arch.spandrel.install(known)
    return known.architectures("detection")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_theirs_is_not_ours(rules, name):
    state = network_of(name).state_dict()
    found = checkpoints.detect(state)
    # RCAN has other keys in BasicSR.
    assert (found and found.network.__name__) == (name if name in SHARED - {"RCAN"} else None)
    # By spandrel's loader it is found as it was.
    assert next(r.architecture.id for r in rules if r.detect(state)) == name


@pytest.mark.parametrize(
    ("network", "name", "scale"),
    [
        (RRDBNet(3, 3, scale=4, num_feat=16, num_block=1), "ESRGAN", 4),
        (RRDBNet(3, 3, scale=2, num_feat=16, num_block=1), "ESRGAN", 2),
        (SRVGGNetCompact(num_feat=16, num_conv=4, upscale=3), "RealESRGAN Compact", 3),
    ],
)
@pytest.mark.parametrize("wrap", ["params_ema", "model", None])
def test_basicsr_networks_open_by_spandrel(tmp_path, network, name, scale, wrap):
    network = fill_parameters(network).eval()
    path = tmp_path / "net.pth"
    state = network.state_dict()
    torch.save(state if wrap is None else {wrap: state}, path)
    opened = checkpoints.open_weights(path)
    assert (opened.name, opened.scale, opened.channels) == (f"{name} x{scale}", scale, 3)
    assert opened.metadata == {} and opened.path == path
    assert torch.float32 in opened.dtypes
    image = torch.rand(2, 3, 12, 16)
    with torch.no_grad():
        expected = network(image).clamp(0, 1)
    result = opened.network(image)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    result.mul_(2)  # a plain tensor, not one of inference mode


BASICSR = (
    *(EDSR(3, 3, 8, 2, upscale=scale) for scale in (2, 3, 8)),
    EDSR(3, 3, 256, 1, upscale=2, res_scale=0.1),
    *(MSRResNet(3, 3, 8, 2, upscale=scale) for scale in (2, 3, 4)),
    MSRResNet(1, 1, 8, 2, upscale=2),
    *(RRDBNet(3, 3, scale, 8, 1, num_grow_ch=4) for scale in (1, 2, 4)),
    ECBSR(1, 1, 2, 8, False, "prelu", 2),
    ECBSR(3, 3, 2, 8, False, "prelu", 3),
)


@pytest.mark.parametrize("network", BASICSR, ids=lambda network: type(network).__name__)
def test_basicsr_networks_open_by_basicsr(tmp_path, network):
    network = fill_parameters(network).eval()
    path = tmp_path / "net.pth"
    torch.save({"params": network.state_dict()}, path)
    opened = checkpoints.open_weights(path)
    image = torch.rand(1, opened.channels, 8, 12)
    with torch.no_grad():
        expected = network(image)
    torch.testing.assert_close(opened.network(image), expected, rtol=0, atol=0)
    assert opened.name.startswith(f"{type(network).__name__} x{opened.scale}")
    assert expected.shape[2] == 8 * opened.scale
    assert opened.network(image[..., :7, :5]).shape[2:] == (7 * opened.scale, 5 * opened.scale)


@pytest.mark.slow
@pytest.mark.parametrize("network", [EDSR(3, 3, 8, 1, upscale=2), MSRResNet(3, 3, 8, 1)])
def test_basicsr_networks_are_exported(tmp_path, network):
    torch.save(fill_parameters(network).state_dict(), tmp_path / "net.pth")
    write_onnx(checkpoints.open_weights(tmp_path / "net.pth"), tmp_path / "net.onnx")
    x = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        expected = network.eval()(x)
    result = checkpoints.open_weights(tmp_path / "net.onnx").network(x)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "network",
    [
        SRVGGNetCompact(num_feat=8, num_conv=2, act_type="relu"),
        SRVGGNetCompact(num_feat=8, num_conv=2, act_type="leakyrelu"),
        ECBSR(1, 1, 2, 8, False, "softplus", 2),
    ],
)
def test_networks_whose_activation_is_nowhere_told_are_not_guessed(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net\.pth: expected"):
        checkpoints.open_weights(tmp_path / "net.pth")


def test_what_is_assumed_is_said(tmp_path, capsys):
    torch.save(EDSR(3, 3, 8, 2).state_dict(), tmp_path / "net.pth")
    assert main(["weights", "show", str(tmp_path / "net.pth")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "assumed" in line]
    assert [line.split(":")[0].strip() for line in lines] == ["img_range", "res_scale", "rgb_mean"]


def test_a_missing_key_of_a_network_of_spandrels_is_named(tmp_path):
    state = RRDBNet(3, 3, scale=4, num_feat=8, num_block=1).state_dict()
    del state["conv_last.bias"]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net\.pth: .*ESRGAN.*Missing key.*bias"):
        checkpoints.open_weights(tmp_path / "net.pth")


def test_odd_sizes_are_padded(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(RRDBNet(3, 3, scale=2, num_feat=8, num_block=1).state_dict(), path)
    assert checkpoints.open_weights(path).network(torch.rand(1, 3, 7, 5)).shape == (1, 3, 14, 10)


@pytest.mark.parametrize(
    ("network", "found"),
    [
        (SRVGGNetCompact(4, 4, 16, 2, 2), "RealESRGAN Compact x2 with 4 channels in and 4 out"),
        (network_of("LaMa"), "LaMa x1, which needs a mask too"),
    ],
)
def test_networks_that_cannot_be_used_are_refused_by_name(tmp_path, network, found):
    path = tmp_path / "net.pth"
    state = network.state_dict()
    torch.save({key: torch.zeros(t.shape, dtype=t.dtype) for key, t in state.items()}, path)
    with pytest.raises(UserError, match=rf"net\.pth: .*{found}"):
        checkpoints.open_weights(path)


def test_of_no_network_that_is_known(tmp_path, monkeypatch):
    path = tmp_path / "net.pth"
    torch.save({"params": {"some.weight": torch.zeros(3, 3)}}, path)
    with pytest.raises(UserError, match=r"net\.pth: .*found 1 tensors of another \(some\.weight"):
        checkpoints.open_weights(path)
    monkeypatch.setattr(spandrel_networks, "known_networks", lambda: None)
    with pytest.raises(UserError, match=r"net\.pth: .*Install the extra `compare`: pip install"):
        checkpoints.open_weights(path)


@pytest.mark.parametrize("name", ["atd_light", "omnisr", "srformer_light"])
def test_networks_of_spandrels_need_it(tmp_path, monkeypatch, name):
    state = create(name, 2).state_dict()
    torch.save(state, tmp_path / "net.pth")
    monkeypatch.setattr(spandrel_networks, "known_networks", lambda: None)
    for call in (checkpoints.open_weights, lambda path: create("esc", 2, path)):
        with pytest.raises(UserError, match=r"found no such package .*Install the extra `compare`"):
            call(tmp_path / "net.pth")


@pytest.mark.skipif(
    not (WEIGHTS / "HiT_SRF_x4_official.pth").is_file(),
    reason="no ../shared/weights/HiT_SRF_x4_official.pth",
)
def test_the_published_file_of_hit_srf_is_known():
    path = WEIGHTS / "HiT_SRF_x4_official.pth"
    assert str(checkpoints.detect(checkpoints.read_state_dict(path))) == "hit_srf x4"
    opened = checkpoints.open_weights(path)
    assert (opened.name, opened.scale) == ("hit_srf x4", 4)
    assert found_by(checkpoints.read_state_dict(path)) == set()


def test_spandrels_registry_stays():
    before = len(spandrel.MAIN_REGISTRY)
    assert len(spandrel_networks.known_networks()) > before
    assert len(spandrel.MAIN_REGISTRY) == before
