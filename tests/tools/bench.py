"""Speeds against the obvious way to do the same, measured in one run: `make bench`.

Each row is the median of several repetitions on one thread; both ways are checked to agree.
"""

from __future__ import annotations

import statistics
import time

import torch

from sing_utils import (
    HeadSpaces,
    Translator,
    angle,
    null_direction,
    step_for_image_score,
    text_gradient,
)
from sing_utils.evidence.controls import remove_random
from sing_utils.method.scores import pairwise_angle

C, M, N, ROWS = 1000, 1280, 256, 4000  # EfficientNet-Lite's head, the embedded encoder's width


def seconds(function, *, repeat=7, warm=True):
    """Median wall seconds of a call, after one that warms up."""
    if warm:
        function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def check(a, b, *, atol):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=atol, check_dtype=False)


def head_and_features():
    g = torch.Generator().manual_seed(0)
    W = torch.randn(C, M, generator=g) / M**0.5
    return (
        HeadSpaces.from_weight(W),
        torch.randn(ROWS, M, generator=g),
        torch.randn(N, M, generator=g) / M**0.5,
    )


def translate_equivalents(spaces, f, weight):
    """T f~ as one product with T Π_p, and as null removal followed by T."""
    T = Translator(weight)
    folded = T.after_null_removal(spaces)
    check(folded(f), T(spaces.remove_null(f)), atol=1e-3)
    return seconds(lambda: folded(f)), seconds(lambda: T(spaces.remove_null(f)))


def remove_null(spaces, f):
    """The thinner side, and an (m, m) projector that is there already."""
    V = spaces.principal_basis.to(f)
    projector = V @ V.mT
    check(spaces.remove_null(f), f @ projector, atol=1e-3)
    return seconds(lambda: spaces.remove_null(f)), seconds(lambda: f @ projector)


def fit(f, weight):
    """The closed form with nine ridges to choose from, and AdamW for as long as the book's."""
    z = f @ weight.mT
    closed = seconds(lambda: Translator.fit(f, z), repeat=3)
    return closed, seconds(lambda: Translator.fit(f, z, method="adamw", epochs=40), repeat=1, warm=False)


def angles(f, weight):
    """Every photo to every concept at once, and in a Python loop."""
    z, texts = f[:300] @ weight.mT, weight @ weight.mT[:, :40]
    texts = texts.mT  # (40, N)

    def loop():
        return torch.stack([torch.stack([angle(a, t) for t in texts]) for a in z])

    check(pairwise_angle(z, texts), loop(), atol=1e-6)
    return seconds(lambda: pairwise_angle(z, texts)), seconds(loop, repeat=1)


def gradient(f, weight):
    """The text gradient as two thin products, and by automatic differentiation; float64 both."""
    x, text, T = f[:1000].double(), weight[:, 0].double(), Translator(weight.double())

    def autograd():
        y = x.clone().requires_grad_()
        torch.cosine_similarity(y @ T.weight.mT, text, dim=-1).sum().backward()
        return y.grad

    check(text_gradient(x, text, T), autograd(), atol=1e-10)
    return seconds(lambda: text_gradient(x, text, T)), seconds(autograd)


def step(spaces, f, weight):
    """The step for IS = 40 degrees in closed form, and by 60 halvings for all features at once."""
    x, text, T = f[:1000].double(), weight[:, 0].double(), Translator(weight.double())
    d = null_direction(x, text, T, spaces)

    def bisection():
        a, b = T(x), T(d)
        low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 1e3, dtype=torch.float64)
        for _ in range(60):
            middle = (low + high) / 2
            below = angle(a, a + middle[:, None] * b) < 40.0
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high

    check(step_for_image_score(x, d, T, degrees=40.0), bisection(), atol=1e-6)
    return seconds(lambda: step_for_image_score(x, d, T, degrees=40.0)), seconds(bisection, repeat=3)


def random_subspace(spaces, f, weight):
    """Scores after removing a random subspace, and after building and applying its (m, m) projector."""
    x, T, own = f[:900], weight, torch.arange(900) % 16
    m = f.shape[1]

    def projector():
        Q = torch.linalg.qr(torch.randn(m, spaces.null_dim, dtype=torch.float64))[0]
        z, tilde = x.double() @ T.double().mT, (x.double() - x.double() @ (Q @ Q.mT)) @ T.double().mT
        return pairwise_angle(z, texts) - pairwise_angle(tilde, texts), angle(z, tilde)

    texts = torch.randn(16, len(T), generator=torch.Generator().manual_seed(1))
    ours = seconds(lambda: remove_random(x, T, texts, own, dim=spaces.null_dim, draws=10), repeat=3) / 10
    return ours, seconds(projector, repeat=3)


def main():
    """Print the table."""
    torch.set_num_threads(1)
    spaces, f, weight = head_and_features()
    rows = [
        ("T Π_p f, or T(f − Π_n f)", *translate_equivalents(spaces, f, weight)),
        ("null removal: thin side, or (m, m)", *remove_null(spaces, f)),
        ("fit: closed form, or AdamW, 40 epochs", *fit(f, weight)),
        ("12 000 angles: pairwise, or a loop", *angles(f, weight)),
        ("text gradient: analytic, or autograd", *gradient(f, weight)),
        ("step for IS = 40°: closed, or bisection", *step(spaces, f, weight)),
        ("a random subspace, or its projector", *random_subspace(spaces, f, weight)),
    ]
    print(f"c = {C}, m = {M}, n = {N}, N = {ROWS}, one thread, medians\n")
    print(f"{'ours, or the obvious way':<42}{'ours (ms)':>12}{'other (ms)':>12}{'ratio':>9}")
    for name, ours, other in rows:
        print(f"{name:<42}{1e3 * ours:>12.2f}{1e3 * other:>12.2f}{other / ours:>8.1f}×")


if __name__ == "__main__":
    main()
