"""Kinds of files by their first bytes, and the refusal of images that are understood."""

import io
import warnings

__all__ = ["Refused", "kind_of"]

_START = 1 << 16  # bytes that Pillow's readers of headers get
_KINDS = (
    (b"GIF8", "a GIF"),
    (b"8BPS", "a Photoshop document (PSD)"),
    (b"%PDF", "a PDF document"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"version https://git-lfs", "a pointer of Git LFS, whose file was not fetched"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska film"),
)
# Of ISO's base media files, by the brand in their first box; the others are films.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "an AVIF image"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"),
                    "a HEIC image"),
    b"crx ": "a raw photo of a camera (CR3)",
}  # fmt: skip


class Refused(Exception):
    """An image that is understood, and not used.

    Attributes:
        found: what it is, for a message.
        advice: what to do, a sentence.
    """

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.found, self.advice = found, advice


def kind_of(content: bytes | memoryview) -> str:
    """The kind of a file by its first bytes ("a GIF"), or an empty text.

    Args:
        content: from its beginning, at least 64 kB or all.
    """
    start = bytes(content[:_START])
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12], "a film")
    for magic, kind in _KINDS:
        if start.startswith(magic):
            return kind
    text = start[:1000].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if text.startswith((b"<?xml", b"<svg")):
        return "an SVG drawing" if b"<svg" in text else "an XML document"
    return _by_pillow(start)


def _by_pillow(start: bytes) -> str:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = Image.open(io.BytesIO(start))
    except Exception:  # of any kind
        return ""
    return f"an image of the format {opened.format}"
