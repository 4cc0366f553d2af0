"""The start of training, the presets, and arguments that do not fit."""

import pytest
import torch

from esc_arch import ESC, PRESETS, UserError, create

# FACTS of the paper: parameters of the published networks at x2, x3, x4.
PUBLISHED = {
    ("esc", 2): 946_728,
    ("esc", 3): 955_383,
    ("esc", 4): 967_500,
    ("esc_light", 2): 603_600,
    ("esc_light", 3): 612_255,
    ("esc_light", 4): 624_372,
    ("esc_fp", 2): 523_675,
    ("esc_fp", 3): 530_170,
    ("esc_fp", 4): 539_263,
    ("esc_xl", 2): 12_455_916,
    ("esc_real", 4): 2_265_307,
    ("esc_real_dysample", 4): 2_169_499,
}


@pytest.mark.parametrize(("name", "scale"), PUBLISHED)
def test_parameters_of_the_published_networks(name, scale):
    with torch.device("meta"):
        network = create(name, scale)
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[name, scale]


def test_initial_values():
    torch.manual_seed(0)
    network = create("esc", 2)
    large = network.plk_filter.reshape(16, -1)
    torch.testing.assert_close(large @ large.T, torch.eye(16), rtol=0, atol=1e-5)
    for block in network.blocks:
        table = block.attn.relative_position_bias
        assert table.std().item() == pytest.approx(0.001, rel=0.05)
        for pconv in block.pconvs:
            last = pconv.plk.dwc_proj[-1]
            assert not last.weight.any() and not last.bias.any()


def test_presets_cannot_be_changed():
    with pytest.raises(TypeError):
        PRESETS["esc"].arguments["dim"] = 1
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["esc"]


def test_create_takes_other_arguments_and_names_the_presets():
    assert len(create("esc", 2, n_blocks=1).blocks) == 1
    with pytest.raises(UserError, match="esc_light"):
        create("esc_lite", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 5}, "dim 64 is not a multiple of num_heads 5"),
        ({"num_heads": 0}, "num_heads 0"),
        ({"kernel_size": 12}, "kernel_size 12"),
        ({"kernel_size": 1}, "kernel_size 1"),
        ({"pdim": 65}, "pdim 65"),
        ({"pdim": 1}, "pdim 1"),
        ({"window_size": 0}, "window_size 0"),
        ({"n_blocks": 0}, "n_blocks 0"),
        ({"conv_blocks": 0}, "conv_blocks 0"),
        ({"upscaling_factor": 0}, "upscaling_factor 0"),
        ({"exp_ratio": 0}, "exp_ratio 0"),
        ({"attn_type": "flash"}, "attn_type 'flash' is unknown; known are auto, naive"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        ESC(**{**PRESETS["esc"].arguments, "upscaling_factor": 2, **arguments})
