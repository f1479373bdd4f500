"""The paper as data: typed, complete, and in step with the notebooks that it links to."""

from __future__ import annotations

import shutil

import pytest
import yaml

from sing_utils.errors import SingError
from sing_utils.paper.published import FOLDER, Published


@pytest.fixture(scope="module")
def published(root):
    return Published(root)


# --------------------------------------------------------------------------------- what the files say


def test_claims_lead_to_notebooks_to_each_other_and_to_published_classifiers(published, root):
    notebooks = {path.stem for path in (root / "notebooks").glob("*.ipynb")}
    openings = {"translators", "comparison", "steering"}
    for claim in published.claims:
        assert claim.page in notebooks, claim.id
        assert not claim.finding or claim.finding in {c.id for c in published.claims} | openings, claim.id
        assert not claim.compare or claim.compare.numbers in published.numbers, claim.id
        assert claim.group == "paper" or not claim.needs.words, claim.id
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


def test_code_differences_say_whom_we_follow(published):
    items = {d.item: d.follows for d in published.differences}
    assert items["translator"] == "paper"
    assert items["rank of the head"] == "neither"
    assert len(items) == len(published.differences)


# --------------------------------------------------------------------------------- what they may not say


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("claims", lambda c: c[6].update(wher="x"), "figure-1 has no key 'wher'.* did you mean 'where'"),
        ("numbers", lambda n: n["table-1"].update(units="°"), "table-1 has no key 'units'.* mean 'unit'"),
        ("code_differences", lambda d: d[0].update(why="x"), "translator has no key 'why'"),
        ("claims", lambda c: c[6].pop("rule"), "figure-1: entry: Value error, expected one of rule, compare"),
        ("claims", lambda c: c[6].update(never="so"), "figure-1: entry: Value error, expected one of rule"),
        ("claims", lambda c: c[6].update(group="guess"), "figure-1: group: "),
        ("claims", lambda c: c[6].update(page="05#pairs"), "figure-1: page: "),
        ("claims", lambda c: c.append(c[6]), "the id 'figure-1' occurs twice"),
        ("numbers", lambda n: n["table-1"]["errors"].update(VGG16=0.1), "there is no value 'VGG16'"),
    ],
)
def test_entries_that_do_not_fit(root, tmp_path, file, change, message):
    shutil.copytree(root / FOLDER, tmp_path / FOLDER)
    path = tmp_path / FOLDER / f"{file}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    with pytest.raises(SingError, match=message):
        getattr(Published(tmp_path), file.removeprefix("code_"))


def test_files_that_are_none(root, tmp_path):
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "numbers.yaml").write_text("[]")
    with pytest.raises(SingError, match="holds a list, expected a dict"):
        _ = Published(tmp_path).numbers
    with pytest.raises(SingError, match="claims.yaml is missing"):
        _ = Published(tmp_path).claims
    (tmp_path / FOLDER / "claims.yaml").write_text("a: [")
    with pytest.raises(SingError, match="claims.yaml is not valid YAML"):
        _ = Published(tmp_path).claims
    assert len(Published(root).classifiers) == 13


def test_a_claim_by_its_id(published):
    assert published.claim("table-1").page == "04_steering"
    with pytest.raises(SingError, match="claims.yaml has no claim 'table1'.*did you mean 'table-1'"):
        published.claim("table1")
