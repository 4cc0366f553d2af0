"""The public image sets of super-resolution, as ``public_sets.yml`` lists them."""

from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import urlsplit

import yaml
from pydantic import TypeAdapter

from esc_arch.errors import UserError


@dataclass(frozen=True)
class Folder:
    """A folder of an archive, and where the option files look for it.

    Attributes:
        archive: its path in the archive.
        destination: its path below the folder of all sets.
        images_in: where in it the HR images lie, or its only images.
        images: how many lie there.
    """

    archive: str
    destination: str
    images_in: str
    images: int


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        size: in bytes; None where no source records it.
        sha256: in hex; None where no source records it.
        md5: in hex.
        about: size, roughly, where no source records it; for display.
    """

    url: str
    folders: tuple[Folder, ...]
    md5: str
    sha256: str | None = None
    size: int | None = None
    about: int | None = None

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PublicSet:
    """A set of images, to be downloaded by this command or by hand.

    Attributes:
        name: on the command line.
        images: how many there are, and of which kind.
        terms: who may use it, and where that is said.
        archives: what to download; empty where there is no certain address.
        by_hand: how to get it then.
        folder: of its images then, below the folder of all sets.
    """

    name: str
    images: str
    terms: str
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""
    folder: str = ""


def _read() -> tuple[PublicSet, ...]:
    table = yaml.safe_load(files(__package__).joinpath("public_sets.yml").read_bytes())
    return TypeAdapter(tuple[PublicSet, ...]).validate_python(table["sets"])


PUBLIC_SETS = _read()


def find(name: str) -> PublicSet:
    """The set of a name, or the one that has a folder of this name, such as Set5.

    Args:
        name: upper or lower case.

    Raises:
        UserError: when there is none.
    """
    wanted = name.casefold()
    for public_set in PUBLIC_SETS:
        if public_set.name.casefold() == wanted:
            return public_set
    for public_set in PUBLIC_SETS:
        folders = [folder for archive in public_set.archives for folder in archive.folders]
        if wanted in [folder.destination.casefold() for folder in folders]:
            return public_set
    raise UserError(
        f"{name}: expected one of {', '.join(s.name for s in PUBLIC_SETS)}; found no set of this "
        "name. Run `basicsr data download` to list them."
    )
