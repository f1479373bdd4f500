"""How busy extraction keeps the model, in one run: `python -m tests.bench_extraction`.

For each model, at one batch size and on the same pictures: the bare forward pass, decoding alone, and
extraction from files to a finished store. Each is measured in short turns, one after the other, so that
a machine that is busy with something else slows all of them. Where decoding and the model share the same
cores, as on a laptop, no loader can reach the slower of the two: the last column is what sharing allows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sing_utils.classifiers import load_classifier
from sing_utils.computing import CPU_BATCH, GPU_BATCH, Compute, launch
from sing_utils.engine import decoded_batches, local_engine
from sing_utils.extraction import extract, plan
from sing_utils.sources import open_source

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


@dataclass
class Rates:
    """Pictures a second, one of each turn."""

    forward: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def measure(extractor, source, batch_size, folder, *, turns):
    """Forward, decode and end to end, in turns."""
    compute = Compute.of(extractor)
    pin = compute.device == "cuda"
    batches = plan(len(source), shard_rows=1024, batch_size=batch_size)
    ready = next(iter(decoded_batches(extractor, source, batches[:1], workers=0, pin=pin)))
    rates, n = Rates(), len(source)
    list(local_engine(extractor, source, batches[:2]))  # warm
    for turn in range(turns):
        start = time.perf_counter()
        for _ in batches:
            out = launch(extractor, ready, compute)
        next(iter(out.values())).cpu()  # a GPU is still at it
        rates.forward.append(len(batches) * len(ready.hashes) / (time.perf_counter() - start))

        start = time.perf_counter()
        for _ in decoded_batches(extractor, source, batches, pin=pin):
            pass
        rates.decode.append(n / (time.perf_counter() - start))

        start = time.perf_counter()
        extract(extractor, source, folder / f"{turn}", batch_size=batch_size, progress=False)
        rates.whole.append(n / (time.perf_counter() - start))
    return rates


class Tiny:
    """Hardly any work, for what the list of pictures and the rest cost."""

    identity = {"name": "tiny", "weights": "0", "transform": "none"}

    def prepare(self, image):
        return torch.tensor(image.getpixel((0, 0)), dtype=torch.float32)

    def compute(self, batch):
        return {"features": batch}


def peak_memory(n):
    """Peak of a process that extracts n tiny pictures, bytes."""
    import resource

    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        Image.new("RGB", (4, 4)).save(pictures / "0.png")
        for i in range(1, n):
            os.link(pictures / "0.png", pictures / f"{i}.png")
        extract(Tiny(), pictures, Path(folder) / "out", shard_rows=256, workers=0, progress=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=["efficientnet_lite0", "torchvision:resnet50"])
    parser.add_argument("--peak-memory", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak_memory:
        print(peak_memory(given.peak_memory))
        return

    gpu = torch.cuda.is_available()
    size = GPU_BATCH if gpu else CPU_BATCH
    print(f"{given.pictures} JPEGs of 400 x 300, batches of {size}, {CORES} cores, GPU: {gpu}, ", end="")
    print(f"{torch.get_num_threads()} threads; pictures a second, medians of {given.turns} turns\n")
    print(f"{'model':<24}{'forward':>9}{'decode':>9}{'whole':>9}{'of slower':>11}{'of shared':>11}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = open_source(generate(folder / "photos", given.pictures))
        for name in given.models:
            rehearse = ":" in name  # random weights: nothing is downloaded
            rates = measure(
                load_classifier(name, rehearse=rehearse), source, size, folder / name, turns=given.turns
            )
            f, d, w = (statistics.median(r) for r in (rates.forward, rates.decode, rates.whole))
            # decoding takes 1/d of one core a picture; the model 1/f of all that its threads use
            shared = 1 / (1 / f + 1 / (d * max(1, CORES - 1)) * (max(1, CORES - 1) / CORES))
            print(
                f"{name:<24}{f:>9.1f}{d:>9.1f}{w:>9.1f}{w / min(f, d):>11.2f}{w / min(f, d, shared):>11.2f}"
            )

    few, many = (
        int(
            subprocess.check_output([sys.executable, "-m", "tests.bench_extraction", "--peak-memory", str(n)])
        )
        for n in (500, 4000)
    )
    print(f"\npeak memory: {few / 1e6:.0f} MB for 500 pictures, {many / 1e6:.0f} MB for 4000 ", end="")
    print(f"({(many - few) / 3500:.0f} bytes a picture)")


if __name__ == "__main__":
    main()
