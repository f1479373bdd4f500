"""The translator: exact where there is a closed form, linear always, and honest about its fit."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from sing_utils import HeadSpaces, SingError, Translator, TranslatorFitter
from sing_utils.method.adamw import fit_adamw
from sing_utils.method.translator import RIDGES, choose_ridge, least, quality, split_rows

M, N = 12, 5


def pairs(rows=200, *, m=M, n=N, noise=0.3, seed=0):
    """(f, z, T): z = T f + noise."""
    g = torch.Generator().manual_seed(seed)
    f, T, e = (torch.randn(a, b, generator=g, dtype=torch.float64) for a, b in ((rows, m), (n, m), (rows, n)))
    return f, f @ T.mT + noise * e, T


def fitted(f, z, *, batch=None, m=M, n=N):
    fitter = TranslatorFitter(m, n)
    for x, y in zip(f.split(batch or len(f)), z.split(batch or len(z)), strict=True):
        fitter.update(x, y)
    return fitter


# --------------------------------------------------------------------------- closed form


def test_one_feature_by_hand():
    # f = (1, 2), z = (3, 4): sum f z = 11, sum f^2 = 5, N = 2, so T = 5.5 / (2.5 + ridge).
    fitter = TranslatorFitter(1, 1)
    fitter.update(np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]]))
    assert float(fitter.solve(ridge=0.0).weight) == pytest.approx(2.2)
    assert float(fitter.solve(ridge=3.0).weight) == pytest.approx(1.0)
    assert fitter.mean_square() == pytest.approx(2.5)
    # With T = 1 the errors are 2 and 2, so their mean square is 4.
    assert fitter.mse(torch.tensor([[1.0]])) == pytest.approx(4.0)


@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10.0])
def test_ridge_is_the_least_squares_solution_of_the_augmented_system(ridge):
    f, z, _ = pairs()
    rows = torch.cat([f, (ridge * len(f)) ** 0.5 * torch.eye(M, dtype=torch.float64)])
    targets = torch.cat([z, torch.zeros(M, N, dtype=torch.float64)])
    expected = torch.linalg.lstsq(rows, targets).solution.mT
    torch.testing.assert_close(fitted(f, z).solve(ridge=ridge).weight, expected, rtol=1e-9, atol=1e-10)


def test_the_least_error_is_found_from_anywhere():
    errors = [abs(place - 11) for place in range(17)]
    assert {least(errors.__getitem__, [start], 17) for start in range(17)} == {11}
    assert least(lambda place: -place, [0], 17) == 16


@pytest.mark.parametrize(("rows", "chosen"), [(20, 0), (60, 12)])
def test_with_few_rows_every_ridge_is_tried(rows, chosen):
    """An error with two valleys, of which three starts see one."""
    fitter = fitted(*pairs(rows)[:2])
    ridges = [r * fitter.mean_square() for r in RIDGES]
    places = {float(fitter.solve(ridge=r).weight.sum()): i for i, r in enumerate(ridges)}
    _, details = choose_ridge(fitter, lambda T: {0: 0.0, 12: 0.1}.get(places[float(T.sum())], 1.0))
    assert details["ridge"] == ridges[chosen]


@given(st.integers(0, 1000), st.sampled_from([20, 45, 90, 200]), st.sampled_from([0.0, 0.3, 5.0]))
def test_the_chosen_ridge_is_the_best_of_all(seed, rows, noise):
    f, z, _ = pairs(rows, m=30, n=3, noise=noise, seed=seed)
    f = f * torch.logspace(0, -2, 30, dtype=f.dtype)  # directions of all sizes, as features have
    reports = [Translator.fit(f, z, held_out=0.3, ridges=[r]).report for r in RIDGES]
    best = min(1 - r.held_out_r2 for r in reports)
    assert (
        1 - Translator.fit(f, z, held_out=0.3).report.held_out_r2 <= best * 1.1 + 1e-9
    )  # what few held-out rows tell apart


def test_sums_are_of_all_columns_where_there_are_more_than_a_block():
    f, z = torch.randn(5, 1100, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    fitter = fitted(f, z, m=1100, n=2)
    torch.testing.assert_close(fitter.ff, f.mT @ f)
    torch.testing.assert_close(fitter.ff, fitter.ff.mT, rtol=0, atol=1e-14)
    assert float(fitter.zz) == pytest.approx(float(z.square().sum()))
    torch.testing.assert_close(torch.cat([fitter.f_sum, fitter.z_sum]), torch.cat([f, z], 1).sum(0))


@given(st.integers(1, 9), st.integers(0, 1000))
def test_batches_and_merged_fitters_have_the_sums_of_all_at_once(batch, seed):
    f, z, _ = pairs(40, seed=seed)
    whole, merged = fitted(f, z), TranslatorFitter(M, N)
    for x, y in zip(f.split(batch), z.split(batch), strict=True):
        merged.merge(fitted(x, y))
    for parts in (fitted(f, z, batch=batch), merged):
        for name, total in vars(whole).items():
            torch.testing.assert_close(getattr(parts, name), total)


def test_memory_does_not_grow_with_the_number_of_rows():
    f, z, _ = pairs(1000)
    for rows in (10, 1000):
        kept = vars(fitted(f[:rows], z[:rows], batch=10)).values()
        assert sum(torch.as_tensor(x).numel() for x in kept) == M * M + M * N + M + N + 2


def test_mse_from_the_sums_is_the_direct_one():
    f, z, T = pairs(50)
    direct = (f @ (T + 0.1).mT - z).square().sum(-1).mean()
    assert fitted(f, z).mse(T + 0.1) == pytest.approx(float(direct), rel=1e-10)


def test_half_precision_batches_are_summed_in_float64():
    f, z, _ = pairs(100)
    f16, z16 = f.half(), z.half()
    got = fitted(f16, z16).solve(ridge=0.1).weight
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, fitted(f16.double(), z16.double()).solve(ridge=0.1).weight)


# ----------------------------------------------------------------------------------- fit


def test_fit_recovers_the_map_and_reports_on_rows_it_did_not_see():
    f, z, true = pairs(400, noise=0.0)
    T = Translator.fit(f, z, held_out=0.25, meta={"classifier": "c"})
    torch.testing.assert_close(T.weight, true, rtol=1e-4, atol=1e-4)
    assert T.report.ridge < 1e-5  # clean data want the smallest
    assert (T.report.n_fit, T.report.n_held_out) == (300, 100)
    assert T.report.held_out_cosine == pytest.approx(1.0, abs=1e-6)
    assert T.report.held_out_r2 == pytest.approx(1.0, abs=1e-6)
    assert (T.report.method, T.report.loss, T.meta) == ("ridge", "mse", {"classifier": "c"})


def test_fit_is_deterministic_and_the_seed_moves_the_split():
    f, z, _ = pairs(40)
    a, b, c = (Translator.fit(f, z, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.weight, b.weight)
    assert not torch.equal(a.weight, c.weight)


def test_the_report_gives_the_split_again():
    f, z, _ = pairs(40)
    T = Translator.fit(f, z, held_out=0.3, seed=5)
    own, test = split_rows(40, held_out=T.report.held_out, seed=T.report.seed)
    assert sorted([*own.tolist(), *test.tolist()]) == list(range(40))
    assert (len(own), len(test)) == (T.report.n_fit, T.report.n_held_out) == (28, 12)
    torch.testing.assert_close(T.weight, fitted(f[own], z[own]).solve(ridge=T.report.ridge).weight)
    found = quality(T(f[test]), z[test])
    assert (found.cosine, found.r2) == pytest.approx((T.report.held_out_cosine, T.report.held_out_r2))


@pytest.mark.parametrize("method", ["ridge", "adamw"])
def test_two_rows_are_enough(method):
    f, z, _ = pairs(2)
    options = {"epochs": 1} if method == "adamw" else {}
    T = Translator.fit(f, z, method=method, **options)
    assert (T.report.n_fit, T.report.n_held_out) == (1, 1)
    assert torch.isfinite(T.weight).all()
    assert [len(rows) for rows in split_rows(2, held_out=0.9, seed=0)] == [1, 1]


def test_numpy_and_float32_keep_their_kind():
    f, z, _ = pairs(50)
    T = Translator.fit(f.numpy(), z.numpy())
    assert isinstance(T(f.numpy()), np.ndarray)
    out = T(f.float().reshape(5, 10, M))
    assert out.dtype == torch.float32
    assert out.shape == (5, 10, N)
    torch.testing.assert_close(out.reshape(50, N), T(f).float(), rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------- adamw


def test_adamw_defaults_are_the_papers():
    defaults = {k: p.default for k, p in inspect.signature(fit_adamw).parameters.items()}
    assert (defaults["weight_decay"], defaults["lr"]) == (0.1, 1e-4)


def test_adamw_reaches_ridge_on_an_easy_problem():
    f, z, _ = pairs(600, m=6, n=3, noise=0.05)
    ridge = Translator.fit(f, z)
    adamw = Translator.fit(
        f, z, method="adamw", lr=1e-2, epochs=60, weight_decay=0.0, batch_size=64, hidden=16
    )
    assert adamw.weight.shape == ridge.weight.shape
    assert adamw.report.held_out_r2 > ridge.report.held_out_r2 - 0.01
    torch.testing.assert_close(adamw.weight.double(), ridge.weight, rtol=0, atol=0.05)
    assert adamw.report.ridge == 0.0


@pytest.mark.parametrize("loss", ["mse", "cosine", "both"])
@pytest.mark.parametrize("lr", [1e-2, 3e-2])  # by small steps the last is the best, by large ones an earlier
def test_adamw_stops_where_the_held_out_loss_falls_no_more_and_keeps_the_best(loss, lr):
    f, z, _ = pairs(60, noise=2.0)  # few rows and much noise: it soon learns them by heart
    options = {"lr": lr, "epochs": 200, "patience": 5, "hidden": 7, "loss": loss}
    T, details = fit_adamw(f[:40], z[:40], f[40:], z[40:], **options)
    held = [r for r in details["history"] if r["split"] == "held out"]
    errors = [
        {"mse": r["mse"], "cosine": 1 - r["cosine"], "both": r["mse"] + 1 - r["cosine"]}[loss] for r in held
    ]
    best = min(range(1, len(errors)), key=errors.__getitem__)
    assert held[-1]["epoch"] < 200
    assert best < held[-1]["epoch"] or lr == 1e-2
    assert min(errors[-5:]) >= 0.999 * min(errors[1:-5])
    out = f[40:].float() @ T.mT
    # The history comes from the two layers, the map is folded.
    assert quality(out, z[40:]).cosine == pytest.approx(held[best]["cosine"], rel=1e-5)
    assert float((out - z[40:]).square().sum(-1).mean()) == pytest.approx(held[best]["mse"], rel=1e-5)
    cut, _ = fit_adamw(f[:40], z[:40], f[40:], z[40:], **(options | {"epochs": best}))
    assert torch.equal(cut, T)


@pytest.mark.parametrize("loss", ["mse", "cosine", "both"])
def test_each_loss_lowers_what_it_names(loss):
    f, z, _ = pairs(200)
    options = {"hidden": 16, "batch_size": 32, "lr": 1e-2}
    history = Translator.fit(f, z, method="adamw", loss=loss, epochs=12, **options).report.history
    assert [r["epoch"] for r in history if r["split"] == "fit"] == list(range(13))
    assert {r["split"] for r in history} == {"fit", "held out"}
    first, last = history[0], history[-2]
    if loss in ("mse", "both"):
        assert last["mse"] < 0.7 * first["mse"]
    assert last["cosine"] > first["cosine"] + 0.3


def test_the_losses_are_what_they_say():
    """The cosine loss ignores the length of z; the squared error does not; both adds them."""
    from sing_utils.method.adamw import _loss

    out, z = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(_loss(out, z, "mse")) == pytest.approx((4 + 5) / 2)
    assert float(_loss(out, z, "cosine")) == pytest.approx((0 + 1) / 2)
    assert float(_loss(out, z, "both")) == pytest.approx(5.0)


def test_adamw_leaves_the_global_generator_alone_and_follows_its_seed():
    f, z, _ = pairs(30)
    state = torch.get_rng_state()
    a, b, c = (Translator.fit(f, z, method="adamw", epochs=1, seed=s) for s in (0, 0, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a.weight, b.weight)
    assert not torch.equal(a.weight, c.weight)


def test_weight_decay_shrinks_the_map():
    f, z, _ = pairs(60)
    loose, tight = (
        Translator.fit(f, z, method="adamw", epochs=20, lr=1e-2, weight_decay=d) for d in (0.0, 30.0)
    )
    assert float(tight.weight.norm()) < 0.8 * float(loose.weight.norm())


# ------------------------------------------------------------------------------ linearity


@given(st.integers(0, 1000))
def test_no_bias_so_the_map_is_additive(seed):
    f, z, _ = pairs(50, seed=seed)
    T = Translator.fit(f, z + 10.0)  # targets far from 0 must not bring a bias in
    x, v = f[:3], f[3:6]
    torch.testing.assert_close(T(x + v), T(x) + T(v), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(T(0 * x), torch.zeros(3, N, dtype=torch.float64))


@pytest.mark.parametrize("c", [3, 10])
def test_after_null_removal_translates_the_equivalent(c):
    f, z, _ = pairs()
    spaces = HeadSpaces.from_weight(torch.randn(c, M, generator=torch.Generator().manual_seed(9)))
    T = dataclasses.replace(Translator.fit(f, z), meta={"kept": "yes"})
    after = T.after_null_removal(spaces)
    torch.testing.assert_close(after(f), T(spaces.remove_null(f)), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(after(f), T(f), atol=0.1)
    assert after.meta == T.meta


# ---------------------------------------------------------------------------------- files


@pytest.mark.parametrize("method", ["ridge", "adamw"])
def test_save_and_load_round_trip(tmp_path, method):
    f, z, _ = pairs(40)
    options = {"epochs": 2} if method == "adamw" else {}
    T = Translator.fit(f, z, method=method, meta={"classifier": "a", "encoder": "b"}, **options)
    T.save(tmp_path / "T.safetensors")
    again = Translator.load(tmp_path / "T.safetensors")
    assert torch.equal(again.weight, T.weight)
    assert again.weight.dtype == T.weight.dtype
    assert again.report == T.report
    assert again.meta == {"classifier": "a", "encoder": "b"}


def test_a_map_that_was_not_fitted_here_has_no_report(tmp_path):
    Translator(torch.ones(2, 3).mT).save(tmp_path / "T.safetensors")  # not contiguous either
    again = Translator.load(tmp_path / "T.safetensors")
    assert again.report is None
    assert again.weight.shape == (3, 2)


@pytest.mark.parametrize("kept", [0, 5, 100, -8])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "T.safetensors"
    Translator(torch.ones(4, 30)).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SingError, match=r"T.safetensors is no translator"):
        Translator.load(path)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"weight": torch.ones(2, 3)}, None),
        ({"other": torch.ones(2, 3)}, {"format": "sing"}),
        ({"weight": torch.ones(3)}, {"format": "sing"}),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(3)}, {"format": "sing"}),
        (None, None),  # there is no file
    ],
)
def test_another_file_is_refused(tmp_path, tensors, metadata):
    if tensors is not None:
        save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(SingError, match="is no translator"):
        Translator.load(tmp_path / "x.safetensors")


# ------------------------------------------------------------------------------ bad input


NAN = torch.tensor([[1.0, float("nan")]]).repeat(3, 1)


@pytest.mark.parametrize(
    ("f", "z", "options", "message"),
    [
        (torch.ones(0, 3), torch.ones(0, 2), {}, r"f has 0 row\(s\), expected at least 2"),
        (torch.ones(1, 3), torch.ones(1, 2), {}, r"f has 1 row\(s\)"),
        (torch.ones(4, 3), torch.ones(5, 2), {}, r"f has shape \(4, 3\) and z \(5, 2\)"),
        (torch.ones(4), torch.ones(4, 2), {}, r"f has shape \(4,\)"),
        (NAN, torch.ones(3, 2), {}, "f holds 3 NaN"),
        (torch.ones(3, 2), NAN, {}, "z holds 3 NaN"),
        (torch.ones(4, 3), torch.ones(4, 2), {"method": "sgd"}, "method 'sgd' is unknown"),
        (torch.eye(4), torch.ones(4, 2), {"method": "adamw", "loss": "l1"}, "loss 'l1' is unknown"),
        (torch.eye(4), torch.ones(4, 2), {"held_out": 0.0}, "held_out is 0.0"),
        (torch.eye(4), torch.ones(4, 2), {"held_out": 1}, "held_out is 1"),
        (torch.eye(4), torch.ones(4, 2), {"ridges": []}, r"ridges are \[\]"),
        (torch.eye(4), torch.ones(4, 2), {"ridges": [0.0]}, r"ridges are \[0.0\]"),
        (torch.zeros(4, 3), torch.ones(4, 2), {}, "features that vary"),
    ],
)
def test_bad_fits(f, z, options, message):
    with pytest.raises(SingError, match=message):
        Translator.fit(f, z, **options)


def test_bad_batches_leave_the_fitter_as_it_was():
    f, z, _ = pairs(20)
    fitter = fitted(f, z)
    before = fitter.solve(ridge=0.1).weight
    bad = f[:2].clone()
    bad[1, 1] = float("nan")
    for x, y, message in [
        (f[:, 1:], z, f"f has width {M - 1}"),
        (f, z[:, 1:], f"z has width {N - 1}"),
        (bad, z[:2], "f holds 1 NaN"),
        (f[:3], z[:2], "one row of z for each row of f"),
    ]:
        with pytest.raises(SingError, match=message):
            fitter.update(x, y)
    assert fitter.n_rows == 20
    assert torch.equal(fitter.solve(ridge=0.1).weight, before)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda _: TranslatorFitter(3, 2).solve(ridge=1.0), "has seen no rows"),
        (lambda _: TranslatorFitter(3, 2).mse(torch.ones(2, 3)), "has seen no rows"),
        (lambda _: TranslatorFitter(3, 2).mean_square(), "has seen no rows"),
        (lambda x: x.solve(ridge=-1.0), "expected a number of at least 0"),
        (lambda x: x.solve(ridge=float("nan")), "expected a number of at least 0"),
        (lambda x: x.solve(ridge=0.0), f"3 rows do not determine a map of width {M}"),
        (lambda x: x.merge(TranslatorFitter(3, 2)), rf"widths \(3, 2\) into one of \({M}, {N}\)"),
    ],
)
def test_what_a_fitter_can_not_do(ask, message):
    f = torch.zeros(3, M, dtype=torch.float64)
    f[:, 0] = 1.0
    with pytest.raises(SingError, match=message):
        ask(fitted(f, torch.ones(3, N, dtype=torch.float64)))


def test_features_of_another_width_are_not_translated():
    f, z, _ = pairs(20)
    with pytest.raises(SingError, match=f"f has width 3 .*expected {M}"):
        Translator.fit(f, z)(torch.ones(2, 3))


def test_quality_by_hand():
    z = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    Tf = torch.tensor([[1.0, 1.0], [3.0, 0.0]])
    # residual 1; total about the mean (2, 0): 1 + 1 = 2. Cosines: 45 degrees and 0.
    score = quality(Tf, z)
    assert score.r2 == pytest.approx(0.5)
    assert score.cosine == pytest.approx((2**-0.5 + 1) / 2)
    assert np.isnan(quality(z[:1], z[:1]).r2)
