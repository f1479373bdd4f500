"""Notebook 05's pictures: which are drawn, from what, and what is measured of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_tables_steering import SteeredRun, source

from sing_utils import SingError, steer
from sing_utils import tables_pictures as pictures
from sing_utils.gallery import Shown, gallery, strip
from sing_utils.pictures import restore_norm


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
        self.profile.picture_backend = "recorder"

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

    def original(self, path):
        return None


@pytest.fixture
def run(tmp_path):
    return DrawnRun(tmp_path)


@pytest.fixture
def originals(run):
    return pictures.first_of_each_class(run, "one")


def test_the_first_photo_of_each_class(run, originals):
    index = run.photos("one").index
    assert originals.classes == ["zero", "first"]
    for c, path, f in zip(originals.classes, originals.paths, originals.f, strict=True):
        assert path == sorted(index["path"][index["class"] == c])[0]
        assert torch.equal(f, run.f[int(path.split(".")[0])])
    turned = pictures.starting_with(run, originals.pick([1, 0]), 2)
    assert turned.classes == ["zero", "first"]  # the source class first


def lengths_of_originals(run, z, f):
    """Every embedding that was drawn has the length of its original's (eq. 14)."""
    expected = run.translator("one")(f).norm(dim=-1)
    torch.testing.assert_close(z.norm(dim=-1), expected.expand(len(z)) if expected.ndim == 0 else expected)


def test_no_more_classes_than_asked_for_and_the_source_among_them(run):
    run.index["class"] = [f"class {i % 8}" for i in range(40)]
    run.source_class = "class 5"
    assert len(pictures.first_of_each_class(run, "one", most=20)) == 4  # those with evaluation photos
    few = pictures.first_of_each_class(run, "one", most=2)
    assert len(few) == 2
    assert "class 5" in few.classes


def test_all_reach_the_degrees_toward_every_target(run, originals):
    assert pictures.reachable_degrees(run, "one", originals) == 8.0
    run.profile.degrees = 170.0
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


def test_originals_are_drawn_from_embedding_and_translated_feature_at_one_length(run, originals):
    originals.z[:] = 2.0
    rows = pictures.decoded_originals(run, "one", originals)
    (from_z, _, _), (from_f, _, _) = run.pictures.calls
    assert torch.equal(from_z, originals.z)
    torch.testing.assert_close(from_f, restore_norm(run.translator("one")(originals.f), originals.z))
    assert [len(shown) for _, shown in rows] == [2, 2]
    run.original = lambda path: Image.new("RGB", (2, 2))
    assert pictures.decoded_originals(run, "one", originals)[0][0] == "the photos"


def test_a_ladder_climbs_in_equal_steps_of_one_noise_and_norm(run, originals):
    rows = pictures.image_score_ladder(run, "one", originals, 30.0)
    shown = [float(s.caption.split("°")[0].removeprefix("IS ")) for s in rows[0][1]]
    assert shown == pytest.approx([3.75 * k for k in range(9)], abs=0.051)
    T = run.translator("one")
    for i, (z, seed, shared) in enumerate(run.pictures.calls):
        assert (seed, shared) == (run.profile.seed, True)
        lengths_of_originals(run, z, originals.f[i])
        for k, row in enumerate(z):
            level = 30.0 * k / 8
            expected = steer(originals.f[i : i + 1], run.goals[0], T, run.spaces("one"), degrees=level)
            direction = T(expected.f_eps[0])
            torch.testing.assert_close(row / row.norm(), direction / direction.norm())


@pytest.mark.parametrize("degrees", [8.0, 30.0, 45.0])
def test_an_attribute_score_ladder_has_equal_whole_degrees(run, originals, degrees):
    rows = pictures.attribute_score_ladder(run, "one", originals, degrees)
    most = steer(
        originals.f, run.goals[0], run.translator("one"), run.spaces("one"), degrees=degrees
    ).AS.min()
    for _, shown in rows:
        scores = [float(s.caption.split("AS ")[1].rstrip("°")) for s in shown]
        assert scores[0] == pytest.approx(0, abs=1e-9)
        assert len(scores) <= 9
        stride = scores[1]
        assert stride == round(stride)
        assert np.diff(scores) == pytest.approx(stride, abs=0.01)
        assert most - stride < scores[-1] <= most
    assert len(run.pictures.calls) == 2
    assert pictures.attribute_score_ladder(run, "one", originals, 0.5) == []  # not one degree to climb


def test_changes_are_measured_from_the_start_with_restored_norm(run, originals):
    table = pictures.picture_changes(run, "one", originals, 8.0)
    assert table["IS"].tolist() == pytest.approx(list(range(9)))
    assert table["turned"].iloc[0] == 0
    assert (table["pictures"] == 2).all()
    assert table["turned"].is_monotonic_increasing
    assert table["changed"].iloc[0] == 0
    assert (table["noise"] > 0).all()  # the recorder's noise is in its last pixel
    seeds = [seed for _, seed, _ in run.pictures.calls]
    assert seeds == [0, 1, *([0] * 9)]
    for z, _, _ in run.pictures.calls:
        lengths_of_originals(run, z, originals.f)


def scores():
    return pd.DataFrame(
        {
            "classifier": "one",
            "class": ["a", "a", "b", "b", "c", "c", "d", "d"],
            "path": [f"{i}.png" for i in range(8)],
            "IS": [9.0, 8.0, 9.5, 1.0, 2.0, 9.2, 9.9, 3.0],
            "AS": [-5.0, 0.3, 0.1, 4.0, 0.0, 0.2, 3.0, -4.5],
        }
    )


def test_pairs_are_chosen_by_score_and_never_twice_from_a_class(run):
    pairs = pictures.choose_pairs(run, "one", scores(), count=2)
    benign, problematic = pairs[pairs["kind"] == "benign"], pairs[pairs["kind"] == "problematic"]
    # The quarter with the largest IS is 9.9 and 9.5; of these the smaller |AS| comes first.
    assert benign["path"].tolist() == ["2.png", "6.png"]
    assert problematic["path"].tolist() == ["0.png", "7.png"]
    lone = scores().iloc[[0]]  # never both
    assert pictures.choose_pairs(run, "one", lone)["kind"].tolist() == ["problematic"]


def test_pairs_are_drawn_with_restored_norm_and_have_equal_logits(run):
    pairs = scores().iloc[[0, 4]].assign(path=["4.png", "5.png"], kind=["benign", "problematic"])
    rows = pictures.pair_pictures(run, "one", pairs)
    z, _, shared = run.pictures.calls[0]
    T, f = run.translator("one"), run.f[[4, 5]]
    torch.testing.assert_close(z[:2], T(f))
    torch.testing.assert_close(z[2:], restore_norm(T(run.spaces("one").remove_null(f)), T(f)))
    assert shared
    assert [[s.caption.split(",")[0] for s in shown] for _, shown in rows] == [["original", "equivalent"]] * 2
    logits = pictures.pair_logits(run, "one", pairs)  # of two classes: no five
    assert (logits["original"] == logits["equivalent"]).all()
    np.testing.assert_allclose(logits["logit"], logits["its logit"], atol=1e-12)
    words = pictures.shown_logits(logits)
    assert words["original"][0] == f"{logits['original'][0]}  {logits['logit'][0]:.4f}"
    assert (words["original"] == words["equivalent"]).all()
    np.testing.assert_allclose(
        sorted(logits["logit"][:2]), sorted((run.f[4, :2] + torch.tensor([0.0, 0.5])).tolist())
    )


def test_steered_pictures_are_one_for_each_target(run, originals):
    rows = pictures.steered_pictures(run, "one", originals, 8.0)
    assert [s.caption.split(",")[0] for s in rows[0][1]] == ["original", "there", "elsewhere"]
    z, _, _ = run.pictures.calls[0]
    T = run.translator("one")
    expected = steer(originals.f[:1], run.goals[1], T, run.spaces("one"), degrees=8.0)
    torch.testing.assert_close(z[2], restore_norm(T(expected.f_eps), T(originals.f[:1]))[0])


def test_the_effect_of_the_norm(run, originals):
    rows, table = pictures.norm_effect(run, "one", originals, 8.0)
    (_, _, _), (restored, _, _), (plain, _, _) = run.pictures.calls
    torch.testing.assert_close(
        restored / restored.norm(dim=-1, keepdim=True), plain / plain.norm(dim=-1, keepdim=True)
    )
    lengths_of_originals(run, restored, originals.f)
    T = run.translator("one")
    np.testing.assert_allclose(table["norm, × original"], plain.norm(dim=-1) / T(originals.f).norm(dim=-1))
    assert [len(shown) for _, shown in rows] == [3, 3]


def test_the_effect_of_the_noise(run, originals):
    rows, table = pictures.noise_effect(run, "one", originals, 2.0)
    *drawn, shared, own = run.pictures.calls
    assert [(seed, one) for _, seed, one in drawn] == [(0, False), (0, False), (2, False), (2, False)]
    for z, *_ in drawn:
        lengths_of_originals(run, z, originals.f)
    torch.testing.assert_close(drawn[0][0], drawn[2][0])  # only the noise is another
    assert (shared[2], own[2]) == (True, False)
    assert (len(shared[0]), len(own[0])) == (2, 8)
    for z, *_ in (shared, own):
        lengths_of_originals(run, z, originals.f[0])
    assert table["photo"].tolist() == originals.classes
    step, noise, together = (table[f"{what} (°)"] for what in ("step alone", "noise alone", "both"))
    assert (step > 0).all()
    assert (noise > step).all()
    assert (together >= step).all()
    assert [len(shown) for _, shown in rows] == [2, 4, 4]


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


def test_the_source_photos_exist(run):
    assert len(source(run)) == 10
