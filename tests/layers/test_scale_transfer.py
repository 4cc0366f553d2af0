"""Scale transfer against bilinear interpolation of the sub-pixel grid in numpy."""

import numpy as np
import pytest
import torch

from esc_arch.layers.scale_transfer import transfer_scale


def bilinear(grid, size):
    """(old, old) -> (size, size), align_corners False: centres of pixels on centres."""
    old = len(grid)
    result = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            y, x = (np.clip((t + 0.5) * old / size - 0.5, 0, old - 1) for t in (i, j))
            top, left = int(y), int(x)
            bottom, right = min(top + 1, old - 1), min(left + 1, old - 1)
            dy, dx = y - top, x - left
            result[i, j] = (1 - dy) * ((1 - dx) * grid[top, left] + dx * grid[top, right]) + dy * (
                (1 - dx) * grid[bottom, left] + dx * grid[bottom, right]
            )
    return result


def resampled(parameter, old, new):
    """Each colour's sub-pixels, for every input channel and tap, one grid at a time."""
    result = np.empty((3 * new * new, *parameter.shape[1:]))
    for colour in range(3):
        for rest in np.ndindex(*parameter.shape[1:]):
            column = parameter[(slice(colour * old * old, (colour + 1) * old * old), *rest)]
            grid = bilinear(column.reshape(old, old), new)
            result[(slice(colour * new * new, (colour + 1) * new * new), *rest)] = grid.ravel()
    return result


def head(scale, dtype=torch.float64):
    return {
        "to_img.weight": torch.randn(3 * scale**2, 4, 3, 3, dtype=torch.float64).to(dtype),
        "to_img.bias": torch.randn(3 * scale**2, dtype=torch.float64).to(dtype),
    }


@pytest.mark.parametrize("old, new", [(2, 3), (2, 4), (4, 2), (3, 2), (1, 2), (2, 1)])
def test_is_bilinear_over_the_sub_pixels(old, new):
    state = head(old)
    expected = {key: resampled(value.numpy(), old, new) for key, value in state.items()}
    transfer_scale(state, "to_img.", new)
    for key, value in expected.items():
        np.testing.assert_allclose(state[key].numpy(), value, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_checkpoint_keeps_its_precision(dtype):
    state = head(2, dtype)
    expected = {key: resampled(value.double().numpy(), 2, 3) for key, value in state.items()}
    transfer_scale(state, "to_img.", 3)
    for key, value in expected.items():
        assert state[key].dtype == dtype
        eps = torch.finfo(dtype).eps
        np.testing.assert_allclose(state[key].double().numpy(), value, rtol=eps, atol=1e-7)


def test_a_head_that_repeats_its_input_still_does():
    # Every sub-pixel of a colour alike: nearest upsampling, at any scale.
    state = {"to_img.weight": torch.arange(3.0).repeat_interleave(4).reshape(12, 1, 1, 1)}
    transfer_scale(state, "to_img.", 3)
    expected = torch.arange(3.0).repeat_interleave(9).reshape(27, 1, 1, 1)
    assert torch.equal(state["to_img.weight"], expected)


def test_the_tensors_of_the_caller_are_not_written_to():
    state = head(2)
    tensors = dict(state)
    before = {key: value.clone() for key, value in state.items()}
    transfer_scale(state, "to_img.", 3)
    for key, tensor in tensors.items():
        assert state[key] is not tensor
        assert torch.equal(tensor, before[key])


def test_other_keys_are_left_alone():
    other = torch.randn(12, 4, 3, 3)
    state = {**head(2), "last.weight": other, "module.to_img.weight": other}
    transfer_scale(state, "to_img.", 3)
    assert state["last.weight"] is other
    assert state["module.to_img.weight"] is other


def test_prefix_is_part_of_the_key():
    state = {"net." + key: value for key, value in head(2).items()}
    transfer_scale(state, "net.to_img.", 4)
    assert state["net.to_img.weight"].shape == (48, 4, 3, 3)
    assert state["net.to_img.bias"].shape == (48,)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"to_img.bias": torch.zeros(12)},
        {"to_img.weight": torch.zeros(27, 4, 3, 3)},
        {"to_img.weight": torch.zeros(12)},
        {"to_img.weight": torch.zeros(13, 4, 3, 3)},
        {"to_img.weight": torch.zeros(15, 4, 3, 3)},
        {"to_img.weight": torch.zeros(0, 4, 3, 3)},
    ],
    ids=["empty", "no weight", "same scale", "not 4D", "not colours", "not a square", "no channel"],
)
def test_nothing_to_transfer_changes_nothing(said, state):
    before = dict(state)
    transfer_scale(state, "to_img.", 3)
    assert state.keys() == before.keys()
    assert all(state[key] is value for key, value in before.items())
    assert said == []


def test_a_head_without_bias():
    state = head(2)
    del state["to_img.bias"]
    transfer_scale(state, "to_img.", 3)
    assert set(state) == {"to_img.weight"}
    assert len(state["to_img.weight"]) == 27


def test_says_what_it_did(said):
    transfer_scale(head(2), "to_img.", 3)
    assert said == [("INFO", "Scale transfer: to_img.weight of a x2 network is resampled for x3.")]
