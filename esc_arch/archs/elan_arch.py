"""ELAN: Efficient Long-Range Attention Network for Image Super-Resolution.

Paper: ECCV 2022, arXiv 2203.06697.  Public code: github.com/xindongzhang/ELAN, Apache 2.0
(its names of arguments and parameters are kept, so its checkpoints work).

Shifted convolutions extract local features; softmax attention inside windows of three
sizes follows, whose maps the next module uses again.

Shapes: B images, H x W pixels, C channels, r = scale.
"""

from collections.abc import Sequence
from math import lcm
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch import fast
from esc_arch.layers.argument_checks import check_least, check_only, check_positive
from esc_arch.layers.channels_last import like_input
from esc_arch.layers.rgb_mean import RGB_MEAN
from esc_arch.ops.padding import crop, pad_to_windows
from esc_arch.ops.windows import from_tokens, to_tokens
from esc_arch.plugin.registration import register_arch

__all__ = ["ELAN"]


class MeanShift(nn.Conv2d):
    """Adds a constant to each colour; a frozen 1x1 convolution, as the checkpoints hold it.

    Args:
        shift: of red, green and blue.

    Shape: (B, 3, H, W) -> (B, 3, H, W).
    """

    def __init__(self, shift: Sequence[float]) -> None:
        super().__init__(3, 3, 1)
        values = {"weight": torch.eye(3).view(3, 3, 1, 1), "bias": torch.tensor(shift)}
        self.load_state_dict(values)
        self.requires_grad_(False)


@fast.known(reach=1)
class ShiftConv2d(nn.Module):
    """Moves four fifths of the channels by one pixel, each fifth its own way; then 1x1.

    The move is a frozen depth-wise convolution, as the checkpoints hold it: channels come
    from the right, the left, below and above; zeros come in from beyond the map.

    Args:
        dim, out_dim: numbers of channels.

    Shape: (B, dim, H, W) -> (B, out_dim, H, W).
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        taps = torch.zeros(dim, 1, 3, 3)
        fifth = dim // 5
        for i, (row, column) in enumerate(((1, 2), (1, 0), (2, 1), (0, 1))):
            taps[i * fifth : (i + 1) * fifth, 0, row, column] = 1
        taps[4 * fifth :, 0, 1, 1] = 1
        self.weight = nn.Parameter(taps, requires_grad=False)
        self.conv1x1 = nn.Conv2d(dim, out_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1x1(F.conv2d(x, self.weight, padding=1, groups=self.weight.shape[0]))


@fast.known
class LocalFeatureExtraction(nn.Module):
    """Two shifted convolutions with a ReLU between.

    Args:
        dim: C.
        ratio: the hidden width over C.

    Shape: (B, C, H, W) -> (B, C, H, W).

    Source: ELAN, arXiv 2203.06697, LFE.
    """

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        # The public code chooses between two forms of the shifted convolution, hence a level
        # more in the keys.
        self.conv0 = nn.ModuleDict({"shift_conv": ShiftConv2d(dim, dim * ratio)})
        self.conv1 = nn.ModuleDict({"shift_conv": ShiftConv2d(dim * ratio, dim)})

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1["shift_conv"](F.relu(self.conv0["shift_conv"](x), inplace=True))


class GroupwiseAttention(nn.Module):
    """Attention inside windows, a third of the channels to each of three window sizes.

    Keys are queries.  Batch normalisation takes the place of the scale and keeps the
    public behaviour: statistics of the batch in training, running ones in evaluation.

    Args:
        dim: C, a multiple of 3.
        windows: sides of the three windows in pixels.
        shifted: move the windows by half their side.
        own_maps: compute attention maps, or use those of an earlier module.

    Shape: x (B, C, H, W), H and W multiples of the windows; maps, when not ``own_maps``,
    one (windows of all images, n, n) for each window size -> (B, C, H, W) and the maps.

    Source: ELAN, arXiv 2203.06697, GMSA and ASA.
    """

    def __init__(self, dim: int, windows: Sequence[int], shifted: bool, own_maps: bool) -> None:
        super().__init__()
        self.windows = tuple(windows)
        self.shifted = shifted
        self.own_maps = own_maps
        width = 2 * dim if own_maps else dim
        self.project_inp = nn.Sequential(nn.Conv2d(dim, width, 1), nn.BatchNorm2d(width))
        self.project_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, maps: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        groups = self.project_inp(x).chunk(3, dim=1)
        if self.own_maps or maps is None:
            maps = []
        results = []
        for i, (group, window) in enumerate(zip(groups, self.windows, strict=True)):
            if self.shifted:
                # Of an odd side the larger half forth and the smaller back: so it was trained.
                group = group.roll((-((window + 1) // 2),) * 2, dims=(2, 3))
            v = to_tokens(group, (window, window))
            if self.own_maps:
                q, v = v.chunk(2, dim=-1)
                maps.append(attention_map(q))
            attended = from_tokens(maps[i] @ v, (window, window), (x.shape[2], x.shape[3]))
            if self.shifted:
                attended = attended.roll((window // 2,) * 2, dims=(2, 3))
            results.append(attended)
        return self.project_out(torch.cat(results, dim=1)), maps


def attention_map(q: Tensor) -> Tensor:
    """``softmax(q q^T)``, (N, n, d) -> (N, n, n)."""
    # Unscaled scores may lie beyond what half precision holds.
    wide = q.to(torch.promote_types(q.dtype, torch.float32))
    return (wide @ wide.transpose(-2, -1)).softmax(dim=-1).to(q.dtype)


class ELAB(nn.Module):
    """Local features and attention in turn; the attention maps of the first for all.

    Args:
        dim: C.
        ratio: of the local feature extraction.
        windows, shifted: of the attention.
        n_share: how many further modules use the maps.

    Shape: (B, C, H, W) -> (B, C, H, W).

    Source: ELAN, arXiv 2203.06697, ELAB.
    """

    def __init__(
        self, dim: int, ratio: int, windows: Sequence[int], shifted: bool, n_share: int
    ) -> None:
        super().__init__()
        self.modules_lfe = nn.ModuleDict(
            {f"lfe_{i}": LocalFeatureExtraction(dim, ratio) for i in range(1 + n_share)}
        )
        self.modules_gmsa = nn.ModuleDict(
            {
                f"gmsa_{i}": GroupwiseAttention(dim, windows, shifted, own_maps=i == 0)
                for i in range(1 + n_share)
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = None
        for lfe, gmsa in zip(self.modules_lfe.values(), self.modules_gmsa.values(), strict=True):
            x = fast.in_bands([lfe], x, residual=x)
            attended, maps = gmsa(x, maps)
            x = attended + x
        return x


@register_arch
class ELAN(nn.Module):
    """The ELAN network; the defaults are ELAN-light.

    In training its batch normalisation computes with the statistics of the batch, so train
    and eval modes differ, as the public network's do.

    Args:
        scale: r.
        colors: 3.
        window_sizes: sides of the three attention windows in pixels.
        m_elan: number of modules, a multiple of ``1 + n_share``.
        c_elan: C, a multiple of 3, at least 6.
        n_share: modules that use the attention maps of the one before them.
        r_expand: expansion of the local feature extraction.
        rgb_range: the network computes with colours in [0, rgb_range]; the public
            checkpoints with 255.  Images go in and come out in [0, 1] in any case, as
            everywhere in BasicSR.
        act_type: ``relu``.

    Shape: (B, 3, H, W), RGB in [0, 1], any H and W from 1 -> (B, 3, rH, rW), in the
    input's memory format.

    Raises:
        ValueError: when the arguments do not fit each other, or ask for what no published
            network has.
    """

    def __init__(
        self,
        scale: int,
        colors: int = 3,
        window_sizes: Sequence[int] = (4, 8, 16),
        m_elan: int = 24,
        c_elan: int = 60,
        n_share: int = 1,
        r_expand: int = 2,
        rgb_range: float = 255.0,
        act_type: str = "relu",
    ) -> None:
        super().__init__()
        _check(scale, colors, window_sizes, m_elan, c_elan, n_share, r_expand, rgb_range, act_type)
        self.scale = scale
        self.rgb_range = rgb_range
        self.padding = (lcm(*window_sizes),) * 2
        self.sub_mean = MeanShift([-rgb_range * mean for mean in RGB_MEAN])
        self.add_mean = MeanShift([rgb_range * mean for mean in RGB_MEAN])
        self.head = nn.Sequential(nn.Conv2d(3, c_elan, 3, padding=1))
        self.body = nn.Sequential(
            *(
                ELAB(c_elan, r_expand, window_sizes, i % 2 == 1, n_share)
                for i in range(m_elan // (1 + n_share))
            )
        )
        self.tail = nn.Sequential(
            nn.Conv2d(c_elan, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2] * self.scale, x.shape[3] * self.scale
        image = x.contiguous(memory_format=torch.channels_last)
        image = pad_to_windows(image, self.padding) * self.rgb_range
        shallow = self.head(self.sub_mean(image))
        y = self.add_mean(self.tail(self.body(shallow) + shallow)) / self.rgb_range
        return like_input(crop(y, height, width), x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A checkpoint of another range would load, and give another image.
        bias = state_dict.get(prefix + "sub_mean.bias")
        if torch.is_tensor(bias) and bias.shape == (3,) and not bias.is_meta:
            own = range_of(bias)
            if abs(own - self.rgb_range) > 0.01 * self.rgb_range:
                args[-1].append(
                    f"{prefix}sub_mean.bias is of rgb_range {own:g}, the network's is "
                    f"{self.rgb_range:g}"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


def range_of(sub_mean_bias: Tensor) -> float:
    """The ``rgb_range`` with which a network was built, by its sub_mean.bias, (3,)."""
    return round(-sub_mean_bias[0].item() / RGB_MEAN[0], 2)


def _check(
    scale: int,
    colors: int,
    window_sizes: Sequence[int],
    m_elan: int,
    c_elan: int,
    n_share: int,
    r_expand: int,
    rgb_range: float,
    act_type: str,
) -> None:
    check_only("ELAN", colors=(colors, 3), act_type=(act_type, "relu"))
    if len(window_sizes) != 3 or min(window_sizes) < 1:
        raise ValueError(f"window_sizes {list(window_sizes)} is not three sides from 1 pixel")
    check_least(
        scale=(scale, 1),
        n_share=(n_share, 0),
        m_elan=(m_elan, 1),
        c_elan=(c_elan, 6),
        r_expand=(r_expand, 1),
    )
    if m_elan % (1 + n_share):
        raise ValueError(f"m_elan {m_elan} is not a multiple of 1 + n_share, {1 + n_share}")
    if c_elan % 3:
        raise ValueError(f"c_elan {c_elan} is not a multiple of 3")
    check_positive(rgb_range=rgb_range)
