"""The CLIP of Karlo's pipeline as an encoder: the space that Karlo draws pictures from (appendix D).

    karlo             its published weights (CLIP ViT-L/14, n = 768)
    karlo:FOLDER      another pipeline of its kind, as `pipeline.save_pretrained` writes it

>>> from sing_utils.models.encoders import require_encoder
>>> require_encoder("karlo")  # a name it knows; nothing is loaded
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from sing_utils.errors import SingError, reason
from sing_utils.models.clip import ClipEncoder, default_device, hub_commit, missing_weights, refuse_long
from sing_utils.models.open_clip_towers import require_open_clip, tokens_of_open_clip
from sing_utils.models.weights import signs_of, tensors_only, weights_digest

REPOSITORY = "kakaobrain/karlo-v1-alpha-image-variations"


def load_karlo_clip(name: str, *, rehearse: bool = False, device: torch.device | None = None) -> ClipEncoder:
    """Load the image and the text encoder of Karlo's pipeline: the space its pictures are made from.

    Args:
        name: "karlo", or "karlo:FOLDER" with a folder (or repository) laid out like Karlo's.
        rehearse: the same architecture (CLIP ViT-L/14, n = 768) with random weights, no download.
        device: None: a GPU if there is one.

    Raises:
        SingError: for weights that are missing and can't be fetched, or a folder without the two.
    """
    device = device or default_device()
    parts, origin = (_karlo_rehearsal(), "random, seed 0") if rehearse else _karlo_parts(name)
    from transformers import __version__ as version

    processor, towers = parts["feature_extractor"], nn.ModuleDict({k: parts[k] for k in ("image", "text")})
    towers.eval().requires_grad_(False)
    widths = [int(parts[k].config.projection_dim) for k in ("image", "text")]
    if widths[0] != widths[1]:
        raise SingError(
            f"the encoders of {name} give images width {widths[0]} and texts {widths[1]}, expected one "
            "width: take both from one CLIP."
        )
    identity = {
        "name": name,
        "library": f"transformers {version}",
        "model": "CLIPVisionModelWithProjection, CLIPTextModelWithProjection",
        "pretrained": origin,
        "weights": weights_digest(towers),
        "transform": json.dumps(json.loads(processor.to_json_string()), sort_keys=True),
        "signs": signs_of(towers["image"]),
    }
    towers.to(device)
    return ClipEncoder(
        name,
        widths[0],
        identity,
        partial(_pixels, processor),
        partial(_output, towers["image"], "image_embeds"),
        partial(parts["tokenize"], name),
        partial(_output, towers["text"], "text_embeds"),
        device,
    )


def _pixels(processor: Any, image: Image.Image) -> Tensor:
    return processor(images=image, return_tensors="pt").pixel_values[0]


def _output(tower: nn.Module, key: str, x: Tensor) -> Tensor:
    return getattr(tower(x), key)


def _karlo_parts(name: str) -> tuple[dict[str, Any], str]:
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )

    try:
        folder = find_weights(name.partition(":")[2] or REPOSITORY)
    except SingError as error:
        raise missing_weights(name, error) from None
    try:
        with tensors_only(name):
            image = _pretrained(CLIPVisionModelWithProjection, folder / "image_encoder")
            text = _pretrained(CLIPTextModelWithProjection, folder / "text_encoder")
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        processor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError) as error:
        raise SingError(
            f"{folder} holds no CLIP of Karlo's ({reason(error)}), expected the folders "
            "image_encoder, text_encoder, tokenizer and feature_extractor: run `sing fetch --encoder karlo`, "
            "or write them with `save_pretrained`."
        ) from None
    length = min(tokenizer.model_max_length, text.config.max_position_embeddings)
    tokenize = partial(_tokens_of_clip, tokenizer, length)
    parts = {"image": image, "text": text, "feature_extractor": processor, "tokenize": tokenize}
    commit = hub_commit(folder)
    return parts, f"{REPOSITORY} at {commit}" if commit != "unknown" else f"folder {folder.name}"


def _pretrained(kind: Any, folder: Path) -> Any:
    """A model of transformers in float32; weights that its file lacks would be random: refused."""
    model, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(f"{folder.name} lacks {len(lacking)} of its weights, the first {lacking[0]}")
    return model


def _tokens_of_clip(tokenizer: Any, length: int, name: str, texts: list[str]) -> Tensor:
    """K texts -> (K, L)."""
    ids = tokenizer(texts, padding="max_length", max_length=length, truncation=False).input_ids
    refuse_long(texts, [len(i) > length for i in ids], length, name)
    return torch.tensor(ids)


def _karlo_rehearsal() -> dict[str, Any]:
    """CLIP ViT-L/14 as Karlo has it, at random, with CLIP's vocabulary, which is in open_clip's wheel."""
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14}
    vision = CLIPVisionConfig(**large, num_attention_heads=16, projection_dim=768)
    words = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768
    )
    tokenizer = require_open_clip().SimpleTokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            "image": CLIPVisionModelWithProjection(vision),
            "text": CLIPTextModelWithProjection(words),
            "feature_extractor": CLIPImageProcessor(),
            "tokenize": partial(_rehearsal_tokens, tokenizer),
        }


def _rehearsal_tokens(tokenizer: Any, name: str, texts: list[str]) -> Tensor:
    return tokens_of_open_clip(tokenizer, 77, tokenizer.vocab_size, name, texts)


def find_weights(source: str) -> Path:
    """The folder of the weights: `source` itself, or where the hub's cache has or puts them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SingError(
            f"{source!r} is no folder, and its weights are neither in {HF_HUB_CACHE} nor to be had from the "
            f"hub now ({type(error).__name__}): run `hf download {REPOSITORY}` where there is a network, or "
            "give a folder: karlo:FOLDER."
        ) from None
