"""Is a participant's function right? Each check answers in one sentence, and hands back one that works.

>>> from sing_utils.workshop import check
>>> def remove_null(f, V_n):
...     return (f @ V_n) @ V_n.T
>>> remove_null = check.remove_null(remove_null)
✗ remove_null: this is the part that the head ignores, expected what is left of f without it. ...

A check never looks at code. It calls the function on small examples whose answer is known, in PyTorch or
NumPy, and looks at properties of what comes back. Where the function is right, it comes back itself; where
it is wrong or not written yet, the book's own comes back in its place. Without a function a check says
nothing and gives the book's: `angle = check.angle()`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from sing_utils.method import scores
from sing_utils.method.head import HeadSpaces

__all__ = [
    "angle",
    "attribute_score",
    "certificate",
    "contrast",
    "energy_share",
    "image_score",
    "null_basis",
    "null_direction",
    "r2",
    "random_basis",
    "remove_null",
    "rescale",
    "ridge",
]

RIGHT, WRONG, EMPTY = "✓", "✗", "○"  # how a check's sentence begins
_NET = "The book's function goes on in its place."
_NEAR = 1e-3  # single precision passes, what is wrong does not


class Wrong(Exception):  # noqa: N818
    """What is wrong with a function, in one sentence."""


def need(holds: object, words: str) -> None:
    """What must hold, and what is said where it does not."""
    if not bool(holds):
        raise Wrong(words)


class _Function:
    """A participant's function: it gets tensors, or arrays where it wants them, and gives float64 tensors."""

    def __init__(self, written: Callable[..., Any]) -> None:
        self.written = written
        self.takes_arrays = False
        self.keeps_type = True

    def __call__(self, *given: Any) -> Any:
        try:
            out = self._call(given)
        except (AttributeError, TypeError, ValueError) as first:
            if self.takes_arrays:
                raise
            self.takes_arrays = True  # f.astype(float), for instance
            try:
                out = self._call(given)
            except Exception as second:
                self.takes_arrays = False
                raise (second if "'Tensor' object has no" in str(first) else first) from None
        return self._read(out, given)

    def _call(self, given: tuple[Any, ...]) -> Any:
        before = [x.clone() if isinstance(x, Tensor) else x for x in given]
        arrays = [x.numpy() if isinstance(x, Tensor) and self.takes_arrays else x for x in before]
        with warnings.catch_warnings():  # of NumPy, where it is given tensors
            warnings.simplefilter("ignore", DeprecationWarning)
            out = self.written(*arrays)
        for x, y in zip(given, before, strict=True):
            need(
                not isinstance(x, Tensor) or torch.equal(x, y),
                "it changes what it was given, expected a new tensor: `-=` and `*=` write into the argument.",
            )
        return out

    def _read(self, out: Any, given: tuple[Any, ...]) -> Any:
        if isinstance(out, tuple | list):
            return tuple(self._read(x, given) for x in out)
        need(out is not None, "it gives nothing back: does it end in `return`?")
        read = torch.as_tensor(out)
        need(not read.isnan().any(), "the result holds NaN: look for 0/0, or for a cosine a hair above 1.")
        kinds = {x.dtype for x in given if isinstance(x, Tensor)} or {torch.float64}
        self.keeps_type &= isinstance(out, Tensor) and read.dtype in kinds
        return read.double()

    def handed_back(self) -> Callable[..., Any]:
        """The function itself, or, where it gives arrays or another precision, one around it."""
        if self.keeps_type and not self.takes_arrays:
            return self.written

        @wraps(self.written)
        def as_tensors(*given: Any) -> Any:
            arrays = (x.numpy() if isinstance(x, Tensor) and self.takes_arrays else x for x in given)
            out = self.written(*arrays)
            several = isinstance(out, tuple | list)
            return tuple(map(_double, out)) if several else _double(out)

        return as_tensors


def _double(x: Any) -> Tensor:
    return torch.as_tensor(x).double()


_Probe = Callable[[Any], None]


def _check(book: Callable[..., Any]) -> Callable[[_Probe], Callable[..., Callable[..., Any]]]:
    """Make a check of a probe, with the book's function as its net."""

    def made(probe: _Probe) -> Callable[..., Callable[..., Any]]:
        @wraps(probe)
        def check(theirs: Callable[..., Any] | None = None) -> Callable[..., Any]:
            if theirs is None:
                return book
            if theirs is book:
                print(
                    f"{EMPTY} {probe.__name__}: this is the book's function, not yours. Run the cell with "
                    "yours first, then this one again."
                )
                return book
            function, name = _Function(theirs), probe.__name__
            state = torch.get_rng_state()
            torch.manual_seed(0)
            try:
                probe(function)
            except NotImplementedError:
                print(f"{EMPTY} {name}: not written yet. {_NET}")
            except Wrong as wrong:
                print(f"{WRONG} {name}: {wrong} {_NET}")
            except Exception as error:
                said = str(error).strip().split("\n")[0][:160] or "no message"
                print(f"{WRONG} {name}: it stops with {type(error).__name__} ({said.rstrip('.')}). {_NET}")
            else:
                print(f"{RIGHT} {name}: right.")
                return function.handed_back()
            finally:
                torch.set_rng_state(state)
            return book

        return check

    return made


def _shape(x: Any, expected: tuple[int, ...], words: str) -> None:
    shape = tuple(x.shape) if isinstance(x, Tensor) else "several results"
    need(shape == expected, f"the shape is {shape}, expected {expected}: {words}.")


def _near(x: Tensor, y: Tensor | float, size: float | None = None) -> bool:
    """Whether two results agree to single precision, by their largest entry."""
    y = torch.as_tensor(y, dtype=torch.float64)
    most = float(y.abs().max()) if size is None else size
    return bool((x - y).abs().max() <= _NEAR * max(most, 1e-12))


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _head(c: int, m: int, sigma: list[float]) -> Tensor:
    """A head with these singular values."""
    U, V = (torch.linalg.qr(_randn(n, n)).Q[:, : len(sigma)] for n in (c, m))
    return U @ torch.diag(torch.tensor(sigma, dtype=torch.float64)) @ V.T


def _book_certificate(W: Tensor, f: Tensor, f_tilde: Tensor) -> Tensor:
    most = torch.linalg.matrix_norm(W, 2) * f.norm(dim=1).max()
    return ((f_tilde - f) @ W.T).abs().max() / most


def _book_ridge(F: Tensor, Z: Tensor, lam: float) -> Tensor:
    FF, FZ = F.T @ F / len(F), F.T @ Z / len(F)
    return torch.linalg.solve(FF + lam * torch.eye(len(FF), dtype=FF.dtype), FZ).T


def _book_null_direction(f: Tensor, u: Tensor, T: Tensor, V_n: Tensor) -> Tensor:
    Tf = f @ T.T
    length = Tf.norm(dim=1, keepdim=True)
    cosine = (Tf @ u)[:, None] / length  # u has length 1
    g = (u - cosine * Tf / length) / length @ T
    d = (g @ V_n) @ V_n.T
    return d / d.norm(dim=1, keepdim=True)


# Session 1: what the head cannot see


@_check(lambda W: HeadSpaces.from_weight(W).null_basis)
def null_basis(theirs: Any) -> None:
    """`null_basis(W)`: an orthonormal basis of the null space of W (c, m), as columns, (m, k); eq. 1."""
    for sigma, c, m in (
        ([3.0, 2.0, 1.0], 3, 5),
        ([3.0, 2.0, 1.0], 4, 6),  # the rows of four classes depend on each other
        ([3e-12, 2e-12, 1e-12], 3, 5),
        ([3.0, 1.0, 1e-3], 8, 5),
    ):
        W, k = _head(c, m, sigma), m - len(sigma)
        V = theirs(W)
        need(isinstance(V, Tensor) and V.ndim == 2, "expected one matrix with a direction in each column.")
        need(
            V.shape != (k, m) or k == m,
            f"the directions lie in the rows {tuple(V.shape)}, expected them in the columns, ({m}, {k}).",
        )
        need(
            V.shape[0] == m,
            f"its columns have {V.shape[0]} numbers, expected {m}, as a feature has: on which side of W "
            "does f stand?",
        )
        need(
            V.shape[1] > 0,
            f"got no direction at all for a head {(c, m)} of rank {len(sigma)}. An economy-size SVD returns "
            "min(c, m) right singular vectors, and the null ones are among the others; and a head of many "
            "classes need not have full rank.",
        )
        need(
            sigma[0] > 1e-3 or V.shape[1] <= k,
            f"a head with all weights divided by a trillion has {V.shape[1]} null directions, expected {k} "
            "as before: which σ counts as zero depends on the largest σ.",
        )
        need(
            V.shape[1] >= k,
            f"found {V.shape[1]} of {k} directions of a head {(c, m)} of rank {len(sigma)}: classes may "
            "depend on each other, so the rank can be smaller than their number.",
        )
        moved = (W @ V).abs().max() / W.abs().max()
        need(
            moved < 0.1 * _NEAR,
            f"a step along a column of the basis moves logits (by {float(moved):.0e} of the largest "
            "weight): these are not null directions, or one of them is not. How large is each σ?",
        )
        need(
            _near(V.T @ V, torch.eye(V.shape[1], dtype=V.dtype)),
            "the columns are not orthonormal, expected VᵀV = 1: later formulas rely on it.",
        )


def _feature_case() -> tuple[Tensor, Tensor, Tensor]:
    W = _head(3, 7, [3.0, 2.0, 1.0])
    return W, _randn(5, 7), HeadSpaces.from_weight(W).null_basis


@_check(lambda f, V_n: f - (f @ V_n) @ V_n.T)
def remove_null(theirs: Any) -> None:
    """`remove_null(f, V_n)`: features f (N, m) without their null component, (N, m); eq. 9."""
    W, f, V_n = _feature_case()
    out = theirs(f, V_n)
    _shape(out, (5, 7), "a feature without its null component is a feature, not its coordinates")
    need(
        not _near(out, (f @ V_n) @ V_n.T),
        "this is the part that the head ignores, expected what is left of f without it.",
    )
    need(_near(out @ W.T, f @ W.T), "the logits of the result differ from those of f, expected the same.")
    need(
        (out @ V_n).abs().max() < _NEAR,
        "the logits stay, but part of the null component is still there, expected none of it.",
    )


@_check(_book_certificate)
def certificate(theirs: Any) -> None:
    """`certificate(W, f, f_tilde)`: the largest change of a logit over σ₁ times the longest |f|; eq. 2."""
    W, f, V_n = _feature_case()
    f_tilde = f - (f @ V_n) @ V_n.T
    none, step = theirs(W, f, f_tilde), 0.01 * _randn(5, 7)
    need(
        isinstance(none, Tensor) and none.numel() == 1,
        "expected one number for all photos: the largest change of any logit of any photo.",
    )
    need(
        none.abs() < _NEAR,
        f"an exact pair gives {float(none):.2g}, expected 0 but for rounding: compare the logits of f and f̃.",
    )
    moved = theirs(W, f, f_tilde + step)
    need(
        moved.abs() > 1e-4,
        "logits moved by a hundredth and no top class changed, and it gives 0: an unchanged class is no "
        "proof that the logits stayed.",
    )
    need(
        _near(theirs(W, f, f - step), theirs(W, f, f + step)),
        "a step and the step back give different numbers: a logit may fall as well as rise.",
    )
    need(
        _near(theirs(1000 * W, f, f_tilde + step), moved),
        "another number after W was multiplied by 1000: is a change large? Compare it with the size of W.",
    )
    need(
        _near(theirs(W, 1000 * f, 1000 * (f_tilde + step)), moved),
        "another number after all features were multiplied by 1000: compare with the size of f, too.",
    )
    need(
        _near(theirs(W, torch.cat([f, f]), torch.cat([f_tilde + step] * 2)), moved),
        "another number when every photo is there twice: a length of all photos together grows with their "
        "number. Which photo's |f| is meant?",
    )
    same = torch.cat([f[:1]] * 5), torch.cat([f_tilde[:1] + step[:1]] * 5)
    alone = torch.cat([f[:1]] * 5), torch.cat([f_tilde[:1] + step[:1], *[f_tilde[:1]] * 4])
    need(
        _near(theirs(W, *alone), theirs(W, *same)),
        "one photo of five moved, and the number is smaller than when all did: an average hides one photo.",
    )


# Session 2: is that much?


@_check(lambda f, V: (f @ V).square().sum(1) / f.square().sum(1))
def energy_share(theirs: Any) -> None:
    """`energy_share(f, V)`: the share of |f|² inside the columns of V (m, k), photo by photo, (N,)."""
    f = _randn(6, 8) * torch.arange(1, 7)[:, None]
    Q = torch.linalg.qr(_randn(8, 8)).Q
    out = theirs(f, Q[:, :3])
    _shape(out, (6,), "one share for each photo")
    rest = theirs(f, Q[:, 3:])
    need(
        _near(theirs(f, Q), 1.0),
        f"all of space holds {float(theirs(f, Q).mean()):.3g} of |f|², expected 1: divide by |f|² of the "
        "same photo.",
    )
    need(
        _near(out + rest, 1.0),
        "the shares in a subspace and in all that is at right angles to it do not add up to 1: squared "
        "lengths do, lengths do not.",
    )


@_check(lambda m, k: torch.linalg.qr(torch.randn(m, k, dtype=torch.float64)).Q)
def random_basis(theirs: Any) -> None:
    """`random_basis(m, k)`: k orthonormal columns in a random position, (m, k), different at each call."""
    V, again = theirs(8, 3), theirs(8, 3)
    _shape(V, (8, 3), "k columns of m numbers")
    need(
        _near(V.T @ V, torch.eye(3, dtype=V.dtype)),
        "the columns are not orthonormal: random columns are neither of length 1 nor at right angles.",
    )
    need(not _near(V, again), "two calls give the same subspace: is a seed set inside the function?")
    need(
        (V.abs() > 1 - _NEAR).sum() < 2,
        "these are coordinate axes, expected a subspace that lies along none of them in particular.",
    )


# Session 3: a translator


@_check(_book_ridge)
def ridge(theirs: Any) -> None:
    """`ridge(F, Z, lam)`: T (n, m) with the least mean |T f − z|² + λ|T|² over F (N, m), Z (N, n); eq. 4."""
    F, Z, lam = _randn(40, 6) + 1, _randn(40, 3) + 1, 0.5
    T = theirs(F, Z, lam)
    need(
        not isinstance(T, Tensor) or T.shape != (6, 3),
        "the shape is (6, 3), expected (3, 6): T takes a feature to an embedding, z = T f.",
    )
    _shape(T, (3, 6), "T takes a feature to an embedding, z = T f")
    least = _book_ridge(F, Z, 0.0)
    need(
        not _near(T, least),
        "λ has no effect, expected a price on the size of T.",
    )
    need(
        not _near(T, _book_ridge(F, Z, lam / 40)),
        "λ is 40 times too cheap for 40 photos: eq. 4 has the mean of the errors, not their sum.",
    )
    mu, zeta = F.mean(0), Z.mean(0)
    need(
        not _near(T, _book_ridge(F - mu, Z - zeta, lam)),
        "a mean was taken off first. That is a bias in disguise, and T(f + v) = T f + T v no longer holds.",
    )
    slope = 2 * (T @ F.T - Z.T) @ F / len(F) + 2 * lam * T  # of eq. 4
    need(
        slope.abs().max() < 10 * _NEAR * (Z.T @ F / len(F)).abs().max(),
        "eq. 4 still slopes at this T, so another T is better: set its derivative to zero.",
    )


@_check(lambda z_hat, z: 1 - (z_hat - z).square().sum() / (z - z.mean(0)).square().sum())
def r2(theirs: Any) -> None:
    """`r2(z_hat, z)`: the share of the variance of z (N, n) that z_hat explains; one number, at most 1."""
    z = _randn(30, 4) * torch.tensor([1.0, 2, 4, 8]) + 3
    out = theirs(z, z)
    need(isinstance(out, Tensor) and out.numel() == 1, "expected one number for all photos and entries.")
    need(_near(out, 1.0), f"a perfect prediction has R² {float(out):.3g}, expected 1.")
    at_mean = theirs(z.mean(0).expand_as(z), z)
    need(
        at_mean.abs() < _NEAR,
        f"predicting the mean for every photo has R² {float(at_mean):.3g}, expected 0: variance is about "
        "the mean embedding, entry by entry.",
    )
    need(
        theirs(-z, z) < 0,
        "a prediction worse than the mean gets no number below 0, expected one: nothing holds R² up.",
    )
    half = z.clone()
    half[:, 3] = z[:, 3].mean()
    whole = 1 - (half - z).square().sum() / (z - z.mean(0)).square().sum()
    need(
        _near(theirs(half, z), whole, 1.0),
        "entries that hardly vary count as much as those that vary most: add all errors, then divide once.",
    )


# Session 4: angles and scores


@_check(scores.angle)
def angle(theirs: Any) -> None:
    """`angle(x, y)`: of vectors along the last dimension, degrees; the others broadcast; eq. 5."""
    x = _randn(4, 5)
    y = _randn(4, 5)
    right = scores.angle(x, y)
    out = theirs(x, y)
    need(
        isinstance(out, Tensor) and tuple(out.shape) != (4, 4),
        "every row was compared with every other, expected row by row.",
    )
    _shape(out, (4,), "one angle for each row")
    need(not _near(out, torch.deg2rad(right)), "this is in radians, expected degrees.")
    need(not _near(out, torch.cos(torch.deg2rad(right))), "this is the cosine, expected the angle.")
    need(
        _near(theirs(3 * x, y), theirs(x, y)),
        "a vector three times as long has another angle: only its direction should count.",
    )
    need(_near(out, right), f"{out[0]:.2f}° where {right[0]:.2f}° is right.")
    all_pairs = theirs(x[:, None], y[:3])
    _shape(all_pairs, (4, 3), "leading dimensions broadcast, the last one holds the vector")
    need(
        _near(all_pairs, scores.angle(x[:, None], y[:3])),
        "right for two matrices, wrong with leading dimensions, as in `Tf[:, None]`: the vector runs along "
        "the last one.",
    )
    single = _randn(200, 300).float()
    self_angle = theirs(single, single.clone()).max()
    need(
        self_angle < 0.005,
        f"in float32 a vector and itself are {float(self_angle):.2f}° apart: where the cosine is near 1 it "
        "hardly changes with the angle, and half of the digits are lost.",
    )


def _pair() -> tuple[Tensor, Tensor, Tensor]:
    return _randn(6, 5), _randn(6, 5), torch.nn.functional.normalize(_randn(6, 5), dim=1)


@_check(scores.image_score)
def image_score(theirs: Any) -> None:
    """`image_score(z, z_tilde)`: how far an embedding turned, (N,), degrees; eq. 8."""
    z, z_tilde, _ = _pair()
    out = theirs(z, z_tilde)
    _shape(out, (6,), "one score for each photo")
    need(_near(out, scores.image_score(z, z_tilde)), "expected the angle between z and z̃, in degrees.")


@_check(scores.attribute_score)
def attribute_score(theirs: Any) -> None:
    """`attribute_score(z, z_tilde, u)`: how much nearer to u the change brought z, (N,), degrees; eq. 7."""
    z, z_tilde, u = _pair()
    right, out = scores.attribute_score(z, z_tilde, u), theirs(z, z_tilde, u)
    _shape(out, (6,), "one score for each photo")
    need(not _near(out, -right), "the sign is turned round: AS is positive where z̃ is nearer to the text.")
    need(not _near(out, right.abs()), "the sign is lost: AS below 0 says that z̃ is farther from the text.")
    need(_near(out, right), "expected the angle to u before minus the angle to u after.")
    texts = theirs(z[:, None], z_tilde[:, None], u[:4])
    _shape(texts, (6, 4), "many texts at once, as `angle` broadcasts")


@_check(scores.contrast)
def contrast(theirs: Any) -> None:
    """`contrast(AS, own)`: AS (N, C) toward the own class minus its mean over the other classes, (N,)."""
    AS, own = _randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    out, right = theirs(AS, own), scores.contrast(AS, own)
    _shape(out, (6,), "one contrast for each photo")
    need(
        _near(theirs(AS + 5, own), out),
        "it changes where all prompts come nearer alike, expected what the own class has beyond the others "
        "(and by how many others did you divide?).",
    )
    need(
        not _near(out, right * 3 / 4),
        "the own class is among those that it is compared with, expected the others only.",
    )
    need(not _near(out, -right), "the sign is turned round: own minus others.")
    need(_near(out, right), "expected AS of the own class minus the mean AS of the other classes.")


# Session 5: steering


@_check(_book_null_direction)
def null_direction(theirs: Any) -> None:
    """`null_direction(f, u, T, V_n)`: unit null direction that turns T f toward u fastest, (N, m); eq. 12."""
    W, f, V_n = _feature_case()
    T, u = _randn(4, 7), torch.nn.functional.normalize(_randn(4), dim=0)
    d, right = theirs(f, u, T, V_n), _book_null_direction(f, u, T, V_n)
    _shape(d, (5, 7), "one direction in feature space for each photo")
    off = (d @ W.T).abs().max() / d.abs().max()
    need(off < 0.1 * _NEAR, "a step along it moves logits: the gradient was not projected, eq. 12.")
    need(
        not _near(d.norm(), 1.0),
        "all photos together have length 1, expected each of them: over which dimension is the length?",
    )
    need(
        _near(d.norm(dim=1), 1.0),
        "its length is not 1: a projection shortens, so divide by the length after it.",
    )
    need(not _near(d, -right), "it leads away from the text, expected toward it.")
    dot = (u @ T @ V_n) @ V_n.T
    need(
        not _near(d, (dot / dot.norm()).expand_as(d)),
        "all photos get one direction: that is the gradient of the product u · T f. The cosine also has "
        "|T f| in it.",
    )
    need(_near(d, right), "another null direction turns T f toward the text faster: eq. 11 is its gradient.")


# Session 6: another basis


@_check(lambda f, W, d: (f * d, W / d))
def rescale(theirs: Any) -> None:
    """`rescale(f, W, d)`: the same network with entry i of f multiplied by dᵢ: the new f and the new W."""
    W, f, _ = _feature_case()
    d = torch.linspace(1, 3, 7, dtype=torch.float64)
    out = theirs(f, W, d)
    need(isinstance(out, tuple) and len(out) == 2, "expected two results: the new features and the new W.")
    new_f, new_W = out
    _shape(new_f, (5, 7), "features, as before")
    _shape(new_W, (3, 7), "a head, as before")
    need(not _near(new_f, f), "the features are as they were, expected entry i of each multiplied by dᵢ.")
    need(_near(new_f, f * d), "expected entry i of every feature multiplied by dᵢ.")
    moved = (new_f @ new_W.T - f @ W.T).abs().max()
    need(
        moved < _NEAR,
        f"a logit moved by {float(moved):.2g}, expected none to: what must become of column i of W?",
    )
