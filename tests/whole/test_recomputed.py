"""The default run's headline numbers, computed a second time by numpy alone, from features, embeddings and W.

Nothing of the package is called but to read its inputs. Formulas are those of the paper (eqs. 1 to 13) and of
the score beyond the logits; angles by arc cosine, which float64 allows where they are above 0.001 degrees.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from sing_utils import open_run
from sing_utils.planted.scenes import FACTORS, HEADS
from sing_utils.planted.scores import build_world, measure, truth

NAME = "efficientnet_lite0"


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def degrees(x, y):
    """Angles between all rows of x and of y."""
    return np.degrees(np.arccos(np.clip(unit(x) @ unit(y).T, -1, 1)))


def paired(x, y):
    return np.degrees(np.arccos(np.clip((unit(x) * unit(y)).sum(-1), -1, 1)))


class Reader:
    """One head's two readings, as arrays in float64: null removal through a ridge, and beyond the logits."""

    def __init__(self, F, Z, f, W, texts, single=False):
        self.F, self.Z, self.f, self.W, self.texts = (
            np.asarray(x, dtype=np.float64) for x in (F, Z, f, W, texts)
        )
        order = torch.randperm(len(self.F), generator=torch.Generator().manual_seed(0)).numpy()
        cut = round(0.1 * len(order))
        self.held, self.rows = order[:cut], order[cut:]
        eps = np.finfo(np.float32 if single else np.float64).eps  # as W was stored
        S, Vh = np.linalg.svd(self.W, full_matrices=True)[1:]
        self.null = Vh[(max(self.W.shape) * eps * S[0] < S).sum() :].T  # (m, m - r)
        self.T = self.ridge(self.F, self.Z, (self.F[self.rows] ** 2).mean())

    def ridge(self, x, y, scale):
        """The map whose penalty, in half decades from 10^-6 to 100 of the scale, is best on held rows."""
        gram, cross = (
            x[self.rows].T @ x[self.rows] / len(self.rows),
            x[self.rows].T @ y[self.rows] / len(self.rows),
        )
        values, vectors = np.linalg.eigh(gram)
        maps = [
            (vectors @ ((vectors.T @ cross) / (values.clip(0)[:, None] + scale * 10.0 ** (k / 2)))).T
            for k in range(-12, 5)
        ]
        return min(maps, key=lambda T: ((x[self.held] @ T.T - y[self.held]) ** 2).sum())

    def scores(self, before, after, own):
        AS = degrees(before, self.texts) - degrees(after, self.texts)
        mine = AS[np.arange(len(AS)), own]
        others = (AS.sum(1) - mine) / (AS.shape[1] - 1)
        return {"AS": mine, "contrast": mine - others, "IS": paired(before, after)}

    def removed(self):
        """T f and T f~."""
        return self.f @ self.T.T, (self.f - self.f @ self.null @ self.null.T) @ self.T.T

    def beyond(self):
        """What stands in their places beyond the logits."""
        mu, z_mean = self.F[self.rows].mean(0), self.Z[self.rows].mean(0)
        F, Z, f = self.F - mu, self.Z - z_mean, self.f - mu
        logits = F @ self.W.T  # (N, c)
        variance = (logits[self.rows] ** 2).mean()  # of a logit, over photos and classes
        C = self.ridge(logits, Z, variance).T
        D = np.linalg.lstsq(logits[self.rows], F[self.rows] @ self.null, rcond=1e-12)[0]
        rest = F @ self.null - logits @ D  # what the logits do not tell of the null component
        covariance = rest[self.rows].T @ rest[self.rows] / len(self.rows)
        gain = np.linalg.solve(covariance, rest[self.rows].T @ Z[self.rows] / len(self.rows))
        adds, left = rest[self.held] @ gain, (Z - logits @ C)[self.held]
        s = np.clip((adds * left).sum() / (adds**2).sum(), 0, 1)
        z_logits = z_mean + f @ self.W.T @ C
        return z_logits + s * (f @ self.null - f @ self.W.T @ D) @ gain, z_logits


class Inputs(Reader):
    """What the numbers of one classifier are made from."""

    def __init__(self, root):
        run = open_run("embedded", str(root / "_build" / "runs" / "embedded"), must_exist=True)
        fit, new = run.photos(NAME, "fit"), run.photos(NAME)
        self.results = run.folder / "results"
        self.own, self.classes = new.own.numpy(), new.index["class"].to_numpy()
        self.target = run.texts(NAME, ["an image of a jellyfish"])[0].double().numpy()
        texts = run.texts(NAME, run.prompts)
        super().__init__(fit.f, fit.z, new.f, run.head(NAME).weight, texts, single=True)

    def table(self, name):
        return pd.read_parquet(self.results / f"{name}.parquet").query("classifier == @NAME")


@pytest.fixture(scope="module")
def inputs(root):
    if not (root / "_build" / "runs" / "embedded" / "results").is_dir():
        pytest.skip("there is no default run in _build/runs")
    return Inputs(root)


def test_null_removal(inputs):
    found, table = inputs.scores(*inputs.removed(), inputs.own), inputs.table("photo_scores")
    for column, values in found.items():
        np.testing.assert_allclose(table[column], values, atol=2e-5)  # T is kept in single precision


def test_beyond_the_logits(inputs):
    table = inputs.table("photo_scores")
    for column, values in inputs.scores(*inputs.beyond(), inputs.own).items():
        np.testing.assert_allclose(table[f"{column} beyond"], values, atol=1e-6)


def test_table_1(inputs):
    f = inputs.f[inputs.classes == "sports car"]
    z, u = f @ inputs.T.T, unit(inputs.target)
    v = unit(z)
    g = ((u - (v @ u)[:, None] * v) / np.linalg.norm(z, axis=1, keepdims=True)) @ inputs.T  # eq. 11
    d = unit(g @ inputs.null @ inputs.null.T)  # eq. 12
    low, high = np.zeros(len(f)), np.full(len(f), 1e3)
    for _ in range(80):  # halve until IS is 40 degrees, without the closed form
        epsilon = (low + high) / 2
        near = paired(z, z + epsilon[:, None] * (d @ inputs.T.T)) < 40
        low, high = np.where(near, epsilon, low), np.where(near, high, epsilon)
    moved = z + epsilon[:, None] * (d @ inputs.T.T)
    AS = (degrees(z, u[None]) - degrees(moved, u[None]))[:, 0]
    row = inputs.table("steering").query("direction == 'toward the text'").iloc[0]
    assert row["|AS| mean"] == pytest.approx(np.abs(AS).mean(), abs=1e-5)
    assert row["|AS| sd"] == pytest.approx(np.abs(AS).std(ddof=1), abs=1e-5)


def test_a_row_of_the_planted_world():
    """The leaky head and its shape: what is planted, and what both readings say of it."""
    world = build_world(0, scenes=1500, evaluation=200)
    head, shapes = world.plant("leaky", **HEADS["leaky"]), len(FACTORS["shape"])
    F, f = (head.features(s.h).numpy() for s in (world.fit, world.evaluation))
    own = world.evaluation.levels[:, 0]
    by = Reader(F, world.fit.z["planted"], f, head.weight, world.texts(world.prompts))
    row = measure(world, head).set_index("factor").loc["shape"]
    for tail, pair in {"": by.removed(), " beyond": by.beyond()}.items():
        found = by.scores(*pair, own)
        assert row[f"|AS|{tail}"] == pytest.approx(np.median(np.abs(found["AS"])), abs=2e-5)
        assert row[f"contrast{tail}"] == pytest.approx(found["contrast"].mean(), abs=2e-5)
        assert row[f"IS{tail}"] == pytest.approx(np.median(found["IS"]), abs=2e-5)

    one = [np.c_[s.h.double().numpy(), np.ones(len(s.h))] for s in (world.fit, world.evaluation)]
    levels = np.eye(shapes)[world.fit.levels[:, 0]]
    code, new = (x @ np.linalg.lstsq(one[0], levels, rcond=None)[0] for x in one)  # as the pictures say it
    told, asked = (np.c_[x @ by.W.T, np.ones(len(x))] for x in (F, f))
    code_of = np.linalg.lstsq(told, code, rcond=1e-9)[0]
    left, spread = new - asked @ code_of, new - code.mean(0)
    assert (left**2).sum() / (spread**2).sum() == pytest.approx(truth(world, head)["shape"], abs=0.01)
    left, spread = code - told @ code_of, code - code.mean(0)  # on scenes that it was fitted on
    assert (left**2).sum() / (spread**2).sum() == pytest.approx(row["planted"], abs=0.02)
