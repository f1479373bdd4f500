// Equivalent pair: one photo, its null component taken away little by little.

const NEAREST = 10;
const MOVED = 5;

function pairGeometry(data) {
  const norms = unpack(data.norms);
  const products = unpack(data.products);
  // Of one photo: |a|², a·b, |b|², and the length of b across a.
  const photo = (k, p) => {
    const at = norms.at(k, p, 0);
    const [aa, ab, bb] = norms.values.subarray(at, at + 3);
    return { aa, ab, bb, across: Math.sqrt(Math.max(0, aa * bb - ab * ab)) };
  };
  // Inner products of a and b with unit vector u of text j, which may be one that Python added.
  const text = (k, p, j, { aa, bb }, added) => {
    const count = products.shape[2];
    const from = j < count ? products : added[j - count].products;
    const at = from.at(k, p, j < count ? j : 0, 0);
    return [(from.values[at] / COSINE) * Math.sqrt(aa), (from.values[at + 1] / COSINE) * Math.sqrt(bb)];
  };
  return { photo, text };
}

// angle(a, a - αb): sine and cosine of it, both times |a| |a - αb|.
const imageScore = ({ aa, ab, across }, alpha) =>
  DEGREES * Math.atan2(Math.abs(alpha) * across, aa - alpha * ab);

const squareAt = ({ aa, ab, bb }, alpha) => aa - 2 * alpha * ab + alpha * alpha * bb;

function render(context) {
  const { model, signal } = context;
  const data = model.get("data");
  const geometry = pairGeometry(data);
  const logits = logitTable(data.logits);
  const picture = pictureFiles(data.frames, signal);
  const prompts = data.classes.length;

  // What Python added: texts beyond those of the page.
  let added = [];
  const readAdded = () => {
    const more = Object.entries(model.get("prompts")).filter(([text]) => !data.texts.includes(text));
    added = more.map(([text, x]) => ({ text, products: unpack(x) }));
  };
  readAdded();
  const texts = () => [...data.texts, ...added.map((a) => a.text)];

  const current = () => {
    const { k, p } = photo.current();
    const toward = texts().indexOf(model.get("toward"));
    return { k, p, alpha: model.get("alpha"), j: toward < 0 ? photo.own(p) : toward };
  };

  // Angles of one text at α = 0 and at α, degrees.
  const angles = (k, p, j, alpha, plane) => {
    const [au, bu] = geometry.text(k, p, j, plane, added);
    return [angleTo(au, plane.aa), angleTo(au - alpha * bu, squareAt(plane, alpha))];
  };
  // Phrases, not class prompts: [text, before, after, rank before, rank after].
  const ranked = ({ k, p, alpha }, plane) => {
    const names = texts();
    const rows = [];
    for (let j = prompts; j < names.length; j++) rows.push([names[j], ...angles(k, p, j, alpha, plane)]);
    [1, 2].forEach((column) => {
      rows.sort((x, y) => x[column] - y[column]);
      rows.forEach((row, i) => (row[column + 2] = i + 1));
    });
    return rows;
  };

  const ui = explorer(context, {
    name: "pair",
    title: "Equivalent pair",
    traits: {
      ...photoTraits(data),
      alpha: within(-1, 2),
      toward: (text) => (texts().includes(text) || text === "" ? text : undefined),
    },
    update,
    csv,
  });

  const photo = ofOnePhoto(context, ui, data, {
    classLabel: "Class",
    prompt: "Attribute Score toward any prompt",
    onPrompt(text) {
      readAdded();
      towardMenu.fill([OWN, ...texts()]);
      ui.set(text === null ? {} : { toward: text });
    },
  });
  const OWN = "its own class";
  const towardMenu = menu("Attribute Score toward", [OWN, ...texts()], (i) => {
    ui.set({ toward: i ? texts()[i - 1] : "" });
  });
  const alphaSlider = slider(
    "How much of the null component is taken away",
    {
      min: -1,
      max: 2,
      step: 0.01,
      places: [[-1, "−1", "doubled"], [0, "0", "original"], [1, "1", "removed"], [2, "2", "reversed"]],
      say: (x) => `α = ${fixed(x)}`,
    },
    (alpha) => ui.set({ alpha }),
  );
  ui.controls.append(towardMenu.node, alphaSlider.node);

  const largest = data.classifiers.flatMap((_, k) =>
    data.photoClass.map((_, p) => imageScore(geometry.photo(k, p), 2)),
  );
  const scales = [20, 45, 90, 180];
  const imageDial = dial("Image Score", {
    min: 0, max: fullScale(Math.max(...largest), scales), visible: 10, of: (x) => degrees(x),
  });
  const attributeDial = dial("Attribute Score", { min: -10, max: 10, visible: 3, of: (x) => signed(x) });
  const nearest = phraseRows({ place: "rank", text: "phrase", angle: "angle", moved: "AS", was: "rank before" }, NEAREST);
  const [rose, fell] = [0, 1].map(() => phraseRows({ text: "phrase", angle: "angle", moved: "AS" }, MOVED));
  ui.view.append(
    column(
      h("div", { class: "sx-dials" }, imageDial.node, attributeDial.node),
      panel("Nearest phrases now", nearest.node),
    ),
    panel("Came closer most", rose.node),
    panel("Moved away most", fell.node),
    h("p", { class: "sx-note sx-wide" }, data.pictureNote),
  );

  function showPictures({ k, p, alpha }) {
    const alphas = data.alphas;
    const frame = (i) => (k === 0 ? picture(p * alphas.length + i) : null);
    const { upper, weight } = between(alphas, alpha, data.drawn);
    const kind = data.drawn ? "drawn" : "nearest photograph";
    const name = photo.nameOf(p);
    const start = frame(alphas.indexOf(0));
    const missing = `no picture: those of ${data.classifiers[0]} are kept`;
    photo.before.show(start, start, 0, { alt: `${name}, original feature`, text: "original, α = 0", missing });
    const url = photo.exact.of({ classifier: data.classifiers[k], photo: p, alpha });
    const blend = !url && weight > 0 && weight < 1;
    photo.after.show(url ?? frame(upper - 1), url ?? frame(upper), url ? 1 : weight, {
      alt: `${name}, α = ${fixed(alpha)}`,
      text: `α = ${fixed(alpha)}, ` + (blend ? `blend of ${fixed(alphas[upper - 1], 0)} and ${fixed(alphas[upper], 0)}` : kind),
      missing,
    });
  }

  function showConcepts(rows) {
    nearest.show(rows.slice(0, NEAREST).map(([text, a, b, was, now]) => [now, text, degrees(b), a - b, was]));
    const moved = [...rows].sort((x, y) => y[1] - y[2] - (x[1] - x[2]));
    const row = ([text, a, b]) => [text, degrees(b), a - b];
    rose.show(moved.slice(0, MOVED).filter((r) => r[1] > r[2]).map(row));
    fell.show(moved.slice(-MOVED).reverse().filter((r) => r[1] < r[2]).map(row));
  }

  function showFormulas({ k, p, alpha, j }, plane, IS, [x, y]) {
    const [au, bu] = geometry.text(k, p, j, plane, added);
    const n = (value) => value.toPrecision(5).replace("-", "−");
    const square = squareAt(plane, alpha);
    ui.fold.replaceChildren(
      h("p", {}, "a = T f is the translated feature, b = T Πₙ f the translated null component, u the unit vector of the text. Nothing else is needed:"),
      formula(`|a|² = ${n(plane.aa)}   a·b = ${n(plane.ab)}   |b|² = ${n(plane.bb)}   a·u = ${n(au)}   b·u = ${n(bu)}`),
      formula(
        "IS = atan2(|α| √(|a|²|b|² − (a·b)²), |a|² − α a·b)   (eq. 8)",
        `   = atan2(${n(Math.abs(alpha) * plane.across)}, ${n(plane.aa - alpha * plane.ab)}) = ${degrees(IS, 3)}`,
      ),
      formula(
        "AS = angle(a, u) − angle(a − αb, u)   (eq. 7)",
        "angle(x, u) = atan2(√(|x|² − (x·u)²), x·u),  |a − αb|² = |a|² − 2α a·b + α²|b|²",
        `   = ${degrees(x, 3)} − atan2(${n(Math.sqrt(Math.max(0, square - (au - alpha * bu) ** 2)))}, ${n(au - alpha * bu)}) = ${degrees(x, 3)} − ${degrees(y, 3)} = ${signed(x - y, 3)}`,
      ),
      formula("logits = W f + b − α W Πₙ f", `largest |α W Πₙ f| = ${small(Math.abs(alpha) * logits.most(k, p))}`),
    );
  }

  function update() {
    const now = current();
    const { k, p, alpha, j } = now;
    const plane = geometry.photo(k, p);
    const IS = imageScore(plane, alpha);
    const pair = angles(k, p, j, alpha, plane);
    photo.show(now);
    alphaSlider.show(alpha);
    towardMenu.show(model.get("toward") === "" ? 0 : j + 1);
    imageDial.show(IS);
    attributeDial.show(pair[0] - pair[1]);
    const drift = logits.drifts(k, p);
    photo.bars.show(logits.names(k, p), logits.values(k, p).map((x, i) => x - alpha * drift[i]), Math.abs(alpha) * logits.most(k, p));
    showPictures(now);
    showConcepts(ranked(now, plane));
    showFormulas(now, plane, IS, pair);
    model.set("reading", { IS, AS: pair[0] - pair[1] });
  }

  function csv() {
    const { k, p, alpha } = current();
    const plane = geometry.photo(k, p);
    const names = texts();
    const about = [data.classifiers[k], data.classes[photo.own(p)], data.photoName[p], alpha, imageScore(plane, alpha).toFixed(4)];
    return [
      ["classifier", "class", "photo", "alpha", "IS (degrees)", "text", "angle at 0 (degrees)", "angle at alpha (degrees)", "AS (degrees)"],
      ...names.map((name, j) => {
        const [x, y] = angles(k, p, j, alpha, plane);
        return [...about, name, x.toFixed(4), y.toFixed(4), (x - y).toFixed(4)];
      }),
    ];
  }

  ui.schedule();
}

export default { render };
