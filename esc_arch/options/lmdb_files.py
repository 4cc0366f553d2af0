"""Checks one LMDB of images as ``basicsr data`` and BasicSR's scripts make them."""

import os

import lmdb

from esc_arch.data.lmdb_reader import DamagedLmdb, open_lmdb, parse_meta_line
from esc_arch.errors import listed
from esc_arch.options.problems import Problems

# Key of each image and its (width, height), where meta_info.txt tells it.
Records = dict[str, tuple[int, int] | None]


def inspect_lmdb(problems: Problems, key: str, root: str) -> Records | None:
    """Note what is wrong with the LMDB at ``root``.

    Returns:
        Its records, or None when they cannot be told.
    """
    path = os.path.expanduser(root)
    if not root.endswith(".lmdb"):
        problems.add(
            key,
            "a folder whose name ends in .lmdb, as io_backend.type is lmdb",
            root,
            "Name the LMDB, without a slash at its end, or write `type: disk`.",
        )
        return None
    files = [name for name in ("data.mdb", "meta_info.txt") if _lacks(path, name)]
    if files:
        what = f"{root} without {' and '.join(files)}" if os.path.isdir(path) else f"no {root}"
        problems.add(
            key,
            "an LMDB folder with data.mdb and meta_info.txt",
            what,
            "Check the path, or make the LMDB with `basicsr data lmdb FOLDER`.",
        )
        return None
    records = _records(problems, key, os.path.join(path, "meta_info.txt"))
    if records is not None:
        _inspect_database(problems, key, path, records)
    return records


def _lacks(path: str, name: str) -> bool:
    return not os.path.isfile(os.path.join(path, name))


def _records(problems: Problems, key: str, file: str) -> Records | None:
    try:
        with open(file, encoding="utf-8") as lines:
            texts = [line.rstrip("\n") for line in lines]
    except (OSError, ValueError) as error:
        problems.add(key, "a readable meta_info.txt", f"{file}: {error}", "Make the LMDB again.")
        return None
    blank = [number for number, text in enumerate(texts, 1) if not text.strip()]
    if blank or not texts:
        found = f"blank lines: {listed(blank, 5)}" if texts else "an empty file"
        problems.add(
            key, "an image in each line of meta_info.txt", f"{file} with {found}", "Remove them."
        )
        return None
    records: Records = {}
    dotted, foreign = [], []
    for text in texts:
        name, record, shape = parse_meta_line(text)
        if "." in os.path.splitext(name)[0]:
            dotted.append(name)
        if not record.isascii():
            foreign.append(name)
        records[record] = (shape[1], shape[0]) if shape else None
    if dotted:
        problems.add(
            key,
            "names with one dot, as BasicSR takes what stands before the first for the key",
            f"{len(dotted)} names with more in {file}: {listed(dotted, 3)}",
            "Rename the images and make the LMDB again.",
        )
    if foreign:
        problems.add(
            key,
            "names in ASCII, as BasicSR encodes keys so",
            f"{len(foreign)} others in {file}: {listed(foreign, 3)}",
            "Rename the images and make the LMDB again.",
        )
    return None if dotted or foreign else records


def _inspect_database(problems: Problems, key: str, path: str, records: Records) -> None:
    again = "Make the LMDB again; it was cut off or changed."
    try:
        # Buffers look a key up without copying its image.
        with open_lmdb(path) as database, database.begin(buffers=True) as transaction:
            cursor = transaction.cursor()
            missing = [name for name in records if not cursor.set_key(name.encode())]
    except DamagedLmdb as error:
        problems.add(key, error.expected, error.found, again)
        return
    except lmdb.Error as error:
        problems.add(key, "an LMDB", f"{path}/data.mdb, which is damaged: {error}", again)
        return
    if missing:
        problems.add(
            key,
            "every image of meta_info.txt in data.mdb",
            f"{len(missing)} missing in {path}: {listed(missing, 3)}",
            again,
        )
