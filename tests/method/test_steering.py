"""Steering: the analytic gradient, the closed-form step, and what a step must not touch."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sing_utils import (
    HeadSpaces,
    SingError,
    Translator,
    UnreachableWarning,
    angle,
    null_direction,
    steer,
    step_for_image_score,
    text_gradient,
)
from sing_utils.method.steering import (
    largest_image_score,
    random_null_direction,
)

C, M, N, B = 5, 12, 7, 9


@pytest.fixture
def world():
    return make_world(0)


def make_world(seed, dtype=torch.float64):
    """f (B, m), text (n,), T (n, m), spaces of a (c, m) head."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    spaces = HeadSpaces.from_weight(draw(C, M))
    return draw(B, M).to(dtype), draw(N).to(dtype), Translator(draw(N, M).to(dtype)), spaces


# --------------------------------------------------------------------------- the gradient


@pytest.mark.parametrize("rows", [1, B])
def test_gradient_is_that_of_autograd(world, rows):
    f, _, T, _ = world
    text = torch.randn(rows, N, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = f.clone().requires_grad_()
    torch.cosine_similarity(x @ T.weight.mT, text, dim=-1).sum().backward()
    torch.testing.assert_close(text_gradient(f, text, T), x.grad, rtol=0, atol=1e-10)


def test_gradient_by_hand():
    """T = 1: z = f = (1, 0), text (0, 2): s = 0, g = (0, 1)."""
    g = text_gradient(np.array([[1.0, 0.0]]), np.array([0.0, 2.0]), Translator(torch.eye(2)))
    assert isinstance(g, np.ndarray)
    np.testing.assert_allclose(g, [[0.0, 1.0]], atol=1e-15)


# -------------------------------------------------------------------------- the direction


def test_direction_is_a_unit_vector_in_the_null_space(world):
    f, text, T, spaces = world
    d = null_direction(f, text, T, spaces)
    torch.testing.assert_close(torch.linalg.vector_norm(d, dim=-1), torch.ones(B, dtype=torch.float64))
    assert (d @ spaces.weight.mT).abs().max() < 1e-12
    # The best of all null directions: no other has a larger slope.
    slope = (text_gradient(f, text, T) * d).sum(-1)
    for seed in range(20):
        other = random_null_direction(B, spaces, seed=seed)
        assert ((text_gradient(f, text, T) * other).sum(-1) <= slope).all()


def test_no_direction_is_said():
    """T sees only what the head sees."""
    spaces = HeadSpaces.from_weight(torch.eye(2, 4, dtype=torch.float64))
    T = Translator(torch.eye(2, 4, dtype=torch.float64))
    with pytest.raises(SingError, match="1 of 1 features has no null component"):
        null_direction(torch.ones(1, 4), torch.tensor([1.0, 0.0]), T, spaces)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double())[0]
    spaces, T = HeadSpaces.from_weight(turn[:2]), Translator(turn[:2])  # but for rounding
    with pytest.raises(SingError, match="1 of 1 features has no null component"):
        null_direction(torch.ones(1, 4), torch.tensor([1.0, 0.0]), T, spaces)


def test_random_directions_fill_the_null_space_evenly(world):
    spaces = world[3]
    d = random_null_direction(4000, spaces, seed=0)
    assert (d @ spaces.weight.mT).abs().max() < 1e-12
    second = (d @ spaces.null_basis).mT @ (d @ spaces.null_basis) / len(d)
    torch.testing.assert_close(second, torch.eye(M - C, dtype=torch.float64) / (M - C), rtol=0, atol=0.01)
    assert not torch.equal(d, random_null_direction(4000, spaces, seed=1))


# ------------------------------------------------------------------------------- the step


def test_step_by_hand():
    """T f = (1, 0), T d = (0, 1): IS = 45 degrees at ε = 1, 60 at tan 60; 90 is never reached."""
    f, d = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    T = Translator(torch.eye(2, dtype=torch.float64))
    assert float(step_for_image_score(f, d, T, degrees=45.0)) == pytest.approx(1.0, rel=1e-14)
    assert float(step_for_image_score(f, d, T, degrees=60.0)) == pytest.approx(math.sqrt(3), rel=1e-14)
    assert float(step_for_image_score(f, d, T, degrees=0.0)) == 0.0
    for degrees in (89.99, 90.0):  # the first at six thousand times |T f|
        with pytest.warns(UnreachableWarning, match="1 of 1 features.*only approach 90.0°"):
            assert step_for_image_score(f, d, T, degrees=degrees).isnan().all()


def bisect(a, b, degrees):
    """The step of each row, by halving an interval; NaN where it would be longer than 1e12."""
    low, high = torch.zeros(len(a), dtype=a.dtype), torch.full((len(a),), 1e12, dtype=a.dtype)
    lost = angle(a, a + high[:, None] * b) < degrees
    for _ in range(200):
        middle = (low + high) / 2
        short = angle(a, a + middle[:, None] * b) < degrees
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return torch.where(lost, torch.nan, high)


@given(st.integers(0, 10_000), st.floats(0.01, 179.0))
def test_step_is_that_of_a_bisection(seed, degrees):
    f, _, T, _ = make_world(seed)
    d = torch.randn(B, M, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = step_for_image_score(f, d, T, degrees=degrees)
    expected = bisect(T(f), T(d), degrees)
    near_limit = (largest_image_score(f, d, T) - degrees).abs() < 0.1  # the step grows without bound
    assert torch.equal(got.isnan()[~near_limit], expected.isnan()[~near_limit])
    kept = ~near_limit & ~got.isnan()
    torch.testing.assert_close(got[kept], expected[kept], rtol=1e-7, atol=1e-9)
    reached = angle(T(f[kept]), T(f[kept] + got[kept, None] * d[kept]))
    torch.testing.assert_close(reached, torch.full_like(reached, degrees), rtol=0, atol=1e-7)
    assert bool(caught) == bool(got.isnan().any())


# --------------------------------------------------------------------------------- steering


def test_a_right_angle_is_reached_where_it_can_be(world):
    """cos 90° is rounding alone: the quadratic would have a double root there."""
    f, _, T, _ = world
    d = torch.randn(B, M, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    d = torch.cat([d, -d])  # of each pair one limit is above 90 degrees
    f = torch.cat([f, f])
    with pytest.warns(UnreachableWarning):
        epsilon = step_for_image_score(f, d, T, degrees=90.0)
    assert torch.equal(epsilon.isnan(), largest_image_score(f, d, T) <= 90.06)
    assert int((~epsilon.isnan()).sum()) >= B - 1


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_steering_reaches_the_wanted_score_and_no_logit_moves(dtype, atol):
    f, text, T, spaces = make_world(1, dtype)
    result = steer(f, text, T, spaces, degrees=12.0)
    assert result.f_eps.dtype == dtype
    torch.testing.assert_close(result.IS, torch.full((B,), 12.0, dtype=torch.float64), rtol=0, atol=atol)
    W = spaces.weight
    torch.testing.assert_close(
        result.f_eps.double() @ W.mT, f.double() @ W.mT, rtol=0, atol=1e-12 if atol < 1e-6 else 1e-4
    )
    assert result.certificate.n == B
    assert result.certificate.passed
    assert result.certificate.top1_changes == 0
    assert result.reason == ""
    expected = angle(T(f), text.expand(B, -1)) - angle(T(result.f_eps), text.expand(B, -1))
    torch.testing.assert_close(result.AS, expected.double(), rtol=0, atol=1e-4)
    assert (result.AS > 0).all()


def test_one_iteration_is_eq_13(world):
    f, text, T, spaces = world
    d = null_direction(f, text, T, spaces)
    epsilon = step_for_image_score(f, d, T, degrees=9.0)
    result = steer(f, text, T, spaces, degrees=9.0)
    torch.testing.assert_close(result.f_eps, f + epsilon[:, None] * d)
    torch.testing.assert_close(result.epsilon, epsilon)
    torch.testing.assert_close(result.largest, largest_image_score(f, d, T))


def test_a_text_a_row_is_that_row_alone(world):
    f, _, T, spaces = world
    texts = torch.randn(B, N, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    together = steer(f, texts, T, spaces, degrees=10.0)
    for i in range(B):
        alone = steer(f[i : i + 1], texts[i], T, spaces, degrees=10.0)
        torch.testing.assert_close(together.f_eps[i : i + 1], alone.f_eps)


def test_what_cannot_be_reached_is_nan_and_said(world):
    f, text, T, spaces = world
    largest = steer(f, text, T, spaces, degrees=0.0).largest
    degrees = float(largest.median())  # at the median itself: unreachable, like all below it
    result = steer(f, text, T, spaces, degrees=degrees)
    lost = largest <= degrees
    assert torch.equal(result.f_eps.isnan().all(-1), lost)
    for values in (result.IS, result.AS, result.epsilon):
        assert torch.equal(values.isnan(), lost)
    assert f"for {int(lost.sum())} of {B} features" in result.reason
    assert result.certificate.n == B - int(lost.sum())
    nothing = steer(f, text, T, spaces, degrees=179.0)
    assert nothing.certificate is None
    assert nothing.f_eps.isnan().all()


def test_a_step_that_would_drown_the_feature_is_out_of_reach():
    """T hardly sees the null space: the wanted IS would take a step of ten thousand times |f|."""
    spaces = HeadSpaces.from_weight(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    T = Translator(torch.tensor([[1.0, 0.0], [0.0, 1e-4]], dtype=torch.float64))
    f, text = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0.0, 1.0])
    assert steer(f, text, T, spaces, degrees=45.0).f_eps.isnan().all()
    assert float(steer(f, text, T, spaces, degrees=5.0).epsilon) == pytest.approx(
        1e4 * math.tan(math.radians(5))
    )


def test_a_control_direction_is_followed(world):
    f, text, T, spaces = world
    d = random_null_direction(B, spaces, seed=0)
    result = steer(f, text, T, spaces, degrees=5.0, direction=d)
    moved = result.f_eps - f
    torch.testing.assert_close(moved / torch.linalg.vector_norm(moved, dim=-1, keepdim=True), d)
    with pytest.raises(SingError, match="logits"):
        steer(f, text, T, spaces, degrees=5.0, direction=torch.ones_like(f))  # leaves the null space


def test_degrees_a_row(world):
    f, text, T, spaces = world
    wanted = torch.linspace(0.0, 16.0, B, dtype=torch.float64)
    result = steer(f, text, T, spaces, degrees=wanted)
    torch.testing.assert_close(result.IS, wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.f_eps[0], f[0])
    with pytest.raises(SingError, match="expected one angle, or 9"):
        steer(f, text, T, spaces, degrees=wanted[:4])


def test_numpy_in_numpy_out(world):
    f, text, T, spaces = world
    result = steer(f.numpy(), text.numpy(), T, spaces, degrees=5.0)
    assert isinstance(result.f_eps, np.ndarray)
    assert isinstance(result.IS, np.ndarray)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, text, T, spaces: steer(f, text[:6], T, spaces), "z_text has width 6"),
        (lambda f, text, T, spaces: steer(f, text.expand(4, -1), T, spaces), "one text for all features"),
        (lambda f, text, T, spaces: steer(f[:, :11], text, T, spaces), "f has width 11"),
        (lambda f, text, T, _: text_gradient(f[0], text, T), "pass a row a feature"),
        (lambda f, text, T, spaces: steer(f, text, T, spaces, direction=f[:3]), "direction has 3 rows"),
        (lambda f, text, T, spaces: steer(f, 0 * text, T, spaces), "z_text holds a zero vector"),
        (lambda f, text, T, _: text_gradient(0 * f, text, T), "T f is zero"),
        (lambda f, _text, T, _: step_for_image_score(f, 0 * f, T), "the translator can't see them"),
        (lambda f, text, T, spaces: T(steer(f, text, T, spaces, degrees=5.0)), "f is a Steered"),
        (lambda f, text, T, spaces: steer(f * math.nan, text, T, spaces), "NaN"),
        (lambda f, text, T, spaces: steer(f, text, T, spaces, degrees="forty"), "degrees is 'forty'"),
        (lambda f, text, T, spaces: steer(f, text, T, spaces, degrees=-1.0), "at least 0 and less than 180"),
        (lambda f, text, T, spaces: steer(f, text, T, spaces, degrees=180.0), "less than 180"),
        (lambda f, text, T, spaces: steer(f, text, T, spaces, degrees=math.nan), "less than 180"),
        (lambda f, _text, T, _: step_for_image_score(f, f, T, degrees=180.0), "less than 180"),
    ],
)
def test_bad_input(world, call, message):
    with pytest.raises(SingError, match=message):
        call(*world)
