"""Dataset of HR images for networks of any scale: a random scale for each batch, and points of the
HR patch that the network is asked for.

Shapes: images are (H, W, 3), BGR, uint8, until they become tensors; Q: queried points.
"""

import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from basicsr.utils import img2tensor
from PIL import Image
from torch import Tensor

from esc_arch.data.downsample_image_dataset import DownsampleImageDataset, Pixels
from esc_arch.errors import UserError
from esc_arch.plugin.registration import register_dataset

__all__ = ["SCALE_RANGE", "RandomScaleImageDataset", "largest_patch", "lr_size"]

# That of the paper.
SCALE_RANGE = (1.0, 4.0)


def lr_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """The size of an HR image by a scale, rounded down; (0, ...) where nothing is left.

    Source: LIIF and LTE, ``SRImplicitDownsampled``; the little term is for sides such as
    33 = 10 * 3.3, which floating-point numbers would miss.
    """
    return math.floor(height / scale + 1e-9), math.floor(width / scale + 1e-9)


@register_dataset
class RandomScaleImageDataset(DownsampleImageDataset):
    """HR images from one or several places, and LR images made by Pillow's bicubic.

    In training: an HR patch of ``round(lq_size * s)``, flipped and rotated at random; its LR
    image of ``lq_size``, made of these 8-bit pixels; and ``sample_q`` pixels of the patch, all
    different.  s is uniform in ``scale_range`` and the same for all samples of a batch: see
    :meth:`draw_for_batch`.  Otherwise: the whole image at ``scale``, of which the remainder
    at the right and bottom is cut off.

    Args:
        opt: keys of the option file:

            - dataroot_gt, meta_info_file, io_backend, use_hflip, use_rot, phase: those of
              :class:`DownsampleImageDataset`.
            - lq_size: side of the LR patch; for training.
            - sample_q: queried points of a sample; for training.
            - scale_range: least and largest scale of training; 1 to 4 by default.
            - scale: of validation, 1 or more, such as 3.3.

    Raises:
        UserError: when a root holds no image.

    Source: LTE (arXiv 2111.08918), whose public code draws the scale of each sample, and
    ESC+LTE, arXiv 2503.06671.
    """

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """One sample, in training at a scale of its own.

        Returns:
            In training those of :meth:`get_item`; otherwise lq (3, h, w) and gt
            (3, round(h * scale), round(w * scale)), RGB, float32 in [0, 1]; and lq_path and
            gt_path, which are the same.

        Raises:
            UserError: when the image cannot be decoded, or is too small.
        """
        if self.opt["phase"] == "train":
            return self.get_item(index, self.draw_for_batch())
        return super().__getitem__(index)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor | str]]:
        """The samples of a batch, as PyTorch's DataLoader asks for them, at one scale."""
        if self.opt["phase"] != "train":
            return [self[index] for index in indices]
        scale = self.draw_for_batch()
        return [self.get_item(index, scale) for index in indices]

    def draw_for_batch(self) -> float:
        """The scale of a batch, by Python's generator.

        A sampler that knows the place of a batch in the training seeds that before, so all
        processes that make samples of the batch draw the same.
        """
        return random.uniform(*self.opt.get("scale_range", SCALE_RANGE))

    def get_item(self, index: int, scale: float) -> dict[str, Tensor | str]:
        """A training sample at a scale.

        Returns:
            lq (3, lq_size, lq_size), gt (Q, 3), RGB, float32 in [0, 1]; coord (Q, 2), the centres
            of the pixels of gt in [-1, 1], y first; cell (2,), the sides of one of them; lq_path
            and gt_path, which are the same.

        Raises:
            UserError: when the image cannot be decoded, or is smaller than the patch of the
                largest scale.
        """
        source, side, count = self.paths[index], self.opt["lq_size"], self.opt["sample_q"]
        image = self._read(source)
        least = largest_patch(side, self.opt.get("scale_range", SCALE_RANGE))
        if min(image.shape[:2]) < least:
            raise UserError(
                f"{source.path}: expected sides of at least {least}, lq_size times the largest "
                f"scale; found {image.shape[1]}x{image.shape[0]}. Remove this image, or lower "
                "lq_size or scale_range."
            )
        patch = self._random_patch(image, source.path, round(side * scale))
        gt, lq = img2tensor(
            [i.astype(np.float32) / 255 for i in (patch, _bicubic(patch, side, side))]
        )
        pixels = torch.tensor(random.sample(range(patch.shape[0] * patch.shape[1]), count))
        rows, columns = pixels // gt.shape[2], pixels % gt.shape[2]
        cell = torch.tensor([2 / gt.shape[1], 2 / gt.shape[2]])
        return {
            "lq": lq,
            "gt": gt[:, rows, columns].T.contiguous(),
            "coord": (torch.stack([rows, columns], -1) + 0.5) * cell - 1,
            "cell": cell,
            "lq_path": source.path,
            "gt_path": source.path,
        }

    def _whole_pair(self, image: Pixels, path: str) -> tuple[Pixels, Pixels]:
        """The HR image, cropped to what the LR image covers, and its LR image."""
        scale = self.opt["scale"]
        height, width = lr_size(image.shape[0], image.shape[1], scale)
        if min(height, width) < 1:
            raise UserError(
                f"{path}: expected sides of at least the scale {scale}; found "
                f"{image.shape[1]}x{image.shape[0]}. Remove this image."
            )
        image = np.ascontiguousarray(image[: round(height * scale), : round(width * scale)])
        return image, _bicubic(image, height, width)


def largest_patch(lq_size: int, scale_range: Sequence[float]) -> int:
    """The side of the HR patch of the largest scale."""
    return round(lq_size * scale_range[1])


def _bicubic(image: Pixels, height: int, width: int) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
