"""Enlarging images of any size in bounded memory.

:func:`enlarge` runs a network on the whole image where that fits the memory, and tile by tile
where it does not.  How far the tiles agree with the whole image depends on the network:

* ESC, ESCFP, ESCReal, ESCRealM, with any arguments: exactly, up to the rounding of floating
  point (in float32 the largest difference is below 1e-4 of the result's range, above 90 dB).  See
  :mod:`.synchronous`.
* All others: see :mod:`.overlapping`.
"""

from esc_arch.upscale.tiling.enlarger import enlarge
from esc_arch.upscale.tiling.outputs import ArrayOutput, Output

__all__ = ["ArrayOutput", "Output", "enlarge"]
