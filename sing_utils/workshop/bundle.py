"""The matrices of the workshop in one file, so that nothing stands between a participant and them."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from sing_utils.files import write_whole
from sing_utils.planted.scenes import HEADS
from sing_utils.planted.scores import build_world
from sing_utils.runs.run import open_run

CLASSIFIER = "efficientnet_lite0"
FIT = 4000  # photos to fit on; all 5,000 would make the file larger than 25 MB
SCENES = 2000
TARGETS = ("jellyfish", "Arabian camel", "starfish", "pirate", "jeep")  # as in notebook 04
UNNAMED = {"A": "leaky", "B": "clean", "C": "sees-all"}  # session 6 asks which is which


def write_bundle(path: Path) -> None:
    """Write the bundle of the embedded profile's first classifier and of three planted heads.

    Tensors, with N = 4000 photos to fit on and 900 that nothing is fitted on:

    - W (1000, 1280), b (1000,): the head, float32.
    - F, Z; f, z: features and embeddings of the photos to fit on, and of the others, float16.
    - own: number of each of the 900 photos' class; texts (16, 320): the prompt of each class.
    - targets (5, 320): prompts to steer toward.
    - A.W, A.b, A.F, A.f and so on: three planted heads; their embeddings and texts are planted.Z,
      planted.z, planted.texts, and the number of each scene's shape planted.own.

    The file's metadata name the classes, the targets and the labels of the head, as JSON lists.
    """
    with TemporaryDirectory() as folder:
        run = open_run("embedded", folder)
        fit, new = run.photos(CLASSIFIER, "fit"), run.photos(CLASSIFIER)
        head, targets = run.head(CLASSIFIER), [run.prompt(t) for t in TARGETS]
        texts = {"texts": run.texts(CLASSIFIER, run.prompts), "targets": run.texts(CLASSIFIER, targets)}
    chosen = torch.randperm(len(fit), generator=torch.Generator().manual_seed(0))[:FIT].sort().values
    tensors = {"W": head.weight.float(), "b": head.bias.float(), "own": new.own, **texts}
    tensors |= _half({"F": fit.f[chosen], "Z": fit.z[chosen], "f": new.f, "z": new.z})
    labels = [head.label(i) for i in range(len(head.weight))]
    names = {"classes": run.classes, "targets": list(TARGETS), "labels": labels}
    meta = {key: json.dumps(value, ensure_ascii=False) for key, value in names.items()}
    tensors |= _planted()
    write_whole(path, lambda file: save_file({k: x.contiguous() for k, x in tensors.items()}, file, meta))


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What was stored in 8 bits fits into 16."""
    return {key: x.half() for key, x in tensors.items()}


def _planted() -> dict[str, Tensor]:
    world = build_world(0, scenes=SCENES)
    tensors = {"planted.texts": world.texts(world.prompts).float()}
    for letter, name in UNNAMED.items():
        head = world.plant(name, **HEADS[name])
        fit, new = world.photos(head, "fit"), world.photos(head)
        tensors |= _half({f"{letter}.F": fit.f, f"{letter}.f": new.f})
        tensors |= {f"{letter}.W": head.weight.float(), f"{letter}.b": head.bias.float()}
        tensors |= {**_half({"planted.Z": fit.z, "planted.z": new.z}), "planted.own": new.own}
    return tensors
