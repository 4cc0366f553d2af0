"""The folded kernel against the mean over the eight transforms, one by one."""

import numpy as np
import pytest
import torch

from esc_arch.archs.esc_arch import geometric_mean_kernel


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 4), (2, 3, 5, 5), (16, 16, 13, 13)])
def test_is_the_mean_of_turns_and_flips(shape):
    kernel = np.random.default_rng(0).standard_normal(shape)
    turned = [np.rot90(kernel, turns, axes=(-2, -1)) for turns in range(4)]
    flipped = [np.flip(one, axis=-1) for one in turned]
    expected = np.mean(turned + flipped, axis=0)
    result = geometric_mean_kernel(torch.from_numpy(kernel)).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-15)


def test_folding_twice_changes_nothing():
    once = geometric_mean_kernel(torch.randn(4, 4, 13, 13, dtype=torch.float64))
    torch.testing.assert_close(geometric_mean_kernel(once), once, rtol=0, atol=1e-15)


def test_13x13_kernel_keeps_28_distinct_taps():
    folded = geometric_mean_kernel(torch.randn(13, 13, dtype=torch.float64))
    assert len(folded.mul(1e12).round().unique()) == 28


def test_does_not_write_to_its_input():
    kernel = torch.randn(2, 2, 5, 5)
    before = kernel.clone()
    geometric_mean_kernel(kernel)
    assert torch.equal(kernel, before)


def test_gradient():
    kernel = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(geometric_mean_kernel, kernel)
