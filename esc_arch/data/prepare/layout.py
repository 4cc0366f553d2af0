"""Settings of a run, the folders and file names that follow, and the lines for an option file."""

import json
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

from esc_arch.data.sub_images import Grid, grid, sub_image_name
from esc_arch.errors import UserError

__all__ = ["Folder", "Settings", "option_lines", "settings"]


class Settings(NamedTuple):
    """Settings of a run.

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
        folders = [Folder(scale, kind) for kind in kinds for scale in (1, *self.scales)]
        return folders + self.crops()

    def crops(self) -> list["Folder"]:
        """Those of HR images for training; of sub-images every side is a multiple anyway."""
        return [Folder(scale, False, True) for scale in self.scales if self.grid is None]

    def pairs(self, cropped: Container[int]) -> list[tuple["Folder", "Folder | None"]]:
        """HR and LR folders to train from; HR alone without scales.

        Args:
            cropped: scales of which an HR image is no multiple.
        """
        whole = Folder(1, self.grid is not None)
        if not self.scales:
            return [(whole, None)]
        return [
            (Folder(scale, False, True) if scale in cropped else whole,
             Folder(scale, whole.of_sub_images))
            for scale in self.scales
        ]  # fmt: skip

    def packed_folders(self, cropped: Container[int]) -> list["Folder"]:
        """The folders that become LMDBs: those of :meth:`pairs`."""
        if not self.lmdb:
            return []
        pairs = self.pairs(cropped)
        return list(dict.fromkeys([hr for hr, _ in pairs] + [lq for _, lq in pairs if lq]))

    def smallest_side(self) -> int:
        """Least height and width of an image, in pixels."""
        return max(self.scales, default=1) if self.grid is None else self.grid.multiple


class Folder(NamedTuple):
    """One folder of the result.

    Attributes:
        scale: 1 for HR.
        of_sub_images: whether it holds windows of the images.
        of_crops: whether it holds HR images without what is over a multiple of the scale, which
            BasicSR cannot train with; its files are listed where that is anything.
    """

    scale: int
    of_sub_images: bool
    of_crops: bool = False

    @property
    def path(self) -> str:
        if self.of_crops:
            return f"HR_X{self.scale}"
        whole = "HR" if self.scale == 1 else f"LR_bicubic/X{self.scale}"
        return f"{whole}_sub" if self.of_sub_images else whole

    @property
    def filename_tmpl(self) -> str:
        """BasicSR's template of names in this folder, from the name of the HR image."""
        plain = self.scale == 1 or self.of_sub_images or self.of_crops
        return "{}" if plain else f"{{}}x{self.scale}"

    def pair_names(self, name: str, count: int) -> list[str]:
        """Names, without extension, that are the same in HR and LR: the keys of an LMDB.

        Args:
            name: of the image.
            count: number of its files in this folder.
        """
        if self.of_sub_images:
            return [sub_image_name(name, index) for index in range(1, count + 1)]
        return [name][:count]

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


def option_lines(dest: Path, settings: Settings, cropped: Container[int] = ()) -> list[str]:
    """YAML lines, to be put under ``datasets: train:``, for each scale or for HR alone.

    Args:
        cropped: scales with a folder of HR crops.
    """
    ending = ".lmdb" if settings.lmdb else ""
    lines = []
    for hr, lq in settings.pairs(cropped):
        lines += [f"# scale: {lq.scale}"] if lq else []
        lines += [f"dataroot_gt: {_yaml(dest, hr.path + ending)}"]
        if lq:
            lines += [f"dataroot_lq: {_yaml(dest, lq.path + ending)}"]
            # Keys of an LMDB are the same for both.
            template = "{}" if settings.lmdb else lq.filename_tmpl
            lines += [f"filename_tmpl: '{template}'"]
        lines += ["io_backend:", f"  type: {'lmdb' if settings.lmdb else 'disk'}", ""]
    return lines[:-1]


def _yaml(dest: Path, path: str) -> str:
    text = (dest / path).as_posix()
    plain = text.replace("/", "").replace("_", "").replace("-", "").replace(".", "")
    # JSON's strings are YAML's too.
    return text if plain.isascii() and plain.isalnum() else json.dumps(text)
