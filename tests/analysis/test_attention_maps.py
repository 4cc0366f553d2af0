"""Mean attention maps against explicit softmaxes, window by window."""

import numpy as np
import pytest
import torch

from esc_arch.analysis.attention_maps import MapMeans, map_sum, watched
from esc_arch.analysis.layers import run
from esc_arch.archs.mambairv2_light_arch import position_index
from tests.analysis.small_networks import esc, mambairv2, swinir


def means(subject, layers, *images):
    found = MapMeans()
    for image in images:
        with watched(subject, layers, found.add):
            run(subject, image, layers, lambda path, output: None)
    return found


def explicit(q, k, bias, window, shift=0):
    """The mean map of the windows of a map.

    Args:
        q, k: (h, d, H, W) of a whole map.
        bias: (h, n, n), queries first.
    """
    heads, d, height, width = q.shape
    maps = []
    for top in range(0, height, window):
        for left in range(0, width, window):
            places = [
                (y + shift, x + shift)
                for y in range(top, top + window)
                for x in range(left, left + window)
            ]
            # Beyond the edge the map goes on at the other side, which is not seen from here.
            sides = [(y >= height, x >= width) for y, x in places]
            places = [(y % height, x % width) for y, x in places]
            for h in range(heads):
                queries = np.array([q[h, :, y, x] for y, x in places])
                keys = np.array([k[h, :, y, x] for y, x in places])
                scores = queries @ keys.T / np.sqrt(d) + bias[h]
                apart = [[a != b for b in sides] for a in sides]
                scores = np.exp(scores) * ~np.array(apart)
                maps.append(scores / scores.sum(1, keepdims=True))
    return np.mean(maps, axis=0)


def inputs_of(subject, path, image):
    found = []
    # A tensor of inference mode cannot be used in what may have gradients.
    handle = subject.network.get_submodule(path).register_forward_pre_hook(
        lambda module, inputs: found.append(inputs[0])
    )
    run(subject, image, [], lambda path, output: None)
    handle.remove()
    return found[0].clone()


def heads_of(x, heads):
    """(1, h*d, H, W) -> (h, d, H, W), float64."""
    return x[0].unflatten(0, (heads, -1)).double().numpy()


def test_of_esc():
    subject, image = esc(window_size=4), torch.rand(1, 3, 7, 9)
    attention = subject.network.blocks[0].attn
    qkv = attention.to_qkv(inputs_of(subject, "blocks.0.attn", image)).detach().numpy()[0]
    qkv = np.pad(qkv, ((0, 0), (0, 1), (0, 3)), mode="reflect")
    q, k, _ = torch.from_numpy(qkv)[None].chunk(3, dim=1)
    table = attention.relative_position_bias.detach().double().numpy()
    place = [(y, x) for y in range(4) for x in range(4)]
    bias = np.array(
        [
            [[row[(ky - qy + 3) * 7 + kx - qx + 3] for ky, kx in place] for qy, qx in place]
            for row in table
        ]
    )
    found = means(subject, ["blocks.0.attn", "blocks.0.pconvs.0"], image)
    expected = explicit(heads_of(q, 2), heads_of(k, 2), bias, 4)
    np.testing.assert_allclose(found.mean("blocks.0.attn")[0], expected, atol=1e-6)
    assert list(found.shapes()) == ["blocks.0.attn"]


@pytest.mark.parametrize("block", [0, 1])
def test_of_swinir(block):
    subject, image = swinir(), torch.rand(1, 3, 12, 8)
    path = f"layers.1.residual_group.blocks.{block}"
    transformer = subject.network.get_submodule(path)
    attention = transformer.attn
    tokens = transformer.norm1(inputs_of(subject, path, image))
    q, k, _ = attention.qkv(tokens).detach().transpose(1, 2).unflatten(2, (12, 8)).chunk(3, dim=1)
    table = attention.relative_position_bias_table.detach().double().numpy()
    bias = table[position_index(4).numpy()].transpose(2, 0, 1)
    expected = explicit(heads_of(q, 2), heads_of(k, 2), bias, 4, shift=2 * block)
    found = means(subject, [f"{path}.attn"], image)
    np.testing.assert_allclose(found.mean(f"{path}.attn")[0], expected, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 1])
def test_of_mambairv2(layer):
    subject, image = mambairv2(), torch.rand(1, 3, 12, 8)
    path = f"layers.0.residual_group.layers.{layer}"
    frame = subject.network.get_submodule(path)
    x = inputs_of(subject, f"{path}.win_mhsa", image)
    q, k, _ = frame.wqkv(x.permute(0, 2, 3, 1)).detach().permute(0, 3, 1, 2).chunk(3, dim=1)
    table = frame.win_mhsa.relative_position_bias_table.detach().double().numpy()
    bias = table[position_index(4).numpy()].transpose(2, 0, 1)
    expected = explicit(heads_of(q, 2), heads_of(k, 2), bias, 4, shift=2 * layer)
    found = means(subject, [f"{path}.win_mhsa", f"{path}.assm"], image)
    np.testing.assert_allclose(found.mean(f"{path}.win_mhsa")[0], expected, atol=1e-6)
    assert len(found.shapes()) == 1


def test_large_windows_go_one_by_one():
    q, k, bias = torch.randn(3, 2, 1300, 2), torch.randn(3, 2, 1300, 2), torch.zeros(2, 1300, 1300)
    expected = (q @ k.transpose(2, 3) * 2**-0.5).softmax(-1).sum((0, 1))
    torch.testing.assert_close(map_sum(q, k, bias), expected, atol=1e-6, rtol=1e-4)


def test_images_are_averaged_by_their_windows():
    subject = esc(window_size=4)
    images = [torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 8)]
    one, four = (
        means(subject, ["blocks.0.attn"], image).mean("blocks.0.attn")[0] for image in images
    )
    both = means(subject, ["blocks.0.attn"], *images).mean("blocks.0.attn")[0]
    torch.testing.assert_close(both, (one + 4 * four) / 5)


def test_cosines_of_maps():
    found = MapMeans()
    found.add("a", [torch.tensor([[1.0, 0.0], [0.0, 1.0]])], [1])
    found.add("b", [torch.tensor([[2.0, 2.0], [2.0, 2.0]])], [4])
    found.add("c", [torch.ones(3, 3)], [1])
    assert found.cosine("a", "a") == pytest.approx(1)
    assert found.cosine("a", "b") == pytest.approx(0.5**0.5)
    assert np.isnan(found.cosine("a", "c")) and np.isnan(found.cosine("a", "none"))
