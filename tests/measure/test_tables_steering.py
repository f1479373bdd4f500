"""The tables of notebook 04 in a planted world where the answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from steered_run import SteeredRun, source

from sing_utils import SingError, steer
from sing_utils.measure import steering as tables
from sing_utils.method.scores import angle
from sing_utils.method.steering import (
    largest_image_score,
    null_direction,
)


@pytest.fixture
def run(tmp_path):
    return SteeredRun(tmp_path)


def test_largest_scores(run):
    table = tables.largest_scores(run)
    assert len(table) == 2 * 2 * 10  # classifiers, targets, photos
    own = table[(table["classifier"] == "two") & (table["target"] == "elsewhere")]
    T, f = run.translator("two"), source(run)
    d = null_direction(f, run.goals[1], T, run.spaces("two"))
    np.testing.assert_allclose(own["largest"], largest_image_score(f, d, T))


def test_curves_begin_at_zero_and_follow_the_steps(run):
    largest = tables.largest_scores(run)
    table = tables.steering_curves(run, largest, points=4)
    own = table[(table["classifier"] == "two") & (table["direction"] == "toward the text")]
    ends = largest[(largest["classifier"] == "two") & (largest["target"] == "there")]
    np.testing.assert_allclose(own["IS"], np.linspace(0, tables.whole_degrees(ends["largest"].min()), 4))
    assert own["AS"].iloc[0] == pytest.approx(0, abs=1e-9)
    degrees = float(own["IS"].iloc[2])
    expected = steer(source(run), run.goals[0], run.translator("two"), run.spaces("two"), degrees=degrees)
    assert own["AS"].iloc[2] == pytest.approx(float(expected.AS.mean()))
    chance = table[(table["classifier"] == "two") & (table["direction"] == "random")]
    assert chance["AS"].iloc[2] < own["AS"].iloc[2] - 0.1
    assert own["low"].iloc[2] == pytest.approx(float(np.quantile(expected.AS, 0.1)))
    assert (own["low"] <= own["AS"]).all()
    assert (own["AS"] <= own["high"]).all()


def test_grid_is_a_cell_for_each_class_and_target(run):
    grid = tables.steering_grid(run, 8.0)
    assert len(grid) == 2 * 2 * 2  # classifiers, classes, targets
    cell = grid[(grid["classifier"] == "one") & (grid["source"] == "zero") & (grid["target"] == "elsewhere")]
    expected = steer(source(run), run.goals[1], run.translator("one"), run.spaces("one"), degrees=8.0)
    assert cell["AS"].item() == pytest.approx(float(expected.AS.mean()))
    assert cell["AS sd"].item() == pytest.approx(float(expected.AS.std()))
    assert (cell["reached"].item(), cell["photos"].item()) == (10, 10)
    assert grid.groupby("classifier")["certified"].sum().tolist() == [40, 40]  # every step once


def test_a_change_of_a_top_class_is_counted_once_in_the_grid(run, monkeypatch):
    monkeypatch.setattr(tables, "certified", lambda _: {"moved": 1.0, "bound": 0.5, "flips": 3})
    grid = tables.steering_grid(run, 8.0)
    assert (grid.groupby(["classifier", "target"])["flips"].sum() == 3).all()


def test_a_class_with_one_photo_cannot_be_steered_from(run):
    run.index["class"] = ["first"] * 39 + ["zero"]
    run.index.loc[39, "evaluation"] = True
    with pytest.raises(SingError, match="'zero' has 1 evaluation photos, expected at least 2"):
        tables.largest_scores(run)


def test_a_limit_below_one_degree_is_said():
    assert tables.whole_degrees(2.05) == 1.0
    assert tables.whole_degrees(30.05) == 29.0  # at the very limit a step would be endless
    with pytest.raises(SingError, match=r"more than 1\.05°, expected at least 1°"):
        tables.whole_degrees(1.05)


def test_angles_of_the_planted_world_are_what_they_seem(run):
    """The controls have the same IS as the directed steps, or nothing could be compared."""
    f, T, spaces = source(run), run.translator("one"), run.spaces("one")
    result = tables._steer(run, "one", f, run.goals[0], 8.0, chance=True)
    np.testing.assert_allclose(angle(T(f), T(result.f_eps)), 8.0, atol=1e-9)
    assert (((result.f_eps - f) @ spaces.weight.mT).abs() < 1e-9).all()
