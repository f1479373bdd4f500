"""One run of the book as its notebooks see it: photos, texts, heads, translators and tidy tables.

run = open_run("embedded")
photos = run.photos("efficientnet_lite0")         # .f (N, m), .z (N, n), .own (N,), .index
texts = run.texts("efficientnet_lite0", run.prompts)
run.save_table("scores", scores)                  # results/scores.parquet
"""

from __future__ import annotations

import ast
import hashlib
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial, wraps
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar, cast

import pandas as pd
import torch
from filelock import FileLock
from IPython import get_ipython
from IPython.display import HTML, Markdown, display, update_display
from PIL import Image
from torch import Tensor

from sing_utils.checkout import project_root
from sing_utils.errors import SingError, unknown
from sing_utils.evidence import refits
from sing_utils.evidence.refits import Halves, Refits
from sing_utils.features.extraction import extract_cached
from sing_utils.features.store import FeatureStore, feature_cache, open_stored, require_one_network
from sing_utils.files import make_writable, write_bytes, write_whole
from sing_utils.method import adamw, beyond, translator
from sing_utils.method.beyond import BeyondLogits
from sing_utils.method.head import HeadSpaces
from sing_utils.method.translator import Translator
from sing_utils.models.classifiers import Classifier, LinearHead, load_classifier
from sing_utils.models.encoders import judge_of_stores, load_encoder
from sing_utils.models.judges import Encoder, Judge
from sing_utils.models.networks import stamps_of
from sing_utils.paper.claims import Facts, box, judge
from sing_utils.paper.published import Published
from sing_utils.pictures.base import Pictures
from sing_utils.pictures.by_name import load_pictures
from sing_utils.pictures.pixels import Found, search
from sing_utils.runs.profiles import (
    Profile,
    class_names,
    load_profile,
    profile_names,
    profile_values,
    rooted,
    safe_name,
)
from sing_utils.runs.results import find_run
from sing_utils.show.findings import Finding
from sing_utils.sources.by_name import open_source
from sing_utils.sources.decoding import read_picture
from sing_utils.sources.folders import PictureSource, clean_split

REHEARSAL = (
    '<div class="admonition warning"><p class="admonition-title">This is a rehearsal</p><p>Every network '
    "has random weights and the pictures were generated: the numbers, sentences and pictures of this page "
    "mean nothing. It shows that the run works from end to end.</p></div>"
)
_NOTE = ".parameters.json"  # in a run's folder: its profile as it was resolved
_Method = TypeVar("_Method", bound=Callable[..., Any])
DEFAULT = "embedded"  # the profile whose values stand in the notebooks
EVALUATION_SPLITS = {"val", "valid", "validation", "test", "evaluate"}


@dataclass(frozen=True, eq=False)
class Photos:
    """Features and embeddings of the same photos, row by row.

    Attributes:
        f: features, (N, m).
        z: the judge's embeddings, (N, n).
        own: number of each photo's class among the run's classes, (N,).
        index: path, label, split, sha256, class (its name), evaluation (bool); N rows.
    """

    f: Tensor
    z: Tensor
    own: Tensor
    index: pd.DataFrame

    def __len__(self) -> int:
        return len(self.f)

    def rows(self, mask: pd.Series) -> Photos:
        """The rows where `mask` is true."""
        keep = torch.from_numpy(mask.to_numpy(copy=True))
        return Photos(self.f[keep], self.z[keep], self.own[keep], self.index[mask].reset_index(drop=True))

    def of(self, name: str) -> Photos:
        """The photos of one class.

        Raises:
            SingError: if there is none; the message names the classes that there are.
        """
        found = self.index["class"] == name
        if not found.any():
            known = ", ".join(dict.fromkeys(self.index["class"]))
            raise SingError(f"there is no photo of {name!r}, expected one of {known}.")
        return self.rows(found)


def _kept_in_run(make: _Method) -> _Method:
    """A method of `Run` whose results are kept in memory, by its arguments."""

    @wraps(make)
    def kept(self: Run, *arguments: Any, **named: Any) -> Any:
        asked = signature(make).bind(self, *arguments, **named)
        asked.apply_defaults()
        key = (make.__name__, *asked.args[1:])
        if key not in self._kept:
            self._kept[key] = make(self, *arguments, **named)
        return self._kept[key]

    return cast(_Method, kept)


@dataclass(frozen=True, eq=False)
class Run:
    """Open one with `open_run`."""

    profile: Profile
    root: Path
    folder: Path
    _texts: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _kept: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)  # see `_kept_in_run`

    # --- what was asked for -----------------------------------------------------------------

    @property
    def classifiers(self) -> list[str]:
        """Names of the classifiers."""
        return self.profile.classifiers

    @cached_property
    def short(self) -> dict[str, str]:
        """Name of a classifier -> a short one for charts and tables."""
        return short_names(self.classifiers)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return list(self.class_names.values())

    def prompt(self, what: str) -> str:
        """The class prompt of a class, a target or any other words."""
        return self.profile.prompt(what)

    @property
    def prompts(self) -> list[str]:
        """The prompt of each class."""
        return [self.prompt(name) for name in self.classes]

    @property
    def concepts(self) -> list[str]:
        """Phrases whose angles to photos are measured."""
        return self.profile.concepts

    @property
    def targets(self) -> list[str]:
        """What is steered toward."""
        return self.profile.targets

    @property
    def degrees(self) -> float:
        """IS of a steering step, degrees."""
        return self.profile.degrees

    @property
    def seed(self) -> int:
        """Of splits, draws and bootstraps."""
        return self.profile.seed

    # --- models -----------------------------------------------------------------------------

    def classifier(self, name: str) -> Classifier:
        """A classifier, loaded once a process."""
        return load_classifier(self.source_of(name), rehearse=self.profile.rehearse)

    def source_of(self, name: str) -> str:
        """What is loaded for a classifier's name."""
        return rooted(self.profile.source_of(name), self.root)

    @_kept_in_run
    def head(self, name: str) -> LinearHead:
        """W and b of a classifier. Its file is kept too, so that its network is loaded for pictures only."""
        source = self.source_of(name)
        if source.startswith("head:"):
            return LinearHead.load(source.removeprefix("head:"))
        of_what = _digest(source, self.profile.rehearse, stamps_of(source))
        path = self.artifact(f"heads/{safe_name(name)}-{of_what}.safetensors")
        if path.exists():
            return LinearHead.load(path)
        head = self.classifier(name).head
        write_whole(path, head.save)
        return head

    @_kept_in_run
    def spaces(self, name: str) -> HeadSpaces:
        """The principal and null space of a classifier's head."""
        return HeadSpaces.from_weight(self.head(name).weight)

    @cached_property
    def encoder(self) -> Encoder:
        """The profile's encoder."""
        return load_encoder(rooted(self.profile.encoder, self.root), rehearse=self.profile.rehearse)

    def with_encoder(self, name: str) -> Run:
        """The same run read by another encoder."""
        of_heads = {key: value for key, value in self._kept.items() if key[0] in ("head", "spaces")}
        profile = self.profile.model_copy(update={"encoder": name})
        return replace(self, profile=profile, _texts={}, _kept=of_heads)

    def judge(self, name: str) -> Judge:
        """The encoder without the classifier's own tower."""
        return judge_of_stores(self.encoder, self.store(name), self.store(self.profile.encoder))

    @_kept_in_run
    def translator(self, name: str, method: Literal["ridge", "adamw"] = "ridge") -> Translator:
        """A classifier's translator, fitted if the run has none for these photos and settings.

        Args:
            name: of the classifier.
            method: "ridge", which all scores use, or "adamw", the paper's procedure.
        """
        p, photos = self.profile, self.photos(name, "fit")
        options: dict[str, Any] = {"held_out": p.held_out, "seed": p.seed}
        if method == "adamw":
            options["epochs"] = p.adamw_epochs
        key = _digest(_FITTING, method, options, _bytes_of(photos.f), _bytes_of(photos.z))
        path = self.artifact(f"translators/{safe_name(name)}-{method}-{key}.safetensors")
        meta = {"classifier": name, "encoder": p.encoder, "network": self.store(name).network}
        fit = partial(Translator.fit, photos.f, photos.z, method=method, meta=meta, **options)
        _once(path, lambda: fit().save)
        return Translator.load(path)

    @_kept_in_run
    def beyond(self, name: str) -> BeyondLogits:
        """The maps of a classifier's score beyond the logits, fitted on the photos of its translator."""
        p, photos, W = self.profile, self.photos(name, "fit"), self.head(name).weight
        options: dict[str, Any] = {"held_out": p.held_out, "seed": p.seed}
        key = _digest(_FITTING, options, *map(_bytes_of, (photos.f, photos.z, W)))
        path = self.artifact(f"beyond/{safe_name(name)}-{key}.safetensors")
        _once(path, lambda: BeyondLogits.fit(photos.f, photos.z, W, **options).save)
        return BeyondLogits.load(path)

    def halves(self, name: str) -> Halves:
        """The photos of a classifier's translator, to refit it on parts of them."""
        fit = self.photos(name, "fit")
        return Halves.of(fit.f, fit.z, self.translator(name), self.beyond(name), self.spaces(name))

    def refits(self, name: str) -> Refits:
        """Scores of the evaluation photos by translators refitted on halves of the fit photos.

        Toward the prompts of all classes, then toward the profile's phrases, of which concepts come first.
        """
        p, fit, new = self.profile, self.photos(name, "fit"), self.photos(name)
        texts = self.texts(name, [*self.prompts, *p.phrases])
        given = (fit.f, fit.z, self.head(name).weight, new.f, texts)
        key = _digest(_FITTING, _REFITTING, p.held_out, p.seed, p.refits, *map(_bytes_of, given))
        path = self.artifact(f"refits/{safe_name(name)}-{key}.safetensors")
        options = {"classes": len(self.classes), "count": p.refits, "seed": p.seed}
        _once(path, lambda: Refits.fit(self.halves(name), new.f, texts, new.own, **options).save)
        return Refits.load(path)

    # --- data -------------------------------------------------------------------------------

    def store(self, name: str) -> FeatureStore:
        """The feature store of a classifier, or of the profile's encoder under its name.

        With pictures given it is extracted on first use, into a store that other runs of the same model
        and pictures share. The run notes which one, so that later notebooks need not load the model.
        """
        if self.profile.pictures is None:
            source = self.profile.source_of(name)
            return open_stored(self.root / str(self.profile.features), safe_name(name), safe_name(source))
        note = self.artifact(f"features/{safe_name(name)}-{self._of_pictures(name)}.json")
        if note.exists() and (found := _kept(self.feature_cache / json.loads(note.read_text())["store"])):
            return found
        store = self._extract(name)  # again, where somebody cleared the cache
        write_bytes(note, json.dumps({"store": store.path.name}).encode())
        return store

    def _of_pictures(self, name: str) -> str:
        """What a note about a store holds for: model, pictures as they are now, and how."""
        p = self.profile
        model = p.encoder if name == p.encoder else self.source_of(name)
        stats = ((str(f), s.st_size, s.st_mtime_ns) for f in self.pictures.files for s in [f.stat()])
        rows = self.pictures.index.to_csv(index=False)
        own = [] if name == p.encoder else stamps_of(model)
        return _digest(model, own, p.rehearse, p.precision, rows, list(stats))

    @property
    def feature_cache(self) -> Path:
        """Where extracted stores are kept, shared by all runs."""
        return feature_cache(self.root)

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
            from sing_utils.features.on_ray import ray_engine

            load = load_encoder if is_encoder else load_classifier
            source = rooted(p.encoder, self.root) if is_encoder else self.source_of(name)
            engine = ray_engine(partial(load, source, rehearse=p.rehearse), precision=p.precision)
        options: dict[str, Any] = {"workers": p.workers, "precision": p.precision, "engine": engine}
        make_writable(self.feature_cache, mend="choose another by the environment variable SING_FEATURES_DIR")
        return extract_cached(model, self.pictures, self.feature_cache, **options)

    @_kept_in_run
    def photos(self, name: str, part: Literal["evaluation", "fit", "all"] = "evaluation") -> Photos:
        """Features of a classifier beside its judge's embeddings, for the run's classes.

        Args:
            name: of the classifier.
            part: "evaluation", which nothing is fitted on; "fit", which translators may see; or "all".
        """
        if part == "all":
            return self._read(name)
        whole = self.photos(name, "all")
        evaluation = whole.index["evaluation"]
        return whole.rows(evaluation if part == "evaluation" else ~evaluation)

    def _read(self, name: str) -> Photos:
        own, targets = self.store(name), self.store(self.profile.encoder)
        if not own.index["sha256"].equals(targets.index["sha256"]):
            raise SingError(
                f"the stores of {name} and of the encoder {self.profile.encoder} hold different "
                "pictures, expected the same in the same order: extract both from one folder."
            )
        require_one_network({f"the head of {name}": self.head(name).sha256, "the store": own.network})
        names = self.class_names
        numbers = own.index["label"].map({label: i for i, label in enumerate(names)})
        chosen = numbers.notna()
        # A split of which no class is asked for, such as one without labels, evaluates nothing.
        kept = _evaluation(own.index[chosen]).reindex(own.index.index, fill_value=False)
        index = own.index.assign(evaluation=kept)
        index["class"] = index["label"].map(names)
        classes = torch.tensor(numbers.fillna(-1).to_numpy(dtype=int))
        photos = Photos(own.read("features"), self.judge(name).targets(targets), classes, index).rows(chosen)
        missing = [label for label in names if not (photos.index["label"] == label).any()]
        if missing:
            raise SingError(
                f"no picture of class {missing[0]!r} in the store of {name}, expected some of each "
                f"class; the store has {', '.join(sorted(set(own.index['label']))[:20])}."
            )
        if not photos.index["evaluation"].any() or photos.index["evaluation"].all():
            raise SingError(
                f"{len(photos)} pictures leave none to fit or none to evaluate: give more pictures."
            )
        return photos

    def texts(self, name: str, prompts: Sequence[str]) -> Tensor:
        """Embeddings of K texts by a classifier's judge, (K, n); no text is read twice.

        Args:
            name: of the classifier.
            prompts: K texts.
        """
        # A judge differs from the encoder in what sees pictures, not in what reads texts.
        if new := [t for t in dict.fromkeys(prompts) if t not in self._texts]:
            self._texts.update(zip(new, self.judge(name).encode_text(new), strict=True))
        return torch.stack([self._texts[t] for t in prompts])

    @cached_property
    def class_names(self) -> dict[str, str]:
        """Label -> class name."""
        if self.profile.classes is not None:
            return self.profile.classes
        return class_names(self.store(self.profile.classifiers[0]).index["label"])

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
            index = self.photos(self.classifiers[0]).index
            counts = index.groupby("class", sort=False).size()
            return str(counts.index[int((counts >= 2).to_numpy().argmax())])
        if name not in self.class_names.values():
            known = ", ".join(self.class_names.values())
            raise SingError(f"source_class: {name!r} is no class, expected one of {known}.")
        return name

    @_kept_in_run
    def decoder(self, name: str) -> Pictures:
        """The profile's way to pictures from the embeddings of a classifier's judge."""
        p, encoder = self.profile, self.judge(name).encoder
        return load_pictures(p.picture_backend, encoder=encoder, base=self.root, **p.picture_options)

    def draw(self, name: str, z: Tensor, *, noise: int = 0) -> list[Image.Image]:
        """Pictures of embeddings by the profile's decoder, all from one noise.

        Args:
            name: of the classifier whose judge's embeddings they are.
            z: (K, n).
            noise: seed of the noise.
        """
        return self.decoder(name)(z, seed=noise)

    def search(self, name: str, pixels: Tensor, wanted: Tensor, **options: Any) -> Found:
        """Pictures near photographs with wanted features: kept in the run, and resumed there.

        Args:
            name: of the classifier.
            pixels: (B, 3, H, W), uint8.
            wanted: features, (B, m).
            options: of `sing_utils.pictures.pixels.search`.
        """
        keep = self.artifact(f"pixels/{safe_name(name)}")
        return search(self.classifier(name), self.spaces(name), pixels, wanted, keep=keep, **options)

    def photo(self, name: str) -> Image.Image:
        """A single picture: a file, or one that comes with scikit-image."""
        return read_photo(self.root, name)

    def original(self, path: str) -> Image.Image | None:
        """A photo of the run's own pictures; None where only its features are there.

        Raises:
            SingError: if it is none of them.
        """
        if self.profile.pictures is None:
            return None
        found = (self.pictures.index["path"] == path).to_numpy().nonzero()[0]
        if not len(found):
            raise SingError(f"{path} is none of the run's pictures, expected one of {self.profile.pictures}.")
        return read_picture(self.pictures.read(int(found[0])))

    # --- what a run makes -------------------------------------------------------------------

    def artifact(self, name: str) -> Path:
        """Path of an artifact, its folder made."""
        path = self.folder / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def save_table(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Write results/<name>.parquet, whole or not at all, and return the table."""
        path = self.folder / "results" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        claim_folder(self.folder, self.profile)  # another run may have taken it since
        write_whole(path, lambda fresh: table.to_parquet(fresh, index=False))
        return table

    def opening(self, name: str) -> None:
        """Keep the place at a notebook's top where `say(…, opening=name)` shows what it found."""
        display(HTML(_opening("This notebook says here what it found, once it has run.")), display_id=name)

    def say(self, finding: Finding, *, claim: str | None = None, opening: str | None = None) -> None:
        """Show a finding; what answers a claim or opens a page is kept as one row of the table `findings`.

        The introduction and the page of claims read that table, so that nothing is phrased twice.

        Args:
            finding: what this run measured.
            claim: id of the paper's claim that it answers (data/published/claims.yaml).
            opening: name of the notebook's `opening`, whose place it fills.
        """
        entry = None
        if claim is not None:
            published = Published(self.root)
            entry = published.claim(claim)
            facts = Facts(self.profile.model_dump(mode="json"), self._table_if_any, published)
            finding = judge(entry, facts, finding)
        for name, short in self.short.items():
            finding = replace(finding, measured=finding.measured.replace(name, short))
        if key := claim or opening:
            row = pd.DataFrame([{"id": key, **asdict(finding)}])
            path = self.folder / "results" / "findings.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".findings.lock"):  # notebooks may run side by side
                kept = pd.read_parquet(path) if path.exists() else row[:0]
                rows = pd.concat([kept[kept["id"] != key], row], ignore_index=True)
                self.save_table("findings", rows.sort_values("id"))
        if opening is not None:
            update_display(HTML(_opening(finding.measured)), display_id=opening)
        else:
            display(HTML(box(finding, entry)))

    def turned_off(self, *tables: str) -> Markdown:
        """What to show in the place of a control that the profile turns off; its old tables go."""
        for name in tables:
            (self.folder / "results" / f"{name}.parquet").unlink(missing_ok=True)
        return Markdown("*This control is turned off in this run (parameter `controls`).*")

    def table(self, name: str) -> pd.DataFrame:
        """A table that a notebook of this run saved."""
        found = self._table_if_any(name)
        if found is None:
            raise SingError(f"no table {name!r} in this run yet: run the notebook that saves it first.")
        return found

    def _table_if_any(self, name: str) -> pd.DataFrame | None:
        path = self.folder / "results" / f"{name}.parquet"
        return pd.read_parquet(path) if path.exists() else None


def open_run(
    profile: str = DEFAULT, run_dir: str | None = None, *, must_exist: bool = False, **parameters: Any
) -> Run:
    """Open a run for a notebook.

    A parameter replaces the profile's value where papermill gave it, or where it differs from the default
    profile's, which stands in the notebooks. What differs from the profile makes a run of its own.

    Args:
        profile: name of a profile, path of a YAML file, or a run: its name in `_build/runs` or its folder.
        run_dir: folder of the run, relative to the checkout; None: see `run_folder`.
        must_exist: refuse a run that was never made, instead of beginning it.
        parameters: profile values; None means: as the profile says.

    Raises:
        SingError: for a parameter that papermill gave and the notebook does not have; and see `load_profile`.
    """
    root = project_root(or_ours=True)
    if (own := _own_profile(root, profile)) is not None:
        profile, run_dir = str(own), run_dir or str(own.parent)
    given = _given(root, profile, parameters)
    loaded = load_profile(profile, root=root, **given)
    if loaded.rehearse:
        display(HTML(REHEARSAL))
    folder = root / (run_dir or run_folder(loaded, given))
    if must_exist and not folder.is_dir():
        raise SingError(
            f"there is no run in {folder.relative_to(root) if folder.is_relative_to(root) else folder}, "
            "expected one: make it with `sing run`."
        )
    if must_exist:  # whoever only reads may ask for other settings
        _require_own(folder, load_profile(profile, root=root))
    else:
        claim_folder(folder, loaded)
    return Run(loaded, root, folder)


def _own_profile(root: Path, run: str) -> Path | None:
    """The file with the parameters of a run that is named so; None for a profile."""
    if run.endswith(".yaml") or run in profile_names(root):
        return None
    for name in (_NOTE, "profile.yaml"):
        if folder := find_run(root, run, name):
            return folder / name
    if len(Path(run).parts) > 1:
        raise SingError(f"there is no run in {run}, expected one: make it with `sing run --run-dir FOLDER`.")
    profiles, runs = profile_names(root), (root / "_build" / "runs").glob("*/")
    known = [*profiles, *sorted(p.name for p in runs if p.name not in profiles)]
    raise unknown("profile or run", run, known, where=f"{root.name}/")


def _kept(path: Path) -> FeatureStore | None:
    """A store of the cache, if all of it is still there: whoever needs space deletes from caches."""
    try:
        store = FeatureStore.open(path)
    except SingError:
        return None
    return store if store.is_whole() else None


def claim_folder(folder: Path, profile: Profile, *, anew: bool = False) -> None:
    """Make a run's folder and note whose it is, so that tables of two sets of parameters are never mixed.

    Args:
        folder: of the run.
        profile: as it was resolved.
        anew: whether everything in the folder is made anew, so that it may have been another's.

    Raises:
        SingError: if the folder holds a run with other parameters, or can't be written.
    """
    note = folder / _NOTE
    if not anew:
        _require_own(folder, profile)
        if note.exists():
            return
    make_writable(folder)
    with FileLock(folder / ".parameters.lock"):  # of two that begin at once, the second finds the note
        if not anew:
            _require_own(folder, profile)
        write_bytes(note, json.dumps(profile.model_dump(mode="json")).encode())


def _require_own(folder: Path, profile: Profile) -> None:
    """Raise a SingError if the folder holds a run with other parameters."""
    note, now = folder / _NOTE, profile.model_dump(mode="json")
    before = json.loads(note.read_text()) if note.exists() else now
    if changed := [key for key in now if key in before and before[key] != now[key]]:
        key = changed[0]
        raise SingError(
            f"{folder.name} holds a run with {key} {_brief(before[key])}, expected one with "
            f"{_brief(now[key])}: open it by its folder alone, give another run_dir, or make all of it anew "
            "with `sing run`."
        )


def _once(path: Path, make: Callable[[], Callable[[Path], Any]]) -> None:
    """Write a file that takes a while, if it isn't there: notebooks side by side wait for one of them.

    `make` does the work and returns what writes it.
    """
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            write_whole(path, make())


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def run_folder(profile: Profile, given: Mapping[str, Any]) -> str:
    """Where a run belongs, relative to the checkout: each set of parameters has a folder of its own.

    Args:
        profile: as it was resolved.
        given: the values that replace those of the profile's file.

    >>> from sing_utils.runs.profiles import load_profile
    >>> run_folder(load_profile("embedded"), {})
    '_build/runs/embedded'
    >>> run_folder(load_profile("embedded", degrees=30.0), {"degrees": 30.0})
    '_build/runs/embedded-degrees-30-...'
    """
    if not given:
        return f"_build/runs/{profile.name}"
    words = "-".join(
        f"{key}-{value:g}" if isinstance(value, float) else f"{key}-{value}" for key, value in given.items()
    )
    readable = re.sub(r"[^a-z0-9]+", "-", words.lower())[:40].strip("-")
    return f"_build/runs/{profile.name}-{readable}-{_digest(profile.model_dump(mode='json'))[:4]}"


def _given(root: Path, profile: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Those parameters of a notebook that replace what the profile's file says."""
    injected = _injected()
    for name in injected:
        if name not in ("profile", "run_dir", *parameters):
            raise unknown("parameter", name, ["profile", "run_dir", *parameters], where="this notebook")
    default, own = (_file_values(root, p) for p in (DEFAULT, profile))
    return {
        key: value
        for key, value in parameters.items()
        if value is not None
        and value not in own.get(key, ())
        and (key in injected or value not in default.get(key, ()))
    }


def _file_values(root: Path, profile: str) -> dict[str, list[Any]]:
    """Key -> its value in a profile's file, in the forms in which it may be written."""
    loaded, written = load_profile(profile, root=root), profile_values(profile, root)
    forms = {key: [value] for key, value in loaded.model_dump().items()}
    for key, value in written.items():
        forms[key] += [value, *([list(value.values()), list(value)] if isinstance(value, dict) else [])]
    return forms


def _injected() -> list[str]:
    """Names of the parameters that papermill put into this notebook; none outside one."""
    shell = get_ipython()
    for source in reversed(shell.user_ns.get("In", []) if shell else []):
        if source.startswith("# Parameters\n"):  # papermill's own first line
            body = ast.parse(source).body
            return [
                t.id
                for node in body
                if isinstance(node, ast.Assign)
                for t in node.targets
                if isinstance(t, ast.Name)
            ]
    return []


def _opening(words: str) -> str:
    return f'<p class="sing-opening">{html.escape(words)}</p>'


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without what they all begin with, where they are long.

    >>> short_names(["efficientnet_lite0", "efficientnet_lite1"])
    {'efficientnet_lite0': 'Lite0', 'efficientnet_lite1': 'Lite1'}
    >>> short_names(["ResNet50", "DINO-ViT"])["ResNet50"], short_names(["timm:resnet18.a1_in1k"])
    ('ResNet50', {'timm:resnet18.a1_in1k': 'Resnet18.a1_in1k'})
    """
    if max(map(len, names)) <= 12:
        return {name: name for name in names}
    common = names[0]
    for name in names[1:]:
        common = common[
            : next((i for i, (a, b) in enumerate(zip(common, name, strict=False)) if a != b), None)
        ]
    if len(names) == 1:
        common = common[: max(common.rfind(c) for c in ":/") + 1]
    cut = max(common.rfind(c) for c in "_-/: ") + 1
    return {name: name[cut : cut + 1].upper() + name[cut + 1 :] if cut else name for name in names}


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _bytes_of(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def _sources_of(*modules: ModuleType) -> str:
    return hashlib.sha256(b"".join(Path(str(m.__file__)).read_bytes() for m in modules)).hexdigest()


_FITTING = _sources_of(adamw, beyond, translator)
_REFITTING = _sources_of(refits)


def read_photo(root: Path, name: str) -> Image.Image:
    """A single picture: a file, relative to `root`, or one that comes with scikit-image.

    Raises:
        SingError: if it is neither, or can't be read.
    """
    path = root / name
    if path.is_file():
        try:
            return read_picture(path)
        except SingError as error:
            raise SingError(
                f"{name} can't be read as a picture ({str(error)[:160]}), expected a file such as a JPEG."
            ) from None
    import skimage.data

    known = ("astronaut", "chelsea", "coffee", "rocket")  # those inside its wheel, in colour
    if name not in known:
        raise SingError(f"photo {name!r} is no file, expected one, or one of {', '.join(known)}.")
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def all_pictures(root: Path, profile: Profile) -> PictureSource:
    """The pictures that a profile names, of all classes."""
    given = str(profile.pictures)
    return open_source(given if given == "planted" or given.startswith(("hf:", "planted:")) else root / given)


def run_pictures(root: Path, profile: Profile) -> PictureSource:
    """The pictures that a profile names, of its classes, else of all labels, and as many as it says."""
    source = all_pictures(root, profile)
    known = {*source.index["label"]}
    labels = list(profile.classes or (known - {""} if "" in known else ())) or None
    return source.select(labels=labels, per_label=profile.per_class)


def _evaluation(index: pd.DataFrame) -> pd.Series:
    """Rows kept for evaluation: by their split, or a fifth by the picture's hash."""
    by_split = index["split"].map(clean_split).isin(EVALUATION_SPLITS)
    if by_split.any() and not by_split.all():
        return by_split
    # By content, so that a picture keeps its side whatever else is in the folder.
    chosen = index["sha256"].str[:8].map(lambda h: int(h, 16) % 5 == 0)
    # A small class would get none or one, of which nothing could be said: it gets its first two.
    rank = index.groupby("label", observed=True)["sha256"].rank(method="first")
    size = index.groupby("label", observed=True)["sha256"].transform("size")
    few = chosen.groupby(index["label"], observed=True).transform("sum") < 2
    return chosen.where(~few, rank <= (size // 2).clip(upper=2))
