"""The paper's way to fit a translator: two bias-free linear layers, trained with AdamW (appendix B).

>>> f = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
>>> T, details = fit_adamw(f[:48], f[:48], f[48:], f[48:], epochs=2)
>>> T.shape, len(details["history"])
(torch.Size([4, 4]), 6)
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sing_utils.errors import SingError

Loss = Literal["mse", "cosine", "both"]


def fit_adamw(
    f: Tensor,
    z: Tensor,
    f_test: Tensor,
    z_test: Tensor,
    *,
    loss: Loss = "mse",
    hidden: int | None = None,
    epochs: int = 300,
    patience: int = 8,
    batch_size: int = 128,
    lr: float = 1e-4,
    weight_decay: float = 0.1,
    seed: int = 0,
) -> tuple[Tensor, dict[str, Any]]:
    """Two bias-free linear layers trained with AdamW (appendix B), folded into T = B A.

    Training stops once the loss on the rows set aside falls no more, and the best epoch is kept.

    Args:
        f, z: rows to fit, (N, m) and (N, n).
        f_test, z_test: rows set aside, never used to fit; their error is recorded each epoch.
        loss: "mse", "cosine" (1 - cosine), or "both" (their sum, weighted alike).
        hidden: width between the layers; None means n, the least that loses nothing. The paper does
            not give it.
        epochs: at most; like what follows, not given in the paper.
        patience: epochs without a fall of the held-out loss by a thousandth, after which training stops.
        batch_size: rows a step.
        lr, weight_decay: the paper's.
        seed: of initialisation and batches.

    Returns:
        T, (n, m), and the details of the fit with its history.
    """
    if loss not in ("mse", "cosine", "both"):
        raise SingError(f"loss {loss!r} is unknown, expected 'mse', 'cosine' or 'both'.")
    m, n = f.shape[1], z.shape[1]
    f, z, f_test, z_test = (t.to(torch.float32) for t in (f, z, f_test, z_test))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(m, hidden or n, bias=False), nn.Linear(hidden or n, n, bias=False))
    layers = layers.to(f.device)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    generator = torch.Generator().manual_seed(seed)
    history = [_epoch_rows(0, layers, f, z, f_test, z_test)]
    T, least, falling, last = torch.empty(0), float("inf"), float("inf"), 0
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(f), generator=generator).split(batch_size):
            optimizer.zero_grad(set_to_none=True)
            _loss(layers(f[rows]), z[rows], loss).backward()
            optimizer.step()
        history.append(_epoch_rows(epoch, layers, f, z, f_test, z_test))
        held_out = history[-1][-1]
        error = {"mse": held_out["mse"], "cosine": 1 - held_out["cosine"]}
        now = error.get(loss, sum(error.values()))
        if now < least:
            first, second = (p.detach() for p in layers.parameters())
            T, least = second @ first, now  # (n, m)
        if now < 0.999 * falling:
            falling, last = now, epoch
        elif epoch - last >= patience:
            break
    return T, {"ridge": 0.0, "loss": loss, "history": tuple(r for rows in history for r in rows)}


def _loss(out: Tensor, z: Tensor, loss: str) -> Tensor:
    mse = (out - z).square().sum(-1).mean()  # eq. 4 without its decay, which AdamW applies
    cosine = 1 - torch.cosine_similarity(out, z, dim=-1).mean()
    return {"mse": mse, "cosine": cosine, "both": mse + cosine}[loss]


@torch.inference_mode()
def _epoch_rows(
    epoch: int, layers: nn.Module, f: Tensor, z: Tensor, f_test: Tensor, z_test: Tensor
) -> list[dict[str, Any]]:
    rows = []
    for split, x, y in (("fit", f[: len(f_test)], z[: len(f_test)]), ("held out", f_test, z_test)):
        out = layers(x)
        cosine = float(torch.cosine_similarity(out, y, dim=-1).mean())
        mse = float((out - y).square().sum(-1).mean())
        rows.append({"epoch": epoch, "split": split, "mse": mse, "cosine": cosine})
    return rows
