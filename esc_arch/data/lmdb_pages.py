"""The pages of an LMDB file whose entries are sorted and known beforehand.

Such a file can be written from front to back like any other, without the library: its
writer keeps a whole transaction in memory first, and its pages depend on when it committed.
Here the place of each page follows from the lengths of keys and values alone.

A value that does not fit beside another in a leaf has pages of its own.  They come first,
then the leaf that names them; the branches above the leaves come last.  Two more pages, at
the very front, say where the root of the tree is.

Source: LMDB 0.9, mdb.c, data format version 1 with 64 bits, little-endian; its own
``mdb_copy -c`` writes front to back as well.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "MAX_KEY_BYTES",
    "PAGE_BYTES",
    "PAGE_HEADER",
    "Leaf",
    "Tree",
    "branch_pages",
    "leaf_node",
    "leaf_page",
    "meta_pages",
    "overflow_header",
    "overflow_pages",
    "plan_tree",
]

# Whatever the machine's pages are: LMDB takes the size from the file.
PAGE_BYTES = 4096
MAX_KEY_BYTES = 511

# Number of the page, padding, flags, then two 16-bit offsets or one 32-bit count of pages.
PAGE_HEADER = struct.Struct("<QHHI")
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
# Length of the value in two halves (in a branch: the page), flags, length of the key.
_NODE = struct.Struct("<HHHH")
_VALUE_ELSEWHERE = 1
_SLOT = struct.Struct("<H")
_PAGE_NUMBER = struct.Struct("<Q")
# LMDB wants two entries in a page at least.
_MAX_NODE = ((PAGE_BYTES - PAGE_HEADER.size) // 2 & -2) - _SLOT.size
# Magic, version, address, size of the map.
_META_START = struct.Struct("<IIQQ")
# Padding (page size, in the first), flags, depth, branches, leaves, overflow, entries, root.
_DATABASE = struct.Struct("<IHHQQQQQ")
_META_END = struct.Struct("<QQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_INTEGER_KEYS = 8
_NO_PAGE = 2**64 - 1
_FIRST_PAGE = 2
# The library's own default; a smaller map could not be opened for writing without an option.
_MIN_MAP_BYTES = 10 * 2**20


class Leaf(NamedTuple):
    """Entries ``first`` to ``end`` (exclusive).

    Attributes:
        value_pages: for each entry the first page of its value, None where the value lies
            in the leaf.
        page: the leaf itself, after these.
    """

    first: int
    end: int
    value_pages: tuple[int | None, ...]
    page: int


class Tree(NamedTuple):
    """Where everything lies.

    Attributes:
        levels: from the leaves' parents up to the root; each branch as its page, and its
            children as (first key, page).
        pages: how many the file has.
    """

    leaves: list[Leaf]
    levels: list[list[tuple[int, list[tuple[bytes, int]]]]]
    overflow: int
    entries: int
    pages: int

    @property
    def root(self) -> int:
        return self.levels[-1][0][0] if self.levels else self.leaves[0].page


def overflow_pages(value_bytes: int) -> int:
    """Pages of a value that has its own."""
    return -(-(PAGE_HEADER.size + value_bytes) // PAGE_BYTES)


def _even(size: int) -> int:
    return size + size % 2


def plan_tree(keys: Sequence[bytes], value_bytes: Sequence[int]) -> Tree:
    """Give everything its page.

    Args:
        keys: sorted, without duplicates, at least one, each of 1 to MAX_KEY_BYTES bytes.
        value_bytes: length of each value.
    """
    leaves = []
    page, overflow = _FIRST_PAGE, 0
    first, room = 0, PAGE_BYTES - PAGE_HEADER.size
    value_pages: list[int | None] = []
    for index, (key, size) in enumerate(zip(keys, value_bytes, strict=True)):
        inside = _NODE.size + len(key) + size <= _MAX_NODE
        node = _NODE.size + len(key) + (size if inside else _PAGE_NUMBER.size)
        needed = _even(node) + _SLOT.size
        if needed > room:
            leaves.append(Leaf(first, index, tuple(value_pages), page))
            page += 1
            first, room, value_pages = index, PAGE_BYTES - PAGE_HEADER.size, []
        room -= needed
        value_pages.append(None if inside else page)
        if not inside:
            count = overflow_pages(size)
            page += count
            overflow += count
    leaves.append(Leaf(first, len(keys), tuple(value_pages), page))
    page += 1
    levels = []
    children = [(keys[leaf.first], leaf.page) for leaf in leaves]
    while len(children) > 1:
        level = [(page + number, group) for number, group in enumerate(_grouped(children))]
        page += len(level)
        levels.append(level)
        children = [(group[0][0], number) for number, group in level]
    return Tree(leaves, levels, overflow, len(keys), page)


def _grouped(children: list[tuple[bytes, int]]) -> list[list[tuple[bytes, int]]]:
    """Children of each branch: as many as fit, two at least."""
    groups: list[list[tuple[bytes, int]]] = []
    room = 0
    for child in children:
        needed = _even(_NODE.size + len(child[0])) + _SLOT.size
        if needed > room:
            groups.append([])
            # The first key of a branch is left out: everything smaller is there too.
            room, needed = PAGE_BYTES - PAGE_HEADER.size, _NODE.size + _SLOT.size
        room -= needed
        groups[-1].append(child)
    if len(groups[-1]) == 1:
        groups[-1].insert(0, groups[-2].pop())
    return groups


def overflow_header(page: int, value_bytes: int) -> bytes:
    """What stands before a value in its own pages."""
    return PAGE_HEADER.pack(page, 0, _OVERFLOW, overflow_pages(value_bytes))


def leaf_node(key: bytes, value_bytes: int, value: bytes | None, value_page: int | None) -> bytes:
    """An entry of a leaf: with its value, or with the page where that is."""
    flags = 0 if value_page is None else _VALUE_ELSEWHERE
    data = value if value_page is None else _PAGE_NUMBER.pack(value_page)
    return _NODE.pack(value_bytes & 0xFFFF, value_bytes >> 16, flags, len(key)) + key + data


def leaf_page(page: int, nodes: Sequence[bytes]) -> bytes:
    return _page(page, _LEAF, nodes)


def branch_pages(tree: Tree) -> bytes:
    """All branches, in the order of their pages."""
    return b"".join(
        _page(
            page,
            _BRANCH,
            [_branch_node(key if i else b"", child) for i, (key, child) in enumerate(group)],
        )
        for level in tree.levels
        for page, group in level
    )


def _branch_node(key: bytes, page: int) -> bytes:
    low, middle, high = page & 0xFFFF, page >> 16 & 0xFFFF, page >> 32
    return _NODE.pack(low, middle, high, len(key)) + key


def _page(number: int, flags: int, nodes: Sequence[bytes]) -> bytes:
    """Nodes from the end of the page towards its front, and their offsets from the front."""
    content = bytearray(PAGE_BYTES)
    lower, upper = PAGE_HEADER.size, PAGE_BYTES
    for node in nodes:
        upper -= _even(len(node))
        content[upper : upper + len(node)] = node
        _SLOT.pack_into(content, lower, upper)
        lower += _SLOT.size
    PAGE_HEADER.pack_into(content, 0, number, 0, flags, lower | upper << 16)
    return bytes(content)


def meta_pages(tree: Tree) -> bytes:
    """The first two pages: an empty database, then, as its successor, the whole one."""
    free = _DATABASE.pack(PAGE_BYTES, _INTEGER_KEYS, 0, 0, 0, 0, 0, _NO_PAGE)
    empty = _DATABASE.pack(0, 0, 0, 0, 0, 0, 0, _NO_PAGE)
    branches = sum(map(len, tree.levels))
    main = _DATABASE.pack(
        0,
        0,
        1 + len(tree.levels),
        branches,
        len(tree.leaves),
        tree.overflow,
        tree.entries,
        tree.root,
    )
    start = _META_START.pack(_MAGIC, _VERSION, 0, max(_MIN_MAP_BYTES, tree.pages * PAGE_BYTES))
    pages = []
    for number, (database, last) in enumerate(((empty, _FIRST_PAGE - 1), (main, tree.pages - 1))):
        header = PAGE_HEADER.pack(number, 0, _META, 0)
        content = header + start + free + database + _META_END.pack(last, number)
        pages.append(content.ljust(PAGE_BYTES, b"\0"))
    return b"".join(pages)
