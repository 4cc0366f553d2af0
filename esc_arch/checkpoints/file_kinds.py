"""The kind of a file by its first bytes: a checkpoint, or what people take for one.

Nothing of the file is unpacked or executed: a zip archive's directory says how large its parts are.
"""

import json
import os
import re
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

__all__ = ["ONNX", "PICKLE", "SAFETENSORS", "ZIP", "FileKind", "is_text", "kind_of"]

# How a file is read: torch.save's zip archives and, before PyTorch 1.6, its pickles.
ZIP, PICKLE, SAFETENSORS, ONNX = "zip", "pickle", "safetensors", "onnx"

AGAIN = "Download or save it again."
_UNPACK = "Unpack it and name the checkpoint in it."
_NO_WEIGHTS = "Name a checkpoint (.pth, .safetensors) or an ONNX file."
_PAGE = "Download the file itself, not the page about it."
_POINTER = "Fetch the file that it stands for: `git lfs pull`, or download it from its page."
_CODE = "If you trust its source, load it there and save its state_dict alone."


class FileKind(NamedTuple):
    """The kind of a file.

    Attributes:
        words: for messages, such as "a web page (HTML)".
        form: how it is read: :data:`ZIP`, :data:`PICKLE`, :data:`SAFETENSORS`, :data:`ONNX`, or
            empty when it is no network.
        advice: what to do when it is no network.
    """

    words: str
    form: str = ""
    advice: str = _NO_WEIGHTS


_TEXTS = (
    (re.compile(rb"version https://git-lfs", re.I), FileKind("a Git LFS pointer", "", _POINTER)),
    (
        re.compile(
            rb"(<!--.*?-->\s*|<\?xml[^>]*>\s*)*<(!doctype html|html|head|body)\b", re.I | re.S
        ),
        FileKind("a web page (HTML)", "", _PAGE),
    ),
    (re.compile(rb"<\??[a-z!]", re.I), FileKind("an XML file", "", _PAGE)),
    (re.compile(rb"7767517\s"), FileKind("a file of ncnn (.param)")),
    (
        re.compile(rb"c[\w.]+\n[\w.]+\n"),
        FileKind("Python objects, which could run code", "", _CODE),
    ),
)
# Where in the file, the bytes there, and what such a file is.
_SIGNATURES = (
    (0, b"\x89PNG\r\n", "an image (PNG)", _NO_WEIGHTS),
    (0, b"\xff\xd8\xff", "an image (JPEG)", _NO_WEIGHTS),
    (0, b"GIF8", "an image (GIF)", _NO_WEIGHTS),
    (8, b"WEBP", "an image (WebP)", _NO_WEIGHTS),
    (0, b"II*\0", "an image (TIFF)", _NO_WEIGHTS),
    (0, b"MM\0*", "an image (TIFF)", _NO_WEIGHTS),
    (4, b"ftyp", "a film or an image (MP4, HEIC, AVIF)", _NO_WEIGHTS),
    (0, b"%PDF-", "a PDF document", _NO_WEIGHTS),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "an LZ4 archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (0, b"\x93NUMPY", "an array of NumPy (.npy)", _NO_WEIGHTS),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them", _NO_WEIGHTS),
    (0, b"GGUF", "a GGUF file", _NO_WEIGHTS),
    (4, b"TFL3", "a network of TensorFlow Lite", _NO_WEIGHTS),
    (0, b"MATLAB", "a MATLAB file", _NO_WEIGHTS),
    (0, b"\x7fELF", "a program", _NO_WEIGHTS),
    (0, b"MZ", "a program", _NO_WEIGHTS),
)
# Before the first of torch.save's pickles.
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
# The version, then a text or the graph: fields of ONNX's ModelProto.
_ONNX_START = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42\x72]")
_LONGEST_HEADER = 100_000_000
_START = 4096


def kind_of(path: str | Path) -> FileKind:
    """The kind of a file.

    Raises:
        OSError: when it cannot be read.
    """
    if odd := _no_regular_file(os.stat(path)):
        return odd
    # Not waiting for a writer, should a pipe have taken its place.
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if odd := _no_regular_file(status):
            return odd
        start = file.read(_START)
    return _by_bytes(start, status.st_size, Path(path))


def _no_regular_file(status: os.stat_result) -> FileKind | None:
    if stat.S_ISREG(status.st_mode):
        return None
    names = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    name = next((name for holds, name in names if holds(status.st_mode)), "a device")
    return FileKind(f"{name}, which is no regular file" if name != "a folder" else name)


def _by_bytes(start: bytes, size: int, path: Path) -> FileKind:
    if not start:
        return FileKind("an empty file", "", AGAIN)
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header < _LONGEST_HEADER:
        return FileKind("a safetensors file", SAFETENSORS)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(path, size)
    if _TORCH_MAGIC in start[:40]:
        return FileKind("a file of torch.save", PICKLE)
    if start[0] == 0x80 and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        # That is what torch.load would say, too, after it has read it.
        return FileKind("Python objects, which could run code when loaded", "", _CODE)
    for at, signature, words, advice in _SIGNATURES:
        if start[at:].startswith(signature):
            return FileKind(words, "", advice)
    if not start.strip(b"\0"):
        return FileKind("nothing but zero bytes", "", AGAIN)
    if _ONNX_START.match(start):
        return FileKind("an ONNX file", ONNX)
    return (
        _text_kind(start, size)
        or _tar_kind(path)
        or FileKind("something else, which does not load", "", AGAIN)
    )


def _text_kind(start: bytes, size: int) -> FileKind | None:
    if not is_text(start):
        return None
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, kind in _TEXTS:
        if pattern.match(text):
            return kind
    if text.startswith((b"{", b"[")) and (size > len(start) or _is_json(text)):
        return FileKind("a JSON file", "", _PAGE)
    return FileKind("a text: something else, which does not load", "", AGAIN)


def is_text(start: bytes) -> bool:
    """Whether bytes look like text in UTF-8 or UTF-16; a character may be cut at their end."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    start = start.removeprefix(b"\xef\xbb\xbf")
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(start):
            return False
        text = start[: error.start].decode("utf-8")
    return all(character.isprintable() or character.isspace() for character in text)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _tar_kind(path: Path) -> FileKind | None:
    try:
        with tarfile.open(path, "r:") as archive:
            first = archive.next()
    except (tarfile.TarError, OSError, EOFError, ValueError):
        return None
    if first is not None and first.name in ("sys_info", "pickle", "storages", "tensors"):
        return FileKind("a tar archive, as PyTorch before 0.1.10 wrote checkpoints", "", _CODE)
    return FileKind("a tar archive", "", _UNPACK)


def _zip_kind(path: Path, size: int) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return FileKind("a zip archive that is cut off or damaged and does not load", "", AGAIN)
    # Below the folder that PyTorch puts around them.
    names = {part.filename.partition("/")[2] or part.filename for part in parts}
    exported = ("archive_format", "serialized_exported_program.json", "models/model.json")
    if any(name in names for name in exported):
        advice = (
            "Name the checkpoint that it was exported from; such a file runs without this package."
        )
        return FileKind("a program of torch.export (.pt2), whose weights are not read", "", advice)
    if "constants.pkl" in names and "data.pkl" in names:
        return FileKind(
            "a program of TorchScript",
            "",
            "Name the checkpoint that it was made from, or save the module's state_dict.",
        )
    if "data.pkl" not in names:
        if names and all(name.endswith(".npy") for name in names):
            return FileKind("arrays of NumPy (.npz)")
        return FileKind(f"a zip archive of {len(parts)} files", "", _UNPACK)
    # torch.save stores without compression, so that a few bytes never become gigabytes.
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        return FileKind(
            "a zip archive with compressed parts, which torch.save never writes",
            "",
            "Load it where you trust it and save it again by torch.save.",
        )
    whole = sum(part.file_size for part in parts)
    if whole > size:
        return FileKind(
            f"a zip archive of {size} bytes whose parts claim {whole} and does not load", "", AGAIN
        )
    return FileKind("a file of torch.save", ZIP)
