"""How busy extraction keeps the model, in one run: `make bench`.

For each model, at one batch size and on the same pictures: the bare forward pass, decoding alone, and
extraction from files to a finished store, in turns; the best turn of each counts, because whatever else
a machine does only ever slows. "of slower" is the whole over the slower of the two. Where the model and
the decoding share the same cores, not even a perfect loader reaches 1: "of shared" is the whole over what
sharing allows, and "overhead" the processor time that is spent on neither of them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sing_utils.features.batches import plan
from sing_utils.features.engine import CPU_BATCH, GPU_BATCH, Compute, decoded_batches, launch, local_engine
from sing_utils.features.extraction import extract
from sing_utils.models.classifiers import load_classifier
from sing_utils.sources.by_name import open_source

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def generate(folder, n, size=(400, 300)):
    """JPEGs as detailed as photographs: noise of several scales."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(n):
        image = np.zeros((size[1], size[0], 3))
        for scale in (4, 16, 64):
            small = rng.integers(0, 256, (size[1] // scale + 1, size[0] // scale + 1, 3), dtype=np.uint8)
            image += np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
        Image.fromarray((image / 3).astype(np.uint8)).save(folder / f"{i:05d}.jpg", quality=90)
    return folder


@dataclass(frozen=True)
class Turn:
    """Seconds a picture, on the clock and of all processors together."""

    clock: float
    processors: float


def timed(work, n):
    """One turn of work on n pictures; children count once they have ended."""
    before, start = sum(os.times()[:4]), time.perf_counter()
    work()
    return Turn((time.perf_counter() - start) / n, (sum(os.times()[:4]) - before) / n)


def enough(extractor, source, batch_size, seconds):
    """As many whole batches of the pictures as the model takes about so many seconds for."""
    batches = plan(len(source), shard_rows=1024, batch_size=batch_size)
    list(local_engine(extractor, source, batches[:1]))  # warm
    ready = next(iter(decoded_batches(extractor, source, batches[:1], workers=0)))
    compute = Compute.of(extractor)
    one = timed(lambda: next(iter(launch(extractor, ready, compute).values())).cpu(), batch_size)
    wanted = max(2, round(seconds / one.clock / batch_size)) * batch_size
    return source.select(per_label=min(len(source), wanted))


def measure(extractor, source, batch_size, folder, *, turns):
    """Forward, decoding and the whole, {name: its turns}."""
    compute, n = Compute.of(extractor), len(source)
    pin = compute.device == "cuda"
    batches = plan(n, shard_rows=1024, batch_size=batch_size)
    ready = next(iter(decoded_batches(extractor, source, batches[:1], workers=0, pin=pin)))

    def forward():
        for _ in batches:
            out = launch(extractor, ready, compute)
        next(iter(out.values())).cpu()  # a GPU is still at it

    def decode():
        for _ in decoded_batches(extractor, source, batches, pin=pin):
            pass

    def whole():
        out = tempfile.mkdtemp(dir=folder)
        extract(extractor, source, out, batch_size=batch_size, progress=False)

    work = {"forward": (forward, len(batches) * batch_size), "decode": (decode, n), "whole": (whole, n)}
    done = {name: [] for name in work}
    for _ in range(turns):
        for name, (function, pictures) in work.items():
            done[name].append(timed(function, pictures))
    return done


def row(done):
    """Rates and ratios of a model."""
    f, d, w = (1 / min(t.clock for t in done[name]) for name in ("forward", "decode", "whole"))
    workers = max(1, CORES - 1)
    shared = min(f, d) if torch.cuda.is_available() else min(f, d, 1 / (1 / f + workers / CORES / d))
    cf, cd, cw = (min(t.processors for t in done[name]) for name in ("forward", "decode", "whole"))
    return f"{f:>9.1f}{d:>9.1f}{w:>9.1f}{w / min(f, d):>11.2f}{w / shared:>11.2f}{1 - (cf + cd) / cw:>10.1%}"


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=1024, help="at most")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement, about")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=["efficientnet_lite0", "torchvision:resnet50"])
    given = parser.parse_args()
    gpu = torch.cuda.is_available()
    size = GPU_BATCH if gpu else CPU_BATCH
    print(f"JPEGs of 400 x 300, batches of {size}, {CORES} cores, GPU: {gpu}, ", end="")
    print(f"{torch.get_num_threads()} threads; pictures a second, the best of {given.turns} turns\n")
    titles = ("forward", "decode", "whole", "of slower", "of shared", "overhead")
    print(f"{'model':<24}" + "".join(f"{t:>{w}}" for t, w in zip(titles, (9, 9, 9, 11, 11, 10), strict=True)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = open_source(generate(folder / "photos", given.pictures))
        for name in given.models:
            model = load_classifier(name, rehearse=":" in name)  # random weights: nothing is downloaded
            some = enough(model, source, size, given.seconds)
            print(f"{name:<24}{row(measure(model, some, size, folder, turns=given.turns))}", flush=True)


if __name__ == "__main__":
    main()
