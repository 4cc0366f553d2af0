"""Every network against the outputs of the public implementation."""

import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY

from esc_arch import ESC, create
from tests.reference_cases import (
    GRADIENT_CASES,
    OUTPUT_CASES,
    REFERENCE,
    arrays,
    deviation,
    fill_parameters,
)

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


def build(case: dict, **arguments: object) -> torch.nn.Module:
    return ARCH_REGISTRY.get(case["arch"])(**case["kwargs"], **arguments)


@pytest.mark.parametrize("case", OUTPUT_CASES.values(), ids=OUTPUT_CASES)
def test_keys_in_order_shapes_and_parameter_count(case):
    network = build(case)
    keys = [[key, list(tensor.shape)] for key, tensor in network.state_dict().items()]
    assert keys == case["keys"]
    assert sum(p.numel() for p in network.parameters()) == case["n_params"]


@pytest.mark.parametrize("attn_type", ["naive", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", OUTPUT_CASES)
def test_output(name, dtype, attn_type, record_property):
    network = fill_parameters(build(OUTPUT_CASES[name], attn_type=attn_type)).to(dtype).eval()
    expected = arrays(name)
    with torch.no_grad():
        y = network(expected["x"].to(dtype))
    record_property("deviation", deviation(y, expected["y"]))
    assert deviation(y, expected["y"]) < TOLERANCE[dtype]


@pytest.mark.parametrize("attn_type", ["naive", "sdpa"])
@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_gradients_in_training(name, attn_type):
    """Whole gradients where the reference has them, the norm of every one else."""
    network = fill_parameters(build(GRADIENT_CASES[name], attn_type=attn_type)).double().train()
    expected = arrays(name)
    x = expected["x"].double().requires_grad_()
    loss = (network(x) - expected["t"].double()).abs().mean()
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"].item(), rel=1e-9)
    assert deviation(x.grad, expected["grad_x"]) < 1e-6
    parameters = dict(network.named_parameters())
    for key, gradient in expected.items():
        if key.startswith("grad:"):
            assert deviation(parameters[key.removeprefix("grad:")].grad, gradient) < 1e-6, key
    norms = gradient_norms(name)
    assert set(norms) == set(parameters)
    for parameter, norm in norms.items():
        assert parameters[parameter].grad.norm().item() == pytest.approx(norm, rel=1e-6), parameter


def gradient_norms(name: str) -> dict[str, float]:
    with np.load(REFERENCE / f"{name}.npz") as file:
        return dict(zip(file["norm_names"].tolist(), file["norms"].tolist(), strict=True))


def test_scale_transfer_on_load(caplog):
    arguments = {**OUTPUT_CASES["esc_x2"]["kwargs"], "n_blocks": 1}
    x2 = fill_parameters(ESC(**{**arguments, "upscaling_factor": 2}))
    x3 = ESC(**{**arguments, "upscaling_factor": 3})
    given = x2.state_dict()
    before = given["to_img.weight"].clone()
    with caplog.at_level("INFO", logger="basicsr.esc_arch"):
        x3.load_state_dict(given)
    expected = arrays("esc_transfer_x2_to_x3")
    torch.testing.assert_close(x3.to_img.weight, expected["to_img_weight"], rtol=0, atol=1e-6)
    torch.testing.assert_close(x3.to_img.bias, expected["to_img_bias"], rtol=0, atol=1e-6)
    assert torch.equal(given["to_img.weight"], before)
    assert torch.equal(x3.last.weight, x2.last.weight)
    assert "x2" in caplog.text and "x3" in caplog.text


def test_a_checkpoint_without_to_img_is_refused_by_name():
    state = create("esc_light", 2).state_dict()
    del state["to_img.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*to_img\.weight"):
        create("esc_light", 3).load_state_dict(state)


def test_scale_transfer_of_esc_fp():
    """The same rule as ESC's, whose result the reference has."""
    x2, x3 = fill_parameters(create("esc_fp", 2)), create("esc_fp", 3)
    x3.load_state_dict(x2.state_dict())
    grid = x2.to_img.weight.detach().reshape(3, 2, 2, 48, 9).permute(3, 4, 0, 1, 2)
    expected = torch.nn.functional.interpolate(
        grid.reshape(-1, 3, 2, 2), size=(3, 3), mode="bilinear", align_corners=False
    ).reshape(48, 9, 3, 3, 3)
    weight = x3.to_img.weight.detach().reshape(3, 3, 3, 48, 9).permute(3, 4, 0, 1, 2)
    torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)


def test_convert_folds_the_large_kernel_and_keeps_the_output():
    network = fill_parameters(create("esc_light", 2)).eval()
    x = torch.rand(1, 3, 20, 24)
    with torch.no_grad():
        before = network(x)
        network.convert()
        folded = network.plk_filter.clone()
        after = network(x)
        network.convert()
    expected = arrays("esc_convert")["plk_filter"]
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(network.plk_filter, folded, rtol=0, atol=1e-7)
    assert deviation(after, before) < 1e-5
