"""When the executor stands in for modules: only where it computes what they would.

A module is taken when it and every module below it are as they were built: of a class that is
known here, with that class's own forward, no hooks, no parametrisation, no wrapper, no other
settings and no parameters of another shape, type or device.  Everything else runs as modules.
The question is asked at every call and takes some microseconds for a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from math import ceil
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

__all__ = ["Blueprint", "as_built", "known", "on_cpu_in_inference", "reach", "takes", "untouched"]

_Class = TypeVar("_Class", bound=type[nn.Module])

# Classes whose forward the executor knows, with that forward: a patched one is another.
_KNOWN: dict[type, Callable] = {
    kind: kind.forward
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
        nn.Sequential,
        nn.Upsample,
    )
}
# Pixels that a known class looks at beside those of its children.
_OWN_REACH: dict[type, int | None] = {}

_SETTINGS = ("stride", "padding", "dilation", "groups", "padding_mode")


def known(cls: _Class | None = None, *, reach: int | None = 0):
    """Class decorator: the executor knows the forward of these modules.

    Args:
        reach: pixels around a pixel that its result depends on, beyond what the modules below
            it look at, one after the other; None: any pixel of the map.
    """
    if cls is None:
        return lambda cls: known(cls, reach=reach)
    _KNOWN[cls] = cls.forward
    _OWN_REACH[cls] = reach
    return cls


class Blueprint(NamedTuple):
    """What a module was built as: class, settings of a convolution, parameters, children."""

    kind: type
    settings: tuple | None
    parameters: tuple[tuple[str, torch.Size | None], ...]
    children: tuple[tuple[str, Blueprint], ...]

    @classmethod
    def of(cls, module: nn.Module) -> Blueprint:
        return cls(
            type(module),
            _settings(module),
            tuple((name, p if p is None else p.shape) for name, p in module._parameters.items()),
            tuple((name, cls.of(child)) for name, child in module._modules.items()),
        )


def takes(block: nn.Module, x: Tensor) -> bool:
    """Whether the executor computes this block of this map.

    Args:
        block: with its :class:`Blueprint` in ``blueprint``.
        x: (B, C, H, W).
    """
    return (
        on_cpu_in_inference(x)
        and not torch.is_autocast_enabled("cpu")
        and as_built(block, x.dtype, x.device)
    )


def as_built(block: nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether calling a block's modules one by one is all that there is to it."""
    return not _has_any_global_hook() and _matches(block, block.blueprint, dtype, device)


def on_cpu_in_inference(x: Tensor) -> bool:
    """Whether a map is one of eager inference on a CPU that nobody watches.

    Compiled, traced and exported graphs, function transforms, and whatever needs a gradient go by
    modules.  So do dispatch modes, which do not see the kernels, but for those that say that they
    do not mind (``ignores_kernels``).
    """
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._functorch.maybe_current_level()
        and all(
            getattr(mode, "ignores_kernels", False) for mode in _get_current_dispatch_mode_stack()
        )
    )


def untouched(modules: Iterable[nn.Module]) -> bool:
    """Whether modules and all below them are of known classes, and nobody listens to them."""
    return not _has_any_global_hook() and all(
        _is_plain(part) for module in modules for part in module.modules()
    )


def reach(modules: Iterable[nn.Module]) -> tuple[int, int] | None:
    """How far a chain of known modules looks, and by how much it enlarges.

    Returns:
        Pixels of its input around a pixel, counted behind a PixelUnshuffle that it begins with, and
        the scale; None where that is not known.
    """
    halo, scale = Fraction(0), 1
    for module in _in_order(modules):
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
            scale *= int(factor)
        elif (own := _OWN_REACH.get(type(module), 0)) is None:
            return None
        else:
            halo += Fraction(own, scale)
    return ceil(halo), scale


def _radius(conv: nn.Conv2d) -> int | None:
    """Pixels that a convolution looks at on each side; None unless it keeps the map's size and puts
    zeros around it.
    """
    reach = tuple(k // 2 * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
    is_centred = all(k % 2 for k in conv.kernel_size) and conv.padding in (reach, "same")
    if not is_centred or conv.stride != (1, 1) or conv.padding_mode != "zeros":
        return None
    return max(reach)


def _in_order(modules: Iterable[nn.Module]) -> Iterable[nn.Module]:
    for module in modules:
        yield module
        yield from _in_order(module.children())


def _matches(module: nn.Module, built: Blueprint, dtype: torch.dtype, device: torch.device) -> bool:
    if type(module) is not built.kind or not _is_plain(module):
        return False
    if built.settings is not None and _settings(module) != built.settings:
        return False
    parameters, children = module._parameters, module._modules
    if len(parameters) != len(built.parameters) or len(children) != len(built.children):
        return False
    for name, shape in built.parameters:
        parameter = parameters.get(name)
        if parameter is None:
            if shape is not None:
                return False
        elif (
            parameter.shape != shape
            or parameter.dtype != dtype
            or parameter.device != device
            or type(parameter) not in (nn.Parameter, Tensor)
        ):
            return False
    return all(
        children.get(name) is not None and _matches(children[name], part, dtype, device)
        for name, part in built.children
    )


def _is_plain(module: nn.Module) -> bool:
    kind = type(module)
    return (
        _KNOWN.get(kind) is kind.forward
        and "forward" not in module.__dict__
        and module._compiled_call_impl is None
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _settings(module: nn.Module) -> tuple | None:
    if not isinstance(module, nn.Conv2d):
        return None
    return tuple(getattr(module, name) for name in _SETTINGS)
