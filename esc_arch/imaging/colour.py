"""Colours of print and of other spaces as RGB, by profiles and by their definitions.

Shapes: (H, W, C); uint8 or uint16.

Source: TIFF, revision 6.0, Adobe 1992, sections 21 and 23; IEC 61966-2-1 (sRGB); the matrices of
sRGB, adapted to D50, are those of the ICC's sRGB profile.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

__all__ = ["cmyk_to_srgb", "is_srgb", "lab_to_srgb", "to_srgb", "ycbcr_to_rgb"]

_D50 = (0.9642, 1.0, 0.8249)
_XYZ_TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
_BLOCK = 1 << 20  # pixels in floating point at a time


def cmyk_to_srgb(image: Image.Image, profile: bytes) -> tuple[np.ndarray, str]:
    """Convert a Pillow image of mode CMYK.

    Args:
        profile: an ICC profile, which is used where it is one of CMYK.

    Returns:
        (H, W, 3) of uint8, and a note for the user.
    """
    converted = to_srgb(image, profile) if profile[16:20] == b"CMYK" else None
    if converted is not None:
        return converted, "converted from CMYK to sRGB by its profile"
    plain = np.asarray(image.convert("RGB"))
    return plain, "converted from CMYK to RGB without a profile, so colours are approximate"


def to_srgb(image: Image.Image, profile: bytes) -> np.ndarray | None:
    """Convert a Pillow image of 8 bits to sRGB by its ICC profile, (H, W, 3) of uint8.

    None when the profile is damaged or of other colours.
    """
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if converted is None else np.asarray(converted)


def is_srgb(profile: bytes) -> bool:
    """Whether an ICC profile is one of the many of sRGB, by its name."""
    from PIL import ImageCms

    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False
    return "srgb" in name.lower()


def lab_to_srgb(pixels: np.ndarray, is_icc: bool) -> np.ndarray:
    """CIE L*a*b* (D50) to sRGB of the same depth.

    Args:
        pixels: as a TIFF file holds them.
        is_icc: whether a and b are stored with an offset (photometric ICCLAB), not with a sign.
    """
    white = np.iinfo(pixels.dtype).max
    # One unit of a and b is one of 8 bits, 256 ones of 16; L goes from 0 to 100.
    unit = 1 if white == 255 else 256
    lightest = 255 if white == 255 else (65280 if is_icc else 65535)
    result = np.empty_like(pixels)
    flat, out = pixels.reshape(-1, 3), result.reshape(-1, 3)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        if is_icc:
            ab = block[:, 1:].astype(np.float64) / unit - 128
        else:
            ab = block[:, 1:].astype(f"i{block.dtype.itemsize}").astype(np.float64) / unit
        fy = (block[:, 0] * (100 / lightest) + 16) / 116
        f = np.stack([fy + ab[:, 0] / 500, fy, fy - ab[:, 1] / 200], 1)
        xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * (108 / 841)) * _D50
        linear = (xyz @ _XYZ_TO_SRGB.T).clip(0, 1)
        encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
        out[start : start + _BLOCK] = np.rint(encoded.clip(0, 1) * white)
    return result


def ycbcr_to_rgb(
    pixels: np.ndarray, luma: tuple[float, float, float], black_white: tuple[float, ...]
) -> np.ndarray:
    """Y'CbCr of 8 bits to RGB.

    Args:
        luma: the weights of red, green and blue in Y.
        black_white: the codes of black and white of Y, of zero and full of Cb and of Cr.
    """
    red, green, blue = luma
    black, white, zero_cb, full_cb, zero_cr, full_cr = black_white
    result = np.empty_like(pixels)
    flat, out = pixels.reshape(-1, 3), result.reshape(-1, 3)
    for start in range(0, len(flat), _BLOCK):
        y, cb, cr = flat[start : start + _BLOCK].T.astype(np.float64)
        y = (y - black) * 255 / (white - black)
        cb = (cb - zero_cb) * 127 / (full_cb - zero_cb)
        cr = (cr - zero_cr) * 127 / (full_cr - zero_cr)
        r, b = y + cr * (2 - 2 * red), y + cb * (2 - 2 * blue)
        rgb = np.stack([r, (y - blue * b - red * r) / green, b], 1)
        out[start : start + _BLOCK] = np.rint(rgb).clip(0, 255)
    return result
