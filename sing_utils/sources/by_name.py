r"""Pictures by what a user writes: a folder, a list, ImageNet, shards, a data set's name.

>>> import tempfile
>>> from PIL import Image
>>> folder = Path(tempfile.mkdtemp())
>>> (folder / "cat").mkdir()
>>> Image.new("RGB", (2, 2)).save(folder / "cat" / "a.png")
>>> source = open_source(folder)
>>> source.index.astype(str).to_dict("records")
[{'path': 'cat/a.png', 'label': 'cat', 'split': ''}]
>>> source.read(0)[:4]
b'\x89PNG'
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

from sing_utils.errors import SingError
from sing_utils.sources import csv_labels, hub, imagenet, tars
from sing_utils.sources.folders import FileSource, PictureSource, read_folder, strays, walk


def open_source(spec: str | Path) -> PictureSource:
    """Pictures by what a user writes: `--images SPEC`.

    Args:
        spec: one of

            - a folder: SPLIT/CLASS/picture, CLASS/picture or flat; ImageNet as it is distributed
              (`sing_utils.sources.imagenet`); .tar shards; or Parquet files with pictures
            - LABELS.csv beside its pictures (`sing_utils.sources.csv_labels`)
            - WebDataset shards: `x.tar`, `x-{000..009}.tar`, `folder/*.tar` (`sing_utils.sources.tars`)
            - hf:NAME[@REVISION][#SPLIT], a data set by name, or a .parquet or .arrow file
              (`sing_utils.sources.hub`)
            - planted:COUNT[@SEED], drawn scenes of the planted world (`sing_utils.planted.scenes`)

    Raises:
        SingError: for anything else, or what can't be read.
    """
    text = str(spec)
    if text.startswith("hf:"):
        return hub.open_dataset(text)
    if text == "planted" or text.startswith("planted:"):
        scenes: PictureSource = resolve_name("sing_utils.planted.scenes:open_scenes")(text)
        return scenes
    if text.startswith("pipe:") or "://" in text:
        raise SingError(
            f"{text} is a command or an address, expected files of this machine: download them first, "
            "or give a data set's name as hf:NAME."
        )
    path = Path(text)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return csv_labels.read_label_table(path)
    if tars.looks_like_shards(text):
        return tars.open_shards(text)
    if path.is_file() and path.suffix.lower() in hub.FILES:
        return hub.open_dataset(f"hf:{text}")
    raise SingError(
        f"{text} is not a folder, expected a folder of pictures, a .csv file of labels, .tar shards, a "
        ".parquet file or hf:NAME: check the path, or unpack it."
    )


def _open_folder(folder: Path) -> PictureSource:
    """Pictures that lie in a folder come before archives and tables beside them."""
    if hub.is_saved(folder):
        return hub.open_dataset(f"hf:{folder}")
    if layout := imagenet.find_imagenet(folder):
        options = {"rule": "ImageNet's folders", "aside": strays(folder)}
        if not layout.is_unlabelled():
            return FileSource(str(folder), layout.index(), layout.root, **options)
    if next(walk(folder), None) is None:
        kinds = {p.suffix.lower() for p in folder.iterdir() if p.is_file()} & {".tar", ".parquet", ".arrow"}
        if (folder / "manifest.json").exists() and ".tar" not in kinds:
            raise SingError(
                f"{folder} holds a feature store and no picture, expected pictures: give the folder that it "
                "was extracted from."
            )
        if ".tar" in kinds and len(kinds) > 1:
            raise SingError(
                f"{folder} holds {' and '.join(sorted(kinds))} files, expected one kind: give "
                f"{folder}/*.tar, or move the others elsewhere."
            )
        if kinds:
            tar = ".tar" in kinds
            return tars.open_shards(f"{folder}/*.tar") if tar else hub.open_dataset(f"hf:{folder}")
    source = read_folder(folder)
    if layout:
        return replace(source, rule=f"{source.rule} (no list says what ImageNet's pictures show)")
    return source
