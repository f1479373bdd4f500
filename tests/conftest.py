"""Shared by all tests: one thread, seeded arrays, a folder of pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import browser, server, watched  # noqa: F401 (fixtures)
from command import sing, sing_process  # noqa: F401
from hypothesis import settings
from PIL import Image

# One thread, also in the processes and kernels that tests start: two that wait for each other on a
# busy machine take ten times as long.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# Deterministic, so that a failure in CI is a failure at home.
settings.register_profile("sing", max_examples=40, deadline=None, derandomize=True, database=None)
settings.load_profile("sing")

ROOT = Path(__file__).resolve().parents[1]

# Not the memory of whoever runs the tests.
os.environ["SING_CACHE_DIR"] = str(ROOT / "_build" / "test-cache")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def rng():
    """A seeded numpy generator, new for each test."""
    return np.random.default_rng(0)


@pytest.fixture
def make_picture():
    """Write a small picture whose pixels are all different from another one's."""

    def write(path: Path, *, seed: int = 0, size: tuple[int, int] = (12, 8), **options) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, **options)
        return path

    return write
