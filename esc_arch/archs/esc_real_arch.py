"""ESC-Real and ESC-Real-M: ESC for photographs with unknown degradations.

Paper: ICCV 2025, arXiv 2503.06671.  Public code: github.com/dslisleedh/ESC (its names of
arguments and parameters are kept, so its option files and checkpoints work).

Shapes: B images, H x W pixels, r = upscaling factor.
"""

from torch import Tensor, nn

from esc_arch.layers.dysample import DySample
from esc_arch.layers.esc_body import ESCBody, check_scale
from esc_arch.layers.image_skip import image_skip
from esc_arch.layers.uni_upsample import UniUpsample
from esc_arch.ops.bands import by_bands
from esc_arch.ops.memory_format import like_input
from esc_arch.ops.padding import crop_bottom_right, reflect_pad_bottom_right
from esc_arch.registration import register_arch

__all__ = ["ESCReal", "ESCRealM"]


@register_arch
class ESCReal(ESCBody):
    """The ESC-Real network, x4; with DySample any scale.

    Args:
        upscaling_factor: r; 4, unless ``use_dysample``.
        use_dysample: upsample by DySample, which takes less memory.
        dim, pdim, kernel_size, n_blocks, conv_blocks, window_size, num_heads, exp_ratio,
            attn_type: see :class:`esc_arch.layers.esc_body.ESCBody`.

    Shape: (B, 3, H, W), RGB in [0, 1], any H and W from 1 -> (B, 3, rH, rW), in the
    input's memory format.

    Raises:
        ValueError: when the arguments do not fit each other.
    """

    def __init__(
        self,
        dim: int,
        pdim: int,
        kernel_size: int,
        n_blocks: int,
        conv_blocks: int,
        window_size: int,
        num_heads: int,
        upscaling_factor: int,
        exp_ratio: float = 2,
        attn_type: str = "auto",
        use_dysample: bool = False,
    ) -> None:
        check_scale(upscaling_factor)
        if upscaling_factor != 4 and not use_dysample:
            raise ValueError(
                f"ESCReal enlarges 4 times, upscaling_factor is {upscaling_factor}: "
                "set use_dysample, or take ESCRealM"
            )
        super().__init__(
            dim,
            pdim,
            kernel_size,
            n_blocks,
            conv_blocks,
            window_size,
            num_heads,
            exp_ratio,
            attn_type,
            use_ln=True,
        )
        self.upscaling_factor = upscaling_factor
        self.to_img = DySample(dim, 3, upscaling_factor) if use_dysample else _nearest_conv(dim)
        self.skip = nn.Sequential(*image_skip(3, dim))

    def forward(self, x: Tensor) -> Tensor:
        return like_input(self.upsample(self.features(x), x), x)

    def upsample(self, feat: Tensor, x: Tensor) -> Tensor:
        """The result from the features of an image or of a part of it, and the image."""
        feat = feat + self.skip(x)
        if isinstance(self.to_img, DySample):  # its places are relative to the whole map
            return self.to_img(feat)
        return by_bands(self.to_img, feat, halo=2, scale=4)


def _nearest_conv(dim: int) -> nn.Sequential:
    """Twice: enlarge by repetition and convolve; then to RGB."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(dim, dim, 3, padding=1)]
        layers += [nn.LeakyReLU(0.2)]
    layers += [nn.Conv2d(dim, dim, 3, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(dim, 3, 3, padding=1))


@register_arch
class ESCRealM(ESCBody):
    """The ESC-Real-M network, x1 to x4, with a choice of upsamplers.

    Args:
        upscaling_factor: r, from 1 to 4.
        mid_dim: channels inside the upsampler.
        upsampler: ``conv`` (x1 only), ``pixelshuffledirect``, ``pixelshuffle``,
            ``nearest+conv`` or ``dysample``.
        unshuffle_mod: for x1 and x2, fold 4/r x 4/r pixels into channels and enlarge four
            times from there.
        dim, pdim, kernel_size, n_blocks, conv_blocks, window_size, num_heads, exp_ratio,
            attn_type: see :class:`esc_arch.layers.esc_body.ESCBody`.

    Shape: (B, 3, H, W), RGB in [0, 1], any H and W from 1 -> (B, 3, rH, rW), in the
    input's memory format.

    Raises:
        ValueError: when the arguments do not fit each other.
    """

    def __init__(
        self,
        dim: int,
        pdim: int,
        kernel_size: int,
        n_blocks: int,
        conv_blocks: int,
        window_size: int,
        num_heads: int,
        upscaling_factor: int,
        exp_ratio: float = 2,
        attn_type: str = "auto",
        mid_dim: int = 48,
        upsampler: str = "nearest+conv",
        unshuffle_mod: bool = True,
    ) -> None:
        check_scale(upscaling_factor, range(1, 5))
        self.unshuffle = 4 // upscaling_factor if unshuffle_mod and upscaling_factor < 3 else 1
        super().__init__(
            dim,
            pdim,
            kernel_size,
            n_blocks,
            conv_blocks,
            window_size,
            num_heads,
            exp_ratio,
            attn_type,
            use_ln=True,
        )
        self.upscaling_factor = upscaling_factor
        self.to_img = UniUpsample(upsampler, upscaling_factor * self.unshuffle, dim, mid_dim)

    def make_stem(self, dim: int) -> None:
        if self.unshuffle == 1:
            self.proj = nn.Conv2d(3, dim, 3, padding=1)
            self.skip = nn.Sequential(*image_skip(3, dim))
            return
        channels = 3 * self.unshuffle**2
        fold = nn.PixelUnshuffle(self.unshuffle)
        self.proj = nn.Sequential(fold, nn.Conv2d(channels, dim, 3, padding=1))
        self.skip = nn.Sequential(fold, *image_skip(channels, dim))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        image = self.pad(x)
        y = self.upsample(self.features(image), image)
        r = self.upscaling_factor
        y = crop_bottom_right(y.permute(0, 2, 3, 1), height * r, width * r).permute(0, 3, 1, 2)
        return like_input(y, x)

    def upsample(self, feat: Tensor, image: Tensor) -> Tensor:
        """The result from the features of a padded image or of a part of it, and the image."""
        return self.to_img(feat + self.skip(image))

    def pad(self, x: Tensor) -> Tensor:
        """Extend an image to whole squares of folded pixels, (B, 3, H, W) -> (B, 3, H', W')."""
        side, height, width = self.unshuffle, x.shape[2], x.shape[3]
        if side == 1:
            return x
        bottom = (height + side - 1) // side * side - height
        right = (width + side - 1) // side * side - width
        return reflect_pad_bottom_right(x.permute(0, 2, 3, 1), bottom, right).permute(0, 3, 1, 2)
