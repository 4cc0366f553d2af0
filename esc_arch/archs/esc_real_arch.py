"""ESC-Real and ESC-Real-M: ESC for photographs with unknown degradations.

Paper: ICCV 2025, arXiv 2503.06671.  Public code: github.com/dslisleedh/ESC (its names of
arguments and parameters are kept, so its option files and checkpoints work).

Shapes: B images, H x W pixels, r = upscaling factor.
"""

from torch import Tensor, nn

from esc_arch import fast
from esc_arch.archs.config import takes_fields_of
from esc_arch.archs.esc_arch import ESCConfig, ESCFamily
from esc_arch.layers.channels_last import like_input
from esc_arch.layers.upsamplers import DySample, UniUpsample, nearest_conv
from esc_arch.ops.padding import crop, pad_to_windows, reflect_pad
from esc_arch.plugin.registration import register_arch

__all__ = ["ESCReal", "ESCRealM"]


@fast.known(reach=3)
class ReflectConv2d(nn.Conv2d):
    """A depth-wise 7x7 convolution whose padding reflects the map.

    PyTorch's own ``padding_mode="reflect"`` refuses maps not larger than the padding.

    Args:
        dim: number of channels.

    Shape: (B, dim, H, W) -> (B, dim, H, W), any H and W from 1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 7, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(reflect_pad(x, 3, 3, 3, 3))


def image_skip(channels: int, dim: int) -> list[nn.Module]:
    """From the image past the blocks: widen to 2*dim, look at 7x7 pixels, narrow to dim.

    Shape: (B, channels, H, W) -> (B, dim, H, W), any H and W from 1.
    """
    return [
        nn.Conv2d(channels, 2 * dim, 1),
        ReflectConv2d(2 * dim),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * dim, dim, 1),
    ]


@register_arch
@fast.known
class ESCReal(ESCFamily):
    """The ESC-Real network, x4; with DySample any scale.

    Args:
        config: the fields of :class:`esc_arch.archs.esc_arch.ESCConfig`, one by one;
            ``upscaling_factor`` is 4, unless ``use_dysample``.
        use_dysample: upsample by DySample, which takes less memory.

    Shape: (B, 3, H, W), RGB in [0, 1], any H and W from 1 -> (B, 3, rH, rW), in the
    input's memory format.

    Raises:
        ValueError: when the arguments do not fit each other.
    """

    @takes_fields_of(ESCConfig)
    def __init__(self, config: ESCConfig, use_dysample: bool = False) -> None:
        dim, scale = config.dim, config.upscaling_factor
        if scale != 4 and not use_dysample:
            raise ValueError(
                f"ESCReal enlarges 4 times, upscaling_factor is {scale}: "
                "set use_dysample, or take ESCRealM"
            )
        super().__init__(config, use_ln=True)
        self.to_img = DySample(dim, 3, scale) if use_dysample else nearest_conv(dim)
        self.skip = nn.Sequential(*image_skip(3, dim))
        self.blueprint = fast.Blueprint.of(self)

    def upsample(self, feat: Tensor, x: Tensor) -> Tensor:
        return fast.in_bands([self.to_img], feat + self.skip(x))


@register_arch
@fast.known
class ESCRealM(ESCFamily):
    """The ESC-Real-M network, x1 to x4, with a choice of upsamplers.

    Args:
        config: the fields of :class:`esc_arch.archs.esc_arch.ESCConfig`, one by one;
            ``upscaling_factor`` is 1 to 4.
        mid_dim: channels inside the upsampler.
        upsampler: ``conv`` (x1 only), ``pixelshuffledirect``, ``pixelshuffle``,
            ``nearest+conv`` or ``dysample``.
        unshuffle_mod: for x1 and x2, fold 4/r x 4/r pixels into channels and enlarge four
            times from there.

    Shape: (B, 3, H, W), RGB in [0, 1], any H and W from 1 -> (B, 3, rH, rW), in the
    input's memory format.

    Raises:
        ValueError: when the arguments do not fit each other.
    """

    @takes_fields_of(ESCConfig)
    def __init__(
        self,
        config: ESCConfig,
        mid_dim: int = 48,
        upsampler: str = "nearest+conv",
        unshuffle_mod: bool = True,
    ) -> None:
        scale = config.upscaling_factor
        if scale not in range(1, 5):
            raise ValueError(f"upscaling_factor {scale} is not one of 1, 2, 3, 4")
        self.unshuffle = 4 // scale if unshuffle_mod and scale < 3 else 1
        super().__init__(config, use_ln=True)
        self.to_img = UniUpsample(upsampler, scale * self.unshuffle, config.dim, mid_dim)
        self.blueprint = fast.Blueprint.of(self)

    def make_stem(self, dim: int) -> None:
        if self.unshuffle == 1:
            self.proj = nn.Conv2d(3, dim, 3, padding=1)
            self.skip = nn.Sequential(*image_skip(3, dim))
            return
        channels = 3 * self.unshuffle**2
        folds = [nn.PixelUnshuffle(self.unshuffle) for _ in range(2)]
        self.proj = nn.Sequential(folds[0], nn.Conv2d(channels, dim, 3, padding=1))
        self.skip = nn.Sequential(folds[1], *image_skip(channels, dim))

    def forward(self, x: Tensor) -> Tensor:
        height, width = (side * self.upscaling_factor for side in x.shape[2:])
        image = self.pad(x)
        return like_input(crop(self.upsample(self.features(image), image), height, width), x)

    def upsample(self, feat: Tensor, x: Tensor) -> Tensor:
        return self.to_img(feat + self.skip(x))

    def pad(self, x: Tensor) -> Tensor:
        """Extend an image to whole squares of folded pixels, (B, 3, H, W) -> (B, 3, H', W')."""
        return x if self.unshuffle == 1 else pad_to_windows(x, (self.unshuffle,) * 2)
