"""Analysing numbers without a model: for those who can share a head and features, but no weights.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> g = torch.Generator().manual_seed(0)
    >>> save_file({"weight": torch.randn(3, 8, generator=g)}, folder / "head.safetensors")  # W, (c, m)
    >>> np.save(folder / "features.npy", torch.randn(50, 8, generator=g).numpy())  # (N, m)
    >>> found = analyze(folder / "head.safetensors", folder / "features.npy")
    >>> print(found.text)  # doctest: +ELLIPSIS
    head: 3 classes x 8 features, rank 3, null dimension 5
    certificate: over 50 features the logits moved by at most ... of |W||f| (rounding alone: ...); top-1 ...
    null energy: ... % of the feature energy (mean of 50 rows, sd ... %); random subspaces of dimension 5: ...
    not checked: of which network the head ..., the features ... is

With a translator it adds each row's Image Score, and with texts each row's Attribute Score toward each.
Features are read in pieces: only scores are kept for each row, so that memory hardly grows with their number.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import normalize

from sing_utils.errors import SingError
from sing_utils.features.store import require_one_network
from sing_utils.files import locked, require_place, written
from sing_utils.measure.analyze_files import open_features
from sing_utils.method.arrays import require_width
from sing_utils.method.checkpoints import OTHERS, check_widths
from sing_utils.method.head import Certificate, HeadSpaces, random_basis
from sing_utils.method.scores import image_score, pairwise_angle
from sing_utils.method.translator import Translator
from sing_utils.models.classifiers import LinearHead

TABLES = ("rows", "texts", "head", "random", "summary")


@dataclass(frozen=True, eq=False)
class Analysis:
    """What `analyze` found.

    Attributes:
        head: one row: m, c, rank, null dimension, and the certificate over all features.
        random: draw, share: mean energy share of random subspaces of the null dimension, percent.
        summary: what, text, rows, mean, sd, mean size, unit: one row a quantity.
        text: the same in a few lines.
    """

    head: pd.DataFrame
    random: pd.DataFrame
    summary: pd.DataFrame
    text: str


def analyze(
    head: str | Path,
    features: str | Path,
    *,
    translator: str | Path | None = None,
    texts: Mapping[str, Tensor] | None = None,
    with_bias: bool = False,
    out: str | Path | None = None,
    draws: int = 20,
    seed: int = 0,
) -> Analysis:
    """Rank, null energy and certificate of a head on features; with a translator and texts IS and AS.

    Args:
        head: safetensors file with `weight` (c, m) and perhaps `bias` (c,).
        features: a feature store, or features (N, m) in a .npy, .npz, .pt or .safetensors file.
        translator: file of one, fitted here or published: adds IS (degrees) to each row.
        texts: text -> embedding (n,): adds angles before and after null removal and AS (degrees).
        with_bias: add the bias of a published translator; the paper's scores have none.
        out: folder for rows.parquet, texts.parquet, head.parquet, random.parquet and summary.parquet.
        draws: random subspaces, as many as the book draws.
        seed: of the first of them.

    Raises:
        SingError: for files that are missing, damaged, of different networks (by the SHA-256 that each
            carries), or that do not fit each other; NoNullSpaceError for a
            head without a null space.
    """
    linear, names = LinearHead.load(head), list(texts or {})
    spaces, rows = HeadSpaces.from_weight(linear.weight), open_features(features)
    parts = {f"the head {head}": linear.sha256, f"the features {features}": rows.network}
    T = None if translator is None else _open_translator(translator, spaces, texts or {}, with_bias)
    if T is not None:
        parts[f"the translator {translator}"] = T.meta.get("network", "")
    silent = require_one_network(parts)
    if T is None and (texts or with_bias):
        raise SingError("texts and bias need a translator, expected one: give its file too.")
    after = None if T is None else T.after_null_removal(spaces)
    z_text = torch.stack(list(texts.values())) if texts else None  # (K, n)
    proofs: list[Certificate] = []
    scores: list[dict[str, Tensor]] = []
    gram = torch.zeros(spaces.width, spaces.width, dtype=torch.float64)
    with locked(Path(out)) if out is not None else contextlib.nullcontext():
        if out is not None:
            require_place(Path(out) / "rows.parquet")
        for f in rows.pieces():  # (B, m)
            require_width(f, spaces.width, name=f"f of {rows.path}")
            proofs.append(spaces.certificate(f, bias=linear.bias).check())
            unit = normalize(f.to(torch.float64), dim=-1)
            gram += unit.mT @ unit  # the mean share of any subspace follows from it
            scores.append({"share": 100 * spaces.null_energy(f)})
            if T is not None and after is not None:
                Tf, Tf_tilde = (x(f, with_bias=with_bias) for x in (T, after))  # (B, n) each
                scores[-1]["IS"] = image_score(Tf, Tf_tilde)
                if z_text is not None:
                    before, removed = (pairwise_angle(x, z_text) for x in (Tf, Tf_tilde))  # (B, K)
                    scores[-1] |= {"before": before, "after": removed, "AS": before - removed}  # eq. 7
        if not proofs:
            raise SingError(f"{rows.path} holds no row, expected at least one feature vector.")
        found = {name: torch.cat([s[name] for s in scores]).numpy() for name in scores[0]}
        proof, random = _merge(proofs), _random(spaces, gram, len(found["share"]), draws, seed)
        summary = _summary(found, names)
        tables = {"head": _head(spaces, proof), "random": random, "summary": summary}
        lines = [*_lines(spaces, proof, random["share"], summary), *(_caveats(T, with_bias) if T else [])]
        if silent:
            lines.append(f"not checked: of which network {', '.join(silent)} is")
        if out is not None:
            _write(Path(out), tables | _by_row(found, rows.index, names))
    return Analysis(**tables, text="\n".join(lines))


def _open_translator(
    path: str | Path, spaces: HeadSpaces, texts: Mapping[str, Tensor], with_bias: bool
) -> Translator:
    """A translator that `Translator.save` wrote, or a published checkpoint, if it fits head and texts."""
    path, ours = Path(path), False
    with contextlib.suppress(OSError, SafetensorError), safe_open(path, "pt") as tensors:
        ours = (tensors.metadata() or {}).get("format") == "sing"
    T = Translator.load(path) if ours else Translator.from_checkpoint(path, m=spaces.width)
    check_widths(path, tuple(T.weight.shape), (None, spaces.width), OTHERS)
    if with_bias and T.bias is None:
        raise SingError(f"{path} has no bias to add, as the paper's translator: leave --with-bias out.")
    for name, z in texts.items():
        require_width(z, T.weight.shape[0], name=f"the embedding of {name!r}")
    return T


def _merge(proofs: Sequence[Certificate]) -> Certificate:
    """One certificate of all pieces."""
    n, flips = sum(p.n for p in proofs), sum(p.top1_changes for p in proofs)
    return Certificate(n, max(p.relative_change for p in proofs), max(p.bound for p in proofs), flips)


# ------------------------------------------------------------------------------- tables


def _random(spaces: HeadSpaces, gram: Tensor, n: int, draws: int, seed: int) -> pd.DataFrame:
    """The book's control (`tables.random_energy`): |f Q|² / |f|², averaged over rows, is tr QᵀGQ / N."""
    bases = [random_basis(spaces.width, spaces.null_dim, seed=seed + draw) for draw in range(draws)]
    shares = [100 * float(((gram @ Q) * Q).sum()) / n for Q in bases]
    return pd.DataFrame({"draw": range(draws), "share": shares})


def _head(spaces: HeadSpaces, proof: Certificate) -> pd.DataFrame:
    row = {
        "m": spaces.width,
        "c": len(spaces.weight),
        "rank": spaces.rank,
        "null dimension": spaces.null_dim,
        "rows": proof.n,
        "max |W f − W f̃| / (‖W‖ ‖f‖)": proof.relative_change,
        "bound": proof.bound,
        "top-1 changes": proof.top1_changes,
    }
    return pd.DataFrame([row])


def _summary(found: Mapping[str, np.ndarray], names: Sequence[str]) -> pd.DataFrame:
    columns = [("null energy", "", found["share"], "%")]
    columns += [("IS", "", found["IS"], "°")] if "IS" in found else []
    columns += [("AS", name, found["AS"][:, k], "°") for k, name in enumerate(names)]
    return pd.DataFrame(
        {
            "what": what,
            "text": text,
            "rows": len(x),
            "mean": x.mean(),
            "sd": x.std(ddof=1) if len(x) > 1 else 0.0,
            "mean size": np.abs(x).mean(),
            "unit": unit,
        }
        for what, text, x, unit in columns
    )


def _by_row(
    found: Mapping[str, np.ndarray], index: pd.DataFrame | None, names: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """The tables rows (one row a feature) and, with texts, texts (one row a feature and text)."""
    n, k = len(found["share"]), len(names)
    named = {} if index is None else {c: index[c].to_numpy() for c in index}
    scored = {c: found[c] for c in ("share", "IS") if c in found}
    tables = {"rows": pd.DataFrame({"row": np.arange(n), **named, **scored})}
    if names:
        texts = pd.Categorical.from_codes(np.tile(np.arange(k), n), categories=list(names))
        angles = {c: found[c].ravel() for c in ("before", "after", "AS")}
        tables["texts"] = pd.DataFrame({"row": np.repeat(np.arange(n), k), "text": texts, **angles})
    return tables


def _write(out: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """All tables or none; those of an earlier analysis that this one has not go."""
    with contextlib.ExitStack() as stack:
        for name, table in tables.items():
            file = stack.enter_context(written(out / f"{name}.parquet"))
            table.to_parquet(file, index=False)
            os.fsync(file.fileno())  # all of it is on the disk before any appears
    for name in {*TABLES} - {*tables}:
        (out / f"{name}.parquet").unlink(missing_ok=True)


# ------------------------------------------------------------------------------- words


def _lines(spaces: HeadSpaces, proof: Certificate, random: pd.Series, summary: pd.DataFrame) -> Iterator[str]:
    yield (
        f"head: {len(spaces.weight)} classes x {spaces.width} features, rank {spaces.rank}, "
        f"null dimension {spaces.null_dim}"
    )
    yield (
        f"certificate: over {proof.n} features the logits moved by at most {proof.relative_change:.1e} of "
        f"|W||f| (rounding alone: {proof.bound:.1e}); top-1 class changed for {proof.top1_changes}"
    )
    for row in summary.to_dict("records"):
        if row["what"] == "null energy":
            yield (
                f"null energy: {row['mean']:.2f} % of the feature energy (mean of {row['rows']} rows, sd "
                f"{row['sd']:.2f} %); random subspaces of dimension {spaces.null_dim}: {random.mean():.2f} % "
                f"(mean of {len(random)}, {random.min():.2f} to {random.max():.2f} %)"
            )
        else:
            toward = f" toward {row['text']!r}" if row["text"] else ""
            size = f", mean |AS| {row['mean size']:.2f}°" if row["text"] else ""
            yield f"{row['what']}{toward}: mean {row['mean']:+.2f}°, sd {row['sd']:.2f}°{size}"


def _caveats(T: Translator, with_bias: bool) -> Iterator[str]:
    if T.report is None:
        yield "translator: its file does not say how well it does on rows that it was not fitted on"
    else:
        yield f"translator: cosine of Tf to z on held-out rows {T.report.held_out_cosine:.3f}"
    if left := T.meta.get("left out"):
        yield f"translator: fitted without the encoder's {left}, on which the classifier is built"
    if T.bias is not None:
        norm = float(torch.linalg.vector_norm(T.bias))
        used = "added here: other scores than the paper's" if with_bias else "left out, as in the paper"
        yield f"translator: a bias of norm {norm:.3g}, {used}"
