"""A convolution with reflection padding for maps of any size."""

from torch import Tensor, nn

from esc_arch.ops.padding import reflect_pad


class ReflectConv2d(nn.Conv2d):
    """A depth-wise convolution whose padding reflects the map.

    PyTorch's own ``padding_mode="reflect"`` refuses maps not larger than the padding.

    Args:
        dim: number of channels.
        kernel_size: side of the kernel, odd.

    Shape: (B, dim, H, W) -> (B, dim, H, W), any H and W from 1.
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__(dim, dim, kernel_size, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        radius = self.kernel_size[0] // 2
        x = reflect_pad(x.permute(0, 2, 3, 1), radius, radius, radius, radius)
        return super().forward(x.permute(0, 3, 1, 2))
