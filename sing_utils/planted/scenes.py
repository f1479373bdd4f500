"""A world whose answer is known: small drawn scenes, their factors, and words for them.

>>> world = Scenes(count=3, seed=1)
>>> scene = world[0]
>>> sorted(scene.factors) == sorted(FACTORS)
True
>>> scene.picture().size
(48, 48)
>>> phrase("background", "pink"), phrase("shape", "arrow")
('an image of an object on a pink background', 'an image of an arrow')

Every scene is an object (one of ten shapes) with seven further factors. All factors are drawn
independently and evenly, so that what one says nothing of the others; place, turn, shade and noise vary
besides. Scene i of a seed is the same whatever else is drawn.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sing_utils.errors import SingError
from sing_utils.sources.folders import PictureSource, picture_table

SIDE = 48  # pixels
_FINE = 3  # drawn this many times larger, then reduced: smooth edges

FACTORS: dict[str, tuple[str, ...]] = {
    "shape": (
        *("circle", "square", "triangle", "star", "heart"),
        *("cross", "ring", "crescent", "arrow", "drop"),
    ),
    "colour": ("red", "yellow", "green", "blue", "purple", "white"),
    "size": ("small", "large"),
    "position": ("left", "middle", "right"),
    "texture": ("solid", "spotted", "striped"),
    "background": ("black", "grey", "brown", "pink", "turquoise"),
    "pattern": ("plain", "checkered", "wavy"),
    "cloud": ("absent", "present"),
}
COLOURS = {
    "red": (214, 40, 40),
    "yellow": (250, 205, 40),
    "green": (40, 150, 60),
    "blue": (40, 80, 215),
    "purple": (135, 45, 160),
    "white": (250, 250, 250),
    "black": (20, 20, 22),
    "grey": (140, 140, 140),
    "brown": (120, 78, 42),
    "pink": (246, 165, 190),
    "turquoise": (70, 200, 195),
}
RADIUS = {"small": 7.5, "large": 12.0}  # pixels
CENTRE = {"left": 14.0, "middle": 24.0, "right": 34.0}
HEIGHT = 27.0  # of the centre, below the upper edge
# Seeds of scenes that networks were trained or heads fitted on: no evaluation may use them.
RESERVED = {42, 500, 700, *range(1000, 1005)}
MOST = 1_000_000  # scenes of a source

# The heads that the book looks at, and the share of each factor that their logits do not say; else 0.
_ALL_BUT_SHAPE = {f: 1.0 for f in FACTORS if f != "shape"}
HEADS: dict[str, dict[str, Any]] = {
    "sees-all": {"ignored": {}},
    "clean": {"ignored": _ALL_BUT_SHAPE},
    "leaky": {"ignored": _ALL_BUT_SHAPE | {"shape": 0.4}},
    "spurious": {"ignored": _ALL_BUT_SHAPE | {"background": 0.0}, "spurious": True},
}
# Bases that the features of a head can be written in, and what is measured without one.
GIVEN, BEYOND = "as laid out", "beyond the logits"
BASES = (GIVEN, "null part × 3", "null part freed", "features stretched", "features mixed")

# What may follow "an image of". Each factor's words are its own, so that no word names two factors.
_PHRASES = {
    "shape": "{a} {level}",
    "colour": "a {level} object",
    "size": "a {level} object",
    "position": "an object on the {level}",
    "texture": "a {level} object",
    "background": "an object on a {level} background",
    "pattern": "an object on a {level} background",
}
WORDINGS = (
    "an image of {}",
    "a picture of {}",
    "a photo of {}",
    "a drawing of {}",
    "a scene with {}",
    "here is {}",
    "{}",
)


def describe(factor: str, level: str) -> str:
    """What a level looks like, in words: "a red object".

    Raises:
        SingError: for an unknown factor or level.
    """
    require_level(factor, level)
    if factor == "cloud":
        return "an object under a cloud" if level == "present" else "an object without a cloud"
    if (factor, level) == ("position", "middle"):
        return "an object in the middle"
    return _PHRASES[factor].format(level=level, a=_article(level))


def phrase(factor: str, level: str, wording: str = WORDINGS[0]) -> str:
    """The prompt of a level: `describe` in one of the `WORDINGS`."""
    return wording.format(describe(factor, level))


def require_level(factor: str, level: str) -> None:
    """Raise a SingError unless `level` is one of `factor`'s."""
    if factor not in FACTORS:
        raise SingError(f"unknown factor {factor!r}, expected one of {', '.join(FACTORS)}.")
    if level not in FACTORS[factor]:
        raise SingError(f"unknown {factor} {level!r}, expected one of {', '.join(FACTORS[factor])}.")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def caption(factors: Mapping[str, str], wording: str = WORDINGS[0]) -> str:
    """A caption that mentions the given factors, in one sentence.

    >>> caption({"shape": "star", "colour": "red", "background": "pink", "cloud": "present"})
    'an image of a red star on a pink background under a cloud'
    """
    before = [factors[f] for f in ("size", "texture", "colour") if f in factors]
    noun = " ".join([*before, factors.get("shape", "object")])
    parts = [f"{_article(noun)} {noun}"]
    if "position" in factors:
        place = factors["position"]
        parts.append("in the middle" if place == "middle" else f"on the {place}")
    ground = [factors[f] for f in ("pattern", "background") if f in factors]
    if ground:
        parts.append(f"on a {' '.join(ground)} background")
    if "cloud" in factors:
        parts.append("under a cloud" if factors["cloud"] == "present" else "without a cloud")
    return wording.format(" ".join(parts))


# ----------------------------------------------------------------------------------- drawing


@dataclass(frozen=True)
class Look:
    """How a scene is drawn: lengths in pixels, colours 0..255, strengths between 0 and 1.

    Attributes:
        shape: one of the ten.
        colour: of the object.
        radius: of the object.
        centre: (x, y) of the object.
        turn: of the object, degrees.
        spots: strength of the texture "spotted".
        stripes: strength of "striped".
        ground: colour of the background.
        checks: strength of the pattern "checkered".
        waves: strength of "wavy".
        cloud: strength of the cloud.
        phase: (x, y), where patterns begin.
        noise: seed of the pixel noise; None: none.
    """

    shape: str
    colour: tuple[float, float, float]
    radius: float
    centre: tuple[float, float]
    turn: float
    spots: float
    stripes: float
    ground: tuple[float, float, float]
    checks: float
    waves: float
    cloud: float
    phase: tuple[float, float] = (0.0, 0.0)
    noise: int | None = None


def draw(look: Look) -> Image.Image:
    """Draw one scene, (48, 48), RGB."""
    side = SIDE * _FINE
    picture = Image.new("RGB", (side, side), _rgb(look.ground))
    for kind, strength in (("checks", look.checks), ("waves", look.waves)):
        if strength > 0:
            picture.paste(_rgb(_shade(look.ground, 0.45)), mask=_pattern(kind, look.phase, strength))
    if look.cloud > 0:
        picture.paste((255, 255, 255), mask=_cloud(look.phase, look.cloud))
    mask = _outline(look)
    body = Image.new("RGB", (side, side), _rgb(look.colour))
    for kind, strength in (("spots", look.spots), ("stripes", look.stripes)):
        if strength > 0:
            body.paste(_rgb(_shade(look.colour, 0.75)), mask=_pattern(kind, look.phase, strength))
    picture.paste(body, mask=mask)
    picture = picture.reduce(_FINE)
    if look.noise is None:
        return picture
    rng = np.random.default_rng(look.noise)
    pixels = np.asarray(picture, dtype=np.int16) + rng.integers(-6, 7, (SIDE, SIDE, 3), dtype=np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _rgb(colour: tuple[float, float, float]) -> tuple[int, int, int]:
    r, g, b = (round(min(255.0, max(0.0, x))) for x in colour)
    return r, g, b


def _shade(colour: tuple[float, float, float], amount: float) -> tuple[float, float, float]:
    """Darker; a dark colour becomes lighter, so that a pattern shows on any."""
    end = 0.0 if sum(colour) > 240 else 255.0
    r, g, b = (x + amount * (end - x) for x in colour)
    return r, g, b


def _tile(kind: str) -> Image.Image:
    """A large mask of a pattern, of which a scene takes a window."""
    side = 2 * SIDE * _FINE
    y, x = np.mgrid[:side, :side] / _FINE
    on = {
        "checks": ((x // 6 + y // 6) % 2 == 0),
        "waves": np.sin(2 * math.pi * (y + 2 * np.sin(2 * math.pi * x / 12)) / 8) > 0.3,
        "stripes": (x + y) % 5 < 2,
        "spots": np.hypot(x % 5 - 2.5, y % 5 - 2.5) < 1.5,
    }[kind]
    return Image.fromarray((255 * on).astype(np.uint8))


_TILES = {kind: _tile(kind) for kind in ("checks", "waves", "stripes", "spots")}


def _pattern(kind: str, phase: tuple[float, float], strength: float) -> Image.Image:
    x, y = (round(p * _FINE) % (12 * _FINE) for p in phase)
    window = _TILES[kind].crop((x, y, x + SIDE * _FINE, y + SIDE * _FINE))
    return window if strength >= 1 else window.point(lambda v: round(v * strength))


def _cloud(phase: tuple[float, float], strength: float) -> Image.Image:
    mask = Image.new("L", (SIDE * _FINE,) * 2)
    pen = ImageDraw.Draw(mask)
    x0 = 8 + phase[0] % 12 * 1.6
    for dx, dy, r in ((0, 5.5, 2.8), (4.5, 4.5, 3.6), (9, 5.5, 2.8)):
        box = ((x0 + dx - r), (dy - r), (x0 + dx + r), (dy + r))
        pen.ellipse([v * _FINE for v in box], fill=round(255 * min(1.0, strength)))
    return mask


# ------------------------------------------------------------------------------- the ten shapes


def _polar(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """(angle in degrees, radius) -> (x, y), the first upward."""
    return [(r * math.sin(math.radians(a)), -r * math.cos(math.radians(a))) for a, r in corners]


_HEART = [
    (
        math.sin(t) ** 3,
        -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
    )
    for t in np.linspace(0, 2 * math.pi, 48, endpoint=False).tolist()
]
_DROP = [(0.0, -1.15), *_polar([(a, 0.75) for a in range(60, 301, 12)])]
_DROP = [(x, y + (0.25 if i else 0.0)) for i, (x, y) in enumerate(_DROP)]
_ARM = 0.36
_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": _polar([(45 + 90 * k, 1.12) for k in range(4)]),
    "triangle": _polar([(120 * k, 1.15) for k in range(3)]),
    "star": _polar([(36 * k, 0.48 if k % 2 else 1.2) for k in range(10)]),
    "heart": _HEART,
    "cross": [
        *((-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM)),
        *((_ARM, 1.0), (-_ARM, 1.0), (-_ARM, _ARM), (-1.0, _ARM), (-1.0, -_ARM), (-_ARM, -_ARM)),
    ],
    "arrow": [
        *((0, -1.15), (0.95, 0.05), (0.38, 0.05), (0.38, 1.05)),
        *((-0.38, 1.05), (-0.38, 0.05), (-0.95, 0.05)),
    ],
    "drop": _DROP,
}  # fmt: skip


def _outline(look: Look) -> Image.Image:
    """The object's mask."""
    mask = Image.new("L", (SIDE * _FINE,) * 2)
    pen = ImageDraw.Draw(mask)
    r, (cx, cy) = look.radius * _FINE, (c * _FINE for c in look.centre)
    if look.shape in _POLYGONS:
        c, s = math.cos(math.radians(look.turn)), math.sin(math.radians(look.turn))
        pen.polygon([(cx + r * (c * x - s * y), cy + r * (s * x + c * y)) for x, y in _POLYGONS[look.shape]],
                    fill=255)  # fmt: skip
        return mask
    pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
    if look.shape == "ring":
        pen.ellipse((cx - 0.52 * r, cy - 0.52 * r, cx + 0.52 * r, cy + 0.52 * r), fill=0)
    elif look.shape == "crescent":
        a = math.radians(look.turn)
        x, y = cx + 0.5 * r * math.cos(a), cy + 0.5 * r * math.sin(a)
        pen.ellipse((x - 0.82 * r, y - 0.82 * r, x + 0.82 * r, y + 0.82 * r), fill=0)
    return mask


# --------------------------------------------------------------------------------------- scenes


@dataclass(frozen=True)
class Scene:
    """One scene: its factors, and the seed of all that varies besides."""

    factors: Mapping[str, str]
    seed: int

    def look(self) -> Look:
        """The factors with place, turn, shade and noise of the scene's own."""
        f, rng = self.factors, np.random.default_rng(self.seed)
        shift, shade = rng.uniform(-1.5, 1.5, 2), rng.normal(0, 8, (2, 3))
        colour, ground = (
            np.add(COLOURS[f[k]], d) for k, d in zip(("colour", "background"), shade, strict=True)
        )
        turn, stretch = rng.uniform(-18, 18), rng.uniform(0.92, 1.08)
        return Look(
            shape=f["shape"],
            colour=tuple(colour),
            radius=RADIUS[f["size"]] * stretch,
            centre=(CENTRE[f["position"]] + shift[0], HEIGHT + shift[1]),
            turn=turn,
            spots=float(f["texture"] == "spotted"),
            stripes=float(f["texture"] == "striped"),
            ground=tuple(ground),
            checks=float(f["pattern"] == "checkered"),
            waves=float(f["pattern"] == "wavy"),
            cloud=float(f["cloud"] == "present"),
            phase=tuple(rng.uniform(0, 12, 2)),
            noise=self.seed,
        )

    def picture(self) -> Image.Image:
        """The scene drawn, (48, 48), RGB."""
        return draw(self.look())

    def changed(self, factor: str, level: str) -> Scene:
        """The same scene, everything that varies besides included, with one factor changed.

        >>> scene = Scenes(count=1)[0]
        >>> scene.changed("colour", "red").factors["colour"]
        'red'
        """
        require_level(factor, level)
        return replace(self, factors={**self.factors, factor: level})

    @property
    def caption(self) -> str:
        """A caption that mentions every factor."""
        return caption(self.factors)


@dataclass(frozen=True)
class Scenes:
    """`count` scenes of a seed. Scene i does not depend on `count`.

    Attributes:
        count: N.
        seed: of the world.
        levels: (N, factors), the number of each factor's level in `FACTORS`.
    """

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise SingError(f"count is {self.count}, expected at least 1 scene.")

    @cached_property
    def levels(self) -> np.ndarray:
        """(N, factors), int; factors in the order of `FACTORS`."""
        draws = np.random.default_rng([self.seed, 0]).random((self.count, len(FACTORS)))
        return np.floor(draws * [len(v) for v in FACTORS.values()]).astype(int)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Scene:
        if not 0 <= i < self.count:
            raise IndexError(i)
        names = {f: FACTORS[f][k] for f, k in zip(FACTORS, self.levels[i], strict=True)}
        return Scene(names, seed=(self.seed * 1_000_003 + i) % 2**32)

    def __iter__(self) -> Iterator[Scene]:
        return (self[i] for i in range(self.count))

    def pictures(self) -> np.ndarray:
        """All scenes drawn: (N, 48, 48, 3), uint8."""
        return np.stack([np.asarray(scene.picture()) for scene in self])


# ---------------------------------------------------------------------- as a source of pictures


@dataclass(frozen=True, eq=False)
class SceneSource(PictureSource):
    """Scenes as `sing_utils.sources` gives pictures: label is the shape, a fifth is for evaluation."""

    scenes: Scenes
    rows: tuple[int, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The module itself: the pictures are drawn, and it decides how."""
        return (Path(__file__),)

    def read(self, i: int) -> bytes:
        """Scene i as a PNG file's bytes."""
        data = io.BytesIO()
        self.scenes[self.rows[i]].picture().save(data, "PNG")
        return data.getvalue()

    def _take(self, rows: np.ndarray) -> SceneSource:
        return replace(super()._take(rows), rows=tuple(np.take(self.rows, rows).tolist()))


def open_scenes(spec: str) -> SceneSource:
    """The source planted:COUNT or planted:COUNT@SEED.

    >>> source = open_scenes("planted:50@7")
    >>> len(source), source.index["split"].value_counts().to_dict()
    (50, {'fit': 40, 'evaluate': 10})
    """
    match = re.fullmatch(r"planted:(\d+)(?:@(\d+))?", spec)
    if match is None or int(match[1]) < 1:
        raise SingError(f"{spec!r} names no scenes, expected planted:COUNT or planted:COUNT@SEED.")
    if int(match[1]) > MOST:
        raise SingError(f"{spec!r} names too many scenes, expected at most {MOST:,}.")
    if int(match[2] or 0) in RESERVED:
        raise SingError(
            f"{spec!r}: with the seed {match[2]} networks of the planted world were trained, expected "
            f"any but {', '.join(map(str, sorted(RESERVED)))}."
        )
    scenes = Scenes(int(match[1]), int(match[2] or 0))
    shapes = np.take(FACTORS["shape"], scenes.levels[:, 0])
    splits = ("evaluate" if i % 5 == 4 else "fit" for i in range(len(scenes)))
    rows = (
        (f"{s}/{k}/{i:06d}.png", k, s) for i, (k, s) in enumerate(zip(shapes.tolist(), splits, strict=True))
    )
    return SceneSource(spec, picture_table(rows), scenes, tuple(range(len(scenes))))


def words() -> list[str]:
    """Every word that prompts and captions of this world use, sorted."""
    texts = [describe(f, v) for f, levels in FACTORS.items() for v in levels]
    texts += [w.format("") for w in WORDINGS] + ["an object on in the a", "something thing"]
    return sorted({word for text in texts for word in text.split()})
