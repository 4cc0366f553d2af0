"""Dataset of HR images whose LR images look like photographs that people have.

Shapes: images are (H, W, 3), BGR, uint8.
"""

import io
import random
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from esc_arch.data.downsample_image_dataset import DownsampleImageDataset, Pixels
from esc_arch.plugin.registration import register_dataset

__all__ = ["PHOTO_DEFAULTS", "PhotoImageDataset"]

# Keys of the option file beside those of DownsampleImageDataset, with their defaults.
PHOTO_DEFAULTS: Mapping[str, Any] = {
    "clean_prob": 0.1,
    "blur_prob": 0.5,
    "blur_sigma": (0.2, 0.8),
    "noise_prob": 0.4,
    "noise_range": (1, 8),
    "gray_noise_prob": 0.4,
    "jpeg_prob": 0.9,
    "jpeg_range": (30, 95),
    "jpeg_444_prob": 0.3,
}

# Pixels of a JPEG's blocks, at 4:2:0 twice those of a transform.
_BLOCK = 16


@register_dataset
class PhotoImageDataset(DownsampleImageDataset):
    """HR images, and LR images made on the fly: blurred, noisy and saved as JPEG, all lightly.

    An LR image is made of the 8-bit HR pixels in this order: Gaussian blur, downsampling,
    Gaussian noise, JPEG.  Each step is done with a chance of its own; with ``clean_prob`` there
    is only the downsampling.  In training, an LR patch begins at a random place in the blocks
    of its JPEG file in every second sample, as in a photograph that was cropped, and at the
    corner of a block in the others.  In validation each image is made in the same way at each
    call, by its name.

    Args:
        opt: keys of :class:`DownsampleImageDataset`, and (default):

            - clean_prob: chance that only the downsampling is done (0.1).
            - blur_prob, blur_sigma: chance, and least and largest sigma in LR pixels
              (0.5, [0.2, 0.8]).
            - noise_prob, noise_range: chance, and least and largest sigma in levels of 255
              (0.4, [1, 8]).
            - gray_noise_prob: of the noise, share that is equal in the three channels (0.4).
            - jpeg_prob, jpeg_range: chance, and least and largest quality (0.9, [30, 95]).
            - jpeg_444_prob: of the JPEG files, share with full colour resolution, 4:4:4; the
              others are 4:2:0 (0.3).

    Raises:
        ValueError, UserError: as :class:`DownsampleImageDataset`.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        self._degradation = {name: opt.get(name, value) for name, value in PHOTO_DEFAULTS.items()}

    def _training_pair(self, image: Pixels, path: str) -> tuple[Pixels, Pixels]:
        scale, size = self.opt["scale"], self.opt["gt_size"]
        rng = np.random.default_rng(random.getrandbits(64))
        # Of small images there may be nothing to spare around the patch.
        spare = max(0, min(_BLOCK - 1, (min(image.shape[:2]) - size) // scale))
        gt = self._random_patch(image, path, size + spare * scale)
        lq = self._degraded(gt, rng)
        top, left = rng.integers(spare + 1, size=2) if rng.random() < 0.5 else (0, 0)
        lq = lq[top : top + size // scale, left : left + size // scale]
        gt = gt[top * scale : top * scale + size, left * scale : left * scale + size]
        return gt, lq

    def _whole_pair(self, image: Pixels, path: str) -> tuple[Pixels, Pixels]:
        gt, _ = super()._whole_pair(image, path)
        rng = np.random.default_rng(zlib.crc32(Path(path).name.encode()))
        return gt, self._degraded(gt, rng)

    def _degraded(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """The LR image of HR pixels."""
        opt, scale = self._degradation, self.opt["scale"]
        if rng.random() < opt["clean_prob"]:
            return self._downsample(image, scale)
        if rng.random() < opt["blur_prob"]:
            sigma = scale * rng.uniform(*opt["blur_sigma"])
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
        image = self._downsample(image, scale)
        if rng.random() < opt["noise_prob"]:
            channels = 1 if rng.random() < opt["gray_noise_prob"] else 3
            noise = rng.standard_normal((*image.shape[:2], channels), np.float32)
            image = image + rng.uniform(*opt["noise_range"]) * noise
            image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        if rng.random() < opt["jpeg_prob"]:
            full = rng.random() < opt["jpeg_444_prob"]
            image = _jpeg(image, round(rng.uniform(*opt["jpeg_range"])), full)
        return image


def _jpeg(image: Pixels, quality: int, is_full_colour: bool) -> Pixels:
    """The pixels after saving as JPEG, 4:4:4 or 4:2:0."""
    file, subsampling = io.BytesIO(), "4:4:4" if is_full_colour else "4:2:0"
    rgb = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    rgb.save(file, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(file) as saved:
        return np.asarray(saved)[..., ::-1]
