"""Profiles: named, validated sets of parameters for the whole book.

>>> profile = load_profile("embedded", classes=["goldfish", "tench"], seed=3)
>>> profile.seed, list(profile.classes.values())
(3, ['goldfish', 'tench'])
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sing_utils.checkout import project_root
from sing_utils.errors import SingError
from sing_utils.models.classifiers import require_classifier
from sing_utils.models.encoders import require_encoder
from sing_utils.models.networks import path_in
from sing_utils.models.own_files import with_home
from sing_utils.pictures.by_name import require_backend

# What tables with a column a classifier call their others.
_COLUMNS = {"class", "classifier", "label", "measure", "path", "photo", "prompt", "score", "target"}


def _different_names(names: list[str]) -> list[str]:
    # Files are named by them, also on disks that take Mine and mine for one.
    if len({safe_name(name).casefold() for name in names}) < len(names):
        raise ValueError("a classifier is named twice, or two names differ in signs or capitals alone")
    if taken := [name for name in names if name in _COLUMNS]:
        raise ValueError(f"tables have a column called {taken[0]!r}, expected another name for a classifier")
    return names


def _one_name_each(classes: dict[str, str]) -> dict[str, str]:
    name, times = Counter(classes.values() or [""]).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} classes are called {name!r}, expected another name for each label")
    return classes


def _known_encoder(name: str) -> str:
    require_encoder(name)
    return name


def _one_place(text: str) -> str:
    if text.count("{}") != 1 or set(text.replace("{}", "")) & set("{}"):
        raise ValueError("expected words with one {} where the class name goes, and no other braces")
    return text


def _some_words(text: str) -> str:
    if not text.replace("{}", "").strip():
        raise ValueError("expected words beside the {} where the class name goes")
    return text


def _each_once(texts: list[str]) -> list[str]:
    if not all(text.strip() for text in texts) or len(set(texts)) < len(texts):
        raise ValueError("expected different ones, none of them empty")
    return texts


_Encoder = Annotated[str, AfterValidator(_known_encoder)]
_Template = Annotated[str, AfterValidator(_one_place)]
_Phrases = Annotated[list[str], AfterValidator(_each_once)]
_Control = Literal["subspace", "translator", "prompts", "encoder", "rank"]


class Profile(BaseModel):
    """Every parameter of a run. Unknown keys are errors.

    Attributes:
        name: of the profile; results go to `_build/runs/<name>`.
        description: one line for people.
        classifiers: names as charts and tables show them; in a file also a mapping, name -> source.
        classifier_sources: name -> what `load_classifier` loads, for names that are not that themselves.
        encoder: name for `load_encoder`.
        features: folder of feature stores, one a classifier and one for the encoder.
        images: pictures to extract from instead of using `features`: a folder, or any other source that
            `sing_utils.sources.folders` knows; None: use the features. Their classes are the pictures' own.
        imagenet_dir: ImageNet's folder, to extract the profile's classes from.
        per_class: pictures of each class, in each split, to extract, chosen by a hash of their names;
            None: all.
        engine: "local", or "ray" to extract on a cluster.
        precision: of the networks' products while extracting: "auto" (float32 on a CPU, 16 bits on a GPU),
            "float32", "bfloat16" or "float16".
        workers: processes that decode pictures, for the local engine; None: one a core, less one.
        rehearse: random weights of the same architectures; nothing is downloaded, no number means anything.
        classes: label -> name used in prompts; None: every label found in the pictures. A list
            picks labels or names.
        low_resolution: labels whose photographs were enlarged; said wherever classes are compared.
        prompt_template: text with one {} for the class name.
        concepts: phrases, or a YAML file with a list of phrases.
        more_concepts: further phrases, or a file of them, that only the live explorers offer.
        explorer_photos: evaluation photos a class that the live explorers offer, the first by file name.
        thumbnails: evaluation photos a class that get a small picture, the first by file name.
        concept_classes: names of the classes whose concepts are analysed; None: the first two.
        photos: single pictures to analyse: files, or names of pictures in scikit-image.
        source_class: name of the class whose photos are steered; None: the first that has two or more
            evaluation photos.
        targets: what is steered toward, words for the prompt's place; the first one in detail.
        degrees: the IS of a steering step, degrees.
        picture_backend: name for `load_pictures`, how embeddings become pictures; in a file also "photos",
            the nearest of the run's own.
        picture_options: its options, such as steps or save_memory.
        search_anew: whether notebook 08 searches for pictures even where searches are stored.
        search_photos: photographs that it then starts from, at most.
        search_steps: steps of each search.
        planted_worlds: worlds that notebook 06 repeats everything in, 2 to 5: as many backbones were trained.
        planted_scenes: scenes of each world to fit on; a sixth as many are for evaluation.
        held_out: share of the fitting rows that chooses the ridge, between 0 and 1.
        adamw_epochs: most passes over the data of the paper's AdamW fit, which stops when it no longer gains.
        refits: translators fitted anew on halves of the fit photos, an even number: they say how sure every
            score is, as far as the translator goes.
        bootstrap_draws: draws of each bootstrap.
        confidence: level of every interval, between 0 and 1.
        permutations: of each permutation test, whose p value can't be less than 1 / (permutations + 1).
        controls: which controls of notebooks 02b, 04 and 06b are run; an empty list turns all of them off.
        control_draws: random subspaces of each kind.
        prompt_wordings: further wordings of the class prompt, each with one {}; the spread over them stands
            beside every AS.
        second_encoder: name for `load_encoder`, to repeat the tables with; None: only the single towers of
            the profile's encoder, where it has several.
        seed: of splits, initialisations and bootstraps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    description: str = ""
    classifiers: Annotated[list[str], AfterValidator(_different_names)] = Field(min_length=1)
    classifier_sources: dict[str, str] = {}
    encoder: _Encoder = "embedded"
    features: str | None = "data/embedded/features"
    images: str | None = None
    imagenet_dir: str | None = None
    per_class: int | None = Field(None, ge=1)
    engine: Literal["local", "ray"] = "local"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    workers: int | None = Field(None, ge=0)
    rehearse: bool = False
    classes: Annotated[dict[str, str], AfterValidator(_one_name_each)] | None = None
    low_resolution: list[str] = []
    prompt_template: Annotated[_Template, AfterValidator(_some_words)] = "an image of a {}"
    concepts: _Phrases = Field(min_length=2)
    more_concepts: _Phrases = []
    explorer_photos: int = Field(3, ge=1)
    thumbnails: int = Field(24, ge=0)
    concept_classes: list[str] | None = None
    photos: list[str] = []
    source_class: str | None = None
    targets: _Phrases = Field(["jellyfish", "Arabian camel", "starfish", "pirate", "jeep"], min_length=1)
    degrees: float = Field(40.0, gt=0, lt=180)
    picture_backend: Annotated[str, AfterValidator(require_backend)] = "mini"
    picture_options: dict[str, int | float | bool] = {}
    search_anew: bool = False
    search_photos: int = Field(4, ge=1)
    search_steps: int = Field(40, ge=1)
    planted_worlds: int = Field(5, ge=2, le=5)
    planted_scenes: int = Field(3000, ge=400)
    held_out: float = Field(0.1, gt=0, lt=1)
    adamw_epochs: int = Field(300, ge=1)
    refits: int = Field(60, ge=4, multiple_of=2)
    bootstrap_draws: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0, lt=1)
    permutations: int = Field(9999, ge=99)
    controls: Annotated[list[_Control], AfterValidator(_each_once)] = list(get_args(_Control))
    control_draws: int = Field(100, ge=19)
    prompt_wordings: Annotated[list[_Template], AfterValidator(_each_once)] = [
        *("a photo of a {}", "a picture of a {}", "a photograph showing a {}", "there is a {} here"),
        *("a {} in a natural scene", "a close-up of a {}", "what you see is a {}", "{}"),
    ]
    second_encoder: _Encoder | None = None
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _known_classifiers(self) -> Profile:
        encoders = {safe_name(name).casefold() for name in (self.encoder, self.second_encoder) if name}
        for name in self.classifiers:
            require_classifier(self.source_of(name))
            if safe_name(name).casefold() in encoders:
                raise SingError(
                    f"parameter classifiers: {name!r} is the encoder's name, under which its features are "
                    "kept, expected another name."
                )
        return self

    def source_of(self, classifier: str) -> str:
        """What `load_classifier` loads for one of the names in `classifiers`."""
        return self.classifier_sources.get(classifier, classifier)

    @property
    def pictures(self) -> str | None:
        """The source of pictures to extract from; None: the stored features are used."""
        return self.images or self.imagenet_dir

    @property
    def phrases(self) -> list[str]:
        """All phrases of the live explorers: `concepts`, then those of `more_concepts` that are new."""
        return list(dict.fromkeys([*self.concepts, *self.more_concepts]))

    def prompt(self, class_name: str) -> str:
        """The class prompt, such as "an image of a jellyfish"."""
        return worded(self.prompt_template, class_name)

    @property
    def wordings(self) -> list[str]:
        """The class prompt in all wordings, the profile's own first."""
        return list(dict.fromkeys([self.prompt_template, *self.prompt_wordings]))


def worded(template: str, what: str) -> str:
    """A prompt with the article that its word needs.

    >>> worded("an image of a {}", "Arabian camel"), worded("a {} in a scene", "unicycle")
    ('an image of an Arabian camel', 'a unicycle in a scene')
    """
    if re.match(r"[aeio]|u(?!ni|se|t[ei]|ro)|hour|honest", what.lower()):
        template = re.sub(r"\b([Aa]) (?=\{\})", r"\1n ", template)
    return template.format(what)


_PATH_OF_ENCODER = re.compile("(?:karlo:|open_clip:[^/]*/)(.+)")


def rooted(name: str, root: Path) -> str:
    """A classifier's or encoder's name, its relative file or folder taken from `root` if it is there.

    Notebooks run in a folder of their own, so a path must not depend on where that is.

    >>> rooted("file:README.md:build", Path("/x")), rooted("timm:resnet18", Path("/x"))
    ('file:README.md:build', 'timm:resnet18')
    """
    place = path_in(name) or _PATH_OF_ENCODER.match(name)
    if place is None or not (root / place[1]).exists():
        return name
    return f"{name[: place.start(1)]}{root / place[1]}{name[place.end(1) :]}"


def safe_name(name: str) -> str:
    """A name as a file's name: of ASCII letters, never empty; of other scripts a few digits tell names apart.

    >>> safe_name("hf:facebook/dinov2-large"), safe_name("猫 2")
    ('hf-facebook-dinov2-large', '2-06f53e98')
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")
    if plain and name.isascii() and len(plain) <= 150:
        return plain
    return f"{plain[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def profile_names(root: Path | None = None) -> list[str]:
    """Names of the profiles that come with the book."""
    return sorted(p.stem for p in ((root or project_root()) / "data" / "profiles").glob("*.yaml"))


def load_profile(name: str, /, *, root: Path | None = None, **overrides: Any) -> Profile:
    """Read data/profiles/<name>.yaml (or a YAML file by path), override, validate.

    Args:
        name: of a profile, or path of a YAML file.
        root: of the checkout; None: the one around the working folder.
        overrides: values that replace the file's.

    Raises:
        SingError: for an unknown profile or key (with the nearest valid one), or a wrong type.
    """
    root = root or project_root()
    values = profile_values(name, root)
    require_known(overrides, "the given parameters")
    if overrides.get("images") is not None or overrides.get("features") not in (None, values.get("features")):
        # What the profile says of its own pictures does not hold for others.
        own: dict[str, Any] = dict.fromkeys(("classes", "concept_classes", "source_class"))
        own["low_resolution"] = []
        overrides = own | overrides
    return _validated(_rooted_values(_resolve(values | overrides, values, root), root))


def profile_values(name: str, root: Path) -> dict[str, Any]:
    """What a profile's file says, as it is written there.

    Raises:
        SingError: for an unknown profile or key (with the nearest valid one).
    """
    file = root / name if name.endswith((".yaml", ".json")) else root / "data" / "profiles" / f"{name}.yaml"
    if not file.is_file():
        known = profile_names(root)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise SingError(
            f"unknown profile {name!r}, expected one of {', '.join(known)} or a .yaml file; "
            f"did you mean {near!r}?"
        )
    values = _read_mapping(file)
    require_known(values, str(file.name))
    return values


def _rooted_values(values: dict[str, Any], root: Path) -> dict[str, Any]:
    """Folders that are checked by name alone, from the checkout and not from where a notebook runs."""
    for key in ("encoder", "second_encoder"):
        if isinstance(values.get(key), str):
            values[key] = rooted(values[key], root)
    images = values.get("images")
    if isinstance(images, str) and images.startswith("hf:"):
        folder, hash_, split = images.removeprefix("hf:").partition("#")
        values["images"] = f"hf:{root / folder}{hash_}{split}" if (root / folder).exists() else images
    return values


def save_profile(profile: Profile, path: Path) -> None:
    """Write a profile that `load_profile` reads back to the same."""
    path.write_text(yaml.safe_dump(profile.model_dump(), sort_keys=False, allow_unicode=True))


class _Plain(str):
    """A scalar that was written without quotes."""


class _Loader(yaml.SafeLoader):
    """YAML whose scalars stay text, as they were typed: what they mean depends on where they stand."""

    yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # merge keys


def _scalar(_: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(node.value) if node.style else _Plain(node.value)


_Loader.add_constructor("tag:yaml.org,2002:str", _scalar)


def read_yaml(text: str, key: str | None = None) -> Any:
    """YAML 1.2 as it was typed: text where the profile's key expects text, else decimal numbers.

    YAML 1.1 makes false of no, 8 of 010 and 90 of 1:30.

    >>> read_yaml("[no, 010, 1e3]", "classes"), read_yaml("010", "seed"), read_yaml("1e-1", "held_out")
    (['no', '010', '1e3'], 10, 0.1)

    Args:
        text: YAML.
        key: of the profile, whose value it is; None: a mapping of all keys.

    Raises:
        yaml.YAMLError: if it is none.
    """
    value = yaml.load(text, _Loader)  # a SafeLoader
    if key is not None or not isinstance(value, dict):
        return _meant(value, key)
    return {str(k): _meant(v, str(k)) for k, v in value.items()}


_LEAVES = {  # key -> the types of its values, in words; keys of mappings are always text
    key: str(field.annotation).replace("dict[str, ", "") for key, field in Profile.model_fields.items()
}
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _meant(value: Any, key: str | None, *, inside: bool = False) -> Any:
    kinds = _LEAVES.get(str(key), "bool")
    if isinstance(value, dict):
        return {str(k): _meant(v, key, inside=True) for k, v in value.items()}
    if isinstance(value, list):
        return [_meant(x, key, inside=True) for x in value]
    if not isinstance(value, _Plain):
        return value
    text = str(value)
    if not inside and text in ("", "~", "null", "Null", "NULL"):
        return None
    if "str" in kinds or "Literal" in kinds:
        return with_home(text)
    if "bool" in kinds and text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    return text


def _read_yaml(file: Path, key: str | None = None) -> Any:
    try:
        return read_yaml(file.read_text(encoding="utf-8"), key)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SingError(f"{file.name} is not valid YAML: {' '.join(str(error).split())}.") from None


def _read_mapping(file: Path) -> dict[str, Any]:
    values = _read_yaml(file)
    if not isinstance(values, dict):
        raise SingError(f"{file.name} holds no keys, expected a profile: see data/profiles/embedded.yaml.")
    return values


def require_known(values: dict[str, Any], where: str) -> None:
    """Raise a SingError that names the nearest valid key if one of `values` is no profile key."""
    for key in values:
        if key not in Profile.model_fields:
            near = difflib.get_close_matches(str(key), Profile.model_fields, n=1, cutoff=0.0)[0]
            raise SingError(f"unknown key {key!r} in {where}; did you mean {near!r}?")


def _resolve(values: dict[str, Any], base: dict[str, Any], root: Path) -> dict[str, Any]:
    """Replace short forms: a mapping of classifiers, a list of classes, a file of concepts, own photos."""
    if values.get("picture_backend") == "photos":  # the run's own
        values["picture_backend"] = f"photos:{values.get('images') or values.get('imagenet_dir') or 'images'}"
    mappings = [x for x in (base.get("classifiers"), values.get("classifiers")) if isinstance(x, dict)]
    if mappings:
        named = {name: source for mapping in mappings for name, source in mapping.items()}
        chosen = values["classifiers"]
        values["classifiers"] = list(chosen)
        values["classifier_sources"] = {k: v for k, v in named.items() if k in values["classifiers"]}
    for key in ("concepts", "more_concepts"):
        phrases = values.get(key)
        if isinstance(phrases, str):
            file = root / phrases
            if not file.is_file():
                raise SingError(f"{key}: {phrases} is no file, expected a YAML list of phrases.")
            values[key] = _read_yaml(file, key)
    classes = values.get("classes")
    if isinstance(classes, list):
        known = base.get("classes")
        values["classes"] = _pick(classes, known if isinstance(known, dict) else {})
    chosen, wanted = values.get("classes"), values.get("concept_classes")
    if isinstance(chosen, dict) and isinstance(wanted, list) and wanted == base.get("concept_classes"):
        # A run on other classes falls back to its own, instead of failing on the file's.
        kept = [name for name in wanted if name in chosen.values()]
        values["concept_classes"] = kept or None
    source = values.get("source_class")
    if isinstance(chosen, dict) and source == base.get("source_class") and source not in chosen.values():
        values["source_class"] = None
    return values


def _pick(chosen: list[Any], known: dict[str, str]) -> dict[str, str]:
    """Classes by label or by name; a label that the profile does not know keeps its own name."""
    by_name = {name: label for label, name in known.items()}
    if wrong := [c for c in chosen if not isinstance(c, str | int) or isinstance(c, bool)]:
        raise SingError(f"classes: {wrong[0]!r} is no text, expected labels or names: put it between quotes.")
    labels = [by_name.get(str(c), str(c)) for c in chosen]
    names = class_names(labels) | known
    return {label: names.get(label, label) for label in labels}


def class_names(labels: Iterable[str]) -> dict[str, str]:
    """Label -> name, sorted by label; labels of one name keep theirs beside it. "" is no class.

    >>> class_names(["my_cat", "dog", "my cat", ""])
    {'dog': 'dog', 'my cat': 'my cat (my cat)', 'my_cat': 'my cat (my_cat)'}
    """
    named = {label: class_name(label) for label in sorted({*labels} - {""})}
    times = Counter(named.values())
    return {k: name if times[name] == 1 else f"{name} ({k})" for k, name in named.items()}


def class_name(label: str) -> str:
    """A name for a folder's label: ImageNet's for a WordNet id, else the label in words."""
    from sing_utils.models.networks import imagenet_classes

    known = imagenet_classes() if re.fullmatch(r"n\d{8}", label) else {}
    return known.get(label, label.replace("_", " "))


def _validated(values: dict[str, Any]) -> Profile:
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        whole = first.get("ctx", {}).get("error")
        if isinstance(whole, SingError) and not first["loc"]:  # of the profile as a whole
            raise whole from None
        where = ".".join(str(part) for part in first["loc"])
        given = repr(first["input"])
        given = given if len(given) <= 60 else given[:57] + "..."
        message = first["msg"].removeprefix("Value error, ")
        raise SingError(f"parameter {where}: {message} (given: {given}).") from None
