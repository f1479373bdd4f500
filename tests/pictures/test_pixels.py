"""A picture behind a feature: the search keeps its budget, resumes, and finds what can be found."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from sing_utils import HeadSpaces, SingError
from sing_utils.measure import pixels as tables_pixels
from sing_utils.measure import pixels_findings as findings_pixels
from sing_utils.measure.pixels import JUDGE, NOISE, RANDOM, REMOVAL, STEP, TRANSLATOR, WHOLE
from sing_utils.models.classifiers import Classifier
from sing_utils.models.networks import Network
from sing_utils.pictures import pixels
from sing_utils.pictures.pixels import Budget, Screen, as_image, as_pixels, search, shuffled


def photograph(seed, size=12):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(60, 190, (size, size, 3), dtype=np.uint8))


def transform(image):
    x = torch.from_numpy(np.array(image.resize((12, 12)), dtype=np.float32)).permute(2, 0, 1) / 255
    return (x - 0.4) / torch.tensor([0.2, 0.3, 0.5])[:, None, None]


@pytest.fixture(scope="module")
def classifier():
    """Linear up to its head, so that what can be reached is known: 20 features, 4 logits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 20), nn.Linear(20, 4)).eval()
    return Classifier.of("small", Network(model, transform, None, "0", "none"))


@pytest.fixture(scope="module")
def spaces(classifier):
    return HeadSpaces.from_weight(classifier.head.weight)


@pytest.fixture(scope="module")
def photos(classifier):
    screen = Screen.of(classifier)
    return torch.stack([screen.pixels(classifier, photograph(i)) for i in range(10)])


def features(classifier, x):
    return classifier(Screen.of(classifier).input(x.float())).features


@pytest.fixture(scope="module")
def wanted(classifier, spaces, photos):
    """Small null steps, which pictures can make."""
    V = spaces.null_basis.float()
    step = torch.randn(len(photos), V.shape[1], generator=torch.Generator().manual_seed(1))
    return features(classifier, photos) + 0.1 * step @ V.mT


def test_the_screen_gives_what_the_classifier_gets(classifier):
    screen, image = Screen.of(classifier), photograph(3, 40)
    x = screen.pixels(classifier, image)
    assert x.dtype == torch.uint8
    assert torch.equal(x, as_pixels(image.resize((12, 12))))
    assert torch.allclose(screen.input(x[None].float())[0], classifier.prepare(image), atol=1e-5)
    assert torch.equal(as_pixels(as_image(x)), x)


def test_a_transform_that_is_no_normalisation_is_refused(classifier):
    odd = Classifier.of("odd", Network(classifier.model, lambda i: transform(i) ** 2, None, "0", "none"))
    with pytest.raises(SingError, match="odd does not see a picture as pixels times a number plus a number"):
        Screen.of(odd)


@pytest.mark.parametrize("budget", [Budget("L∞", 4), Budget("L∞", 2.5), Budget("L2", 3)], ids=str)
def test_what_is_found_is_within_its_budget_after_rounding(classifier, spaces, photos, wanted, budget):
    found = search(classifier, spaces, photos, wanted, budget=budget, steps=25, rate=1.0)
    change = found.pixels.float() - photos.float()
    size = change.abs().amax((1, 2, 3)) if budget.norm == "L∞" else change.square().mean((1, 2, 3)).sqrt()
    assert found.pixels.dtype == torch.uint8
    assert (size <= budget.size + 1e-6).all()
    assert (size > budget.size / 3).all()  # and it is used


def test_the_mean_square_is_of_each_picture_alone():
    change = torch.zeros(2, 3, 2, 2)
    change[0], change[1, 0, 0, 0] = 4.0, 9.0  # root mean squares of 4 and 2.6
    nearest = Budget("L2", 3).within(change)
    torch.testing.assert_close(nearest[0], torch.full((3, 2, 2), 3.0))
    torch.testing.assert_close(nearest[1], change[1])


def test_black_stays_black_where_it_can_not_be_blacker(classifier, spaces, photos, wanted):
    plain = torch.cat([torch.zeros_like(photos[:1]), torch.full_like(photos[:1], 255)])
    found = search(classifier, spaces, plain, wanted[:2], budget=Budget("L∞", 6), steps=9, rate=1.0)
    assert (found.pixels.float() - plain.float()).abs().amax() <= 6


def test_a_step_that_pictures_can_make_is_found_and_the_logits_stay(classifier, spaces, photos, wanted):
    found = search(classifier, spaces, photos, wanted, budget=Budget("L∞", 16), steps=120)
    f, made = features(classifier, photos), features(classifier, found.pixels)
    assert ((made - wanted).norm(dim=1) < 0.3 * (wanted - f).norm(dim=1)).all()
    assert torch.allclose(found.loss[0], torch.ones(10), atol=1e-5)  # nothing done: 1, by definition
    assert (found.loss[-1] < 0.1).all()
    moved = (made - f) @ spaces.weight.float().mT
    free = search(classifier, spaces, photos, wanted, budget=Budget("L∞", 16), steps=120, weight=0.0)
    loose = (features(classifier, free.pixels) - f) @ spaces.weight.float().mT
    assert moved.norm() < 0.5 * loose.norm()


def test_a_stopped_search_goes_on_where_it_was(classifier, spaces, photos, wanted, tmp_path, monkeypatch):
    whole = search(classifier, spaces, photos, wanted, steps=4)
    calls, one = [], pixels._search

    def stops(*args, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(args[2]))
        return one(*args, **options)

    monkeypatch.setattr(pixels, "_search", stops)
    with pytest.raises(KeyboardInterrupt):
        search(classifier, spaces, photos, wanted, steps=4, keep=tmp_path)
    assert calls == [8]  # the first batch is kept
    again = []
    monkeypatch.setattr(pixels, "_search", lambda *a, **o: again.append(len(a[2])) or one(*a, **o))
    found = search(classifier, spaces, photos, wanted, steps=4, keep=tmp_path)
    assert again == [2]
    assert torch.equal(found.pixels, whole.pixels)
    assert torch.equal(found.loss, whole.loss)
    search(classifier, spaces, photos, wanted, steps=4, keep=tmp_path)
    search(classifier, spaces, photos, wanted, steps=5, keep=tmp_path)  # another search
    search(classifier, spaces, photos, wanted + 1, steps=4, keep=tmp_path)
    assert again == [2, 8, 2, 8, 2]


def test_what_can_not_be_searched_is_refused(classifier, spaces, photos, wanted):
    with pytest.raises(SingError, match=r"wanted \(9, 20\), expected .* and \(B, 20\)"):
        search(classifier, spaces, photos, wanted[:9])
    with pytest.raises(SingError, match="is the photograph's own"):
        search(classifier, spaces, photos, features(classifier, photos))


def test_shuffled_noise_has_the_very_values_of_the_change(photos):
    before = photos[0]
    after = (before.short() + torch.randint(-8, 9, before.shape)).to(torch.uint8)
    noise = shuffled(after, before, seed=0)
    values = [(x.short() - before.short()).flatten().sort().values for x in (after, noise)]
    assert torch.equal(*values)
    assert not torch.equal(noise, after)
    assert torch.equal(noise, shuffled(after, before, seed=0))


# --------------------------------------------------------------------------------- the tables


def rows(wanted, seen, AS, **more):
    return pd.DataFrame(
        {"classifier": "a", "photo": [str(i) for i in range(len(AS))], "own": "cat", "wanted": wanted}
        | {"budget": "L∞ 8/255", "steps": 150, "seen by": seen, "IS": 2.0, "AS": AS, "top-1 kept": True}
        | {"group": "photos"}
        | more
    )


def test_summaries_by_hand(small_run):
    table = pd.concat(
        [
            rows(STEP, TRANSLATOR, [1.0, 3.0], **{"step made": 0.1, "logits moved": 0.03, "wanted AS": 9.0}),
            rows(STEP, JUDGE, [0.0, 0.2]),
        ]
    ).reindex(columns=[*rows(STEP, JUDGE, [0.0]).columns, *WAYS])
    seen = tables_pixels.summary(small_run, table).set_index(["seen by", "score"])
    assert seen.loc[(TRANSLATOR, "AS"), "value"] == 2.0
    assert seen.loc[(JUDGE, "AS"), "value"] == pytest.approx(0.1)
    # Two values 2 apart: ± t(0.975, 1) · √2 / √2.
    assert seen.loc[(TRANSLATOR, "AS"), ["low", "high"]].tolist() == pytest.approx([2 - 12.7062, 2 + 12.7062])
    paired = tables_pixels.gap(small_run, table)  # 1 − 0 and 3 − 0.2
    assert paired["value"] == pytest.approx(1.9)
    assert paired["high"] - paired["value"] == pytest.approx(12.7062 * 0.9, rel=1e-4)
    assert (seen["photos"] == 2).all()
    (way,) = tables_pixels.ways(table).to_dict("records")
    assert (way["step made (%)"], way["logits moved (%)"]) == pytest.approx((10, 3))
    assert way["top-1 kept"] == 2
    one = tables_pixels.summary(small_run, table[table["photo"] == "0"])
    assert one["low"].isna().all()


WAYS = ["step made", "logits moved", "principal moved", "largest", "rms", "wanted IS", "wanted AS"]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    from small_run import small_run

    return small_run(tmp_path_factory.mktemp("run"), photos=["chelsea"], search_steps=2)


@pytest.fixture(scope="module")
def searched(small_run):
    return tables_pixels.open_searched(small_run)


def test_a_run_of_other_settings_searches_by_itself(small_run, searched):
    assert "as no stored search fits its settings" in searched.note
    table = searched.table
    main = tables_pixels.main_part(small_run, table)
    assert set(main["wanted"]) == {STEP, NOISE, RANDOM, WHOLE, REMOVAL}
    assert set(main["seen by"]) == {TRANSLATOR, JUDGE, "efficientnet_lite1"}
    assert set(table["budget"]) == {"L∞ 8/255", "L∞ 4/255", "L∞ 16/255", "L2 3/255"}
    assert tables_pixels.varied(small_run, table)["search"].unique().tolist() == [
        *("L2 3/255", "L∞ 4/255", "L∞ 8/255, λ = 100", "L∞ 8/255", "L∞ 8/255, λ = 1", "L∞ 16/255")
    ]


def test_equal_steps_are_wanted(small_run, searched):
    """Of the three steps the same IS; the null steps leave the logits, the whole gradient does not."""
    name, photos = small_run.classifiers[0], searched.photographs
    goals = tables_pixels.wanted_features(small_run, name, photos)
    own = searched.table[searched.table["seen by"] == TRANSLATOR].set_index("wanted")["wanted IS"]
    assert own[[STEP, RANDOM, WHOLE]].to_numpy() == pytest.approx(small_run.degrees)
    W = small_run.head(name).weight.double()
    for way, (goal, _) in goals.items():
        moved = ((goal - photos.features.double()) @ W.mT).abs().max()
        assert bool(moved < 1e-4) == (way != WHOLE), way


# ------------------------------------------------------------------------------ what is stored


def test_the_stored_pictures_give_the_stored_figures(tmp_path):
    """Seen anew: those near scikit-image's photographs, which come with the book."""
    from sing_utils.runs.run import open_run

    run = open_run("embedded", run_dir=str(tmp_path))
    searched = tables_pixels.open_searched(run)
    assert "Stored searches are shown" in searched.note
    name, photos = run.classifiers[0], searched.photographs
    assert photos.names == run.profile.photos
    goals = tables_pixels.wanted_features(run, name, photos)
    before = tables_pixels._witnesses(run, name, photos.pixels)
    stored = searched.table[searched.table["group"] == "pictures"].set_index(["wanted", "seen by"])
    for way in (STEP, WHOLE):
        change = (searched.pictures[way].float() - photos.pixels.float()).abs()
        assert change.amax() == 8
        for witness, (z, _) in tables_pixels._witnesses(run, name, searched.pictures[way]).items():
            own = stored.loc[(way, witness)]
            AS = tables_pixels.attribute_score(before[witness][0], z, goals[way][1])
            assert AS.numpy() == pytest.approx(own["AS"].to_numpy(), abs=0.05), (way, witness)


def test_stored_searches_are_whole_and_hold_no_photograph():
    folder = tables_pixels.project_root() / tables_pixels.STORED
    names = {f.name for f in folder.iterdir()}
    shown = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    table = pd.read_parquet(folder / "searches.parquet")
    free = table[table["group"] == "pictures"]["photo"].unique().tolist()
    assert free == ["chelsea", "coffee", "rocket"]
    pngs = {tables_pixels.picture_file(p, way) for p in free for way in tables_pixels.SHOWN}
    assert names == pngs | {"README.md", "settings.json", "searches.parquet"}
    assert max(f.stat().st_size for f in folder.iterdir()) < 4e6
    assert shown["target"] not in set(table["own"])
    assert table[table["group"] != "pictures"]["sha256"].str.fullmatch("[0-9a-f]{64}").all()


def seen_by(translator, judge, *, others=("b",)):
    """A summary of 25 photographs: AS of the null step as given, 0.1 for noise; IS of 5."""
    rows = []
    for wanted in (STEP, NOISE):
        for who, (value, margin) in {
            TRANSLATOR: translator,
            JUDGE: judge,
            **dict.fromkeys(others, judge),
        }.items():
            value = value if wanted == STEP else 0.1
            for score, x in (("AS", value), ("IS", 5.0)):
                interval = {"value": x, "low": x - margin, "high": x + margin, "photos": 25}
                rows.append({"wanted": wanted, "seen by": who, "score": score, **interval})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("translator", "gap", "verdict"),
    [
        ((2.0, 0.5), 1.0, "no witness"),
        ((2.0, 0.5), -1.0, "do not show"),
        ((0.2, 0.5), 1.0, "does not bear out"),
    ],
)
def test_the_opening_follows_from_intervals(translator, gap, verdict):
    """Borne out: AS above zero. No witness: the gap to the judge above zero."""
    seen = seen_by(translator, (0.1, 0.3))
    ways = pd.DataFrame({"wanted": [STEP], "wanted AS": [10.0], "logits moved (%)": [4.0]})
    said = findings_pixels.opening(seen, ways, {"low": gap}, "jellyfish", "8/255").measured
    assert verdict in said
    assert "25 photographs" in said
    assert ("20 %" in said) == (translator[0] == 2.0)
    told = findings_pixels.others(seen, {"b": "B"}).measured
    assert "B +0.10" in told
    assert "noise +0.10" in told
