"""Pictures of notebook 05 and `sing picture`, and what can be measured of them.

Everything is drawn from translated features, with one noise for all pictures of a comparison and
the norm of the original restored (eq. 14), unless a function shows what either changes.
"""

from __future__ import annotations

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
from sing_utils.scores import angle, attribute_score, image_score, pairwise_angle
from sing_utils.steering import image_score_for_attribute_score, null_direction, steer
from sing_utils.tables import run_label

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


def first_of_each_class(run: Run, name: str) -> Originals:
    """The first evaluation photo of each class in order of file names: not chosen by eye."""
    data = run.data(name).evaluation
    ordered = data.index.sort_values("path", kind="stable")
    rows = [ordered.index[ordered["class"] == c][0] for c in ordered["class"].drop_duplicates()]
    return _originals(run, name, rows)


def starting_with(run: Run, originals: Originals, count: int) -> Originals:
    """`count` of them, beginning with the run's source class."""
    order = sorted(range(len(originals)), key=lambda i: originals.classes[i] != run.source_class)
    return originals.pick(order[:count])


def _originals(run: Run, name: str, rows: list[int]) -> Originals:
    data = run.data(name).evaluation
    picked = data.index.loc[rows]
    return Originals(data.f[rows], data.z[rows], picked["class"].tolist(), picked["path"].tolist())


# ------------------------------------------------------------------ what the decoder can draw


def decoded_originals(run: Run, name: str, originals: Originals) -> Rows:
    """Each original drawn from its embedding and from its translated feature."""
    z_hat = run.translator(name)(originals.f)
    drawn = {
        "from the photo's own embedding z": run.pictures(originals.z, seed=run.profile.seed),
        "from the translated feature Tf": run.pictures(z_hat, seed=run.profile.seed),
    }
    rows: Rows = []
    photos = [run.original(path) for path in originals.paths]
    if all(p is not None for p in photos):
        drawn = {"the photos": [p for p in photos if p is not None]} | drawn
    for what, pictures in drawn.items():
        alts = [f"picture of {c} {what}" for c in originals.classes]
        rows.append((what, [Shown(*t) for t in zip(pictures, originals.classes, alts, strict=True)]))
    return rows


# ----------------------------------------------------------------------- ladders (Figure 9)


def ladder_levels(run: Run) -> np.ndarray:
    """The IS of each step of a ladder, degrees."""
    return np.linspace(0.0, run.profile.degrees, _LEVELS)


def image_score_ladder(run: Run, name: str, originals: Originals) -> Rows:
    """A row an original: steps toward the first target at equal IS (Figure 9)."""
    levels = ladder_levels(run)
    return _ladder(run, name, originals, torch.from_numpy(levels).expand(len(originals), -1))


def attribute_score_ladder(run: Run, name: str, originals: Originals) -> Rows:
    """A row an original: steps toward the first target at whole degrees of AS (Figure 9)."""
    T, text = run.translator(name), _target(run, name)
    d = null_direction(originals.f, text, T, run.spaces(name))
    most = float(steer(originals.f, text, T, run.spaces(name), degrees=run.profile.degrees).AS.min())
    if np.isnan(most) or most < 1:
        return []
    wanted = np.unique(np.linspace(0, np.floor(most), min(_LEVELS, int(most) + 1)).round())
    degrees = [
        image_score_for_attribute_score(originals.f, d, text, T, degrees=float(level)) for level in wanted
    ]
    return _ladder(run, name, originals, torch.stack(degrees, dim=-1))


def _ladder(run: Run, name: str, originals: Originals, degrees: Tensor) -> Rows:
    """`degrees` (B, K) of IS a step; unreachable steps are left out."""
    target, T, text = run.profile.targets[0], run.translator(name), _target(run, name)
    z = T(originals.f)
    steps = [steer(originals.f, text, T, run.spaces(name), degrees=column) for column in degrees.unbind(-1)]
    rows: Rows = []
    for i, source in enumerate(originals.classes):
        kept = [s for s in steps if not bool(s.IS[i].isnan())]
        z_eps = torch.stack([T(s.f_eps[i]) for s in kept])
        pictures = run.pictures(restore_norm(z_eps, z[i].expand_as(z_eps)), seed=run.profile.seed)
        shown = []
        for s, picture in zip(kept, pictures, strict=True):
            score = f"IS {float(s.IS[i]):.0f}°, AS {float(s.AS[i]):.1f}°"
            shown.append(Shown(picture, score, f"{source} steered toward {target}: {score}"))
        rows.append((f"{source} → {target}", shown))
    return rows


def picture_changes(run: Run, name: str, originals: Originals) -> tuple[pd.DataFrame, float]:
    """How pictures change along a step toward the first target, seen by the classifier's judge.

    Returns:
        One row a step: IS, AS (mean), turned (median angle between the embeddings of the picture and
        of the picture at IS = 0), low and high (its quartiles), changed (percent recognised as another
        class, by the nearest class prompt) and pictures; angles in degrees. And the median angle that
        another noise makes with the same embedding.
    """
    T, judge, text = run.translator(name), run.judge(name), _target(run, name)
    texts = torch.stack([*run.prompts(judge).values(), text])
    z, seed = T(originals.f), run.profile.seed
    start = judge.encode_images(run.pictures(z, seed=seed))  # (B, n)
    other = judge.encode_images(run.pictures(z, seed=seed + 1))
    before = pairwise_angle(start, texts).argmin(-1)
    rows = []
    for degrees in ladder_levels(run):
        result = steer(originals.f, text, T, run.spaces(name), degrees=float(degrees))
        kept = ~result.IS.isnan()
        if not bool(kept.any()):
            continue
        z_eps = restore_norm(T(result.f_eps[kept]), z[kept])
        seen = judge.encode_images(run.pictures(z_eps, seed=seed))
        turned = angle(start[kept], seen).numpy()
        after = pairwise_angle(seen, texts).argmin(-1)
        low, middle, high = np.quantile(turned, [0.25, 0.5, 0.75])
        rows.append(
            {
                "IS": float(degrees),
                "AS": float(result.AS[kept].mean()),
                "turned": middle,
                "low": low,
                "high": high,
                "changed": 100 * float((after != before[kept]).double().mean()),
                "pictures": int(kept.sum()),
            }
        )
    return pd.DataFrame(rows), float(angle(start, other).median())


# ------------------------------------------------------------------------- pairs (Figure 1)


def choose_pairs(run: Run, name: str, scores: pd.DataFrame, *, count: int = 3) -> pd.DataFrame:
    """Evaluation photos whose null removal is benign, and problematic: `count` classes of each.

    Problematic: the largest |AS|. Benign: the smallest |AS| among the quarter with the largest IS,
    so that much is ignored and little of it is the class.
    """
    own = scores[scores["classifier"] == name].assign(size=lambda t: t["AS"].abs())
    problematic = own.sort_values("size", ascending=False).drop_duplicates("class").head(count)
    turned = own[own["IS"] >= own["IS"].quantile(0.75)]
    benign = turned.sort_values("size").drop_duplicates("class").head(count)
    return pd.concat(
        [benign.assign(kind="benign"), problematic.assign(kind="problematic")], ignore_index=True
    ).drop(columns="size")


def pair_pictures(run: Run, name: str, pairs: pd.DataFrame) -> Rows:
    """Original and equivalent of each pair side by side (Figure 1)."""
    originals, T = _of_pairs(run, name, pairs), run.translator(name)
    z = T(originals.f)
    z_tilde = restore_norm(T.after_null_removal(run.spaces(name))(originals.f), z)
    pictures = run.pictures(torch.cat([z, z_tilde]), seed=run.profile.seed)
    rows: Rows = []
    for i, pair in enumerate(pairs.to_dict("records")):
        c = pair["class"]
        shown = [
            Shown(pictures[i], "original", f"{c}, original"),
            Shown(pictures[i + len(pairs)], "equivalent", f"{c}, null component removed"),
        ]
        rows.append(
            (f"{pair['kind']}: {c}, IS {pair['IS']:.1f}°, AS {round(pair['AS'], 2) + 0.0:.2f}°", shown)
        )
    return rows


def pair_logits(run: Run, name: str, pairs: pd.DataFrame, *, top: int = 5) -> pd.DataFrame:
    """The `top` logits of each pair: one row a pair and place, original and equivalent."""
    originals, classifier = _of_pairs(run, name, pairs), run.classifier(name)
    equivalents = run.spaces(name).remove_null(originals.f)
    before, after = (x @ classifier.weight.mT + classifier.bias for x in (originals.f, equivalents))
    rows = []
    for i, pair in enumerate(pairs.to_dict("records")):
        best, best_after = before[i].topk(top).indices.tolist(), after[i].topk(top).indices.tolist()
        for place, (a, b) in enumerate(zip(best, best_after, strict=True), start=1):
            rows.append(
                {
                    "pair": f"{pair['kind']}: {pair['class']}",
                    "place": place,
                    "original": run_label(a),
                    "logit": float(before[i, a]),
                    "equivalent": run_label(b),
                    "its logit": float(after[i, b]),
                }
            )
    return pd.DataFrame(rows)


def _of_pairs(run: Run, name: str, pairs: pd.DataFrame) -> Originals:
    index = run.data(name).evaluation.index
    place = {path: i for i, path in enumerate(index["path"])}
    return _originals(run, name, [place[path] for path in pairs["path"]])


# ---------------------------------------------------------------------- steering (Figure 6)


def steered_pictures(run: Run, name: str, originals: Originals) -> Rows:
    """A row an original: steered to the profile's IS toward every target (Figure 6)."""
    T, targets = run.translator(name), run.targets(name)
    z = T(originals.f)
    results = {
        t: steer(originals.f, u, T, run.spaces(name), degrees=run.profile.degrees) for t, u in targets.items()
    }
    rows: Rows = []
    for i, source in enumerate(originals.classes):
        kept = {t: r for t, r in results.items() if not bool(r.IS[i].isnan())}
        z_all = torch.stack([z[i], *(T(r.f_eps[i]) for r in kept.values())])
        pictures = run.pictures(restore_norm(z_all, z[i].expand_as(z_all)), seed=run.profile.seed)
        shown = [Shown(pictures[0], "original", f"{source}, original")]
        for (target, r), picture in zip(kept.items(), pictures[1:], strict=True):
            caption = f"{target}, AS {float(r.AS[i]):.1f}°"
            shown.append(Shown(picture, caption, f"{source} steered toward {target}"))
        rows.append((f"{source}, IS {run.profile.degrees:g}°", shown))
    return rows


# ------------------------------------------------------------------- what norm and noise change


def norm_effect(run: Run, name: str, originals: Originals) -> tuple[Rows, pd.DataFrame]:
    """Steered pictures with their norm restored and as they come, and how far the two differ."""
    T, judge, seed = run.translator(name), run.judge(name), run.profile.seed
    z = T(originals.f)
    result = steer(originals.f, _target(run, name), T, run.spaces(name), degrees=run.profile.degrees)
    kept = ~result.IS.isnan()
    _require_some(kept, run)
    z, z_eps = z[kept], T(result.f_eps[kept])
    classes = [c for c, k in zip(originals.classes, kept.tolist(), strict=True) if k]
    drawn = {
        "original": run.pictures(z, seed=seed),
        "steered, norm restored": run.pictures(restore_norm(z_eps, z), seed=seed),
        "steered, norm as it comes": run.pictures(z_eps, seed=seed),
    }
    seen = {what: judge.encode_images(pictures) for what, pictures in drawn.items()}
    table = pd.DataFrame(
        {
            "photo": classes,
            "norm, × original": (z_eps.norm(dim=-1) / z.norm(dim=-1)).numpy(),
            "turned, restored (°)": angle(seen["original"], seen["steered, norm restored"]).numpy(),
            "turned, as it comes (°)": angle(seen["original"], seen["steered, norm as it comes"]).numpy(),
        }
    )
    rows: Rows = [
        (c, [Shown(p[i], what, f"{c}, {what}") for what, p in drawn.items()]) for i, c in enumerate(classes)
    ]
    return rows, table


def noise_effect(run: Run, name: str, original: Originals, *, count: int = 4) -> tuple[Rows, pd.DataFrame]:
    """One embedding and a step of a quarter of the profile's IS, with shared noise and without.

    Without shared noise the same embedding gives another picture each time, and a small step can't be
    told from that.
    """
    T, judge, seed = run.translator(name), run.judge(name), run.profile.seed
    degrees = run.profile.degrees / 4
    f, c = original.f[:1], original.classes[0]
    result = steer(f, _target(run, name), T, run.spaces(name), degrees=degrees)
    _require_some(~result.IS.isnan(), run)
    z = T(f)
    z_eps = restore_norm(T(result.f_eps), z)
    both = torch.cat([z.expand(count, -1), z_eps.expand(count, -1)])
    own = run.pictures(both, seed=seed, shared_noise=False)
    shared = run.pictures(torch.cat([z, z_eps]), seed=seed)
    step = f"step of IS {degrees:g}°"
    rows: Rows = [
        (
            "one noise for both",
            [Shown(shared[0], "original", f"{c}, original"), Shown(shared[1], step, f"{c}, {step}")],
        ),
        (
            "own noise each: the original",
            [Shown(p, f"noise {i}", f"{c}, noise {i}") for i, p in _numbered(own[:count])],
        ),
        (
            f"own noise each: the {step}",
            [Shown(p, f"noise {i}", f"{c}, {step}") for i, p in _numbered(own[count:])],
        ),
    ]
    seen, seen_own = judge.encode_images(shared), judge.encode_images(own)
    between = pairwise_angle(seen_own[:count], seen_own[:count])
    table = pd.DataFrame(
        {
            "what differs": [
                "the step, noise shared",
                "the noise alone (median of pairs)",
                "the step and the noise (median of pairs)",
            ],
            "angle between the pictures' embeddings (°)": [
                float(angle(seen[0], seen[1])),
                float(between[torch.triu(torch.ones_like(between), 1) > 0].median()),
                float(pairwise_angle(seen_own[:count], seen_own[count:]).median()),
            ],
        }
    )
    return rows, table


def _numbered(pictures: list[Image.Image]) -> list[tuple[int, Image.Image]]:
    return list(enumerate(pictures, start=1))


def _require_some(reached: Tensor, run: Run) -> None:
    if not bool(reached.any()):
        raise SingError(
            f"degrees: no photo reaches IS = {run.profile.degrees:g}° toward “{run.profile.targets[0]}”, "
            "expected at least one: ask for fewer degrees or choose another target."
        )


def _target(run: Run, name: str) -> Tensor:
    return run.targets(name)[run.profile.targets[0]]


# ------------------------------------------------------------------------------ one picture


@dataclass(frozen=True, eq=False)
class Pair:
    """One photo's original and equivalent, drawn; scores in degrees."""

    original: Image.Image
    equivalent: Image.Image
    IS: float
    AS: float | None
    certificate: Certificate


def draw_pair(
    run: Run,
    name: str,
    photo: str,
    *,
    toward: str | None = None,
    degrees: float = 40.0,
) -> Pair:
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
    classifier, T, spaces, judge = (
        run.classifier(name),
        run.translator(name),
        run.spaces(name),
        run.judge(name),
    )
    f = classifier(classifier.prepare(run.photo(photo))[None]).features  # (1, m)
    z, score = T(f), None
    if toward is None:
        f_tilde = spaces.remove_null(f)
        certificate = spaces.certificate(f, bias=classifier.bias).check()
    else:
        text = judge.encode_text([toward])[0]
        result = steer(f, text, T, spaces, degrees=degrees, bias=classifier.bias)
        if result.reason or result.certificate is None:
            raise SingError(result.reason)
        f_tilde, certificate = result.f_eps, result.certificate
        score = float(attribute_score(z, T(f_tilde), text)[0])
    z_tilde = T(f_tilde)
    original, equivalent = run.pictures(torch.cat([z, restore_norm(z_tilde, z)]), seed=run.profile.seed)
    return Pair(original, equivalent, float(image_score(z, z_tilde)[0]), score, certificate)
