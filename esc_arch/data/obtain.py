"""Getting an image set: download its archives, and put their folders in place."""

import os
from collections.abc import Callable
from pathlib import Path

from esc_arch.data.archives import extract
from esc_arch.data.sources import Archive, Folder, ImageSet
from esc_arch.download import alone, fetch
from esc_arch.errors import UserError
from esc_arch.imaging.codecs import SUFFIXES


def obtain(image_set: ImageSet, root: str | Path, say: Callable[[str], None]) -> None:
    """Put a set below a folder; what is there is kept, what was broken off goes on.

    An archive that lies in ``root`` under its own name is the user's: it is checked, used and
    kept.  One that is downloaded is deleted when its folders are in place.

    Args:
        root: the folder of all sets; it is made.
        say: is told what was done, in one line a folder.

    Raises:
        UserError: when the set has to be got by hand, or cannot be had, or one of its
            folders is there with another number of images.
    """
    root = Path(root)
    for archive in image_set.archives:
        _obtain(archive, root, say)
    if image_set.archives:
        return
    place = root / image_set.folder
    present = count_images(place)
    if not present:
        raise UserError(
            f"{image_set.name}: expected its images in {place}; found none, and there is no "
            f"certain address to download them from. {image_set.by_hand} Terms: "
            f"{image_set.terms}."
        )
    say(f"{place}: is there, with {present} images")


def count_images(folder: Path) -> int:
    """How many image files lie in a folder itself; 0 when there is no such folder."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        # A Mac puts ._NAME beside each file.
        return sum(
            os.path.splitext(entry.name)[1].lower() in SUFFIXES and not entry.name.startswith(".")
            for entry in entries
        )


def _obtain(archive: Archive, root: Path, say: Callable[[str], None]) -> None:
    if not _missing(archive, root):
        for folder in archive.folders:
            say(f"{root / folder.destination}: is there, with {folder.images} images")
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Not the lock of ``fetch``, which is taken within this one.
        with alone(root / f".{archive.name}.download.lock"):
            # Another process may have brought them while this one waited.
            if missing := _missing(archive, root):
                _bring(archive, root, missing)
                for folder in missing:
                    say(f"{root / folder.destination}: {folder.images} images from {archive.url}")
    except OSError as error:
        raise UserError(
            f"{root}: expected a folder to write to; found {error.strerror or error}. Name "
            "another folder with --dest."
        ) from error


def _missing(archive: Archive, root: Path) -> list[Folder]:
    missing = []
    for folder in archive.folders:
        place = root / folder.destination
        if not os.path.lexists(place):
            missing.append(folder)
            continue
        images = place / folder.images_in
        present = count_images(images)
        if present != folder.images:
            raise UserError(
                f"{images}: expected {folder.images} images or no folder {place}; found {present} "
                "images, which are left as they are. Move the folder away to download the set, or "
                "name another with --dest."
            )
    return missing


def _bring(archive: Archive, root: Path, missing: list[Folder]) -> None:
    own = root / archive.name
    downloaded = root / f".{archive.name}.download" / archive.name
    file = own if own.exists() else downloaded
    fetch(archive.url, file, size=archive.size, sha256=archive.sha256, md5=archive.md5)
    extract(file, {folder.archive: root / folder.destination for folder in missing})
    if file is downloaded:
        downloaded.unlink()
        downloaded.parent.rmdir()
