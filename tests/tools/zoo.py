"""Every kind of picture file that a folder may hold, with what a person would see in it."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
CORNERS = (RED, GREEN, BLUE, YELLOW)  # top left, top right, bottom left, bottom right
WIDTH, HEIGHT = 48, 32


@dataclass(frozen=True)
class Animal:
    """One file; `corners` as a person sees them, or why it can't be seen (a pattern)."""

    name: str
    data: bytes
    corners: tuple = ()
    reason: str = ""
    tolerance: int = 1
    size: tuple[int, int] = (WIDTH, HEIGHT)


def quarters(corners=CORNERS, *, dtype=np.uint8):
    """Four fields of a colour (or of a grey value) each, (HEIGHT, WIDTH[, channels])."""
    a, b, c, d = (np.asarray(x, dtype) for x in corners)
    tile = lambda x: np.broadcast_to(x, (HEIGHT // 2, WIDTH // 2, *x.shape))  # noqa: E731
    return np.concatenate([np.concatenate([tile(a), tile(b)], 1), np.concatenate([tile(c), tile(d)], 1)])


def saved(image, kind, **options):
    """The bytes of an image as a file."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def png(width, height, depth, colour, rows, chunks=()):
    """A PNG by hand, for kinds that Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*c) for c in chunks) + body + chunk(b"IEND", b"")


def as_stored(upright, orientation):
    """How a camera stores a picture whose EXIF says `orientation`: where row 0 and column 0 lie."""
    swap = lambda x: np.swapaxes(x, 0, 1)  # noqa: E731
    return np.ascontiguousarray(
        {
            1: upright,  # row 0 at the top, column 0 on the left
            2: upright[:, ::-1],  # top, right
            3: upright[::-1, ::-1],  # bottom, right
            4: upright[::-1],  # bottom, left
            5: swap(upright),  # left, top
            6: swap(upright[:, ::-1]),  # right, top
            7: swap(upright[::-1, ::-1]),  # right, bottom
            8: swap(upright[::-1]),  # left, bottom
        }[orientation]
    )


def rotated():
    """EXIF orientations 1 to 8 in four formats."""
    for kind, suffix, options in (
        ("jpeg", "jpg", {"quality": 95, "subsampling": 0}),
        ("png", "png", {}),
        ("tiff", "tif", {}),
        ("webp", "webp", {"lossless": True}),
    ):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            data = saved(as_stored(quarters(), orientation), kind, exif=exif, **options)
            yield Animal(f"exif-{orientation}.{suffix}", data, CORNERS, tolerance=6)


def plain():
    """The same picture in every usual format."""
    image = Image.fromarray(quarters())
    yield Animal("rgb.jpg", saved(image, "jpeg", quality=95), CORNERS, tolerance=6)
    yield Animal("progressive.JPEG", saved(image, "jpeg", quality=95, progressive=True), CORNERS, tolerance=6)
    for kind, suffix in (("png", "png"), ("bmp", "bmp"), ("tiff", "tiff"), ("ppm", "ppm"), ("gif", "gif")):
        yield Animal(f"rgb.{suffix}", saved(image, kind), CORNERS)
    yield Animal("rgb.webp", saved(image, "webp", lossless=True), CORNERS)
    yield Animal("rgb.avif", saved(image, "avif", quality=95), CORNERS, tolerance=16)
    yield Animal("really-a-png.jpg", saved(image, "png"), CORNERS)
    yield Animal("trailing.jpg", saved(image, "jpeg", quality=95) + b"\0" * 999, CORNERS, tolerance=6)
    broken = saved(image, "jpeg", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    yield Animal("broken-exif.jpg", broken, CORNERS, tolerance=6)


def deep():
    """16 and 32 bits a value, and floats."""
    grey = tuple((v, v, v) for v in (0, 64, 128, 255))
    sixteen = quarters((0, 64 * 257, 128 * 257, 65535), dtype=np.uint16)
    yield Animal("grey16.png", saved(sixteen, "png"), grey)
    yield Animal("grey16.tif", saved(sixteen, "tiff"), grey)
    yield Animal("grey16-big-endian.tif", saved(sixteen.astype(">u2"), "tiff"), grey)
    pgm = b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + sixteen.astype(">u2").tobytes()
    yield Animal("grey16.pgm", pgm, grey)
    rgb = quarters(CORNERS).astype(">u2") * 257
    lines = b"".join(b"\0" + line.tobytes() for line in rgb)
    yield Animal("rgb16.png", png(WIDTH, HEIGHT, 16, 2, lines), CORNERS)
    for name, white in (("unit", 1.0), ("byte", 255.0), ("word", 65535.0)):
        x = quarters((0, 64 / 255 * white, 128 / 255 * white, white), dtype=np.float32)
        yield Animal(f"float-{name}.tif", saved(x, "tiff"), grey)
    x = quarters((-5.0, -5.0 + 10 * 64 / 255, -5.0 + 10 * 128 / 255, 5.0), dtype=np.float32)
    x[HEIGHT // 2, WIDTH // 2] = np.nan
    yield Animal("float-signed.tif", saved(x, "tiff"), grey)
    yield Animal("int32.tif", saved(quarters((0, 64 * 257, 128 * 257, 65535), dtype=np.int32), "tiff"), grey)


def colours():
    """Other colour models, palettes and transparency."""
    ink = quarters(((0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 255, 0)))
    cmyk = Image.fromarray(ink, "CMYK")
    yield Animal("cmyk-adobe-inverted.jpg", saved(cmyk, "jpeg", quality=95), CORNERS, tolerance=8)
    yield Animal("cmyk.tif", saved(cmyk, "tiff"), CORNERS)
    grey = quarters((0, 100, 200, 255))
    seen = tuple((v, v, v) for v in (0, 100, 200, 255))
    yield Animal("grey.png", saved(grey, "png"), seen)
    yield Animal("grey.jpg", saved(grey, "jpeg", quality=95), seen, tolerance=3)
    yield Animal(
        "bits.png", saved(Image.fromarray(grey).convert("1", dither=0), "png"), (BLACK, BLACK, WHITE, WHITE)
    )
    palette = Image.fromarray(quarters()).quantize(4)
    yield Animal("palette.png", saved(palette, "png"), CORNERS)
    clear = palette.getpixel((0, 0))  # red becomes transparent: white
    over = (WHITE, GREEN, BLUE, YELLOW)
    yield Animal("palette-clear.png", saved(palette, "png", transparency=clear), over)
    yield Animal("palette-clear.gif", saved(palette, "gif", transparency=clear), over)
    yield Animal("rgb-clear.png", saved(Image.fromarray(quarters()), "png", transparency=RED), over)
    alpha = np.concatenate([quarters(), quarters((255, 128, 0, 255))[..., None]], 2)
    half = (RED, (127, 255, 127), WHITE, YELLOW)
    yield Animal("rgba.png", saved(alpha, "png"), half)
    yield Animal("rgba.webp", saved(alpha, "webp", lossless=True, exact=True), half)
    la = Image.merge("LA", (Image.new("L", (WIDTH, HEIGHT)), Image.fromarray(quarters((255, 128, 0, 255)))))
    yield Animal("grey-alpha.png", saved(la, "png"), (BLACK, (127, 127, 127), WHITE, BLACK))


def moving():
    """Animations: the first frame counts."""
    frames = [Image.fromarray(quarters()), Image.new("RGB", (WIDTH, HEIGHT), "black")]
    more = {"save_all": True, "append_images": frames[1:], "duration": 100}
    yield Animal("moving.gif", saved(frames[0], "gif", **more), CORNERS)
    yield Animal("moving.png", saved(frames[0], "png", **more), CORNERS)
    yield Animal("moving.webp", saved(frames[0], "webp", lossless=True, **more), CORNERS)
    yield Animal("pages.tif", saved(frames[0], "tiff", save_all=True, append_images=frames[1:]), CORNERS)


def dangerous():
    """What can't be seen, and why."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    yield Animal("empty.jpg", b"", reason=r"the file is empty \(0 bytes\)")
    yield Animal("zeros.png", bytes(1000), reason="cannot identify the file as a picture")
    yield Animal("text.jpg", b"<html>404</html>", reason="cannot identify the file as a picture")
    for kind, suffix in (("jpeg", "jpg"), ("png", "png"), ("tiff", "tif"), ("webp", "webp"), ("bmp", "bmp")):
        data = saved(noise, kind)
        yield Animal(
            f"cut.{suffix}", data[: len(data) * 6 // 10], reason="the picture is damaged|cannot identify"
        )
    yield Animal("bomb.png", png(60_000, 60_000, 8, 2, b"\0" * 1000), reason="too many, expected at most")
    yield Animal(
        "large.png", png(16_000, 12_000, 1, 0, b"\0" * 1000), reason=r"192000000 pixels are too many"
    )
    text = (b"zTXt", b"x\0\0" + zlib.compress(bytes(100_000_000)))
    yield Animal("text-bomb.png", png(8, 8, 8, 0, bytes(72), [text]), reason="damaged|too")


def zoo():
    """All of them."""
    return [a for part in (plain, rotated, deep, colours, moving, dangerous) for a in part()]


def corners_of(image):
    """The four colours of a picture, a quarter of the way in from each corner."""
    w, h = image.size
    return tuple(image.getpixel((x, y)) for y in (h // 8, h - 1 - h // 8) for x in (w // 8, w - 1 - w // 8))
