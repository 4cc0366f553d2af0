"""What is asked for, and which folders and file names that means."""

from collections.abc import Sequence
from typing import NamedTuple

from esc_arch.data.sub_images import Grid, grid, sub_image_name
from esc_arch.errors import UserError


class Settings(NamedTuple):
    """What to make of the images.

    Attributes:
        scales: of the LR images, ascending; none for HR alone.
        grid: of sub-images, or None.
        lmdb: whether to pack the result.
    """

    scales: tuple[int, ...]
    grid: Grid | None
    lmdb: bool

    def folders(self) -> list["Folder"]:
        """All folders of images."""
        kinds = (False,) if self.grid is None else (False, True)
        return [Folder(scale, kind) for kind in kinds for scale in (1, *self.scales)]

    def packed_folders(self) -> list["Folder"]:
        """The folders that become LMDBs: of sub-images where there are some."""
        if not self.lmdb:
            return []
        return [f for f in self.folders() if f.of_sub_images == (self.grid is not None)]

    def smallest_side(self) -> int:
        """What an image's sides must have, in pixels."""
        return max(self.scales, default=1) if self.grid is None else self.grid.multiple


class Folder(NamedTuple):
    """One folder of the result.

    Attributes:
        scale: 1 for HR.
        of_sub_images: whether it holds windows of the images.
    """

    scale: int
    of_sub_images: bool

    @property
    def path(self) -> str:
        whole = "HR" if self.scale == 1 else f"LR_bicubic/X{self.scale}"
        return f"{whole}_sub" if self.of_sub_images else whole

    @property
    def filename_tmpl(self) -> str:
        """How BasicSR gets from the name of an HR image to this folder's."""
        return "{}" if self.scale == 1 or self.of_sub_images else f"{{}}x{self.scale}"

    def pair_names(self, name: str, count: int) -> list[str]:
        """Names, without extension, that are the same in HR and LR: the keys of an LMDB.

        Args:
            name: of the image.
            count: number of its files in this folder.
        """
        if self.of_sub_images:
            return [sub_image_name(name, index) for index in range(1, count + 1)]
        return [name]

    def file_names(self, name: str, count: int) -> list[str]:
        """The image's files in this folder; see :meth:`pair_names`."""
        return [self.filename_tmpl.format(n) + ".png" for n in self.pair_names(name, count)]


def settings(
    scales: Sequence[int],
    sub_image: int | None = None,
    step: int | None = None,
    thresh: int | None = None,
    lmdb: bool = False,
) -> Settings:
    """Checked settings, from the values of the command line.

    Raises:
        UserError: for a scale below 2, and for windows that the scales do not allow.
    """
    for scale in scales:
        if scale < 2:
            raise UserError(f"--scales: expected numbers from 2 up; found {scale}.")
    ascending = tuple(sorted(set(scales)))
    if sub_image is None:
        for option, value in (("--step", step), ("--thresh", thresh)):
            if value is not None:
                raise UserError(
                    f"{option}: expected beside --sub-image; found alone. Add --sub-image SIZE."
                )
        return Settings(ascending, None, lmdb)
    return Settings(ascending, grid(sub_image, step, thresh or 0, ascending), lmdb)
