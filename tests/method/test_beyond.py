"""The score beyond the logits: what must not move it, where it is zero, where it equals null removal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sing_utils import (
    BeyondLogits,
    HeadSpaces,
    NoNullSpaceError,
    SingError,
    attribute_score,
    contrast,
    image_score,
)
from sing_utils.method.translator import TranslatorFitter, quality, split_rows

M, N_FIT, C, WIDTH = 24, 400, 8, 10  # m, N, c, n


def world(seed, *, null=1.0, noise=0.3):
    """Features, embeddings and a head; `null` scales what null directions say of the embedding."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(M, M, generator=g).double())[0]
    spread = torch.logspace(-0.5, 0.5, M, dtype=torch.float64)  # features that vary, and covary
    f = (torch.randn(N_FIT, M, generator=g).double() * spread) @ turn + 1
    W = torch.randn(C, M, generator=g).double()
    T = torch.randn(WIDTH, M, generator=g).double()
    spaces = HeadSpaces.from_weight(W)
    rest = spaces.null_component(f)
    known = f - rest
    shared = torch.linalg.lstsq(known, rest).solution  # what the logits tell of the null component
    own = rest - known @ shared
    z = (known + null * own) @ T.mT + noise * torch.randn(N_FIT, WIDTH, generator=g).double() + 2
    texts = torch.randn(C, WIDTH, generator=g).double()
    return f, z, W, texts


def scores(B, f, texts):
    whole, logits = B(f)
    AS = attribute_score(whole[:, None], logits[:, None], texts)
    return image_score(whole, logits), AS, contrast(AS, torch.arange(len(f)) % C)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), dense=st.booleans(), condition=st.floats(1, 100))
def test_no_basis_and_no_shift_moves_a_photo(seed, dense, condition):
    f, z, W, texts = world(seed)
    g = torch.Generator().manual_seed(seed + 1)
    stretch = torch.logspace(0, torch.tensor(condition).log10().item(), M, dtype=torch.float64)
    M_ = torch.diag(stretch[torch.randperm(M, generator=g)])
    if dense:
        turns = [torch.linalg.qr(torch.randn(M, M, generator=g).double())[0] for _ in range(2)]
        M_ = turns[0] @ M_ @ turns[1]
    shift = 10 * torch.randn(M, generator=g).double()
    given_, other = BeyondLogits.fit(f, z, W), BeyondLogits.fit(f @ M_.mT + shift, z, W @ M_.inverse())
    for a, b in zip(scores(given_, f, texts), scores(other, f @ M_.mT + shift, texts), strict=True):
        assert float((a - b).abs().max()) < 1e-9
    # The paper's scores do move: the test would see a score that hangs on the basis.
    if condition > 3:
        energy = [
            HeadSpaces.from_weight(w).null_energy(x) for w, x in ((W, f), (W @ M_.inverse(), f @ M_.mT))
        ]
        assert float((energy[0] - energy[1]).abs().max()) > 1e-3


def test_zero_where_null_directions_mean_nothing():
    f, z, W, texts = world(0, null=0.0)
    found = scores(BeyondLogits.fit(f, z, W), f, texts)
    f, z, W, texts = world(0, null=1.0)
    meant = scores(BeyondLogits.fit(f, z, W), f, texts)
    assert float(found[0].median()) < 0.05 * float(meant[0].median())
    assert float(found[1].abs().median()) < 0.05 * float(meant[1].abs().median())


def test_by_chance_is_near_zero_and_knows_the_same_split():
    f, z, W, texts = world(1)
    B = BeyondLogits.fit(f, z, W, held_out=0.2, seed=3)
    meant = float(scores(B, f, texts)[0].median())
    worlds = list(B.by_chance(f, z, draws=10, held_out=0.2, seed=3))
    assert len(worlds) == 10
    assert max(float(scores(w, f, texts)[0].median()) for w in worlds) < 0.2 * meant
    assert all(torch.equal(w(f)[1], B(f)[1]) for w in worlds)


def test_equals_null_removal_on_white_features_by_least_squares():
    g = torch.Generator().manual_seed(0)
    N = 600
    white = torch.linalg.qr(torch.cat([torch.ones(N, 1), torch.randn(N, M, generator=g)], 1).double())[0]
    f = white[:, 1:] * N**0.5  # mean 0 and covariance 1 over these rows
    W, T = (torch.randn(*s, generator=g).double() for s in ((C, M), (WIDTH, M)))
    z = f @ T.mT
    fitter = TranslatorFitter(M, WIDTH)
    fitter.update(f, z)
    B = BeyondLogits.from_sums(fitter, fitter, W, ridges=[0.0])
    whole, logits = B(f)
    torch.testing.assert_close(whole, z)
    torch.testing.assert_close(logits, HeadSpaces.from_weight(W).remove_null(f) @ T.mT)


def test_two_features_by_hand():
    # The head reads x, the embedding is (x, y); y = x / 2 + e, where e is ±1 beside every x.
    x = torch.tensor([2.0, 2.0, -2.0, -2.0]).double()
    e = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()
    f = torch.stack([x, x / 2 + e], 1)
    fitter = TranslatorFitter(2, 2)
    fitter.update(f, f)
    B = BeyondLogits.from_sums(fitter, fitter, torch.tensor([[3.0, 0.0]]), ridges=[0.0])
    whole, logits = B(f)
    torch.testing.assert_close(logits, torch.stack([x, x / 2], 1))  # what x tells of (x, y)
    torch.testing.assert_close(whole, f)
    assert B.shrinkage == pytest.approx(1.0)
    torch.testing.assert_close(B.rest(f).abs(), torch.ones(4, 1).double())  # e has variance 1


def test_the_stated_quality_is_that_on_photos_set_aside():
    f, z, W, _ = world(2, noise=3.0)
    f, z = f[:60], z[:60]
    B = BeyondLogits.fit(f, z, W, held_out=0.4)
    assert 0.05 < B.shrinkage < 0.95
    aside = split_rows(60, held_out=0.4, seed=0)[1]
    for found, stated in zip(B(f[aside]), (B.held_out_r2, B.held_out_r2_logits), strict=True):
        assert quality(found, z[aside]).r2 == pytest.approx(stated, abs=1e-9)


def test_few_photos_find_nothing_rather_than_noise():
    f, z, W, texts = world(3)
    for few in (8, 26, 27):  # 7 photos fit 8 logits exactly; 23 leave open what 24 numbers say beyond them
        B = BeyondLogits.fit(f[:few], z[:few], W)
        assert B.white.shape[0] == 0
        assert float(scores(B, f, texts)[0].abs().max()) == 0
    assert BeyondLogits.fit(f[:40], z[:40], W).white.shape[0] == M - C


def test_saved_and_loaded_and_numpy(tmp_path):
    f, z, W, _ = world(4)
    B = BeyondLogits.fit(f, z, W)
    B.save(tmp_path / "b.safetensors")
    again = BeyondLogits.load(tmp_path / "b.safetensors")
    assert torch.equal(again(f)[0], B(f)[0])
    assert (again.shrinkage, again.n_fit) == (B.shrinkage, B.n_fit)
    assert (B(f.numpy())[1] == B(f)[1].numpy()).all()


def test_bad_input_says_what_was_expected():
    f, z, W, _ = world(5)
    B = BeyondLogits.fit(f, z, W)
    with pytest.raises(SingError, match=f"expected {M}"):
        B(f[:, :5])
    with pytest.raises(SingError, match="one row of z for each row of f"):
        BeyondLogits.fit(f, z[:-1], W)
    with pytest.raises(NoNullSpaceError):
        BeyondLogits.fit(f, z, torch.eye(M))
    with pytest.raises(SingError, match="at least 0"):
        BeyondLogits.fit(f, z, W, ridges=[-1.0])
