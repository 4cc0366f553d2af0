"""ESC+LTE as a graph of an image and a size, without loops and in bounded memory.

The queries go in a fixed number of blocks of rows, so that one graph holds for every size: what is
held at a time is a block's waves, not those of the result.

Shapes: B images, H x W pixels, H' x W' pixels of the result, D waves, R rows of a block.
"""

from itertools import pairwise
from math import pi
from typing import Any, NamedTuple

import torch
from onnxscript import ir, opset18
from torch import Tensor, nn

from esc_arch.archs.esc_lte_arch import ESCLTE, LARGEST_TRAINED_SCALE, LEAST_AREA, SHIFT, normalised
from esc_arch.export.graph_values import constant, floating, ints, static

__all__ = ["AnyScaleGraph", "decode", "decode_in_onnx"]

# Rows of the result are computed in so many blocks.  More take longer to export and to load.
BLOCKS = 32

_ops: Any = opset18


class AnyScaleGraph(nn.Module):
    """ESC+LTE for ``torch.onnx.export``.

    Args:
        network: whose layers it takes.

    Shape: (B, 3, H, W) in [0, 1], and H', W' as two numbers of int64 -> (B, 3, H', W').
    """

    def __init__(self, network: ESCLTE) -> None:
        super().__init__()
        self.encoder = network.encoder
        coef, freq = network.coef, network.freq
        waves = coef.out_channels
        # Frequencies along y, then those along x, not in pairs.
        order = torch.arange(waves).view(-1, 2).T.flatten()
        self.waves = nn.Conv2d(coef.in_channels, 2 * waves, 3, padding=1)
        assert coef.bias is not None and freq.bias is not None
        self.waves.weight = nn.Parameter(torch.cat([coef.weight, freq.weight[order]]))
        self.waves.bias = nn.Parameter(torch.cat([coef.bias, freq.bias[order]]))
        self.phase = nn.Parameter(pi * network.phase.weight.T.float())
        layers = [layer for layer in network.imnet.layers if isinstance(layer, nn.Linear)]
        self.weights = nn.ParameterList(layer.weight.T.contiguous() for layer in layers)
        self.biases = nn.ParameterList(layer.bias for layer in layers)
        self.requires_grad_(False)

    def forward(self, image: Tensor, size: Tensor) -> Tensor:
        x = normalised(image)
        feat = self.waves(self.encoder(x)).permute(0, 2, 3, 1)
        return decode(feat, x, size, self.phase, list(self.weights), list(self.biases))


@torch.library.custom_op("esc_arch::decode", mutates_args=())
def decode(
    waves: Tensor,
    x: Tensor,
    size: Tensor,
    phase: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
) -> Tensor:
    """:meth:`ESCLTE.decode` of the whole result, with cells of at most the largest trained scale.

    For graphs: in PyTorch the network itself does it.

    Args:
        waves: (B, H, W, 2 D): amplitudes, frequencies along y, frequencies along x.
        x: (B, 3, H, W), normalised.
        size: (2,), H' and W', int64.
        phase: (2, D / 2), float32, times pi.
        weights, biases: of the four layers, (in, out) and (out,).

    Returns:
        (B, 3, H', W'), in [0, 1].
    """
    raise NotImplementedError("esc_arch::decode is an operation of exported graphs")


@decode.register_fake
def _(
    waves: Tensor,
    x: Tensor,
    size: Tensor,
    phase: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
) -> Tensor:
    sides = torch.library.get_ctx()
    return x.new_empty(x.shape[0], 3, sides.new_dynamic_size(), sides.new_dynamic_size())


def decode_in_onnx(
    waves: ir.Value,
    x: ir.Value,
    size: ir.Value,
    phase: ir.Value,
    weights: list[ir.Value],
    biases: list[ir.Value],
) -> ir.Value:
    """The ONNX of :func:`decode`."""
    height, width = (_ops.Shape(x, start=axis, end=axis + 1) for axis in (2, 3))
    rows_out, columns_out = _ops.Split(size, num_outputs=2)
    cells = [_cell(out, n) for out, n in ((rows_out, height), (columns_out, width))]
    phases = _ops.MatMul(_ops.Concat(*cells, axis=0), _wide(phase))
    rows_of_block = _ops.Div(_ops.Add(rows_out, ints(BLOCKS - 1)), ints(BLOCKS))
    number = _count(_ops.Mul(rows_of_block, ints(BLOCKS)))
    # Beyond the end the last row is computed again, and cut off.
    rows = _axis(_ops.Min(number, _ops.Sub(rows_out, ints(1))), rows_out, height)
    columns = _axis(_count(columns_out), columns_out, width)

    quarter = static(waves, 3) // 4  # D / 2
    ends = [ints(quarter * n) for n in (0, 2, 3, 4)]
    least, one = floating(1 / LEAST_AREA), floating(1)
    first, fifth = ints(1), ints(5)
    both_of_area, both = ints(0, 2), ints(1, 3)
    # (2, W', 1), in radians; and in units of the least area, as optimisers take a sum with so
    # little for the other number.
    dx = _column(_ops.Mul(columns.distance, floating(pi)))
    of_columns = _ops.Mul(columns.distance, least)
    of_opposite_columns = _flipped(of_columns)
    blocks = []
    for pixel, distance in zip(_split(rows.pixel), _split(rows.distance), strict=True):
        # (B, 2, R, 2, W', 2 D)
        near = _ops.Gather(_ops.Gather(waves, pixel, axis=1), columns.pixel, axis=3)
        coef, along_y, along_x = (_ops.Slice(near, a, b, fifth) for a, b in pairwise(ends))
        dy = _ops.Unsqueeze(_ops.Mul(distance, floating(pi)), ints(2, 3, 4))
        angle = _ops.Add(_ops.Mul(_wide(along_y), dy), _ops.Mul(_wide(along_x), dx))
        angle = _ops.Add(angle, phases)
        basis = _ops.Concat(_ops.Cos(angle), _ops.Sin(angle), axis=-1)
        colour = _ops.Mul(coef, _ops.CastLike(basis, coef))
        for weight, bias in zip(weights, biases, strict=True):
            colour = _ops.Add(_ops.MatMul(colour, weight), bias)
            colour = colour if weight is weights[-1] else _ops.Relu(colour)
        # (2, R, 2, W')
        area, opposite = (
            _ops.Add(_ops.Abs(_ops.Mul(_ops.Unsqueeze(of_rows, ints(2, 3)), of)), one)
            for of_rows, of in ((distance, of_columns), (_flipped(distance), of_opposite_columns))
        )
        share = _ops.Div(opposite, _ops.ReduceSum(area, both_of_area, keepdims=1))
        colour = _ops.Mul(colour, _ops.CastLike(_column(share), colour))
        blocks.append(_ops.ReduceSum(colour, both, keepdims=0))
    texture = _ops.Slice(_ops.Concat(*blocks, axis=1), ints(0), rows_out, first)
    texture = _ops.Transpose(texture, perm=[0, 3, 1, 2])
    y = _between(x, _shortened(rows, rows_out), 2, column=True)
    result = _ops.Add(texture, _between(y, columns, 3))
    half = _ops.CastLike(floating(0.5), x)
    enlarged: ir.Value = _ops.Add(_ops.Mul(result, half), half)
    return enlarged


class _Axis(NamedTuple):
    """As :class:`esc_arch.archs.esc_lte_arch.Axis`.

    Attributes:
        pixel, distance: (2, Q), of the two neighbours.
        place: (Q,), of the query in pixels, within the map.
        last: (1,), the last pixel.
    """

    pixel: ir.Value
    distance: ir.Value
    place: ir.Value
    last: ir.Value


def _axis(number: ir.Value, out: ir.Value, n: ir.Value) -> _Axis:
    """Pixels (Q,) of ``out`` along a side of n pixels, both (1,)."""
    coord, sides, one, half = _centre(number, out), _wide(n), floating(1), floating(0.5)

    def place_of(coord: ir.Value) -> ir.Value:
        doubled = _ops.Sub(_ops.Mul(_ops.Add(coord, one), sides), one)
        return _ops.Mul(doubled, half)

    near = _ops.Add(
        coord, _ops.Unsqueeze(_ops.Concat(_ratio(-1, n), _ratio(1, n), axis=0), ints(1))
    )
    near = _ops.Clip(_ops.Add(near, floating(SHIFT)), floating(SHIFT - 1), floating(1 - SHIFT))
    pixel = _ops.Cast(_ops.Round(place_of(near)), to=ir.DataType.INT64)
    distance = _ops.Mul(_ops.Sub(coord, _centre(pixel, n)), sides)
    last = _ops.Sub(n, ints(1))
    place = _ops.Min(_ops.Max(place_of(coord), floating(0)), _wide(last))
    return _Axis(pixel, distance, place, last)


def _shortened(axis: _Axis, number: ir.Value) -> _Axis:
    """The first queries of an axis, as far as they are interpolated at."""
    return axis._replace(place=_ops.Slice(axis.place, ints(0), number, ints(0)))


def _between(x: ir.Value, axis: _Axis, dimension: int, column: bool = False) -> ir.Value:
    """Interpolated along a side."""
    floor = _ops.Floor(axis.place)
    before = _ops.Cast(floor, to=ir.DataType.INT64)
    after = _ops.Min(_ops.Add(before, ints(1)), axis.last)
    part = _ops.CastLike(_ops.Sub(axis.place, floor), x)
    part = _column(part) if column else part
    x, y = (_ops.Gather(x, pixel, axis=dimension) for pixel in (before, after))
    return _ops.Add(x, _ops.Mul(_ops.Sub(y, x), part))


def _centre(number: ir.Value, n: ir.Value) -> ir.Value:
    """Coordinates of pixels of n, rounded as :func:`esc_arch.archs.esc_lte_arch.pixel_centres`."""
    first = _wide(_ops.Sub(_exact_ratio(1, n), _double(1)))
    return _ops.Add(first, _ops.Mul(_ratio(2, n), _wide(number)))


def _cell(out: ir.Value, n: ir.Value) -> ir.Value:
    """The side of a pixel of the result over that of a pixel of the map, times two."""
    n, out = _wide(n), _wide(out)
    seen = _ops.Min(out, _ops.Mul(n, floating(LARGEST_TRAINED_SCALE)))
    return _ops.Div(_ops.Mul(n, floating(2)), seen)


def _count(number: ir.Value) -> ir.Value:
    """From 0 to a number (1,), that excluded."""
    zero, one = constant(torch.tensor(0)), constant(torch.tensor(1))
    return _ops.Range(zero, _ops.Squeeze(number), one)


def _split(x: ir.Value) -> list[ir.Value]:
    return list(_ops.Split(x, axis=1, num_outputs=BLOCKS))


def _flipped(x: ir.Value) -> ir.Value:
    return _ops.Gather(x, ints(1, 0), axis=0)


def _column(x: ir.Value) -> ir.Value:
    return _ops.Unsqueeze(x, ints(-1))


def _wide(x: ir.Value) -> ir.Value:
    return _ops.Cast(x, to=ir.DataType.FLOAT)


def _exact_ratio(value: int, n: ir.Value) -> ir.Value:
    return _ops.Div(_double(value), _ops.Cast(n, to=ir.DataType.DOUBLE))


def _ratio(value: int, n: ir.Value) -> ir.Value:
    return _wide(_exact_ratio(value, n))


def _double(value: int) -> ir.Value:
    return constant(torch.tensor(value, dtype=torch.float64))
