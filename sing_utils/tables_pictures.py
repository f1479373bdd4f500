"""Pictures of notebook 05 and `sing picture`, and what can be measured of them.

Everything is drawn with one noise for all pictures of a comparison and the norm of the original
restored (eq. 14), unless a function shows what either changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.gallery import Shown
from sing_utils.head import Certificate
from sing_utils.pictures import restore_norm
from sing_utils.run import Run
from sing_utils.scores import angle, image_score, pairwise_angle
from sing_utils.steering import (
    image_score_for_attribute_score,
    largest_image_score,
    null_direction,
    steer,
)
from sing_utils.tables_steering import whole_degrees

Rows = list[tuple[str, list[Shown]]]
_LEVELS = 9  # steps of a ladder, the start included


@dataclass(frozen=True, eq=False)
class Originals:
    """Some evaluation photos of a run: features (B, m), embeddings (B, n), class and path of each."""

    f: Tensor
    z: Tensor
    classes: list[str]
    paths: list[str]

    def __len__(self) -> int:
        """B."""
        return len(self.f)

    def pick(self, rows: list[int]) -> Originals:
        """Some of them."""
        return Originals(
            self.f[rows], self.z[rows], [self.classes[i] for i in rows], [self.paths[i] for i in rows]
        )


def first_of_each_class(run: Run, name: str, *, most: int = 16) -> Originals:
    """The first evaluation photo of each class in order of file names, of at most `most` classes.

    Nothing is chosen by eye. The run's source class is always among them.
    """
    ordered = run.photos(name).index.sort_values("path", kind="stable")
    first = ordered.drop_duplicates("class")
    if len(first) > most:
        source = first[first["class"] == run.source_class]
        first = pd.concat([source, first.drop(source.index).head(most - 1)]).sort_values("path")
    return _originals(run, name, first.index.tolist())


def reachable_degrees(run: Run, name: str, originals: Originals) -> float:
    """The profile's IS, or less: what all these photos reach toward every target, degrees."""
    T, spaces = run.translator(name), run.spaces(name)
    largest = min(
        float(largest_image_score(originals.f, null_direction(originals.f, u, T, spaces), T).min())
        for u in run.texts(name, [run.prompt(t) for t in run.targets])
    )
    return min(run.profile.degrees, whole_degrees(largest))


def starting_with(run: Run, originals: Originals, count: int) -> Originals:
    """`count` of them, beginning with the run's source class."""
    order = sorted(range(len(originals)), key=lambda i: originals.classes[i] != run.source_class)
    return originals.pick(order[:count])


def _originals(run: Run, name: str, rows: list[int]) -> Originals:
    data = run.photos(name)
    picked = data.index.loc[rows]
    return Originals(data.f[rows], data.z[rows], picked["class"].tolist(), picked["path"].tolist())


# ------------------------------------------------------------------ what the decoder can draw


def decoded_originals(run: Run, name: str, originals: Originals) -> Rows:
    """Each original drawn from its embedding and from its translated feature, at one norm."""
    z, seed = originals.z, run.profile.seed
    z_hat = restore_norm(run.translator(name)(originals.f), z)
    drawn = {
        "from the photo's own embedding": run.decoder(name)(z, seed=seed),
        "from the translated feature": run.decoder(name)(z_hat, seed=seed),
    }
    photos = [run.original(path) for path in originals.paths]
    if all(p is not None for p in photos):
        drawn = {"the photos": [p for p in photos if p is not None]} | drawn
    rows: Rows = []
    for what, pictures in drawn.items():
        alts = [f"picture of {c} {what}" for c in originals.classes]
        rows.append((what, [Shown(*t) for t in zip(pictures, originals.classes, alts, strict=True)]))
    return rows


# ----------------------------------------------------------------------- ladders (Figure 9)


def image_score_ladder(run: Run, name: str, originals: Originals, degrees: float) -> Rows:
    """A row an original: steps toward the first target at equal IS, up to `degrees` (Figure 9)."""
    levels = torch.linspace(0.0, degrees, _LEVELS, dtype=torch.float64)
    return _ladder(run, name, originals, levels.expand(len(originals), -1))


def attribute_score_ladder(run: Run, name: str, originals: Originals, degrees: float) -> Rows:
    """A row an original: steps toward the first target at equal whole degrees of AS (Figure 9).

    Up to what all of them reach at IS = `degrees`; no row if that is less than one degree.
    """
    T, text, spaces = run.translator(name), _target(run, name), run.spaces(name)
    most = int(steer(originals.f, text, T, spaces, degrees=degrees).AS.min())
    if most < 1:
        return []
    stride = -(-most // (_LEVELS - 1))
    d = null_direction(originals.f, text, T, spaces)
    wanted = [
        image_score_for_attribute_score(originals.f, d, text, T, degrees=float(level))
        for level in range(0, most + 1, stride)
    ]
    return _ladder(run, name, originals, torch.stack(wanted, dim=-1))


def _ladder(run: Run, name: str, originals: Originals, degrees: Tensor) -> Rows:
    """`degrees` (B, K): the IS of each step of each row."""
    target, T, text = run.profile.targets[0], run.translator(name), _target(run, name)
    z = T(originals.f)
    steps = [steer(originals.f, text, T, run.spaces(name), degrees=column) for column in degrees.unbind(-1)]
    rows: Rows = []
    for i, source in enumerate(originals.classes):
        z_eps = torch.stack([T(s.f_eps[i]) for s in steps])  # (K, n)
        pictures = run.decoder(name)(restore_norm(z_eps, z[i].expand_as(z_eps)), seed=run.profile.seed)
        scores = [f"IS {float(s.IS[i]):.3g}°, AS {float(s.AS[i]):.3g}°" for s in steps]
        alts = [f"{source} steered toward {target}: {score}" for score in scores]
        shown = [Shown(*t) for t in zip(pictures, scores, alts, strict=True)]
        rows.append((f"{source} → {target}", shown))
    return rows


def picture_changes(run: Run, name: str, originals: Originals, degrees: float) -> pd.DataFrame:
    """How pictures change along a step toward the first target, seen by the classifier's judge.

    Args:
        run: whose translator and decoder are used.
        name: of the classifier.
        originals: that all reach `degrees`.
        degrees: the largest IS.

    Returns:
        One row a step: IS, AS (mean), turned (median angle between the embeddings of the picture and
        of the picture at IS = 0), low and high (its quartiles), noise (the median angle that another
        noise makes with the same embedding as the start), changed (percent recognised as another class,
        by the nearest class prompt) and pictures; angles in degrees.
    """
    T, judge, text = run.translator(name), run.judge(name), _target(run, name)
    texts = torch.stack([*run.texts(name, run.prompts), text])
    z, seed = T(originals.f), run.profile.seed
    start = judge.encode_images(run.decoder(name)(z, seed=seed))  # (B, n)
    other = judge.encode_images(run.decoder(name)(z, seed=seed + 1))
    before = pairwise_angle(start, texts).argmin(-1)
    rows = []
    for level in np.linspace(0.0, degrees, _LEVELS):
        result = steer(originals.f, text, T, run.spaces(name), degrees=float(level))
        pictures = run.decoder(name)(restore_norm(T(result.f_eps), z), seed=seed)
        seen = judge.encode_images(pictures)
        turned = angle(start, seen).numpy()
        low, middle, high = np.quantile(turned, [0.25, 0.5, 0.75])
        changed = (pairwise_angle(seen, texts).argmin(-1) != before).double().mean()
        rows.append(
            {
                "IS": float(level),
                "AS": float(result.AS.mean()),
                "turned": middle,
                "low": low,
                "high": high,
                "changed": 100 * float(changed),
                "pictures": len(pictures),
            }
        )
    return pd.DataFrame(rows).assign(noise=float(angle(start, other).median()))


# ------------------------------------------------------------------------- pairs (Figure 1)


def choose_pairs(run: Run, name: str, scores: pd.DataFrame, *, count: int = 3) -> pd.DataFrame:
    """Evaluation photos whose null removal is benign, and problematic: `count` classes of each.

    Problematic: the largest |AS|. Benign: the smallest |AS| among the quarter with the largest IS,
    so that much is ignored and little of it is the class.
    """
    own = scores[scores["classifier"] == name].assign(size=lambda t: t["AS"].abs())
    problematic = own.sort_values("size", ascending=False).drop_duplicates("class").head(count)
    turned = own[(own["IS"] >= own["IS"].quantile(0.75)) & ~own["path"].isin(problematic["path"])]
    benign = turned.sort_values("size").drop_duplicates("class").head(count)
    return pd.concat(
        [benign.assign(kind="benign"), problematic.assign(kind="problematic")], ignore_index=True
    ).drop(columns="size")


def pair_pictures(run: Run, name: str, pairs: pd.DataFrame) -> Rows:
    """Original and equivalent of each pair side by side (Figure 1)."""
    originals, T = _of_pairs(run, name, pairs), run.translator(name)
    z = T(originals.f)
    z_tilde = restore_norm(T.after_null_removal(run.spaces(name))(originals.f), z)
    pictures = run.decoder(name)(torch.cat([z, z_tilde]), seed=run.profile.seed)
    rows: Rows = []
    for i, pair in enumerate(pairs.to_dict("records")):
        c, scores = pair["class"], f"IS {pair['IS']:.1f}°, AS {round(pair['AS'], 2) + 0.0:.2f}°"
        shown = [
            Shown(pictures[i], "original", f"{c}, original"),
            Shown(pictures[i + len(pairs)], f"equivalent, {scores}", f"{c}, null component removed"),
        ]
        rows.append((f"{pair['kind']}: {c}", shown))
    return rows


def pair_logits(run: Run, name: str, pairs: pd.DataFrame, *, top: int = 5) -> pd.DataFrame:
    """The `top` logits of each pair: one row a pair and place, original and equivalent."""
    originals, head = _of_pairs(run, name, pairs), run.head(name)
    top = min(top, len(head.weight))
    equivalents = run.spaces(name).remove_null(originals.f)
    before, after = (head.logits(x) for x in (originals.f, equivalents))
    rows = []
    for i, pair in enumerate(pairs.to_dict("records")):
        best, best_after = before[i].topk(top).indices.tolist(), after[i].topk(top).indices.tolist()
        for place, (a, b) in enumerate(zip(best, best_after, strict=True), start=1):
            rows.append(
                {
                    "pair": f"{pair['kind']}: {pair['class']}",
                    "place": place,
                    "original": head.label(a),
                    "logit": float(before[i, a]),
                    "equivalent": head.label(b),
                    "its logit": float(after[i, b]),
                }
            )
    return pd.DataFrame(rows)


def shown_logits(logits: pd.DataFrame) -> pd.DataFrame:
    """The same for a page: class and logit in one column."""
    sides = {"original": ("original", "logit"), "equivalent": ("equivalent", "its logit")}
    words = {
        side: [f"{c}  {x:.4f}" for c, x in zip(logits[name], logits[number], strict=True)]
        for side, (name, number) in sides.items()
    }
    return logits[["pair", "place"]].assign(**words)


def _of_pairs(run: Run, name: str, pairs: pd.DataFrame) -> Originals:
    index = run.photos(name).index
    place = {path: i for i, path in enumerate(index["path"])}
    return _originals(run, name, [place[path] for path in pairs["path"]])


# ---------------------------------------------------------------------- steering (Figure 6)


def steered_pictures(run: Run, name: str, originals: Originals, degrees: float) -> Rows:
    """A row an original: steered to IS = `degrees` toward every target (Figure 6)."""
    T, spaces = run.translator(name), run.spaces(name)
    z = T(originals.f)
    prompts = run.texts(name, [run.prompt(t) for t in run.targets])
    results = {
        t: steer(originals.f, u, T, spaces, degrees=degrees)
        for t, u in zip(run.targets, prompts, strict=True)
    }
    rows: Rows = []
    for i, source in enumerate(originals.classes):
        z_all = torch.stack([z[i], *(T(r.f_eps[i]) for r in results.values())])
        pictures = run.decoder(name)(restore_norm(z_all, z[i].expand_as(z_all)), seed=run.profile.seed)
        shown = [Shown(pictures[0], "original", f"{source}, original")]
        for (target, r), picture in zip(results.items(), pictures[1:], strict=True):
            caption = f"{target}, AS {float(r.AS[i]):.3g}°"
            shown.append(Shown(picture, caption, f"{source} steered toward {target}"))
        rows.append((f"{source}, IS {degrees:g}°", shown))
    return rows


# ------------------------------------------------------------------- what norm and noise change


def norm_effect(run: Run, name: str, originals: Originals, degrees: float) -> tuple[Rows, pd.DataFrame]:
    """Steered pictures with their norm restored and as they come, and how far the two differ."""
    T, judge, seed = run.translator(name), run.judge(name), run.profile.seed
    z = T(originals.f)
    z_eps = T(steer(originals.f, _target(run, name), T, run.spaces(name), degrees=degrees).f_eps)
    drawn = {
        "original": run.decoder(name)(z, seed=seed),
        "steered, norm restored": run.decoder(name)(restore_norm(z_eps, z), seed=seed),
        "steered, norm as it comes": run.decoder(name)(z_eps, seed=seed),
    }
    seen = {what: judge.encode_images(pictures) for what, pictures in drawn.items()}
    table = pd.DataFrame(
        {
            "photo": originals.classes,
            "norm, × original": (z_eps.norm(dim=-1) / z.norm(dim=-1)).numpy(),
            "turned, restored (°)": angle(seen["original"], seen["steered, norm restored"]).numpy(),
            "turned, as it comes (°)": angle(seen["original"], seen["steered, norm as it comes"]).numpy(),
        }
    )
    rows: Rows = [
        (c, [Shown(p[i], what, f"{c}, {what}") for what, p in drawn.items()])
        for i, c in enumerate(originals.classes)
    ]
    return rows, table


def noise_effect(
    run: Run, name: str, originals: Originals, degrees: float, *, count: int = 4
) -> tuple[Rows, pd.DataFrame]:
    """Originals and a step of IS = `degrees` from each, drawn from one noise and from others.

    Returns:
        Pictures of the first original, `count` noises each; and one row an original: by which angle
        (degrees) its picture turns if only the step, only the noise, or both are others.
    """
    T, judge, seed = run.translator(name), run.judge(name), run.profile.seed
    z = T(originals.f)
    steered = steer(originals.f, _target(run, name), T, run.spaces(name), degrees=degrees)
    z_eps = restore_norm(T(steered.f_eps), z)
    start, step, noise, both = (
        judge.encode_images(run.decoder(name)(drawn, seed=first, shared_noise=False))
        for first in (seed, seed + len(z))  # each photo has a noise of its own, and another one
        for drawn in (z, z_eps)
    )
    turned = {"step alone (°)": step, "noise alone (°)": noise, "both (°)": both}
    table = pd.DataFrame({what: angle(start, seen).numpy() for what, seen in turned.items()})
    table.insert(0, "photo", originals.classes)
    return _noise_rows(run, name, originals.classes[0], torch.stack([z[0], z_eps[0]]), degrees, count), table


def _noise_rows(run: Run, name: str, c: str, pair: Tensor, degrees: float, count: int) -> Rows:
    """A pair of embeddings (2, n) drawn from one noise, and from `count` noises each."""
    seed, step = run.profile.seed, f"step of IS {degrees:g}°"
    shared = run.decoder(name)(pair, seed=seed)
    own = run.decoder(name)(pair.repeat_interleave(count, 0), seed=seed, shared_noise=False)
    return [
        ("one noise for both", _captioned(c, shared, ["original", step])),
        ("own noise each: the original", _captioned(c, own[:count], _numbers(count))),
        (f"own noise each: the {step}", _captioned(c, own[count:], _numbers(count))),
    ]


def _captioned(c: str, pictures: list[Image.Image], captions: list[str]) -> list[Shown]:
    return [Shown(p, caption, f"{c}, {caption}") for p, caption in zip(pictures, captions, strict=True)]


def _numbers(count: int) -> list[str]:
    return [f"noise {i}" for i in range(1, count + 1)]


def _target(run: Run, name: str) -> Tensor:
    return run.texts(name, [run.prompt(run.targets[0])])[0]


# ------------------------------------------------------------------------------ one picture


@dataclass(frozen=True, eq=False)
class Pair:
    """One photo's original and equivalent, drawn.

    Attributes:
        original, equivalent: the pictures.
        z, z_tilde: what they were drawn from, (1, n) each.
        IS: degrees.
        AS: toward the text that was steered to, degrees; NaN for null removal.
        certificate: how far the logits moved.
    """

    original: Image.Image
    equivalent: Image.Image
    z: Tensor
    z_tilde: Tensor
    IS: float
    AS: float
    certificate: Certificate


def draw_pair(run: Run, name: str, photo: str, *, toward: str | None = None, degrees: float = 40.0) -> Pair:
    """A photo's translated feature, and its equivalent after null removal or a step toward a text.

    Args:
        run: whose translator and decoder are used.
        name: of the classifier.
        photo: a file, or the name of a picture in scikit-image.
        toward: text to steer toward; None removes the null component.
        degrees: IS of the steering step.

    Raises:
        SingError: if the photo can't be read, the text is empty or too long, or `degrees` can't be
            reached.
    """
    classifier, T, spaces = run.classifier(name), run.translator(name), run.spaces(name)
    f = classifier(classifier.prepare(run.photo(photo))[None]).features.cpu()  # (1, m)
    score = math.nan
    if toward is None:
        f_tilde = spaces.remove_null(f)
        certificate = spaces.certificate(f, bias=classifier.head.bias).check()
    else:
        text = run.texts(name, [toward])[0]
        result = steer(f, text, T, spaces, degrees=degrees, bias=classifier.head.bias)
        if result.certificate is None:
            raise SingError(result.reason)
        f_tilde, certificate, score = result.f_eps, result.certificate, float(result.AS[0])
    z = T(f)
    z_tilde = restore_norm(T(f_tilde), z)
    original, equivalent = run.decoder(name)(torch.cat([z, z_tilde]), seed=run.profile.seed)
    return Pair(original, equivalent, z, z_tilde, float(image_score(z, z_tilde)[0]), score, certificate)
