"""Controls of the translator where it is known what it can know."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sing_utils import HeadSpaces, Translator, TranslatorFitter, attribute_score
from sing_utils.controls import remove_null
from sing_utils.controls_translator import (
    blind_scores,
    correlation,
    half_translators,
    shuffled_scores,
    translator_noise,
    translator_parts,
)
from sing_utils.intervals import chance_p

M, R, WIDTH = 12, 7, 6


@pytest.fixture
def world():
    """A head that sees the first R features, and features with a mean."""
    g = torch.Generator().manual_seed(0)
    W = torch.eye(R, M, dtype=torch.float64)
    f = 0.5 + torch.randn(1200, M, generator=g, dtype=torch.float64)
    true = torch.randn(WIDTH, M, generator=g, dtype=torch.float64)
    return HeadSpaces.from_weight(W), f, true, g


def parts(world, keep):
    spaces, f, true, g = world
    z = (f * keep) @ true.mT + 0.1 * torch.randn(len(f), WIDTH, generator=g, dtype=torch.float64)
    fit, held_out = (f[:800], z[:800]), (f[800:], z[800:])
    return translator_parts(Translator.fit(*fit, method="ridge"), spaces, fit, held_out)


def test_embeddings_that_only_the_principal_part_knows(world):
    found = parts(world, torch.tensor([1.0] * R + [0.0] * (M - R)))
    assert found["R², principal part alone"] > 0.99
    assert found["R², whole"] > 0.99
    assert found["R², null part alone"] == pytest.approx(0, abs=0.02)
    assert found["null part, share of the rest"] == pytest.approx(0, abs=0.02)
    assert found["principal part, share of the rest"] > 0.99


def test_embeddings_that_only_the_null_part_knows(world):
    found = parts(world, torch.tensor([0.0] * R + [1.0] * (M - R)))
    assert found["R², null part alone"] > 0.99
    assert found["R², principal part alone"] == pytest.approx(0, abs=0.02)
    assert found["null part, share of the rest"] > 0.99
    assert found["principal part, share of the rest"] == pytest.approx(0, abs=0.02)


def test_the_mean_picture_counts_for_nothing(world):
    """The null part's mean alone says nothing, however large."""
    spaces, f, true, _ = world
    f = f + torch.tensor([0.0] * R + [50.0] * (M - R))
    z = (f[:, :R]) @ true[:, :R].mT + 3.0
    fit, held_out = (f[:800], z[:800]), (f[800:], z[800:])
    found = translator_parts(Translator.fit(*fit, method="ridge"), spaces, fit, held_out)
    assert found["R², null part alone"] == pytest.approx(0, abs=0.02)


def test_halves_share_no_photo(world):
    _, f, true, g = world
    z = f @ true.mT + torch.randn(len(f), WIDTH, generator=g, dtype=torch.float64)
    a, b = half_translators((f, z), 0.01, seed=3)
    order = torch.randperm(len(f), generator=torch.Generator().manual_seed(3))
    for T, rows in ((a, order[:600]), (b, order[600:])):
        fitter = TranslatorFitter(M, WIDTH)
        fitter.update(f[rows], z[rows])
        assert torch.allclose(T.weight, fitter.solve(ridge=0.01).weight, atol=1e-12)
    assert not torch.allclose(a.weight, b.weight, atol=1e-3)


def test_a_shuffled_translator_knows_only_the_mean(world):
    spaces, f, true, g = world
    own = torch.arange(400) % 3
    texts = torch.randn(3, WIDTH, generator=g, dtype=torch.float64)
    f = f.clone()
    f[:400, R:] += 2 * torch.linalg.lstsq(true[:, R:], texts.mT).solution.mT[own]  # class, in the null part
    z = f @ true.mT
    real = remove_null(f[:400], Translator.fit(f, z, method="ridge"), spaces, texts, own).statistics()
    shuffled = shuffled_scores((f, z), 1e-3, spaces, f[:400], texts, own, shuffles=10)
    contrasts = [r.statistics()["contrast"] for r in shuffled]
    assert real["contrast"] < -5
    assert np.abs(contrasts).max() < 0.5 * abs(real["contrast"])
    assert len(set(contrasts)) == 10


@pytest.mark.parametrize("means", [0.0, 1.0])
def test_only_null_directions_that_mean_something_are_told_from_blind_worlds(world, means):
    spaces, f, true, g = world
    own = torch.arange(len(f)) % 4
    codes = torch.randn(4, M - R, generator=g, dtype=torch.float64)
    f = f.clone()
    f[:, R:] += codes[own]
    known = torch.tensor([1.0] * R + [means] * (M - R))
    p = []
    for _ in range(1 if means else 40):
        z = (f * known) @ true.mT + 2.0 * torch.randn(len(f), WIDTH, generator=g, dtype=torch.float64)
        texts = codes @ true[:, R:].mT
        fit, held_out = (f[:800], z[:800]), (f[800:], z[800:])
        T = Translator.fit(*fit, method="ridge")
        given = (T, T.report.ridge, spaces, fit, held_out, texts, own[800:])
        drawn = [r.statistics()["contrast"] for r in blind_scores(*given, draws=19)]
        seen = remove_null(held_out[0], T, spaces, texts, own[800:]).statistics()["contrast"]
        p.append(chance_p(seen, drawn))
    if means:
        assert seen < min(drawn) - 5
        assert p[0] < 1e-3
    else:
        assert np.mean(np.array(p) < 0.05) <= 0.15
        assert np.median(p) > 0.25


def test_blind_residuals_are_as_large_as_on_photos_never_seen(world):
    spaces, f, true, g = world
    z = f @ true.mT + torch.randn(len(f), WIDTH, generator=g, dtype=torch.float64)
    fit, held_out = (f[:30], z[:30]), (f[800:], z[800:])  # hardly more photos than features
    T = Translator.fit(*fit, method="ridge", ridges=[1e-3])
    inside, outside = (float((y - T(x)).square().mean()) for x, y in (fit, held_out))
    assert outside > 1.5 * inside  # or there would be nothing to make up for
    texts, own = torch.eye(3, WIDTH, dtype=torch.float64), torch.arange(400) % 3
    wide = blind_scores(T, 1e-3, spaces, fit, held_out, texts, own, draws=10)
    narrow = blind_scores(T, 1e-3, spaces, fit, fit, texts, own[:30], draws=10)
    size = [np.mean([r.statistics()["IS"] for r in rs]) for rs in (wide, narrow)]
    assert size[0] > 1.15 * size[1]


def test_the_noise_floor_is_the_spread_over_other_samples(world):
    """200 translators, each fitted on other photos: how much their AS of one photo varies."""
    spaces, f, true, g = world
    texts = torch.randn(60, WIDTH, generator=g, dtype=torch.float64)
    shown, ridge, noise = f[:60], 0.5, 0.8

    def sample(rows=300):
        x = 0.5 + torch.randn(rows, M, generator=g, dtype=torch.float64)
        return x, x @ true.mT + noise * torch.randn(rows, WIDTH, generator=g, dtype=torch.float64)

    def fitted(fit):
        fitter = TranslatorFitter(M, WIDTH)
        fitter.update(*fit)
        return fitter.solve(ridge=ridge)

    scores = []
    for _ in range(200):
        T = fitted(sample())
        scores.append(attribute_score(T(shown), T.after_null_removal(spaces)(shown), texts))
    spread = torch.stack(scores).std(0)  # (60,)
    fit = sample()
    held_out = (shown, shown @ true.mT + noise * torch.randn(60, WIDTH, generator=g, dtype=torch.float64))
    found = translator_noise(fitted(fit), ridge, spaces, fit, held_out, texts)
    assert float((found.floor / spread).median()) == pytest.approx(1, abs=0.2)
    assert correlation(found.floor.log(), spread.log()) > 0.9


def test_the_error_of_the_angle_is_that_of_the_translation(world):
    spaces, f, true, _ = world
    texts = torch.ones(50, WIDTH, dtype=torch.float64)
    z = f[:50] @ true.mT
    found = translator_noise(Translator(true), 0.1, spaces, (f, f @ true.mT), (f[:50], z), texts)
    assert float(found.angle.max()) < 1e-6
    assert float(found.floor.max()) < 1e-6  # without a residual T is certain


def test_correlation_of_what_does_not_vary_is_unknown():
    assert np.isnan(correlation(torch.ones(4), torch.arange(4.0)))
    assert correlation(torch.arange(4.0), -torch.arange(4.0)) == pytest.approx(-1)
