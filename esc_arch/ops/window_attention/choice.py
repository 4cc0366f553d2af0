"""The one place where an attention back-end is chosen."""

import logging
from typing import Protocol

import torch
from torch import Tensor

from esc_arch.ops.window_attention import flex, naive, native, sdpa, sdpa_blocked


class AttentionBackend(Protocol):
    """The two functions of a back-end's file; see :mod:`.naive` for shapes."""

    @staticmethod
    def prepare_bias(bias_table: Tensor, window: int) -> Tensor: ...

    @staticmethod
    def attend(qkv: Tensor, bias: Tensor, window: int, num_heads: int) -> Tensor: ...


ATTENTION_TYPES = ("auto", "naive", "sdpa", "flex")

_logger = logging.getLogger("basicsr.esc_arch")


def choose_attention(
    attn_type: str, device_type: str, needs_grad: bool, in_bands: bool, in_kernel: bool = False
) -> AttentionBackend:
    """The back-end for a device and a mode.

    Args:
        attn_type: one of :data:`ATTENTION_TYPES`.  ``auto`` is the kernel of this package
            where it can be used, otherwise ``sdpa``, which works everywhere.
        device_type: ``cpu``, ``cuda``, ...
        needs_grad: whether a gradient will be asked for.
        in_bands: whether the map comes in bands, see :mod:`esc_arch.ops.bands`.
        in_kernel: whether :mod:`esc_arch.native` takes the map.

    Returns:
        The module of the back-end.
    """
    if attn_type == "auto" and in_kernel:
        _say_once("Window attention: auto takes the package's own kernel on cpu.")
        return native
    if attn_type == "auto":
        _say_once(f"Window attention: auto takes sdpa on {device_type}.")
    elif attn_type == "naive":
        return naive
    elif attn_type == "flex":
        if flex.available(device_type, needs_grad):
            return flex
        mode = "training" if needs_grad else "inference"
        _say_once(f"Window attention: flex has no {mode} on {device_type}, taking sdpa.")
    return sdpa_blocked if in_bands else sdpa


def _say_once(message: str) -> None:
    # A compiled graph cannot hold a log call.
    if not torch.compiler.is_compiling() and message not in _said:
        _said.add(message)
        _logger.info(message)


_said: set[str] = set()
