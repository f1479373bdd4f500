"""Train the embedded encoder from photos; some five minutes on 2 CPU cores after extraction.

    python data/embedded/build/train_encoder.py --photos PHOTOS --work WORK

PHOTOS is described in photos.py. WORK keeps the extracted features; a second call resumes there.

Each tower is trained on its own: it sees its own features, its own classifier's head and
softmax, and text embeddings that no picture had a part in. So nothing of a classifier gets into
the towers that judge it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from photos import TOWERS, Rows, check_no_duplicates, split_rows, stores_of
from safetensors.torch import save
from texts import class_texts
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, log_softmax, normalize

from sing_utils.models.classifiers import Classifier, load_classifier
from sing_utils.models.encoders import EMBEDDED_WEIGHTS, embed_minilm

DIM = 320  # n, the shared space
WHITENING = 0.25  # the text head scales a principal axis by (its variance)^-WHITENING
STEPS, BATCH, CAPTIONED, RATE, DECAY, DROP = 200, 256, 256, 5e-4, 0.02, 0.3
CLASS_SHARPNESS, CAPTION_SHARPNESS, CAPTION_WEIGHT = 60.0, 20.0, 0.5
START_PRIOR = 3.0  # length of the classifier-head part of the start, relative to the photo part
PUSH_SHARE, PUSH_LOGITS = 0.7, 25.0  # how many examples are pushed to a random class, and how far
OTHER_TEXT = 0.3  # share of class texts that are not "a photo of a NAME."


@dataclass(frozen=True)
class Texts:
    """Unit text embeddings in the shared space.

    Attributes:
        names: (c, n), "a photo of a NAME.".
        others: (c, k, n), lemmas, definitions and other templates, repeated to equal number.
        captions: (5000, n).
    """

    names: Tensor
    others: Tensor
    captions: Tensor


# ------------------------------------------------------------------------- the text head


def fit_text_head(x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Partly whitened principal axes of text embeddings: x (K, 384), weight (K,) -> mean, weight.

    Text alone decides; raw MiniLM embeddings all lie around one direction.
    """
    w = (weight / weight.sum()).double()[:, None]
    mean = (w * x.double()).sum(0)  # (384,)
    centred = x.double() - mean
    variance, axes = torch.linalg.eigh(centred.mT @ (w * centred))  # ascending
    variance, axes = variance.flip(0)[:DIM], axes.flip(1)[:, :DIM]
    return {"mean": mean.half(), "weight": (variance[:, None] ** -WHITENING * axes.mT).half()}


def prepare_texts(rows: Rows) -> tuple[dict[str, Tensor], Texts]:
    """Fit the text head on class texts and training captions, half and half; embed all texts."""
    classes = class_texts()
    z_class = embed_minilm([c.text for c in classes])  # (K, 384)
    z_caption = embed_minilm(rows.caption_texts)  # (5000, 384)
    fit = rows.captions[rows.fit["flickr"]].flatten()
    weight = torch.cat([torch.full((len(z),), 1 / len(z)) for z in (z_class, z_caption[fit])])
    head = fit_text_head(torch.cat([z_class, z_caption[fit]]), weight)

    def project(t: Tensor) -> Tensor:
        return normalize((t - head["mean"].float()) @ head["weight"].float().mT, dim=-1)

    z = project(z_class)
    of_class: list[list[int]] = [[] for _ in range(classes[-1].row + 1)]
    names = []
    for i, c in enumerate(classes):
        of_class[c.row].append(i)
        if c.kind == "name" and c.text.startswith("a photo of a "):
            names.append(i)
    k = max(map(len, of_class))
    others = torch.tensor([(own * k)[:k] for own in of_class])  # (c, k)
    return head, Texts(z[names], z[others], project(z_caption))


# ------------------------------------------------------------------------- a tower's head


def start_head(
    x: Tensor, logits: Tensor, own_weight: Tensor, own_bias: Tensor, captions: Tensor, texts: Texts
) -> tuple[Tensor, Tensor]:
    """Closed-form start of a head on standardised features: weight (n, m), bias (n,).

    It adds up two parts: a ridge regression of the photos' texts and, photo-free, the map whose z
    has products with the class names as near as possible to the classifier's own logits.

    Args:
        x: (N, m), captioned photos first.
        logits: of the tower's own classifier, (N, c).
        own_weight: that classifier's W for standardised features, (c, m), mean over c removed.
        own_bias: its b, likewise, (c,).
        captions: (C, n), mean caption of the first C rows.
        texts: unit embeddings.
    """
    y = normalize(logits.softmax(-1) @ texts.names, dim=-1)  # (N, n)
    y[: len(captions)] = (y[: len(captions)] + captions) / 2
    weight = torch.ones(len(x), 1)
    weight[: len(captions)] = 4.0
    mean_y = (weight * y).sum(0) / weight.sum()
    mean_x = (weight * x).sum(0) / weight.sum()
    xc = x - mean_x
    A = _solve_ridge((weight * xc).mT @ xc, (weight * xc).mT @ (y - mean_y), 0.3).mT  # (n, m)
    a = mean_y - A @ mean_x  # (n,)

    names = texts.names - texts.names.mean(0)  # (c, n)
    rhs = torch.cat([own_weight, own_bias[:, None]], 1)  # (c, m + 1)
    P = _solve_ridge(names.mT @ names, names.mT @ rhs, 0.1)  # (n, m + 1)
    P, p = P[:, :-1], P[:, -1]

    share = START_PRIOR * _mean_norm(x @ A.mT + a) / _mean_norm(x @ P.mT + p)
    A, a = A + share * P, a + share * p
    unit = 10 / _mean_norm(x @ A.mT + a)  # so that one learning rate fits all towers
    return unit * A, unit * a


def train_head(
    f: Tensor, captions: Tensor, classifier: Classifier, texts: Texts, seed: int
) -> dict[str, Tensor]:
    """One tower's head, from its own features only: weight (n, m), bias (n,).

    Args:
        f: features (N, m); the first rows are the captioned photos.
        captions: (C, 5), places in `texts.captions`.
        classifier: whose features they are; its softmax is the teacher.
        texts: unit embeddings.
        seed: of every draw.
    """
    torch.manual_seed(seed)
    W, b = classifier.head.weight, classifier.head.bias
    n_captioned, c = len(captions), len(W)
    mean, scale = f.mean(0), (f.std(0) + f.std(0).mean()) / 2
    x = (f - mean) / scale  # (N, m)
    logits = f @ W.mT + b  # (N, c)
    Wc = W - W.mean(0)
    mean_caption = normalize(texts.captions[captions].mean(1), dim=-1)  # (C, n)
    start = start_head(x, logits, Wc * scale, b - b.mean() + Wc @ mean, mean_caption, texts)
    A, a = (nn.Parameter(t) for t in start)
    push = Wc / Wc.square().sum(1, keepdim=True)  # (c, m): raises one class's logit by about 1
    push_logits = push @ W.mT  # (c, c): what it does to all of them
    push_x = push / scale

    def embed(x: Tensor) -> Tensor:
        return normalize(dropout(x, DROP) @ A.mT + a, dim=-1)

    optimizer = torch.optim.AdamW([A, a], lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        # Mixtures of two photos, some pushed along a class's weight: logits are linear, so the
        # teacher's answer to a made-up feature is exact and costs nothing.
        i, j = torch.randint(len(x), (2, BATCH))
        mix = torch.rand(BATCH, 1) / 2
        k = torch.randint(c, (BATCH,))
        far = PUSH_LOGITS * torch.rand(BATCH, 1) * (torch.rand(BATCH, 1) < PUSH_SHARE)
        made = torch.lerp(x[i], x[j], mix) + far * push_x[k]  # (B, m)
        teacher = (torch.lerp(logits[i], logits[j], mix) + far * push_logits[k]).softmax(-1)  # (B, c)
        one = texts.others[torch.arange(c), torch.randint(texts.others.shape[1], (c,))]
        t = torch.where(torch.rand(c, 1) < OTHER_TEXT, one, texts.names)  # (c, n)
        loss = -(teacher * log_softmax(CLASS_SHARPNESS * embed(made) @ t.mT, -1)).sum(-1).mean()

        # Captions: which of these photos, which of these sentences.
        i = torch.randperm(n_captioned)[:CAPTIONED]
        t = texts.captions[captions[i, torch.randint(captions.shape[1], (len(i),))]]
        s = CAPTION_SHARPNESS * embed(x[i]) @ t.mT  # (C', C')
        own = torch.arange(len(i))
        loss = loss + CAPTION_WEIGHT * (cross_entropy(s, own) + cross_entropy(s.mT, own)) / 2

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    weight = A.detach() / scale  # on raw features from here on
    return {"weight": weight, "bias": a.detach() - weight @ mean}


def _mean_norm(z: Tensor) -> Tensor:
    return z.norm(dim=-1).mean()


def _solve_ridge(gram: Tensor, rhs: Tensor, strength: float) -> Tensor:
    eye = torch.eye(len(gram), dtype=torch.float64)
    gram = gram.double()
    return torch.linalg.solve(gram + strength * gram.trace() / len(gram) * eye, rhs.double()).float()


# ------------------------------------------------------------------------- all of it


def main() -> None:
    """Train the three towers and write the weights with their manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=EMBEDDED_WEIGHTS)
    args = parser.parse_args()
    stores = {t: stores_of(t, args.photos, args.work) for t in TOWERS}
    rows = split_rows(stores[TOWERS[0]], args.photos)
    print("nearest trained and held-out photo: cosine", check_no_duplicates(stores[TOWERS[0]], rows))
    text_head, texts = prepare_texts(rows)
    files = {"text.safetensors": text_head}
    captions = rows.captions[rows.fit["flickr"]]  # (800, 5)
    for seed, tower in enumerate(TOWERS):
        f = torch.cat([stores[tower][s].read("features")[rows.fit[s]] for s in ("flickr", "sample", "tiny")])
        head = train_head(f, captions, load_classifier(tower), texts, seed)
        files[f"{tower}.safetensors"] = {k: v.half() for k, v in head.items()}
        print(f"{tower}: trained on {len(f)} photos", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    digests = {}
    for file, tensors in files.items():
        data = save({k: v.contiguous() for k, v in tensors.items()})
        (args.out / file).write_bytes(data)
        digests[file] = hashlib.sha256(data).hexdigest()
    manifest = {"towers": list(TOWERS), "files": digests}
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
