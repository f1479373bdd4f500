"""Pictures of notebook 05 and `sing picture`, and what can be measured of them.

Everything is drawn with one noise for all pictures of a comparison and the norm of the original
restored (eq. 14), unless a function measures what either changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.evidence.controls import Scores
from sing_utils.measure.steering import whole_degrees
from sing_utils.method.head import Certificate
from sing_utils.method.scores import angle, image_score, pairwise_angle
from sing_utils.method.steering import largest_image_score, null_direction, steer
from sing_utils.pictures.base import restore_norm
from sing_utils.runs.profiles import class_name
from sing_utils.runs.run import Photos, Run
from sing_utils.show.findings import number
from sing_utils.show.gallery import Shown

Rows = list[tuple[str, list[Shown]]]
_LEVELS = 9  # steps of a ladder, the start included
_LARGEST = 288  # pixels that a page needs of a photograph


def first_of_each_class(run: Run, name: str, *, most: int = 16) -> Photos:
    """The first evaluation photo of each class in order of file names, of at most `most` classes.

    Nothing is chosen by eye. The run's source class comes first.
    """
    photos = run.photos(name)
    first = photos.index.sort_values("path", kind="stable").drop_duplicates("class")
    source = first["class"] == run.source_class
    rows = pd.concat([first[source], first[~source]]).index[:most].tolist()
    index = photos.index.iloc[rows].reset_index(drop=True)
    return Photos(photos.f[rows], photos.z[rows], photos.own[rows], index)


def reachable_degrees(run: Run, name: str, originals: Photos) -> float:
    """The profile's IS, or less: what all these photos reach toward every target, degrees."""
    T, spaces = run.translator(name), run.spaces(name)
    largest = min(
        float(largest_image_score(originals.f, null_direction(originals.f, u, T, spaces), T).min())
        for u in run.texts(name, [run.prompt(t) for t in run.targets])
    )
    return min(run.degrees, whole_degrees(largest))


def captioned(rows: Mapping[str, Sequence[Image.Image]], captions: Sequence[str]) -> Rows:
    """Named rows of pictures, the middle square of each, under the same captions."""
    return [
        (name, [Shown(_square(p), c, f"{c}, {name}") for p, c in zip(pictures, captions, strict=True)])
        for name, pictures in rows.items()
    ]


def _square(picture: Image.Image) -> Image.Image:
    side = min(*picture.size, _LARGEST)
    return ImageOps.fit(picture, (side, side))


# ----------------------------------------------------------------------- ladders (Figure 9)


@dataclass(frozen=True, eq=False)
class Ladders:
    """Steps at equal IS from each of B photos toward one target: drawn, and seen by the judge.

    Attributes:
        originals: the B photos.
        target: of the run.
        prompts: the judge's embeddings of the C class prompts and of the target's, (C + 1, n).
        z: translated features of the originals, (B, n).
        IS: of the K steps, degrees, (K,); the first is 0.
        AS: of each step, degrees, (K, B).
        z_eps: translated features of the steps, (K, B, n), their norms as they come.
        pictures: of each step, K times B.
        start: what the judge sees in the originals' pictures, (B, n).
        other: and with another noise, (B, n).
        seen: and in the pictures of each step, (K, B, n).
    """

    originals: Photos
    target: str
    prompts: Tensor
    z: Tensor
    IS: Tensor
    AS: Tensor
    z_eps: Tensor
    pictures: list[list[Image.Image]]
    start: Tensor
    other: Tensor
    seen: Tensor

    @property
    def classes(self) -> list[str]:
        """Name of each original's class."""
        return self.originals.index["class"].tolist()

    @property
    def margin(self) -> Tensor:
        """How much nearer an original's picture is to its own class prompt than to others, degrees, (B,)."""
        turned, own = pairwise_angle(self.start, self.prompts[:-1]), self.originals.own[:, None]
        return turned.scatter(1, own, torch.inf).amin(-1) - turned.gather(1, own)[:, 0]

    def best(self, count: int) -> list[int]:
        """Those `count` originals, not of the target's class, whose pictures the judge recognises best."""
        order = self.margin.argsort(descending=True, stable=True).tolist()
        return [i for i in order if self.classes[i] != self.target][:count]


def ladders(run: Run, name: str, originals: Photos, degrees: float) -> Ladders:
    """Draw steps toward the first target at equal IS, up to `degrees`, which all originals reach."""
    T, spaces, judge, seed = run.translator(name), run.spaces(name), run.judge(name), run.seed
    text, z = run.texts(name, [run.prompt(run.targets[0])])[0], T(originals.f)
    levels = torch.linspace(0.0, degrees, _LEVELS, dtype=torch.float64)
    steps = [steer(originals.f, text, T, spaces, degrees=float(level)) for level in levels]
    z_eps = torch.stack([T(step.f_eps) for step in steps])  # (K, B, n)
    pictures = [run.draw(name, restore_norm(x, z), noise=seed) for x in z_eps]
    return Ladders(
        originals,
        run.targets[0],
        run.texts(name, [*run.prompts, run.prompt(run.targets[0])]),
        z,
        levels,
        torch.stack([step.AS for step in steps]),
        z_eps,
        pictures,
        start=judge.encode_images(run.draw(name, z, noise=seed)),
        other=judge.encode_images(run.draw(name, z, noise=seed + 1)),
        seen=torch.stack([judge.encode_images(p) for p in pictures]),
    )


def recognised(drawn: Ladders) -> str:
    """In how many pictures of originals the judge finds the right class nearest, in words."""
    right, B, C = int((drawn.margin > 0).sum()), len(drawn.margin), len(drawn.prompts) - 1
    return f"{right} of {B} recognised, {B / C:.2g} by chance"


def ladder_pictures(drawn: Ladders, rows: list[int]) -> Rows:
    """A row for each of some originals: every second step toward the target (Figure 9)."""
    ladder: Rows = []
    for i in rows:
        name, shown = f"{drawn.classes[i]} → {drawn.target}", []
        for k in range(0, _LEVELS, 2):
            score = f"IS {float(drawn.IS[k]):.3g}°, AS {number(float(drawn.AS[k, i]), 1)}°"
            shown.append(Shown(drawn.pictures[k][i], score, f"{name}: {score}"))
        ladder.append((name, shown))
    return ladder


def picture_changes(drawn: Ladders) -> pd.DataFrame:
    """How pictures change along a step toward the target, seen by the classifier's judge.

    Returns:
        One row a step: IS, AS (mean), turned (median angle between the embeddings of the picture and
        of the original's), low and high (its quartiles), changed (percent recognised as another class,
        by the nearest prompt), pictures, and noise (the median angle that another noise makes with the
        same embedding as the start); angles in degrees.
    """
    before = pairwise_angle(drawn.start, drawn.prompts).argmin(-1)
    rows = []
    for IS, AS, seen in zip(drawn.IS, drawn.AS, drawn.seen, strict=True):
        low, middle, high = np.quantile(angle(drawn.start, seen).numpy(), [0.25, 0.5, 0.75])
        changed = pairwise_angle(seen, drawn.prompts).argmin(-1) != before
        row = {"IS": float(IS), "AS": float(AS.mean()), "turned": middle, "low": low, "high": high}
        rows.append(row | {"changed": 100 * float(changed.double().mean()), "pictures": len(seen)})
    return pd.DataFrame(rows).assign(noise=float(angle(drawn.start, drawn.other).median()))


# ------------------------------------------------------------------------- pairs (Figure 1)


def photo_scores(run: Run, name: str) -> pd.DataFrame:
    """What null removal does to each evaluation photo, in degrees, and whether its class has the top logit.

    class, label, path, classifier, AS (toward its own class), contrast, IS, cosine (of T f and z), top1, and
    right: top1 is its class, by name or WordNet id.
    """
    photos, T, head = run.photos(name), run.translator(name), run.head(name)
    Tf, Tf_tilde = T(photos.f), T(run.spaces(name).remove_null(photos.f))  # (N, n), eq. 9
    found = Scores.of(Tf, Tf_tilde, run.texts(name, run.prompts), photos.own)
    top1 = [head.label(i) for i in head.logits(photos.f).argmax(-1).tolist()]
    names = zip(photos.index["class"], photos.index["label"].map(class_name), strict=True)
    right = [
        class_name(t).casefold() in (a.casefold(), b.casefold())
        for t, (a, b) in zip(top1, names, strict=True)
    ]
    return photos.index[["class", "label", "path"]].assign(
        classifier=name,
        **found.columns(),
        cosine=torch.cosine_similarity(Tf, photos.z, dim=-1).numpy(),
        top1=top1,
        right=right,
    )


def choose_pairs(scores: pd.DataFrame, *, count: int = 3) -> pd.DataFrame:
    """Photos whose null removal is benign, and problematic: `count` classes of each.

    Problematic: the largest |AS|. Benign: the smallest |AS| among the quarter with the largest IS,
    so that much is ignored and little of it is the class. Only photos that the classifier recognises
    count; all of them where it recognises none.

    Args:
        scores: of `photo_scores`.
    """
    own = scores[scores["right"]] if scores["right"].any() else scores
    own = own.drop(columns="right").assign(size=own["AS"].abs())
    problematic = own.sort_values("size", ascending=False).drop_duplicates("class").head(count)
    turned = own[(own["IS"] >= own["IS"].quantile(0.75)) & ~own["path"].isin(problematic["path"])]
    benign = turned.sort_values("size").drop_duplicates("class").head(count)
    return pd.concat(
        [benign.assign(kind="benign"), problematic.assign(kind="problematic")], ignore_index=True
    ).drop(columns="size")


def which_photos(scores: pd.DataFrame) -> str:
    """Among which photos `choose_pairs` chooses, in a sentence."""
    right, count = int(scores["right"].sum()), len(scores)
    if right:
        return f"Chosen among the {right} of {count} evaluation photos whose class the classifier recognises."
    return (
        f"The classifier recognises none of the {count} evaluation photos (or their classes are not among "
        "its own), so that all of them count."
    )


def pair_pictures(run: Run, name: str, pairs: pd.DataFrame) -> Rows:
    """Original and equivalent of each pair side by side (Figure 1)."""
    f, T = _features_of(run, name, pairs), run.translator(name)
    z = T(f)
    z_tilde = restore_norm(T(run.spaces(name).remove_null(f)), z)
    pictures = run.draw(name, torch.cat([z, z_tilde]), noise=run.seed)
    rows: Rows = []
    for i, pair in enumerate(pairs.to_dict("records")):
        c, scores = pair["class"], f"IS {pair['IS']:.1f}°, AS {number(pair['AS'])}°"
        shown = [
            Shown(pictures[i], "original", f"{c}, original"),
            Shown(pictures[i + len(pairs)], scores, f"{c}, null component removed"),
        ]
        rows.append((f"{pair['kind']}: {c}", shown))
    return rows


def pair_logits(run: Run, name: str, pairs: pd.DataFrame, *, top: int = 5) -> pd.DataFrame:
    """The `top` logits of each pair: one row a pair and place, original and equivalent."""
    f, head = _features_of(run, name, pairs), run.head(name)
    before, after = (head.logits(x) for x in (f, run.spaces(name).remove_null(f)))
    orders = [x.topk(min(top, len(head.weight))).indices.tolist() for x in (before, after)]
    rows = []
    for i, pair in enumerate(pairs.to_dict("records")):
        for place, (a, b) in enumerate(zip(orders[0][i], orders[1][i], strict=True), start=1):
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


def _features_of(run: Run, name: str, pairs: pd.DataFrame) -> Tensor:
    photos = run.photos(name)
    return photos.f[pd.Index(photos.index["path"]).get_indexer(pairs["path"])]


# ------------------------------------------------------------------- what norm and noise change


def norm_effect(run: Run, name: str, drawn: Ladders) -> pd.DataFrame:
    """How far the last step turns each picture with its norm restored, and as it comes."""
    plain = run.judge(name).encode_images(run.draw(name, drawn.z_eps[-1], noise=run.seed))
    return pd.DataFrame(
        {
            "photo": drawn.classes,
            "norm, × original": (drawn.z_eps[-1].norm(dim=-1) / drawn.z.norm(dim=-1)).numpy(),
            "turned, restored (°)": angle(drawn.start, drawn.seen[-1]).numpy(),
            "turned, as it comes (°)": angle(drawn.start, plain).numpy(),
        }
    )


def noise_effect(run: Run, name: str, drawn: Ladders, step: int = 2) -> pd.DataFrame:
    """By which angle (degrees) each picture turns if only a step, only the noise, or both are others."""
    judge, seed = run.judge(name), run.seed
    z_eps = restore_norm(drawn.z_eps[step], drawn.z)
    start, steered, noise, both = (
        judge.encode_images(run.decoder(name)(z, seed=first, shared_noise=False))
        for first in (seed, seed + len(z_eps))  # each photo has a noise of its own, and another one
        for z in (drawn.z, z_eps)
    )
    turned = {"step alone (°)": steered, "noise alone (°)": noise, "both (°)": both}
    table = pd.DataFrame({what: angle(start, seen).numpy() for what, seen in turned.items()})
    table.insert(0, "photo", drawn.classes)
    return table


def rules(norm: pd.DataFrame, noise: pd.DataFrame, drawn: Ladders, step: int = 2) -> pd.DataFrame:
    """Means of `norm_effect` and `noise_effect`, for a page."""
    large, small = (f"step of IS {float(drawn.IS[k]):.3g}°" for k in (-1, step))
    turned = {
        f"{large}, norm restored": norm["turned, restored (°)"],
        f"{large}, norm as it comes": norm["turned, as it comes (°)"],
        f"{small}, same noise": noise["step alone (°)"],
        "no step, other noise": noise["noise alone (°)"],
        f"{small}, other noise": noise["both (°)"],
    }
    rows = [{"drawn": what, "pictures": len(x), "mean turn (°)": x.mean()} for what, x in turned.items()]
    return pd.DataFrame(rows)


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
