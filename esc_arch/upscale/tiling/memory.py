"""Memory: the amount available, a network's need for each pixel, and the tiles that fit."""

import ctypes
import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from esc_arch.fast.maps import cut
from esc_arch.machine import available_bytes

__all__ = [
    "AMPLE_BYTES_PER_PIXEL",
    "available_memory",
    "bytes_per_pixel",
    "is_out_of_memory",
    "release_memory",
    "side_of_tiles",
]

# Side of the image that a network is measured with.  Networks that run by bands of rows do so
# from 20,000 pixels.
_SIDE = 160

# Of what is measured: work space inside the operations is not seen.
_ALLOWANCE = 1.25

# More than any known network takes for each pixel; of what cannot be measured, such as a session
# of onnxruntime.
AMPLE_BYTES_PER_PIXEL = 64_000

_measured: weakref.WeakKeyDictionary[nn.Module, dict[tuple[object, ...], float]] = (
    weakref.WeakKeyDictionary()
)


def available_memory(device: torch.device) -> int:
    """Bytes that can be taken now without another process or a limit suffering.

    On a CPU half of the system's available memory or of what the control group's limit leaves;
    on a GPU 0.9 of what is free.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(0.9 * (free + held))
    return available_bytes() // 2


def bytes_per_pixel(network: Callable[[Tensor], Tensor], image: Tensor) -> float:
    """How much memory a network takes on top, at its peak, for each pixel of an image.

    It is measured with an image of 160 x 160 pixels and grows with the pixels from there.

    Args:
        network: a module is measured once for each type and device.
        image: (1, C, H, W), which says the channels, type and device.

    Returns:
        Bytes, with an allowance for what cannot be seen.
    """
    if not isinstance(network, nn.Module):
        return AMPLE_BYTES_PER_PIXEL
    device = next((p.device for p in network.parameters()), image.device)
    key = (image.shape[1], image.dtype, device)
    known = _measured.setdefault(network, {})
    if key not in known:
        small = torch.rand(1, image.shape[1], _SIDE, _SIDE, dtype=image.dtype, device=device)
        known[key] = _ALLOWANCE * _peak(network, small) / _SIDE**2
    return known[key]


def _peak(network: nn.Module, image: Tensor) -> int:
    if image.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(image.device)
        before = torch.cuda.memory_allocated(image.device)
        network(image)
        return torch.cuda.max_memory_allocated(image.device) - before
    state = torch.get_rng_state()  # a network may draw noise: the measuring is not to be seen
    with _LiveBytes() as live:
        network(image)
    torch.set_rng_state(state)
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Adds up the memory of the tensors that operations make, for as long as they live."""

    ignores_kernels = True  # they hold a few tiles, and their results are tensors

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        # A view is another object of the same storage.
        pointer, size = storage.data_ptr(), storage.nbytes()
        if size and pointer not in self._seen:
            self._seen.add(pointer)
            self.live += size
            weakref.finalize(storage, self._forget, pointer, size)

    def _forget(self, pointer: int, size: int) -> None:
        self._seen.discard(pointer)
        self.live -= size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # What the allocator for CPUs raises has no type of its own.
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def release_memory() -> None:
    """Release cached memory, after an attempt that ran out of it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # of glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def side_of_tiles(size: tuple[int, int], multiple: int, halo: int, pixels: int) -> tuple[int, int]:
    """Tiles of at most so many pixels whose overlaps are smallest.

    Args:
        size: height and width of the image.
        multiple: of which the tiles' sides are multiples.
        halo: pixels around a tile that are computed, too; they count for its size.
        pixels: a tile of ``multiple`` on each side is taken even if it has more.

    Returns:
        Height and width of a tile without its halo.
    """
    best, least = (multiple, multiple), inf
    for columns in range(1, max(size[1] // multiple, 1) + 1):
        width, across = _largest(size[1], columns, multiple, halo)
        room = pixels // width
        if room < min(size[0], multiple):
            continue
        if room >= size[0]:
            height = size[0]
        else:
            # The last tile has up to a multiple less one pixel more than the others.
            height = (room - 2 * halo - multiple + 1) // multiple * multiple
            if height < multiple:
                continue
        down = sum(
            min(end + halo, size[0]) - max(start - halo, 0)
            for start, end in cut(size[0], height, multiple)
        )
        if down * across < least:
            best, least = (height, -(-size[1] // columns)), down * across
    return best


def _largest(size: int, count: int, multiple: int, halo: int) -> tuple[int, int]:
    """The widest of so many tiles with its halo, and all of them together."""
    side = -(-size // count)
    widths = [
        min(end + halo, size) - max(start - halo, 0) for start, end in cut(size, side, multiple)
    ]
    return max(widths), sum(widths)
