"""Downloads of public image sets: their archives, extracted to where option files look for them."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from esc_arch.data.archives import extract
from esc_arch.data.public_sets import Archive, Folder, PublicSet
from esc_arch.errors import UserError
from esc_arch.imaging.codecs import SUFFIXES
from esc_arch.transfer import exclusive, fetch

__all__ = ["download_set"]


def download_set(public_set: PublicSet, root: str | Path, say: Callable[[str], None]) -> None:
    """Download a set into a folder; existing images are kept, a broken download is resumed.

    An archive that lies in ``root`` under its own name is the user's: it is checked, used and
    kept.  A downloaded one is deleted when its folders are in place.

    Args:
        root: the folder of all sets; it is made.
        say: called with a line about each folder.

    Raises:
        UserError: when the set cannot be downloaded, by this command or at all, or one of its
            folders exists with another number of images.
    """
    root = Path(root)
    for archive in public_set.archives:
        _download(archive, root, say)
    if public_set.archives:
        return
    place = root / public_set.folder
    present = _count_images(place)
    if not present:
        raise UserError(
            f"{public_set.name}: expected its images in {place}; found none, and there is no "
            f"certain address to download them from. {public_set.by_hand} Terms: "
            f"{public_set.terms}."
        )
    say(f"{place}: is there, with {present} images")


def _count_images(folder: Path) -> int:
    """How many image files lie in a folder itself; 0 when there is no such folder."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        # A Mac puts ._NAME beside each file.
        return sum(
            os.path.splitext(entry.name)[1].lower() in SUFFIXES and not entry.name.startswith(".")
            for entry in entries
        )


def _download(archive: Archive, root: Path, say: Callable[[str], None]) -> None:
    if not _missing(archive, root):
        for folder in archive.folders:
            say(f"{root / folder.destination}: is there, with {folder.images} images")
        return
    own = root / archive.name
    downloaded = root / f".{archive.name}.download" / archive.name
    try:
        # Another lock than that of ``fetch``, which is taken inside.
        with exclusive(root / f".{archive.name}.download.lock"):
            # Another process may have extracted them while this one waited.
            missing = _missing(archive, root)
            if missing:
                file = own if own.exists() else downloaded
                try:
                    fetch(
                        archive.url, file, size=archive.size, sha256=archive.sha256, md5=archive.md5
                    )
                    extract(file, {folder.archive: root / folder.destination for folder in missing})
                    downloaded.unlink(missing_ok=True)
                finally:
                    # Unless there is something to resume.
                    with suppress(OSError):
                        downloaded.parent.rmdir()
    except OSError as error:
        raise UserError(
            f"{root}: expected a folder to write to; found {error.strerror or error}. Name "
            "another folder with --dest."
        ) from error
    for folder in missing:
        say(f"{root / folder.destination}: {folder.images} images from {archive.url}")


def _missing(archive: Archive, root: Path) -> list[Folder]:
    missing = []
    for folder in archive.folders:
        place = root / folder.destination
        if not os.path.lexists(place):
            missing.append(folder)
            continue
        images = place / folder.images_in
        present = _count_images(images)
        if present != folder.images:
            raise UserError(
                f"{images}: expected {folder.images} images or no folder {place}; found {present} "
                "images, which are left as they are. Move the folder away to download the set, or "
                "name another with --dest."
            )
    return missing
