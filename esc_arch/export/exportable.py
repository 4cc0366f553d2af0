"""A network whose graph holds for every batch and size, and can be written as ONNX.

Layers that are replaced keep their parameters and compute the same.

Shapes: B images, H x W pixels, h heads of d channels.
"""

import copy

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from esc_arch.archs.esc_arch import ConvolutionalAttention, WindowAttention
from esc_arch.archs.esc_fp_arch import FactorizedConvAttention
from esc_arch.archs.esc_lte_arch import ESCLTE
from esc_arch.export.any_scale import AnyScaleGraph
from esc_arch.export.graph_ops import attention_of_windows, depthwise_by_image
from esc_arch.ops.padding import crop, pad_to_windows

__all__ = ["exportable", "portable"]


def exportable(network: nn.Module) -> nn.Module:
    """A copy of a network for ``torch.onnx.export``.

    Args:
        network: of any kind; the layers of the ESC family are replaced.

    Returns:
        The copy, in evaluation mode, without gradients, folded; of a network for any scale, with
        the size as its second input.
    """
    network = portable(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in _REPLACEMENTS:
                setattr(parent, name, _REPLACEMENTS[type(child)](child))
    return AnyScaleGraph(network) if isinstance(network, ESCLTE) else network


def portable(network: nn.Module) -> nn.Module:
    """A copy of a network for ``torch.export``: evaluation mode, no gradients, folded."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    convert = getattr(network, "convert", None)
    if convert is not None:
        convert()
    return network


class _WindowAttention(nn.Module):
    """:class:`WindowAttention` by rows of queries.

    Shape: (B, dim, H, W) -> (B, dim, H, W).
    """

    def __init__(self, layer: WindowAttention) -> None:
        super().__init__()
        self.window = layer.window_size
        self.num_heads = layer.num_heads
        side = 2 * self.window - 1
        self.table = nn.Parameter(
            layer.relative_position_bias.view(-1, side, side), requires_grad=False
        )
        self.to_qkv = layer.to_qkv
        self.to_out = layer.to_out

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        w = self.window
        rows, columns = (height + w - 1) // w, (width + w - 1) // w
        # Scores of half-precision inputs may lie beyond what half precision holds.
        qkv = self.to_qkv(pad_to_windows(x, (w, w))).float()
        qkv = rearrange(qkv, "b c (ny wy) (nx wx) -> (b ny nx) c (wy wx)", wy=w, wx=w)
        q, k, v = rearrange(qkv, "n (t h d) p -> t n h d p", t=3, h=self.num_heads).unbind(0)
        y = attention_of_windows(q.transpose(2, 3), k, v.transpose(2, 3), self.table.float())
        y = rearrange(
            y,
            "(b ny nx) h (wy wx) d -> b (h d) (ny wy) (nx wx)",
            ny=rows,
            nx=columns,
            wy=w,
            wx=w,
        ).to(x.dtype)
        result: Tensor = self.to_out(crop(y, height, width))
        return result


class _ConvAttention(ConvolutionalAttention):
    """:class:`ConvolutionalAttention`, the large kernel apart from those of the images."""

    def __init__(self, layer: ConvolutionalAttention) -> None:
        super().__init__(layer.pdim)
        self.dwc_proj = layer.dwc_proj

    def forward(self, x: Tensor, large_kernel: Tensor) -> Tensor:
        y = F.conv2d(x, large_kernel, padding=large_kernel.shape[-1] // 2)
        return y + depthwise_by_image(x, self.dynamic_kernel(x))


class _FactorizedConvAttention(FactorizedConvAttention):
    """:class:`FactorizedConvAttention`, the spatial kernel apart from those of the images."""

    def __init__(self, layer: FactorizedConvAttention) -> None:
        super().__init__(layer.pdim)
        self.proj = layer.proj

    def forward(self, x: Tensor, large_kernel: tuple[Tensor, Tensor]) -> Tensor:
        channel_kernel, spatial_kernel = large_kernel
        dynamic_kernel = self.dynamic_kernel(x)
        x = F.conv2d(x, channel_kernel)
        radius = spatial_kernel.shape[-1] // 2
        y = F.conv2d(x, spatial_kernel, padding=radius, groups=self.pdim)
        return y + depthwise_by_image(x, dynamic_kernel)


_REPLACEMENTS = {
    WindowAttention: _WindowAttention,
    ConvolutionalAttention: _ConvAttention,
    FactorizedConvAttention: _FactorizedConvAttention,
}
