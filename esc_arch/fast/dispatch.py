"""When the executor replaces the modules of a block: only where it computes the same.

A module is taken when it and every module below it are as they were built: of a class that is
known here, with that class's own methods, no hooks, no parametrisation, no wrapper, no other
settings and no parameters of another shape, type or device.  Everything else runs as modules.
The question is asked at every call and takes some microseconds for a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

__all__ = [
    "Blueprint",
    "as_built",
    "is_plain",
    "known",
    "on_cpu_in_inference",
    "reach",
    "takes",
    "untouched",
]

# Methods that compute, of modules and of networks; a class or an instance may have patched one.
_COMPUTING = (
    "__call__",
    "_call_impl",
    "_conv_forward",
    "deep",
    "dynamic_kernel",
    "expand",
    "features",
    "forward",
    "large_kernel",
    "pad",
    "shallow",
    "upsample",
)


def _methods(kind: type) -> dict[str, Callable[..., object]]:
    return {name: getattr(kind, name) for name in _COMPUTING if hasattr(kind, name)}


# Classes that the executor knows, with their methods as they were then.
_KNOWN: dict[type, dict[str, Callable[..., object]]] = {
    kind: _methods(kind)
    for kind in (
        nn.Conv2d,
        nn.GELU,
        nn.Identity,
        nn.LeakyReLU,
        nn.Linear,
        nn.ModuleDict,
        nn.ModuleList,
        nn.PixelShuffle,
        nn.PixelUnshuffle,
        nn.ReLU,
        nn.Sequential,
        nn.Upsample,
    )
}
# Pixels that a known class looks at beside those of its children.
_OWN_REACH: dict[type, int | None] = {}

# Attributes of a module that say what it computes: all of these types but the following.
_SETTINGS = (int, float, str, bool, tuple)
_NOT_SETTINGS = ("training", "checkpointed")


def known(cls: Any = None, *, reach: int | None = 0) -> Any:
    """Class decorator: the executor knows the forward of these modules.

    Args:
        reach: pixels around a pixel that its result depends on, beyond what the modules below
            it look at, one after the other; None: any pixel of the map.
    """
    if cls is None:
        return lambda cls: known(cls, reach=reach)
    _KNOWN[cls] = _methods(cls)
    _OWN_REACH[cls] = reach
    return cls


class Blueprint(NamedTuple):
    """The structure of a module when it was built: class, settings, parameters, children."""

    kind: type
    settings: tuple[tuple[str, object], ...]
    parameters: tuple[tuple[str, torch.Size | None], ...]
    children: tuple[tuple[str, Blueprint], ...]

    @classmethod
    def of(cls, module: nn.Module) -> Blueprint:
        return cls(
            type(module),
            tuple(
                (name, value)
                for name, value in module.__dict__.items()
                if type(value) in _SETTINGS and name not in _NOT_SETTINGS
            ),
            tuple((name, p if p is None else p.shape) for name, p in module._parameters.items()),
            tuple(
                (name, cls.of(child))
                for name, child in module._modules.items()
                if child is not None
            ),
        )


def takes(block: Any, x: Tensor, large_kernel: Tensor | tuple[Tensor, Tensor]) -> bool:
    """Whether the executor computes this block of this map.

    Args:
        block: with its :class:`Blueprint` in ``blueprint``.
        x: (B, C, H, W).
        large_kernel: what the block convolves with.
    """
    return (
        on_cpu_in_inference(x)
        and not torch.is_autocast_enabled("cpu")
        and x.dim() == 4
        and x.shape[0] > 0
        and x.shape[1] == block.conv_out.in_channels
        and as_built(block, x.dtype, x.device)
        and _fits(block, x, large_kernel)
    )


def as_built(module: Any, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether calling its modules one by one is all that there is to a module with a blueprint."""
    return not _has_any_global_hook() and _matches(module, module.blueprint, dtype, device)


def _fits(block: Any, x: Tensor, large_kernel: Tensor | tuple[Tensor, Tensor]) -> bool:
    """Whether the large kernel is one that the block's modules take, as they take it."""
    kernels = large_kernel if isinstance(large_kernel, tuple) else (large_kernel,)
    if not all(_is_plain_tensor(kernel, x.dtype, x.device) for kernel in kernels):
        return False
    k = kernels[-1].shape[-1]
    shapes = [tuple(kernel.shape) for kernel in kernels]
    return k % 2 == 1 and k > 2 and all(p.plk.kernel_shapes(k) == shapes for p in block.pconvs)


def on_cpu_in_inference(x: Tensor) -> bool:
    """Whether a map belongs to eager inference on a CPU, without hooks or modes that observe it.

    Compiled, traced and exported graphs, function transforms, and whatever needs a gradient go by
    modules.  So do modes for functions (a default device is one) and for dispatch, which do not see
    the kernels, but for those that say that they do not mind (``ignores_kernels``).
    """
    return (
        not torch.compiler.is_compiling()  # first: the rest is not for graphs
        and _is_plain_tensor(x, x.dtype, x.device)
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and forward_ad._current_level < 0
        and not torch._C._len_torch_function_stack()
        and not torch._C._is_tracing()
        and not torch._C._functorch.maybe_current_level()
        and all(
            getattr(mode, "ignores_kernels", False) for mode in _get_current_dispatch_mode_stack()
        )
    )


def untouched(modules: Iterable[nn.Module]) -> bool:
    """Whether modules and all below them are of known classes and without hooks."""
    return not _has_any_global_hook() and all(
        is_plain(part) for module in modules for part in module.modules()
    )


def reach(modules: Iterable[nn.Module]) -> tuple[int, int] | None:
    """How far a chain of known modules looks, and by how much it enlarges.

    Returns:
        Pixels of its input around a pixel, and the scale; None where that is not known.
    """
    halo, scale = Fraction(0), 1
    for module in _in_order(modules):
        if getattr(module, "inplace", False):  # bands overlap
            return None
        if type(module) is nn.Conv2d:
            radius = _radius(module)
            if radius is None:
                return None
            halo += Fraction(radius, scale)
        elif isinstance(module, nn.PixelShuffle):
            scale *= module.upscale_factor
        elif isinstance(module, nn.Upsample):
            factor = module.scale_factor
            if module.mode != "nearest" or factor not in range(1, 65):
                return None
            assert isinstance(factor, (int, float))  # as it is in that range
            scale *= int(factor)
        elif (
            isinstance(module, nn.PixelUnshuffle)
            or (own := _OWN_REACH.get(type(module), 0)) is None
        ):
            return None
        else:
            halo += Fraction(own, scale)
    return ceil(halo), scale


def _radius(conv: nn.Conv2d) -> int | None:
    """Pixels that a convolution looks at on each side; None unless it keeps the map's size and puts
    zeros around it.
    """
    sides, dilation = conv.weight.shape[2:], conv.dilation
    if not isinstance(dilation, tuple):
        return None
    reach = tuple(k // 2 * d for k, d in zip(sides, dilation, strict=True))
    is_centred = all(k % 2 for k in sides) and conv.padding in (reach, "same")
    if not is_centred or conv.stride != (1, 1) or conv.padding_mode != "zeros":
        return None
    return max(reach)


def _in_order(modules: Iterable[nn.Module]) -> Iterable[nn.Module]:
    for module in modules:
        yield module
        yield from _in_order(module.children())


def _matches(module: nn.Module, built: Blueprint, dtype: torch.dtype, device: torch.device) -> bool:
    if type(module) is not built.kind or not is_plain(module):
        return False
    own, parameters, children = module.__dict__, module._parameters, module._modules
    if any(own.get(name) != value for name, value in built.settings):
        return False
    if len(parameters) != len(built.parameters) or len(children) != len(built.children):
        return False
    for name, shape in built.parameters:
        parameter = parameters.get(name)
        if parameter is None or shape is None:
            if parameter is not None or shape is not None:
                return False
        elif (
            parameter.shape != shape
            or name in own
            or not _is_plain_tensor(parameter, dtype, device)
        ):
            return False
    return all(
        (child := children.get(name)) is not None and _matches(child, part, dtype, device)
        for name, part in built.children
    )


def is_plain(module: nn.Module) -> bool:
    """Whether a module is of a known class, with its own methods and without hooks."""
    kind, own = type(module), module.__dict__
    methods = _KNOWN.get(kind)
    return (
        methods is not None
        and all(
            getattr(kind, name) is method and name not in own for name, method in methods.items()
        )
        and module._compiled_call_impl is None
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _is_plain_tensor(x: Tensor, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the numbers of a tensor lie in its memory as they are."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.dtype == dtype
        and x.device == device
        and not x.is_neg()
    )
