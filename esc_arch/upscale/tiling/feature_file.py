"""A feature map of a whole image in a file, read and written region by region.

The file is read and written by calls, never mapped into memory: mapped pages count as memory of
the process, pages that the system keeps of a file do not.
"""

import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from esc_arch.errors import UserError
from esc_arch.fast.maps import Region
from esc_arch.files import free_bytes

__all__ = ["FileMap"]


class FileMap:
    """A map in a file without a name, which is gone when the process is.

    Args:
        channels: C.
        size: H and W.
        dtype: of the numbers.
        device: where the regions are wanted.
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
        self.size = size
        self._channels, self._width, self._dtype, self._device = channels, size[1], dtype, device
        self._pixel = channels * dtype.itemsize  # bytes
        length = size[0] * size[1] * self._pixel
        place = folder or Path(tempfile.gettempdir())
        try:
            self._file = tempfile.TemporaryFile(dir=place, prefix="esc_arch-")  # noqa: SIM115
            # Now rather than in the middle of the work.
            if free_bytes(place) < length:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file.truncate(length)
            with suppress(OSError, AttributeError):  # not every file system and system can
                os.posix_fallocate(self._file.fileno(), 0, length)
        except OSError as error:
            raise UserError(
                f"{place}: expected room for a temporary file of {length / 1e9:.1f} GB; found: "
                f"{error.strerror}. Name another folder, or allow more memory."
            ) from error

    def view(self, region: Region) -> Tensor:
        pixels = torch.empty(region.height, region.width, self._channels, dtype=self._dtype)
        self._transfer(self._file.readinto, region, pixels)
        return pixels.unsqueeze(0).permute(0, 3, 1, 2).to(self._device)

    def space(self, region: Region) -> Tensor:
        return torch.empty(
            (1, self._channels, region.height, region.width),
            dtype=self._dtype,
            device=self._device,
            memory_format=torch.channels_last,
        )

    def write(self, region: Region, x: Tensor) -> None:
        pixels = x[0].permute(1, 2, 0).to("cpu", self._dtype).contiguous()
        self._transfer(self._file.write, region, pixels)

    def close(self) -> None:
        self._file.close()

    def _transfer(self, call: Callable[[memoryview], int], region: Region, pixels: Tensor) -> None:
        """Read or write the rows of a region, those of the whole width at once."""
        memory = pixels.view(torch.uint8).numpy().data.cast("B")
        rows = region.height if region.width == self._width else 1
        length = rows * region.width * self._pixel
        for row in range(0, region.height, rows):
            self._file.seek(((region.top + row) * self._width + region.left) * self._pixel)
            start = row * region.width * self._pixel
            if call(memory[start : start + length]) != length:
                raise OSError(errno.EIO, "the temporary file ends early")
