"""Activation checkpointing in every network of ESC blocks."""

import copy

import pytest
import torch
from torch import nn

from esc_arch import UserError
from esc_arch.archs import ESC, ESCFP, ESCReal, ESCRealM
from esc_arch.models.esc_model import checkpoint_blocks

SIZES = {"dim": 16, "pdim": 8, "kernel_size": 5, "n_blocks": 2, "conv_blocks": 1}
SIZES |= {"window_size": 8, "num_heads": 2, "upscaling_factor": 4}


@pytest.mark.parametrize("kind", [ESC, ESCFP, ESCReal, ESCRealM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_result_and_gradients_are_the_same_from_less_memory(kind, dtype):
    plain = kind(**SIZES)
    checkpointed = copy.deepcopy(plain)
    checkpoint_blocks(checkpointed)
    assert list(checkpointed.state_dict()) == list(plain.state_dict())
    x = torch.rand(2, 3, 12, 10)
    (expected, before), (result, after) = (run(net, x, dtype) for net in (plain, checkpointed))
    assert torch.equal(result, expected)
    assert after < 0.6 * before
    for (name, p), own in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(own.grad, p.grad), name


def run(network: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, int]:
    """The result, and the bytes that forward kept for backward."""
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16),
    ):
        result = network(x)
        count = sum(kept.values())
    result.square().mean().backward()
    return result, count


def test_inference_computes_each_block_once():
    network = ESC(**SIZES).eval()
    checkpoint_blocks(network)
    calls = []
    for block in network.blocks:
        block.register_forward_hook(lambda *call: calls.append(call))
    with torch.no_grad():
        network(torch.rand(1, 3, 8, 8))
    assert len(calls) == 2


def test_a_copy_is_checkpointed_too():
    network = ESC(**SIZES)
    checkpoint_blocks(network)
    x = torch.rand(1, 3, 8, 8)
    assert run(copy.deepcopy(network), x, torch.float32)[1] == run(network, x, torch.float32)[1]


def test_other_networks_are_refused():
    with pytest.raises(UserError, match=r"expected a network of ESC blocks; found Conv2d"):
        checkpoint_blocks(nn.Conv2d(3, 3, 3))
