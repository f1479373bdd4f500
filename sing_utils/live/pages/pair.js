// Equivalent pair: one photo, its null component taken away little by little.

const NEAREST = 10;
const MOVED = 5;

function render(context) {
  const data = context.model.get("data");
  const norms = unpack(data.norms);
  // Of one photo: |a|², a·b, |b|², and |a| times the length of b across a.
  const planeOf = ({ k, p }) => {
    const [aa, ab, bb] = norms(k, p);
    return { aa, ab, bb, across: Math.sqrt(Math.max(0, aa * bb - ab * ab)) };
  };
  const textOf = ({ k, p }, j, { aa, bb }) => {
    const [au, bu] = ui.texts.row(k, p, j);
    return { au: au * Math.sqrt(aa), bu: bu * Math.sqrt(bb) };
  };
  // Angles of one text at α = 0 and at α, degrees.
  const angles = (now, j, plane) => {
    const text = textOf(now, j, plane);
    return [angleAt(plane, text, 1, 0), angleAt(plane, text, 1, -now.x)];
  };
  // angle(a, a - αb): its sine and cosine, both times |a| |a - αb|.
  const scoreSides = ({ aa, ab, across }, alpha) => [Math.abs(alpha) * across, aa - alpha * ab];
  const imageScore = (plane, alpha) => DEGREES * Math.atan2(...scoreSides(plane, alpha));

  const largest = data.classifiers.flatMap((_, k) => data.photoClass.map((_, p) => imageScore(planeOf({ k, p }), 2)));
  const scale = [20, 45, 90].find((s) => s >= Math.max(...largest)) ?? 180;
  const imageDial = dial("Image Score", { min: 0, max: scale, visible: 10, of: degrees });
  const attributeDial = dial("Attribute Score", { min: -10, max: 10, visible: 3, of: signed });
  const nearest = phraseRows(
    "Nearest phrases now", { place: "rank", text: "phrase", angle: "angle", moved: "AS", was: "rank before" }, NEAREST,
  );
  const moved = extremes({ text: "phrase", angle: "angle", moved: "AS" }, MOVED);

  const ui = photoExplorer(context, {
    name: "pair",
    title: "Equivalent pair",
    classLabel: "Class",
    textLabel: "Attribute Score toward",
    trait: "toward",
    own: "its own class",
    promptLabel: "Attribute Score toward any prompt",
    rowsOf: ({ cosines }) => unpack(cosines),
    move: {
      label: "How much of the null component is taken away",
      trait: "alpha", symbol: "α", write: fixed, digits: 2, min: -1, max: 2, step: 0.01,
      places: [[-1, "−1", "doubled"], [0, "0", "original"], [1, "1", "removed"], [2, "2", "reversed"]],
    },
    picture: ({ x }) => ({ alt: `α = ${fixed(x)}`, missing: `no picture: those of ${data.classifiers[0]} are kept` }),
    panels: [column(h("div", { class: "sx-dials" }, imageDial.node, attributeDial.node), nearest.node), moved.nodes],
    update,
    csv(now) {
      const plane = planeOf(now);
      const about = [now.x, imageScore(plane, now.x).toFixed(4)];
      return [
        ["alpha", "IS (degrees)", "text", "angle at 0 (degrees)", "angle at alpha (degrees)", "AS (degrees)"],
        ...ui.texts.all().map((text, j) => {
          const [x, y] = angles(now, j, plane);
          return [...about, text, ...[x, y, x - y].map((angle) => angle.toFixed(4))];
        }),
      ];
    },
  });

  function update(now) {
    const { k, p, j, x: alpha } = now;
    const plane = planeOf(now);
    const IS = imageScore(plane, alpha);
    const [before, after] = angles(now, j, plane);
    imageDial.show(IS);
    attributeDial.show(before - after);
    ui.bars.show(k, p, -alpha);
    showPhrases(now, plane);

    const n = (value) => value.toPrecision(5).replace("-", "−");
    const { aa, ab, bb } = plane;
    const text = textOf(now, j, plane);
    ui.explain(
      sentence("a = T f is the translated feature, b = T Πₙ f the translated null component, u the unit vector of the text. Nothing else is needed:"),
      formula(`|a|² = ${n(aa)}   a·b = ${n(ab)}   |b|² = ${n(bb)}   a·u = ${n(text.au)}   b·u = ${n(text.bu)}`),
      formula(
        "IS = atan2(|α| √(|a|²|b|² − (a·b)²), |a|² − α a·b)   (eq. 8)",
        `   = atan2(${scoreSides(plane, alpha).map(n).join(", ")}) = ${degrees(IS, 3)}`,
      ),
      formula(
        "AS = angle(a, u) − angle(a − αb, u)   (eq. 7)",
        "angle(x, u) = atan2(√(|x|² − (x·u)²), x·u),  |a − αb|² = |a|² − 2α a·b + α²|b|²",
        `   = ${degrees(before, 3)} − atan2(${sides(plane, text, 1, -alpha).map(n).join(", ")}) = ${degrees(before, 3)} − ${degrees(after, 3)} = ${signed(before - after, 3)}`,
      ),
      formula("logits = W f + b − α W Πₙ f", `largest |α W Πₙ f| = ${small(Math.abs(alpha) * ui.bars.most(k, p))}`),
    );
    return { IS, AS: before - after };
  }

  // Phrases come after the prompts of the classes.
  function showPhrases(now, plane) {
    const phrases = ui.texts.all().slice(data.classes.length);
    const both = phrases.map((_, i) => angles(now, data.classes.length + i, plane));
    const ranked = (at) => [...both.keys()].sort((i, j) => both[i][at] - both[j][at]);
    const was = [];
    ranked(0).forEach((i, rank) => (was[i] = rank + 1));
    const AS = both.map(([x, y]) => x - y);
    const row = (i) => [phrases[i], degrees(both[i][1]), AS[i]];
    nearest.show(ranked(1).slice(0, NEAREST).map((i, rank) => [rank + 1, ...row(i), was[i]]));
    moved.show(AS, row);
  }
}

// A half-circle dial from `min` to `max` degrees, on which a change is called visible from `visible` on.
function dial(name, { min, max, visible, of }) {
  const at = (x) => Math.PI * (1 - (Math.min(max, Math.max(min, x)) - min) / (max - min));
  const point = (x, r) => [100 + r * Math.cos(at(x)), 100 - r * Math.sin(at(x))];
  const limits = min < 0 ? [-visible, visible] : [visible];
  const edges = [min, ...limits, max];
  const arcs = edges.slice(1).map((b, i) => {
    const quiet = i === limits.length - 1;
    return h("svg:path", {
      class: quiet ? "sx-arc" : "sx-arc sx-arc-visible",
      d: `M${point(edges[i], 80)} A80 80 0 0 1 ${point(b, 80)}`,
    });
  });
  const tick = (value, x, y, anchor) => h("svg:text", { x, y, "text-anchor": anchor }, degrees(value, 0));
  const ticks = [
    tick(min, 8, 116, "start"),
    ...limits.map((x) => tick(x, ...point(x, 94), point(x, 94)[0] < 100 ? "end" : "start")),
    tick(max, 192, 116, "end"),
  ];
  const needle = h("svg:line", { class: "sx-needle", x1: 100, y1: 100 });
  const hub = h("svg:circle", { class: "sx-hub", cx: 100, cy: 100, r: 5 });
  const picture = h("svg:svg", { viewBox: "-4 -10 208 132", "aria-hidden": "true" }, arcs, ticks, needle, hub);
  const value = h("strong", { class: "sx-value" });
  const verdict = h("span", { class: "sx-verdict" });
  const node = h("div", { class: "sx-dial" }, picture, h("p", {}, h("span", {}, name), " ", value, verdict));
  const show = (x) => {
    const [x2, y2] = point(x, 70);
    put(needle, { x2, y2 });
    write(value, of(x));
    const seen = Math.abs(x) >= visible;
    write(verdict, seen ? `at or above the paper's ${visible}°: visible` : `below the paper's ${visible}°`);
  };
  return { node, show };
}

export default { render };
