"""Any picture file as a person would see it: upright, first frame, RGB; or the reason why not.

>>> import io
>>> from sing_utils.sources.decoding import read_picture
>>> file = io.BytesIO()
>>> Image.new("LA", (3, 2), (0, 128)).save(file, "png")  # black, half transparent
>>> read_picture(file.getvalue()).getpixel((0, 0))  # over white
(127, 127, 127)
>>> read_picture(b"")
Traceback (most recent call last):
    ...
sing_utils.sources.decoding.UnreadableError: the file is empty (0 bytes)
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from sing_utils.errors import SingError

DECODING = 2  # raised when the pixels of any kind of picture change; part of a store's key
# Kinds of pictures that Pillow decodes by itself. For some others it would start a program.
Image.init()
FORMATS: list[str] = [
    kind
    for kind in ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "ICO")
    if kind in Image.OPEN
]
MAX_PIXELS = 178_956_970  # half a gigabyte as RGB, and Pillow's own limit
_NOT_DECODED = (  # how files of other kinds begin, whatever their names say
    (re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL), "it is HEIC: convert it to JPEG"),
    (re.compile(rb"\xff\x0a|\x00{3}\x0cJXL "), "it is JPEG XL: convert it to JPEG"),
    (re.compile(rb"\s*<(!doctype|html)", re.IGNORECASE), "it is a page of the web: fetch the picture again"),
    (re.compile(rb"\s*<(\?xml|svg)"), "it is a drawing in SVG: convert it to PNG"),
    (re.compile(rb"version https://git-lfs"), "it is a pointer of Git LFS: run git lfs pull"),
)


class UnreadableError(SingError):
    """No picture can be made of a file; the message is the reason, without the file's name."""


def read_picture(source: str | Path | bytes) -> Image.Image:
    """A picture as a person would see it.

    First frame of an animation, turned as EXIF says, transparency over white, 16 bits and floats
    scaled to 8, CMYK and palettes converted; colour profiles are left alone.

    Args:
        source: a file, or the bytes of one.

    Returns:
        An RGB image.

    Raises:
        UnreadableError: if the file is missing, empty, cut short, no picture, or has more than
            `MAX_PIXELS` pixels.
    """
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise UnreadableError(f"the file can't be read: {error.strerror}") from None
    if not data:
        raise UnreadableError("the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which does not matter here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _decode(image)
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        kind = next((f" ({name})" for start, name in _NOT_DECODED if start.match(data)), "")
        raise UnreadableError(f"cannot identify the file as a picture of any known format{kind}") from None
    except Image.DecompressionBombError as error:
        raise UnreadableError(_too_large(int(re.findall(r"\d+", str(error))[0]))) from None
    # A decoder may stumble over a broken file in any way; but memory is this machine's trouble.
    except Exception as error:
        if isinstance(error, MemoryError | NameError | ImportError):  # or this code's
            raise
        reason = " ".join(str(error).split())[:200]
        raise UnreadableError(f"the picture is damaged ({type(error).__name__}: {reason})") from None


def _decode(image: Image.Image) -> Image.Image:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:  # where somebody turned Pillow's own limit off
        raise UnreadableError(_too_large(pixels))
    image.load()  # before the orientation: TIFF turns itself here
    rgb = _to_rgb(image)
    rgb.info = {}  # so that nothing but the orientation is looked at
    with contextlib.suppress(Exception):  # damaged metadata of a good picture
        rgb.getexif()[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
        ImageOps.exif_transpose(rgb, in_place=True)
    return rgb


def _too_large(pixels: int) -> str:
    return (
        f"{pixels} pixels are too many, expected at most {MAX_PIXELS}: a decompression bomb, or scale it down"
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scaled(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _scaled(x: np.ndarray[Any, Any]) -> Image.Image:
    """Grey values of any depth as 8 bits. Pillow would cut them off at 255, not scale them."""
    low, high = _range(x)
    y = (np.nan_to_num(x.astype(np.float32), nan=low, posinf=high, neginf=low) - low) / (high - low)
    return Image.fromarray(np.rint(255 * y.clip(0, 1)).astype(np.uint8))


def _range(x: np.ndarray[Any, Any]) -> tuple[float, float]:
    """What is black and what is white: the format's convention, else the picture's own extremes."""
    finite = x[np.isfinite(x)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    conventions = (65535.0,) if x.dtype.kind in "iu" else (1.0, 255.0, 65535.0)
    for white in conventions:
        if low >= 0 and high <= white:
            return 0.0, white
    return (low, high) if high > low else (low, low + 1.0)
