"""Angles and scores: against high precision, by hand, and on bad input."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sing_utils import SingError, angle, attribute_score, image_score
from sing_utils.method.scores import contrast, pairwise_angle


def exact_angle(x, y):
    """The same angle with 60 digits, by another formula: atan2(|x| |y| sin, x . y)."""
    with mpmath.workdps(60):
        a, b = ([mpmath.mpf(float(v)) for v in w] for w in (x, y))
        dot = mpmath.fdot(a, b)
        squared = mpmath.fdot(a, a) * mpmath.fdot(b, b) - dot**2
        return float(mpmath.degrees(mpmath.atan2(mpmath.sqrt(max(squared, 0)), dot)))


# ------------------------------------------------------------------------------- angle


@pytest.mark.parametrize(
    ("x", "y", "degrees"),
    [
        ([1, 0], [1, 0], 0.0),
        ([1, 0], [0, 1], 90.0),
        ([1, 0], [-1, 0], 180.0),
        ([1, 0], [1, 1], 45.0),
        ([1, 0, 0], [1, 3**0.5, 0], 60.0),
        ([2, 0], [-3, 3], 135.0),
    ],
)
def test_angles_known_by_hand(x, y, degrees):
    assert float(angle(np.array(x), np.array(y))) == pytest.approx(degrees, abs=1e-13)


@pytest.mark.parametrize("turn", [1e-12, 1e-9, 1e-6, 1e-3, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("side", [0, 1])
def test_tiny_and_nearly_opposite_angles_against_60_digits(turn, side, rng):
    """arccos loses all digits below 1e-6 degrees and near 180; Kahan's formula does not."""
    n = 64
    x = rng.standard_normal(n)
    across = rng.standard_normal(n)
    across -= (across @ x) / (x @ x) * x
    across *= np.linalg.norm(x) / np.linalg.norm(across)
    y = (-1) ** side * np.cos(turn) * x + np.sin(turn) * across
    expected = exact_angle(x, y)
    got = float(angle(x, y))
    distance = 180 - expected if expected > 90 else expected
    # What is left is the rounding of x and y to unit length, some 1e-16 radians each.
    assert abs(got - expected) <= 1e-13 * distance + 3e-14


def test_identical_float32_vectors_are_at_zero_where_arccos_is_not():
    x = torch.randn(1000, 512, generator=torch.Generator().manual_seed(0))
    assert float(angle(x, x).max()) == 0.0
    assert float(angle(x, 3 * x).max()) < 1e-5  # 3 x is rounded to float32
    unit = torch.nn.functional.normalize(x, dim=-1)
    naive = torch.rad2deg(torch.arccos((unit * unit).sum(-1).clamp(-1, 1)))
    assert float(naive.max()) > 0.01


vectors = st.integers(0, 10_000).map(lambda s: np.random.default_rng(s).standard_normal((2, 7)))


@given(vectors, st.floats(1e-30, 1e30), st.floats(1e-30, 1e30))
def test_angle_properties(pair, a, b):
    x, y = pair
    theta = float(angle(x, y))
    assert 0 <= theta <= 180
    assert theta == pytest.approx(exact_angle(x, y), abs=1e-12)
    assert float(angle(y, x)) == pytest.approx(theta, abs=1e-12)  # symmetric
    assert float(angle(a * x, b * y)) == pytest.approx(theta, abs=1e-11)  # of directions only
    assert float(angle(-x, y)) == pytest.approx(180 - theta, abs=1e-11)


def test_shapes_broadcast_and_the_array_library_is_kept(rng):
    x, y = rng.standard_normal((2, 3, 5)), rng.standard_normal(5)
    got = angle(x, y)
    assert isinstance(got, np.ndarray)
    assert got.shape == (2, 3)
    assert got.dtype == np.float64
    assert got[1, 2] == pytest.approx(exact_angle(x[1, 2], y), abs=1e-12)
    assert angle(torch.from_numpy(x).float(), torch.from_numpy(y).float()).dtype == torch.float64


def test_pairwise_equals_a_loop_also_for_tiny_angles(rng):
    x = rng.standard_normal((30, 40))
    y = np.concatenate([rng.standard_normal((4, 40)), x[:2] * (1 + 1e-9), -x[2:3], x[3:4] + 1e-9])
    got = pairwise_angle(x, y)
    assert got.shape == (30, 8)
    for i in range(30):
        for k in range(8):
            assert got[i, k] == pytest.approx(exact_angle(x[i], y[k]), abs=3e-13)


def test_an_angle_can_be_derived_without_a_warning(recwarn):
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    pairwise_angle(x, torch.tensor([[1.0, 1.0]], dtype=torch.float64)).sum().backward()
    assert x.grad.tolist() == [[pytest.approx(0, abs=1e-12), pytest.approx(-180 / torch.pi)]]
    assert not recwarn.list


# ------------------------------------------------------------------------------ scores


def test_scores_by_hand_with_their_signs():
    text = np.array([0.0, 1.0])
    z = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    z_tilde = np.array([[1.0, 1.0], [1.0, 0.0], [-5.0, 0.0]])
    # 90 -> 45 closer is positive; 45 -> 90 farther is negative; 0 -> 90.
    np.testing.assert_allclose(attribute_score(z, z_tilde, text), [45, -45, -90], atol=1e-12)
    np.testing.assert_allclose(image_score(z, z_tilde), [45, 45, 90], atol=1e-12)


@given(st.integers(0, 10_000))
def test_attribute_score_is_bounded_by_image_score_and_antisymmetric(seed):
    z, z_tilde, text = np.random.default_rng(seed).standard_normal((3, 6))
    score, image = float(attribute_score(z, z_tilde, text)), float(image_score(z, z_tilde))
    assert abs(score) <= image + 1e-10  # the triangle inequality on the sphere
    assert float(attribute_score(z_tilde, z, text)) == pytest.approx(-score, abs=1e-12)
    assert float(attribute_score(z, z, text)) == 0.0
    assert float(attribute_score(3 * z, 0.1 * z_tilde, 7 * text)) == pytest.approx(score, abs=1e-10)


# --------------------------------------------------------------------------- bad input

OK = np.array([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize("function", [angle, pairwise_angle, image_score])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (OK, np.array([[0.0, 0.0], [1.0, 0.0]]), r"y holds 1 zero vector\(s\) of 2"),
        (np.zeros((2, 2)), OK, r"x holds 2 zero vector\(s\) of 2"),
        (np.array([[1.0, np.nan]]), OK[:1], "x holds 1 NaN or infinite"),
        (OK[:1], np.array([[1.0, np.inf]]), "y holds 1 NaN or infinite"),
        (OK, np.ones((2, 3)), r"y has width 3 \(shape \(2, 3\)\), expected 2"),
    ],
)
def test_bad_directions(function, x, y, message):
    with pytest.raises(SingError, match=message):
        function(x, y)


# --------------------------------------------------------------------------- contrast


def test_contrast_by_hand_and_what_moves_all_prompts_alike_cancels():
    AS = torch.tensor([[-4.0, -1.0, 0.0, 1.0], [2.0, 5.0, 2.0, 2.0]], dtype=torch.float64)
    own = torch.tensor([0, 1])
    assert contrast(AS, own).tolist() == [-4.0, 3.0]
    assert torch.allclose(contrast(AS + 7.5, own), contrast(AS, own))
    assert contrast(AS.numpy(), own.numpy()).tolist() == [-4.0, 3.0]


def test_contrast_with_one_class_has_nothing_to_compare_with():
    assert contrast(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0])).isnan().all()
