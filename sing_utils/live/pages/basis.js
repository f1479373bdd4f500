// Same network, another basis: the null component of every feature is stretched, and no logit moves.

function render(context) {
  const { model } = context;
  const data = model.get("data");
  const { classifiers, scales } = data;
  const [scores, beyond] = [unpack(data.scores), unpack(data.beyond)];
  const told = (s) => Number(s.toPrecision(2));

  // Scores were measured at these stretches, and nothing is drawn between them.
  const current = () => {
    const far = scales.map((s) => Math.abs(Math.log(s) - Math.log(model.get("s"))));
    return Math.max(0, far.indexOf(Math.min(...far)));
  };

  const numbers = scoreTable();
  const bars = logitBars(data.logits);
  const ui = explorer(context, {
    name: "basis",
    title: "Same network, another basis",
    traits: { s: within(scales[0] * 0.99, scales.at(-1) * 1.01) },
    update,
    csv: (k) => [
      ["classifier", "s", "median IS (degrees)", "median |AS| (degrees)", "mean contrast (degrees)"],
      ...scales.map((s, g) => [classifiers[k], s.toPrecision(4), ...Array.from(scores(k, g), (x) => x.toFixed(4))]),
    ],
    view: [panel(`Scores of ${data.photos} photos`, numbers.node), bars.node],
  });
  const last = scales.length - 1;
  const places = [[0, `× ${told(scales[0])}`], [last, `× ${told(scales[last])}`]];
  const given = scales.findIndex((s) => Math.abs(s - 1) < 1e-9);
  if (given > 0) places.splice(1, 0, [given, "× 1", "as given"]);
  const stretch = slider(
    "Stretch of the null component",
    { min: 0, max: last, step: 1, places, say: (g) => `s = ${told(scales[g])}` },
    (g) => ui.set({ s: scales[g] }),
  );
  ui.controls.append(stretch.node);

  function update(k) {
    const g = current();
    const s = scales[g];
    stretch.show(g);
    numbers.show(scores(k, g), beyond(k), data.directions[k]);
    bars.show(k, 0, s - 1);
    const [IS, size, contrast] = scores(k, g);
    ui.explain(
      sentence(`f′ = f + (s − 1) Π_n f is the feature in the other basis, W stays. A translator was fitted anew at each of the ${scales.length} stops of the slider, with a ridge chosen anew, and ${data.photos} evaluation photos were scored: nothing is interpolated. The logits are those of the first photo of “${data.photo}”.`),
      formula("W f′ = W f + (s − 1) W Π_n f", `   W Π_n f = ${small(bars.most(k, 0))} at most`),
      formula("IS = median angle(T f′, T f̃′)   (eq. 8)", `   = ${degrees(IS, 3)}`),
      formula("|AS| = median |angle(T f′, u) − angle(T f̃′, u)|   (eq. 7)", `   = ${degrees(size, 3)}`),
      sentence("Beyond the logits, the numbers were measured in the given basis, and hold in all."),
    );
    return { s, IS, size, contrast };
  }
}

// Three scores of null removal in this basis, and beyond the logits, where no basis matters.
function scoreTable() {
  const names = ["median IS", "median |AS|", "mean contrast"];
  const rows = names.map((name) => {
    const cells = [h("td", { class: "sx-angle" }), h("td", { class: "sx-angle" })];
    return h("tr", {}, h("th", { scope: "row" }, name), cells);
  });
  const heads = ["null removal, this basis", "beyond the logits, any basis"].map((name) => columnHead(name));
  const none = note("The photos to fit on are too few to say what lies beyond the logits.");
  const show = (removal, beyond, directions) => {
    rows.forEach(({ cells }, i) =>
      [removal[i], beyond[i]].forEach((x, j) =>
        write(cells[j + 1], Number.isNaN(x) || (j && !directions) ? "–" : i === 2 ? signed(x) : degrees(x)),
      ),
    );
    none.hidden = directions > 0;
  };
  return { node: h("div", {}, table([h("td", {}), heads], h("tbody", {}, rows)), none), show };
}

export default { render };
