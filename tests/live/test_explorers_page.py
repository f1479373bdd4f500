"""The live explorers in a real browser: every control is used, every number checked against sing_utils.

The pages hold a small run and are opened from the disk; the explorers of the built book have tests of
their own in test_book_explorers.py.
"""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from browser import DESK, PHONE, axe_finds
from explorer_page import Driver, number, open_live, write_page
from small_run import CLASSES, NAMES

from sing_utils import Translator, attribute_score, image_score, steer
from sing_utils.live import dial, moves
from sing_utils.live import explorers as ex
from sing_utils.live.widgets import PairExplorer, SteeringExplorer
from sing_utils.measure import basis as tables_basis
from sing_utils.measure.tables import class_angles, sure_phrases
from sing_utils.method.scores import pairwise_angle

SHOWN = 0.01  # degrees: two decimals are written, and what is written was computed to better than that
CAR = 2  # the first sports car, which both explorers of one photo show as they open
every = pytest.mark.parametrize("name", ["pair", "steering", "lens", "dial", "basis"])


@pytest.fixture(scope="module")
def explorers(run, made):
    pair = PairExplorer(run, data=made["pair"].data, photo=CAR)
    return made | {"pair": pair}


@pytest.fixture(scope="module")
def address(explorers, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page"), explorers).as_uri()


@pytest.fixture
def opened(watched, address):
    def open_page(name, fragment=""):
        watched.page.set_viewport_size(DESK)
        watched.open(address + fragment)
        watched.page.wait_for_selector(f"[data-explorer={name}] .sx-view *")
        return Driver(watched.page, name)

    yield open_page
    assert watched.wrong == []


def pair_of(run, name, row, alpha):
    """T f and T(f - α Π_n f) of an offered photo."""
    f, T = ex.features(run, name, moves.offered_photos(run).iloc[[row]]), run.translator(name)
    return T(f), T(f - alpha * run.spaces(name).null_component(f))


def scores_of(run, name, row, alpha, text):
    """IS and AS of that pair."""
    z, z_tilde = pair_of(run, name, row, alpha)
    u = run.judge(name).encode_text([text]).double()
    return [float(image_score(z, z_tilde)), float(attribute_score(z, z_tilde, u))]


def steered(run, name, text, theta):
    """The car after a step, and AS toward a text of one's own; and that feature."""
    f = ex.features(run, name, moves.offered_photos(run).iloc[[CAR]])
    u = run.judge(name).encode_text([text])[0].double()
    return f, steer(f, u, run.translator(name), run.spaces(name), degrees=float(theta))


# ---------------------------------------------------------------------------------- pair


def test_pair_shows_the_scores_of_every_setting(run, opened):
    pair = opened("pair")
    for name, c, alpha in [(NAMES[0], "tench", -1), (NAMES[1], "jellyfish", 0.37), (NAMES[1], "tench", 2)]:
        pair.choose("Classifier", name)
        pair.choose("Class", c)
        pair.slide(alpha)
        row, phrases = 2 * CLASSES.index(c), run.profile.phrases
        expected = scores_of(run, name, row, alpha, f"an image of a {c}")
        assert pair.numbers(".sx-value") == pytest.approx(expected, abs=SHOWN)

        u = run.judge(name).encode_text(phrases).double()
        before, after = (pairwise_angle(z, u)[0].numpy() for z in pair_of(run, name, row, alpha))
        order, was = after.argsort(), before.argsort().argsort() + 1
        shown = pair.rows("Nearest phrases now")
        assert [row[1] for row in shown] == [phrases[j] for j in order]
        for row, j in zip(shown, order, strict=True):
            assert [number(x) for x in row[2:4]] == pytest.approx([after[j], before[j] - after[j]], abs=SHOWN)
            assert int(row[4]) == was[j]
        best = (before - after).argsort()[::-1]
        rose = [row[0] for row in pair.rows("Came closer most")]
        assert rose == [phrases[j] for j in best if before[j] > after[j]][:5]


def test_pair_logits_do_not_move_and_are_the_classifiers(run, opened):
    pair = opened("pair")
    lengths = "(bars) => bars.map((b) => b.getBoundingClientRect().width)"
    seen = []
    for alpha in (0, -1, 1, 2):
        pair.slide(alpha)
        seen.append((pair.text(".sx-bar-value"), pair.root.locator(".sx-bar").evaluate_all(lengths)))
        assert seen[-1] == seen[0]
    assert "10⁻¹" in pair.text(".sx-note")[0]  # about 1e-15, measured
    photo = moves.offered_photos(run).iloc[[CAR]]
    top = ex.top_logits(run, NAMES[0], ex.features(run, NAMES[0], photo))
    assert pair.numbers(".sx-bar-value") == pytest.approx(top["logit"].to_list(), abs=1e-4)
    assert pair.text(".sx-bar-name") == top["class"].to_list()


def test_pair_by_mouse_and_by_keyboard(run, opened):
    pair = opened("pair")
    pair.drag(pair.slider, 0.67, 0.2)
    alpha = float(pair.slider.input_value())
    assert -0.6 < alpha < -0.2
    expected = scores_of(run, NAMES[0], CAR, alpha, "an image of a sports car")
    assert pair.numbers(".sx-value") == pytest.approx(expected, abs=SHOWN)
    pair.slider.focus()
    pair.page.keyboard.press("Home")
    pair.page.keyboard.press("ArrowRight")
    pair.settle()
    assert float(pair.slider.input_value()) == pytest.approx(-0.99)
    assert pair.slider.get_attribute("aria-valuetext") == "α = −0.99"


@pytest.mark.parametrize(
    ("name", "between", "caption", "weight", "at", "there"),
    [
        ("pair", 0.25, "α = 0.25, blend of 0 and 1", 0.25, 1, "α = 1.00, drawn"),
        ("steering", 30, "IS = 30.0°, blend of 20° and 40°", 0.5, 20, "IS = 20.0°, drawn"),
    ],
)
def test_pictures_fade_between_frames_or_say_why_there_are_none(
    opened, name, between, caption, weight, at, there
):
    explorer = opened(name)
    end = explorer.root.locator(".sx-figure").nth(1)
    explorer.slide(between)
    images = end.locator("img")
    assert images.evaluate_all("(is) => is.every((i) => i.complete && i.naturalWidth === 64)")
    assert images.nth(0).get_attribute("src") != images.nth(1).get_attribute("src")
    assert float(images.nth(1).evaluate("(i) => getComputedStyle(i).opacity")) == pytest.approx(weight)
    assert end.locator("figcaption").inner_text() == caption
    explorer.slide(at)
    assert end.locator("figcaption").inner_text() == there
    explorer.choose("Classifier", NAMES[1])
    assert end.inner_text().startswith("no picture: ")


def test_pair_computes_before_your_eyes_and_says_what_needs_python(run, opened):
    pair = opened("pair")
    assert pair.root.locator(".sx-prompt input").is_disabled()
    assert pair.root.locator(".sx-needs").is_visible()
    assert pair.root.get_by_role("button", name="Draw exactly this").count() == 0
    pair.root.get_by_text("How is this computed").click()
    z, z_tilde = pair_of(run, NAMES[0], CAR, 1.0)
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
    steering.slide(theta)
    f, result = steered(run, NAMES[1], text, theta)
    T, own = run.translator(NAMES[1]), run.judge(NAMES[1]).encode_text(["an image of a sports car"]).double()
    expected = [float(result.AS), float(attribute_score(T(f), T(result.f_eps), own))]
    shown = steering.numbers("dd")
    assert shown[:2] == pytest.approx(expected, abs=SHOWN)
    assert shown[3] == pytest.approx(float(result.epsilon / f.norm()), abs=0.006)


def test_each_target_has_a_picture_of_its_own_and_steering_says_where_it_ends(run, opened):
    steering, shown = opened("steering"), set()
    steering.slide(20)
    for target in reversed(run.targets):
        steering.choose("Toward", target)
        image = steering.root.locator(".sx-figure").nth(1).locator("img").first
        shown.add(image.get_attribute("src"))
    assert len(shown) == len(run.targets) == 2
    still = steering.text(".sx-bar-value")
    steering.slide(90)
    assert float(steered(run, NAMES[0], "an image of a jellyfish", 90)[1].largest) < 90
    assert steering.text("dd")[0] == steering.text("dd")[3] == "out of reach"
    assert steering.text(".sx-bar-value") == still
    assert steering.root.locator(".sx-dot").evaluate_all("(d) => d.every((x) => x.style.display === 'none')")


def test_a_bare_word_is_another_target_than_its_prompt(run, watched, tmp_path):
    """What was asked for as "jellyfish" is not steered toward "an image of a jellyfish"."""
    explorer = SteeringExplorer.of(run)
    explorer.prompts = {"jellyfish": explorer._encode("jellyfish")}
    watched.open(write_page(tmp_path, {"steering": explorer}).as_uri())
    steering = Driver(watched.page, "steering")
    steering.choose("Toward", "“jellyfish”")
    _, result = steered(run, NAMES[0], "jellyfish", 40)
    assert steering.numbers("dd")[0] == pytest.approx(float(result.AS), abs=SHOWN)


# ---------------------------------------------------------------------------------- lens


def test_lens_filters_and_sorts(run, opened):
    lens = opened("lens")
    count = len(run.profile.phrases)

    def column(place):
        return [number(row[place]) for row in lens.rows("phrases")]

    assert len(column(3)) == count
    assert column(3) == sorted(column(3), reverse=True)  # as it opens: what came closer first
    lens.press("before")
    befores = column(1)
    assert befores == sorted(befores)
    assert lens.root.locator("[aria-sort=ascending]").inner_text().startswith("before")
    lens.press("before")
    assert column(1) == sorted(befores, reverse=True)
    search = lens.root.get_by_label("Show phrases with")
    search.press_sequentially("a DE")
    lens.settle()
    assert [row[0] for row in lens.rows("phrases")] == ["a desert"]
    assert lens.text("p[role=status]")[0].startswith(f"1 of {count} phrases with “a de”; ")
    search.fill("nothing like it")
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
    keys = ["ArrowDown", "ArrowDown", "ArrowUp", "End", "ArrowDown", "Home"]
    for key, place in zip(keys, [1, 2, 1, -1, -1, 0], strict=True):
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
    lens.press("the sea")
    before, after, _ = class_angles(run, NAMES[1], "tench", run.texts(NAMES[1], ["the sea"]))
    row = next(r for r in lens.rows("phrases") if r[0] == "the sea")
    expected = [float(x.mean()) for x in (before, after, before - after)]
    assert [number(x) for x in row[1:]] == pytest.approx(expected, abs=SHOWN)
    detail = lens.root.locator(".sx-detail")
    assert detail.locator("h4").inner_text() == "the sea"
    scores = [number(t.removeprefix("AS ")) for t in detail.locator("figcaption").all_inner_texts()]
    assert detail.locator("img").evaluate_all("(is) => is.map((i) => i.naturalWidth)") == [64] * len(scores)
    closer, away = ([x for x in scores if sign * x > 0] for sign in (1, -1))
    assert scores == sorted(closer, reverse=True) + sorted(away)  # closest first, then farthest first
    assert closer or away


# -------------------------------------------------------------------------- dial and basis


def test_dial_by_slider_and_on_the_plot(run, opened):
    panel, name, g = opened("dial"), NAMES[0], 12
    ranks = dial.dial_ranks(run.spaces(name).rank)
    costs, concepts = dial.dial_table(run, name, ranks)
    assert panel.text("dd")[0] == f"{run.spaces(name).null_dim} of 1280"
    assert "exact null space" in panel.text("p[role=status]")[0]
    panel.slider.focus()
    for _ in range(g):
        panel.page.keyboard.press("ArrowLeft")
    panel.settle()
    assert panel.text("dd")[0] == f"{1280 - ranks[g]} of 1280"
    shown = [number(panel.text("dd")[i]) for i in (1, 4, 5)]
    assert shown[:2] == pytest.approx([float(costs[g, 0]), float(costs[g, 3])], abs=0.051)
    assert shown[2] == pytest.approx(float(costs[g, 4]), abs=SHOWN)
    assert "no equivalents" in panel.text("p[role=status]")[0]
    expected = [int(j) for j in concepts[g].argsort() if concepts[g, j] < 0][:6]
    assert expected
    for row, j in zip(panel.rows("Moved away most"), expected, strict=True):
        assert row[0] == run.profile.phrases[j]
        assert number(row[1]) == pytest.approx(float(concepts[g, j]), abs=SHOWN)

    panel.drag(panel.root.locator(".sx-drag"), 0.8, 0.5)
    kept = 1280 - int(panel.text("dd")[0].split()[0])
    wanted = (0.5 * 340 - 44) / (322 - 44) * 1280  # see PLOT
    assert kept in ranks
    assert abs(kept - wanted) <= max(np.abs(np.diff(ranks))) / 2 + 4


def test_a_stretch_moves_scores_and_no_logit(run, opened):
    panel, name = opened("basis"), NAMES[1]
    panel.choose("Classifier", name)
    bars, given = panel.text(".sx-bar-value"), panel.text("tbody td")
    assert "moved by 0." in " ".join(panel.text(".sx-note"))
    panel.slide(len(tables_basis.SCALES) - 1)
    assert "s = 10" in panel.text("output")[0]
    fit, new, spaces = run.photos(name, "fit"), run.photos(name), run.spaces(name)
    f_fit, f = (x + 9 * spaces.null_component(x) for x in (fit.f.double(), new.f.double()))
    T = Translator.fit(f_fit, fit.z, held_out=run.profile.held_out, seed=run.seed)
    texts = run.texts(name, run.prompts)[new.own].double()
    pair = T(f), T(spaces.remove_null(f))
    scores = image_score(*pair), attribute_score(*pair, texts).abs()
    shown = panel.text("tbody td")
    expected = [float(x.quantile(0.5)) for x in scores]
    assert [number(x) for x in shown[:3:2]] == pytest.approx(expected, abs=SHOWN)
    assert number(shown[0]) > number(given[0]) + 1
    assert panel.text(".sx-bar-value") == bars
    assert shown[1::2] == given[1::2]  # beyond the logits
    linked = opened("basis", f"#explore-basis?classifier={name}&s=9")  # the nearest stop
    assert linked.text("tbody td")[0] == shown[0]


# ------------------------------------------------------------------------------- manners


def test_a_link_restores_a_view_and_is_what_is_copied(run, opened):
    link = f"#explore-pair?classifier={NAMES[1]}&photo=5&alpha=-0.5&toward=a+desert"
    pair, expected = opened("pair", link), scores_of(run, NAMES[1], 5, -0.5, "a desert")
    assert pair.numbers(".sx-value") == pytest.approx(expected, abs=SHOWN)
    assert pair.root.get_by_label("Class", exact=True).input_value() == "jellyfish"
    assert pair.copied("Copy link to this view").endswith(link)
    lens = opened("lens", "#explore-lens?class_name=tench&filter=sea&order=phrase")
    assert [row[0] for row in lens.rows("phrases")] == ["the sea"]
    assert lens.root.evaluate("(e) => e.getBoundingClientRect().top < innerHeight")


def test_a_broken_link_changes_nothing(opened):
    for alpha in ("7", "much", ""):
        pair = opened("pair", f"#explore-pair?classifier=none&photo=99&alpha={alpha}&toward=%00&colour=red")
        assert pair.slider.input_value() == "1"
    assert pair.root.get_by_label("Classifier").input_value() == NAMES[0]
    assert pair.root.get_by_label("Class", exact=True).input_value() == "sports car"


@every
def test_values_are_copied_as_csv(run, opened, name):
    rows = list(csv.DictReader(io.StringIO(opened(name).copied("Copy values (CSV)"))))
    assert len(rows) > 5
    assert all(None not in row and None not in row.values() for row in rows)
    assert rows[0]["classifier"] == NAMES[0]
    if name == "pair":
        texts = [row["text"] for row in rows]
        assert 'quoted "glass", broken' in texts
        u = run.judge(NAMES[0]).encode_text(texts).double()
        z, z_tilde = pair_of(run, NAMES[0], CAR, 1.0)
        expected = (pairwise_angle(z, u) - pairwise_angle(z_tilde, u))[0].tolist()
        assert [float(row["AS (degrees)"]) for row in rows] == pytest.approx(expected, abs=SHOWN)


@every
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
def test_axe_finds_nothing_and_nothing_sticks_out(watched, address, look):
    size = PHONE if look == "phone" else DESK
    watched.page.set_viewport_size(size)
    watched.open(address)
    watched.page.evaluate(
        f"document.documentElement.dataset.theme = '{'dark' if look == 'dark' else 'light'}'"
    )
    watched.page.locator("details").evaluate_all("(all) => all.forEach((d) => (d.open = true))")
    assert axe_finds(watched.page, ".sing-explorer") == []
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    wide = "(es) => es.filter((e) => e.scrollWidth > e.clientWidth).length"
    assert watched.page.locator(".sing-explorer").evaluate_all(wide) == 0
    assert watched.wrong == []


@pytest.mark.parametrize(
    ("name", "menu", "at", "said"),
    [("pair", "Attribute Score toward", 0.25, "α = 0.25"), ("steering", "Toward", 10, "IS = 10.0°")],
)
def test_python_answers_a_free_text_and_draws_this_very_point(run, fresh, browser, name, menu, at, said):
    widget = fresh(name)
    widget.photo = CAR
    explorer = open_live(browser.new_page(), widget)
    assert not explorer.root.locator(".sx-needs").is_visible()
    prompt = explorer.root.locator(".sx-prompt input")
    prompt.fill("a lighthouse")
    prompt.press("Enter")
    chosen = explorer.root.get_by_label(menu, exact=True).locator("option:checked")
    chosen.and_(explorer.page.get_by_text("a lighthouse")).wait_for(state="attached")
    explorer.slide(at)
    if name == "pair":
        expected = scores_of(run, NAMES[0], CAR, at, "a lighthouse")[1]
        assert explorer.numbers(".sx-value")[1] == pytest.approx(expected, abs=SHOWN)
    else:
        expected = float(steered(run, NAMES[0], "a lighthouse", at)[1].AS)
        assert explorer.numbers("dd")[0] == pytest.approx(expected, abs=SHOWN)
    assert not explorer.root.get_by_text(f"{said}, drawn").count()
    explorer.press("Draw exactly this")
    explorer.root.get_by_text(f"{said}, drawn").wait_for()
    explorer.slide(at + 1)
    assert not explorer.root.get_by_text(f"{said}, drawn").count()
    explorer.page.close()
