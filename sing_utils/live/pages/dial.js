// Null-space dial: the spectrum of a head, and what would follow if more of it counted as null.

const MOST = 6;

function render(context) {
  const { model } = context;
  const data = model.get("data");
  const heads = data.heads.map(({ spectrum, costs, concepts, ...head }) => {
    const [sigma, costsAt] = [unpack(spectrum)(), unpack(costs)];
    const cost = (g) => {
      const [energy, certificate, logit, top1, IS] = costsAt(g);
      return { energy, certificate, logit, top1, IS };
    };
    return { ...head, sigma, cost, AS: unpack(concepts) };
  });

  // The stop at or below the wanted number of further directions.
  const stopOf = ({ ranks }) => {
    const g = ranks.findIndex((rank) => rank <= ranks[0] - model.get("dropped"));
    return g < 0 ? ranks.length - 1 : g;
  };
  const stopAt = ({ ranks }, g) => ui.set({ dropped: ranks[0] - ranks[Math.min(ranks.length - 1, Math.max(0, g))] });

  const spectrum = spectrumPlot(stopAt);
  const numbers = numberList([
    "dimensions that count as null", "of the features' energy lies there (mean)", "largest change of a logit, relative to |W| |f| (double precision)",
    "largest change of a logit in a typical photo (median)", "of the photos change their top-1 class", "Image Score (median)",
  ]);
  const moved = extremes({ text: "phrase", moved: "AS (mean)" }, MOST);
  const verdict = h("p", { class: "sx-verdict sx-wide", role: "status" });
  const ui = explorer(context, {
    name: "dial",
    title: "Null-space dial",
    traits: { dropped: wholeWithin(0, 1e9) },
    update,
    csv: (k) => [
      ["classifier", "rank kept", "null dimension", "energy (%)", "certificate", "median largest logit change", "top-1 changes (%)", "median IS (degrees)"],
      ...heads[k].ranks.map((rank, g) => {
        const { energy, certificate, logit, top1, IS } = heads[k].cost(g);
        return [data.classifiers[k], rank, heads[k].width - rank, energy.toFixed(3), certificate.toExponential(3), logit.toExponential(3), top1.toFixed(2), IS.toFixed(4)];
      }),
    ],
    view: [panel("Singular values", spectrum.node), panel("What is given up", numbers.node), verdict, moved.nodes],
  });
  // As in the plot, the exact null space is at the right, and less and less is kept toward the left.
  const most = 1 - heads[0].ranks.length;
  let head = heads[0];
  const threshold = slider(
    "Where the null space begins",
    { min: most, max: 0, step: 1, places: [[most, "hardly anything is kept"], [0, "the exact null space"]], say: (value) => sayStop(head, -value) },
    (value) => stopAt(head, -value),
  );
  ui.controls.append(threshold.node);

  function sayStop({ ranks, sigma }, g) {
    const dropped = ranks[0] - ranks[g];
    if (!dropped) return "at the exact null space";
    return `${dropped} more directions, σ ≤ ${(sigma[ranks[g]] / sigma[0]).toPrecision(2)} of the largest`;
  }

  function update(k) {
    head = heads[k];
    const g = stopOf(head);
    const rank = head.ranks[g];
    const { energy, certificate, logit, top1, IS } = head.cost(g);
    threshold.input.min = 1 - head.ranks.length;
    threshold.show(-g);
    spectrum.show(head, g);
    numbers.show([
      `${head.width - rank} of ${head.width}`, `${fixed(energy, 1)} %`, small(certificate),
      small(logit), `${fixed(top1, 1)} %`, degrees(IS),
    ]);
    write(verdict, g === 0
      ? "This is the exact null space: no logit moves, but for rounding."
      : "Beyond the exact null space logits move: these features are no equivalents any more.");
    verdict.dataset.exact = g === 0;
    moved.show(head.AS(g), (j) => [data.phrases[j], head.AS(g)[j]]);
    ui.explain(
      sentence(`V holds the first ${rank} right singular vectors of W, f′ = V Vᵀ f is what is kept of a feature. All of it was measured by sing_utils on ${data.photos} evaluation photos, at each stop of the slider.`),
      formula("energy = mean (1 − |Vᵀ f|² / |f|²)", `   = ${fixed(energy, 2)} %`),
      formula("certificate = max |W f − W f′| / (σ₁ |f|)", `   = ${small(certificate)}`),
      formula("IS = median angle(T f, T f′)   (eq. 8, with f′ in the place of f̃)", `   = ${degrees(IS, 3)}`),
      formula("AS of a phrase = mean (angle(T f, u) − angle(T f′, u))   (eq. 7)"),
    );
    return { rank, energy, certificate, top1, IS };
  }
}

// The spectrum on a logarithmic scale with a line to drag; the slider above does the same.
function spectrumPlot(stopAt) {
  const { width, left, right, top, bottom } = PLOT;
  const [across, down] = [right - left, bottom - top];
  const hatch = unique("hatch");
  const pattern = h("svg:pattern", { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, h("svg:line", { class: "sx-hatch", y2: 6 }));
  const below = h("svg:rect", { class: "sx-below", y: top, height: down });
  const exact = h("svg:rect", { fill: `url(#${hatch})`, y: top, height: down });
  const line = h("svg:path", { class: "sx-line" });
  const handle = h("svg:line", { class: "sx-handle", y1: top, y2: bottom });
  const grip = h("svg:circle", { class: "sx-grip", r: 9, cy: bottom });
  const ground = plot("direction", "sx-drag", pattern, below, exact, line, handle, grip);
  const key = note("Singular value σ (log scale) by direction, the head's strongest first. Drag the line. Hatched: the exact null space, where σ is zero. Shaded: what would count as null besides.");
  let head = null;
  const x = (i) => left + (across * i) / head.width;
  const drag = (event) => {
    const box = ground.node.getBoundingClientRect();
    const i = ((((event.clientX - box.left) * width) / box.width - left) / across) * head.width;
    const distance = head.ranks.map((rank) => Math.abs(rank - i));
    stopAt(head, distance.indexOf(Math.min(...distance)));
  };
  ground.node.addEventListener("pointerdown", (event) => {
    ground.node.setPointerCapture(event.pointerId);
    drag(event);
  });
  ground.node.addEventListener("pointermove", (event) => ground.node.hasPointerCapture(event.pointerId) && drag(event));
  const drawHead = () => {
    const values = head.sigma.subarray(0, head.ranks[0]);
    const max = Math.ceil(Math.log10(values[0]) * 2) / 2;
    const min = Math.floor(Math.log10(values.at(-1)) * 2) / 2;
    const y = (v) => top + (down * (max - Math.log10(v))) / (max - min);
    const stride = Math.max(1, Math.floor(values.length / 300));
    const shown = [...values.keys()].filter((i) => i % stride === 0 || i === values.length - 1);
    put(line, { d: `M${shown.map((i) => `${x(i).toFixed(1)} ${y(values[i]).toFixed(1)}`).join("L")}` });
    const marks = [];
    for (let e = Math.ceil(min); e <= max; e++) marks.push(10 ** e);
    ground.draw(x, y, marks, [0, 0.25, 0.5, 0.75, 1].map((share) => Math.round((share * head.width) / 10) * 10));
    put(exact, { x: x(head.ranks[0]), width: x(head.width) - x(head.ranks[0]) });
  };
  const show = (wanted, g) => {
    if (head !== wanted) {
      head = wanted;
      drawHead();
    }
    const place = x(head.ranks[g]);
    put(below, { x: place, width: x(head.ranks[0]) - place });
    put(handle, { x1: place, x2: place });
    put(grip, { cx: place });
  };
  return { node: h("div", {}, ground.node, key), show };
}

export default { render };
