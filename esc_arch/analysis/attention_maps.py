"""Attention maps of layers, the softmax of the scores, averaged as they come.

A map says for each token of a window how much it takes from each other one.  Kept of a layer is one
mean, over images, windows (those that shifts and masks make included) and heads; a fast attention
never makes the maps, so that ESC's and MambaIRv2's are computed again from queries and keys, a few
windows at a time.

Shapes: B images, N windows, h heads, n queries, m keys, d channels of a head.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from esc_arch.analysis.layers import Hook, hooked
from esc_arch.analysis.subjects import Subject
from esc_arch.archs.elan_arch import GroupwiseAttention
from esc_arch.archs.esc_arch import WindowAttention
from esc_arch.archs.mambairv2_light_arch import ShiftedWindowAttention
from esc_arch.ops.attention import relative_position_bias, window_partition
from esc_arch.ops.padding import pad_to_windows

__all__ = ["MapMeans", "map_sum", "watched"]

# Numbers of maps that are computed at once: 16 MB in float32.
_AT_ONCE = 1 << 22

# Takes the path of a layer, the sums (n, m) of its maps, one for each kind of window, and how many
# maps each is of.
Take = Callable[[str, Sequence[Tensor], Sequence[int]], None]


class MapMeans:
    """The mean map of each layer, over all that it is given."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {}
        self._counts: dict[str, list[int]] = {}

    def add(self, path: str, sums: Sequence[Tensor], counts: Sequence[int]) -> None:
        """As :data:`Take` says."""
        if path in self._sums:
            for total, new in zip(self._sums[path], sums, strict=True):
                total += new
            counts = [a + b for a, b in zip(self._counts[path], counts, strict=True)]
        else:
            self._sums[path] = [new.double() for new in sums]
        self._counts[path] = list(counts)

    def shapes(self) -> dict[str, list[tuple[int, int]]]:
        """Of the maps of each layer that has some: one for each kind of window."""
        return {path: [(s.shape[0], s.shape[1]) for s in sums] for path, sums in self._sums.items()}

    def mean(self, path: str) -> list[Tensor]:
        """The mean maps of a layer, (n, m) each, float64."""
        return [s / c for s, c in zip(self._sums[path], self._counts[path], strict=True)]

    def cosine(self, one: str, other: str) -> float:
        """Between the mean maps of two layers; not a number where their shapes differ."""
        shapes = self.shapes()
        if shapes.get(one) is None or shapes[one] != shapes.get(other):
            return float("nan")
        a, b = (torch.cat([m.flatten() for m in self.mean(path)]) for path in (one, other))
        return float(a @ b / (a.norm() * b.norm()))


def watched(subject: Subject, layers: Sequence[str], take: Take) -> AbstractContextManager[None]:
    """Hands on the attention maps of layers, those that have some, while the block lasts.

    Those are ESC's, MambaIRv2's and ELAN's window attention, and whatever has one ``nn.Softmax``.
    """
    modules = dict(subject.inner.named_modules())
    hooks: dict[str, Hook] = {}
    for path in layers:
        place, sums = _source(path, modules[path])
        if sums is not None:
            hooks[place] = _hook(path, sums, take)
    return hooked(subject, hooks)


_Sums = Callable[[Any, tuple[Any, ...], Any], tuple[Sequence[Tensor], Sequence[int]]]


def _hook(path: str, sums: _Sums, take: Take) -> Hook:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        take(path, *sums(module, inputs, output))

    return hook


def _source(path: str, module: nn.Module) -> tuple[str, _Sums | None]:
    """The module whose hook sees the maps of a layer, and how it sums them."""
    if isinstance(module, WindowAttention):
        return path, _of_window_attention
    if isinstance(module, ShiftedWindowAttention):
        return path, _of_shifted_windows
    if isinstance(module, GroupwiseAttention):
        return path, _of_groups if module.own_maps else None
    inside = [name for name, one in module.named_modules() if isinstance(one, nn.Softmax)]
    return (f"{path}.{inside[0]}", _of_softmax) if len(inside) == 1 else (path, None)


def _of_softmax(
    module: nn.Softmax, inputs: tuple[Any, ...], maps: Tensor
) -> tuple[list[Tensor], list[int]]:
    flat = maps.flatten(0, -3)
    return [flat.sum(0)], [len(flat)]


def _of_groups(
    module: GroupwiseAttention, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]
) -> tuple[list[Tensor], list[int]]:
    return [maps.sum(0) for maps in output[1]], [len(maps) for maps in output[1]]


def _of_window_attention(
    module: WindowAttention, inputs: tuple[Tensor], output: Tensor
) -> tuple[list[Tensor], list[int]]:
    window = (module.window_size,) * 2
    qkv = pad_to_windows(module.to_qkv(inputs[0]), window)
    q, k, _ = window_partition(qkv, module.window_size, module.num_heads)
    bias = relative_position_bias(module.relative_position_bias, module.window_size)
    return [map_sum(q, k, bias)], [len(q) * module.num_heads]


def _of_shifted_windows(
    module: ShiftedWindowAttention, inputs: tuple[Tensor, nn.Linear], output: Tensor
) -> tuple[list[Tensor], list[int]]:
    x, to_qkv = inputs
    table = module.relative_position_bias_table.t().flip(1)
    bias = relative_position_bias(table, module.window_size).unsqueeze(0)
    x = x.roll((-module.shift, -module.shift), (2, 3))
    qkv = to_qkv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    total, count = bias.new_zeros(bias.shape[2:]), 0
    for rows, at_bottom in module.parts(x.shape[2], None):
        for columns, at_right in module.parts(x.shape[3], None):
            tile = qkv[:, :, rows, columns]
            q, k, _ = window_partition(tile, module.window_size, module.num_heads)
            total += map_sum(q, k, module.mask(bias, at_bottom, at_right)[0])
            count += len(q) * module.num_heads
    return [total], [count]


def map_sum(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """The sum of ``softmax(q k' / sqrt(d) + bias)`` over windows and heads.

    Args:
        q: (N, h, n, d).
        k: (N, h, m, d).
        bias: (h, n, m).

    Returns:
        (n, m), of the dtype of q.
    """
    n, m = bias.shape[1:]
    together = max(1, _AT_ONCE // (n * m))
    total = q.new_zeros(n, m)
    for head in range(q.shape[1]):
        for first in range(0, len(q), together):
            some = slice(first, first + together)
            scores = q[some, head] * q.shape[-1] ** -0.5 @ k[some, head].transpose(1, 2)
            total += (scores + bias[head]).softmax(dim=-1).sum(0)
    return total
