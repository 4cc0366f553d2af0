"""Datasets that BasicSR lacks."""

from esc_arch.data.downsample_image_dataset import DownsampleImageDataset

__all__ = ["DownsampleImageDataset"]
