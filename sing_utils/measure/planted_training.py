"""Training for a small |AS|, judged by a yardstick that no basis moves.

The paper's Discussion proposes to train for a small Attribute Score. Here the recoding layer and the head of
a planted network are trained on scenes whose background goes with the shape nine times in ten, by
cross-entropy plus λ times the mean |AS| toward the own shape. The translator of eq. 4 follows every step: in
closed form it is a function of the layer, so the penalty can't be met by running away from it.

>>> from sing_utils.planted.scores import build_world
>>> world = build_world(0, scenes=400, evaluation=60)
>>> table = trained_for_small_AS([world], penalties=(0.0, 0.1), steps=3)
>>> table["network"].tolist()
['as planted', 'null part × 0.3', 'trained, λ = 0', 'trained, λ = 0.1']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sing_utils.measure.planted import means
from sing_utils.method.translator import Translator
from sing_utils.planted.heads import Planted, following
from sing_utils.planted.scenes import FACTORS, HEADS
from sing_utils.planted.scores import World, beyond, fit_translator, measure, truth

PENALTIES = (0.0, 0.01, 0.1, 1.0)  # λ, nats a degree
SHRUNK = 0.3  # what the null part is multiplied with where nothing is trained
_STEPS, _RATE = 200, 1e-3  # of Adam, all scenes at once
_REFIT = 20  # steps after which the ridge is chosen anew
PLANTED, SMALLER = "as planted", f"null part × {SHRUNK}"
_SCORES = ("|AS|", "contrast", "|AS| beyond", "contrast beyond", "IS", "IS beyond")


@dataclass(frozen=True, eq=False)
class Penalised:
    """Cross-entropy + λ mean |AS| of a layer and a head, in which gradients flow through both and through T.

    Attributes:
        x: pooled features with a 1 behind them, of the scenes to train on, (B, 129).
        shape: number of their shape, (B,).
        text: embedding of their shape's prompt, (B, n).
        xx: mean of x xᵀ over the scenes that T is fitted on, (129, 129).
        xz: mean of x zᵀ over the same, (129, n).
        penalty: λ, nats a degree.
    """

    x: Tensor
    shape: Tensor
    text: Tensor
    xx: Tensor
    xz: Tensor
    penalty: float

    def __call__(self, ridge: float, layer: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The loss, given T's ridge as in `FitReport`, the layer (129, m), and the head (c, m), (c,)."""
        f = self.x @ layer  # (B, m)
        loss = nn.functional.cross_entropy(f @ weight.mT + bias, self.shape)
        if not self.penalty:
            return loss
        ff, fz = layer.mT @ self.xx @ layer, layer.mT @ self.xz
        T = torch.linalg.solve(ff + ridge * torch.eye(len(ff), dtype=ff.dtype), fz)  # eq. 4: (m, n)
        f_tilde = f @ weight.mT @ torch.linalg.solve(weight @ weight.mT, weight)  # eq. 9
        AS = _angle(f @ T, self.text) - _angle(f_tilde @ T, self.text)  # eq. 7
        return loss + self.penalty * AS.abs().mean()


def _angle(x: Tensor, y: Tensor) -> Tensor:
    """`sing_utils.angle` with gradients, degrees."""
    a, b = nn.functional.normalize(x, dim=-1), nn.functional.normalize(y, dim=-1)
    return torch.rad2deg(2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)))


def ten_outputs(world: World) -> Planted:
    """The head "clean" without its outputs for other things: its logits say the shape and nothing else."""
    head, c = world.plant("clean", **HEADS["clean"]), len(FACTORS["shape"])
    return replace(head, weight=head.weight[:c], bias=head.bias[:c])


def penalised(world: World, penalty: float, *, seed: int = 0) -> Penalised:
    """The loss on the scenes of a world whose background goes with the shape nine times in ten."""
    rows, h, z = following(world.fit.levels, seed), world.fit.h, world.fit.z["planted"]
    x = torch.cat([h, torch.ones(len(h), 1)], 1).double()
    shape = torch.from_numpy(world.fit.levels[rows, 0]).long()
    xx, xz = x.mT @ x / len(x), x.mT @ z / len(x)
    text = world.texts(world.prompts)[shape]
    return Penalised(x[rows].float(), shape, text.float(), xx.float(), xz.float(), penalty)


def train(world: World, head: Planted, penalty: float, *, steps: int = _STEPS) -> Planted:
    """Train a head and the layer before it by `Penalised`.

    Args:
        world: whose scenes are trained on.
        head: to start from.
        penalty: λ, nats a degree.
        steps: of Adam.
    """
    loss = penalised(world, penalty)
    parts = [p.float().requires_grad_() for p in (head.layer, head.weight, head.bias)]
    optimiser, ridge, trained = torch.optim.Adam(parts, lr=_RATE), 0.0, head
    for step in range(steps):
        if penalty and step % _REFIT == 0:
            ridge = _ridge(fit_translator(world, trained))
        optimiser.zero_grad()
        loss(ridge, *parts).backward()
        optimiser.step()
        layer, weight, bias = (p.detach().double() for p in parts)
        trained = replace(head, layer=layer, weight=weight, bias=bias)
    return trained


def _ridge(T: Translator) -> float:
    assert T.report is not None
    return T.report.ridge


def trained_for_small_AS(
    worlds: Sequence[World], *, penalties: Sequence[float] = PENALTIES, steps: int = _STEPS
) -> pd.DataFrame:
    """The planted head, its null part shrunk without training, and heads trained for a small |AS|.

    One row a world and network. Columns: |AS|, contrast and IS toward the shape, and the same beyond the
    logits, degrees; "|AS|, T kept", by the translator of the planted head; "accuracy", and "accuracy,
    background reversed", where the background is not the one that went with the shape; "shape unsaid", the
    share of the shape's code that the logits do not say; "null part", its share of the feature's variance
    over scenes.
    """
    return pd.DataFrame([row for world in worlds for row in _networks(world, penalties, steps)])


def _networks(world: World, penalties: Sequence[float], steps: int) -> list[dict[str, Any]]:
    head = ten_outputs(world)
    kept = fit_translator(world, head)
    V_n = head.spaces().null_basis
    shrink = torch.eye(len(V_n)).double() - (1 - SHRUNK) * V_n @ V_n.mT
    networks = {PLANTED: head, SMALLER: head.rewritten(shrink)}
    networks |= {f"trained, λ = {p:g}": train(world, head, p, steps=steps) for p in penalties}
    levels = world.evaluation.levels
    follows = levels[:, list(FACTORS).index("background")] == levels[:, 0] % len(FACTORS["background"])
    rows = []
    for name, own in networks.items():
        pair = beyond(world, own)
        scores = measure(world, own, pair=pair).set_index("factor").loc["shape"]
        photos = world.photos(own)
        hits = (own.logits(photos.f).argmax(1) == photos.own).double().numpy()
        rows.append(
            {
                "seed": world.seed,
                "network": name,
                **{score: float(scores[score]) for score in _SCORES},
                "|AS|, T kept": float(measure(world, own, kept, pair=pair)["|AS|"].iloc[0]),
                "accuracy": float(hits.mean()),
                "accuracy, background reversed": float(hits[~follows].mean()),
                "shape unsaid": truth(world, own)["shape"],
                "null part": _null_share(world, own),
            }
        )
    return rows


def _null_share(world: World, head: Planted) -> float:
    """Share of the feature's variance over scenes that lies in the null space."""
    f = world.photos(head).f
    f = f - f.mean(0)
    return float(head.spaces().null_component(f).square().sum() / f.square().sum())


def training_means(table: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """One row a network and measure of `trained_for_small_AS`: its mean over worlds with the interval."""
    columns = [c for c in table if c not in ("seed", "network")]
    long = table.melt(["seed", "network"], columns, var_name="measure", value_name="found")
    return means(long, ["measure", "network"], "found", level=level)
