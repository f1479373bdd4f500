"""Intervals and tests: coverage, known widths, exact p values, bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sing_utils import SingError
from sing_utils.evidence.intervals import (
    bootstrap,
    bootstrap_places,
    chance_p,
    false_discovery,
    mean_error,
    permutation_p,
    sure,
    sure_mean,
)

# --------------------------------------------------------------------------- bootstrap


def mean(x):
    return x.mean(-1)


def test_bootstrap_of_a_mean_has_the_normal_width(rng):
    x = rng.standard_normal(400)
    ci = bootstrap(mean, x, level=0.95, draws=4000, seed=0)
    assert ci.value == pytest.approx(x.mean(), abs=1e-12)
    expected = 2 * 1.96 * x.std() / 20
    assert ci.high - ci.low == pytest.approx(expected, rel=0.06)
    assert ci.error == pytest.approx(x.std() / 20, rel=0.06)


def test_bootstrap_is_deterministic_for_a_seed(rng):
    x = rng.standard_normal(30)
    assert bootstrap(mean, x, seed=4) == bootstrap(mean, x, seed=4)
    assert bootstrap(mean, x, seed=4) != bootstrap(mean, x, seed=5)


def test_bootstrap_resamples_rows_jointly(rng):
    """y = 2 x row by row, so the ratio of sums is 2 in every draw; unpaired draws would differ."""
    x = rng.exponential(size=50)
    ci = bootstrap(lambda a, b: b.sum(-1) / a.sum(-1), x, 2 * x)
    assert (ci.low, ci.value, ci.high) == pytest.approx((2.0, 2.0, 2.0), abs=1e-12)


@pytest.mark.parametrize(
    ("samples", "lengths"),
    [(([],), "0"), (([1.0],), "1"), (([1.0, 2.0], [1.0, 2.0, 3.0]), "2, 3")],
)
def test_bootstrap_wants_two_rows_and_one_length(samples, lengths):
    with pytest.raises(SingError, match=f"bootstrap got {lengths} rows, expected one length of at least 2"):
        bootstrap(mean, *samples)


# ------------------------------------------------------------------- photos and translator


def test_both_errors_add_up_in_squares(rng):
    halves = 5.0 + rng.normal(0.0, 0.4, size=60)
    found = sure(5.0, 0.3, 200, halves)
    assert (found.photos, found.translator) == pytest.approx((0.3, halves.std()))
    error = np.hypot(0.3, halves.std())
    degrees = error**4 / (0.3**4 / 199 + halves.std() ** 4 / 30)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, degrees, 5.0, error))
    assert found.p == pytest.approx(2 * stats.t.sf(5.0 / error, degrees))
    assert sure(found.low, 0.3, 200, halves - 5.0 + found.low, level=0.9).high < 5.0


def test_without_one_error_the_other_is_left(rng):
    x, still = rng.normal(1.0, 2.0, size=9), np.ones((20, 1))
    found = sure([x.mean()], mean_error(x[:, None]), 9, still)
    low, high = stats.t.interval(0.95, 8, x.mean(), stats.sem(x))
    assert (found.low[0], found.high[0]) == pytest.approx((low, high))
    assert found.p[0] == pytest.approx(stats.ttest_1samp(x, 0.0).pvalue)
    exact = sure(1.0, 0.0, 9, [2.0, 4.0, 2.0, 4.0])  # a pair of halves is one degree of freedom
    assert exact.high - 1.0 == pytest.approx(stats.t.ppf(0.975, 2))


def test_what_a_refit_adds_to_single_photos_is_counted_once(rng):
    """Refits that move each photo by itself: the photos' spread holds that already."""
    truth, noise = rng.normal(size=50), rng.normal(size=(61, 50))
    x, halves = truth + noise[0], truth + noise[0] + noise[1:]
    found = sure_mean(x, halves)
    assert found.translator == pytest.approx(1 / np.sqrt(50), rel=0.2)
    wide = stats.t.ppf(0.975, 76) * stats.sem(x)
    assert (found.high - found.low) / 2 == pytest.approx(wide, rel=0.05)
    both = sure_mean(np.stack([x, truth], 1), np.stack([halves, truth + 0 * halves], -1))
    assert both.low == pytest.approx(
        [found.low, stats.t.interval(0.95, 49, truth.mean(), stats.sem(truth))[0]]
    )


def test_by_class_what_counts_are_the_classes(rng):
    """8 classes of 50 photos, which differ between classes only."""
    classes, means = np.repeat(list("abcdefgh"), 50), rng.standard_normal(8)
    x, still = np.repeat(means, 50), np.zeros((4, 400))
    by = sure_mean(x, still, groups=classes)
    assert (by.low, by.high) == pytest.approx(stats.t.interval(0.95, 7, means.mean(), stats.sem(means)))
    assert sure_mean(x, still).photos == pytest.approx(x.std(ddof=1) / 20)
    assert np.isnan(sure_mean(x, still, groups=np.zeros(400)).low)


def test_what_never_varies_is_sure_and_one_photo_is_not():
    nothing = sure([0.0, 2.0], 0.0, 9, np.zeros((4, 2)))
    assert (nothing.low.tolist(), nothing.p.tolist()) == ([0.0, 2.0], [1.0, 0.0])
    one = sure(2.0, mean_error([2.0]), 1, [1.0, 3.0])
    assert np.isnan([one.low, one.high, one.p]).all()
    assert np.isnan(sure(2.0, 0.1, 9, [1.0, np.nan]).p)


@pytest.mark.parametrize("x", [np.ones(5), np.ones((1, 3)), np.ones((2, 2, 2))])
def test_places_are_of_a_matrix(x):
    with pytest.raises(SingError, match=r"expected \(N, K\) with N of at least 2"):
        bootstrap_places(x, np.zeros((2, 3)))


def test_places_by_hand(rng):
    # Columns a clear distance apart keep their places; two alike exchange theirs.
    x = rng.normal([9.0, 0.0, 5.0, 5.0], size=(400, 4))
    value, low, high = bootstrap_places(x, np.zeros((2, 4)), draws=500)
    assert value[:2].tolist() == [4.0, 1.0]
    assert sorted(value[2:]) == [2.0, 3.0]
    assert low.tolist() == [4.0, 1.0, 2.0, 2.0]
    assert high.tolist() == [4.0, 1.0, 3.0, 3.0]
    moved = np.array([[0.0, 0.0, 0.0, 6.0], [0.0, 0.0, 0.0, -6.0]])  # the translator is not sure of one
    assert bootstrap_places(x, moved, draws=500)[2].tolist() == [4.0, 2.0, 3.0, 4.0]


def test_places_of_equal_columns_are_shared():
    for ends in bootstrap_places([[1.0, 1.0, 2.0], [3.0, 3.0, 4.0]], np.zeros((2, 3)), draws=50):
        assert ends.tolist() == [1.0, 1.0, 3.0]


# --------------------------------------------------------------------------- tests


def test_false_discovery_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.9 of 4: x 4/1, 4/2, 4/3, 4/4, then the running minimum from the end
    assert false_discovery([0.03, 0.005, 0.9, 0.01]) == pytest.approx([0.04, 0.02, 0.9, 0.02])
    assert np.isnan(false_discovery([np.nan, np.nan])).all()


def test_p_among_normal_draws_is_exact(rng):
    """One more draw of the same distribution: p is uniform, however few the draws."""
    for n in (5, 40):
        found = [chance_p(x[0], x[1:]) for x in rng.normal(3.0, 2.0, size=(2000, n + 1))]
        assert stats.kstest(found, "uniform").pvalue > 1e-3
    assert chance_p(9.0, [1.0, 2.0, 3.0, 2.0]) == chance_p(-5.0, [1.0, 2.0, 3.0, 2.0]) < 0.05
    assert chance_p(2.0, [1.0, 1.0]) == 0.0  # no draw ever differs from 1
    assert np.isnan(chance_p(2.0, [1.0]))


def test_p_among_equally_likely_outcomes():
    draws = np.arange(99.0)
    assert permutation_p(-1, draws) == permutation_p(200, draws) == pytest.approx(2 / 100)
    assert permutation_p(49, draws) == 1.0
    assert permutation_p(98, draws) == pytest.approx(4 / 100)  # a tie counts as extreme
    assert permutation_p(0, draws) == pytest.approx(4 / 100)
    assert permutation_p(0.1 + 0.2, [0.3]) == 1.0  # rounding does not
