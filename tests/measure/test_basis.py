"""Other bases: stretched sums against features that are really stretched, slopes against differences."""

import numpy as np
import pandas as pd
import pytest
import torch
from planted_run import PlantedRun

from sing_utils import BeyondLogits, HeadSpaces, attribute_score, contrast, image_score
from sing_utils.measure import basis as tables_basis
from sing_utils.measure import tables
from sing_utils.method.translator import Translator, quality, split_rows
from sing_utils.planted.scenes import HEADS
from sing_utils.planted.scores import build_world
from sing_utils.runs.run import Photos


@pytest.fixture
def run(tmp_path):
    return PlantedRun(tmp_path).disturbed(0.5)


def by_hand(run, name, d):
    """The scores of features d * f with a translator of their own, the ridge chosen on the same grid."""
    fit, new = run.photos(name, "fit"), run.photos(name)
    T = Translator.fit(fit.f * d, fit.z, held_out=0.2)
    spaces = HeadSpaces.from_weight(run.head(name).weight / d)
    texts = run.texts(name, run.prompts).double()
    before, after = T(new.f * d), T(spaces.remove_null(new.f * d))
    AS = attribute_score(before[:, None], after[:, None], texts)
    own = AS[torch.arange(len(AS)), new.own]
    return {
        "IS": float(image_score(before, after).quantile(0.5)),
        "|AS|": float(own.abs().quantile(0.5)),
        "contrast": float(contrast(AS, new.own).mean()),
    }


@pytest.mark.parametrize("d", [(1.0, 1.0, 1.0, 1.0), (1.0, 2.0, 0.5, 1.5), (3.0, 1.0, 1.0, 3.0)])
def test_rescaled_sums_give_the_scores_of_rescaled_features(run, d):
    d = torch.tensor(d, dtype=torch.float64)
    found, expected = tables_basis._Photos.of(run, "one").rescaled(d), by_hand(run, "one", d)
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-6)


def test_axes_are_no_matter(run):
    axes = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double())[0]
    one = torch.ones(4, dtype=torch.float64)
    found, given = (tables_basis._Photos.of(run, "one", a).rescaled(one) for a in (axes, None))
    assert found == pytest.approx(given, abs=1e-9)


@pytest.mark.parametrize("s", [0.1, 1.0, 7.0])
def test_one_decomposition_gives_the_scores_of_every_stretch(run, s):
    table = tables_basis.stretches(run, (s,)).set_index("classifier")
    d = torch.tensor([1.0, 1.0, s, s], dtype=torch.float64)  # x and y are seen, u and v are not
    for name in ("one", "two"):
        assert table.loc[name, ["IS", "|AS|", "contrast"]].to_dict() == pytest.approx(
            by_hand(run, name, d), abs=1e-6
        )


def test_stretches_leave_the_logits_and_what_is_beyond_them(run):
    table = tables_basis.stretches(run, (0.5, 1, 4))
    assert table["logits moved"].max() < 1e-12
    assert set(table["directions beyond"]) == {2}
    scores = tables.photo_scores(run).groupby("classifier")
    given = table[table["s"] == 1].set_index("classifier")
    assert given["IS"].to_dict() == pytest.approx(scores["IS"].median().to_dict(), abs=1e-5)
    assert given["IS beyond"].to_dict() == pytest.approx(scores["IS beyond"].median().to_dict())
    assert table[table["classifier"] == "one"].set_index("s")["IS"].nunique() == 3


def test_slopes_are_those_of_small_differences(run):
    photos = tables_basis._Photos.of(run, "one")
    slopes, step = photos.slopes(), 1e-5

    def means(power):
        d = power.exp()
        f = tables_basis._scaled(photos.fitter, d)
        T = f.solve(ridge=photos.ridge * f.mean_square()).weight
        before, after = photos._removed(d, T)
        AS = attribute_score(before[:, None], after[:, None], photos.texts.double())
        own = AS[torch.arange(len(AS)), photos.own]
        return {"|AS|": float(own.abs().mean()), "contrast": float(contrast(AS, photos.own).mean())}

    for i in range(4):
        ends = [means(sign * step * torch.eye(4, dtype=torch.float64)[i]) for sign in (1, -1)]
        for score, slope in slopes.items():
            change = (ends[0][score] - ends[1][score]) / (2 * step)
            assert float(slope[i]) == pytest.approx(change, rel=1e-3, abs=1e-4)


def test_orders_by_hand():
    # a < b as given; of the four combinations of draws, a < b in (3, 4), (3, 9) and (5, 9).
    values = {"as given": (1.0, 2.0), "random 1": (3.0, 9.0), "random 2": (5.0, 4.0), "slope": (0.5, 7.0)}
    rows = [
        {"classifier": name, "basis": basis, "IS": x, "|AS|": -x, "contrast": np.nan}
        for basis, pair in values.items()
        for name, x in zip("ab", pair, strict=True)
    ]
    kept = tables_basis.orders(pd.DataFrame(rows)).set_index("score")
    assert kept["order kept"].to_dict() == pytest.approx(
        {"IS": 0.75, "|AS|": 0.75, "contrast": np.nan}, nan_ok=True
    )
    assert kept.loc["IS", ["by chance", "combinations"]].tolist() == [0.5, 4]


def test_readings_and_their_zeros(run):
    table = tables_basis.readings(run, draws=2).set_index(["classifier", "way"])
    scores = tables.photo_scores(run)
    own = scores[scores["classifier"] == "one"]
    assert table.loc[("one", "as given"), "IS"] == pytest.approx(own["IS"].median(), abs=1e-5)
    assert table.loc[("one", "beyond the logits"), "IS"] == pytest.approx(own["IS beyond"].median())
    # Least squares by hand: what x and y tell of u and v, by a translator with an intercept and no ridge.
    fit, new = run.photos("one", "fit"), run.photos("one")
    rows, _ = split_rows(len(fit), held_out=0.2, seed=0)
    f, z = fit.f[rows], fit.z[rows]
    mean = f.mean(0)
    T = torch.linalg.lstsq(f - mean, z - z.mean(0)).solution.mT
    told = torch.linalg.lstsq(f[:, :2] - mean[:2], f[:, 2:] - mean[2:]).solution
    tilde = new.f.clone()
    tilde[:, 2:] = mean[2:] + (new.f[:, :2] - mean[:2]) @ told
    IS = image_score(*((x - mean) @ T.mT + z.mean(0) for x in (new.f, tilde))).quantile(0.5)
    assert table.loc[("one", "least squares"), "IS"] == pytest.approx(float(IS), abs=1e-6)
    shown = tables_basis.shown_readings(table.reset_index())
    assert f"({table.loc[('one', 'as given'), 'zero of IS']:.2f})" in shown.iloc[0, 2]
    beyond = table.loc["one"].loc["beyond the logits"]
    assert beyond["zero of IS"] < beyond["IS"]


def test_more_outputs_tell_what_null_directions_say():
    g = torch.Generator().manual_seed(0)
    f, W, true = (torch.randn(*s, generator=g).double() for s in ((900, 12), (4, 12), (6, 12)))
    z = f @ true.mT
    own = torch.zeros(900, dtype=torch.long)
    fit, new = (Photos(f[rows], z[rows], own[rows], pd.DataFrame()) for rows in (slice(600), slice(600, 900)))
    B = BeyondLogits.fit(fit.f, fit.z, W)
    table = tables_basis.more_outputs(B, fit, new, (1, 3, 6, 99), held_out=0.1, seed=0).set_index("outputs")
    whole, logits = B(new.f)
    gain = quality(whole, new.z).r2 - quality(logits, new.z).r2
    assert table.loc[99, "R²"] == pytest.approx(gain, abs=1e-9)
    assert table["R²"].is_monotonic_increasing
    assert table.loc[6, "R²"] == pytest.approx(gain, abs=1e-3)  # z has six numbers
    assert table["by chance"].abs().max() < 0.05 < 0.3 < gain


def test_photos_no_more_than_the_rank_say_nothing_beyond_the_logits():
    g = torch.Generator().manual_seed(0)
    f, W, true = (torch.randn(*s, generator=g).double() for s in ((20, 30), (19, 30), (6, 30)))
    fit, new = (
        Photos(f[r], (f @ true.mT)[r], torch.zeros(10), pd.DataFrame()) for r in (slice(10), slice(10, 20))
    )
    table = tables_basis.more_outputs(
        BeyondLogits.fit(fit.f, fit.z, W), fit, new, (1, 5), held_out=0.1, seed=0
    )
    assert (table[["directions", "R²", "by chance"]] == 0).all(axis=None)


def test_outputs_give_back_what_a_planted_head_ignores():
    world = build_world(0, scenes=600, evaluation=200)
    head = world.plant("clean", **HEADS["clean"])
    fit = world.photos(head, "fit")
    B = BeyondLogits.fit(fit.f, fit.z, head.weight)
    table = tables_basis.factors_told(world, head, B, (0, 24)).pivot(
        index="outputs", columns="factor", values="R²"
    )
    ignored = [f for f in table if f != "shape"]
    assert table.loc[0, ignored].max() < 0.1
    assert table.loc[24, ignored].min() > 0.5
    assert table.loc[0, "shape"] > 0.5
