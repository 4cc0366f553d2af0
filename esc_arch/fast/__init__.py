"""The executor for inference: ESC's block by fused kernels, bands and tiles.

Networks reach it by one line in a block's forward; it stands below them and knows a block by the
names of its children.  In :mod:`.dispatch` is when it may be used, in :mod:`.executor` what it
computes, in :mod:`.maps` the regions that it works on, in :mod:`.kernels` the C++.
"""

from esc_arch.fast import kernels
from esc_arch.fast.dispatch import Blueprint, as_built, known, reach, takes, untouched
from esc_arch.fast.executor import Maps, in_bands, layers, rows_of_bands, run_block, run_tiles
from esc_arch.ops import attention

__all__ = [
    "Blueprint",
    "Maps",
    "as_built",
    "in_bands",
    "known",
    "layers",
    "reach",
    "rows_of_bands",
    "run_block",
    "run_tiles",
    "takes",
    "untouched",
]

attention.register_kernel(kernels.attend, takes=kernels.usable_in_training)
