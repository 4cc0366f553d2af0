"""Networks made ready for inference."""

import copy

import pytest
import torch

import esc_arch

IMAGE = torch.rand(1, 3, 40, 37)


@pytest.mark.parametrize("preset", ["esc_light", "esc_fp", "esc_real_m", "hit_srf", "swinir_light"])
def test_the_output_stays(preset):
    torch.manual_seed(0)
    network = esc_arch.create(preset, 4)
    image = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        expected = copy.deepcopy(network).eval().double()(image.double())
    deployed = esc_arch.deploy(network)
    assert deployed.network is network and not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    result = deployed(image)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-5 * expected.std().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_dtype_inside(dtype):
    torch.manual_seed(0)
    network = esc_arch.create("esc_light", 2).eval()
    with torch.no_grad():
        expected = network(IMAGE)
    deployed = esc_arch.deploy(network, dtype)
    assert {parameter.dtype for parameter in deployed.parameters()} == {dtype}
    result = deployed(IMAGE)
    assert result.dtype == torch.float32
    # A value has 8 bits in bfloat16.
    error = (result - expected).abs().max() / expected.abs().max()
    assert error < (0.03 if dtype == torch.bfloat16 else 1e-5)


def test_the_kernels_run_without_no_grad():
    network = esc_arch.create("esc_light", 2).eval()
    deployed = esc_arch.deploy(network)
    with torch.no_grad():
        expected = network(IMAGE)
    assert torch.equal(deployed(IMAGE), expected)
    assert not deployed(IMAGE.clone().requires_grad_()).requires_grad


def test_compiled(monkeypatch):
    calls = []

    def compile_(network, dynamic):
        calls.append(dynamic)
        return network

    monkeypatch.setattr(torch, "compile", compile_)
    esc_arch.deploy(esc_arch.create("esc_light", 2), compile=True)(IMAGE)
    assert calls == [True]


def test_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="int32"):
        esc_arch.deploy(esc_arch.create("esc_light", 2), torch.int32)
