"""Refits: what they give is what the fitters give, and their spread is the spread over other samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sing_utils import BeyondLogits, HeadSpaces, Translator, TranslatorFitter, angle
from sing_utils.evidence.intervals import mean_error, sure, sure_mean
from sing_utils.evidence.refits import Halves, Refits
from sing_utils.method.scores import contrast

M, R, WIDTH, C = 14, 9, 6, 4


class World:
    """A head, and photos of C classes whose embeddings also know null directions."""

    def __init__(self, seed=0):
        self.g = torch.Generator().manual_seed(seed)
        self.W = self.draw(R, M) * torch.logspace(0, -1, R, dtype=torch.float64)[:, None]
        self.spaces = HeadSpaces.from_weight(self.W)
        self.codes, self.true = self.draw(C, M), self.draw(WIDTH, M)
        self.texts = torch.cat([self.codes @ self.true.mT + 2, self.draw(2, WIDTH)])

    def draw(self, *shape):
        return torch.randn(*shape, generator=self.g, dtype=torch.float64)

    def photos(self, count):
        own = torch.randint(C, (count,), generator=self.g)
        f = 0.5 + self.codes[own] + self.draw(count, M)
        return f, f @ self.true.mT + 2 + 2 * self.draw(count, WIDTH), own

    def fits(self, f, z):
        return Translator.fit(f, z, ridges=[0.05]), BeyondLogits.fit(f, z, self.W, ridges=[0.01])


@pytest.fixture
def world():
    return World()


def test_the_whole_is_what_was_fitted_and_halves_are_what_fitters_give(world):
    f, z, _ = world.photos(300)
    T, B = world.fits(f, z)
    halves = Halves.of(f, z, T, B, world.spaces)
    new = world.photos(20)[0]
    assert halves.nearness == pytest.approx((1 - 2 * M / 270) ** 0.5)  # a tenth is set aside
    Tf, Tf_tilde, z_logits, rest = halves.whole()(new @ halves.basis)
    assert torch.allclose(Tf, T(new), atol=1e-10)
    assert torch.allclose(Tf_tilde, T(world.spaces.remove_null(new)), atol=1e-10)
    z_whole, expected = B(new)
    assert torch.allclose(z_logits, expected, atol=1e-7)
    assert torch.allclose(z_logits + B.shrinkage * rest, z_whole, atol=1e-7)
    assert float(halves.shrinkages(halves.whole(), torch.arange(30))) == pytest.approx(B.shrinkage)

    x, y = halves.x @ halves.basis.mT, halves.z
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(4))[: len(x) // 2]
    chosen = torch.zeros(len(x), dtype=torch.bool).index_fill(0, rows, True)
    for maps, own in zip(halves.pairs(2, seed=4), (chosen, ~chosen), strict=True):
        fitter, judge = (TranslatorFitter(M, WIDTH) for _ in range(2))
        fitter.update(x[own], y[own])
        judge.update(x, y)
        expected = fitter.solve(ridge=T.report.ridge).weight
        assert torch.allclose(maps(new @ halves.basis)[0], new @ expected.mT, atol=1e-9)
        unit = B.ridge / BeyondLogits.from_sums(fitter, judge, world.W, ridges=[1.0]).ridge
        again = BeyondLogits.from_sums(fitter, judge, world.W, ridges=[unit])
        assert torch.allclose(maps(new @ halves.basis)[2], again(new)[1], atol=1e-6)
        whole = again(new)[1] + again.rest(new) @ again.gamma.mT
        assert torch.allclose(maps(new @ halves.basis)[2:].sum(0), whole, atol=1e-6)


def test_scores_of_a_refit_are_those_of_the_definitions(world):
    f, z, _ = world.photos(300)
    T, B = world.fits(f, z)
    halves = Halves.of(f, z, T, B, world.spaces)
    new, _, own = world.photos(30)
    refits = Refits.fit(halves, new, world.texts, own, classes=C, count=4, seed=1)
    pairs = [maps(new @ halves.basis) for maps in halves.pairs(4, seed=1)]
    every = torch.stack(
        [angle(z[0][:, None], world.texts) - angle(z[1][:, None], world.texts) for z in pairs]
    )
    (Tf, Tf_tilde, *_), AS = pairs[2], every[2]
    found = refits.columns()
    assert found["IS"][2] == pytest.approx(angle(Tf, Tf_tilde).numpy(), abs=1e-4)
    assert found["AS"][2] == pytest.approx(AS.gather(1, own[:, None])[:, 0].numpy(), abs=1e-4)
    assert found["contrast"][2] == pytest.approx(contrast(AS[:, :C], own).numpy(), abs=1e-4)
    before = angle(Tf[own == 1][:, None], world.texts).mean(0)
    assert torch.allclose(refits.before[2, 1].double(), before, atol=1e-4)

    mine = every[:, own == 1]  # (R, photos of a class, P)
    turn = sure_mean(AS[own == 1], mine)
    assert refits.toward[:, 1].numpy() == pytest.approx(mine.mean(1).numpy(), abs=1e-4)
    a, n = AS[own == 1], int((own == 1).sum())
    same = sure(a.mean(0), mean_error(a), n, refits.toward[:, 1], shared=refits.shared[1])
    assert np.asarray(same.high) == pytest.approx(np.asarray(turn.high), abs=1e-4)


def test_the_same_photos_give_the_same_halves(world):
    f, z, _ = world.photos(200)
    T, B = world.fits(f, z)
    one = Halves.of(f, z, T, B, world.spaces)
    other = HeadSpaces.from_weight(world.draw(R, M))
    two = Halves.of(f, z, T, BeyondLogits.fit(f, z, other.weight), other)
    new = world.photos(9)[0]
    for a, b in zip(one.pairs(4, seed=3), two.pairs(4, seed=3), strict=True):
        assert torch.allclose(a(new @ one.basis)[0], b(new @ two.basis)[0], atol=1e-9)  # T knows no head


def test_the_spread_of_refits_is_the_spread_over_other_samples():
    """100 samples of photos to fit on: how much mean scores vary, and what the refits of one say of that."""
    world = World(3)
    new, _, own = world.photos(80)
    means, spreads = [], []
    for i in range(100):
        f, z, _ = world.photos(250)
        T, B = world.fits(f, z)
        halves = Halves.of(f, z, T, B, world.spaces)
        whole = Refits.fit(halves, new, world.texts, own, classes=C, count=12, seed=i)
        found = {k: v.mean(1) for k, v in whole.columns().items()}
        spreads.append([v.var() for v in found.values()])
        Tf, Tf_tilde = T(new), T(world.spaces.remove_null(new))
        scores = {}
        for tail, before, after in (("", Tf, Tf_tilde), (" beyond", *B(new))):
            AS = angle(before[:, None], world.texts) - angle(after[:, None], world.texts)
            scores |= {f"contrast{tail}": contrast(AS[:, :C], own), f"IS{tail}": angle(before, after)}
            scores |= {f"AS{tail}": AS.gather(1, own[:, None])}
        means.append([float(scores[k].mean()) for k in found])
    ratio = np.sqrt(np.mean(spreads, 0)) / np.std(means, 0)
    assert ratio == pytest.approx(np.ones(6), abs=0.25), dict(zip(found, ratio, strict=True))


def test_too_few_photos_say_nothing_beyond_the_logits(world):
    f, z, _ = world.photos(29)  # 26 to fit on: less than twice 14
    T, B = world.fits(f, z)
    new, _, own = world.photos(5)
    refits = Refits.fit(Halves.of(f, z, T, B, world.spaces), new, world.texts, own, classes=C, count=4)
    assert refits.IS.isfinite().all()
    assert torch.stack([refits.IS_beyond, refits.contrast_beyond]).isnan().all()
