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
from sing_utils.run import Data


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

    def data(self, name):
        return Data(self.f, self.f @ self.maps[name].mT, self.index)

    def judge(self, name):
        judge = super().judge(name)
        judge.encode_images = lambda images: torch.tensor(
            [[(image.getpixel((x, 0)) - 128) / 10 for x in range(6)] for image in images], dtype=torch.float64
        )
        return judge

    def prompts(self, judge):
        return dict(zip(("zero", "first"), torch.eye(6, dtype=torch.float64), strict=False))

    def original(self, path):
        return None


@pytest.fixture
def run(tmp_path):
    return DrawnRun(tmp_path)


@pytest.fixture
def originals(run):
    return pictures.first_of_each_class(run, "one")


def test_the_first_photo_of_each_class(run, originals):
    index = run.data("one").evaluation.index
    assert originals.classes == ["zero", "first"]
    for c, path, f in zip(originals.classes, originals.paths, originals.f, strict=True):
        assert path == sorted(index["path"][index["class"] == c])[0]
        assert torch.equal(f, run.f[int(path.split(".")[0])])
    turned = pictures.starting_with(run, originals.pick([1, 0]), 2)
    assert turned.classes == ["zero", "first"]  # the source class first


def test_originals_are_drawn_from_embedding_and_translated_feature(run, originals):
    originals.z[:] = 2.0
    rows = pictures.decoded_originals(run, "one", originals)
    (from_z, _, _), (from_f, _, _) = run.pictures.calls
    assert torch.equal(from_z, originals.z)
    torch.testing.assert_close(from_f, run.translator("one")(originals.f))
    assert [len(shown) for _, shown in rows] == [2, 2]
    run.original = lambda path: Image.new("RGB", (2, 2))
    assert pictures.decoded_originals(run, "one", originals)[0][0] == "the photos"


def test_a_ladder_climbs_in_equal_steps_of_one_noise_and_norm(run, originals):
    rows = pictures.image_score_ladder(run, "one", originals)
    assert [s.caption.split(",")[0] for s in rows[0][1]] == [f"IS {i}°" for i in range(9)]
    T = run.translator("one")
    for i, (z, seed, shared) in enumerate(run.pictures.calls):
        assert (seed, shared) == (run.profile.seed, True)
        length = T(originals.f[i]).norm()
        torch.testing.assert_close(z.norm(dim=-1), length.expand(len(z)))  # eq. 14
        for k, row in enumerate(z):
            expected = steer(originals.f[i : i + 1], run.goals[0], T, run.spaces("one"), degrees=float(k))
            direction = T(expected.f_eps[0])
            torch.testing.assert_close(row / row.norm(), direction / direction.norm())


def test_an_attribute_score_ladder_has_whole_degrees(run, originals):
    rows = pictures.attribute_score_ladder(run, "one", originals)
    for _, shown in rows:
        assert [s.caption.split("AS ")[1] for s in shown] == [f"{i:.1f}°" for i in range(len(shown))]
    run.profile.degrees = 0.5
    assert pictures.attribute_score_ladder(run, "one", originals) == []  # not one degree to climb


def test_unreachable_steps_are_left_out(run, originals):
    run.profile.degrees = 170.0
    for _, shown in pictures.image_score_ladder(run, "one", originals):
        assert 1 <= len(shown) < 9
    with pytest.raises(SingError, match="no photo reaches IS = 170° toward “there”"):
        pictures.norm_effect(run, "one", originals)
    run.profile.degrees = 4 * 170.0
    with pytest.raises(SingError, match="no photo reaches"):
        pictures.noise_effect(run, "one", originals)


def test_changes_are_measured_from_the_start(run, originals):
    table, noise = pictures.picture_changes(run, "one", originals)
    assert table["IS"].tolist() == pytest.approx(list(range(9)))
    assert table["turned"].iloc[0] == 0
    assert (table["pictures"] == 2).all()
    assert table["turned"].is_monotonic_increasing
    assert table["changed"].iloc[0] == 0
    assert noise > 0  # the recorder's noise is in its last pixel
    seeds = [seed for _, seed, _ in run.pictures.calls]
    assert seeds == [0, 1, *([0] * 9)]


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


def test_pairs_are_drawn_with_restored_norm_and_have_equal_logits(run):
    pairs = scores().iloc[[0, 4]].assign(path=["4.png", "5.png"], kind=["benign", "problematic"])
    rows = pictures.pair_pictures(run, "one", pairs)
    z, _, shared = run.pictures.calls[0]
    T, f = run.translator("one"), run.f[[4, 5]]
    torch.testing.assert_close(z[:2], T(f))
    torch.testing.assert_close(z[2:], restore_norm(T(run.spaces("one").remove_null(f)), T(f)))
    assert shared
    assert [[s.caption for s in shown] for _, shown in rows] == [["original", "equivalent"]] * 2
    logits = pictures.pair_logits(run, "one", pairs, top=2)
    assert (logits["original"] == logits["equivalent"]).all()
    np.testing.assert_allclose(logits["logit"], logits["its logit"], atol=1e-12)
    np.testing.assert_allclose(
        sorted(logits["logit"][:2]), sorted((run.f[4, :2] + torch.tensor([0.0, 0.5])).tolist())
    )


def test_steered_pictures_are_one_for_each_target(run, originals):
    rows = pictures.steered_pictures(run, "one", originals)
    assert [s.caption.split(",")[0] for s in rows[0][1]] == ["original", "there", "elsewhere"]
    z, _, _ = run.pictures.calls[0]
    T = run.translator("one")
    expected = steer(originals.f[:1], run.goals[1], T, run.spaces("one"), degrees=8.0)
    torch.testing.assert_close(z[2], restore_norm(T(expected.f_eps), T(originals.f[:1]))[0])


def test_the_effect_of_the_norm(run, originals):
    rows, table = pictures.norm_effect(run, "one", originals)
    (_, _, _), (restored, _, _), (plain, _, _) = run.pictures.calls
    torch.testing.assert_close(
        restored / restored.norm(dim=-1, keepdim=True), plain / plain.norm(dim=-1, keepdim=True)
    )
    T = run.translator("one")
    np.testing.assert_allclose(table["norm, × original"], plain.norm(dim=-1) / T(originals.f).norm(dim=-1))
    assert [len(shown) for _, shown in rows] == [3, 3]


def test_the_effect_of_the_noise(run, originals):
    _, table = pictures.noise_effect(run, "one", originals)
    (own, _, own_shared), (both, _, shared) = run.pictures.calls
    assert (own_shared, shared) == (False, True)
    assert (len(own), len(both)) == (8, 2)
    step, noise, together = table["angle between the pictures' embeddings (°)"]
    assert 0 < step < noise
    assert together >= step


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
