"""The numbers of the live explorers against sing_utils' own functions, on a small real run."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats
from small_run import CLASSES, NAMES, small_run
from traitlets import TraitError

from sing_utils import attribute_score, image_score, steer
from sing_utils.errors import SingError
from sing_utils.evidence.intervals import sure
from sing_utils.live import dial, lens, pair, steering
from sing_utils.live import explorers as ex
from sing_utils.live.widgets import BasisExplorer, ConceptLens, NullSpaceDial, PairExplorer, SteeringExplorer
from sing_utils.measure import basis as tables_basis
from sing_utils.method.scores import pairwise_angle
from sing_utils.runs.profiles import load_profile

EXACT = 0.01  # degrees: what the explorers promise


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def photos(run):
    return ex.offered_photos(run)


@pytest.fixture(scope="module")
def thumbnails(run):
    return ex.thumbnails(run)


def array(packed):
    return np.frombuffer(packed["data"], packed["dtype"]).reshape(packed["shape"])


def angle_of(product, square):
    """As common.js computes it."""
    return np.degrees(np.arctan2(np.sqrt(np.maximum(0, square - product**2)), product))


# ------------------------------------------------------------------------------- packing


def test_packing_keeps_values_and_order():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    packed = ex.pack(values)
    assert (packed["dtype"], packed["shape"]) == ("float32", [2, 3])
    assert (array(packed) == values).all()
    big_endian = ex.pack(values.astype(">f4"))
    assert big_endian["data"] == packed["data"]


def test_cosines_are_within_half_a_step():
    cosines = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    kept = array(ex.pack_cosines(cosines)) / 32767
    assert np.abs(kept - cosines.numpy()).max() <= 0.5 / 32767 + 1e-12
    assert np.degrees(0.5 / 32767) < EXACT / 10  # of an angle near 90 degrees


def test_pictures_lie_one_after_another():
    packed = ex.pack_pictures([b"abc", b"", b"de"])
    assert packed["ends"] == [3, 3, 5]
    assert packed["data"] == b"abcde"


def test_webp_keeps_the_size():
    image = Image.open(io.BytesIO(ex.webp(Image.new("L", (20, 12)))))
    assert (image.format, image.size) == ("WEBP", (20, 12))


# -------------------------------------------------------------------------------- photos


def test_offered_photos_are_the_first_by_name_class_by_class(run, photos):
    assert photos["class"].to_list() == list(itertools.chain(*([c] * 2 for c in CLASSES)))
    index = run.photos(NAMES[0]).index
    for c, own in photos.groupby("class"):
        assert own["path"].to_list() == sorted(index.loc[index["class"] == c, "path"])[:2]
    assert (index.loc[photos.index, "path"] == photos["path"]).all()
    listed = ex.photo_numbers(run, photos)
    assert listed["photoClass"] == [0, 0, 1, 1, 2, 2]
    assert all("/" not in name for name in listed["photoName"])


def test_thumbnails_of_drawn_photos(run, thumbnails):
    assert len(thumbnails) == 4 * len(CLASSES)
    assert Image.open(io.BytesIO(thumbnails["picture"][0])).size == (64, 64)
    assert "not part of this book" in ex.thumbnail_note(run)


def test_thumbnails_of_a_runs_own_photos_are_these(tmp_path, make_picture):
    paths = [make_picture(tmp_path / "own" / f"{i}.png", seed=i, size=(200, 100)) for i in range(3)]
    table = pd.DataFrame({"class": ["x"] * 3, "path": [str(p) for p in paths]})

    class Run:
        profile = load_profile("embedded").model_copy(update={"thumbnails": 2, "imagenet_dir": "own"})
        classifiers = ("x",)

        def photos(self, _name):
            return type("Photos", (), {"index": table})

        def original(self, path):
            return Image.open(path)

    small = ex.thumbnails(Run())
    assert small["path"].to_list() == [str(p) for p in paths[:2]]
    picture = Image.open(io.BytesIO(small["picture"][0]))
    assert picture.size == (128, 64)
    mean = np.asarray(Image.open(paths[0]).convert("RGB")).mean()
    assert abs(np.asarray(picture.convert("RGB")).mean() - mean) < 12  # WebP of noise


def test_nobody_says_of_a_runs_own_photos_that_they_were_drawn(run, thumbnails):
    """Also where they come from ImageNet's folder."""
    own = replace(run, profile=run.profile.model_copy(update={"imagenet_dir": "imagenet"}))
    for one, drawn in ((run, True), (own, False)):
        data = lens.lens_numbers(one, thumbnails)
        assert data["drawn"] is drawn
        assert ("drawn" in data["pictureNote"]) is drawn


# ---------------------------------------------------------------------------------- pair


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.37, 1.0, 2.0])
def test_pair_numbers_give_every_angle(run, photos, alpha):
    """From the few packed products, as the page does it, against angles of the vectors themselves."""
    data = pair.pair_numbers(run, photos)
    norms, cosines = array(data["norms"]), array(data["products"]) / 32767
    for k, name in enumerate(NAMES):
        f = ex.features(run, name, photos)
        T, spaces = run.translator(name), run.spaces(name)
        moved = f - alpha * spaces.null_component(f)
        z, z_tilde = T(f), T(moved)
        aa, ab, bb = norms[k].T
        across = np.sqrt(np.maximum(0, aa * bb - ab**2))
        IS = np.degrees(np.arctan2(abs(alpha) * across, aa - alpha * ab))
        assert np.abs(IS - image_score(z, z_tilde).numpy()).max() < 1e-6
        u = run.texts(name, data["texts"]).double()
        au, bu = cosines[k, ..., 0] * np.sqrt(aa)[:, None], cosines[k, ..., 1] * np.sqrt(bb)[:, None]
        square = (aa - 2 * alpha * ab + alpha**2 * bb)[:, None]
        before, after = angle_of(au, aa[:, None]), angle_of(au - alpha * bu, square)
        assert np.abs(before - pairwise_angle(z, u).numpy()).max() < EXACT / 2
        assert np.abs(after - pairwise_angle(z_tilde, u).numpy()).max() < EXACT / 2
        for j in range(len(u)):
            AS = attribute_score(z, z_tilde, u[j]).numpy()
            assert np.abs(before[:, j] - after[:, j] - AS).max() < EXACT / 2


def test_pair_texts_are_class_prompts_then_phrases(run, photos):
    data = pair.pair_numbers(run, photos)
    assert data["texts"][:3] == [f"an image of a {c}" for c in CLASSES]
    assert data["texts"][3:] == run.profile.phrases
    assert len(set(run.profile.phrases)) == len(run.profile.phrases) == 8  # "blue" once


def test_logits_are_the_classifiers_and_hardly_drift(run, photos):
    logits = ex.logits_of(run, photos)
    values, drifts, most = (array(logits[k]) for k in ("values", "drifts", "most"))
    for k, name in enumerate(NAMES):
        head, f = run.head(name), ex.features(run, name, photos)
        full = f @ head.weight.double().mT + head.bias.double()
        top = full.topk(5)
        assert np.abs(values[k] - top.values.numpy()).max() < 1e-9
        names = np.array(logits["labels"])[array(logits["classes"])[k]]
        assert names[0, 0] == head.label(int(top.indices[0, 0]))
    assert 0 < most.max() < 1e-9
    assert (np.abs(drifts) <= most[..., None] + 1e-30).all()


def test_pair_frames_share_noise_and_norm(run, photos):
    f = ex.features(run, NAMES[0], photos)
    z = pair.pair_embeddings(run, NAMES[0], f, pair.ALPHAS)
    norm = z.norm(dim=-1)
    assert torch.allclose(norm, norm[:, :1].expand_as(norm))  # eq. 14
    a, b = pair.pair_vectors(run, NAMES[0], f)
    assert torch.allclose(z[:, pair.ALPHAS.index(0.0)], a)
    assert image_score(z[:, -1], a - 2 * b).max() < 1e-5
    frames = pair.pair_numbers(run, photos)["frames"]
    assert len(frames["ends"]) == len(photos) * len(pair.ALPHAS)


def test_pair_opens_where_null_removal_turns_most(run, photos):
    f, T = ex.features(run, NAMES[0], photos), run.translator(NAMES[0])
    IS = image_score(T(f), T(run.spaces(NAMES[0]).remove_null(f))).numpy()
    top = run.head(NAMES[0]).logits(f).argmax(-1)
    known = np.array([run.head(NAMES[0]).label(int(i)) for i in top]) == photos["class"]
    assert 0 < known.sum() < len(photos)
    assert PairExplorer.of(run).photo == np.flatnonzero(known)[IS[known].argmax()]


# ------------------------------------------------------------------------------ steering


@pytest.mark.parametrize("theta", [0.0, 7.5, 40.0])
def test_steering_numbers_give_every_score(run, photos, theta):
    data = steering.steering_numbers(run, photos)
    cosines, own = array(data["cosines"]) / 32767, array(data["own"]) / 32767
    t = np.radians(theta)
    for k, name in enumerate(NAMES):
        f, T, spaces = ex.features(run, name, photos), run.translator(name), run.spaces(name)
        prompts = run.texts(name, [run.prompt(c) for c in photos["class"]]).double()
        for j, text in enumerate(data["texts"]):
            u = run.texts(name, [text])[0].double()
            result = steer(f, u, T, spaces, degrees=theta)
            au, bu, _, bw = cosines[k, :, j].T
            AS = angle_of(au, 1) - angle_of(np.cos(t) * au + np.sin(t) * bu, 1)
            aw = own[k, :, 0]
            own_AS = angle_of(aw, 1) - angle_of(np.cos(t) * aw + np.sin(t) * bw, 1)
            limit, scale, moved = array(data["steps"])[k, :, j].T
            epsilon = scale * np.sin(t) / np.sin(np.radians(limit) - t) * f.norm(dim=-1).numpy()
            assert np.abs(limit - result.largest.numpy()).max() < 1e-4
            reached = ~result.epsilon.isnan().numpy()
            assert np.abs(AS - result.AS.numpy())[reached].max() < EXACT
            expected = attribute_score(T(f), T(result.f_eps), prompts).numpy()
            assert np.abs(own_AS - expected)[reached].max() < EXACT
            assert np.allclose(epsilon[reached], result.epsilon.numpy()[reached], rtol=1e-4)
            assert (moved < 1e-9).all()


def test_the_random_step_is_one_of_the_null_space(run, photos):
    """The control's plane comes from a direction that no logit sees, and a fixed seed."""
    one, two = (steering.steering_products(run, NAMES[0], photos, ["x", "y"]) for _ in range(2))
    assert torch.equal(one["random"], two["random"])
    limit, scale = one["random"].unbind(-1)
    assert ((limit > 20) & (limit < 160)).all()
    assert (scale > one["steps"][:, 0, 1]).all()  # it takes a longer step than the directed one


def test_targets_have_a_prompt_or_are_phrases(run):
    targets = steering.steering_targets(run)
    assert targets["pirate"] == "an image of a pirate"
    assert targets["tench"] == "an image of a tench"
    assert targets["a desert"] == "a desert"
    assert list(targets)[:2] == ["jellyfish", "pirate"]


def test_steering_frames_are_where_the_page_looks_for_them(run, photos):
    data = steering.steering_numbers(run, photos)
    row = 1 + 2 * len(steering.STEPS)
    assert data["drawnPhotos"] == [0, 2, 4]
    assert len(data["frames"]["ends"]) == 3 * row
    ends = [0, *data["frames"]["ends"]]
    limits = array(data["steps"])[0, :, :2, 0]
    for i, p in enumerate(data["drawnPhotos"]):
        for j, k in itertools.product(range(2), range(len(steering.STEPS))):
            place = i * row + 1 + j * len(steering.STEPS) + k
            assert (ends[place + 1] > ends[place]) == (limits[p, j] > steering.STEPS[k] + 0.1)


# ---------------------------------------------------------------------------------- lens


def test_lens_means_and_ends(run, thumbnails):
    data = lens.lens_numbers(run, thumbnails)
    means, ends, scores = (array(data[k]) for k in ("means", "ends", "endScores"))
    scores = scores * 180 / 32767
    index = run.photos(NAMES[0]).index
    assert data["counts"] == [(index["class"] == c).sum() for c in CLASSES]
    name, c, j = NAMES[1], "jellyfish", 3
    k, i = NAMES.index(name), CLASSES.index(c)
    evaluation = run.photos(name)
    own = evaluation.rows(evaluation.index["class"] == c)
    T = run.translator(name)
    text = run.texts(name, [data["phrases"][j]])
    before = pairwise_angle(T(own.f), text)[:, 0].numpy()
    after = pairwise_angle(T(run.spaces(name).remove_null(own.f)), text)[:, 0].numpy()
    AS = before - after
    assert abs(means[k, i, j, 0] - before.mean()) < 1e-3
    assert abs(means[k, i, j, 1] - AS.mean()) < 1e-3
    at = j + len(run.classes)  # after the classes' prompts
    refits = run.refits(name)
    toward, shared = (x[..., run.classes.index(c), at].numpy() for x in (refits.toward, refits.shared))
    found = sure(AS.mean(), stats.sem(AS), len(AS), toward, shared=shared)
    assert means[k, i, j, 2] == pytest.approx(found.high - found.value, abs=1e-3)
    drawn = own.index["path"].isin(thumbnails["path"]).to_numpy()
    expected = np.sort(AS[drawn])
    assert np.abs(scores[k, i, j] - np.r_[expected[:2], expected[-2:]]).max() < EXACT / 2
    for place, score in zip(ends[k, i, j], scores[k, i, j], strict=True):
        path = thumbnails["path"][place]
        assert abs(AS[(own.index["path"] == path).to_numpy()][0] - score) < EXACT / 2


def test_lens_without_pictures_has_no_ends(run):
    none = pd.DataFrame({"path": [], "picture": []})
    data = lens.lens_numbers(run, none)
    assert data["ends"]["shape"][-1] == 0
    assert data["means"]["shape"] == [2, 3, 8, 3]


# ---------------------------------------------------------------------------------- dial


def test_dial_begins_at_the_exact_null_space(run):
    name = NAMES[0]
    spaces = run.spaces(name)
    ranks = dial.dial_ranks(spaces.rank)
    costs, concepts = dial.dial_table(run, name, ranks)
    f = run.photos(name).f
    energy, certificate, logit, top1, IS = costs[0].tolist()
    assert energy == pytest.approx(100 * float(spaces.null_energy(f).mean()), abs=1e-3)
    assert certificate < 1e-12
    assert logit < 1e-10
    assert top1 == 0
    T = run.translator(name)
    assert pytest.approx(float(image_score(T(f), T(spaces.remove_null(f))).median()), abs=1e-3) == IS
    phrases = run.texts(name, run.profile.phrases)
    AS = pairwise_angle(T(f), phrases) - pairwise_angle(T(spaces.remove_null(f)), phrases)
    assert torch.allclose(concepts[0], AS.mean(0).double(), atol=1e-3)


def test_dial_costs_grow_beyond_it(run):
    name = NAMES[0]
    spaces, f = run.spaces(name), run.photos(name).f.double()
    ranks = dial.dial_ranks(spaces.rank)
    costs, _ = dial.dial_table(run, name, ranks)
    assert (costs[1:, 0].diff() > 0).all()
    assert (costs[1:, 1] > 1e-6).all()  # the certificate is zero no more
    assert (costs[1:, 2].diff() > 0).all()
    V = spaces.principal_basis[:, : ranks[-1]]
    kept = (f @ V) @ V.mT
    W = spaces.weight
    change = ((f - kept) @ W.mT).abs().amax(-1)
    assert costs[-1, 2] == pytest.approx(float(change.median()), rel=1e-6)
    assert costs[-1, 1] == pytest.approx(
        float((change / (spaces.singular_values[0] * f.norm(dim=-1))).max()), rel=1e-6
    )
    bias = run.head(name).bias
    moved = ((kept @ W.mT + bias).argmax(-1) != (f @ W.mT + bias).argmax(-1)).double().mean()
    assert costs[-1, 3] == pytest.approx(100 * float(moved))


# ------------------------------------------------------------------------------- widgets


class Page:
    """The other end of a widget: what it was sent."""

    def __init__(self, widget):
        self.widget, self.heard = widget, []
        widget.send = lambda content, buffers=None: self.heard.append((content, buffers))

    def ask(self, **message):
        self.widget._answer(self.widget, message, [])
        return self.heard[-1] if self.heard else None


def test_a_page_hears_that_python_is_there(run):
    page = Page(PairExplorer.of(run))
    assert page.ask(kind="hello") == ({"kind": "alive"}, None)


def test_a_free_text_gets_the_numbers_that_the_page_has_of_others(run, photos, thumbnails):
    """Asked for again as a free text, a phrase of the page gives its very numbers."""
    explorer = PairExplorer.of(run)
    Page(explorer).ask(kind="prompt", text="a desert")
    j = explorer.data["texts"].index("a desert")
    assert (array(explorer.prompts["a desert"])[:, :, 0] == array(explorer.data["products"])[:, :, j]).all()

    explorer = SteeringExplorer.of(run)
    Page(explorer).ask(kind="prompt", text="a desert")
    j = explorer.data["texts"].index("a desert")
    for key in ("cosines", "steps"):
        own = array(explorer.prompts["a desert"][key])[:, :, 0]
        assert np.allclose(own[..., :2], array(explorer.data[key])[:, :, j, :2], rtol=1e-5)

    explorer = ConceptLens.of(run)
    Page(explorer).ask(kind="prompt", text="a desert")
    j = explorer.data["phrases"].index("a desert")
    own = array(explorer.prompts["a desert"]["means"])[:, :, 0]
    assert np.allclose(own[..., :2], array(explorer.data["means"])[:, :, j, :2], atol=1e-4)
    assert np.isnan(own[..., 2]).all()  # refits do not know the phrase


def test_a_text_that_cannot_be_read_is_answered_with_a_sentence(run):
    explorer = PairExplorer.of(run)
    for text in ("", "word " * 400):
        answer, _ = Page(explorer).ask(kind="prompt", text=text)
        assert answer["kind"] == "error"
        assert "expected" in answer["message"]
    assert explorer.prompts == {}


def test_exact_pictures_are_drawn_on_demand(run):
    explorer = PairExplorer.of(run)
    answer, buffers = Page(explorer).ask(kind="draw", key="k", classifier=NAMES[0], photo=1, alpha=1.0)
    assert answer == {"kind": "picture", "key": "k"}
    place = len(pair.ALPHAS) + pair.ALPHAS.index(1.0)
    ends = [0, *explorer.data["frames"]["ends"]]
    drawn = explorer.data["frames"]["data"][ends[place] : ends[place + 1]]
    both = [np.asarray(Image.open(io.BytesIO(x)).convert("RGB"), float) for x in (drawn, buffers[0])]
    assert np.abs(both[0] - both[1]).mean() < 2  # drawn in another batch

    explorer = SteeringExplorer.of(run)
    point = {"classifier": NAMES[0], "photo": 0, "target": "a desert", "key": "k"}
    answer, buffers = Page(explorer).ask(kind="draw", degrees=10.0, **point)
    assert Image.open(io.BytesIO(buffers[0])).size == (64, 64)
    answer, _ = Page(explorer).ask(kind="draw", degrees=89.9, **point)
    assert "fewer degrees" in answer["message"]


def test_an_explorer_brings_a_chart_of_its_first_state(run, thumbnails):
    made = [
        PairExplorer.of(run), SteeringExplorer.of(run), ConceptLens.of(run), NullSpaceDial.of(run),
        BasisExplorer.of(run, tables_basis.stretches(run, (0.5, 1.0))),
    ]  # fmt: skip
    for explorer in made:
        bundle, _ = explorer._repr_mimebundle_()
        chart = bundle["application/vnd.vegalite.v5+json"]
        assert chart["usermeta"]["widget"] == explorer.model_id
        assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.model_id
        assert chart["description"]
        assert chart["title"]["text"]


def test_the_pairs_first_state_says_its_scores(run):
    explorer = PairExplorer.of(run)
    f = ex.features(run, NAMES[0], ex.offered_photos(run).iloc[[explorer.photo]])
    T = run.translator(NAMES[0])
    IS = float(image_score(T(f), T(run.spaces(NAMES[0]).remove_null(f))))
    assert f"{IS:.2f}°" in str(explorer.first_state().to_dict()["title"])


def test_the_dial_answers_no_prompts(run):
    answer, _ = Page(NullSpaceDial.of(run)).ask(kind="prompt", text="x")
    assert answer["kind"] == "error"
    with pytest.raises(SingError):
        NullSpaceDial.of(run)._draw({})


# ------------------------------------------------------------------- what a review found


def test_a_text_set_from_python_is_encoded(run):
    explorer = PairExplorer.of(run)
    explorer.toward = "a lighthouse"
    assert array(explorer.prompts["a lighthouse"]).shape == (len(NAMES), 6, 1, 2)
    explorer.toward = "a desert"  # the page has it
    assert list(explorer.prompts) == ["a lighthouse"]
    with pytest.raises(TraitError):
        explorer.alpha = 3.0


@pytest.mark.parametrize("target", ["tench", "a desert", "a text of one's own"])
def test_steering_is_shown_again_after_another_choice(run, target):
    explorer = SteeringExplorer.of(run)
    explorer.target = target
    assert target in explorer.first_state().to_dict()["title"]["text"]


def test_a_class_without_evaluation_photos_is_not_offered(run, thumbnails, monkeypatch):
    monkeypatch.setitem(run.__dict__, "class_names", {**run.class_names, "x": "nothing"})
    assert ex.shown_classes(run) == CLASSES
    assert lens.lens_numbers(run, thumbnails)["classes"] == CLASSES
    assert len(pair.pair_numbers(run, ex.offered_photos(run))["texts"]) == len(CLASSES) + 8


def test_large_pictures_become_small():
    assert Image.open(io.BytesIO(ex.webp(Image.new("RGB", (2000, 1000))))).size == (256, 128)


def test_any_failure_is_answered(run, monkeypatch):
    explorer = PairExplorer.of(run)
    page = Page(explorer)
    with pytest.raises(KeyError):
        page.ask(kind="draw", key="k")
    assert page.heard[-1][0]["kind"] == "error"
