"""Any encoder of open_clip, by name.

    open_clip:MODEL/TAG[@REVISION]     weights that open_clip knows; REVISION: a commit of their repository
    open_clip:MODEL/FILE               weights of one's own

>>> parse_open_clip("open_clip:ViT-L-14/openai")
OpenClipName(model='ViT-L-14', tag='openai', revision=None, file=None)

What is read from a file of weights: safetensors hold tensors only; any other checkpoint goes through
`torch.load(weights_only=True)`, which refuses pickled code; .npz (SigLIP's own) through `numpy.load`
without pickles; and a TorchScript archive (OpenAI's own .pt files) is refused, since it is a program:
the tag `openai` reads the same weights as safetensors.
"""

from __future__ import annotations

import difflib
import importlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from sing_utils.errors import SingError, reason
from sing_utils.models.clip import ClipEncoder, default_device, hub_commit, missing_weights, refuse_long
from sing_utils.models.weights import signs_of, tensors_only, weights_digest

_PREPROCESS = ("mean", "std", "interpolation", "resize_mode")  # what weights say of their pictures


@dataclass(frozen=True)
class OpenClipName:
    """An open_clip encoder's name, taken apart: a tag with perhaps a revision, or a file."""

    model: str
    tag: str | None
    revision: str | None = None
    file: Path | None = None


def parse_open_clip(name: str) -> OpenClipName:
    """Take open_clip:MODEL/TAG[@REVISION] or open_clip:MODEL/FILE apart; nothing is loaded.

    Without open_clip only the form is checked, so that a profile can be read anywhere.

    Raises:
        SingError: for another form, or a model or tag that open_clip does not know, with the nearest.
    """
    model, _, pretrained = name.removeprefix("open_clip:").partition("/")
    tag, at, revision = pretrained.partition("@")
    if not model or not tag or (at and not revision):
        raise SingError(
            f"encoder {name!r} names no weights, expected open_clip:MODEL/PRETRAINED, such as "
            "open_clip:ViT-B-32/laion2b_s34b_b79k, or a file of weights in PRETRAINED's place."
        )
    if find_spec("open_clip") is None:
        return OpenClipName(model, tag, revision or None)
    open_clip = require_open_clip()
    if model not in open_clip.list_models():
        near = _nearest(model, open_clip.list_models())
        raise SingError(f"unknown open_clip model {model!r}, expected a known one; did you mean {near!r}?")
    if open_clip.pretrained.is_pretrained_cfg(model, tag):
        return OpenClipName(model, tag, revision or None)
    if Path(pretrained).is_file():
        return OpenClipName(model, None, file=Path(pretrained))
    tags = open_clip.list_pretrained_tags_by_model(model)
    known = f"one of {', '.join(tags)}; did you mean {_nearest(tag, tags)!r}?" if tags else "a file."
    raise SingError(
        f"{pretrained!r} is no file, nor weights of {model} that open_clip knows, expected {known}"
    )


def load_open_clip(name: str, *, rehearse: bool = False, device: torch.device | None = None) -> ClipEncoder:
    """Load any open_clip model with its own evaluation transform.

    Args:
        name: see the module.
        rehearse: the same architecture with random weights, and nothing is downloaded; texts are then
            read with CLIP's own vocabulary, whatever the model's is.
        device: None: a GPU if there is one.

    Raises:
        SingError: for an unknown name, weights that are missing and can't be fetched, that do not fit,
            or that would run code when they are read.
    """
    open_clip, parsed = require_open_clip(), parse_open_clip(name)
    device = device or default_device()
    known = open_clip.pretrained.get_pretrained_cfg(parsed.model, parsed.tag) if parsed.tag else {}
    file, origin = (None, "random, seed 0") if rehearse else _weights_file(name, parsed, known)
    options = {
        # open_clip only warns that ViT-L-14/openai wants QuickGELU, and computes something else.
        "force_quick_gelu": known.get("quick_gelu", False),
        "force_preprocess_cfg": {k: known[k] for k in _PREPROCESS if k in known},
        "pretrained_text": False,  # no download of a text tower's own weights
    }
    model = _build(name, parsed.model, file, options)
    preprocess = open_clip.model.get_model_preprocess_cfg(model)
    settings = open_clip.transform.PreprocessCfg(**preprocess)
    identity = {
        "name": name,
        "library": f"open_clip {open_clip.__version__}",
        "model": parsed.model + (", QuickGELU" if options["force_quick_gelu"] else ""),
        "pretrained": origin,
        "weights": weights_digest(model),
        "transform": json.dumps(preprocess, sort_keys=True),  # its own text holds addresses in memory
        "signs": signs_of(model.visual),
    }
    model.to(device)
    return ClipEncoder(
        name,
        int(open_clip.get_model_config(parsed.model)["embed_dim"]),
        identity,
        open_clip.transform.image_transform_v2(settings, is_train=False),
        model.encode_image,
        _open_clip_tokens(name, parsed.model, rehearse),
        model.encode_text,
        device,
    )


def require_open_clip() -> Any:
    """The optional package, imported when it is needed: it takes seconds."""
    try:
        return importlib.import_module("open_clip")
    except ImportError:
        raise SingError("open_clip is not installed, expected it here: pip install -e '.[hub]'.") from None


def _nearest(word: str, known: Sequence[str]) -> str:
    return difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]


def _weights_file(name: str, parsed: OpenClipName, known: dict[str, Any]) -> tuple[str, str]:
    """The file of the weights, fetched if need be, and what to call its origin."""
    if parsed.file is not None:
        return str(parsed.file), f"file {parsed.file.name}"
    repository, _, file = known["hf_hub"].rpartition("/")
    fetch = require_open_clip().pretrained.download_pretrained_from_hf  # safetensors where there are any
    try:
        cached = _cached_file(repository, file, parsed.revision)
        path = cached or Path(fetch(repository, filename=file or None, revision=parsed.revision))
    except OSError as error:
        raise missing_weights(name, error) from None
    return str(path), f"{parsed.tag}, {repository} at {hub_commit(path)}"


def _cached_file(repository: str, file: str, revision: str | None) -> Path | None:
    """What was fetched before. The hub's client would ask first, and wait a minute without a network."""
    from huggingface_hub import try_to_load_from_cache

    constants = require_open_clip().constants
    usual = (constants.HF_SAFE_WEIGHTS_NAME, constants.HF_WEIGHTS_NAME)
    for name in (Path(file).with_suffix(".safetensors").name, file) if file else usual:
        if isinstance(path := try_to_load_from_cache(repository, name, revision=revision), str):
            return Path(path)
    return None


def _build(name: str, model: str, file: str | None, options: dict[str, Any]) -> Any:
    unfit = (RuntimeError, KeyError, ValueError, EOFError, AttributeError, struct.error, SafetensorError)
    with torch.random.fork_rng(devices=[]), tensors_only(name):
        torch.manual_seed(0)
        try:
            built = require_open_clip().create_model(model, pretrained=file, **options)
        except OSError as error:  # a text tower whose configuration is on the hub
            raise missing_weights(name, error) from None
        except unfit as error:
            if file is None:
                raise
            script = "TorchScript" in str(error)
            raise SingError(
                f"{file} is a TorchScript archive, which is a program, expected tensors only: "
                "save its state_dict() as safetensors where you trust it."
                if script
                else f"{file} holds no weights of {model} ({reason(error)}), expected "
                "its state_dict as safetensors or written by torch.save."
            ) from None
    return built.eval().requires_grad_(False)


def _open_clip_tokens(name: str, model: str, rehearse: bool) -> Callable[[list[str]], Tensor]:
    open_clip = require_open_clip()
    text = open_clip.get_model_config(model)["text_cfg"]
    length = text.get("context_length", 77)
    try:
        make = open_clip.SimpleTokenizer if rehearse else partial(open_clip.get_tokenizer, model)
        tokenizer = make(context_length=length)
    except (OSError, ValueError) as error:  # a vocabulary on the hub
        raise missing_weights(name, error) from None
    return partial(tokens_of_open_clip, tokenizer, length, text.get("vocab_size", 49408), name)


def tokens_of_open_clip(tokenizer: Any, length: int, vocabulary: int, name: str, texts: list[str]) -> Tensor:
    """K texts -> (K, L). A longer context shows whether anything was cut off, in any of its tokenisers."""
    ids = tokenizer(texts)
    whole = tokenizer(texts, context_length=2 * length)[:, :length]
    refuse_long(texts, (ids != whole).any(-1).tolist(), length, name)
    return ids % vocabulary  # changes only CLIP's ids in the rehearsal of a model with fewer words
