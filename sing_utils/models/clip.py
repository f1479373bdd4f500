"""Encoders with one image tower and one text tower: any of open_clip, and the CLIP of Karlo's pipeline.

    open_clip:MODEL/TAG[@REVISION]     weights that open_clip knows; REVISION: a commit of their repository
    open_clip:MODEL/FILE               weights of one's own
    karlo                              the space that Karlo draws from (CLIP ViT-L/14, n = 768; appendix D)
    karlo:FOLDER                       another pipeline of its kind, as `pipeline.save_pretrained` writes it

>>> encoder = ClipEncoder(
...     "toy", 3, {"name": "toy"}, lambda image: torch.ones(3, 2, 2), lambda x: x.mean((2, 3)),
...     lambda texts: torch.tensor([[len(t)] for t in texts]), lambda ids: ids * torch.ones(3),
...     torch.device("cpu"),
... )
>>> (encoder.encode_images([Image.new("RGB", (9, 9))]) @ encoder.encode_text(["a cat"]).mT).round(decimals=3)
tensor([[1.]])

What is read from a file of weights: safetensors hold tensors only; any other checkpoint goes through
`torch.load(weights_only=True)`, which refuses pickled code; .npz (SigLIP's own) through `numpy.load`
without pickles; and a TorchScript archive (OpenAI's own .pt files) is refused, since it is a program:
the tag `openai` reads the same weights as safetensors.
"""

from __future__ import annotations

import importlib
import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import normalize

from sing_utils.errors import SingError, misnamed, reason
from sing_utils.models.judges import Encoder
from sing_utils.models.minilm import require_texts
from sing_utils.models.weights import missing_weights, signs_of, tensors_only, weights_digest

REPOSITORY = "kakaobrain/karlo-v1-alpha-image-variations"
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode")  # what weights say of their pictures


@dataclass(frozen=True, eq=False)
class ClipEncoder(Encoder):
    """An encoder of one piece: it judges every classifier but those that are built on its image tower.

    Attributes:
        name: what `load_encoder` was called with.
        dim: n, the width of the shared space.
        identity: library and version, model, weights' origin and digest, transform, and `signs` of the
            image tower (`weights.signs_of`).
        transform: PIL image -> (3, H, W).
        image_tower: (B, 3, H, W) -> (B, n), any length.
        tokenize: K texts -> (K, L); one that does not fit is a SingError.
        text_tower: (K, L) -> (K, n), any length.
        device: where both towers are.
    """

    name: str
    dim: int
    identity: dict[str, str] = field(repr=False)
    transform: Callable[[Image.Image], Tensor] = field(repr=False)
    image_tower: Callable[[Tensor], Tensor] = field(repr=False)
    tokenize: Callable[[list[str]], Tensor] = field(repr=False)
    text_tower: Callable[[Tensor], Tensor] = field(repr=False)
    device: torch.device
    _seen: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def towers(self) -> tuple[str, ...]:
        """The one tower: named after the encoder, but so that no classifier's name contains it.

        Without dots, which a feature store keeps for itself.
        """
        return ("encoder-" + self.name.replace(".", "_"),)

    def prepare(self, image: Image.Image) -> Tensor:
        """One picture as the model wants it, (3, H, W)."""
        return self.transform(image.convert("RGB"))

    @torch.inference_mode()
    def compute(self, batch: Tensor) -> dict[str, Tensor]:
        """Prepared pictures (B, 3, H, W) -> {tower: (B, n)}, normalised, on the encoder's device."""
        z = self.image_tower(batch.to(self.device))  # not waited for: a GPU computes while others decode
        return {self.towers[0]: normalize(z.float(), dim=-1)}

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """K texts -> (K, n), normalised; each text is computed once.

        Raises:
            SingError: for a text of more word pieces than the model reads, or what is no text.
        """
        texts = require_texts(texts)
        new = [t for t in dict.fromkeys(texts) if t not in self._seen]
        for start in range(0, len(new), self.BATCH):
            chunk = new[start : start + self.BATCH]
            self._seen.update(zip(chunk, self._embed(chunk), strict=True))
        return torch.stack([self._seen[t] for t in texts])

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> Tensor:
        z = self.text_tower(self.tokenize(texts).to(self.device))  # (K, n)
        return normalize(z.float(), dim=-1).cpu()


def default_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def refuse_long(texts: Sequence[str], long: Sequence[bool], limit: int, name: str) -> None:
    """CLIP's tokenisers cut a text off without a word; that would answer another question."""
    for text, cut in zip(texts, long, strict=True):
        if cut:
            raise SingError(
                f"the text that begins {text[:40]!r} has more word pieces than the {limit} (its start and "
                f"end marks included) that {name} reads: shorten it."
            )


def hub_commit(path: Path) -> str:
    """The revision that a path in the hub's cache belongs to."""
    found = re.search(r"/snapshots/([0-9a-f]{40})(/|$)", path.as_posix())
    return found[1] if found else "unknown"


# ------------------------------------------------------------------------------------ open_clip


class OpenClipName(NamedTuple):
    """An open_clip encoder's name, taken apart: a tag with perhaps a revision, or a file."""

    model: str
    tag: str | None
    revision: str | None = None
    file: Path | None = None


def parse_open_clip(name: str) -> OpenClipName:
    """Take open_clip:MODEL/TAG[@REVISION] or open_clip:MODEL/FILE apart; nothing is loaded.

    Without open_clip only the form is checked, so that a profile can be read anywhere.

    >>> parse_open_clip("open_clip:ViT-L-14/openai")
    OpenClipName(model='ViT-L-14', tag='openai', revision=None, file=None)

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
        raise misnamed("open_clip model", model, open_clip.list_models())
    if open_clip.pretrained.is_pretrained_cfg(model, tag):
        return OpenClipName(model, tag, revision or None)
    if Path(pretrained).is_file():
        return OpenClipName(model, None, file=Path(pretrained))
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tags:
        raise misnamed(f"weights of {model}, and no file,", tag, tags, " or a file")
    raise SingError(
        f"{pretrained!r} is no file, nor weights of {model} that open_clip knows, expected a file."
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
        raise missing_weights("encoder", name, error) from None
    return str(path), f"{parsed.tag}, {repository} at {hub_commit(path)}"


def _cached_file(repository: str, file: str, revision: str | None) -> Path | None:
    """What was fetched before. The hub's client would ask first, and wait a minute without a network."""
    names = require_open_clip().constants
    usual = (names.HF_SAFE_WEIGHTS_NAME, names.HF_WEIGHTS_NAME)
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
            raise missing_weights("encoder", name, error) from None
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
        raise missing_weights("encoder", name, error) from None
    return partial(tokens_of_open_clip, tokenizer, length, text.get("vocab_size", 49408), name)


def tokens_of_open_clip(tokenizer: Any, length: int, vocabulary: int, name: str, texts: list[str]) -> Tensor:
    """K texts -> (K, L). A longer context shows whether anything was cut off, in any of its tokenisers."""
    ids = tokenizer(texts)
    whole = tokenizer(texts, context_length=2 * length)[:, :length]
    refuse_long(texts, (ids != whole).any(-1).tolist(), length, name)
    return ids % vocabulary  # changes only CLIP's ids in the rehearsal of a model with fewer words


# --------------------------------------------------------------------------------- Karlo's own


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
        raise missing_weights("encoder", name, error) from None
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
    device = torch.get_default_device()
    with torch.device("meta"):  # or its numbers would be drawn twice, by torch and by transformers
        towers = {
            "image": CLIPVisionModelWithProjection(vision),
            "text": CLIPTextModelWithProjection(words),
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for tower in towers.values():
            tower.to_empty(device=device).init_weights()
    tokenize = partial(_rehearsal_tokens, tokenizer)
    return towers | {"feature_extractor": CLIPImageProcessor(), "tokenize": tokenize}


def _rehearsal_tokens(tokenizer: Any, name: str, texts: list[str]) -> Tensor:
    return tokens_of_open_clip(tokenizer, 77, tokenizer.vocab_size, name, texts)


def find_weights(source: str) -> Path:
    """The folder of the weights: `source` itself, or where the hub's cache has or puts them."""
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SingError(
            f"{source!r} is no folder, and its weights are neither in {constants.HF_HUB_CACHE} nor to be had "
            f"from the hub now ({type(error).__name__}): run `hf download {REPOSITORY}` where there is a "
            "network, or give a folder: karlo:FOLDER."
        ) from None
