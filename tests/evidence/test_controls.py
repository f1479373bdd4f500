"""Controls on data whose answer is known; that a random null space is like chance is in `test_levels`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from sing_utils import HeadSpaces, SingError, Translator, attribute_score, image_score
from sing_utils.evidence import SOFTMAX
from sing_utils.evidence.controls import (
    at_energy,
    energy_share,
    other_names,
    random_spans,
    rank_rules,
    remove_null,
    remove_random,
)
from sing_utils.evidence.intervals import percentile, permutation_p
from sing_utils.method.scores import contrast, pairwise_angle

M, K, C, N, WIDTH = 24, 10, 5, 120, 16


def photos():
    """Features of C classes: a common mean, a direction a class, and noise; T f knows all three."""
    g = torch.Generator().manual_seed(0)
    own = torch.arange(N) % C
    directions = torch.randn(C, M, generator=g, dtype=torch.float64)
    f = 1.0 + 2 * directions[own] + 0.7 * torch.randn(N, M, generator=g, dtype=torch.float64)
    T = torch.randn(WIDTH, M, generator=g, dtype=torch.float64)
    texts = (directions - directions.mean(0)) @ T.mT + 0.5 * torch.randn(C, WIDTH, generator=g).double()
    return f, T, texts, own, directions


def bases(f, **options):
    axes, spans = random_spans(f, dim=K, **options)
    return [Q if axes is None else axes @ Q for Q in spans]


def with_null(basis):
    """A head whose null space is spanned by the columns of `basis`, (M, K)."""
    full = torch.linalg.qr(torch.cat([basis, torch.eye(M, dtype=torch.float64)], 1))[0]
    return HeadSpaces.from_weight(full[:, basis.shape[1] : M].mT)


# ------------------------------------------------------------------------ known answers


def test_a_null_space_that_holds_the_classes_is_extreme_and_one_without_them_at_the_other_end():
    f, T, texts, own, directions = photos()
    classes = directions - directions.mean(0)  # what tells the classes apart
    axes = torch.linalg.svd(classes).Vh[: C - 1].mT  # (M, C - 1)
    rest = torch.linalg.qr(torch.cat([axes, torch.eye(M, dtype=torch.float64)], 1))[0][:, C - 1 : M]
    chance = remove_random(f, T, texts, own, dim=K, draws=199, seed=3)
    holds = torch.cat([axes, rest[:, : K - C + 1]], 1)
    leaky = remove_null(f, T, with_null(holds), texts, own).statistics()
    clean = remove_null(f, T, with_null(rest[:, :K]), texts, own).statistics()
    assert percentile(leaky["contrast"], chance["contrast"]) == 0.0  # more class semantics than any
    assert percentile(clean["contrast"], chance["contrast"]) > 99.0


def test_the_same_seed_gives_the_same_draws_and_another_others():
    f, T, texts, own, _ = photos()
    first, again, other = (remove_random(f, T, texts, own, dim=3, draws=2, seed=s) for s in (4, 4, 5))
    assert first.equals(again)
    assert not first.equals(other)


@pytest.mark.parametrize(("dim", "draws"), [(0, 5), (M, 5), (3, 0)])
def test_what_cannot_be_drawn_is_refused(dim, draws):
    f, T, texts, own, _ = photos()
    with pytest.raises(SingError, match="expected 0 < dim < m and at least 1 draw"):
        remove_random(f, T, texts, own, dim=dim, draws=draws)


# ------------------------------------------------------------------------------ by definition


def test_null_removal_scores_are_those_of_the_definitions():
    f, T, texts, own, _ = photos()
    spaces = HeadSpaces.from_weight(torch.randn(14, M, dtype=torch.float64))
    found = remove_null(f, Translator(T), spaces, texts, own)
    z, z_tilde = f @ T.mT, spaces.remove_null(f) @ T.mT
    assert torch.allclose(found.AS, attribute_score(z, z_tilde, texts[own]), atol=1e-9)
    assert torch.allclose(found.IS, image_score(z, z_tilde), atol=1e-9)
    every = pairwise_angle(z, texts) - pairwise_angle(z_tilde, texts)
    assert torch.allclose(found.contrast, contrast(every, own), atol=1e-9)
    assert torch.allclose(found.energy, spaces.null_energy(f))
    s = found.statistics()
    assert s["|AS|"] == pytest.approx(np.median(found.AS.abs()))
    assert s["energy"] == pytest.approx(100 * float(found.energy.mean()))


def test_random_bases_are_orthonormal_and_uniform_ones_hold_their_share():
    f = torch.randn(500, M, generator=torch.Generator().manual_seed(0))
    drawn = bases(f, draws=40, seed=0)
    assert len(drawn) == 40
    assert torch.allclose(drawn[0].mT @ drawn[0], torch.eye(K), atol=1e-5)
    assert np.mean([energy_share(f, Q) for Q in drawn]) == pytest.approx(K / M, rel=0.02)


@pytest.mark.parametrize("energy", [0.02, 0.1, 0.6])
def test_matched_bases_hold_the_energy_that_is_asked_for(energy):
    scale = torch.logspace(0.5, -1.5, M)
    f = torch.randn(400, M, generator=torch.Generator().manual_seed(0)) * scale
    drawn = bases(f, draws=20, seed=1, energy=energy)
    assert torch.allclose(drawn[0].mT @ drawn[0], torch.eye(K), atol=1e-4)
    assert np.mean([energy_share(f, Q) for Q in drawn]) == pytest.approx(energy, rel=0.15)


def test_matched_bases_lean_away_from_the_energy_of_the_photos_that_say_where_it_is():
    scale = torch.logspace(0.5, -1.5, M)
    f, like = (torch.randn(400, M, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    axes, _ = random_spans(f * scale, dim=K, draws=1, energy=0.1, like=like * scale.flip(0))
    assert float(axes[0, -1].abs()) < 0.1  # the last axis is that of most energy
    assert float(axes[-1, -1].abs()) > 0.9


def test_draws_move_to_one_energy_along_their_line():
    energy = np.array([10.0, 20.0, 40.0])
    lines = {"AS": 1 - energy / 10, "IS": 3 + energy / 2, "|AS|": 2.0, "contrast": np.nan}
    moved = at_energy(pd.DataFrame({"energy": energy, **lines}), 30.0)
    np.testing.assert_allclose(moved[["AS", "IS", "|AS|"]], [[-2.0, 18.0, 2.0]] * 3)
    assert moved["contrast"].isna().all()


def test_few_classes_exchange_their_names_in_all_ways():
    AS = torch.tensor([[0.0, 2.0, 4.0], [1.0, 0.0, 8.0], [3.0, 5.0, 0.0]], dtype=torch.float64)
    found = other_names(AS, torch.arange(3), permutations=200)
    sums = [4 + 0 + 3, 2 + 8 + 3, 4 + 1 + 5, 0 + 8 + 5, 2 + 1 + 0]  # all but the true 0 + 0 + 0
    assert sorted(found.tolist()) == sorted(s / 3 for s in sums)
    two = other_names(AS[:2, :2], torch.arange(2), permutations=9999)
    assert two.tolist() == [1.5]
    with pytest.raises(SingError, match="one class only"):
        other_names(AS[:, :1], torch.zeros(3, dtype=torch.long), permutations=5)


@pytest.mark.parametrize("C", [3, 6])
def test_p_of_the_names_is_uniform_where_names_mean_nothing(C):
    g, p = torch.Generator().manual_seed(0), []
    for _ in range(300):
        own = torch.arange(30) % C
        AS = torch.randn(30, C, generator=g, dtype=torch.float64) + torch.randn(C, generator=g)
        true = float(AS.gather(1, own[:, None]).mean())
        p.append(permutation_p(true, other_names(AS, own, permutations=99)))
    assert np.mean(np.array(p) <= 0.05) < 0.09
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.17)


# ------------------------------------------------------------------------------- rank rules


def head(values, m=12, seed=0):
    """A head (c, m) with the given singular values."""
    g = torch.Generator().manual_seed(seed)
    c = len(values)
    U = torch.linalg.qr(torch.randn(c, c, generator=g, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(m, c, generator=g, dtype=torch.float64))[0]
    return (U * torch.tensor(values, dtype=torch.float64)) @ V.mT


def test_rules_cut_where_they_say():
    spaces = HeadSpaces.from_weight(head([10.0, 5.0, 0.2, 0.05, 5e-5, 5e-6]))
    ranks = {rule: s.rank for rule, s in rank_rules(spaces).items()}
    assert ranks == {
        "this book: σ > max(c, m) ε σ₁": 6,
        "ε of double precision instead": 6,
        "the paper's public code: σ > 0.00001": 5,
        "σ > 0.001 σ₁": 4,
        "σ > 0.01 σ₁": 3,
        "σ > 0.03 σ₁": 2,
        SOFTMAX: 5,
    }


def test_what_softmax_ignores_is_one_direction_that_moves_all_logits_alike():
    W = head([4.0, 3.0, 2.0, 1.0])
    plain, softmax = HeadSpaces.from_weight(W), rank_rules(HeadSpaces.from_weight(W))[SOFTMAX]
    assert softmax.null_dim == plain.null_dim + 1
    f = torch.randn(20, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    moved = (f - softmax.remove_null(f)) @ W.mT  # (20, 4)
    assert torch.allclose(moved, moved[:, :1].expand_as(moved), atol=1e-12)
    assert float(moved.abs().max()) > 0.01
    before, after = (torch.softmax(x @ W.mT, -1) for x in (f, softmax.remove_null(f)))
    assert torch.allclose(before, after, atol=1e-12)
    assert softmax.certificate(f).passed


def test_two_logits_have_a_direction_that_softmax_ignores_and_equal_rows_nothing_else():
    found = rank_rules(HeadSpaces.from_weight(head([2.0, 1.0])))
    assert found[SOFTMAX].rank == 1
    equal = torch.ones(3, 4, dtype=torch.float64)
    assert SOFTMAX not in rank_rules(HeadSpaces.from_weight(equal))
