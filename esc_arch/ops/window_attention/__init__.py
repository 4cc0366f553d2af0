"""Attention inside windows, with a learned bias by relative position.

The back-ends stand in one file each, share one signature and give the same numbers;
:mod:`.choice` picks one.
"""

from esc_arch.ops.window_attention.choice import (
    ATTENTION_TYPES,
    AttentionBackend,
    choose_attention,
)
from esc_arch.ops.window_attention.windows import window_merge, window_partition

__all__ = [
    "ATTENTION_TYPES",
    "AttentionBackend",
    "choose_attention",
    "window_merge",
    "window_partition",
]
