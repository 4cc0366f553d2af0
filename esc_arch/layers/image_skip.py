"""The path from the image to the deep features of the ESC-Real networks."""

from torch import nn

from esc_arch.layers.reflect_conv import ReflectConv2d


def image_skip(channels: int, dim: int) -> list[nn.Module]:
    """Widen to 2*dim, look at 7x7 pixels, narrow to dim.

    Shape: (B, channels, H, W) -> (B, dim, H, W), any H and W from 1.

    Source: ESC-Real, arXiv 2503.06671.
    """
    return [
        nn.Conv2d(channels, 2 * dim, 1),
        ReflectConv2d(2 * dim, 7),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * dim, dim, 1),
    ]
