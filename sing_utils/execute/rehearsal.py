"""Rehearsing a run: the same architectures with random weights, a few generated pictures, a tiny Karlo.

A rehearsal finds out in minutes, without a download, whether every step of a long run works. Its
numbers mean nothing, and its pages say so.

>>> classes = {"n1": "cat", "n2": "dog", "n3": "owl", "n4": "fox", "n5": "elk"}
>>> list(rehearsal_classes(classes, ["elk"]).values())
['cat', 'dog', 'elk']
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sing_utils.files import written
from sing_utils.runs.profiles import Profile, safe_name

COUNTS = {"fit": 2, "evaluate": 2}  # generated pictures a class; a class that is steered needs two
# What a rehearsal makes itself, whatever was asked for; everything else may be given.
GENERATED = (
    *("rehearse", "images", "imagenet_dir", "per_class", "engine"),
    *("classes", "concept_classes", "source_class", "picture_backend", "picture_options"),
)
KARLO_WIDTH = 768
CLASSES = 3
SCENES = "planted:150"


def rehearsal_parameters(root: Path, profile: Profile) -> dict[str, Any]:
    """Generate what a rehearsal needs below `root`/_build/rehearsal; profile values that make it one.

    Everything that a run does is done: only its size and its weights differ.
    """
    folder = root / "_build" / "rehearsal"
    wanted = [*(profile.concept_classes or []), *filter(None, [profile.source_class])]
    classes = rehearsal_classes(profile.classes or {"disc": "disc", "stripes": "stripes"}, wanted)
    classes = dict(zip(_folders(classes), classes.values(), strict=True))
    pictures = generate_pictures(folder / "pictures" / safe_name("-".join(classes)), list(classes))
    values: dict[str, Any] = {
        "rehearse": True,
        "images": str(pictures.relative_to(root)),
        "imagenet_dir": None,
        "per_class": None,
        "engine": "local",
        "classes": classes,
        "concept_classes": [c for c in profile.concept_classes or [] if c in classes.values()] or None,
        "source_class": profile.source_class,
        "concepts": profile.concepts[:4],
        "more_concepts": profile.more_concepts[:2],
        "explorer_photos": 1,
        "thumbnails": 1,
        "photos": profile.photos[:1],
        "targets": profile.targets[:2],
        "search_photos": 2,
        "search_steps": 2,
        "degrees": 5.0,  # random weights turn features less
        "adamw_epochs": 2,
        "refits": 4,
        "bootstrap_draws": 100,
        "permutations": 99,
        "control_draws": 19,
    }
    kind = profile.picture_backend.partition(":")[0]
    if kind == "karlo":
        if not (folder / "karlo" / "model_index.json").exists():
            build_tiny_karlo(folder / "karlo", dim=KARLO_WIDTH)
        values["picture_backend"] = f"karlo:{(folder / 'karlo').relative_to(root)}"
        values["picture_options"] = {"steps": 2, "super_resolution_steps": 2}
    elif kind == "photos":
        values["picture_backend"] = "photos"
    elif kind == "planted":
        pass  # it draws at once
    else:
        values["picture_options"] = {"steps": 2}
    if (profile.images or "").startswith("planted:"):
        # Its encoder reads no words but those of its own scenes.
        values |= {"images": SCENES, "classes": None, "source_class": None}
    return values | {"planted_worlds": 2, "planted_scenes": 400}


def rehearsal_classes(classes: dict[str, str], wanted: list[str]) -> dict[str, str]:
    """A few of a profile's classes, those that it names elsewhere among them: label -> name."""
    named = [label for label, name in classes.items() if name in wanted]
    others = [label for label in classes if label not in named]
    chosen = (named + others)[: max(CLASSES, len(named))]
    return {label: name for label, name in classes.items() if label in chosen}


def _folders(labels: Iterable[str]) -> list[str]:
    """Labels as names of folders: numbered where one is none, or where capitals alone tell two apart."""
    times = Counter(x.casefold() for x in labels)
    return [
        x if x == safe_name(x) and times[x.casefold()] == 1 else f"{i}-{safe_name(x)}"
        for i, x in enumerate(labels)
    ]


def generate_pictures(folder: Path, labels: list[str]) -> Path:
    """Write coloured discs and stripes, SPLIT/LABEL/NN.png, the same ones at every call."""
    for place, label in enumerate(labels):
        for split, count in COUNTS.items():
            for i in range(count):
                path = folder / split / label / f"{i:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    with written(path) as file:  # another rehearsal may look for it at this moment
                        draw_shape(place, seed=1000 * place + 10 * i + len(split)).save(file, "PNG")
    return folder


def draw_shape(kind: int, *, seed: int, side: int = 96) -> Image.Image:
    """A disc (even `kind`) or stripes (odd) in colours of its own, side x side."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - rng.uniform(0.3, 0.7, 2)[:, None, None]
    shape = np.hypot(x, y) < rng.uniform(0.2, 0.4)
    if kind % 2:
        shape = np.sin(2 * math.pi * (x + kind * y) * rng.uniform(3, 6)) > 0
    ink, ground = rng.uniform(0, 255, (2, 3))
    return Image.fromarray(np.where(shape[..., None], ink, ground).astype(np.uint8))


# ------------------------------------------------------------------------------ a tiny Karlo


def build_tiny_karlo(folder: Path, *, dim: int = 32, seed: int = 0) -> Any:
    """Save a randomly initialised pipeline of Karlo's own classes in `folder`, and return it.

    Args:
        folder: as `karlo:FOLDER` takes it.
        dim: n, the width of the embeddings; it draws 8, then 16 pixels.
        seed: of the weights.
    """
    from diffusers import UnCLIPImageVariationPipeline, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
    from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    torch.manual_seed(seed)
    files = folder / "words"
    files.mkdir(parents=True, exist_ok=True)
    words = ["<|startoftext|>", "<|endoftext|>", "a", "a</w>"]
    (files / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (files / "merges.txt").write_text("#version: 0.2\n")
    shared = {"num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 16}
    text = CLIPTextConfig(
        vocab_size=4,
        hidden_size=dim,
        projection_dim=dim,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **shared,
    )
    vision = CLIPVisionConfig(hidden_size=32, projection_dim=dim, image_size=8, patch_size=4, **shared)
    upscalers = [
        UNet2DModel(
            sample_size=16,
            in_channels=6,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("ResnetDownsampleBlock2D",) * 2,
            up_block_types=("ResnetUpsampleBlock2D",) * 2,
            attention_head_dim=4,
        )
        for _ in range(2)
    ]
    pipeline = UnCLIPImageVariationPipeline(
        decoder=UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=6,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=4,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        ),
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=CLIPTokenizer(str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=8),
        text_proj=UnCLIPTextProjModel(clip_embeddings_dim=dim, time_embed_dim=32, cross_attention_dim=16),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
        image_encoder=CLIPVisionModelWithProjection(vision),
        super_res_first=upscalers[0],
        super_res_last=upscalers[1],
        decoder_scheduler=UnCLIPScheduler(variance_type="learned_range"),
        super_res_scheduler=UnCLIPScheduler(variance_type="fixed_small_log"),
    )
    pipeline.save_pretrained(folder)
    return pipeline
