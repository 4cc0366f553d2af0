"""Whether the pages of an LMDB file hang together, told without the LMDB library.

The library follows page numbers and offsets as they stand in the file: in a damaged one it
walks in circles, or reads where no memory is, which ends the process.  What passes here it
reads safely.

Source: LMDB 0.9, mdb.c, data format version 1 with 64 bits, little-endian.
"""

import mmap
import os
import struct

from esc_arch.data.lmdb_errors import DamagedLmdb

__all__ = ["check_structure"]

# Number of the page, padding, flags, then two 16-bit offsets or one 32-bit count of pages.
_HEADER = struct.Struct("<QHHHH")
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
# Length of the value in two halves (in a branch: the page in three parts), flags, key's length.
_NODE = struct.Struct("<HHHH")
_VALUE_ELSEWHERE = 1
_PAGE_NUMBER = struct.Struct("<Q")
_COUNT = struct.Struct("<I")
# Magic, version, address, size of the map.
_META_START = struct.Struct("<IIQQ")
# Page size (in the first), flags, depth, branches, leaves, overflow pages, entries, root.
_DATABASE = struct.Struct("<IHHQQQQQ")
_META_END = struct.Struct("<QQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_NO_PAGE = 2**64 - 1
_PAGE_BYTES = tuple(1 << n for n in range(9, 17))
# The library's cursors hold no more.
_DEEPEST = 32


def check_structure(file: str | os.PathLike[str]) -> None:
    """Walk all pages of the main database, from its root to its values.

    Takes about 2 seconds for a million images; the values themselves are not read.

    Args:
        file: ``data.mdb``.

    Raises:
        DamagedLmdb: when it is cut off, is none, or its pages do not fit together.
        OSError: when it cannot be read.
    """
    with open(file, "rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if not size:
            raise DamagedLmdb("an LMDB", f"{file}: an empty file")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _Walk(os.fspath(file), content, size).run()


class _Walk:
    def __init__(self, file: str, content: mmap.mmap, size: int) -> None:
        self._file, self._content, self._size = file, content, size
        self._page_bytes = 0
        self._pages = 0
        self._entries = 0
        self._last_key: bytes | None = None
        # What the branches above say of the keys that follow.
        self._least = b""
        self._seen = bytearray()

    def run(self) -> None:
        first = self._meta(0)
        self._page_bytes = first[0]
        # The state of the last transaction: the other page is that of the one before.
        _, depth, entries, root, last, _ = max(
            (first, self._meta(self._page_bytes)), key=lambda meta: meta[-1]
        )
        self._pages = last + 1
        if self._size < self._pages * self._page_bytes:
            raise DamagedLmdb(
                f"{self._pages * self._page_bytes} bytes of data",
                f"{self._size} bytes in {self._file}",
            )
        self._seen = bytearray(self._pages)
        if root == _NO_PAGE:
            self._require(not depth and not entries, "the root of its tree")
            return
        self._require(depth <= _DEEPEST, "the depth of its tree")
        self._walk(root, depth)
        self._require(self._entries == entries, "the number of its entries")

    def _meta(self, offset: int) -> tuple[int, int, int, int, int, int]:
        """Page size, depth, entries, root, last page and transaction of a front page."""
        place = offset + _HEADER.size
        end = place + _META_START.size + 2 * _DATABASE.size + _META_END.size
        if end > self._size:
            raise DamagedLmdb("an LMDB", f"{self._size} bytes in {self._file}")
        flags = _HEADER.unpack_from(self._content, offset)[2]
        magic, version, _, map_bytes = _META_START.unpack_from(self._content, place)
        if (magic, version) != (_MAGIC, _VERSION) or not flags & _META:
            raise DamagedLmdb("an LMDB", f"another file, {self._file}")
        place += _META_START.size
        page_bytes = _DATABASE.unpack_from(self._content, place)[0]
        main = _DATABASE.unpack_from(self._content, place + _DATABASE.size)
        _, kind, depth, _, _, _, entries, root = main
        last, transaction = _META_END.unpack_from(self._content, place + 2 * _DATABASE.size)
        self._require(page_bytes in _PAGE_BYTES, "the size of its pages")
        # Other kinds have keys of numbers, or several values of a key.
        self._require(kind == 0, "the kind of its database")
        self._require(map_bytes < 1 << 47 and last < 1 << 47, "its size")
        return page_bytes, depth, entries, root, last, transaction

    def _walk(self, page: int, levels: int) -> None:
        """Check a page at so many levels above and including the leaves."""
        start = self._page(page)
        number, _, flags, lower, upper = _HEADER.unpack_from(self._content, start)
        self._require(number == page, f"the number of page {page}")
        self._require(flags & 0xF == (_LEAF if levels == 1 else _BRANCH), f"page {page}")
        fits = _HEADER.size < lower <= upper <= self._page_bytes and not lower % 2
        self._require(fits, f"the entries of page {page}")
        count = (lower - _HEADER.size) // 2
        self._require(levels == 1 or count > 1, f"the entries of page {page}")
        slots = struct.unpack_from(f"<{count}H", self._content, start + _HEADER.size)
        for index, slot in enumerate(slots):
            self._require(
                upper <= slot <= self._page_bytes - _NODE.size, f"the entries of page {page}"
            )
            self._node(page, start + slot, start + self._page_bytes, levels, index)

    def _node(self, page: int, place: int, end: int, levels: int, index: int) -> None:
        low, middle, high, key_bytes = _NODE.unpack_from(self._content, place)
        value = place + _NODE.size + key_bytes
        self._require(value <= end, f"a key of page {page}")
        key = self._content[place + _NODE.size : value]
        if levels > 1:
            # The first key of a branch is left out.
            self._require(
                index == 0 or self._last_key is None or key > self._last_key,
                f"the order of keys in page {page}",
            )
            self._least = key if index else self._least
            self._walk(low | middle << 16 | high << 32, levels - 1)
            return
        is_next = self._last_key is None or key > self._last_key
        is_next &= key >= self._least
        self._require(key_bytes > 0 and is_next, f"the order of keys in page {page}")
        self._last_key = key
        self._entries += 1
        value_bytes = low | middle << 16
        if not high:
            self._require(value + value_bytes <= end, f"a value of page {page}")
            return
        self._require(high == _VALUE_ELSEWHERE and value + 8 <= end, f"a value of page {page}")
        self._overflow(_PAGE_NUMBER.unpack_from(self._content, value)[0], value_bytes)

    def _overflow(self, page: int, value_bytes: int) -> None:
        start = self._page(page)
        number, _, flags, _, _ = _HEADER.unpack_from(self._content, start)
        pages = _COUNT.unpack_from(self._content, start + _HEADER.size - _COUNT.size)[0]
        self._require(number == page and flags & 0xF == _OVERFLOW, f"page {page}")
        needed = -(-(_HEADER.size + value_bytes) // self._page_bytes)
        self._require(needed <= pages <= self._pages - page, f"the length of page {page}")

    def _page(self, page: int) -> int:
        """Where a page starts, which no other one has named."""
        self._require(1 < page < self._pages and not self._seen[page], f"a link to page {page}")
        self._seen[page] = 1
        return page * self._page_bytes

    def _require(self, fits: bool, what: str) -> None:
        if not fits:
            raise DamagedLmdb("an LMDB", f"{self._file}, in which {what} is damaged")
