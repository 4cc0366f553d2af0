"""Whole networks by the kernels against the same networks by PyTorch's operations."""

import pytest
import torch

import esc_arch
from esc_arch.fast import kernels

IMAGE = torch.rand(1, 3, 40, 37, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("preset", ["esc", "esc_light", "esc_fp", "esc_real", "esc_xl"])
@torch.inference_mode()
def test_networks_give_the_same(preset, monkeypatch):
    torch.manual_seed(0)
    network = esc_arch.create(preset, esc_arch.PRESETS[preset].scales[0]).eval()
    compiled = network(IMAGE)
    monkeypatch.setattr(kernels, "usable", lambda x: False)
    expected = network(IMAGE)
    assert not torch.equal(compiled, expected)
    torch.testing.assert_close(compiled, expected, rtol=0, atol=1e-5 * expected.std().item() * 10)


@torch.no_grad()
def test_traced_and_exported_graphs_hold_pytorchs_operations():
    network = esc_arch.create("esc_light", 2).eval()
    exported = {str(node.target) for node in torch.export.export(network, (IMAGE,)).graph.nodes}
    graph = torch.jit.trace(network, IMAGE, check_trace=False).inlined_graph
    traced = {node.kind() for node in graph.nodes()}
    assert any("conv2d" in name for name in exported) and "aten::_convolution" in traced
    assert not any("esc_arch" in name for name in exported | traced)


@pytest.mark.parametrize("preset", ["esc_light", "esc_fp", "esc_real_m"])
def test_networks_have_the_gradients_of_float64(preset):
    # With seed 0 an input of a LeakyReLU is 4e-8: float32 may be on the other side of the kink.
    torch.manual_seed(2)
    network = esc_arch.create(preset, 2)

    def gradients(network, image):
        network.zero_grad()
        network(image).square().mean().backward()
        return {name: p.grad.double() for name, p in network.named_parameters()}

    result = gradients(network, IMAGE)
    expected = gradients(network.double(), IMAGE.double())  # by PyTorch's operations
    for name, gradient in expected.items():
        error = (result[name] - gradient).norm() / (gradient.norm() + 1e-12)
        assert error < 1e-4, name


def test_function_transforms_go_by_pytorch():
    network = esc_arch.create("esc_light", 2)
    for parameter in network.parameters():
        parameter.requires_grad_(False)

    def loss(x):
        return network(x).sum()

    by_transform = torch.func.grad(loss)(IMAGE)
    leaf = IMAGE.clone().requires_grad_()
    loss(leaf).backward()
    torch.testing.assert_close(by_transform, leaf.grad, rtol=1e-4, atol=1e-5)
