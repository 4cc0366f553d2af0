"""ESC+LTE as a graph of an image and a size, without loops and in bounded memory.

The queries go in a fixed number of blocks of rows, neighbour by neighbour, so that one graph holds
for every size: what is held at a time is a block's waves, not those of the result.

Shapes: B images, H x W pixels, H' x W' pixels of the result, D waves, R rows of a block.
"""

from itertools import pairwise, product
from math import pi
from typing import Any, NamedTuple

import torch
from onnxscript import ir, opset18
from torch import Tensor, nn

from esc_arch.archs.esc_lte_arch import ESCLTE, LARGEST_TRAINED_SCALE, normalised
from esc_arch.export.graph_values import constant, floating, ints, static

__all__ = ["AnyScaleGraph", "decode", "decode_in_onnx"]

# Rows of the result are computed in so many blocks.  More take longer to export and to load.
BLOCKS = 16

# As in the network.
_SHIFT = 1e-6
_LEAST_AREA = 1e-9

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


class _Axis(NamedTuple):
    """As :class:`esc_arch.archs.esc_lte_arch.Axis`, of the two neighbours."""

    pixel: tuple[ir.Value, ir.Value]
    distance: tuple[ir.Value, ir.Value]
    before: ir.Value
    after: ir.Value
    part: ir.Value


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
    number = _ops.Range(
        constant(torch.tensor(0)), _ops.Squeeze(columns_out), constant(torch.tensor(1))
    )
    columns = _axis(number, columns_out, width)
    rows_of_block = _ops.Div(_ops.Add(rows_out, ints(BLOCKS - 1)), ints(BLOCKS))
    in_block = _ops.Range(
        constant(torch.tensor(0)), _ops.Squeeze(rows_of_block), constant(torch.tensor(1))
    )
    last = _ops.Sub(rows_out, ints(1))
    blocks = []
    for index in range(BLOCKS):
        number = _ops.Add(in_block, _ops.Mul(rows_of_block, ints(index)))
        # Beyond the end the last row is computed again, and cut off.
        rows = _axis(_ops.Min(number, last), rows_out, height)
        blocks.append(_block(waves, x, rows, columns, phases, weights, biases))
    result = _ops.Slice(_ops.Concat(*blocks, axis=2), ints(0), rows_out, ints(2))
    enlarged: ir.Value = _ops.Add(_ops.Mul(result, _like(0.5, x)), _like(0.5, x))
    return enlarged


def _block(
    waves: ir.Value,
    x: ir.Value,
    rows: _Axis,
    columns: _Axis,
    phases: ir.Value,
    weights: list[ir.Value],
    biases: list[ir.Value],
) -> ir.Value:
    """The rows of a block, (B, 3, R, W'), normalised."""
    quarter = static(waves, 3) // 4  # D / 2
    # In units of the least one: optimisers take a sum with so little for the other number.
    areas = {
        (a, b): _ops.Add(
            _ops.Abs(
                _ops.Mul(
                    _column(rows.distance[a]),
                    _ops.Mul(columns.distance[b], floating(1 / _LEAST_AREA)),
                )
            ),
            floating(1),
        )
        for a, b in product((0, 1), repeat=2)
    }
    total = _ops.Sum(*areas.values())
    colours = []
    for a, b in areas:
        near = _ops.Gather(
            _ops.Gather(waves, rows.pixel[a], axis=1), columns.pixel[b], axis=2
        )  # (B, R, W', 2 D)
        ends = [0, 2 * quarter, 3 * quarter, 4 * quarter]
        coef, along_y, along_x = (
            _ops.Slice(near, ints(first), ints(end), ints(3)) for first, end in pairwise(ends)
        )
        # (R, 1, 1) and (W', 1)
        dy = _column(_column(_ops.Mul(rows.distance[a], floating(pi))))
        dx = _column(_ops.Mul(columns.distance[b], floating(pi)))
        angle = _ops.Add(_ops.Mul(_wide(along_y), dy), _ops.Mul(_wide(along_x), dx))
        angle = _ops.Add(angle, phases)
        basis = _ops.Concat(_ops.Cos(angle), _ops.Sin(angle), axis=-1)
        colour = _ops.Mul(coef, _ops.CastLike(basis, coef))
        for weight, bias in zip(weights, biases, strict=True):
            colour = _ops.Add(_ops.MatMul(colour, weight), bias)
            colour = colour if weight is weights[-1] else _ops.Relu(colour)
        share = _ops.Div(areas[1 - a, 1 - b], total)
        colours.append(_ops.Mul(colour, _ops.CastLike(_column(share), colour)))
    texture = _ops.Transpose(_ops.Sum(*colours), perm=[0, 3, 1, 2])
    by_rows = _between(x, rows, 2, _column(rows.part))
    return _ops.Add(texture, _between(by_rows, columns, 3, columns.part))


def _column(x: ir.Value) -> ir.Value:
    return _ops.Unsqueeze(x, ints(-1))


def _wide(x: ir.Value) -> ir.Value:
    return _ops.Cast(x, to=ir.DataType.FLOAT)


def _like(value: float, x: ir.Value) -> ir.Value:
    return _ops.CastLike(floating(value), x)


def _axis(number: ir.Value, out: ir.Value, n: ir.Value) -> _Axis:
    """Pixels (Q,) of ``out`` along a side of n pixels, both (1,)."""
    coord = _centre(number, out)
    pixels, distances = [], []
    sides = _ops.Cast(n, to=ir.DataType.FLOAT)
    for sign in (-1, 1):
        near = _ops.Add(_ops.Add(coord, _ratio(sign, n)), floating(_SHIFT))
        near = _ops.Clip(near, floating(-1 + _SHIFT), floating(1 - _SHIFT))
        place = _ops.Mul(
            _ops.Sub(_ops.Mul(_ops.Add(near, floating(1)), sides), floating(1)), floating(0.5)
        )
        pixel = _ops.Cast(_ops.Round(place), to=ir.DataType.INT64)
        pixels.append(pixel)
        distances.append(_ops.Mul(_ops.Sub(coord, _centre(pixel, n)), sides))
    place = _ops.Mul(
        _ops.Sub(_ops.Mul(_ops.Add(coord, floating(1)), sides), floating(1)), floating(0.5)
    )
    place = _ops.Min(_ops.Max(place, floating(0)), _ops.Sub(sides, floating(1)))
    floor = _ops.Floor(place)
    before = _ops.Cast(floor, to=ir.DataType.INT64)
    after = _ops.Min(_ops.Add(before, ints(1)), _ops.Sub(n, ints(1)))
    part = _ops.Sub(place, floor)
    return _Axis(tuple(pixels), tuple(distances), before, after, part)


def _between(x: ir.Value, axis: _Axis, dimension: int, part: ir.Value) -> ir.Value:
    """Interpolated along a side."""
    before = _ops.Gather(x, axis.before, axis=dimension)
    after = _ops.Gather(x, axis.after, axis=dimension)
    difference = _ops.Mul(_ops.Sub(after, before), _ops.CastLike(part, x))
    return _ops.Add(before, difference)


def _centre(number: ir.Value, n: ir.Value) -> ir.Value:
    """Coordinates of pixels of n, rounded as :func:`esc_arch.archs.esc_lte_arch.pixel_centres`."""
    first = _ops.Cast(
        _ops.Sub(_exact_ratio(1, n), constant(torch.tensor(1.0, dtype=torch.float64))),
        to=ir.DataType.FLOAT,
    )
    step = _ratio(2, n)
    return _ops.Add(first, _ops.Mul(step, _ops.Cast(number, to=ir.DataType.FLOAT)))


def _cell(out: ir.Value, n: ir.Value) -> ir.Value:
    """The side of a pixel of the result over that of a pixel of the map, times two."""
    n, out = (_ops.Cast(value, to=ir.DataType.FLOAT) for value in (n, out))
    seen = _ops.Min(out, _ops.Mul(n, floating(LARGEST_TRAINED_SCALE)))
    return _ops.Div(_ops.Mul(n, floating(2)), seen)


def _exact_ratio(value: int, n: ir.Value) -> ir.Value:
    return _ops.Div(
        constant(torch.tensor(value, dtype=torch.float64)), _ops.Cast(n, to=ir.DataType.DOUBLE)
    )


def _ratio(value: int, n: ir.Value) -> ir.Value:
    return _ops.Cast(_exact_ratio(value, n), to=ir.DataType.FLOAT)
