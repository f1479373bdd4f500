"""Tidy tables of notebook 08: pictures that were searched for, as translator, judge and others see them.

One row a photograph, wanted feature, budget and witness; angles in degrees. A witness compares the found
picture with its photograph, both in 8 bits at the searched classifier's resolution.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from sing_utils.checkout import project_root
from sing_utils.evidence.intervals import student_margin
from sing_utils.measure.pictures import Rows, choose_pairs, photo_scores
from sing_utils.method.scores import attribute_score, image_score
from sing_utils.method.steering import (
    largest_image_score,
    null_direction,
    random_null_direction,
    step_for_image_score,
    text_gradient,
)
from sing_utils.pictures.pixels import WEIGHT, Budget, Screen, as_image, as_pixels, difference, shuffled
from sing_utils.runs.run import Run
from sing_utils.show.gallery import Shown

STEP, NOISE, RANDOM, WHOLE, REMOVAL = (
    *("null step", "noise of that size", "random null step"),
    *("whole gradient, logits free", "null removal"),
)
ASKED = (STEP, RANDOM, WHOLE, REMOVAL)
TRANSLATOR, JUDGE = "translator", "judge"
# Other budgets, and a principal part that weighs less or more.
VARIED: tuple[dict[str, Any], ...] = (
    *({"budget": Budget("L∞", 4)}, {"budget": Budget("L∞", 16)}, {"budget": Budget("L2", 3)}),
    *({"weight": 1.0}, {"weight": 100.0}),
)
SHOWN = (STEP, RANDOM, WHOLE)  # whose pictures are kept
STORED = Path("data", "embedded", "pixels")
# What stored results hold for.
_SETTINGS = ("encoder", "features", "classes", "prompt_template", "degrees", "held_out", "seed")
_BATCH = 8


@dataclass(frozen=True, eq=False)
class Photographs:
    """Photographs as one classifier sees them.

    Attributes:
        names: paths, or names of pictures in scikit-image; B of them.
        own: what each shows, in words: its class, or where none is known the classifier's top class.
        pixels: (B, 3, H, W), uint8.
        features: (B, m).
    """

    names: list[str]
    own: list[str]
    pixels: Tensor
    features: Tensor

    @classmethod
    def of(
        cls, run: Run, name: str, images: Mapping[str, Image.Image], own: Sequence[str] | None = None
    ) -> Photographs:
        """Pictures by name, and their classes if they are known."""
        classifier = run.classifier(name)
        screen = Screen.of(classifier)
        pixels = torch.stack([screen.pixels(classifier, image) for image in images.values()])
        f, logits = _network(run, name, pixels)
        top = [run.head(name).label(i) for i in logits.argmax(1).tolist()]
        return cls(list(images), list(own or top), pixels, f)

    def first(self, count: int) -> Photographs:
        """The first of them."""
        return Photographs(self.names[:count], self.own[:count], self.pixels[:count], self.features[:count])


@dataclass(frozen=True, eq=False)
class Searched:
    """What notebook 08 shows.

    Attributes:
        table: of `searches`, with a column `group`.
        photographs: those of `pictures`.
        pictures: name of what was wanted -> the found pictures, (B, 3, H, W), uint8.
        note: where they come from, in a sentence.
    """

    table: pd.DataFrame
    photographs: Photographs
    pictures: dict[str, Tensor]
    note: str


def open_searched(run: Run) -> Searched:
    """The stored searches if they are of this run's settings; else pictures are searched for now."""
    return _searched_anew(run) if run.profile.search_anew or not _applies(run) else _stored(run)


# ------------------------------------------------------------------------------ searching


def wanted_features(run: Run, name: str, photos: Photographs) -> dict[str, tuple[Tensor, Tensor]]:
    """What is wanted -> the features, (B, m), and the texts that AS is toward, (B, n).

    Steps have the same IS, in each photograph's case: the run's, or a degree less than all of them reach.
    """
    f, T, spaces = photos.features.double(), run.translator(name), run.spaces(name)
    text = run.texts(name, [run.prompt(run.targets[0])])[0].double()
    ways = {
        STEP: null_direction(f, text, T, spaces),
        RANDOM: random_null_direction(len(f), spaces, seed=run.seed),
        WHOLE: normalize(text_gradient(f, text, T), dim=-1),
    }
    reach = torch.stack([largest_image_score(f, d, T) for d in ways.values()]).amin(0)
    degrees = (reach - 1).clamp(0.1, run.degrees)
    steps = {way: f + step_for_image_score(f, d, T, degrees=degrees)[:, None] * d for way, d in ways.items()}
    own = run.texts(name, [run.prompt(words) for words in photos.own]).double()
    return {way: (x, text.expand(len(f), -1)) for way, x in steps.items()} | {
        REMOVAL: (spaces.remove_null(f), own)  # eq. 9
    }


def searches(
    run: Run,
    name: str,
    photos: Photographs,
    *,
    steps: int,
    asked: Sequence[str] = ASKED,
    budget: Budget | None = None,
    weight: float = WEIGHT,
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Search for what is asked, and let all witnesses look; noise of the null step's size comes with it.

    Returns:
        The table: classifier, photo, own, wanted, budget, steps, weight, seen by, IS and AS (degrees, of the
        found picture beside its photograph) and top-1 kept; for the translator also the wanted IS and AS,
        logits moved (the largest movement, as a share of the largest logit), step made (share of the wanted
        step in its direction), principal moved (share of the principal part's length), largest and rms (of
        255). And the pictures, (B, 3, H, W) each.
    """
    budget, goals = budget or Budget(), wanted_features(run, name, photos)
    before, frames, pictures = _witnesses(run, name, photos.pixels), [], {}
    for way in asked:
        goal, texts = goals[way]
        by = 1.0 if way == WHOLE else weight  # the whole feature alike, or above all the principal part
        found = run.search(name, photos.pixels, goal, budget=budget, steps=steps, weight=by)
        pictures[way] = found.pixels
        if way == STEP:
            pairs = zip(found.pixels, photos.pixels, strict=True)
            pictures[NOISE] = torch.stack([shuffled(x, x0, seed=run.seed) for x, x0 in pairs])
    for way, pixels in pictures.items():
        goal, texts = goals[STEP if way == NOISE else way]
        after = _witnesses(run, name, pixels)
        rows: dict[str, Any] = {"classifier": name, "photo": photos.names, "own": photos.own}
        rows |= {"wanted": way, "budget": str(budget), "steps": steps, "weight": weight}
        for witness, (z, logits) in after.items():
            z_0, logits_0 = before[witness]
            seen = {"seen by": witness, "IS": image_score(z_0, z), "AS": attribute_score(z_0, z, texts)}
            if logits is not None and logits_0 is not None:
                seen["top-1 kept"] = logits.argmax(1) == logits_0.argmax(1)
            if witness == TRANSLATOR:
                seen |= _way(run, name, photos, pixels, None if way == NOISE else goal, texts)
            frames.append(pd.DataFrame(rows | seen))
    return pd.concat(frames, ignore_index=True).astype({"top-1 kept": "boolean"}), pictures


def _way(
    run: Run, name: str, photos: Photographs, pixels: Tensor, goal: Tensor | None, texts: Tensor
) -> dict[str, Any]:
    """How far a search came: columns of `searches`."""
    f, T, spaces = photos.features.double(), run.translator(name), run.spaces(name)
    made, logits = _network(run, name, pixels)
    moved, logits_0 = made.double() - f, run.head(name).logits(photos.features)
    parts = (spaces.remove_null(x).norm(dim=1) for x in (moved, f))
    change = pixels.double() - photos.pixels.double()
    told = {
        "logits moved": (logits - logits_0).abs().amax(1) / logits_0.abs().amax(1),
        "principal moved": next(parts) / next(parts),
        "largest": change.abs().amax((1, 2, 3)),
        "rms": change.square().mean((1, 2, 3)).sqrt(),
    }
    if goal is None:
        return told
    step = goal - f
    return told | {
        "wanted IS": image_score(T(f), T(goal)),
        "wanted AS": attribute_score(T(f), T(goal), texts),
        "step made": (moved * step).sum(1) / step.square().sum(1),
    }


def _witnesses(run: Run, name: str, pixels: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Witness -> what it sees in pictures, (B, n), and its logits, (B, c), if it has some.

    The searched classifier's translator and its judge; then every other classifier of the run with its own
    translator. All but the first see the picture as any file, through their own transforms.
    """
    f, logits = _network(run, name, pixels)
    images = [as_image(x) for x in pixels]
    seen: dict[str, tuple[Tensor, Tensor | None]] = {
        TRANSLATOR: (run.translator(name)(f).double(), logits),
        JUDGE: (run.judge(name).encode_images(images).double(), None),
    }
    for other in run.classifiers:
        if other != name:
            classifier = run.classifier(other)
            screen = Screen.of(classifier)
            f, logits = _network(run, other, torch.stack([screen.pixels(classifier, i) for i in images]))
            seen[other] = run.translator(other)(f).double(), logits
    return seen


def _network(run: Run, name: str, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits of pixels as a classifier sees them: (B, m), (B, c), on the CPU."""
    classifier = run.classifier(name)
    screen = Screen.of(classifier)
    outs = [classifier(screen.input(x.float())) for x in pixels.split(_BATCH)]
    return torch.cat([o.features.cpu() for o in outs]), torch.cat([o.logits.cpu() for o in outs])


# ------------------------------------------------------------- what a run has, and what is stored


def _searched_anew(run: Run) -> Searched:
    """A few photographs, a few steps: as many as the profile says."""
    name, p = run.classifiers[0], run.profile
    if p.pictures is None:
        images, own = {photo: run.photo(photo) for photo in p.photos or ["chelsea"]}, None
    else:
        index = run.photos(name).index.sort_values("path", kind="stable")
        index = index[index["class"] != run.targets[0]].drop_duplicates("class")[: p.search_photos]
        images = {path: image for path in index["path"] if (image := run.original(path)) is not None}
        own = index["class"].tolist()
    photos = Photographs.of(run, name, images, own).first(p.search_photos)
    table, pictures = searches(run, name, photos, steps=p.search_steps)
    frames = [table.assign(group="photos")]
    for other in VARIED:
        varied, _ = searches(run, name, photos, asked=[STEP], **{"steps": p.search_steps} | other)
        frames.append(varied.assign(group="varied"))
    if p.pictures is not None:
        for kind, pair in choose_pairs(photo_scores(run, name), count=1).groupby("kind"):
            images = {path: image for path in pair["path"] if (image := run.original(path)) is not None}
            chosen = Photographs.of(run, name, images, pair["class"].tolist())
            frames.append(
                searches(run, name, chosen, steps=p.search_steps, asked=[REMOVAL])[0].assign(group=kind)
            )
    count = f"{len(photos.names)} photograph{'s' if len(photos.names) > 1 else ''}"
    why = "" if p.search_anew else ", as no stored search fits its settings"
    note = f"The pictures were searched for in this run, near {count} and in {p.search_steps} steps{why}."
    return Searched(pd.concat(frames, ignore_index=True), photos, pictures, note)


def settings(run: Run) -> dict[str, Any]:
    """What stored searches depend on."""
    values = run.profile.model_dump(mode="json")
    return {key: values[key] for key in _SETTINGS} | {
        "classifier": run.profile.source_of(run.classifiers[0]),
        "target": run.targets[0],
    }


def picture_file(photo: str, wanted: str) -> str:
    """Name of a stored picture: `chelsea-null-step.png`."""
    return f"{photo}-{'-'.join(wanted.replace(',', '').split())}.png"


def _applies(run: Run) -> bool:
    file = project_root(or_ours=True) / STORED / "settings.json"
    return (
        file.is_file() and not run.profile.rehearse and json.loads(file.read_text("utf-8")) == settings(run)
    )


def _stored(run: Run) -> Searched:
    folder, name = project_root(or_ours=True) / STORED, run.classifiers[0]
    table = pd.read_parquet(folder / "searches.parquet")
    kept = [p for p in run.profile.photos if (folder / picture_file(p, STEP)).is_file()] or ["chelsea"]
    photos = Photographs.of(run, name, {photo: run.photo(photo) for photo in kept})
    pictures = {
        way: torch.stack([as_pixels(Image.open(folder / picture_file(photo, way))) for photo in kept])
        for way in SHOWN
    }
    known = table["seen by"].isin([TRANSLATOR, JUDGE, *run.classifiers])
    table = table[known & table["classifier"].isin(run.classifiers)]
    count = main_part(run, table)["photo"].nunique()
    return Searched(table, photos, pictures, f"Stored searches are shown, near {count} photographs.")


# ------------------------------------------------------------------------------ summaries


def summary(run: Run, table: pd.DataFrame, by: Sequence[str] = ("wanted",)) -> pd.DataFrame:
    """Means over photographs, with Student's t intervals: they may be few. A row for `by`, witness and score.

    `by`, seen by, score ("IS" or "AS"), value, low, high (degrees), photos.
    """
    keys = [*by, "seen by", "score"]
    long = table.melt([*by, "seen by"], ["IS", "AS"], var_name="score")
    found = long.groupby(keys, sort=False)["value"].agg(["mean", "std", "size"]).reset_index()
    margin = student_margin(found["std"], found["size"], level=run.profile.confidence)
    ends = {"value": found["mean"], "low": found["mean"] - margin, "high": found["mean"] + margin}
    return found[keys].assign(**ends, photos=found["size"])


def gap(run: Run, table: pd.DataFrame) -> dict[str, float]:
    """The translator's AS of the null step less the judge's, by photograph: value, low, high (degrees)."""
    steps = table[table["wanted"] == STEP].pivot(index="photo", columns="seen by", values="AS")
    more = steps[TRANSLATOR] - steps[JUDGE]
    row = summary(run, pd.DataFrame({"seen by": "", "IS": more, "AS": more}), []).iloc[0]
    return row[["value", "low", "high"]].to_dict()


def main_part(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """The searches of the run's first classifier from the photographs that all wanted features share."""
    return table[(table["group"] == "photos") & (table["classifier"] == run.classifiers[0])]


def varied(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """The first classifier's null steps in all searches from the same photographs; `search` names them."""
    own = table[(table["classifier"] == run.classifiers[0]) & (table["wanted"] == STEP)]
    few = own[own["group"] == "varied"]["photo"].unique()
    own = own[own["photo"].isin(few) & own["group"].isin(["photos", "varied"])]
    steps = own["steps"].astype(str).radd(", ") + " steps"
    weight = ", λ = " + own["weight"].map("{:g}".format)
    label = own["budget"] + steps.where(own["steps"] > own["steps"].min(), "")
    label += weight.where(own["weight"] != WEIGHT, "")
    size = own["budget"].str.extract(r" (\d+)")[0].astype(float)
    order = [own["budget"].str[:2], size, -own["weight"], own["steps"]]
    order = pd.concat(order, axis=1, keys=range(4)).sort_values([0, 1, 2, 3], kind="stable").index
    return own.assign(search=label).loc[order]


def by_classifier(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """The null step searched for in each classifier that was, near the same photographs: one row each."""
    steps = table[(table["group"] == "photos") & (table["wanted"] == STEP)]
    searched = steps.groupby("photo")["classifier"].transform("nunique")
    steps = steps[searched == searched.max()]
    rows = []
    for name, own in steps.groupby("classifier", sort=False):
        seen = summary(run, own, ["classifier"]).set_index(["seen by", "score"])["value"]
        row = {
            f"{who}: {score} (°)": seen[who, score] for who in (TRANSLATOR, JUDGE) for score in ("IS", "AS")
        }
        way = ways(own, ["classifier"]).iloc[0]
        told = {c: way[c] for c in ("step made (%)", "logits moved (%)", "photos")}
        rows.append({"classifier": name} | row | told)
    return pd.DataFrame(rows)


def beside(seen: pd.DataFrame, ways: pd.DataFrame) -> pd.DataFrame:
    """What was wanted, and what the translator and the judge see, side by side: one row for each."""
    wide = seen.pivot(index="wanted", columns=["seen by", "score"], values="value")
    table = pd.DataFrame(
        {f"{w}: {score} (°)": wide[w, score] for w in (TRANSLATOR, JUDGE) for score in ("IS", "AS")}
    )
    kept = ways.set_index("wanted")
    whole = kept["top-1 kept"].astype(int).astype(str) + " of " + kept["photos"].astype(str)
    return (
        table.assign(**{"top-1 kept": whole, "logits moved (%)": kept["logits moved (%)"]})
        .loc[kept.index]
        .reset_index()
    )


def picture_rows(searched: Searched, *, most: int = 2, times: float = 8) -> Rows:
    """Photographs, the pictures found near them, and what was changed, in grey and enlarged."""
    photos, rows = searched.photographs, []
    for i, photo in enumerate(photos.names[:most]):
        x0, words = photos.pixels[i], photo.rpartition("/")[2].partition(".")[0]
        shown = [Shown(as_image(x0), "photograph", f"{words}, photograph", exact=True)]
        step, whole = (searched.pictures[way][i] for way in (STEP, WHOLE))
        grey = as_image(difference(step, x0, times))
        shown.append(Shown(as_image(step), STEP, f"{words}, found: {STEP}", exact=True))
        shown.append(Shown(grey, f"its change, × {times:g}", f"{words}, change: {STEP}", exact=True))
        shown.append(Shown(as_image(whole), WHOLE, f"{words}, found: {WHOLE}", exact=True))
        rows.append((words, shown))
    return rows


def ways(table: pd.DataFrame, by: Sequence[str] = ("wanted",)) -> pd.DataFrame:
    """How far the searches came: one row for `by`, means over photographs.

    photos, wanted AS and IS (degrees), step made, logits moved, principal moved (percent), top-1 kept (a
    count), largest and rms (of 255).
    """
    own = table[table["seen by"] == TRANSLATOR].groupby(list(by), sort=False)
    means = own[["wanted IS", "wanted AS", "largest", "rms"]].mean()
    shares = 100 * own[["step made", "logits moved", "principal moved"]].mean()
    return (
        means.join(shares.add_suffix(" (%)"))
        .assign(photos=own.size(), **{"top-1 kept": own["top-1 kept"].sum()})
        .reset_index()
    )
