"""Networks and images of an analysis."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from esc_arch import UserError
from esc_arch.analysis.subjects import (
    cropped,
    find_inputs,
    image_names,
    open_subject,
    read_pixels,
    shrunk,
    to_tensor,
)
from tests.analysis.small_networks import esc


def test_images_of_any_kind_become_rgb(tmp_path):
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = 10, 20, 30, 255
    cv2.imwrite(str(tmp_path / "a.png"), rgba)
    assert read_pixels(tmp_path / "a.png").tolist() == [[[30, 20, 10]] * 3, [[255] * 3] * 3]
    cv2.imwrite(str(tmp_path / "b.png"), np.array([[0, 129, 65535]], np.uint16))
    assert read_pixels(tmp_path / "b.png").tolist() == [[[0] * 3, [1] * 3, [255] * 3]]
    tensor = to_tensor(read_pixels(tmp_path / "a.png"), esc())
    assert tensor.shape == (1, 3, 2, 3) and tensor.dtype == torch.float32
    torch.testing.assert_close(tensor[0, :, 0, 0], torch.tensor([30.0, 20.0, 10.0]) / 255)


def test_files_and_folders(tmp_path):
    for name in ("b/1.png", "a/1.png", "a/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((2, 2, 3), np.uint8))
    found = find_inputs([str(tmp_path / "b/1.png"), str(tmp_path)])
    assert found == [tmp_path / name for name in ("b/1.png", "a/1.png", "a/2.jpg")]
    assert image_names(found) == ["1_1", "1_2", "2"]
    assert find_inputs([str(tmp_path)], most=1) == [tmp_path / "a/1.png"]
    with pytest.raises(UserError, match=r"none.png: expected an image file .* found no such thing"):
        find_inputs([str(tmp_path / "none.png")])


def test_crops_are_central():
    pixels = np.arange(7 * 5).reshape(7, 5)
    assert cropped(pixels, 3).tolist() == pixels[2:5, 1:4].tolist()
    assert cropped(pixels, 6).tolist() == pixels[:6].tolist()
    assert cropped(pixels, None) is pixels


def test_lr_images_are_pillows():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 15, 3), dtype=np.uint8)
    whole = Image.fromarray(np.ascontiguousarray(pixels[:8, :12]))
    expected = np.asarray(whole.resize((3, 2), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(shrunk(pixels, 4), expected)


def test_initial_weights_are_the_same_each_time():
    one, other = (open_subject("esc_light:3") for _ in range(2))
    assert one.name == "esc_light x3" and one.weights == "initial weights" and one.scale == 3
    for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not any(parameter.requires_grad for parameter in one.network.parameters())
