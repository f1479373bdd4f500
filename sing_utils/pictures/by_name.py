"""From an embedding to a picture: a decoder (mini UnCLIP, Karlo), or the nearest photographs.

All are called alike: embeddings (B, n) in, B pictures out.

    >>> import torch
    >>> from sing_utils.pictures.base import restore_norm
    >>> from sing_utils.pictures.by_name import load_pictures
    >>> decoder = load_pictures("mini")
    >>> z = torch.nn.functional.normalize(torch.ones(2, decoder.dim), dim=-1)  # (B, n)
    >>> pictures = decoder(z, seed=0)
    >>> pictures[0].size, pictures[0] == pictures[1]  # same embedding and noise, same picture
    ((64, 64), True)

A comparison is honest only if noise and norm are shared: `shared_noise` starts every picture of a
call from the same noise, and `restore_norm` (eq. 14) gives an equivalent the length of its original.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from sing_utils.errors import SingError
from sing_utils.models.judges import Encoder
from sing_utils.pictures.base import MINI_WEIGHTS, Pictures
from sing_utils.sources.folders import list_pictures

_WEIGHTS = (".json", ".safetensors", ".bin", ".txt")  # and settings
KARLO_WIDTH = 768  # of CLIP ViT-L/14, for which the published Karlo was trained


@cache
def _decoder(kind: str, source: str, **options: Any) -> Pictures:
    """A generative decoder, loaded once a process."""
    name = f"{kind}:{source}" if source else kind
    made: Any
    load: Callable[..., Pictures]
    if kind == "mini":
        from sing_utils.pictures.mini import MiniUnCLIP

        made, load = MiniUnCLIP, partial(MiniUnCLIP.load, source or MINI_WEIGHTS, name=name)
    elif kind == "planted":
        load = made = resolve_name("sing_utils.planted.networks:Renderer")
    else:
        from sing_utils.models.clip import REPOSITORY
        from sing_utils.pictures.karlo import Karlo

        made, load = Karlo, partial(Karlo.load, source or REPOSITORY)
    if wrong := options.keys() - {*signature(load).parameters, *signature(made).parameters}:
        raise SingError(f"{name} takes no such options: {', '.join(sorted(wrong))}.")
    return load(**options)


def require_backend(name: str) -> str:
    """`name`, or a SingError if there is no such way to pictures."""
    kind, _, source = name.partition(":")
    if name != "planted" and kind not in ("mini", "karlo") and not (kind == "photos" and source):
        raise SingError(
            f"unknown picture backend {name!r}, expected mini or karlo (with :FOLDER for weights of your "
            "own), planted, or photos:FOLDER."
        )
    return name


def load_pictures(
    name: str, *, encoder: Encoder | None = None, base: Path | None = None, **options: Any
) -> Pictures:
    """Load a way from embeddings to pictures by name.

    Args:
        name: "mini" (the embedded profile's decoder), "karlo" (UnCLIP, fetched from the model hub or
            found in its cache), either with ":FOLDER" for weights of your own; "planted" (scenes drawn
            from what is read off the embedding), or "photos:FOLDER".
        encoder: whose embeddings will be given; must fit in width; needed for photos.
        base: folder that a relative FOLDER starts from; None: the working folder.
        options: of `MiniUnCLIP.load` or `Karlo.load`, such as steps or save_memory.

    Raises:
        SingError: for an unknown name or option, missing weights, or a decoder of another width.
    """
    kind, source = _split(name, base or Path.cwd())
    if encoder is not None:
        require_fit(name, encoder, base=base)  # before gigabytes are loaded
    if kind == "photos":
        if encoder is None:
            raise SingError(f"{name} needs an encoder, expected the one whose embeddings will be given.")
        from sing_utils.pictures.nearest import open_photos

        return open_photos(Path(source), encoder, base or Path.cwd())
    return _decoder(kind, source, **options)


def require_fit(name: str, encoder: Encoder, *, base: Path | None = None) -> None:
    """Raise a SingError if a backend's folder is missing, or says that it needs another width.

    Looks at settings only, so that a long run does not find out in its last notebook.
    """
    kind, source = _split(name, base or Path.cwd())
    if kind == "photos":
        if not (Path(source) / "manifest.json").is_file():
            list_pictures(source)
        return
    width = KARLO_WIDTH if kind == "karlo" and not source else None
    if kind == "planted":
        width = resolve_name("sing_utils.planted.networks:DIM")
    folder = Path(source) if source else MINI_WEIGHTS
    if kind == "mini" or folder.is_dir():
        width = width or _width_of(kind, folder)
    if width is not None and width != encoder.dim:
        raise SingError(
            f"the decoder {name!r} takes embeddings of width {width}, but the encoder {encoder.name!r} "
            f"gives {encoder.dim}: choose the decoder that belongs to the encoder (mini to embedded, "
            "planted to planted, karlo to karlo)."
        )


def weights_files(name: str, base: Path | None = None) -> tuple[Path, list[Path]]:
    """The folder and, in it, the files that decide what a backend draws; none if it is from the model hub.

    Args:
        name: as for `load_pictures`.
        base: folder that a relative FOLDER starts from; None: the working folder.

    >>> [file.name for file in weights_files("planted")[1]], weights_files("karlo")[1]
    (['reader.safetensors'], [])
    """
    kind, source = _split(name, base or Path.cwd())
    if kind == "planted":
        weights: Path = resolve_name("sing_utils.planted.networks:WEIGHTS")
        return weights, [weights / "reader.safetensors"]
    folder = MINI_WEIGHTS if kind == "mini" and not source else Path(source or "nowhere")
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    if kind != "photos":
        files = [f for f in files if f.suffix in _WEIGHTS]  # there may be a card
    return folder, files


def _split(name: str, base: Path) -> tuple[str, str]:
    """Kind and source of a backend; a relative folder becomes absolute, a repository stays."""
    kind, _, source = require_backend(name).partition(":")
    is_folder = kind != "karlo" or (base / source).is_dir()
    return kind, str(base / source) if source and is_folder else source


def _width_of(kind: str, folder: Path) -> int:
    """The width that the settings in a decoder's folder name."""
    file, key = {
        "mini": (folder / "unet" / "config.json", "projection_class_embeddings_input_dim"),
        "karlo": (folder / "text_proj" / "config.json", "clip_embeddings_dim"),
    }[kind]
    try:
        return int(json.loads(file.read_text())[key])
    except (OSError, ValueError, KeyError):
        what = "mini UnCLIP" if kind == "mini" else "whole UnCLIP pipeline"
        mend = (
            "restore data/embedded/decoder from the repository, or train one with "
            "data/embedded/build/train_decoder.py"
            if kind == "mini"
            else "write it with `pipeline.save_pretrained`"
        )
        raise SingError(
            f"no {what} in {folder} ({file.relative_to(folder)} is missing or damaged), expected its "
            f"weights and settings: {mend}."
        ) from None
