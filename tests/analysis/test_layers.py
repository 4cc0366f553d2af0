"""Layers by their paths, and their outputs as maps."""

import numpy as np
import pytest
import torch
from torch import nn

from esc_arch import PRESETS, UserError
from esc_arch.analysis.layers import ATTENTIONS, BLOCKS, default_layers, kind_of_layer, resolve, run
from esc_arch.analysis.subjects import open_subject
from esc_arch.archs.omnisr_arch import OmniSR
from tests.analysis.small_networks import esc, subject, swinir


def maps(network, image, layers):
    found = {}
    run(network, image, layers, lambda path, output: found.update({path: output.clone()}))
    return found


def outputs(network, image, *paths):
    """Inputs and outputs of modules by PyTorch's hooks alone."""
    found, handles = {}, []
    for path in paths:
        module = network.network.get_submodule(path)
        hook = lambda m, i, o, path=path: found.update({path: (i[0], o)})  # noqa: E731
        handles.append(module.register_forward_hook(hook))
    with torch.inference_mode():
        network.network(image)
    for handle in handles:
        handle.remove()
    return [found[path] for path in paths]


def test_a_star_stands_for_a_part_of_a_name():
    network = esc(n_blocks=2, conv_blocks=2)
    assert resolve([network], ["blocks.*.attn"]) == [["blocks.0.attn", "blocks.1.attn"]]
    assert resolve([network], ["blocks.*"]) == [["blocks.0", "blocks.1"]]
    assert resolve([network], ["last", "blocks.1.pconvs.[1-9]", "last"]) == [
        ["blocks.1.pconvs.1", "last"]
    ]
    assert kind_of_layer("layers.10.blocks.0.conv2.3") == "layers.*.blocks.*.conv2.*"


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("blocks.0.atn", "Near are: blocks.0.attn, "),
        ("blocks.*.pconv.*", r"Near are: blocks.\*.pconvs.\*, "),
        ("blocks.7.attn", "Near are: blocks.1.attn, blocks.0.attn, "),
        ("zzz", r"It has proj, blocks, blocks.\*, blocks.\*.ln_proj, "),
    ],
)
def test_an_unknown_layer_is_answered_with_the_near_ones(pattern, near):
    with pytest.raises(UserError, match=f"expected the path of a module of small.* {near}"):
        resolve([esc(n_blocks=2)], ["last", pattern])


def test_patterns_of_two_networks():
    networks = [esc(), swinir()]
    first, second = resolve(networks, ["blocks.*.attn", "layers.*.residual_group.blocks.*.attn"])
    assert len(first) == 1 and len(second) == 4
    with pytest.raises(UserError, match="expected layers of small too"):
        resolve(networks, ["blocks.*.attn"])


def test_the_outputs_of_shifted_windows_are_where_they_belong():
    """What a block of SwinIR's adds to its input, before its MLP, is what it attended to."""
    network, image = swinir(), torch.rand(1, 3, 12, 8)
    for block in ("layers.0.residual_group.blocks.0", "layers.0.residual_group.blocks.1"):
        (before, _), (after, _) = outputs(network, image, block, f"{block}.norm2")
        found = maps(network, image, [f"{block}.attn", block])
        added = (after - before)[0].T.unflatten(1, (12, 8))
        torch.testing.assert_close(found[f"{block}.attn"], added)
        assert found[block].shape == (12, 12, 8)


def test_the_outputs_of_grids_are_where_they_belong():
    network = subject(OmniSR(num_feat=8, upsampling=2, window_size=4))
    image = torch.rand(1, 3, 16, 24)
    block = "residual_layer.0.residual_layer.0.layer"
    for place in (2, 8):
        (_, after), (before, _) = outputs(
            network, image, f"{block}.{place + 1}", f"{block}.{place - 1}"
        )
        path = f"{block}.{place}.fn"
        torch.testing.assert_close(maps(network, image, [path])[path], (after - before)[0])


class Strange(nn.Module):
    """A network whose modules put out all sorts of things."""

    def __init__(self):
        super().__init__()
        self.folded = nn.Conv2d(3, 4, 1)  # is not called
        self.first = nn.Conv2d(3, 4, 1)
        self.last_channels = nn.Identity()
        self.tokens = nn.Identity()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.broken = nn.Threshold(10, float("nan"))
        self.unused = nn.Identity()

    def forward(self, x):
        y = self.first(x)
        self.last_channels(y.permute(0, 2, 3, 1))
        self.tokens(y.flatten(2).transpose(1, 2))
        self.flat(self.mean(y))
        self.broken(y)
        return self.last_channels(y)


def test_outputs_in_other_orders_and_none_at_all():
    network, image = subject(Strange(), scale=1), torch.rand(1, 3, 5, 6)
    found = maps(network, image, ["first", "tokens"])
    assert torch.equal(found["tokens"], found["first"])
    for path, reason in {
        "flat": r"whose output is a map of one image, or its tokens; found \(1, 4\)",
        "last_channels": "expected a layer that computes once",
        "broken": "expected finite values",
        "unused": "does not call it",
    }.items():
        with pytest.raises(UserError, match=f"--layers {path}: .*{reason}"):
            maps(network, image, [path])
    assert not any(module._forward_hooks for module in network.network.modules())


def test_of_an_unknown_network_layers_have_to_be_named():
    with pytest.raises(UserError, match=r"layers of small to be named.* it has folded, first,"):
        default_layers(subject(Strange()), ATTENTIONS)


def test_the_result_is_that_of_the_executor():
    network = open_subject("esc_light:2")
    image = torch.rand(1, 3, 40, 33)
    with torch.inference_mode():
        alone = network.network(image)
    result = run(network, image, default_layers(network, ATTENTIONS), lambda path, output: None)
    torch.testing.assert_close(result, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_layers_whose_outputs_are_maps(preset):
    scale = PRESETS[preset].scales[0]
    network, image = open_subject(f"{preset}:{scale}"), torch.rand(1, 3, 40, 33)
    with torch.inference_mode():
        torch.manual_seed(0)
        alone = network.network(image)
    for table in (ATTENTIONS, BLOCKS):
        if preset == "rcan" and table is ATTENTIONS:
            continue
        layers = default_layers(network, table)
        found = {}
        result = run(network, image, layers, lambda p, output, f=found: f.update({p: output.shape}))
        assert list(found) and set(found) == set(layers)
        assert len({shape[1:] for shape in found.values()}) == 1
        np.testing.assert_allclose(result, alone, atol=1e-4 * float(alone.std()))
