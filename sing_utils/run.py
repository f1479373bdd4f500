"""One run of the book as its notebooks see it: parameters, artifacts and tidy tables.

run = open_run("embedded")
data = run.data("efficientnet_lite0")     # features, targets, labels
run.save_table("scores", scores)          # results/scores.parquet
"""

from __future__ import annotations

import hashlib
import html
import json
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from IPython.display import HTML, Markdown, display
from PIL import Image
from torch import Tensor

from sing_utils.classifiers import Classifier, LinearHead, load_classifier
from sing_utils.decoding import read_picture
from sing_utils.encoders import Encoder, Judge, load_encoder
from sing_utils.errors import SingError
from sing_utils.extraction import extract_cached
from sing_utils.features import FeatureStore
from sing_utils.gallery import image_source
from sing_utils.head import HeadSpaces
from sing_utils.pictures import Pictures, load_pictures
from sing_utils.profiles import Profile, class_name, load_profile, project_root, rooted, safe_name
from sing_utils.sources import PictureSource, open_source
from sing_utils.translator import Translator

REHEARSAL = (
    '<div class="admonition warning"><p class="admonition-title">This is a rehearsal</p><p>Every network '
    "has random weights and the pictures were generated: the numbers, sentences and pictures of this page "
    "mean nothing. It shows that the run works from end to end.</p></div>"
)
EVALUATION_SPLITS = {"val", "valid", "validation", "test", "evaluate"}


@dataclass(frozen=True, eq=False)
class Data:
    """Features and targets of the same pictures, row by row.

    Attributes:
        f: features, (N, m).
        z: the judge's embeddings, (N, n).
        index: path, label, split, sha256, class (its name), evaluation (bool); N rows.
    """

    f: Tensor
    z: Tensor
    index: pd.DataFrame

    def rows(self, mask: pd.Series) -> Data:
        """The rows where `mask` is true."""
        keep = torch.from_numpy(mask.to_numpy(copy=True))
        return Data(self.f[keep], self.z[keep], self.index[mask].reset_index(drop=True))

    @property
    def fit(self) -> Data:
        """Rows to fit translators on."""
        return self.rows(~self.index["evaluation"])

    @property
    def evaluation(self) -> Data:
        """Rows that nothing was fitted on."""
        return self.rows(self.index["evaluation"])


@dataclass(frozen=True, eq=False)
class Run:
    """Open one with `open_run`."""

    profile: Profile
    root: Path
    folder: Path
    _data: dict[str, Data] = field(default_factory=dict, repr=False)
    _heads: dict[str, LinearHead] = field(default_factory=dict, repr=False)
    _spaces: dict[str, HeadSpaces] = field(default_factory=dict, repr=False)
    _decoders: dict[str, Pictures] = field(default_factory=dict, repr=False)

    # --- models -----------------------------------------------------------------------------

    def classifier(self, name: str) -> Classifier:
        """A classifier, loaded once a process."""
        return load_classifier(self.source_of(name), rehearse=self.profile.rehearse)

    def source_of(self, name: str) -> str:
        """What is loaded for a classifier's name."""
        return rooted(self.profile.source_of(name), self.root)

    def head(self, name: str) -> LinearHead:
        """W and b of a classifier. Kept in the run, so that its network is loaded for pictures only."""
        source = self.source_of(name)
        of_what = _digest(source, self.profile.rehearse)
        path = self.artifact(f"heads/{safe_name(name)}-{of_what}.safetensors")
        if name not in self._heads:
            if source.startswith("head:"):
                self._heads[name] = LinearHead.load(source.removeprefix("head:"))
            elif path.exists():
                self._heads[name] = LinearHead.load(path)
            else:
                self._heads[name] = self.classifier(name).head
                self._heads[name].save(path)
        return self._heads[name]

    def spaces(self, name: str) -> HeadSpaces:
        """The principal and null space of a classifier's head."""
        if name not in self._spaces:
            self._spaces[name] = HeadSpaces.from_weight(self.head(name).weight)
        return self._spaces[name]

    @cached_property
    def encoder(self) -> Encoder:
        """The profile's encoder."""
        return load_encoder(rooted(self.profile.encoder, self.root), rehearse=self.profile.rehearse)

    def with_encoder(self, name: str) -> Run:
        """The same run read by another encoder; the translators that are kept are not for it."""
        profile = self.profile.model_copy(update={"encoder": name})
        return replace(self, profile=profile, _data={}, _decoders={})

    def judge(self, name: str) -> Judge:
        """The encoder without the classifier's own tower."""
        return self.encoder.judge_of(self.profile.source_of(name))

    def translator(self, name: str) -> Translator:
        """The translator that notebook 01 fitted for a classifier."""
        path = self.translator_file(name)
        if not path.exists():
            raise SingError(
                f"there is no translator for {name} in {self.folder.name} yet, expected the one that "
                f"notebook 01 fits: run `sing run --only 01` (with this run's --profile and --run-dir)."
            )
        return Translator.load(path)

    def translator_file(self, name: str) -> Path:
        """Where the translator of a classifier is kept."""
        return self.artifact(f"translators/{safe_name(name)}.safetensors")

    # --- data -------------------------------------------------------------------------------

    def store(self, name: str) -> FeatureStore:
        """The feature store of a classifier, or of the profile's encoder under its name.

        With pictures given it is extracted on first use, into a store that other runs of the same model
        and pictures share. The run notes which one, so that later notebooks need not load the model.
        """
        if self.profile.pictures is None:
            return FeatureStore.open(self.root / str(self.profile.features) / safe_name(name))
        note = self.artifact(f"features/{safe_name(name)}-{self._of_pictures(name)}.json")
        if not note.exists():
            note.write_text(json.dumps({"store": self._extract(name).path.name}))
        return FeatureStore.open(self.feature_cache / json.loads(note.read_text())["store"])

    def _of_pictures(self, name: str) -> str:
        """What a note about a store holds for: model, pictures as they are now, and how."""
        p = self.profile
        model = p.encoder if name == p.encoder else self.source_of(name)
        stats = ((str(f), s.st_size, s.st_mtime_ns) for f in self.pictures.files for s in [f.stat()])
        rows = self.pictures.index.to_csv(index=False)
        return _digest(model, p.rehearse, p.precision, rows, list(stats))

    @property
    def feature_cache(self) -> Path:
        """Where extracted stores are kept, shared by all runs."""
        return self.root / "_build" / "features"

    @cached_property
    def pictures(self) -> PictureSource:
        """The pictures of the run, of the profile's classes where it names some."""
        return run_pictures(self.root, self.profile)

    def _extract(self, name: str) -> FeatureStore:
        p = self.profile
        is_encoder = name == p.encoder
        model: Any = self.encoder if is_encoder else self.classifier(name)
        engine = None
        if p.engine == "ray":
            from sing_utils.ray_engine import ray_engine

            load = load_encoder if is_encoder else load_classifier
            source = rooted(p.encoder, self.root) if is_encoder else self.source_of(name)
            engine = ray_engine(partial(load, source, rehearse=p.rehearse), precision=p.precision)
        options: dict[str, Any] = {"workers": p.workers, "precision": p.precision, "engine": engine}
        return extract_cached(model, self.pictures, self.feature_cache, **options)

    def data(self, name: str) -> Data:
        """Features of a classifier beside its judge's embeddings, for the profile's classes."""
        if name not in self._data:
            self._data[name] = self._read(name)
        return self._data[name]

    def _read(self, name: str) -> Data:
        own, targets = self.store(name), self.store(self.profile.encoder)
        if not own.index["sha256"].equals(targets.index["sha256"]):
            raise SingError(
                f"the stores of {name} and of the encoder {self.profile.encoder} hold different "
                "pictures, expected the same in the same order: extract both from one folder."
            )
        names = self.class_names
        index = own.index.assign(evaluation=_evaluation(own.index))
        index["class"] = index["label"].map(names)
        chosen = index["label"].isin(list(names))
        data = Data(own.read("features"), self.judge(name).targets(targets), index).rows(chosen)
        missing = [label for label in names if not (data.index["label"] == label).any()]
        if missing:
            raise SingError(
                f"no picture of class {missing[0]!r} in the store of {name}, expected some of each "
                f"class; the store has {', '.join(sorted(set(own.index['label']))[:20])}."
            )
        if not data.index["evaluation"].any() or data.index["evaluation"].all():
            raise SingError(
                f"{len(data.index)} pictures leave none to fit or none to evaluate: give more pictures."
            )
        return data

    @cached_property
    def class_names(self) -> dict[str, str]:
        """Label -> class name."""
        if self.profile.classes is not None:
            return self.profile.classes
        labels = sorted(set(self.store(self.profile.classifiers[0]).index["label"]))
        return {label: class_name(label) for label in labels}

    @cached_property
    def concept_classes(self) -> list[str]:
        """Names of the classes whose concepts are analysed."""
        known = list(self.class_names.values())
        chosen = self.profile.concept_classes or known[:2]
        for name in chosen:
            if name not in known:
                raise SingError(f"concept_classes: {name!r} is no class, expected one of {', '.join(known)}.")
        return chosen

    @cached_property
    def source_class(self) -> str:
        """Name of the class whose photos are steered."""
        name = self.profile.source_class
        if name is None:
            index = self.data(self.profile.classifiers[0]).index
            counts = index[index["evaluation"]].groupby("class", sort=False).size()
            return str(counts.index[int((counts >= 2).to_numpy().argmax())])
        if name not in self.class_names.values():
            known = ", ".join(self.class_names.values())
            raise SingError(f"source_class: {name!r} is no class, expected one of {known}.")
        return name

    def targets(self, name: str) -> dict[str, Tensor]:
        """Target -> embedding of its prompt by the classifier's judge, (n,)."""
        targets = self.profile.targets
        prompts = self.judge(name).encode_text([self.profile.prompt(t) for t in targets])
        return dict(zip(targets, prompts, strict=True))

    def decoder(self, name: str) -> Pictures:
        """The profile's way to pictures from the embeddings of a classifier's judge."""
        if name not in self._decoders:
            p = self.profile
            encoder = self.judge(name).encoder
            self._decoders[name] = load_pictures(
                p.picture_backend, encoder=encoder, base=self.root, **p.picture_options
            )
        return self._decoders[name]

    def prompts(self, judge: Judge) -> dict[str, Tensor]:
        """Class name -> embedding of its class prompt, (n,)."""
        names = list(self.class_names.values())
        return dict(zip(names, judge.encode_text([self.profile.prompt(n) for n in names]), strict=True))

    def photo(self, name: str) -> Image.Image:
        """A single picture: a file, or one that comes with scikit-image."""
        path = self.root / name
        if path.is_file():
            try:
                return read_picture(path)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise SingError(
                    f"{name} can't be read as a picture ({str(error)[:80]}), expected a file such as a JPEG."
                ) from None
        import skimage.data

        known = ("astronaut", "chelsea", "coffee", "rocket")  # those inside its wheel, in colour
        if name not in known:
            raise SingError(f"photo {name!r} is no file, expected one, or one of {', '.join(known)}.")
        return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")

    def picture(self, name: str, *, height: int = 240) -> HTML:
        """A photo as a small picture with alternative text, for a notebook."""
        image = self.photo(name)
        image.thumbnail((4 * height, height))
        alt = html.escape(f"photo: {Path(name).stem}", quote=True)
        return HTML(f'<img class="sing-photo" alt="{alt}" src="{image_source(image)}">')

    def original(self, path: str) -> Image.Image | None:
        """A photo of the run's own pictures; None where only its features are there."""
        if self.profile.pictures is None:
            return None
        paths = self.pictures.index["path"]
        return read_picture(self.pictures.read(int((paths == path).to_numpy().argmax())))

    # --- what a run makes -------------------------------------------------------------------

    def artifact(self, name: str) -> Path:
        """Path of an artifact, its folder made."""
        path = self.folder / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def save_table(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Write results/<name>.parquet and return the table."""
        path = self.folder / "results" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path, index=False)
        return table

    def turned_off(self, *tables: str) -> Markdown:
        """What to show in the place of a control that the profile turns off; its old tables go."""
        for name in tables:
            (self.folder / "results" / f"{name}.parquet").unlink(missing_ok=True)
        return Markdown("*This control is turned off in this run (parameter `controls`).*")

    def table(self, name: str) -> pd.DataFrame:
        """A table that an earlier notebook saved."""
        path = self.folder / "results" / f"{name}.parquet"
        if not path.exists():
            raise SingError(f"no table {name!r} in this run yet: run the earlier notebooks first.")
        return pd.read_parquet(path)


def open_run(
    profile: str = "embedded", *, run_dir: str | None = None, must_exist: bool = False, **overrides: Any
) -> Run:
    """Open a run for a notebook.

    Args:
        profile: name of a profile or path of a YAML file.
        run_dir: folder of the run, relative to the checkout; None: `_build/runs/<profile>`.
        must_exist: refuse a run that was never made, instead of beginning it.
        overrides: profile values to replace; None means: as the profile says.

    Raises:
        SingError: see `load_profile`.
    """
    root = project_root()
    given = {key: value for key, value in overrides.items() if value is not None}
    loaded = load_profile(profile, root=root, **given)
    if loaded.rehearse:
        display(HTML(REHEARSAL))
    folder = root / (run_dir or f"_build/runs/{loaded.name}")
    if must_exist and not folder.is_dir():
        raise SingError(
            f"there is no run in {run_dir or f'_build/runs/{loaded.name}'}, expected one: make it with "
            "`sing run`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return Run(loaded, root, folder)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def all_pictures(root: Path, profile: Profile) -> PictureSource:
    """The pictures that a profile names, of all classes."""
    given = str(profile.pictures)
    return open_source(given if given == "planted" or given.startswith(("hf:", "planted:")) else root / given)


def run_pictures(root: Path, profile: Profile) -> PictureSource:
    """The pictures that a profile names, of its classes where it names some, and as many as it says."""
    source = all_pictures(root, profile)
    return source.select(
        labels=list(profile.classes) if profile.classes else None, per_label=profile.per_class
    )


def _evaluation(index: pd.DataFrame) -> pd.Series:
    """Rows kept for evaluation: by their split, or a fifth by the picture's hash."""
    by_split = index["split"].isin(EVALUATION_SPLITS)
    if by_split.any() and not by_split.all():
        return by_split
    # By content, so that a picture keeps its side whatever else is in the folder.
    chosen = index["sha256"].str[:8].map(lambda h: int(h, 16) % 5 == 0)
    # A small class would get none or one, of which nothing could be said: it gets its first two.
    rank = index.groupby("label", observed=True)["sha256"].rank(method="first")
    size = index.groupby("label", observed=True)["sha256"].transform("size")
    few = chosen.groupby(index["label"], observed=True).transform("sum") < 2
    return chosen.where(~few, rank <= (size // 2).clip(upper=2))
