"""The convolutional feed-forward network."""

from torch import Tensor, nn

from esc_arch.ops.activation import gelu


class ConvFFN(nn.Module):
    """Widen, mix each pixel with its neighbours, narrow.

    Args:
        dim: number of channels in and out.
        exp_ratio: the hidden width is ``int(dim * exp_ratio)``.
        kernel_size: side of the depth-wise kernel, odd.

    Shape: (B, dim, H, W) -> (B, dim, H, W).

    Raises:
        ValueError: when the hidden width is zero.

    Source: ESC, arXiv 2503.06671.
    """

    def __init__(self, dim: int, exp_ratio: float, kernel_size: int = 3) -> None:
        super().__init__()
        hidden = int(dim * exp_ratio)
        if hidden < 1:
            raise ValueError(f"exp_ratio {exp_ratio} leaves no hidden channel of dim {dim}")
        self.proj = nn.Conv2d(dim, hidden, 1)
        self.dwc = nn.Conv2d(hidden, hidden, kernel_size, padding=kernel_size // 2, groups=hidden)
        self.aggr = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = gelu(self.proj(x))
        x = gelu(self.dwc(x)).add_(x)
        return self.aggr(x)
