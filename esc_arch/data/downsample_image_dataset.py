"""Dataset of HR images, for training and validation; LR images are made from them.

Shapes: images are (H, W, 3), BGR, as OpenCV decodes them, until they become tensors.
"""

import os
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from basicsr.data.transforms import augment, mod_crop
from basicsr.utils import FileClient, imfrombytes, img2tensor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from esc_arch.data.image_sets import read_meta_info
from esc_arch.errors import UserError
from esc_arch.imaging.imresize import imresize
from esc_arch.plugin.registration import register_dataset

__all__ = ["DOWNSAMPLING", "DownsampleImageDataset", "Pixels", "one_per_root", "roots_of"]


Pixels: TypeAlias = NDArray[np.uint8]


class _Source(NamedTuple):
    """Where one image is: its path, or its key in the LMDB ``root``."""

    path: str
    root: str


def _pil_bicubic(image: Pixels, scale: int) -> Pixels:
    size = (image.shape[1] // scale, image.shape[0] // scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _matlab_bicubic(image: Pixels, scale: int) -> Pixels:
    return imresize(image, 1 / scale)


# Functions of an (H, W, 3) uint8 image, whose sides are multiples of the scale.
DOWNSAMPLING: Mapping[str, Callable[[Pixels, int], Pixels]] = {
    "pil_bicubic": _pil_bicubic,
    "matlab_bicubic": _matlab_bicubic,
}


def roots_of(dataroot: str | list[str]) -> list[str]:
    """``dataroot_gt`` as a list, without ``~`` for the home folder."""
    return [os.path.expanduser(r) for r in ([dataroot] if isinstance(dataroot, str) else dataroot)]


def one_per_root(value: str | list[str | None] | None, roots: int) -> list[str | None]:
    """``meta_info_file`` as a list, which is right when it has one item for each root."""
    if value is None:
        return [None] * roots
    return [value] if isinstance(value, str) else list(value)


@register_dataset
class DownsampleImageDataset(Dataset[dict[str, Tensor | str]]):
    """HR images from one or several places, and LR images made on the fly.

    In training: a random crop of ``gt_size``, flipped and rotated at random; its LR image
    is made from these 8-bit pixels alone, as if the crop were an image.  Otherwise: the
    whole image, cropped at the right and bottom to a multiple of the scale.

    Args:
        opt: keys of the option file:

            - dataroot_gt: a folder or an LMDB of HR images, or a list of such.  Folders are
              not searched further down; files come in the order of their names.  (BasicSR's
              own option parser takes no list here; the ``basicsr`` command does.)
            - meta_info_file: text file with an image name at the start of each line, instead
              of all images; with several roots a list, ``~`` where all images are meant.
            - io_backend: as in BasicSR's datasets; ``type`` is the same for all roots.
            - downsampling: ``pil_bicubic`` (default, that of the paper) or
              ``matlab_bicubic`` (that of the usual test sets).
            - gt_size, use_hflip, use_rot: for training.
            - scale, phase: as BasicSR's datasets get them.

    Raises:
        ValueError: for an unknown downsampling.
        UserError: when a root holds no image.

    Source: ESC, arXiv 2503.06671, training on DFLIP.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt
        name = opt.get("downsampling", "pil_bicubic")
        if name not in DOWNSAMPLING:
            raise ValueError(f"no downsampling {name!r}; known are {', '.join(DOWNSAMPLING)}")
        self._downsample = DOWNSAMPLING[name]
        roots = roots_of(opt["dataroot_gt"])
        self._backend = dict(opt["io_backend"])
        if self._backend["type"] == "lmdb":
            # An LMDB can be open once in a process, though it may be listed twice.
            distinct = list(dict.fromkeys(roots))
            self._backend |= {"db_paths": distinct, "client_keys": distinct}
        metas = one_per_root(opt.get("meta_info_file"), len(roots))
        self.paths = [
            _Source(path, root)
            for root, meta in zip(roots, metas, strict=True)
            for path in _paths(root, meta, self._backend["type"] == "lmdb")
        ]
        self._client: FileClient | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """One pair.

        Returns:
            lq (3, h, w) and gt (3, h * scale, w * scale), RGB, float32 in [0, 1]; lq_path
            and gt_path, which are the same.

        Raises:
            UserError: when the image cannot be decoded, or is smaller than ``gt_size`` or
                than one LR pixel.
        """
        source = self.paths[index]
        image = self._read(source)
        if self.opt["phase"] == "train":
            pair = self._training_pair(image, source.path)
        else:
            pair = self._whole_pair(image, source.path)
        gt, lq = img2tensor([i.astype(np.float32) / 255 for i in pair])
        return {"lq": lq, "gt": gt, "lq_path": source.path, "gt_path": source.path}

    def _training_pair(self, image: Pixels, path: str) -> tuple[Pixels, Pixels]:
        """A random HR patch and its LR image."""
        patch = self._random_patch(image, path, self.opt["gt_size"])
        return patch, self._downsample(patch, self.opt["scale"])

    def _whole_pair(self, image: Pixels, path: str) -> tuple[Pixels, Pixels]:
        """The HR image, cropped to a multiple of the scale, and its LR image."""
        scale = self.opt["scale"]
        if min(image.shape[:2]) < scale:
            raise UserError(
                f"{path}: expected sides of at least the scale {scale}; found "
                f"{_size(image)}. Remove this image."
            )
        image = mod_crop(image, scale)
        return image, self._downsample(image, scale)

    def _read(self, source: _Source) -> Pixels:
        if self._client is None:
            # In the worker that reads: an open LMDB must not be carried into a fork.
            kind = {name: value for name, value in self._backend.items() if name != "type"}
            self._client = FileClient(self._backend["type"], **kind)
        content = self._client.get(source.path, source.root)
        # OpenCV stops with an assertion for no bytes at all.
        image: Pixels | None = imfrombytes(content) if content else None
        if image is None:
            found = "no readable image" if content else "nothing"
            raise UserError(
                f"{source.path}: expected an image; found {found}. Copy or make it again."
            )
        return image

    def _random_patch(self, image: Pixels, path: str, size: int) -> Pixels:
        """A crop of ``size`` at a random place, flipped and rotated at random."""
        height, width = image.shape[:2]
        if min(height, width) < size:
            raise UserError(
                f"{path}: expected sides of at least gt_size {size}; found {_size(image)}. "
                "Remove this image, or lower gt_size."
            )
        top, left = random.randint(0, height - size), random.randint(0, width - size)
        # A copy: augment flips in place, and views keep the whole image alive.
        patch = image[top : top + size, left : left + size].copy()
        patch = augment(patch, self.opt["use_hflip"], self.opt["use_rot"])
        return np.ascontiguousarray(patch)


def _paths(root: str, meta: str | None, is_lmdb: bool) -> list[str]:
    """The images of one root, sorted, or in the order in which ``meta`` lists them."""
    if is_lmdb and meta is None:
        meta = os.path.join(root, "meta_info.txt")
    if meta is not None:
        names = [line.name.split(" ")[0] for line in read_meta_info(meta)]
    else:
        with os.scandir(root) as entries:
            names = sorted(e.name for e in entries if e.name[0] != "." and e.is_file())
    if not names:
        raise UserError(f"{root}: expected images; found none. Put the images there.")
    if is_lmdb:
        # As BasicSR's scripts name the keys.
        return [name.split(".")[0] for name in names]
    return [os.path.join(root, name) for name in names]


def _size(image: Pixels) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
