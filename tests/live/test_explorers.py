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
from small_run import CLASSES, NAMES
from traitlets import TraitError

from sing_utils import attribute_score, image_score, steer
from sing_utils.evidence.intervals import sure
from sing_utils.live import dial, lens, moves
from sing_utils.live import explorers as ex
from sing_utils.method.scores import pairwise_angle
from sing_utils.runs.profiles import load_profile

EXACT = 0.01  # degrees: what the explorers promise


@pytest.fixture(scope="module")
def thumbnails(run):
    return ex.thumbnails(run)


def array(packed):
    """As common.js unpacks it."""
    values = np.frombuffer(packed["data"], packed["dtype"]).reshape(packed["shape"])
    return values * packed["unit"] if "unit" in packed else values


def angle_of(product, square):
    """As photo.js computes it."""
    return np.degrees(np.arctan2(np.sqrt(np.maximum(0, square - product**2)), product))


def picture_at(packed, place):
    """The bytes of one of the pictures that `pack_pictures` packed."""
    ends = [0, *packed["ends"]]
    return packed["data"][ends[place] : ends[place + 1]]


# ------------------------------------------------------------------------------- packing


def test_packing_keeps_values_and_order():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    packed = ex.pack(values)
    assert (packed["dtype"], packed["shape"]) == ("float32", [2, 3])
    assert (array(packed) == values).all()
    assert ex.pack(values.astype(">f4"))["data"] == packed["data"]  # big-endian


def test_cosines_are_within_half_a_step():
    cosines = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    assert np.abs(array(ex.pack_steps(cosines)) - cosines.numpy()).max() <= 0.5 / 32767 + 1e-12
    assert np.degrees(0.5 / 32767) < EXACT / 10  # of an angle near 90 degrees


def test_pictures_lie_one_after_another():
    assert ex.pack_pictures([b"abc", b"", b"de"]) == {"ends": [3, 3, 5], "data": b"abcde"}


@pytest.mark.parametrize(
    ("mode", "size", "kept"), [("L", (20, 12), (20, 12)), ("RGB", (2000, 1000), (256, 128))]
)
def test_pictures_are_small_webp_files(mode, size, kept):
    image = Image.open(io.BytesIO(ex.webp(Image.new(mode, size))))
    assert (image.format, image.size) == ("WEBP", kept)


# -------------------------------------------------------------------------------- photos


def test_offered_photos_are_the_first_by_name_class_by_class(run, photos):
    assert photos["class"].to_list() == list(itertools.chain(*([c] * 2 for c in CLASSES)))
    index = run.photos(NAMES[0]).index
    for c, own in photos.groupby("class"):
        assert own["path"].to_list() == sorted(index.loc[index["class"] == c, "path"])[:2]
    assert (index.loc[photos.index, "path"] == photos["path"]).all()


def test_thumbnails_of_drawn_photos(run, thumbnails):
    assert len(thumbnails) == 4 * len(CLASSES)
    assert Image.open(io.BytesIO(thumbnails["picture"][0])).size == (64, 64)


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


def test_a_class_without_evaluation_photos_is_not_offered(run, monkeypatch):
    monkeypatch.setitem(run.__dict__, "class_names", {**run.class_names, "x": "nothing"})
    assert ex.shown_classes(run) == CLASSES


# ---------------------------------------------------------------------------------- pair


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.37, 1.0, 2.0])
def test_pair_numbers_give_every_angle(run, photos, made, alpha):
    """From the few packed products, as the page does it, against angles of the vectors themselves."""
    data = made["pair"].data
    norms, cosines = array(data["norms"]), array(data["cosines"])
    for k, name in enumerate(NAMES):
        f = ex.features(run, name, photos)
        T, spaces = run.translator(name), run.spaces(name)
        z, z_tilde = T(f), T(f - alpha * spaces.null_component(f))
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


def test_pair_texts_are_class_prompts_then_phrases(run, made):
    texts = made["pair"].data["texts"]
    assert texts == [*(f"an image of a {c}" for c in CLASSES), *run.profile.phrases]
    assert len(set(run.profile.phrases)) == len(run.profile.phrases) == 8  # "blue" once


def test_logits_are_the_classifiers_and_hardly_drift(run, photos):
    logits = ex.logits_of(run, photos)
    values, drifts, most = (array(logits[k]) for k in ("values", "drifts", "most"))
    for k, name in enumerate(NAMES):
        head, f = run.head(name), ex.features(run, name, photos)
        top = (f @ head.weight.double().mT + head.bias.double()).topk(5)
        assert np.abs(values[k] - top.values.numpy()).max() < 1e-9
        names = np.array(logits["labels"])[array(logits["classes"])[k]]
        assert names[0, 0] == head.label(int(top.indices[0, 0]))
    assert 0 < most.max() < 1e-9
    assert (np.abs(drifts) <= most[..., None] + 1e-30).all()


def test_pair_frames_share_noise_and_norm(run, photos, made):
    f = ex.features(run, NAMES[0], photos)
    z = moves.pair_embeddings(run, NAMES[0], f, (0.0, *moves.ALPHAS))
    norm = z.norm(dim=-1)
    assert torch.allclose(norm, norm[:, :1].expand_as(norm))  # eq. 14
    a, b = moves.pair_vectors(run, NAMES[0], f)
    assert torch.allclose(z[:, 0], a)
    assert image_score(z[:, -1], a - 2 * b).max() < 1e-5
    assert len(made["pair"].data["frames"]["ends"]) == len(photos) * (1 + len(moves.ALPHAS))


def test_pair_opens_where_null_removal_turns_most(run, photos, made):
    f, T = ex.features(run, NAMES[0], photos), run.translator(NAMES[0])
    IS = image_score(T(f), T(run.spaces(NAMES[0]).remove_null(f))).numpy()
    top = run.head(NAMES[0]).logits(f).argmax(-1)
    known = np.array([run.head(NAMES[0]).label(int(i)) for i in top]) == photos["class"]
    assert 0 < known.sum() < len(photos)
    assert made["pair"].photo == np.flatnonzero(known)[IS[known].argmax()]


# ------------------------------------------------------------------------------ steering


@pytest.mark.parametrize("theta", [0.0, 7.5, 40.0])
def test_steering_numbers_give_every_score(run, photos, made, theta):
    data = made["steering"].data
    cosines, own, t = array(data["cosines"]), array(data["own"]), np.radians(theta)
    for k, name in enumerate(NAMES):
        f, T, spaces = ex.features(run, name, photos), run.translator(name), run.spaces(name)
        prompts = run.texts(name, [run.prompt(c) for c in photos["class"]]).double()
        for j, text in enumerate(data["texts"]):
            u = run.texts(name, [text])[0].double()
            result = steer(f, u, T, spaces, degrees=theta)
            au, bu, _, bw = cosines[k, :, j].T
            AS, own_AS = (
                angle_of(x, 1) - angle_of(np.cos(t) * x + np.sin(t) * y, 1)
                for x, y in ((au, bu), (own[k], bw))
            )
            limit, scale, moved = array(data["steps"])[k, :, j].T
            epsilon = scale * np.sin(t) / np.sin(np.radians(limit) - t) * f.norm(dim=-1).numpy()
            assert np.abs(limit - result.largest.numpy()).max() < 1e-4
            reached = ~result.epsilon.isnan().numpy()
            assert np.abs(AS - result.AS.numpy())[reached].max() < EXACT
            expected = attribute_score(T(f), T(result.f_eps), prompts).numpy()
            assert np.abs(own_AS - expected)[reached].max() < EXACT
            assert np.allclose(epsilon[reached], result.epsilon.numpy()[reached], rtol=1e-4)
            assert (moved < 1e-9).all()


def test_the_random_step_is_one_of_the_null_space(run, photos, made):
    """The control's plane comes from a direction that no logit sees, and a fixed seed."""
    again = moves.steering_planes(run, NAMES[0], photos, ["x"])["random"]
    random = array(made["steering"].data["random"])[0]
    assert np.array_equal(random, again.float().numpy())
    limit, scale = random.T
    assert ((limit > 20) & (limit < 160)).all()
    assert (scale > array(made["steering"].data["steps"])[0, :, 0, 1]).all()  # longer than the directed one


def test_targets_have_a_prompt_or_are_phrases(run):
    targets = moves.steering_targets(run)
    assert targets["pirate"] == "an image of a pirate"
    assert targets["tench"] == "an image of a tench"
    assert targets["a desert"] == "a desert"
    assert list(targets)[:2] == ["jellyfish", "pirate"]


def test_steering_frames_are_where_the_page_looks_for_them(made):
    """Of the first photo of each class and the run's targets, where a step reaches that far."""
    data, stops = made["steering"].data, len(moves.STEPS)
    row = 1 + data["ways"] * stops
    assert (data["ways"], len(data["frames"]["ends"])) == (2, 6 * row)
    limits = array(data["steps"])[0, :, :2, 0]
    for p in range(6):
        assert bool(picture_at(data["frames"], p * row)) == (p % 2 == 0)
        for j, i in itertools.product(range(2), range(stops)):
            reached = p % 2 == 0 and limits[p, j] > moves.STEPS[i] + 0.1
            assert bool(picture_at(data["frames"], p * row + 1 + j * stops + i)) == reached


# ---------------------------------------------------------------------------------- lens


def test_lens_means_and_ends(run, made, thumbnails):
    data = made["lens"].data
    means, ends, scores = (array(data[k]) for k in ("means", "ends", "endScores"))
    index = run.photos(NAMES[0]).index
    assert data["counts"] == [(index["class"] == c).sum() for c in CLASSES]
    name, c, j = NAMES[1], "jellyfish", 3
    k, i = NAMES.index(name), CLASSES.index(c)
    evaluation = run.photos(name)
    own = evaluation.rows(evaluation.index["class"] == c)
    T, text = run.translator(name), run.texts(name, [data["phrases"][j]])
    before = pairwise_angle(T(own.f), text)[:, 0].numpy()
    after = pairwise_angle(T(run.spaces(name).remove_null(own.f)), text)[:, 0].numpy()
    AS = before - after
    at = j + len(run.classes)  # after the classes' prompts
    refits = run.refits(name)
    toward, shared = (x[..., run.classes.index(c), at].numpy() for x in (refits.toward, refits.shared))
    found = sure(AS.mean(), stats.sem(AS), len(AS), toward, shared=shared)
    expected = [before.mean(), AS.mean(), found.high - found.value]
    assert means[k, i, j].tolist() == pytest.approx(expected, abs=1e-3)
    drawn = own.index["path"].isin(thumbnails["path"]).to_numpy()
    order = np.sort(AS[drawn])
    assert np.abs(scores[k, i, j] - np.r_[order[:2], order[-2:]]).max() < EXACT / 2
    for place, score in zip(ends[k, i, j], scores[k, i, j], strict=True):
        path = thumbnails["path"][place]
        assert abs(AS[(own.index["path"] == path).to_numpy()][0] - score) < EXACT / 2


def test_nobody_says_of_a_runs_own_photos_that_they_were_drawn(run, made):
    """Also where they come from ImageNet's folder. Without pictures there are no photos at the ends."""
    own = replace(run, profile=run.profile.model_copy(update={"imagenet_dir": "imagenet"}))
    data = lens.lens_numbers(own, pd.DataFrame({"path": [], "picture": []}))
    assert (data["ends"]["shape"][-1], data["means"]["shape"]) == (0, [2, 3, 8, 3])
    for numbers, drawn in ((made["lens"].data, True), (data, False)):
        assert numbers["drawn"] is drawn
        assert ("drawn" in numbers["pictureNote"]) is drawn


# ---------------------------------------------------------------------------------- dial


def test_dial_begins_at_the_exact_null_space_and_costs_grow_beyond_it(run):
    """At the first and the last stop against the features themselves."""
    spaces, head, T = run.spaces(NAMES[0]), run.head(NAMES[0]), run.translator(NAMES[0])
    ranks = dial.dial_ranks(spaces.rank)
    costs, concepts = dial.dial_table(run, NAMES[0], ranks)
    f, phrases = run.photos(NAMES[0]).f.double(), run.texts(NAMES[0], run.profile.phrases)
    W, bias = spaces.weight, head.bias
    for g in (0, -1):
        V = spaces.principal_basis[:, : ranks[g]]
        kept = (f @ V) @ V.mT
        change = ((f - kept) @ W.mT).abs().amax(-1)
        relative = change / (spaces.singular_values[0] * f.norm(dim=-1))
        moved = ((kept @ W.mT + bias).argmax(-1) != (f @ W.mT + bias).argmax(-1)).double()
        ignored = 1 - (kept.norm(dim=-1) / f.norm(dim=-1)) ** 2
        expected = [
            100 * ignored.mean(), relative.max(), change.median(), 100 * moved.mean(),
            image_score(T(f), T(kept)).median(),
        ]  # fmt: skip
        assert costs[g].tolist() == pytest.approx([float(x) for x in expected], rel=1e-6, abs=1e-10)
        AS = pairwise_angle(T(f), phrases) - pairwise_angle(T(kept), phrases)
        assert torch.allclose(concepts[g], AS.mean(0).double(), atol=1e-6)
    assert costs[0, 0] == pytest.approx(100 * float(spaces.null_energy(f).mean()), abs=1e-3)
    assert costs[0, 1] < 1e-12
    assert costs[0, 3] == 0
    assert (costs[1:, [0, 2]].diff(dim=0) > 0).all()
    assert (costs[1:, 1] > 1e-6).all()  # the certificate is zero no more


# ------------------------------------------------------------------------------- widgets


class Page:
    """The other end of a widget: what it was sent."""

    def __init__(self, widget):
        self.widget, self.heard = widget, []
        widget.send = lambda content, buffers=None: self.heard.append((content, buffers))

    def ask(self, **message):
        self.widget._answer(self.widget, message, [])
        return self.heard[-1] if self.heard else None


@pytest.mark.parametrize(
    ("name", "key"),
    [("pair", "cosines"), ("steering", "cosines"), ("steering", "steps"), ("lens", "means")],
)
def test_a_free_text_gets_the_numbers_that_the_page_has_of_others(fresh, name, key):
    """Asked for again as a free text, a phrase of the page gives its very numbers."""
    explorer = fresh(name)
    Page(explorer).ask(kind="prompt", text="a desert")
    data, own = explorer.data, array(explorer.prompts["a desert"][key])[:, :, 0]
    j = data["phrases" if name == "lens" else "texts"].index("a desert")
    assert np.allclose(own[..., :2], array(data[key])[:, :, j, :2], rtol=1e-5, atol=1e-4)
    assert name != "lens" or np.isnan(own[..., 2]).all()  # refits do not know the phrase


@pytest.mark.parametrize("text", ["", "word " * 400])
def test_a_text_that_cannot_be_read_is_answered_with_a_sentence(fresh, text):
    explorer = fresh("pair")
    answer, _ = Page(explorer).ask(kind="prompt", text=text)
    assert answer["kind"] == "error"
    assert "expected" in answer["message"]
    assert explorer.prompts == {}


def test_exact_pictures_are_drawn_on_demand(fresh):
    explorer = fresh("pair")
    answer, buffers = Page(explorer).ask(kind="draw", key="k", classifier=NAMES[0], photo=1, alpha=1.0)
    assert answer == {"kind": "picture", "key": "k"}
    kept = picture_at(explorer.data["frames"], 1 * (1 + 3) + 1 + moves.ALPHAS.index(1.0))
    both = [np.asarray(Image.open(io.BytesIO(x)).convert("RGB"), float) for x in (kept, buffers[0])]
    assert np.abs(both[0] - both[1]).mean() < 2  # drawn in another batch

    page, point = Page(fresh("steering")), {"classifier": NAMES[0], "photo": 0, "target": "a desert"}
    answer, buffers = page.ask(kind="draw", key="k", degrees=10.0, **point)
    assert Image.open(io.BytesIO(buffers[0])).size == (64, 64)
    answer, _ = page.ask(kind="draw", key="k", degrees=89.9, **point)
    assert "fewer degrees" in answer["message"]


@pytest.mark.parametrize("name", ["pair", "steering", "lens", "dial", "basis"])
def test_an_explorer_brings_a_chart_of_its_first_state(made, name):
    bundle, _ = made[name]._repr_mimebundle_()
    chart = bundle["application/vnd.vegalite.v5+json"]
    assert chart["usermeta"]["widget"] == made[name].model_id
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == made[name].model_id
    assert chart["description"]
    assert chart["title"]["text"]


def test_the_pairs_first_state_says_its_scores(run, photos, made):
    f, T = ex.features(run, NAMES[0], photos.iloc[[made["pair"].photo]]), run.translator(NAMES[0])
    IS = float(image_score(T(f), T(run.spaces(NAMES[0]).remove_null(f))))
    assert f"{IS:.2f}°" in str(made["pair"].first_state().to_dict()["title"])


@pytest.mark.parametrize("target", ["tench", "a desert", "a text of one's own"])
def test_steering_is_shown_again_after_another_choice(fresh, target):
    explorer = fresh("steering")
    explorer.target = target
    assert target in explorer.first_state().to_dict()["title"]["text"]


@pytest.mark.parametrize(
    ("name", "trait", "text", "encoded"),
    [
        ("pair", "toward", "a lighthouse", "a lighthouse"),
        ("steering", "target", "a lighthouse", "a lighthouse"),
        ("steering", "target", "“jellyfish”", "jellyfish"),  # not the prompt of that short name
    ],
)
def test_a_text_set_from_python_is_encoded(fresh, name, trait, text, encoded):
    explorer = fresh(name)
    setattr(explorer, trait, text)
    assert array(explorer.prompts[encoded]["cosines"]).shape[:3] == (len(NAMES), 6, 1)
    setattr(explorer, trait, "a desert")  # the page has it
    assert list(explorer.prompts) == [encoded]


def test_a_setting_out_of_bounds_is_refused(fresh):
    with pytest.raises(TraitError):
        fresh("pair").alpha = 3.0


def test_any_failure_is_answered(fresh):
    for message in ({"kind": "prompt", "text": "x"}, {"kind": "draw", "key": "k"}):
        answer, _ = Page(fresh("dial")).ask(**message)  # which knows neither
        assert answer["kind"] == "error"
    page = Page(fresh("pair"))
    with pytest.raises(KeyError):
        page.ask(kind="draw", key="k")
    assert page.heard[-1][0]["kind"] == "error"
