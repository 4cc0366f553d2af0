"""spandrel's loader loads our networks, and its own as before."""

# First, as it makes torchvision importable beside a PyTorch that it was not built for.
import esc_arch.spandrel

# isort: split
import importlib
import sys

import pytest
import spandrel
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from spandrel import ArchRegistry, ImageModelDescriptor, ModelLoader, ModelTiling

from esc_arch import UserError, checkpoints, create
from tests.checkpoints.public_networks import registry
from tests.reference_cases import fill_parameters

OURS = {
    "esc_light": ("ESC", 3, {"n_blocks": 2}),
    "esc": ("ESC", 2, {"dim": 32, "use_ln": True, "conv_blocks": 2, "n_blocks": 1}),
    "esc_fp": ("ESCFP", 4, {"n_blocks": 1}),
    "esc_lte": ("ESCLTE", 4, {"n_blocks": 1, "hidden_dim": 32}),
    "esc_real": ("ESCReal", 4, {"n_blocks": 1, "dim": 32}),
    "esc_real_dysample": ("ESCReal", 4, {"n_blocks": 1}),
    "esc_real_m": ("ESCRealM", 1, {"n_blocks": 1}),
    "hit_srf": ("HiT_SRF", 2, {"depths": (2, 3), "num_heads": (3, 3)}),
    "elan_light": ("ELAN", 3, {"m_elan": 4}),
    "mambairv2_light": ("MambaIRv2Light", 2, {"depths": (2,), "num_heads": (4,)}),
}
GLOBAL = ("ESC", "ESCFP", "ESCLTE", "ESCReal", "ESCRealM", "MambaIRv2Light")


@pytest.fixture
def loader():
    known = registry()
    assert len(esc_arch.spandrel.install(known)) == 8
    assert esc_arch.spandrel.install(known) == []
    return ModelLoader(registry=known)


@pytest.mark.parametrize("preset", OURS)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_built_saved_loaded(tmp_path, loader, preset, ending):
    name, scale, arguments = OURS[preset]
    network = fill_parameters(create(preset, scale, **arguments)).eval()
    path = tmp_path / f"net.{ending}"
    if ending == "pth":
        torch.save({"params_ema": network.state_dict()}, path)
    else:
        checkpoints.write_safetensors(network, path)
    loaded = loader.load_from_file(path)
    assert isinstance(loaded, ImageModelDescriptor)
    assert type(loaded.model) is type(network)
    assert (loaded.architecture.id, loaded.scale) == (name, scale)
    assert loaded.purpose == ("SR" if scale > 1 else "Restoration")
    assert (loaded.input_channels, loaded.output_channels) == (3, 3)
    assert loaded.supports_half and loaded.supports_bfloat16
    assert loaded.tiling is (ModelTiling.DISCOURAGED if name in GLOBAL else ModelTiling.SUPPORTED)
    assert loaded.size_requirements.check(1, 1)
    assert loaded.tags
    found = checkpoints.detect(network.state_dict())
    assert loaded.model.hyperparameters == found.arguments
    for key, value in arguments.items():
        assert loaded.model.hyperparameters[key] == value
    for height, width in ((1, 1), (7, 50), (40, 33)):
        image = torch.rand(1, 3, height, width)
        torch.manual_seed(0)
        with torch.no_grad():
            expected = network(image).clamp(0, 1)
        torch.manual_seed(0)
        torch.testing.assert_close(loaded(image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("preset", OURS)
def test_it_computes_in_the_dtypes_that_it_says(loader, preset, dtype):
    _, scale, arguments = OURS[preset]
    network = create(preset, scale, **arguments).eval()
    loaded = loader.load_from_state_dict(network.state_dict()).to(dtype)
    result = loaded(torch.rand(1, 3, 20, 24).to(dtype))
    assert result.dtype == dtype
    assert result.shape == (1, 3, 20 * scale, 24 * scale)
    assert result.isfinite().all()


def test_presets_are_tags(loader):
    loaded = loader.load_from_state_dict(create("esc_light", 2).state_dict())
    assert loaded.tags == ["esc_light", "64dim", "3blocks", "32w"]
    assert loaded.architecture.name == "ESC"


def test_another_network_is_refused(loader):
    architecture = loader.registry["ESC"].architecture
    assert not architecture.detect(create("esc_fp", 2, n_blocks=1).state_dict())
    with pytest.raises(ValueError, match="not the parameters of ESC"):
        architecture.load({})


def test_the_main_registry(monkeypatch):
    main = spandrel.MAIN_REGISTRY
    # The registry copies what it changes: so it is put back afterwards.
    for name in ("_architectures", "_ordered", "_by_id"):
        monkeypatch.setattr(main, name, getattr(main, name))
    assert len(esc_arch.spandrel.install()) == 8
    network = create("esc_light", 2, n_blocks=1)
    assert ModelLoader().load_from_state_dict(network.state_dict()).architecture.id == "ESC"
    other = RRDBNet(3, 3, scale=4, num_feat=8, num_block=1)
    assert ModelLoader().load_from_state_dict(other.state_dict()).architecture.id == "ESRGAN"


def test_an_empty_registry():
    known = ArchRegistry()
    esc_arch.spandrel.install(known)
    assert len(known) == 8


def test_without_spandrel(monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    monkeypatch.delitem(sys.modules, "esc_arch.spandrel")
    with pytest.raises(UserError, match=r"found none .*Install the extra `compare`: pip install"):
        importlib.import_module("esc_arch.spandrel")
