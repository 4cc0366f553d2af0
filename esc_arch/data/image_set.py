"""One view of the images in a folder and of those in an LMDB."""

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import lmdb

from esc_arch.data.lmdb_reader import DamagedLmdb, MetaLine, open_lmdb, parse_meta_line
from esc_arch.errors import UserError
from esc_arch.imaging.codecs import Shape, find_images, shape_of

__all__ = ["FolderSet", "ImageSet", "LmdbSet", "open_image_set", "opened"]


class ImageSet:
    """Encoded images by name.

    Nothing is read before it is asked for.  Between processes only the path travels; each
    opens the set for itself.

    Attributes:
        path: the folder or LMDB.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> "ImageSet":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return type(self), (self.path,)

    @property
    def names(self) -> tuple[str, ...]:
        """All images, sorted: paths below the folder with ``/``, or keys of the LMDB.

        Raises:
            UserError: when a folder holds none.
            DamagedLmdb: when an LMDB cannot be read.
        """
        raise NotImplementedError

    def stem(self, name: str) -> str:
        """The name without extension, by which images of two sets are paired."""
        raise NotImplementedError

    def where(self, name: str) -> str:
        """What messages call the image."""
        return f"{self.path}/{name}"

    def read(self, name: str) -> bytes:
        """The image as it is encoded.

        Raises:
            UserError: when it cannot be read.
            DamagedLmdb: when the LMDB cannot.
        """
        raise NotImplementedError

    def shapes(self) -> Mapping[str, Shape | None]:
        """The shape of each image by its header, or by meta_info.txt, None where that lacks it.

        Raises:
            UserError: when a file is no image, or meta_info.txt cannot be read.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close what is open; reading opens it again."""


class FolderSet(ImageSet):
    """Image files below a folder."""

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(p.relative_to(self.path).as_posix() for p in find_images(self.path))

    def stem(self, name: str) -> str:
        return os.path.splitext(name)[0]

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(
                f"{self.where(name)}: expected an image file; found: {error.strerror}."
            ) from None

    def shapes(self) -> Mapping[str, Shape | None]:
        return {name: shape_of(self.read(name), self.where(name)) for name in self.names}


class LmdbSet(ImageSet):
    """An LMDB as BasicSR reads it.  It can be open once in a process."""

    _database: lmdb.Environment | None = None

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        with self._reading() as transaction:
            keys = transaction.cursor().iternext(values=False)
            return tuple(bytes(key).decode("ascii", "backslashreplace") for key in keys)

    def stem(self, name: str) -> str:
        return name

    def read(self, name: str) -> bytes:
        with self._reading() as transaction:
            value = transaction.get(name.encode())
            content = None if value is None else bytes(value)
        if content is None:
            raise UserError(f"{self.where(name)}: expected an image; found no such key.")
        return content

    def meta_lines(self) -> list[MetaLine]:
        """The lines of meta_info.txt.

        Raises:
            UserError: when it is missing or no text.
        """
        file = self.path / "meta_info.txt"
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(
                f"{file}: expected a line for each image; found: {error.strerror}."
            ) from None
        except ValueError:
            raise UserError(f"{file}: expected lines of text; found other bytes.") from None
        return [parse_meta_line(line) for line in lines]

    def shapes(self) -> Mapping[str, Shape | None]:
        told = {line.key: line.shape for line in self.meta_lines()}
        return {
            name: Shape(*shape) if (shape := told.get(name)) and len(shape) == 3 else None
            for name in self.names
        }

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        if self._database is None:
            self._database = open_lmdb(self.path)
        try:
            # Buffers look a key up without copying its image.
            with self._database.begin(buffers=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise DamagedLmdb("an LMDB", f"{self.path}/data.mdb: {error}") from None


def open_image_set(path: str | os.PathLike[str]) -> ImageSet:
    """The images of a folder, or of an LMDB where the path ends in ``.lmdb``.

    Raises:
        UserError: when there is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise UserError(f"{path}: expected a folder of images or an LMDB; found {found}.")
    return LmdbSet(path) if path.name.endswith(".lmdb") else FolderSet(path)


@functools.cache
def opened(path: Path) -> ImageSet:
    """The set at a path, open as long as the process lives: for one that only reads it."""
    return open_image_set(path)
