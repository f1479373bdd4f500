"""The tables of notebook 04 in a planted world where the answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from steered_run import SteeredRun, source

from sing_utils import SingError, steer
from sing_utils.measure import steering as tables
from sing_utils.method.scores import angle, attribute_score
from sing_utils.method.steering import (
    largest_image_score,
    null_direction,
    step_for_image_score,
    text_gradient,
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
    assert tables.common_degrees(table) < table["largest"].min() < tables.common_degrees(table) + 1.2
    near = pd.DataFrame({"largest": [30.05, 50.0]})  # at the very limit a step would be endless
    assert tables.common_degrees(near) == 29.0


def test_whole_gradient_follows_the_gradient_itself(run):
    table = tables.whole_gradient(run, 40.0)
    f, T = source(run), run.translator("one")
    d = torch.nn.functional.normalize(text_gradient(f, run.goals[0], T), dim=-1)
    moved = f + step_for_image_score(f, d, T, degrees=40.0)[:, None] * d
    score = attribute_score(T(f), T(moved), run.goals[0])
    assert table["AS along the whole gradient"][0] == pytest.approx(float(score.mean()))
    within = steer(f, run.goals[0], T, run.spaces("one"), degrees=40.0)
    assert table["AS in the null space"][0] == pytest.approx(float(within.AS.mean()))
    assert table["photos"].tolist() == [10, 10]
    bias = run.head("one").bias
    flips = ((f[:, :2] + bias).argmax(-1) != (moved[:, :2] + bias).argmax(-1)).sum()
    assert table["top-1 changes"][0] == int(flips) > 0


def test_curves_begin_at_zero_and_follow_the_steps(run):
    largest = tables.largest_scores(run)
    table = tables.steering_curves(run, largest, points=4)
    own = table[(table["classifier"] == "two") & (table["direction"] == "toward the text")]
    ends = largest[(largest["classifier"] == "two") & (largest["target"] == "there")]
    np.testing.assert_allclose(own["IS"], np.linspace(0, tables.common_degrees(ends), 4))
    assert own["AS"].iloc[0] == pytest.approx(0, abs=1e-9)
    degrees = float(own["IS"].iloc[2])
    expected = steer(source(run), run.goals[0], run.translator("two"), run.spaces("two"), degrees=degrees)
    assert own["AS"].iloc[2] == pytest.approx(float(expected.AS.mean()))
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


def test_grid_shares_by_hand():
    """Only the columns differ; only the rows differ; both, with nothing left over."""
    cells = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    for values, expected in (
        ([1.0, 3.0, 1.0, 3.0], (100, 0, 0)),
        ([1.0, 1.0, 4.0, 4.0], (0, 100, 0)),
        ([0.0, 2.0, 2.0, 4.0], (50, 50, 0)),
        ([1.0, 0.0, 0.0, 1.0], (0, 0, 100)),
    ):
        grid = pd.DataFrame(cells, columns=["source", "target"]).assign(AS=values, classifier="c")
        row = tables.grid_shares(grid).iloc[0]
        shares = (row["target (%)"], row["source class (%)"], row["both together (%)"])
        assert shares == pytest.approx(expected, abs=1e-9)


def test_a_class_with_one_photo_cannot_be_steered_from(run):
    run.index["class"] = ["first"] * 39 + ["zero"]
    run.index.loc[39, "evaluation"] = True
    with pytest.raises(SingError, match="'zero' has 1 evaluation photos, expected at least 2"):
        tables.largest_scores(run)


def test_a_limit_below_one_degree_is_said():
    assert tables.whole_degrees(2.05) == 1.0
    with pytest.raises(SingError, match=r"more than 1\.05°, expected at least 1°"):
        tables.whole_degrees(1.05)


def test_shares_are_over_classes_that_reach_every_target():
    cells = [(s, t, float(i)) for i, (s, t) in enumerate([(s, t) for s in "abc" for t in "xy"])]
    grid = pd.DataFrame(cells, columns=["source", "target", "AS"]).assign(classifier="c")
    whole = tables.grid_shares(grid[grid["source"] != "c"]).iloc[0]
    grid.loc[grid["source"] == "c", "AS"] = [np.nan, 3.0]
    assert tables.grid_shares(grid).iloc[0].to_dict() == whole.to_dict()


def changes(changed=(0.0, 20.0, 60.0), turned=(0.0, 15.0, 30.0), noise=20.0):
    return pd.DataFrame(
        {
            "IS": [0.0, 10.0, 20.0],
            "AS": [0.0, 3.0, 6.0],
            "turned": turned,
            "low": turned,
            "high": turned,
            "noise": noise,
            "changed": changed,
            "pictures": 16,
        }
    )


def test_angles_of_the_planted_world_are_what_they_seem(run):
    """The controls have the same IS as the directed steps, or nothing could be compared."""
    f, T, spaces = source(run), run.translator("one"), run.spaces("one")
    result = tables._steer_randomly(run, "one", f, run.goals[0], 8.0)
    np.testing.assert_allclose(angle(T(f), T(result.f_eps)), 8.0, atol=1e-9)
    assert (((result.f_eps - f) @ spaces.weight.mT).abs() < 1e-9).all()
