"""Train the planted world's networks: five backbones, two encoders, the reader of embeddings.

    python data/planted/build/train.py            # half an hour on two cores; what is there is kept
    python data/planted/build/train.py backbone3  # this part anew

Writes safetensors files in half precision to data/planted/weights, and card.json: what was measured on
scenes of other seeds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from sing_utils.planted.networks import (
    BACKBONES,
    ENCODERS,
    WEIGHTS,
    WIDTH,
    PlantedEncoder,
    TwoTowers,
    as_batch,
    build_backbone,
    load_planted_encoder,
    pooled,
)
from sing_utils.planted.scenes import FACTORS, WORDINGS, Scenes, caption

SIZES = [len(v) for v in FACTORS.values()]
FIT, TEST = 30_000, 2_000
BATCH = 256


def save(model: nn.Module, name: str) -> None:
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, WEIGHTS / f"{name}.safetensors")


def note(name: str, **values: object) -> None:
    """Add what was measured to the card."""
    file = WEIGHTS / "card.json"
    card = json.loads(file.read_text()) if file.exists() else {}
    card[name] = values
    file.write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
    print(name, values, flush=True)


def schedule(optimizer: torch.optim.Optimizer, steps: int, rate: float) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)


def accuracies(logits: torch.Tensor, levels: np.ndarray) -> dict[str, float]:
    parts = logits.split(SIZES, dim=-1)
    truth = torch.from_numpy(levels)
    return {f: round(float((p.argmax(-1) == truth[:, k]).float().mean()), 4)
            for k, (f, p) in enumerate(zip(FACTORS, parts, strict=True))}  # fmt: skip


def train_backbone(number: int, steps: int = 700) -> None:
    torch.manual_seed(number)
    start = time.time()
    scenes = Scenes(FIT // 2, seed=1000 + number)
    pictures, levels = scenes.pictures(), torch.from_numpy(scenes.levels)
    model, head = build_backbone(), nn.Linear(WIDTH, sum(SIZES))
    both = nn.Sequential(model, head).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(both.parameters(), weight_decay=0.02)
    plan = schedule(optimizer, steps, 6e-3)
    rng = np.random.default_rng(number)
    for step in range(steps):
        rows = rng.integers(0, len(pictures), BATCH)
        logits = both(as_batch(pictures[rows]).contiguous(memory_format=torch.channels_last))
        parts = zip(logits.split(SIZES, dim=-1), levels[rows].T, strict=True)
        loss = torch.stack([cross_entropy(p, y) for p, y in parts]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
        if step % 100 == 0:
            print(f"backbone{number} {step} {loss.item():.3f} {time.time() - start:.0f} s", flush=True)
    both.eval()
    test = Scenes(TEST, seed=9_000)
    save(model, f"backbone{number}")
    accuracy = accuracies(pooled(both, test.pictures()), test.levels)
    note(f"backbone{number}", steps=steps, seconds=round(time.time() - start), accuracy=accuracy)


def random_captions(scenes: Scenes, rows: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Captions that mention some of the factors: from one to all."""
    texts = []
    for i in rows:
        factors = scenes[int(i)].factors
        share = rng.choice([0.2, 0.5, 0.8])
        kept = {f: v for f, v in factors.items() if rng.random() < share} or {"shape": factors["shape"]}
        text = caption(kept, str(rng.choice(WORDINGS)))
        if "shape" not in kept and rng.random() < 0.4:
            text = text.replace("an object", "something").replace(" object", " thing")
        texts.append(text)
    return texts


def train_encoder(name: str, steps: int, count: int) -> None:
    torch.manual_seed(0)
    start = time.time()
    scenes = Scenes(count, seed=500)
    pictures = scenes.pictures()
    model = TwoTowers(ENCODERS[name])
    model.image.to(memory_format=torch.channels_last)
    loss_of = ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    plan = schedule(optimizer, steps, 4e-3)
    rng = np.random.default_rng(0)
    for step in range(steps):
        rows = rng.integers(0, len(pictures), BATCH)
        z = normalize(
            model.image(as_batch(pictures[rows]).contiguous(memory_format=torch.channels_last)), dim=-1
        )
        t = normalize(model.text(model.text.tokens(random_captions(scenes, rows, rng))), dim=-1)
        loss = loss_of(z, t, model.log_scale.exp().clamp(max=100))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
        if step % 100 == 0:
            print(f"{name} {step} {loss.item():.3f} {time.time() - start:.0f} s", flush=True)
    model.eval()
    save(model, name.replace("planted", "encoder").replace(":", "-"))
    load_planted_encoder.cache_clear()
    note(
        name,
        steps=steps,
        scenes=count,
        seconds=round(time.time() - start),
        **retrieval(load_planted_encoder(name)),
    )


def retrieval(encoder: PlantedEncoder) -> dict[str, float]:
    """On scenes of another seed: their full captions among 1000, both ways, and each factor's levels."""
    scenes = Scenes(1000, seed=9_001)
    z, t = encoder.encode_pictures(scenes.pictures()), encoder.encode_text([s.caption for s in scenes])
    same, truth = z @ t.mT, torch.arange(1000)
    out = {"image to caption, top-1 of 1000": float((same.argmax(1) == truth).float().mean()),
           "caption to image, top-1 of 1000": float((same.argmax(0) == truth).float().mean())}  # fmt: skip
    from sing_utils.planted.scenes import phrase

    for k, (f, levels) in enumerate(FACTORS.items()):
        prompts = encoder.encode_text([phrase(f, v) for v in levels])
        hit = (z @ prompts.mT).argmax(1).numpy() == scenes.levels[:, k]
        out[f"zero-shot {f}"] = float(hit.mean())
    return {k: round(v, 4) for k, v in out.items()}


def train_reader() -> None:
    """Softmax regressions on the embeddings of scenes that the encoder was not trained on."""
    torch.manual_seed(0)
    encoder = load_planted_encoder()
    scenes, test = Scenes(10_000, seed=700), Scenes(TEST, seed=9_002)
    z, levels = encoder.encode_pictures(scenes.pictures()).clone(), torch.from_numpy(scenes.levels)
    head = nn.Linear(encoder.dim, sum(SIZES))
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        parts = zip(head(z).split(SIZES, dim=-1), levels.T, strict=True)
        loss = torch.stack([cross_entropy(p, y) for p, y in parts]).sum() + 1e-4 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    save(head, "reader")
    with torch.no_grad():
        logits = head(encoder.encode_pictures(test.pictures()).clone())
    note("reader", accuracy=accuracies(logits, test.levels))


PARTS: dict[str, Callable[[], None]] = {
    **{f"backbone{i}": partial(train_backbone, i) for i in range(BACKBONES)},
    "encoder": lambda: train_encoder("planted", 3000, FIT),
    "encoder-weak": lambda: train_encoder("planted:weak", 500, 3000),
    "reader": train_reader,
}

if __name__ == "__main__":
    for part in PARTS:
        if part in sys.argv[1:] or not (sys.argv[1:] or (WEIGHTS / f"{part}.safetensors").exists()):
            PARTS[part]()
