"""ICC profiles made by the specification (ICC.1:2001), as no library here makes them."""

import itertools
import struct

import numpy as np

__all__ = ["cmyk_profile", "grey_profile", "rgb_profile", "srgb_of"]

# Primaries of Display P3, adapted to D50; the columns are X, Y, Z of red, green and blue.
P3 = np.array(
    [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]]
)  # fmt: skip
SRGB = np.array(
    [[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]]
)  # fmt: skip


def profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"test"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(1 + 78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        **tags,
    }
    start = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag, start + len(data), len(content))
        data += content.ljust(-(-len(content) // 4) * 4, b"\0")
    head = struct.pack(
        ">I4sI4s4s4s", start + len(data), b"\0" * 4, 0x02400000, kind, space, connection
    )
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + data


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values))


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma))


def rgb_profile(matrix: np.ndarray = P3, gamma: float = 2.2) -> bytes:
    colours = {b"%cXYZ" % c: xyz(*matrix[:, i]) for i, c in enumerate(b"rgb")}
    curves = {b"%cTRC" % c: curve(gamma) for c in b"rgb"}
    return profile(b"mntr", b"RGB ", b"XYZ ", {**colours, **curves})


def grey_profile(gamma: float = 1.0) -> bytes:
    return profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve(gamma)})


def cmyk_profile() -> bytes:
    """Of a strange press: its yellow ink is blue, its other inks are none, but for black."""
    corners = b""
    for _, _, yellow, black in itertools.product((0, 1), repeat=4):
        lightness, a, b = (0, 0, 0) if black else (30, 68, -112) if yellow else (100, 0, 0)
        corners += bytes([round(lightness * 2.55), a + 128, b + 128])
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + 4 * ramp + corners + 3 * ramp
    return profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def srgb_of(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] as sRGB in [0, 1]."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
