"""Counts parameters and multiply-adds of networks as the papers do.

The rules are those of fvcore's FlopCountAnalysis, which the papers used: one multiply-add is
one, and operations that it does not know are free (activations, softmax, bicubic resizing).
fvcore traces a real forward pass, which takes minutes and gigabytes for an image of HD size.
Here the pass runs on the meta device, where tensors have shapes and no values.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from esc_arch.archs.esc_arch import WindowAttention
from esc_arch.archs.hit_srf_arch import SpatialChannelCorrelation
from esc_arch.archs.mambairv2_light_arch import AttentiveStateSpace, ShiftedWindowAttention
from esc_arch.archs.whole_windows import WholeWindows
from esc_arch.layers.channels_last import GlobalMean
from esc_arch.ops import selective_scan

__all__ = ["multiply_adds", "parameters", "published_size"]


def published_size(scale: int) -> tuple[int, int]:
    """Height and width of the LR image for which papers count: that of a 1280x720 output."""
    return 720 // scale, 1280 // scale


def parameters(network: nn.Module) -> int:
    """All parameters, frozen ones included, buffers not."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, height: int, width: int) -> int:
    """Multiply-adds of one image in eval mode, with naive attention.

    Args:
        network: stays as it is; on any device.
        height, width: of the image in pixels, from 1; extended to whole windows when the
            network asks for it, see :class:`esc_arch.archs.whole_windows.WholeWindows`.

    Returns:
        fvcore's count.

    Raises:
        Exception: of any kind, from a network whose forward pass reads a value back from a
            tensor.
    """
    network = copy.deepcopy(network).requires_grad_(False).eval().to("meta")
    counter = _Counter()
    _count_as_published(network, counter)
    # In inference mode operations arrive whole, as fvcore sees them: a layer_norm, no mean
    # and no variance.
    with torch.inference_mode(), torch.device("meta"), counter:
        WholeWindows(network)(torch.empty(1, 3, height, width))
    return counter.count


_Args = tuple[Any, ...]


class _Counter(TorchDispatchMode):
    """Adds up the multiply-adds of every operation that runs while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: _Args = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        rule = _RULES.get(func.overloadpacket)
        if rule is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        result = func(*args, **kwargs)
        self.count += rule(args, result)
        return result


def _count_as_published(network: nn.Module, counter: _Counter) -> None:
    """Count layers of which ours give the same output by other operations as the public code.

    ESC: the attention's first 1x1 convolution runs before the map is extended to whole windows, and
    the mean over a map is one where the public code pools.  HiT-SRF: the correlation maps are left
    out.  MambaIRv2: in inference prompts are looked up, where the public code multiplies one-hot
    vectors by the table.
    """

    def pool(layer: nn.Module, args: _Args, result: Tensor) -> None:
        counter.count += args[0].numel()

    def extend_before_projection(layer: WindowAttention, args: _Args, result: Tensor) -> None:
        height, width = result.shape[2:]
        window = layer.window_size
        extended = -(-height // window) * -(-width // window) * window**2
        counter.count += (extended - height * width) * layer.to_qkv.weight.numel()

    def multiply_one_hot_by_prompts(
        layer: AttentiveStateSpace, args: _Args, result: Tensor
    ) -> None:
        x, table = args
        tokens = x.shape[0] * prod(x.shape[2:])
        counter.count += tokens * layer.embeddingB.num_embeddings * table.shape[1]

    for layer in network.modules():
        if isinstance(layer, SpatialChannelCorrelation | ShiftedWindowAttention):
            layer.attn_type = "naive"
        elif isinstance(layer, AttentiveStateSpace):
            layer.register_forward_hook(multiply_one_hot_by_prompts)
        elif isinstance(layer, GlobalMean):
            layer.register_forward_hook(pool)
        elif isinstance(layer, WindowAttention):
            layer.attn_type = "naive"
            layer.register_forward_hook(extend_before_projection)


_Rule = Callable[[_Args, Tensor], int]


def _convolution(args: _Args, result: Tensor) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    places = x if transposed else result
    return x.shape[0] * weight.numel() * prod(places.shape[2:])


def _linear(args: _Args, result: Tensor) -> int:
    x, weight = args[:2]
    return x.numel() * weight.shape[0]


def _matmul(args: _Args, result: Tensor) -> int:
    return result.numel() * args[0].shape[-1]


def _addmm(args: _Args, result: Tensor) -> int:
    return result.numel() * args[1].shape[-1]


def _norm(weight: int) -> _Rule:
    """Of a norm whose argument number ``weight`` is its learned scale or None."""

    def rule(args: _Args, result: Tensor) -> int:
        learned = len(args) > weight and args[weight] is not None
        return args[0].numel() * (5 if learned else 4)

    return rule


def _batch_norm(args: _Args, result: Tensor) -> int:
    return args[0].numel() * (1 if args[1] is None else 2)


def _linear_scan(args: _Args, result: Tensor) -> int:
    batch, tokens, channels = args[0].shape
    return selective_scan.multiply_adds(batch, tokens, channels, args[2].shape[1])


def _per_input(args: _Args, result: Tensor) -> int:
    return args[0].numel()


def _per_output(cost: int) -> _Rule:
    return lambda args, result: result.numel() * cost


_aten = torch.ops.aten
# By operation, before it is taken to pieces; einsum goes to pieces, which are bmm.
_RULES: dict[object, _Rule] = {
    _aten.convolution: _convolution,
    _aten.linear: _linear,
    _aten.matmul: _matmul,
    _aten.mm: _matmul,
    _aten.bmm: _matmul,
    _aten.addmm: _addmm,
    _aten.baddbmm: _addmm,
    _aten.layer_norm: _norm(2),
    _aten.group_norm: _norm(2),
    _aten.instance_norm: _norm(1),
    _aten.batch_norm: _batch_norm,
    _aten.upsample_nearest2d: _per_output(1),
    _aten.upsample_bilinear2d: _per_output(4),
    _aten.grid_sampler: _per_output(4),
    _aten.adaptive_avg_pool2d: _per_input,
    torch.ops.esc_arch.linear_scan: _linear_scan,  # which fvcore does not know, but papers count
}
