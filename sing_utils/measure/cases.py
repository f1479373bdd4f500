"""One classifier's evaluation photos with all that scores need, for controls that repeat a measurement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sing_utils.evidence.translators import Pairs
from sing_utils.method.head import HeadSpaces
from sing_utils.method.translator import Translator, split_rows
from sing_utils.models.judges import Judge
from sing_utils.runs.run import Run


@dataclass(frozen=True, eq=False)
class Case:
    """A classifier, its translator and its photos.

    Attributes:
        name: of the classifier.
        f: features of the evaluation photos, (N, m).
        z: their embeddings, (N, n).
        fit: features and embeddings that T was fitted on.
        T: the translator.
        spaces: of the classifier's head.
        texts: embeddings of all classes' prompts, (C, n).
        own: number of each evaluation photo's class, (N,).
        classes: their names, C of them.
        judge: what the embeddings are of.
    """

    name: str
    f: Tensor
    z: Tensor
    fit: Pairs
    T: Translator
    spaces: HeadSpaces
    texts: Tensor
    own: Tensor
    classes: list[str]
    judge: Judge

    @property
    def ridge(self) -> float:
        """What T was fitted with."""
        assert self.T.report is not None
        return self.T.report.ridge

    @property
    def held_out(self) -> Pairs:
        """Features and embeddings of the evaluation photos."""
        return self.f, self.z

    @cached_property
    def Tf(self) -> Tensor:
        """T f, (N, n)."""
        return self.T(self.f)

    @cached_property
    def Tf_tilde(self) -> Tensor:
        """T f~, (N, n)."""
        return self.T.after_null_removal(self.spaces)(self.f)


def cases(run: Run) -> Iterator[Case]:
    """One a classifier of the run, with the translator that notebook 01 kept."""
    for name in run.profile.classifiers:
        yield open_case(run, name, run.judge(name), run.translator(name))


def open_case(run: Run, name: str, judge: Judge, T: Translator | None = None) -> Case:
    """A classifier read by a judge.

    Args:
        run: whose pictures, and whose encoder's stores.
        name: of the classifier.
        judge: whose embeddings are the targets; of the run's encoder, or of some of its towers.
        T: the translator into them; None: fitted now, as notebook 01 does it.
    """
    data = run.photos(name, "all")
    z = data.z if judge.encoder is run.encoder else _targets(run, name, judge)
    evaluation = torch.from_numpy(data.index["evaluation"].to_numpy(copy=True))
    fit = data.f[~evaluation], z[~evaluation]
    p = run.profile
    T = T or Translator.fit(*fit, method="ridge", held_out=p.held_out, seed=p.seed)
    assert T.report is not None
    rows, _ = split_rows(len(fit[0]), held_out=T.report.held_out, seed=T.report.seed)
    return Case(
        name=name,
        f=data.f[evaluation],
        z=z[evaluation],
        fit=(fit[0][rows], fit[1][rows]),
        T=T,
        spaces=run.spaces(name),
        texts=judge.encode_text(run.prompts),
        own=data.own[evaluation],
        classes=run.classes,
        judge=judge,
    )


def _targets(run: Run, name: str, judge: Judge) -> Tensor:
    """The judge's embeddings of a classifier's pictures, in the order of `run.data`, (N, n)."""
    store = run.store(run.profile.encoder)
    chosen = torch.from_numpy(store.index["label"].isin(list(run.class_names)).to_numpy(copy=True))
    return judge.targets(store)[chosen]
