"""Notebook 05's pictures: which are drawn, from what, and what is measured of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from steered_run import SteeredRun

from sing_utils import SingError, angle, steer
from sing_utils.measure import pictures
from sing_utils.pictures.base import restore_norm
from sing_utils.show.gallery import Shown, gallery, strip


class Recorder:
    """A way to pictures that shows six numbers as grey levels, the last one shifted by noise."""

    name, dim = "recorder", 6

    def __init__(self):
        self.calls = []

    def __call__(self, z, *, seed=0, shared_noise=True):
        self.calls.append((z.clone(), seed, shared_noise))
        out = []
        for i, row in enumerate(z):
            noise = seed if shared_noise else seed + i
            values = (128 + 10 * row).round()
            values[-1] += 5 * noise
            values = values.clamp(0, 255).tolist()
            out.append(Image.fromarray(np.array([values], dtype=np.uint8)))
        return out


class DrawnRun(SteeredRun):
    """With pictures, and a judge that reads them back."""

    def __init__(self, folder):
        super().__init__(folder)
        self.pictures = Recorder()
        self.degrees = self.profile.degrees

    def judge(self, name):
        judge = super().judge(name)
        judge.encode_images = lambda images: torch.tensor(
            [[(image.getpixel((x, 0)) - 128) / 10 for x in range(6)] for image in images], dtype=torch.float64
        )
        judge.encode_text = lambda texts: self.goals[: len(texts)]
        return judge

    def texts(self, name, phrases):
        names = dict(zip(map(self.prompt, self.classes), torch.eye(6, dtype=torch.float64), strict=False))
        goals = dict(zip(map(self.prompt, self.targets), self.goals, strict=True))
        return torch.stack([names.get(p, goals.get(p, self.goals[0])) for p in phrases])

    def decoder(self, name):
        return self.pictures

    def draw(self, name, z, *, noise=0):
        return self.pictures(z, seed=noise)


@pytest.fixture
def run(tmp_path):
    return DrawnRun(tmp_path)


@pytest.fixture
def originals(run):
    return pictures.first_of_each_class(run, "one")


def test_the_first_photo_of_each_class(run, originals):
    index = run.photos("one").index
    assert originals.index["class"].tolist() == ["zero", "first"]  # the source class first
    for c, path, f in zip(originals.index["class"], originals.index["path"], originals.f, strict=True):
        assert path == sorted(index["path"][index["class"] == c])[0]
        assert torch.equal(f, run.f[int(path.split(".")[0])])


def lengths_of_originals(run, z, f):
    """Every embedding that was drawn has the length of its original's (eq. 14)."""
    expected = run.translator("one")(f).norm(dim=-1)
    torch.testing.assert_close(z.norm(dim=-1), expected.expand(len(z)) if expected.ndim == 0 else expected)


def test_no_more_classes_than_asked_for_and_the_source_among_them(run):
    run.class_names = {str(i): f"class {i}" for i in range(8)}
    run.index["class"] = [f"class {i % 8}" for i in range(40)]
    run.source_class = "class 5"
    assert len(pictures.first_of_each_class(run, "one", most=20)) == 4  # those with evaluation photos
    few = pictures.first_of_each_class(run, "one", most=2)
    assert few.index["class"].tolist()[0] == "class 5"
    assert len(few) == 2


def test_all_reach_the_degrees_toward_every_target(run, originals):
    assert pictures.reachable_degrees(run, "one", originals) == 8.0
    run.degrees = 170.0
    degrees = pictures.reachable_degrees(run, "one", originals)
    assert degrees == int(degrees) < 170
    for text in run.goals:
        result = steer(originals.f, text, run.translator("one"), run.spaces("one"), degrees=degrees)
        assert not result.IS.isnan().any()
    limits = [
        steer(originals.f, text, run.translator("one"), run.spaces("one"), degrees=1.0).largest.min()
        for text in run.goals
    ]
    assert float(min(limits)) < degrees + 1.2


def test_a_ladder_climbs_in_equal_steps_of_one_noise_and_norm(run, originals):
    drawn = pictures.ladders(run, "one", originals, 30.0)
    assert drawn.IS.tolist() == pytest.approx([3.75 * k for k in range(9)])
    *steps, start, other = run.pictures.calls
    assert [seed for _, seed, _ in run.pictures.calls] == [run.seed] * 10 + [run.seed + 1]
    T = run.translator("one")
    for level, (z, _, shared) in zip(drawn.IS, steps, strict=True):
        assert shared
        lengths_of_originals(run, z, originals.f)
        expected = T(steer(originals.f, run.goals[0], T, run.spaces("one"), degrees=float(level)).f_eps)
        assert float(angle(z, expected).max()) < 1e-6
    for z, _, _ in (start, other):
        torch.testing.assert_close(z, T(originals.f))
    rows = pictures.ladder_pictures(drawn, [1])
    assert [name for name, _ in rows] == ["first → there"]
    scores = [s.caption for s in rows[0][1]]
    assert scores[0] == "IS 0°, AS 0.0°"
    assert scores[-1] == f"IS 30°, AS {float(drawn.AS[-1, 1]):.1f}°"
    assert rows[0][1][-1].image is drawn.pictures[-1][1]


def test_changes_are_measured_from_the_start(run, originals):
    drawn = pictures.ladders(run, "one", originals, 8.0)
    table = pictures.picture_changes(drawn)
    assert table["IS"].tolist() == pytest.approx(list(range(9)))
    assert table["turned"].iloc[0] == 0
    assert (table["pictures"] == 2).all()
    assert table["turned"].is_monotonic_increasing
    assert table["changed"].iloc[0] == 0
    assert (table["noise"] > 0).all()  # the recorder's noise is in its last pixel
    seen = drawn.prompts[torch.tensor([[0, 1]] * 8 + [[1, 1]])]  # the last step shows another class in one
    table = pictures.picture_changes(replace(drawn, start=drawn.prompts[:2], seen=seen))
    assert table["changed"].tolist() == [0.0] * 8 + [50.0]


def test_the_best_recognised_come_first_and_none_of_the_target(run):
    run.f[0, 0] = 9.0
    originals = pictures.first_of_each_class(run, "one")
    drawn = pictures.ladders(run, "one", originals, 8.0)
    eye = torch.eye(6, dtype=torch.float64)
    drawn = replace(drawn, start=torch.stack([eye[0] + eye[1], eye[1] + 0.2 * eye[0]]))
    assert drawn.margin[0] == pytest.approx(0)
    assert drawn.margin[1] > 60
    assert drawn.best(2) == [1, 0]
    assert drawn.best(1) == [1]
    assert replace(drawn, target="first").best(2) == [0]
    assert pictures.recognised(drawn) == "1 of 2 recognised, 1 by chance"


def test_captions_and_squares():
    shown = pictures.captioned({"row": [Image.new("RGB", (900, 500)), Image.new("RGB", (8, 8))]}, ["a", "b"])
    assert [(s.image.size, s.caption, s.alt) for s in shown[0][1]] == [
        ((288, 288), "a", "a, row"),
        ((8, 8), "b", "b, row"),
    ]


@pytest.mark.parametrize(
    ("labels", "classes", "right"),
    [
        ({"l0": "tench"}, ("Tench", "goldfish"), "named"),
        ({"l0": "n01440764", "l1": "n01443537"}, ("my fish", "my other fish"), "named"),
        ({}, ("zero", "first"), "none"),
    ],
)
def test_photos_whose_class_the_classifier_recognises(run, labels, classes, right):
    """By name in any case, or by WordNet id; the head knows tench and goldfish."""
    run.class_names = dict(zip(("l0", "l1"), classes, strict=True))
    run.index["class"] = run.index["label"].map(run.class_names)
    run.index["label"] = run.index["label"].replace(labels)
    table = pictures.photo_scores(run, "one")
    f = run.photos("one").f
    top = (f[:, :2] + torch.tensor([0.0, 0.5])).argmax(-1)
    assert table["top1"].tolist() == [("tench", "goldfish")[i] for i in top]
    expected = (top == run.photos("one").own).tolist()
    assert table["right"].tolist() == (expected if right == "named" else [False] * len(f))
    T = run.translator("one")
    after = T(run.spaces("one").remove_null(f))
    np.testing.assert_allclose(table["IS"], angle(T(f), after))
    own = run.texts("one", run.prompts)[run.photos("one").own]
    np.testing.assert_allclose(table["AS"], angle(T(f), own) - angle(after, own), atol=1e-9)
    assert table["contrast"].tolist() != table["AS"].tolist()


def scores():
    return pd.DataFrame(
        {
            "classifier": "one",
            "class": ["a", "a", "b", "b", "c", "c", "d", "d"],
            "path": [f"{i}.png" for i in range(8)],
            "IS": [9.0, 8.0, 9.5, 1.0, 2.0, 9.2, 9.9, 3.0],
            "AS": [-5.0, 0.3, 0.1, 4.0, 0.0, 0.2, 3.0, -4.5],
            "right": True,
        }
    )


def test_pairs_are_chosen_by_score_and_never_twice_from_a_class():
    pairs = pictures.choose_pairs(scores(), count=2)
    benign, problematic = pairs[pairs["kind"] == "benign"], pairs[pairs["kind"] == "problematic"]
    # The quarter with the largest IS is 9.9 and 9.5; of these the smaller |AS| comes first.
    assert benign["path"].tolist() == ["2.png", "6.png"]
    assert problematic["path"].tolist() == ["0.png", "7.png"]
    lone = scores().iloc[[0]]  # never both
    assert pictures.choose_pairs(lone)["kind"].tolist() == ["problematic"]


def test_a_photo_that_the_classifier_takes_for_something_else_makes_no_pair():
    wrong = scores().assign(right=lambda t: ~t["path"].isin(["0.png", "2.png"]))
    pairs = pictures.choose_pairs(wrong)
    assert not set(pairs["path"]) & {"0.png", "2.png"}
    assert pictures.which_photos(wrong).startswith("Chosen among the 6 of 8")
    none = scores().assign(right=False)  # such as classes of one's own: all count
    assert pictures.choose_pairs(none)["path"].tolist() == pictures.choose_pairs(scores())["path"].tolist()
    assert "all of them count" in pictures.which_photos(none)


def test_pairs_are_drawn_with_restored_norm_and_have_equal_logits(run):
    pairs = scores().iloc[[0, 4]].assign(path=["4.png", "5.png"], kind=["benign", "problematic"])
    rows = pictures.pair_pictures(run, "one", pairs)
    z, _, shared = run.pictures.calls[0]
    T, f = run.translator("one"), run.f[[4, 5]]
    torch.testing.assert_close(z[:2], T(f))
    torch.testing.assert_close(z[2:], restore_norm(T(run.spaces("one").remove_null(f)), T(f)))
    assert shared
    assert [[s.caption for s in shown] for _, shown in rows] == [
        ["original", "IS 9.0°, AS −5.00°"],
        ["original", "IS 2.0°, AS 0.00°"],
    ]
    logits = pictures.pair_logits(run, "one", pairs)  # of two classes: no five
    assert (logits["original"] == logits["equivalent"]).all()
    np.testing.assert_allclose(logits["logit"], logits["its logit"], atol=1e-12)
    np.testing.assert_allclose(
        sorted(logits["logit"][:2]), sorted((run.f[4, :2] + torch.tensor([0.0, 0.5])).tolist())
    )


def test_the_effect_of_the_norm(run, originals):
    drawn = pictures.ladders(run, "one", originals, 8.0)
    table = pictures.norm_effect(run, "one", drawn)
    z, seed, shared = run.pictures.calls[-1]
    T = run.translator("one")
    torch.testing.assert_close(
        z, T(steer(originals.f, run.goals[0], T, run.spaces("one"), degrees=8.0).f_eps)
    )
    assert (seed, shared) == (0, True)
    np.testing.assert_allclose(table["norm, × original"], z.norm(dim=-1) / T(originals.f).norm(dim=-1))
    np.testing.assert_allclose(table["turned, restored (°)"], angle(drawn.start, drawn.seen[-1]))
    assert (table["turned, as it comes (°)"] != table["turned, restored (°)"]).all()


def test_the_effect_of_the_noise(run, originals):
    drawn = pictures.ladders(run, "one", originals, 8.0)
    table = pictures.noise_effect(run, "one", drawn)
    calls = run.pictures.calls[-4:]
    assert [(seed, one) for _, seed, one in calls] == [(0, False), (0, False), (2, False), (2, False)]
    for z, *_ in calls:
        lengths_of_originals(run, z, originals.f)
    torch.testing.assert_close(calls[0][0], calls[2][0])  # only the noise is another
    assert float(angle(calls[0][0], calls[1][0])[0]) == pytest.approx(2.0)  # a quarter of the way
    assert table["photo"].tolist() == ["zero", "first"]
    step, noise, together = (table[f"{what} (°)"] for what in ("step alone", "noise alone", "both"))
    assert (step > 0).all()
    assert (noise > step).all()
    assert (together >= step).all()
    rules = pictures.rules(pictures.norm_effect(run, "one", drawn), table, drawn)
    assert rules["drawn"].tolist()[2:] == [
        "step of IS 2°, same noise",
        "no step, other noise",
        "step of IS 2°, other noise",
    ]
    assert rules["mean turn (°)"].tolist()[3] == pytest.approx(noise.mean())


@pytest.mark.parametrize("toward", [None, "there"])
def test_one_photo_is_drawn_with_restored_norm(run, toward):
    f = run.f[:1]
    classifier = run.classifier("one")
    run.classifier = lambda name: Photographed(classifier, f)
    run.photo = lambda name: name
    pair = pictures.draw_pair(run, "one", "x.png", toward=toward, degrees=8.0)
    z, _, shared = run.pictures.calls[0]
    assert shared
    lengths_of_originals(run, z, f[0])
    assert pair.certificate.passed
    assert np.isnan(pair.AS) == (toward is None)
    if toward:
        assert abs(pair.IS - 8.0) < 1e-6
        with pytest.raises(SingError, match="can't be reached"):
            pictures.draw_pair(run, "one", "x.png", toward=toward, degrees=179.0)


class Photographed:
    """A classifier that sees the same feature in every photo."""

    def __init__(self, classifier, f):
        self.head, self.f = classifier.head, f

    def prepare(self, photo):
        return torch.zeros(3)

    def __call__(self, batch):
        self.features = self.f
        return self


# ------------------------------------------------------------------------------- gallery


def test_a_gallery_can_be_read_without_seeing_it():
    shown = [Shown(Image.new("RGB", (4, 4)), "<b>", 'a "cat"'), Shown(Image.new("RGB", (4, 4)), "2", "dog")]
    page = gallery([("row & 1", shown)]).data
    assert page.count("<img") == page.count('alt="') == 2
    assert 'alt="a &quot;cat&quot;"' in page
    assert "&lt;b&gt;" in page
    assert 'aria-label="row &amp; 1"' in page
    assert "data:image/jpeg;base64," in page


def test_a_strip_is_as_wide_as_its_pictures():
    out = strip([Image.new("RGB", (10, 20), "red"), Image.new("RGB", (20, 40), "blue")], gap=4)
    assert out.size == (10 + 4 + 10, 20)
    assert [out.getpixel((x, 5)) for x in (2, 11, 18)] == [(255, 0, 0), (255, 255, 255), (0, 0, 255)]
