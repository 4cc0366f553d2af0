"""Feature maps of a whole image, in memory or in a file, read and written region by region.

A file is read and written by calls, never mapped into memory: mapped pages count as memory of
the process, pages that the system keeps of a file do not.
"""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from esc_arch.errors import UserError
from esc_arch.upscale.tiling.regions import Region

__all__ = ["FileStore", "MemoryStore", "Store"]


class Store(Protocol):
    """A map (1, C, H, W) of which regions are read and written.

    Regions come as channels_last maps on the device that the store was made for.
    """

    def view(self, region: Region) -> Tensor:
        """A region that must not be written to."""

    def take(self, region: Region) -> Tensor:
        """A region that may be written to and is then written back; until then it is undefined."""

    def space(self, region: Region) -> Tensor | None:
        """Memory for the new content of a region, if there is some that spares a copy."""

    def write(self, region: Region, x: Tensor) -> None:
        """Set a region to a map of its size."""

    def close(self) -> None:
        """Give the memory back."""


class MemoryStore:
    """A map in main memory.

    Args:
        channels: C.
        size: H and W.
        dtype: of the numbers.
        device: where the regions are wanted.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (1, channels, *size)
        self._map = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
        self._device = device

    def view(self, region: Region) -> Tensor:
        return region.of(self._map).to(self._device)

    def take(self, region: Region) -> Tensor:
        return self.view(region)

    def space(self, region: Region) -> Tensor | None:
        return region.of(self._map) if self._map.device == self._device else None

    def write(self, region: Region, x: Tensor) -> None:
        place = region.of(self._map)
        if x.data_ptr() != place.data_ptr():  # else it was made there
            place.copy_(x)

    def close(self) -> None:
        self._map = None


class FileStore:
    """A map in a file without a name, which is gone when the process is.

    Args:
        channels, size, dtype, device: as :class:`MemoryStore`.
        folder: for the file; None: the system's folder for temporary files.

    Raises:
        UserError: when the folder has no room for the map.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        folder: Path | None,
    ) -> None:
        self._channels, self._width, self._dtype, self._device = channels, size[1], dtype, device
        self._pixel = channels * dtype.itemsize  # bytes
        length = size[0] * size[1] * self._pixel
        self._file = None
        try:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="esc_arch-")  # noqa: SIM115
            # Now rather than in the middle of the work.
            _reserve(self._file.fileno(), length)
        except OSError as error:
            self.close()
            where = folder or tempfile.gettempdir()
            raise UserError(
                f"{where}: expected room for a temporary file of {length / 1e9:.1f} GB; found: "
                f"{error.strerror}. Name another folder, or allow more memory."
            ) from error

    def take(self, region: Region) -> Tensor:
        return self.view(region)

    def space(self, region: Region) -> None:
        return None

    def view(self, region: Region) -> Tensor:
        pixels = torch.empty(region.height, region.width, self._channels, dtype=self._dtype)
        self._transfer(os.preadv, region, pixels)
        return pixels.unsqueeze(0).permute(0, 3, 1, 2).to(self._device)

    def write(self, region: Region, x: Tensor) -> None:
        pixels = x[0].permute(1, 2, 0).to("cpu", self._dtype).contiguous()
        self._transfer(os.pwritev, region, pixels)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _transfer(self, call, region: Region, pixels: Tensor) -> None:
        """Read or write the rows of a region, those of the whole width at once."""
        memory = memoryview(pixels.view(torch.uint8).numpy()).cast("B")
        rows = region.height if region.width == self._width else 1
        length = rows * region.width * self._pixel
        for row in range(0, region.height, rows):
            place = ((region.top + row) * self._width + region.left) * self._pixel
            done = 0
            while done < length:  # one call moves 2 GB at most
                start = row * region.width * self._pixel + done
                part = memory[start : start + length - done]
                step = call(self._file.fileno(), [part], place + done)
                if step == 0:
                    raise OSError(errno.EIO, "the temporary file ends early")
                done += step


def _reserve(file: int, length: int) -> None:
    with suppress(OSError):  # not every file system can
        os.posix_fallocate(file, 0, length)
        return
    room = os.fstatvfs(file)
    if room.f_bavail * room.f_frsize < length:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(file, length)
