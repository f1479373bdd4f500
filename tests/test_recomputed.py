"""The default run's headline numbers, computed a second time by numpy alone, from features, embeddings and W.

Nothing of the package is called but to read its inputs. Formulas are those of the paper (eqs. 1 to 13) and of
the score beyond the logits; angles by arc cosine, which float64 allows where they are above 0.001 degrees.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from sing_utils import open_run

NAME = "efficientnet_lite0"


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def degrees(x, y):
    """Angles between all rows of x and of y."""
    return np.degrees(np.arccos(np.clip(unit(x) @ unit(y).T, -1, 1)))


def paired(x, y):
    return np.degrees(np.arccos(np.clip((unit(x) * unit(y)).sum(-1), -1, 1)))


class Inputs:
    """What the numbers are made from, as float64 arrays."""

    def __init__(self, root):
        run = open_run("embedded", str(root / "_build" / "runs" / "embedded"), must_exist=True)
        fit, new = run.photos(NAME, "fit"), run.photos(NAME)
        self.results = run.folder / "results"
        self.F, self.Z, self.f = (x.double().numpy() for x in (fit.f, fit.z, new.f))
        self.W = run.head(NAME).weight.double().numpy()
        self.own, self.classes = new.own.numpy(), new.index["class"].to_numpy()
        self.texts = run.texts(NAME, run.prompts).double().numpy()
        self.target = run.texts(NAME, ["an image of a jellyfish"])[0].double().numpy()
        order = torch.randperm(len(self.F), generator=torch.Generator().manual_seed(0)).numpy()
        cut = round(0.1 * len(order))
        self.held, self.rows = order[:cut], order[cut:]
        S, Vh = np.linalg.svd(self.W, full_matrices=True)[1:]
        self.null = Vh[(max(self.W.shape) * np.finfo(np.float32).eps * S[0] < S).sum() :].T  # (m, m - r)
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

    def scores(self, before, after):
        AS = degrees(before, self.texts) - degrees(after, self.texts)
        mine = AS[np.arange(len(AS)), self.own]
        others = (AS.sum(1) - mine) / (AS.shape[1] - 1)
        return {"AS": mine, "contrast": mine - others, "IS": paired(before, after)}

    def table(self, name):
        return pd.read_parquet(self.results / f"{name}.parquet").query("classifier == @NAME")


@pytest.fixture(scope="module")
def inputs(root):
    if not (root / "_build" / "runs" / "embedded" / "results").is_dir():
        pytest.skip("there is no default run in _build/runs")
    return Inputs(root)


def test_null_removal(inputs):
    f_tilde = inputs.f - inputs.f @ inputs.null @ inputs.null.T
    found, table = inputs.scores(inputs.f @ inputs.T.T, f_tilde @ inputs.T.T), inputs.table("photo_scores")
    for column, values in found.items():
        np.testing.assert_allclose(table[column], values, atol=2e-5)  # T is kept in single precision


def test_beyond_the_logits(inputs):
    mu, z_mean = inputs.F[inputs.rows].mean(0), inputs.Z[inputs.rows].mean(0)
    F, Z, f = inputs.F - mu, inputs.Z - z_mean, inputs.f - mu
    logits = F @ inputs.W.T  # (N, c)
    variance = (logits[inputs.rows] ** 2).mean()  # of a logit, over photos and classes
    C = inputs.ridge(logits, Z, variance).T
    white = logits[inputs.rows]
    D = np.linalg.lstsq(white, F[inputs.rows] @ inputs.null, rcond=1e-12)[0]
    rest = F @ inputs.null - logits @ D  # what the logits do not tell of the null component
    covariance = rest[inputs.rows].T @ rest[inputs.rows] / len(inputs.rows)
    gain = np.linalg.solve(covariance, rest[inputs.rows].T @ Z[inputs.rows] / len(inputs.rows))
    adds, left = rest[inputs.held] @ gain, (Z - logits @ C)[inputs.held]
    s = np.clip((adds * left).sum() / (adds**2).sum(), 0, 1)
    z_logits = z_mean + f @ inputs.W.T @ C
    z_whole = z_logits + s * (f @ inputs.null - f @ inputs.W.T @ D) @ gain
    table = inputs.table("photo_scores")
    for column, values in inputs.scores(z_whole, z_logits).items():
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
