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
Everything is read in pieces, so memory does not grow with the number of rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import normalize

from sing_utils.errors import SingError
from sing_utils.features.shards import locked, require_place
from sing_utils.features.store import require_one_network
from sing_utils.measure.analyze_files import Sink, open_features
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
    linear = LinearHead.load(head)
    spaces = HeadSpaces.from_weight(linear.weight)
    rows = open_features(features)
    scorer = None if translator is None else _Scorer.open(translator, spaces, texts or {}, with_bias)
    parts = {f"the head {head}": linear.sha256, f"the features {features}": rows.network}
    if scorer is not None:
        parts[f"the translator {translator}"] = scorer.T.meta.get("network", "")
    silent = require_one_network(parts)
    if scorer is None and (texts or with_bias):
        raise SingError("texts and bias need a translator, expected one: give its file too.")
    proof = Certificate(0, 0.0, 0.0, 0)
    gram = torch.zeros(spaces.width, spaces.width, dtype=torch.float64)
    sums: dict[tuple[str, str], _Sums] = {}
    with contextlib.ExitStack() as stack:
        if out is not None:
            stack.enter_context(locked(Path(out)))
            require_place(Path(out) / "rows.parquet")
        sink = Sink(Path(out), stack) if out is not None else None
        for start, f in rows.pieces():
            require_width(f, spaces.width, name=f"f of {rows.path}")
            proof = _merge(proof, spaces.certificate(f, bias=linear.bias).check())
            unit = normalize(f.to(torch.float64), dim=-1)
            gram += unit.mT @ unit  # the mean share of any subspace follows from it
            table, scores = _score(f, spaces, scorer)
            _add(sums, table, scores)
            if sink is not None:
                _write_rows(sink, start, table, scores, rows.index, list(texts or {}))
        if proof.n == 0:
            raise SingError(f"{rows.path} holds no row, expected at least one feature vector.")
        found = _analysis(spaces, proof, _random(spaces, gram, proof.n, draws, seed), sums, scorer)
        if silent:
            found = replace(found, text=f"{found.text}\nnot checked: of which network {', '.join(silent)} is")
        if sink is not None:
            for name in ("head", "random", "summary"):
                sink.add(name, getattr(found, name))
            sink.finish(TABLES)
    return found


def _open_translator(path: str | Path, *, m: int | None = None, n: int | None = None) -> Translator:
    """A translator from either kind of file: one that `Translator.save` wrote, or a published checkpoint.

    Raises:
        SingError: as `Translator.load` and `Translator.from_checkpoint` do, also for other widths.
    """
    path = Path(path)
    if not _is_ours(path):
        return Translator.from_checkpoint(path, m=m, n=n)
    T = Translator.load(path)
    check_widths(path, tuple(T.weight.shape), (n, m), OTHERS)
    return T


def _is_ours(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as tensors:
            return (tensors.metadata() or {}).get("format") == "sing"
    except (OSError, SafetensorError):
        return False


# ------------------------------------------------------------------------------- scoring


@dataclass(frozen=True, eq=False)
class _Scorer:
    """T and T Π_p, and the texts to compare with: names, embeddings (K, n)."""

    T: Translator
    after: Translator
    names: list[str]
    z_text: Tensor | None
    with_bias: bool

    @classmethod
    def open(
        cls, path: str | Path, spaces: HeadSpaces, texts: Mapping[str, Tensor], with_bias: bool
    ) -> _Scorer:
        T = _open_translator(path, m=spaces.width)
        if with_bias and T.bias is None:
            raise SingError(f"{path} has no bias to add, as the paper's translator: leave --with-bias out.")
        for name, z in texts.items():
            require_width(z, T.weight.shape[0], name=f"the embedding of {name!r}")
        z_text = torch.stack(list(texts.values())) if texts else None
        return cls(T, T.after_null_removal(spaces), list(texts), z_text, with_bias)

    def __call__(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """(B, m) -> T f and T f~, (B, n) each."""
        return self.T(f, with_bias=self.with_bias), self.after(f, with_bias=self.with_bias)


def _score(
    f: Tensor, spaces: HeadSpaces, scorer: _Scorer | None
) -> tuple[pd.DataFrame, dict[str, Tensor] | None]:
    """Null share (percent) and IS a row; and, with texts, angles and AS, (B, K) each, degrees."""
    table = pd.DataFrame({"share": 100 * spaces.null_energy(f).numpy()})
    if scorer is None:
        return table, None
    z, z_tilde = scorer(f)  # (B, n) each
    table["IS"] = image_score(z, z_tilde).numpy()
    if scorer.z_text is None:
        return table, None
    before, after = (pairwise_angle(x, scorer.z_text) for x in (z, z_tilde))
    return table, {"before": before, "after": after, "AS": before - after}  # eq. 7


def _merge(a: Certificate, b: Certificate) -> Certificate:
    moved, bound = max(a.relative_change, b.relative_change), max(a.bound, b.bound)
    return Certificate(a.n + b.n, moved, bound, a.top1_changes + b.top1_changes)


def _random(spaces: HeadSpaces, gram: Tensor, n: int, draws: int, seed: int) -> pd.DataFrame:
    """The book's control (`tables.random_energy`): |f Q|² / |f|², averaged over rows, is tr QᵀGQ / N."""
    rows = []
    for draw in range(draws):
        Q = random_basis(spaces.width, spaces.null_dim, seed=seed + draw)
        rows.append({"draw": draw, "share": 100 * float(((gram @ Q) * Q).sum()) / n})
    return pd.DataFrame(rows, columns=["draw", "share"])


# ------------------------------------------------------------------------------- results


@dataclass
class _Sums:
    """Running sums: N, Σx, Σx², Σ|x|."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    size: float = 0.0

    def add(self, x: Tensor) -> None:
        self.n += x.numel()
        self.total += float(x.sum())
        self.squares += float(x.square().sum())
        self.size += float(x.abs().sum())

    def row(self) -> dict[str, Any]:
        mean = self.total / self.n
        spread = max(self.squares / self.n - mean**2, 0.0) * self.n / max(self.n - 1, 1)
        return {"rows": self.n, "mean": mean, "sd": spread**0.5, "mean size": self.size / self.n}


def _add(sums: dict[tuple[str, str], _Sums], table: pd.DataFrame, scores: dict[str, Tensor] | None) -> None:
    for column in table:
        values = torch.from_numpy(table[column].to_numpy(copy=True))
        sums.setdefault((str(column), ""), _Sums()).add(values)
    if scores is not None:
        for k, values in enumerate(scores["AS"].unbind(1)):
            sums.setdefault(("AS", str(k)), _Sums()).add(values)


def _write_rows(
    sink: Sink,
    start: int,
    table: pd.DataFrame,
    scores: dict[str, Tensor] | None,
    index: pd.DataFrame | None,
    texts: list[str],
) -> None:
    numbers = np.arange(start, start + len(table))
    named = {} if index is None else {k: index[k].to_numpy()[numbers] for k in index}
    sink.add("rows", pd.DataFrame({"row": numbers, **named, **{k: table[k] for k in table}}))
    if scores is not None:
        codes = np.tile(np.arange(len(texts)), len(table))
        keys = {
            "row": np.repeat(numbers, len(texts)),
            "text": pd.Categorical.from_codes(codes, categories=texts),
        }
        sink.add("texts", pd.DataFrame(keys | {name: x.flatten().numpy() for name, x in scores.items()}))


def _analysis(
    spaces: HeadSpaces,
    proof: Certificate,
    random: pd.DataFrame,
    sums: dict[tuple[str, str], _Sums],
    scorer: _Scorer | None,
) -> Analysis:
    head = {
        "m": spaces.width,
        "c": len(spaces.weight),
        "rank": spaces.rank,
        "null dimension": spaces.null_dim,
        "rows": proof.n,
        "max |W f − W f̃| / (‖W‖ ‖f‖)": proof.relative_change,
        "bound": proof.bound,
        "top-1 changes": proof.top1_changes,
    }
    what = {"share": "null energy", "IS": "IS", "AS": "AS"}
    summary = pd.DataFrame(
        {
            "what": what[kind],
            "text": scorer.names[int(k)] if scorer is not None and k else "",
            **s.row(),
            "unit": "%" if kind == "share" else "°",
        }
        for (kind, k), s in sums.items()
    )
    lines = _lines(spaces, proof, random["share"], summary, scorer)
    return Analysis(pd.DataFrame([head]), random, summary, "\n".join(lines))


def _lines(
    spaces: HeadSpaces,
    proof: Certificate,
    random: pd.Series,
    summary: pd.DataFrame,
    scorer: _Scorer | None,
) -> Iterator[str]:
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
    if scorer is not None:
        yield from _caveats(scorer)


def _caveats(scorer: _Scorer) -> Iterator[str]:
    report, bias = scorer.T.report, scorer.T.bias
    if report is None:
        yield "translator: its file does not say how well it does on rows that it was not fitted on"
    else:
        yield f"translator: cosine of Tf to z on held-out rows {report.held_out_cosine:.3f}"
    if left := scorer.T.meta.get("left out"):
        yield f"translator: fitted without the encoder's {left}, on which the classifier is built"
    if bias is not None:
        norm = float(torch.linalg.vector_norm(bias))
        used = (
            "added here: other scores than the paper's" if scorer.with_bias else "left out, as in the paper"
        )
        yield f"translator: a bias of norm {norm:.3g}, {used}"
