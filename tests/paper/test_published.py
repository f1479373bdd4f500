"""The paper as data: typed, complete, and in step with the notebooks that it links to."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml

from sing_utils.errors import SingError
from sing_utils.paper.published import (
    FOLDER,
    Published,
    load_claims,
    load_classifiers,
    load_differences,
    load_numbers,
)


@pytest.fixture(scope="module")
def published(root):
    return Published(root)


@pytest.fixture
def copy(root, tmp_path):
    """Change one of the files in a copy of data/published: (name, change of its contents) -> root."""

    def make(name, change):
        shutil.copytree(root / FOLDER, tmp_path / FOLDER)
        file = tmp_path / FOLDER / name
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        change(values)
        file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        return tmp_path

    return make


# --------------------------------------------------------------------------------- what the files say


def test_claims_lead_to_notebooks_and_to_each_other(published, root):
    notebooks = {path.stem for path in (root / "notebooks").glob("*.ipynb")}
    openings = {"translators", "comparison", "steering"}
    for claim in published.claims:
        assert claim.page in notebooks, claim.id
        assert not claim.finding or claim.finding in {c.id for c in published.claims} | openings, claim.id
        assert not claim.compare or claim.compare.numbers in published.numbers, claim.id
        assert claim.group == "paper" or not claim.needs.words, claim.id


def test_needs_name_published_classifiers(published):
    for claim in published.claims:
        assert set(claim.needs.any_of + claim.needs.all_of) <= set(published.classifiers), claim.id


def test_claims_quote_the_carried_numbers(published):
    claims = {claim.id: claim.claim for claim in published.claims}
    table = published.numbers["table-1"]
    for name, value in table.values.items():
        assert f"{name} {value} ± {table.error(name)}°" in claims["table-1"]
    for name in ("figure-4-resnet50", "figure-4-dino-vit"):
        values = published.numbers[name].values
        assert set(values) == published.classes
        for end in (min(values.values()), max(values.values())):
            named = [c for c, v in values.items() if v == end]
            assert f"{end}°" in claims[name]
            assert all(c in claims[name] for c in named), name


def test_published_numbers_are_those_of_the_paper(published):
    """A second, independent copy: a slip of a finger in either is found."""
    assert published.numbers["table-1"].values == {
        "ResNet50": 12.04,
        "EfficientNet": 12.38,
        "BiTResNet": 9.19,
        "DINO-ViT": 5.0,
        "ResNeXt101": 11.15,
    }
    sums = {name: round(sum(n.values.values()), 2) for name, n in published.numbers.items()}
    assert (sums["figure-4-resnet50"], sums["figure-4-dino-vit"]) == (24.55, 7.65)
    assert published.numbers["figure-4-dino-vit"].values["jeep"] == 0.9
    assert published.numbers["figure-4-resnet50"].values["porcupine"] == 2.9


def test_the_profile_of_the_paper_has_its_classes_and_classifiers(published, root):
    profile = yaml.safe_load((root / "data" / "profiles" / "paper.yaml").read_text(encoding="utf-8"))
    assert set(profile["classes"].values()) == published.classes
    sources = {name: published.classifiers[name].source for name in published.numbers["table-1"].values}
    assert profile["classifiers"] == sources


def test_errors_of_numbers(published):
    table = published.numbers["table-1"]
    assert table.error("DINO-ViT") == 0.59
    assert published.numbers["figure-4-resnet50"].error("jeep") == 0.1


def test_code_differences_say_whom_we_follow(published):
    items = {d.item: d.follows for d in published.differences}
    assert items["translator"] == "paper"
    assert items["rank of the head"] == "neither"
    assert len(items) == len(published.differences)


# --------------------------------------------------------------------------------- what they may not say


def test_an_unknown_key_is_named_with_the_nearest(copy):
    root = copy("claims.yaml", lambda claims: claims[6].update(wher="Figure 1"))
    with pytest.raises(SingError, match="figure-1 has the unknown key 'wher'; did you mean 'where'"):
        load_claims(root)


def test_an_unknown_key_of_numbers_and_differences(copy):
    def change(values):
        values["table-1"]["units"] = "°"

    with pytest.raises(SingError, match="table-1 has the unknown key 'units'; did you mean 'unit'"):
        load_numbers(copy("numbers.yaml", change))


def test_an_unknown_key_of_a_difference(copy):
    root = copy("code_differences.yaml", lambda entries: entries[0].update(why="x"))
    with pytest.raises(SingError, match="translator has the unknown key 'why'"):
        load_differences(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[6].pop("rule"), "figure-1: entry: Value error, expected one of rule, compare, never"),
        (lambda c: c[6].update(never="so"), "figure-1: entry: Value error, expected one of rule"),
        (lambda c: c[6].update(group="guess"), "figure-1: group: "),
        (lambda c: c[6].update(page="05#pairs"), "figure-1: page: "),
        (lambda c: c.append(c[6]), "the id 'figure-1' occurs twice"),
    ],
)
def test_claims_that_do_not_fit(copy, change, message):
    with pytest.raises(SingError, match=re.escape(message)):
        load_claims(copy("claims.yaml", change))


def test_an_error_needs_a_value(copy):
    def change(values):
        values["table-1"]["errors"]["VGG16"] = 0.1

    with pytest.raises(SingError, match="there is no value 'VGG16'"):
        load_numbers(copy("numbers.yaml", change))


def test_files_that_are_none(root, tmp_path):
    (tmp_path / "a" / FOLDER).mkdir(parents=True)
    (tmp_path / "a" / FOLDER / "numbers.yaml").write_text("[]")
    with pytest.raises(SingError, match="holds a list, expected a dict"):
        load_numbers(tmp_path / "a")
    with pytest.raises(SingError, match="claims.yaml is missing"):
        load_claims(tmp_path / "a")
    (tmp_path / "a" / FOLDER / "claims.yaml").write_text("a: [")
    with pytest.raises(SingError, match="claims.yaml is not valid YAML"):
        load_claims(tmp_path / "a")
    assert len(load_classifiers(root)) == 13


def test_a_claim_by_its_id(published):
    assert published.claim("table-1").page == "04_steering"
    with pytest.raises(SingError, match="claims.yaml has no claim 'table1'.*did you mean 'table-1'"):
        published.claim("table1")
