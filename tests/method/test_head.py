"""Principal and null space of a head: by hand, as properties, and on bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sing_utils import HeadSpaces, NoNullSpaceError, SingError
from sing_utils.method.head import random_basis

# By hand: rows (3, 0, 0, 4) and (0, 2, 0, 0) are orthogonal with norms 5 and 2, so
# s = (5, 2) and the null space is spanned by e3 and (4, 0, 0, -3) / 5.
W = torch.tensor([[3.0, 0.0, 0.0, 4.0], [0.0, 2.0, 0.0, 0.0]], dtype=torch.float64)
f = torch.tensor([[1.0, 7.0, 2.0, 3.0]], dtype=torch.float64)
# (f . (4, 0, 0, -3) / 5) = -1, so the null component is e3's 2 and -(4, 0, 0, -3) / 5.
NULL = torch.tensor([[-0.8, 0.0, 2.0, 0.6]], dtype=torch.float64)


def head(c, m, *, rank=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    if rank is None:
        return torch.randn(c, m, generator=g, dtype=torch.float64)
    left, right = (torch.randn(a, b, generator=g, dtype=torch.float64) for a, b in ((c, rank), (rank, m)))
    return left @ right


def features(n, m, *, seed=1, dtype=torch.float64):
    return torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------------- by hand


def test_spaces_of_a_head_computed_by_hand():
    spaces = HeadSpaces.from_weight(W)
    assert (spaces.rank, spaces.null_dim, spaces.width) == (2, 2, 4)
    torch.testing.assert_close(spaces.singular_values, torch.tensor([5.0, 2.0], dtype=torch.float64))
    assert spaces.principal_basis.shape == spaces.null_basis.shape == (4, 2)
    torch.testing.assert_close(spaces.null_component(f), NULL)
    torch.testing.assert_close(spaces.remove_null(f), f - NULL)
    share = torch.tensor([5.0 / 63.0], dtype=torch.float64)  # 0.64 + 4 + 0.36 of 1 + 49 + 4 + 9
    torch.testing.assert_close(spaces.null_energy(f), share)
    assert spaces.rtol == 4 * torch.finfo(torch.float64).eps  # max(c, m)


def test_rtol_decides_what_counts_as_zero():
    w = torch.diag(torch.tensor([1.0, 1e-3, 1e-6, 0.0], dtype=torch.float64))
    assert HeadSpaces.from_weight(w).rank == 3
    assert HeadSpaces.from_weight(w, rtol=1e-5).rank == 2
    assert HeadSpaces.from_weight(w, rtol=1e-2).rank == 1
    assert HeadSpaces.from_weight(w * 1e9, rtol=1e-5).rank == 2  # relative, not absolute


# ---------------------------------------------------------------------------- properties

# c, m, rank and a seed; also more classes than features
heads = st.tuples(st.integers(1, 9), st.integers(2, 12), st.integers(1, 7), st.integers(0, 10_000)).filter(
    lambda t: min(t[0], t[2]) < t[1]
)


@given(heads)
def test_projector_properties(drawn):
    c, m, rank, seed = drawn
    rank = min(rank, c)
    w = head(c, m, rank=rank, seed=seed)
    spaces = HeadSpaces.from_weight(w)
    assert (spaces.rank, spaces.null_dim, len(spaces.singular_values)) == (rank, m - rank, min(c, m))
    x, y = features(5, m, seed=seed + 1), features(5, m, seed=seed + 2)
    null = spaces.null_component
    scale = float(x.norm())
    close = {"rtol": 0.0, "atol": 1e-12 * max(1.0, scale**2)}
    eye = torch.eye(m, dtype=torch.float64)
    V = torch.cat([spaces.principal_basis, spaces.null_basis], 1)
    torch.testing.assert_close(V.mT @ V, eye, **close)  # one orthonormal basis
    torch.testing.assert_close(null(null(x)), null(x), **close)  # idempotent
    torch.testing.assert_close((null(x) * y).sum(-1), (x * null(y)).sum(-1), **close)  # symmetric
    torch.testing.assert_close(
        (null(x) * spaces.remove_null(x)).sum(-1), torch.zeros(5, dtype=torch.float64), **close
    )  # orthogonal
    torch.testing.assert_close(null(x) + spaces.remove_null(x), x, **close)
    tolerance = {"rtol": 0.0, "atol": 1e-11 * float(w.norm()) * scale}
    torch.testing.assert_close(spaces.remove_null(x) @ w.mT, x @ w.mT, **tolerance)  # eq. 2
    torch.testing.assert_close(null(x) @ w.mT, torch.zeros(5, c, dtype=torch.float64), **tolerance)
    energy = spaces.null_energy(x)
    assert bool(((energy >= 0) & (energy <= 1 + 1e-12)).all())
    torch.testing.assert_close(energy, null(x).square().sum(-1) / x.square().sum(-1))
    torch.testing.assert_close(spaces.null_energy(spaces.remove_null(x)), 0 * energy, **close)
    scales = torch.linspace(500.0, 1000.0, c, dtype=torch.float64)[:, None]  # the scale of rows is no matter
    got = HeadSpaces.from_weight(w * scales).remove_null(x)
    torch.testing.assert_close(got, spaces.remove_null(x), rtol=0, atol=1e-7 * scale)


@pytest.mark.parametrize("method", ["null_component", "remove_null"])
@pytest.mark.parametrize("c", [3, 9])  # null space of dimension 9, and 3: either side is thinner
def test_the_thinner_side_gives_what_the_projector_gives_and_no_projector_is_built(c, method, monkeypatch):
    """(x V) V^T touches a (B, k) intermediate with the smaller k, never (m, m)."""
    m, x, spaces = 12, features(5, 12), HeadSpaces.from_weight(head(c, 12))
    projector = spaces.null_basis @ spaces.null_basis.mT  # (m, m), only here
    expected = x @ projector if method == "null_component" else x - x @ projector
    shapes = []
    original = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: shapes.append(original(a, b).shape) or original(a, b)
    )
    torch.testing.assert_close(getattr(spaces, method)(x), expected, rtol=0, atol=1e-13)
    assert torch.Size([5, 3]) in shapes  # min(r, m - r)
    assert torch.Size([5, 9]) not in shapes
    assert torch.Size([m, m]) not in shapes


# ---------------------------------------------------------------------------------- rank


@pytest.mark.parametrize(("c", "m"), [(100, 256), (250, 512)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rank_of_a_row_centred_head_stored_in_any_dtype(c, m, dtype):
    w = head(c, m)
    w = (w / w.norm(dim=1, keepdim=True)).to(dtype)
    w = w - w.mean(0)  # centred in that dtype, as a half-precision checkpoint is
    spaces = HeadSpaces.from_weight(w)
    s = spaces.singular_values
    if dtype in (torch.float16, torch.bfloat16):
        assert int((s > 1e-5).sum()) == c  # an absolute threshold calls it full rank
    assert spaces.rank == c - 1
    assert spaces.certificate(features(20, m).to(dtype)).passed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_wide_half_precision_head_keeps_its_rank(dtype):
    """max(c, m) * eps is 1 or more for a 16-bit head of width 2048: no rank at all."""
    w = head(40, 2048).to(dtype)
    assert HeadSpaces.from_weight(w).rank == 40


# ---------------------------------------------------------------- dtype, device and library


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("c", [3, 9])
def test_torch_dtype_shape_and_device_are_kept(dtype, c):
    spaces = HeadSpaces.from_weight(head(c, 12).to(torch.float32))
    x = features(24, 12, dtype=dtype).reshape(2, 4, 3, 12)
    tolerance = 4 * torch.finfo(dtype).eps * float(x.abs().max())
    exact = spaces.remove_null(x.to(torch.float64))
    for got, expected in ((spaces.remove_null(x), exact), (spaces.null_component(x), x - exact)):
        assert got.dtype == dtype
        assert got.shape == x.shape
        assert got.device == x.device
        torch.testing.assert_close(got.to(torch.float64), expected.to(torch.float64), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_rounded_once_only(dtype):
    """The sums are made in float32: what is left is the rounding of the result."""
    spaces = HeadSpaces.from_weight(head(50, 400).to(torch.float32))
    x = features(20, 400, dtype=dtype)
    exact = spaces.remove_null(x.to(torch.float64))
    error = (spaces.remove_null(x).to(torch.float64) - exact).abs()
    assert bool((error <= 0.505 * torch.finfo(dtype).eps * exact.abs() + 1e-5).all())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_in_numpy_out(dtype):
    spaces = HeadSpaces.from_weight(W.numpy().astype(dtype))
    got = spaces.remove_null(f.numpy().astype(dtype))
    assert isinstance(got, np.ndarray)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, (f - NULL).numpy(), rtol=2e-3)
    assert isinstance(spaces.null_energy(f.numpy()), np.ndarray)


def test_input_is_not_changed():
    x, w = f.clone(), W.clone()
    spaces = HeadSpaces.from_weight(w)
    spaces.remove_null(x)
    spaces.certificate(x)
    assert torch.equal(x, f)
    assert torch.equal(w, W)


def test_weight_with_gradients_and_integer_features():
    spaces = HeadSpaces.from_weight(torch.nn.Parameter(W.clone()))
    assert not spaces.null_basis.requires_grad
    got = spaces.remove_null(np.array([[1, 7, 2, 3]]))
    np.testing.assert_allclose(got, (f - NULL).numpy())


# --------------------------------------------------------------------------- certificate


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_certificate_passes_at_every_dtype_with_a_bound_that_says_something(dtype):
    spaces = HeadSpaces.from_weight(head(50, 400).to(torch.float32))
    proof = spaces.certificate(features(64, 400, dtype=dtype))
    assert proof.passed
    assert proof.check() is proof
    assert proof.n == 64
    assert proof.bound <= (2e-2 if dtype.itemsize == 2 else 4e-6)


def test_certificate_refuses_a_rank_that_is_too_small_by_one():
    w = head(50, 400).to(torch.float32)
    U, S, Vh = torch.linalg.svd(w, full_matrices=False)
    S[-1] = 2e-4 * S[0]  # hardly seen, and seen
    spaces = HeadSpaces.from_weight(U @ torch.diag(S) @ Vh)
    assert spaces.rank == 50
    x = features(64, 400, dtype=torch.float32)
    assert spaces.certificate(x).passed
    assert not spaces.at_rank(49).certificate(x).passed


def test_certificate_excuses_what_storage_left_of_zero():
    w = head(50, 400)
    w[-1] = w[0] + w[1]  # rank 49, but for rounding
    stored = w.to(torch.float32)
    spaces = HeadSpaces.from_weight(stored)
    assert spaces.rank == 49
    assert spaces.certificate(features(64, 400, dtype=torch.float64)).passed


def test_certificate_numbers_by_hand():
    spaces = HeadSpaces.from_weight(W)
    # Moving along e2 from 7 to 10.5 changes the second logit by 7; |W| = 5, |f|^2 = 63, |f~|^2 = 124.25.
    moved = f + torch.tensor([[0.0, 3.5, 0.0, 0.0]], dtype=torch.float64)
    proof = spaces.certificate(f, f_tilde=moved)
    assert proof.relative_change == pytest.approx(7 / (5 * 124.25**0.5), rel=1e-12)
    assert not proof.passed
    with pytest.raises(SingError, match="the logits of the equivalents moved by 0.126"):
        proof.check()
    back = spaces.certificate(f, f_tilde=f - torch.tensor([[0.0, 3.5, 0.0, 0.0]], dtype=torch.float64))
    assert back.relative_change == pytest.approx(7 / (5 * 63**0.5), rel=1e-12)  # now |f| is the larger


def test_certificate_counts_top1_changes_by_hand():
    w = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    spaces = HeadSpaces.from_weight(w)
    before = torch.tensor([[2.0, 1.0, 5.0], [1.0, 2.0, 5.0], [3.0, 1.0, 5.0]])
    after = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [2.0, 1.0, 0.0]])  # only the first flips
    assert spaces.certificate(before, f_tilde=after).top1_changes == 1
    # b = (10, 0) makes the first class win everywhere, (0, 1.5) flips rows 1 and 3.
    assert spaces.certificate(before, f_tilde=after, bias=np.array([10.0, 0.0])).top1_changes == 0
    assert spaces.certificate(before, f_tilde=after, bias=np.array([0.0, -0.5])).top1_changes == 1
    assert spaces.certificate(before, f_tilde=after, bias=np.array([0.0, 1.5])).top1_changes == 1


def test_certificate_takes_the_worst_row_of_many_chunks(monkeypatch):
    monkeypatch.setattr("sing_utils.method.head._CHUNK", 4)
    spaces = HeadSpaces.from_weight(W)
    x = f.repeat(11, 1)
    y = spaces.remove_null(x)
    y[5, 1] += 3.5  # the second chunk of three
    proof = spaces.certificate(x, f_tilde=y)
    assert proof.n == 11
    # Of |f|^2 = 63 the null component has 5, and the second coordinate grew from 7 to 10.5.
    assert proof.relative_change == pytest.approx(7 / (5 * 119.25**0.5), rel=1e-9)
    y[:] = f
    y[[0, 1, 5], 1] = -9.0  # logits (15, 14) become (15, -18): none flips; the bias makes three flip
    assert spaces.certificate(x, f_tilde=y, bias=[0.0, 2.0]).top1_changes == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_certificate_never_passes_what_is_not_finite(bad):
    spaces = HeadSpaces.from_weight(W)
    x = f.clone()
    x[0, 2] = bad
    with pytest.raises(SingError, match="^f holds 1 NaN or infinite"):
        spaces.certificate(x)
    with pytest.raises(SingError, match="f~ holds"):
        spaces.certificate(f, f_tilde=x)


# ----------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("w", "message"),
    [
        (np.array([[1.0, np.nan, 0.0]]), "W holds 1 NaN or infinite"),
        (np.array([[np.inf, np.nan, 0.0]]), "W holds 2 NaN or infinite"),
        (np.zeros((2, 3)), "W is zero"),
        (np.ones(3), r"W has shape \(3,\), expected \(c, m\)"),
        (np.ones((1, 2, 3)), r"W has shape \(1, 2, 3\), expected \(c, m\)"),
        (np.ones((0, 3)), r"W has shape \(0, 3\)"),
        (np.ones((2, 3), dtype=bool), "W has dtype torch.bool"),
        (np.ones((2, 3), dtype=complex), "W has dtype torch.complex128"),
        (head(4, 4), "full rank 4 = m"),
        (head(9, 4), "full rank 4 = m"),
    ],
)
def test_bad_heads(w, message):
    with pytest.raises(NoNullSpaceError if "full rank" in message else SingError, match=message):
        HeadSpaces.from_weight(w)


@pytest.mark.parametrize("method", ["null_component", "remove_null", "null_energy", "certificate"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((2, 5)), r"f has width 5 \(shape \(2, 5\)\), expected 4"),
        (np.ones((0, 4)), "f is empty"),
        (torch.tensor(1.0), "f has width None"),
    ],
)
def test_bad_features(method, x, message):
    with pytest.raises(SingError, match=message):
        getattr(HeadSpaces.from_weight(W), method)(x)


@pytest.mark.parametrize("method", ["null_energy", "certificate"])
def test_a_zero_feature_has_no_share(method):
    x = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    with pytest.raises(SingError, match="f holds a zero vector"):
        getattr(HeadSpaces.from_weight(W), method)(x)


def test_pairs_of_different_length_are_refused():
    with pytest.raises(SingError, match="f~ has 1 rows, expected 2"):
        HeadSpaces.from_weight(W).certificate(f.repeat(2, 1), f_tilde=f)


# ------------------------------------------------------------------------------- control


def test_random_basis_is_orthonormal_seeded_and_of_the_expected_energy():
    Q = random_basis(60, 15, seed=3)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(15, dtype=torch.float64))
    assert torch.equal(Q, random_basis(60, 15, seed=3))
    assert not torch.equal(Q, random_basis(60, 15, seed=4))
    x = features(1, 60)
    shares = [float((x @ random_basis(60, 15, seed=s)).square().sum() / x.square().sum()) for s in range(200)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.02)  # k / m


# --------------------------------------------------------------------------- another cut


def test_another_cut_of_the_same_head():
    spaces = HeadSpaces.from_weight(np.diag([8.0, 4.0, 1.0]) @ np.eye(3, 5))
    assert spaces.gap == float("inf")
    cut = spaces.at_rank(2)
    assert (cut.rank, cut.null_dim, cut.gap) == (2, 3, 4.0)
    assert cut.remove_null(np.ones((1, 5))).tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0]]
    assert spaces.rank == 3
    for rank in (0, 5):
        with pytest.raises(SingError, match="expected 1 to 4"):
            spaces.at_rank(rank)


def test_a_head_of_equal_rows_has_nothing_that_softmax_sees():
    with pytest.raises(SingError, match="every row of W is the same"):
        HeadSpaces.from_weight(np.ones((3, 4)), softmax=True)
