"""Controls of the translator where it is known what it can know."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sing_utils import HeadSpaces, Translator
from sing_utils.evidence.controls import remove_null
from sing_utils.evidence.translators import blind_scores, translator_parts

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


@pytest.mark.parametrize(("knows", "other"), [("principal", "null"), ("null", "principal")])
def test_embeddings_that_only_one_part_knows(world, knows, other):
    found = parts(world, torch.tensor([knows == "principal"] * R + [knows == "null"] * (M - R)))
    for part in (f"R², {knows} part alone", f"{knows} part, share of the rest", "R², whole"):
        assert found[part] > 0.99
    for part in (f"R², {other} part alone", f"{other} part, share of the rest"):
        assert found[part] == pytest.approx(0, abs=0.02)


def test_the_mean_picture_counts_for_nothing(world):
    """The null part's mean alone says nothing, however large."""
    spaces, f, true, _ = world
    f = f + torch.tensor([0.0] * R + [50.0] * (M - R))
    z = (f[:, :R]) @ true[:, :R].mT + 3.0
    fit, held_out = (f[:800], z[:800]), (f[800:], z[800:])
    found = translator_parts(Translator.fit(*fit, method="ridge"), spaces, fit, held_out)
    assert found["R², null part alone"] == pytest.approx(0, abs=0.02)
    assert found["null part, share of the rest"] < 0.1


def test_blind_worlds_show_what_is_found_where_nothing_is(world):
    """Null directions that mean nothing are like blind worlds, and those that mean something are not."""
    spaces, f, true, g = world
    own, codes = torch.arange(len(f)) % 4, torch.randn(4, M - R, generator=g, dtype=torch.float64)
    f = f.clone()
    f[:, R:] += codes[own]
    texts = codes @ true[:, R:].mT
    for means in (0.0, 1.0):
        known = torch.tensor([1.0] * R + [means] * (M - R))
        z = (f * known) @ true.mT + 2.0 * torch.randn(len(f), WIDTH, generator=g, dtype=torch.float64)
        fit, held_out = (f[:800], z[:800]), (f[800:], z[800:])
        T = Translator.fit(*fit, method="ridge")
        given = (T, spaces, fit, held_out, texts, own[800:])
        drawn = [r.statistics()["IS"] for r in blind_scores(*given, draws=9)]
        seen = remove_null(held_out[0], T, spaces, texts, own[800:]).statistics()["IS"]
        assert seen > 3 * max(drawn) if means else 0.5 * min(drawn) < seen < 2 * max(drawn)


def test_blind_residuals_are_as_large_as_on_photos_never_seen(world):
    spaces, f, true, g = world
    z = f @ true.mT + torch.randn(len(f), WIDTH, generator=g, dtype=torch.float64)
    fit, held_out = (f[:30], z[:30]), (f[800:], z[800:])  # hardly more photos than features
    T = Translator.fit(*fit, method="ridge", ridges=[1e-3])
    inside, outside = (float((y - T(x)).square().mean()) for x, y in (fit, held_out))
    assert outside > 1.5 * inside  # or there would be nothing to make up for
    texts, own = torch.eye(3, WIDTH, dtype=torch.float64), torch.arange(400) % 3
    wide = blind_scores(T, spaces, fit, held_out, texts, own, draws=10)
    narrow = blind_scores(T, spaces, fit, fit, texts, own[:30], draws=10)
    size = [np.mean([r.statistics()["IS"] for r in rs]) for rs in (wide, narrow)]
    assert size[0] > 1.15 * size[1]
