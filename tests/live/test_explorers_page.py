"""The live explorers in a real browser: every control is used, every number checked against sing_utils.

The pages hold a small run and are opened from the disk; the explorers of the built book have tests of
their own in test_book_explorers.py.
"""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch
from browser import DESK, PHONE
from explorer_page import Driver, number, write_page
from small_run import CLASSES, NAMES, small_run

from sing_utils import Translator, attribute_score, image_score, steer
from sing_utils.live import dial
from sing_utils.live import explorers as ex
from sing_utils.live.widgets import BasisExplorer, ConceptLens, NullSpaceDial, PairExplorer, SteeringExplorer
from sing_utils.measure import basis as tables_basis
from sing_utils.measure.tables import class_angles, sure_phrases
from sing_utils.method.scores import pairwise_angle

SHOWN = 0.01  # degrees: two decimals are written, and what is written was computed to better than that


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def explorers(run):
    pair = PairExplorer.of(run)
    pair.photo = 2  # the first sports car, as in the steering explorer
    return {
        "pair": pair,
        "steering": SteeringExplorer.of(run),
        "lens": ConceptLens.of(run),
        "dial": NullSpaceDial.of(run),
        "basis": BasisExplorer.of(run, tables_basis.stretches(run)),
    }


@pytest.fixture(scope="module")
def address(explorers, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page"), explorers).as_uri()


@pytest.fixture
def opened(watched, address):
    def open_page(name, fragment=""):
        watched.page.set_viewport_size(DESK)
        watched.open(address + fragment)
        watched.page.wait_for_selector(f"[data-explorer={name}] .sx-view *")
        driver = Driver(watched, name)
        driver.settle()
        return driver

    yield open_page
    assert watched.wrong == []


# ---------------------------------------------------------------------------------- pair


def pair_of(run, name, row, alpha):
    """T f and T(f - α Π_n f) of an offered photo."""
    f = ex.features(run, name, ex.offered_photos(run).iloc[[row]])
    T = run.translator(name)
    return T(f), T(f - alpha * run.spaces(name).null_component(f))


def test_pair_shows_the_scores_of_every_setting(run, opened):
    pair = opened("pair")
    for name, c, alpha in [(NAMES[0], "tench", -1), (NAMES[1], "jellyfish", 0.37), (NAMES[1], "tench", 2)]:
        pair.choose("Classifier", name)
        pair.choose("Class", c)
        pair.slide("How much of the null component is taken away", alpha)
        z, z_tilde = pair_of(run, name, 2 * CLASSES.index(c), alpha)
        judge = run.judge(name)
        text = judge.encode_text([f"an image of a {c}"]).double()
        assert pair.number(".sx-value", 0) == pytest.approx(float(image_score(z, z_tilde)), abs=SHOWN)
        expected = float(attribute_score(z, z_tilde, text))
        assert pair.number(".sx-value", 1) == pytest.approx(expected, abs=SHOWN)

        phrases = run.profile.phrases
        u = judge.encode_text(phrases).double()
        before, after = pairwise_angle(z, u)[0].numpy(), pairwise_angle(z_tilde, u)[0].numpy()
        order = after.argsort()
        shown = pair.rows("Nearest phrases now")
        assert [row[1] for row in shown] == [phrases[j] for j in order][: len(shown)]
        was = before.argsort().argsort() + 1
        for row, j in zip(shown, order, strict=False):
            assert number(row[2]) == pytest.approx(after[j], abs=SHOWN)
            assert number(row[3]) == pytest.approx(before[j] - after[j], abs=SHOWN)
            assert int(row[4]) == was[j]
        best = (before - after).argsort()[::-1]
        rose = [row[0] for row in pair.rows("Came closer most")]
        assert rose == [phrases[j] for j in best if before[j] > after[j]][:5]


def test_pair_logits_do_not_move_and_are_the_classifiers(run, opened):
    pair = opened("pair")
    pair.slide("How much of the null component is taken away", 0)
    still = pair.text(".sx-bar-value")
    lengths = "(bars) => bars.map((b) => b.getBoundingClientRect().width)"
    drawn = pair.root.locator(".sx-bar").evaluate_all(lengths)
    for alpha in (-1, 1, 2):
        pair.slide("How much of the null component is taken away", alpha)
        assert pair.text(".sx-bar-value") == still
        assert pair.root.locator(".sx-bar").evaluate_all(lengths) == drawn
        assert "10⁻¹" in pair.text(".sx-note")[0]  # about 1e-15, measured
    photo = ex.offered_photos(run).iloc[[2]]
    top = ex.top_logits(run, NAMES[0], ex.features(run, NAMES[0], photo))
    assert [number(x) for x in still] == pytest.approx(top["logit"].to_list(), abs=1e-4)
    assert pair.text(".sx-bar-name") == top["class"].to_list()


def test_pair_by_mouse_and_by_keyboard(run, opened):
    pair = opened("pair")
    slider = pair.root.get_by_role("slider")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    pair.page.mouse.move(box["x"] + 0.67 * box["width"], middle)
    pair.page.mouse.down()
    pair.page.mouse.move(box["x"] + 0.2 * box["width"], middle, steps=5)
    pair.page.mouse.up()
    pair.settle()
    alpha = float(slider.input_value())
    assert -0.6 < alpha < -0.2
    z, z_tilde = pair_of(run, NAMES[0], 2, alpha)
    assert pair.number(".sx-value") == pytest.approx(float(image_score(z, z_tilde)), abs=SHOWN)
    slider.focus()
    pair.page.keyboard.press("Home")
    pair.page.keyboard.press("ArrowRight")
    pair.settle()
    assert float(slider.input_value()) == pytest.approx(-0.99)
    assert slider.get_attribute("aria-valuetext") == "α = −0.99"


def test_pair_toward_another_text(run, opened):
    pair = opened("pair")
    pair.choose("Attribute Score toward", "shiny metal")
    z, z_tilde = pair_of(run, NAMES[0], 2, 1.0)
    text = run.judge(NAMES[0]).encode_text(["shiny metal"]).double()
    assert pair.number(".sx-value", 1) == pytest.approx(float(attribute_score(z, z_tilde, text)), abs=SHOWN)


def test_pair_pictures_fade_between_frames(opened):
    pair = opened("pair")
    pair.slide("How much of the null component is taken away", 0.25)
    images = pair.root.locator(".sx-figure").nth(1).locator("img")
    assert images.evaluate_all("(is) => is.every((i) => i.complete && i.naturalWidth === 64)")
    assert float(images.nth(1).evaluate("(i) => getComputedStyle(i).opacity")) == pytest.approx(0.25)
    assert images.nth(0).get_attribute("src") != images.nth(1).get_attribute("src")
    caption = pair.root.locator("figcaption").nth(1)
    assert caption.inner_text() == "α = 0.25, blend of 0 and 1"
    pair.slide("How much of the null component is taken away", 1)
    assert caption.inner_text() == "α = 1.00, drawn"


def test_pair_computes_before_your_eyes(run, opened):
    pair = opened("pair")
    pair.root.get_by_text("How is this computed").click()
    z, z_tilde = pair_of(run, NAMES[0], 2, 1.0)
    formulas = " ".join(pair.text(".sx-formula"))
    assert f"= {float(image_score(z, z_tilde)):.3f}°" in formulas
    assert f"a·b = {float((z * (z - z_tilde)).sum()):.5g}"[:12].replace("-", "−") in formulas


# ------------------------------------------------------------------------------ steering


@pytest.mark.parametrize(
    ("target", "text", "theta"),
    [("jellyfish", "an image of a jellyfish", 40), ("a desert", "a desert", 12.5)],
)
def test_steering_shows_scores_and_step(run, opened, target, text, theta):
    steering = opened("steering")
    steering.choose("Classifier", NAMES[1])
    steering.choose("Toward", target)
    steering.slide("Wanted Image Score", theta)
    photo = ex.offered_photos(run).iloc[[2]]
    f, T = ex.features(run, NAMES[1], photo), run.translator(NAMES[1])
    judge = run.judge(NAMES[1])
    u, own = judge.encode_text([text, "an image of a sports car"]).double()
    result = steer(f, u, T, run.spaces(NAMES[1]), degrees=float(theta))
    assert steering.number("dd", 0) == pytest.approx(float(result.AS), abs=SHOWN)
    expected = float(attribute_score(T(f), T(result.f_eps), own))
    assert steering.number("dd", 1) == pytest.approx(expected, abs=SHOWN)
    assert steering.number("dd", 3) == pytest.approx(float(result.epsilon / f.norm()), abs=0.006)


def test_steering_says_where_it_ends(run, opened):
    steering = opened("steering")
    still = steering.text(".sx-bar-value")
    steering.slide("Wanted Image Score", 90)
    f = ex.features(run, NAMES[0], ex.offered_photos(run).iloc[[2]])
    u = run.texts(NAMES[0], ["an image of a jellyfish"])[0]
    assert float(steer(f, u, run.translator(NAMES[0]), run.spaces(NAMES[0])).largest) < 90
    assert steering.text("dd")[0] == steering.text("dd")[3] == "out of reach"
    assert steering.text(".sx-bar-value") == still
    assert steering.root.locator(".sx-dot").evaluate_all("(d) => d.every((x) => x.style.display === 'none')")


def test_steering_pictures_or_why_there_are_none(opened):
    steering = opened("steering")
    steering.slide("Wanted Image Score", 30)
    end = steering.root.locator(".sx-figure").nth(1)
    assert end.locator("img").evaluate_all("(is) => is.every((i) => i.naturalWidth === 64)")
    assert end.locator("figcaption").inner_text() == "IS = 30.0°, blend of 20° and 40°"
    assert float(end.locator("img").nth(1).evaluate("(i) => i.style.opacity")) == pytest.approx(0.5)
    steering.choose("Toward", "a desert")
    assert end.inner_text().startswith("no picture: efficientnet_lite0")


# ---------------------------------------------------------------------------------- lens


def test_lens_filters_and_sorts(run, opened):
    lens = opened("lens")
    count = len(run.profile.phrases)
    assert len(lens.rows("phrases")) == count
    angles = [number(row[3]) for row in lens.rows("phrases")]
    assert angles == sorted(angles, reverse=True)  # as it opens: what came closer first
    lens.root.get_by_role("button", name="before").click()
    lens.settle()
    befores = [number(row[1]) for row in lens.rows("phrases")]
    assert befores == sorted(befores)
    assert lens.root.locator("[aria-sort=ascending]").inner_text().startswith("before")
    lens.root.get_by_role("button", name="before").click()
    lens.settle()
    assert [number(row[1]) for row in lens.rows("phrases")] == sorted(befores, reverse=True)
    lens.root.get_by_label("Show phrases with").press_sequentially("a DE")
    lens.settle()
    assert [row[0] for row in lens.rows("phrases")] == ["a desert"]
    assert lens.text("p[role=status]")[0].startswith(f"1 of {count} phrases with “a de”; ")
    lens.root.get_by_label("Show phrases with").fill("nothing like it")
    lens.settle()
    assert lens.text("p[role=status]")[0] == "No phrase contains “nothing like it”."
    assert not lens.root.locator("table").is_visible()


def test_lens_is_one_stop_with_arrow_keys(run, opened):
    lens = opened("lens")
    phrases = [row[0].removeprefix("› ") for row in lens.rows("phrases")]
    lens.root.get_by_role("button", name="AS (°)").focus()
    lens.page.keyboard.press("Tab")
    focused = "document.activeElement.textContent"
    assert lens.page.evaluate(focused) == phrases[0]
    for key, place in [
        ("ArrowDown", 1),
        ("ArrowDown", 2),
        ("ArrowUp", 1),
        ("End", -1),
        ("ArrowDown", -1),
        ("Home", 0),
    ]:
        lens.page.keyboard.press(key)
        lens.settle()
        assert lens.page.evaluate(focused) == phrases[place]
        assert lens.text(".sx-detail h4") == [phrases[place]]
    lens.page.keyboard.press("Tab")
    assert lens.page.evaluate(focused) not in phrases


def test_lens_points_nowhere_where_the_interval_holds_zero(run, opened):
    lens = opened("lens")
    known = {}
    for c in CLASSES:
        lens.choose("Class", c)
        before, after, _ = class_angles(run, NAMES[0], c, run.texts(NAMES[0], run.profile.phrases))
        turn = sure_phrases(run, NAMES[0], c, before - after)
        sure = turn.low * turn.high > 0
        for phrase, _, _, shown in lens.rows("phrases"):
            j = run.profile.phrases.index(phrase.removeprefix("› "))
            assert (shown[0] in "▲▼") == sure[j]
            known[bool(sure[j])] = shown
    assert set(known) == {True, False}
    moved = lens.root.locator("td.sx-moved").evaluate_all(
        "(cells) => cells.map((c) => [/[▲▼]/.test(c.textContent), getComputedStyle(c).color])"
    )
    assert {color for pointed, color in moved if pointed}.isdisjoint(
        {color for pointed, color in moved if not pointed}
    )


def test_lens_shows_a_phrase_in_detail(run, opened):
    lens = opened("lens")
    lens.choose("Classifier", NAMES[1])
    lens.choose("Class", "tench")
    lens.root.get_by_role("button", name="the sea").click()
    lens.settle()
    evaluation, T = run.photos(NAMES[1]), run.translator(NAMES[1])
    own = evaluation.rows(evaluation.index["class"] == "tench")
    text = run.judge(NAMES[1]).encode_text(["the sea"])
    before = pairwise_angle(T(own.f), text).mean().item()
    after = pairwise_angle(T(run.spaces(NAMES[1]).remove_null(own.f)), text).mean().item()
    row = next(r for r in lens.rows("phrases") if r[0] == "the sea")
    assert number(row[1]) == pytest.approx(before, abs=SHOWN)
    assert number(row[2]) == pytest.approx(after, abs=SHOWN)
    assert number(row[3]) == pytest.approx(before - after, abs=SHOWN)
    detail = lens.root.locator(".sx-detail")
    assert detail.locator("h4").inner_text() == "the sea"
    scores = [number(t.removeprefix("AS ")) for t in detail.locator("figcaption").all_inner_texts()]
    assert detail.locator("img").evaluate_all("(is) => is.map((i) => i.naturalWidth)") == [64] * len(scores)
    closer, away = ([x for x in scores if sign * x > 0] for sign in (1, -1))
    assert scores == sorted(closer, reverse=True) + sorted(away)  # closest first, then farthest first
    assert closer or away


# ---------------------------------------------------------------------------------- dial


def test_dial_by_slider_and_on_the_plot(run, opened):
    panel = opened("dial")
    name = NAMES[0]
    ranks = dial.dial_ranks(run.spaces(name).rank)
    costs, concepts = dial.dial_table(run, name, ranks)
    assert panel.text("dd")[0] == f"{run.spaces(name).null_dim} of 1280"
    assert "exact null space" in panel.text("p[role=status]")[0]
    slider = panel.root.get_by_role("slider")
    slider.focus()
    for _ in range(12):
        panel.page.keyboard.press("ArrowLeft")
    panel.settle()
    g = 12
    assert panel.text("dd")[0] == f"{1280 - ranks[g]} of 1280"
    assert panel.number("dd", 1) == pytest.approx(float(costs[g, 0]), abs=0.051)
    assert panel.number("dd", 4) == pytest.approx(float(costs[g, 3]), abs=0.051)
    assert panel.number("dd", 5) == pytest.approx(float(costs[g, 4]), abs=SHOWN)
    assert "no equivalents" in panel.text("p[role=status]")[0]
    order = concepts[g].argsort()
    away = panel.rows("Moved away most")
    expected = [int(j) for j in order if concepts[g, j] < 0][:6]
    assert expected
    for row, j in zip(away, expected, strict=True):
        assert row[0] == run.profile.phrases[j]
        assert number(row[1]) == pytest.approx(float(concepts[g, j]), abs=SHOWN)

    plot = panel.root.locator(".sx-drag")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    panel.page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 40)
    panel.page.mouse.down()
    panel.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 40, steps=4)
    panel.page.mouse.up()
    panel.settle()
    kept = 1280 - int(panel.text("dd")[0].split()[0])
    wanted = (0.5 * 340 - 44) / (340 - 44 - 18) * 1280  # see spectrumPlot
    assert kept in ranks
    assert abs(kept - wanted) <= max(np.abs(np.diff(ranks))) / 2 + 4


# --------------------------------------------------------------------------------- basis


def test_a_stretch_moves_scores_and_no_logit(run, opened):
    panel = opened("basis")
    name, scales = NAMES[1], tables_basis.SCALES
    panel.choose("Classifier", name)
    bars = panel.text(".sx-bar-value")
    stays = panel.text("tbody td")[1::2]
    before = panel.number("tbody td")
    panel.slide("Stretch of the null component", len(scales) - 1)
    assert "s = 10" in panel.text("output")[0]
    fit, new, spaces = run.photos(name, "fit"), run.photos(name), run.spaces(name)
    f_fit, f = (x + 9 * spaces.null_component(x) for x in (fit.f.double(), new.f.double()))
    T = Translator.fit(f_fit, fit.z, held_out=run.profile.held_out, seed=run.seed)
    texts = run.texts(name, run.prompts)[new.own].double()
    pair = T(f), T(spaces.remove_null(f))
    scores = image_score(*pair), attribute_score(*pair, texts).abs()
    assert [panel.number("tbody td", i) for i in (0, 2)] == pytest.approx(
        [float(x.quantile(0.5)) for x in scores], abs=SHOWN
    )
    assert panel.number("tbody td") > before + 1
    assert panel.text(".sx-bar-value") == bars
    assert panel.text("tbody td")[1::2] == stays
    linked = opened("basis", f"#explore-basis?classifier={name}&s=9")  # the nearest stop
    assert linked.text("tbody td")[0] == panel.text("tbody td")[0]


# ------------------------------------------------------------------------------- manners


def test_a_link_restores_a_view(run, opened):
    pair = opened("pair", f"#explore-pair?classifier={NAMES[1]}&photo=5&alpha=-0.5&toward=a+desert")
    z, z_tilde = pair_of(run, NAMES[1], 5, -0.5)
    text = run.judge(NAMES[1]).encode_text(["a desert"]).double()
    assert pair.number(".sx-value", 0) == pytest.approx(float(image_score(z, z_tilde)), abs=SHOWN)
    assert pair.number(".sx-value", 1) == pytest.approx(float(attribute_score(z, z_tilde, text)), abs=SHOWN)
    assert pair.root.get_by_label("Class", exact=True).input_value() == "jellyfish"
    lens = opened("lens", "#explore-lens?class_name=tench&filter=sea&order=phrase")
    assert [row[0] for row in lens.rows("phrases")] == ["the sea"]
    assert lens.root.evaluate("(e) => e.getBoundingClientRect().top < innerHeight")


def test_a_broken_link_changes_nothing(opened):
    for alpha in ("7", "much", ""):
        pair = opened("pair", f"#explore-pair?classifier=none&photo=99&alpha={alpha}&toward=%00&colour=red")
        assert pair.root.get_by_role("slider").input_value() == "1"
    assert pair.root.get_by_label("Classifier").input_value() == NAMES[0]
    assert pair.root.get_by_label("Class", exact=True).input_value() == "sports car"


def test_a_copied_link_leads_back(opened):
    pair = opened("pair")
    pair.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    pair.slide("How much of the null component is taken away", 1.75)
    shown = pair.text(".sx-value")
    pair.root.get_by_role("button", name="Copy link to this view").click()
    pair.page.wait_for_function("document.querySelector('[data-explorer=pair] .sx-status').textContent")
    link = pair.page.evaluate("navigator.clipboard.readText()")
    again = opened("pair", "#" + link.split("#")[1])
    assert again.text(".sx-value") == shown


@pytest.mark.parametrize("name", ["pair", "steering", "lens", "dial", "basis"])
def test_values_are_copied_as_csv(run, opened, name):
    driver = opened(name)
    driver.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    driver.root.get_by_role("button", name="Copy values (CSV)").click()
    driver.page.wait_for_function(f"document.querySelector('[data-explorer={name}] .sx-status').textContent")
    rows = list(csv.DictReader(io.StringIO(driver.page.evaluate("navigator.clipboard.readText()"))))
    assert len(rows) > 5
    assert all(None not in row and None not in row.values() for row in rows)
    assert rows[0]["classifier"] == NAMES[0]
    if name == "pair":
        z, z_tilde = pair_of(run, NAMES[0], 2, 1.0)
        texts = [row["text"] for row in rows]
        assert 'quoted "glass", broken' in texts
        u = run.judge(NAMES[0]).encode_text(texts).double()
        expected = (pairwise_angle(z, u) - pairwise_angle(z_tilde, u))[0]
        AS = torch.tensor([float(row["AS (degrees)"]) for row in rows], dtype=torch.float64)
        assert (AS - expected).abs().max() < SHOWN


@pytest.mark.parametrize("name", ["pair", "steering", "lens", "dial", "basis"])
def test_every_control_is_reached_and_named(opened, name):
    """By the tabulator alone, with a focus that can be seen."""
    driver = opened(name)
    wanted = driver.root.locator(
        "select:enabled, input:enabled, summary, button:enabled:not([tabindex='-1'])"
    )
    visible = [e for e in wanted.all() if e.is_visible()]
    driver.root.evaluate("(e) => { e.tabIndex = -1; e.focus(); }")
    reached, unseen = set(), []
    for _ in range(len(visible) + 2):
        driver.page.keyboard.press("Tab")
        inside, key, outline = driver.page.evaluate(
            """(name) => {
              const e = document.activeElement;
              const all = [...document.querySelectorAll(`[data-explorer=${name}] *`)];
              const style = getComputedStyle(e);
              const outline = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth);
              return [all.includes(e), all.indexOf(e), outline];
            }""",
            name,
        )
        if inside:
            reached.add(key)
            unseen += [] if outline else [key]
    assert len(reached) == len(visible)
    assert unseen == []


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_axe_finds_nothing(watched, explorers, tmp_path, look):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    watched.page.set_viewport_size(PHONE if look == "phone" else DESK)
    theme = "dark" if look == "dark" else "light"
    watched.open(write_page(tmp_path, explorers, theme=theme).as_uri())
    watched.page.locator("details").evaluate_all("(all) => all.forEach((d) => (d.open = true))")
    found = axe.Axe().run(watched.page, context=".sing-explorer").response["violations"]
    assert [(v["id"], [n["target"] for n in v["nodes"]]) for v in found] == []


def test_a_phone_shows_all_of_it(watched, address):
    watched.page.set_viewport_size(PHONE)
    watched.open(address)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    wide = watched.page.locator(".sing-explorer").evaluate_all(
        "(es) => es.map((e) => [e.scrollWidth, e.clientWidth])"
    )
    assert all(scroll <= client for scroll, client in wide)
    assert watched.wrong == []


def test_a_page_without_python_says_so(opened):
    pair = opened("pair")
    assert pair.root.locator(".sx-prompt input").is_disabled()
    assert pair.root.locator(".sx-needs").is_visible()
    assert pair.root.get_by_role("button", name="Draw exactly this").count() == 0


def test_a_bare_word_is_another_target_than_its_prompt(run, watched, tmp_path):
    """What was asked for as "jellyfish" is not steered toward "an image of a jellyfish"."""
    explorer = SteeringExplorer.of(run)
    explorer.prompts = {"jellyfish": explorer._encode("jellyfish")}
    watched.open(write_page(tmp_path, {"steering": explorer}).as_uri())
    steering = Driver(watched, "steering")
    steering.choose("Toward", "“jellyfish”")
    f = ex.features(run, NAMES[0], ex.offered_photos(run).iloc[[2]])
    u = run.judge(NAMES[0]).encode_text(["jellyfish"])[0].double()
    result = steer(f, u, run.translator(NAMES[0]), run.spaces(NAMES[0]), degrees=40.0)
    assert steering.number("dd", 0) == pytest.approx(float(result.AS), abs=SHOWN)
