"""Profiles: every value is validated before anything runs, and an error names the nearest key."""

from __future__ import annotations

import re

import pytest
import yaml

from sing_utils import SingError
from sing_utils.checkout import package_files, project_root
from sing_utils.runs.profiles import (
    class_name,
    class_names,
    load_profile,
    profile_names,
    safe_name,
    save_profile,
)

BASE = {
    "name": "small",
    "classifiers": ["efficientnet_lite0"],
    "concepts": ["a dog", "a desert"],
    "classes": {"n01440764": "tench", "n02437312": "Arabian camel", "n01910747": "jellyfish"},
    "concept_classes": ["Arabian camel", "jellyfish"],
}


@pytest.fixture
def small(tmp_path):
    """A folder with one profile, `small`."""
    folder = tmp_path / "data" / "profiles"
    folder.mkdir(parents=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(BASE))
    return tmp_path


def test_the_books_own_profile_is_valid(root):
    profile = load_profile("embedded", root=root)
    assert profile.name == "embedded"
    assert {"embedded", "paper", "laptop"} <= set(profile_names(root))
    assert len(profile.phrases) > 300
    assert len(profile.phrases) == len(profile.concepts) + len(profile.more_concepts)  # no phrase twice
    assert len({p.lower() for p in profile.phrases}) == len(profile.phrases)
    assert all(0 < len(p) <= 40 and p == p.strip() for p in profile.phrases)
    assert set(profile.low_resolution) <= set(profile.classes)
    assert set(profile.concept_classes) <= set(profile.classes.values())


def test_a_profile_file_may_list_its_classes(small):
    values = BASE | {"classes": ["n01440764", "n02437312"], "concept_classes": ["tench"]}
    (small / "data" / "profiles" / "listed.yaml").write_text(yaml.safe_dump(values))
    assert load_profile("listed", root=small).classes == {
        "n01440764": class_name("n01440764"),
        "n02437312": class_name("n02437312"),
    }


# ------------------------------------------------------------------- classifiers with a source


@pytest.mark.parametrize("name", ["paper", "laptop"])
def test_profiles_that_need_the_hub_are_valid(root, name):
    profile = load_profile(name, root=root)
    assert profile.features is profile.pictures is None
    assert all(":" in profile.source_of(c) for c in profile.classifiers)
    assert load_profile(name, root=root, images="album").pictures == "album"


def test_the_papers_profile_loads_what_the_paper_cites(root):
    profile = load_profile("paper", root=root)
    published = yaml.safe_load((root / "data" / "published" / "classifiers.yaml").read_text())["paper"]
    assert profile.classifier_sources == {k: v["source"] for k, v in published.items()}
    assert len(profile.classes) == 16
    assert all(class_name(k).split()[0] in v for k, v in profile.classes.items() if v != "pirate ship")
    assert 16 * profile.per_class == 10_000


def test_a_mapping_of_classifiers_names_them(small):
    values = BASE | {"classifiers": {"Mine": "torchvision:resnet18", "Lite": "efficientnet_lite0"}}
    (small / "data" / "profiles" / "named.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    profile = load_profile("named", root=small)
    assert profile.classifiers == ["Mine", "Lite"]
    assert profile.source_of("Mine") == "torchvision:resnet18"
    chosen = load_profile("named", root=small, classifiers=["Mine", "timm:resnet18.a1_in1k"])
    assert chosen.classifier_sources == {"Mine": "torchvision:resnet18"}
    assert chosen.source_of("timm:resnet18.a1_in1k") == "timm:resnet18.a1_in1k"
    save_profile(chosen, small / "again.yaml")
    assert load_profile(str(small / "again.yaml"), root=small) == chosen


@pytest.mark.parametrize("given", [["efficientnet_lite7"], {"Mine": "torchvision:resnet19"}])
def test_an_unknown_classifier_names_the_nearest(small, given):
    with pytest.raises(SingError, match="unknown .*did you mean '(efficientnet_lite|resnet1)"):
        load_profile("small", root=small, classifiers=given)


@pytest.mark.parametrize("names", [("a b", "a/b"), ("Mine", "mine"), ("ResNet-50", "Resnet 50")])
def test_two_names_that_would_be_one_file_are_refused(small, names):
    sources = ("torchvision:resnet18", "torchvision:resnet34")
    with pytest.raises(SingError, match="a classifier is named twice"):
        load_profile("small", root=small, classifiers=dict(zip(names, sources, strict=True)))


@pytest.mark.parametrize(
    "name", ["prompt", "class", "path", "photo", "label", "classifier", "measure", "embedded", "Embedded"]
)
def test_names_that_mean_something_else_are_refused(small, name):
    """A column of a table, or the encoder, whose features lie beside."""
    with pytest.raises(SingError, match=f"classifiers: .*{name!r}.*expected another name"):
        load_profile("small", root=small, classifiers={name: "torchvision:resnet18"})
    with pytest.raises(SingError, match="expected another name"):
        load_profile("small", root=small, classifiers={"Planted": "efficientnet_lite0"}, encoder="planted")


def test_own_photos_stand_for_pictures(small):
    profile = load_profile("small", root=small, picture_backend="photos", images="album")
    assert profile.picture_backend == "photos:album"


# ---------------------------------------------------------------------------- unknown keys


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("classifer", "classifiers"),
        ("sed", "seed"),
        ("prompt_templat", "prompt_template"),
        ("image", "images"),
    ],
)
def test_an_unknown_key_names_the_nearest(small, key, near):
    message = f"unknown key {key!r} in the given parameters; did you mean {near!r}"
    with pytest.raises(SingError, match=message):
        load_profile("small", root=small, **{key: 1})
    (small / "data" / "profiles" / "typo.yaml").write_text(yaml.safe_dump(BASE | {key: 1}))
    with pytest.raises(SingError, match=f"unknown key {key!r} in typo.yaml; did you mean {near!r}"):
        load_profile("typo", root=small)


# ------------------------------------------------------------------------ ill-typed values


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1.5),
        ("seed", True),
        ("seed", -1),
        ("seed", "3"),  # a string is no number
        ("held_out", 0),
        ("degrees", 180.0),
        ("targets", []),
        ("picture_options", {"steps": "many"}),
        ("held_out", 1.0),
        ("adamw_epochs", 0),
        ("bootstrap_draws", 99),
        ("refits", 2),
        ("refits", 7),
        ("confidence", 95),
        ("classifiers", "efficientnet_lite0"),
        ("classifiers", []),
        ("classifiers", [3]),
        ("classifiers", ["efficientnet_lite0", "efficientnet_lite0"]),
        ("classifiers", None),
        ("prompt_template", "no place"),
        ("prompt_template", "{} and {}"),
        ("prompt_template", "{}"),
        ("prompt_template", 3),
        ("concepts", ["only one"]),
        ("concepts", ["a", "a"]),
        ("concepts", ["a", "  "]),
        ("concepts", 7),
        ("classes", 3),
        ("classes", {"a": "crane", "b": "crane"}),
        ("prompt_template", "a {} in {place}"),
        ("prompt_template", "a {} {0}"),
        ("prompt_template", "a {{}}"),
        ("prompt_template", "a {} }"),
        ("prompt_wordings", ["a {}", "a {} {0}"]),
        ("degrees", "1:30"),
        ("photos", "chelsea"),
        ("name", "../elsewhere"),
    ],
)
def test_an_ill_typed_value_names_its_key_and_what_was_given(small, key, value):
    with pytest.raises(SingError, match=rf"parameter {key}\b.*: .*\(given: ") as caught:
        load_profile("small", root=small, **{key: value})
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    "chosen", [["tench", "jellyfish"], ["n01440764", "n01910747"], ["tench", "n01910747"]]
)
def test_classes_by_name_or_label(small, chosen):
    classes = load_profile("small", root=small, classes=chosen).classes
    assert classes == {"n01440764": "tench", "n01910747": "jellyfish"}
    assert list(classes.values()) == ["tench", "jellyfish"]  # in the order that was asked for


def test_other_classes_than_the_profiles(small):
    profile = load_profile("small", root=small, classes=["n01443537", "my_cats"])
    assert profile.classes == {"n01443537": "goldfish", "my_cats": "my cats"}
    assert profile.concept_classes is None  # the file's are not among them


def test_concept_classes_follow_the_classes(small):
    assert load_profile("small", root=small, classes=["tench", "jellyfish"]).concept_classes == ["jellyfish"]
    asked = load_profile("small", root=small, classes=["tench"], concept_classes=["tench"])
    assert asked.concept_classes == ["tench"]
    assert load_profile("small", root=small).concept_classes == BASE["concept_classes"]


@pytest.mark.parametrize("wrong", [False, 1.5, None])
def test_a_class_that_yaml_turned_into_something_else_is_named(small, wrong):
    with pytest.raises(SingError, match=rf"{wrong!r}.*quotes"):
        load_profile("small", root=small, classes=["tench", wrong])


def test_a_profile_means_what_was_typed(small):
    text = "classes: [no, 010, 1.10, null]\nseed: 010\ndegrees: 1e1\ntargets: [on, 1984]\nper_class: ~\n"
    base = yaml.safe_load((small / "data" / "profiles" / "small.yaml").read_text())
    rest = {
        k: v for k, v in base.items() if k not in ("classes", "seed", "degrees", "targets", "concept_classes")
    }
    (small / "typed.yaml").write_text(yaml.safe_dump(rest) + text)
    profile = load_profile("typed.yaml", root=small)
    assert list(profile.classes) == ["no", "010", "1.10", "null"]
    assert (profile.seed, profile.degrees, profile.per_class) == (10, 10.0, None)
    assert profile.targets == ["on", "1984"]
    save_profile(profile, small / "again.yaml")
    assert load_profile("again.yaml", root=small) == profile


def test_labels_of_one_name_keep_their_label_beside_it():
    assert class_names(["a_b", "a b", "c", ""]) == {"a b": "a b (a b)", "a_b": "a b (a_b)", "c": "c"}
    cranes = class_names(["n02012849", "n03126707", "n03710637", "n03710721"])
    assert len(set(cranes.values())) == 4
    assert "(" not in "".join(cranes.values())  # a name, as prompts need it


@pytest.mark.parametrize(
    "names", [["猫", "犬"], ["кот", "кит"], ["a é", "a è"], ["🐱", "🐶"], ["x" * 300, "x" * 299 + "y"]]
)
def test_names_in_any_script_are_different_files(names):
    files = [safe_name(x) for x in names]
    assert len(set(files)) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,150}", x) for x in files)


def test_class_name():
    assert class_name("n01443537") == "goldfish"
    assert class_name("n99999999") == "n99999999"
    assert class_name("red_wine") == "red wine"


# ---------------------------------------------------------------------- concepts and files


def test_concepts_from_a_file(small):
    (small / "mine.yaml").write_text("[sand, sea]")
    assert load_profile("small", root=small, concepts="mine.yaml").concepts == ["sand", "sea"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: b: c", "mine.yaml is not valid YAML"), ("a: b", "parameter concepts"), ("", "parameter concepts")],
)
def test_a_bad_file_of_concepts(small, content, message):
    (small / "mine.yaml").write_text(content)
    with pytest.raises(SingError, match=message) as caught:
        load_profile("small", root=small, concepts="mine.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: b: c", "not valid YAML"),
        (b"\xff\xfe\xfa", "not valid YAML"),
        (b"", "holds no keys"),
        (b"- 1", "holds no keys"),
        (b"name: x", "parameter (classifiers|concepts): Field required"),
    ],
)
def test_a_bad_profile_file(small, content, message):
    (small / "bad.yaml").write_bytes(content)
    with pytest.raises(SingError, match=message) as caught:
        load_profile("bad.yaml", root=small)
    assert "\n" not in str(caught.value)


def test_an_override_may_be_called_name(small):
    """`-p name=other` is a profile value, not the profile to load."""
    assert load_profile("small", root=small, name="other").name == "other"


def test_a_profile_does_not_change(small):
    with pytest.raises(ValueError, match="frozen"):
        load_profile("small", root=small).seed = 3


def test_project_root(small, monkeypatch):
    deep = small / "a" / "b"
    deep.mkdir(parents=True)
    assert project_root(deep) == small.resolve()
    monkeypatch.chdir(deep)
    assert project_root() == small.resolve()
    monkeypatch.chdir("/")
    with pytest.raises(SingError, match="no data/profiles at or above"):
        project_root()


def test_what_python_compiles_is_no_file_of_the_package(tmp_path):
    for name in ("method/head.py", "method/__pycache__/head.cpython-311.pyc"):
        (tmp_path / "sing_utils" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sing_utils" / name).touch()
    assert list(package_files(tmp_path)) == ["sing_utils/method/head.py"]


def test_own_images_bring_their_own_classes():
    profile = load_profile("embedded", images="photos")
    assert (profile.classes, profile.concept_classes, profile.low_resolution) == (None, None, [])
    chosen = load_profile("embedded", images="photos", classes=["tench"])
    assert chosen.classes == {"n01440764": "tench"}
