"""Rows of pictures for a page: each with a caption and words for those who can't see it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from IPython.display import HTML
from PIL import Image


@dataclass(frozen=True)
class Shown:
    """One picture of a row: caption below it, alternative text instead of it.

    `exact`: pixel by pixel, without loss.
    """

    image: Image.Image
    caption: str
    alt: str
    exact: bool = False


def image_source(image: Image.Image, *, quality: int = 88, exact: bool = False) -> str:
    """A picture as a data URI that a page can hold; `exact`: without loss."""
    data, kind = io.BytesIO(), "png" if exact else "jpeg"
    image.convert("RGB").save(data, kind, quality=quality)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


def gallery(rows: Sequence[tuple[str, Sequence[Shown]]]) -> HTML:
    """Named rows of pictures; a row wider than the page goes on below."""
    return HTML(f'<div class="sing-gallery">{"".join(_row(name, shown) for name, shown in rows)}</div>')


def side_by_side(photos: Mapping[str, Image.Image], *, height: int = 192) -> HTML:
    """Photographs by name in one row, in pixels of that height at most."""
    shown = []
    for name, photo in photos.items():
        small = photo.copy()
        small.thumbnail((4 * height, height))
        words = name.rpartition("/")[2].partition(".")[0]
        shown.append(Shown(small, words, f"photo: {words}"))
    return gallery([("Photographs", shown)])


def strip(images: Sequence[Image.Image], *, gap: int = 4) -> Image.Image:
    """Pictures side by side in one, white between them, all as high as the first."""
    height = images[0].height
    scaled = [i.resize((round(i.width * height / i.height), height)) for i in images]
    width = sum(i.width for i in scaled) + gap * (len(scaled) - 1)
    out, x = Image.new("RGB", (width, height), "white"), 0
    for image in scaled:
        out.paste(image, (x, 0))
        x += image.width + gap
    return out


def _row(name: str, shown: Sequence[Shown]) -> str:
    figures = "".join(_figure(s) for s in shown)
    label = html.escape(name, quote=True)
    return (
        f'<div class="sing-row" role="group" aria-label="{label}"><p class="sing-row-name">{label}</p>'
        f'<div class="sing-row-pictures">{figures}</div></div>'
    )


def _figure(shown: Shown) -> str:
    alt, caption = html.escape(shown.alt, quote=True), html.escape(shown.caption)
    size = f' style="width: max({shown.image.width}px, 8.75rem)"' if shown.exact else ""
    return (
        f'<figure{size}><img alt="{alt}" src="{image_source(shown.image, exact=shown.exact)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
