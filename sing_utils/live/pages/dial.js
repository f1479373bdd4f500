// Null-space dial: the spectrum of a head, and what would follow if more of it counted as null.

const MOST = 6;

function dialHead({ name, width, ranks, spectrum, costs, concepts }) {
  const [sigma, cost, AS] = [spectrum, costs, concepts].map(unpack);
  const row = (table, g) => table.values.subarray(table.at(g, 0), table.at(g, 0) + table.shape[1]);
  return {
    name, width, ranks, sigma: sigma.values,
    costs: (g) => {
      const [energy, certificate, logit, top1, IS] = row(cost, g);
      return { energy, certificate, logit, top1, IS };
    },
    concepts: (g) => row(AS, g),
  };
}

function render(context) {
  const { model } = context;
  const data = model.get("data");
  const heads = data.heads.map(dialHead);
  const names = heads.map((head) => head.name);

  // The stop at or below the wanted number of further directions.
  const current = () => {
    const k = Math.max(0, names.indexOf(model.get("classifier")));
    const { ranks } = heads[k];
    const wanted = ranks[0] - model.get("dropped");
    const g = ranks.findIndex((rank) => rank <= wanted);
    return { k, g: g < 0 ? ranks.length - 1 : g };
  };
  const stopAt = (g) => {
    const { ranks } = heads[current().k];
    ui.set({ dropped: ranks[0] - ranks[Math.min(ranks.length - 1, Math.max(0, g))] });
  };

  const ui = explorer(context, {
    name: "dial",
    title: "Null-space dial",
    traits: {
      classifier: oneOf(names),
      dropped: (text) => (Number.isInteger(within(0, 1e9)(text)) ? Number(text) : undefined),
    },
    update,
    csv,
  });
  const classifierMenu = menu("Classifier", names, (k) => ui.set({ classifier: names[k] }));
  // As in the plot, the exact null space is at the right, and less and less is kept toward the left.
  const threshold = slider(
    "Where the null space begins",
    { min: 1 - heads[0].ranks.length, max: 0, step: 1, places: [[1 - heads[0].ranks.length, "hardly anything is kept"], [0, "the exact null space"]], say: (value) => sayStop(-value) },
    (value) => stopAt(-value),
  );
  ui.controls.append(classifierMenu.node, threshold.node);

  const plot = spectrumPlot(stopAt);
  const numbers = numberList([
    "dimensions that count as null", "of the features' energy lies there (mean)", "largest change of a logit, relative to |W| |f| (double precision)",
    "largest change of a logit in a typical photo (median)", "of the photos change their top-1 class", "Image Score (median)",
  ]);
  const [away, closer] = [0, 1].map(() => phraseRows({ text: "phrase", moved: "AS (mean)" }, MOST));
  const verdict = h("p", { class: "sx-verdict sx-wide", role: "status" });
  ui.view.append(panel("Singular values", plot.node), panel("What is given up", numbers.node), verdict,
    panel("Moved away most", away.node), panel("Came closer most", closer.node));

  function sayStop(g) {
    const { ranks, sigma } = heads[current().k];
    const dropped = ranks[0] - ranks[g];
    if (!dropped) return "at the exact null space";
    return `${dropped} more directions, σ ≤ ${(sigma[ranks[g]] / sigma[0]).toPrecision(2)} of the largest`;
  }

  function update() {
    const { k, g } = current();
    const head = heads[k];
    const { energy, certificate, logit, top1, IS } = head.costs(g);
    const AS = head.concepts(g);
    threshold.input.min = 1 - head.ranks.length;
    classifierMenu.show(k);
    threshold.show(-g);
    plot.show(head, g);
    numbers.show([
      `${head.width - head.ranks[g]} of ${head.width}`, `${fixed(energy, 1)} %`, small(certificate),
      small(logit), `${fixed(top1, 1)} %`, degrees(IS),
    ]);
    write(verdict, g === 0
      ? "This is the exact null space: no logit moves, but for rounding."
      : "Beyond the exact null space logits move: these features are no equivalents any more.");
    verdict.dataset.exact = g === 0;
    const order = Array.from(AS.keys()).sort((x, y) => AS[x] - AS[y]);
    const row = (j) => [data.phrases[j], AS[j]];
    away.show(order.slice(0, MOST).filter((j) => AS[j] < 0).map(row));
    closer.show(order.slice(-MOST).reverse().filter((j) => AS[j] > 0).map(row));
    showFormulas(head, g);
    model.set("reading", { rank: head.ranks[g], energy, certificate, top1, IS });
  }

  function showFormulas(head, g) {
    const { energy, certificate, IS } = head.costs(g);
    const kept = head.ranks[g];
    ui.fold.replaceChildren(
      h("p", {}, `V holds the first ${kept} right singular vectors of W, f′ = V Vᵀ f is what is kept of a feature. All of it was measured by sing_utils on ${data.photos} evaluation photos, at each stop of the slider.`),
      formula("energy = mean (1 − |Vᵀ f|² / |f|²)", `   = ${fixed(energy, 2)} %`),
      formula("certificate = max |W f − W f′| / (σ₁ |f|)", `   = ${small(certificate)}`),
      formula("IS = median angle(T f, T f′)   (eq. 8, with f′ in the place of f̃)", `   = ${degrees(IS, 3)}`),
      formula("AS of a phrase = mean (angle(T f, u) − angle(T f′, u))   (eq. 7)"),
    );
  }

  function csv() {
    const { k } = current();
    const head = heads[k];
    return [
      ["classifier", "rank kept", "null dimension", "energy (%)", "certificate", "median largest logit change", "top-1 changes (%)", "median IS (degrees)"],
      ...head.ranks.map((rank, g) => {
        const { energy, certificate, logit, top1, IS } = head.costs(g);
        return [head.name, rank, head.width - rank, energy.toFixed(3), certificate.toExponential(3), logit.toExponential(3), top1.toFixed(2), IS.toFixed(4)];
      }),
    ];
  }

  ui.schedule();
}

// The spectrum on a logarithmic scale with a line to drag; the slider above does the same.
function spectrumPlot(stopAt) {
  const [W, H, left, right, bottom] = [340, 200, 44, 18, 34];
  const below = h("svg:rect", { class: "sx-below", y: 8, height: H - bottom - 8 });
  const hatch = unique("hatch");
  const pattern = h("svg:pattern", { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, h("svg:line", { class: "sx-hatch", y2: 6 }));
  const exact = h("svg:rect", { fill: `url(#${hatch})`, y: 8, height: H - bottom - 8 });
  const line = h("svg:path", { class: "sx-line" });
  const handle = h("svg:line", { class: "sx-handle", y1: 8, y2: H - bottom });
  const grip = h("svg:circle", { class: "sx-grip", r: 9, cy: H - bottom });
  const axis = h("svg:g", { class: "sx-axis" });
  const picture = h("svg:svg", { viewBox: `0 0 ${W} ${H}`, class: "sx-plot sx-drag", "aria-hidden": "true" }, pattern, below, exact, axis, line, handle, grip);
  const key = h("p", { class: "sx-note" }, "Singular value σ (log scale) by direction, the head's strongest first. Drag the line. Hatched: the exact null space, where σ is zero. Shaded: what would count as null besides.");
  let head = null;
  const x = (i) => left + ((W - left - right) * i) / head.width;
  const drag = (event) => {
    const box = picture.getBoundingClientRect();
    const i = (((event.clientX - box.left) * W) / box.width - left) / (W - left - right) * head.width;
    const distance = head.ranks.map((rank) => Math.abs(rank - i));
    stopAt(distance.indexOf(Math.min(...distance)));
  };
  picture.addEventListener("pointerdown", (event) => {
    picture.setPointerCapture(event.pointerId);
    drag(event);
  });
  picture.addEventListener("pointermove", (event) => picture.hasPointerCapture(event.pointerId) && drag(event));
  const drawHead = () => {
    const values = head.sigma.subarray(0, head.ranks[0]);
    const [top, low] = [Math.log10(values[0]), Math.log10(values.at(-1))];
    const [max, min] = [Math.ceil(top * 2) / 2, Math.floor(low * 2) / 2];
    const y = (v) => 8 + ((H - bottom - 8) * (max - Math.log10(v))) / (max - min);
    const points = [];
    const stride = Math.max(1, Math.floor(values.length / 300));
    for (let i = 0; i < values.length; i += stride) points.push(`${x(i).toFixed(1)} ${y(values[i]).toFixed(1)}`);
    points.push(`${x(values.length - 1).toFixed(1)} ${y(values.at(-1)).toFixed(1)}`);
    line.setAttribute("d", `M${points.join("L")}`);
    const label = (tx, ty, text, anchor) => h("svg:text", { x: tx, y: ty, "text-anchor": anchor }, text);
    const marks = [];
    for (let e = Math.ceil(min); e <= max; e++) marks.push(10 ** e);
    const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => Math.round((share * head.width) / 10) * 10);
    axis.replaceChildren(
      ...marks.map((v) => h("svg:line", { x1: left, x2: W - right, y1: y(v), y2: y(v) })),
      ...marks.map((v) => label(left - 6, y(v) + 4, String(Number(v.toPrecision(1))), "end")),
      ...stops.map((i) => label(x(i), H - 18, i, "middle")),
      label((left + W) / 2, H - 3, "direction", "middle"),
    );
    exact.setAttribute("x", x(head.ranks[0]));
    exact.setAttribute("width", x(head.width) - x(head.ranks[0]));
  };
  const show = (wanted, g) => {
    if (head !== wanted) {
      head = wanted;
      drawHead();
    }
    const place = x(head.ranks[g]);
    below.setAttribute("x", place);
    below.setAttribute("width", x(head.ranks[0]) - place);
    for (const attribute of ["x1", "x2"]) handle.setAttribute(attribute, place);
    grip.setAttribute("cx", place);
  };
  return { node: h("div", {}, picture, key), show };
}

export default { render };
