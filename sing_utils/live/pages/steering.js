// Steering: one photo, a step in the null space toward a target, as long as the wanted Image Score asks.

const FARTHEST = 90; // degrees of the slider
const LONGEST = 1000; // a longer step, in terms of |T f| or of |f|, counts as out of reach
const RAD = Math.PI / 180;

// The plane of each step: cosines of its two unit vectors a and b with the texts, and its limits.
function steeringGeometry(data) {
  const [own, random] = [unpack(data.own), unpack(data.random)];
  const pages = { cosines: unpack(data.cosines), steps: unpack(data.steps) };
  return (k, p, j, added) => {
    const count = pages.cosines.shape[2];
    const { cosines, steps } = j < count ? pages : added[j - count];
    const place = j < count ? j : 0;
    const c = cosines.at(k, p, place, 0);
    const [au, bu, ru, bw] = Array.from(cosines.values.subarray(c, c + 4), (x) => x / COSINE);
    const o = own.at(k, p, 0);
    const [aw, rw] = Array.from(own.values.subarray(o, o + 2), (x) => x / COSINE);
    const s = steps.at(k, p, place, 0);
    const [limit, scale, moved] = steps.values.subarray(s, s + 3);
    const r = random.at(k, p, 0);
    const [randomLimit, randomScale] = random.values.subarray(r, r + 2);
    return {
      target: { au, bu }, own: { au: aw, bu: bw }, limit, scale, moved,
      random: { au, bu: ru, limit: randomLimit, scale: randomScale }, randomOwn: { au: aw, bu: rw },
    };
  };
}

// The length of the step for an Image Score of θ, in terms of |f| (law of sines); NaN out of reach.
function stepFor(theta, { limit, scale }) {
  if (theta === 0) return 0;
  const beyond = (limit - theta) * RAD;
  const ratio = Math.sin(theta * RAD) / Math.sin(beyond); // the step in terms of |T f|, translated
  return beyond > 0 && ratio <= LONGEST && ratio * scale <= LONGEST ? ratio * scale : NaN;
}

// AS toward a text after a turn by θ in the plane of a and b.
const turnedBy = ({ au, bu }, theta) => Math.cos(theta * RAD) * au + Math.sin(theta * RAD) * bu;
const scoreAt = (text, theta) => angleTo(text.au, 1) - angleTo(turnedBy(text, theta), 1);

function render(context) {
  const { model, signal } = context;
  const data = model.get("data");
  const geometry = steeringGeometry(data);
  const logits = logitTable(data.logits);
  const picture = pictureFiles(data.frames, signal);

  let added = [];
  const readAdded = () => {
    added = Object.entries(model.get("prompts")).map(([text, { cosines, steps }]) => ({
      text, cosines: unpack(cosines), steps: unpack(steps),
    }));
  };
  readAdded();
  // A short name such as "jellyfish" stands for a prompt; the bare word, asked for, is another text.
  const nameOf = (text) => (data.targets.includes(text) ? `“${text}”` : text);
  const targets = () => [...data.targets, ...added.map((a) => nameOf(a.text))];
  const texts = () => [...data.texts, ...added.map((a) => a.text)];

  const current = () => ({
    ...photo.current(),
    j: Math.max(0, targets().indexOf(model.get("target"))),
    theta: model.get("degrees"),
  });

  const ui = explorer(context, {
    name: "steering",
    title: "Steering",
    traits: {
      ...photoTraits(data),
      target: (text) => (targets().includes(text) ? text : undefined),
      degrees: within(0, FARTHEST),
    },
    update,
    csv,
  });

  const photo = ofOnePhoto(context, ui, data, {
    classLabel: "Source class",
    prompt: "Toward any prompt",
    onPrompt(text) {
      readAdded();
      targetMenu.fill(targets());
      ui.set(text === null ? {} : { target: nameOf(text) });
    },
  });
  const targetMenu = menu("Toward", targets(), (j) => ui.set({ target: targets()[j] }));
  const turn = slider(
    "Wanted Image Score",
    {
      min: 0, max: FARTHEST, step: 0.5,
      places: [0, 10, 30, 50, 70, 90].map((x) => [x, `${x}°`]),
      say: (x) => `IS = ${degrees(x, 1)}`,
    },
    (theta) => ui.set({ degrees: theta }),
  );
  ui.controls.append(targetMenu.node, turn.node);

  const numbers = numberList(["toward the target", "toward its own class", "a random step of this IS, toward the target", "length of the step"]);
  const curve = steeringCurve();
  ui.view.append(
    column(panel("Attribute Score", numbers.node), panel("Along the way", curve.node)),
    h("p", { class: "sx-note sx-wide" }, data.pictureNote),
  );

  // The pictures on either side of θ, of the photos, targets and classifier that have some.
  function frames({ k, p, j, theta }) {
    const row = data.drawnPhotos.indexOf(p);
    const column = data.drawnTargets.indexOf(j);
    const steps = data.degrees;
    const size = 1 + data.drawnTargets.length * steps.length;
    if (row < 0 || k !== 0) return { first: null };
    const origin = picture(row * size);
    const frame = (i) => (i === 0 ? origin : column < 0 ? null : picture(row * size + column * steps.length + i));
    const stops = [0, ...steps];
    const { upper, weight } = between(stops, theta, data.drawn);
    const [low, high] = theta <= stops.at(-1) ? [frame(upper - 1), frame(upper)] : [null, null];
    const near = weight === 1 ? high : weight === 0 ? low : low && high && low;
    return { first: near, second: weight === 1 ? high : high ?? low, weight: weight === 1 ? 0 : weight, origin, stops, upper };
  }

  function showPictures(now, reached) {
    const { k, p, j, theta } = now;
    const name = photo.nameOf(p);
    const { first, second, weight, origin, stops, upper } = frames(now);
    const missing = `no picture: ${data.classifiers[0]}, the first photo of each class and the first ${data.drawnTargets.length} targets have some, up to ${data.degrees.at(-1)}°`;
    photo.before.show(origin, origin, 0, { alt: `${name}, original feature`, text: "original, IS = 0°", missing: "no picture" });
    const url = photo.exact.of({ classifier: data.classifiers[k], photo: p, target: texts()[j], degrees: theta });
    const blend = !url && weight > 0 && weight < 1;
    photo.after.show(reached ? url ?? first : null, url ?? second, url ? 1 : weight, {
      alt: `${name}, steered toward ${targets()[j]}, IS = ${degrees(theta, 1)}`,
      text: `IS = ${degrees(theta, 1)}` + (blend && first ? `, blend of ${stops[upper - 1]}° and ${stops[upper]}°` : ""),
      missing: reached ? missing : "out of reach",
    });
  }

  function showFormulas({ theta, j, p }, plane, step) {
    const n = (x) => x.toFixed(5).replace("-", "−");
    const turned = turnedBy(plane.target, theta);
    ui.fold.replaceChildren(
      h("p", {}, `a is the unit vector of T f, b the part of T d across it, at length 1, where d is the null-projected gradient toward “${texts()[j]}” (eqs. 11 and 12); u and w are the unit vectors of the target's text and of “${data.prompts[photo.own(p)]}”.`),
      formula(`a·u = ${n(plane.target.au)}   b·u = ${n(plane.target.bu)}   a·w = ${n(plane.own.au)}   b·w = ${n(plane.own.bu)}   angle(T f, T d) = ${degrees(plane.limit)}`),
      formula(
        "At IS = θ the feature is translated to the direction cos θ a + sin θ b:",
        `AS = angle(a, u) − angle(cos θ a + sin θ b, u) = ${degrees(angleTo(plane.target.au, 1), 3)} − atan2(${n(Math.sqrt(Math.max(0, 1 - turned ** 2)))}, ${n(turned)}) = ${signed(scoreAt(plane.target, theta), 3)}` + (Number.isNaN(step) ? ", which no step reaches" : ""),
      ),
      formula(
        "ε / |f| = |Tf| sin θ / (|Td| |f| sin(angle(Tf, Td) − θ))   (eq. 13 and the law of sines)",
        Number.isNaN(step) ? "   out of reach" : `   = ${plane.scale.toPrecision(5)} · sin ${degrees(theta, 1)} / sin ${degrees(plane.limit - theta)} = ${fixed(step, 3)}`,
      ),
      formula("logits of f + ε d = W f + b + ε W d", `largest |ε W d| = ${small(step * plane.moved || 0)}`),
    );
  }

  function update() {
    const now = current();
    const { k, p, j, theta } = now;
    const plane = geometry(k, p, j, added);
    const step = stepFor(theta, plane);
    const reached = !Number.isNaN(step);
    const AS = reached ? scoreAt(plane.target, theta) : NaN;
    const ownAS = reached ? scoreAt(plane.own, theta) : NaN;
    const byChance = Number.isNaN(stepFor(theta, plane.random)) ? NaN : scoreAt(plane.random, theta);
    photo.show(now);
    targetMenu.show(j);
    turn.show(theta);
    const orReach = (x, text) => (Number.isNaN(x) ? "out of reach" : text(x));
    numbers.show([
      orReach(AS, signed), orReach(ownAS, signed), orReach(byChance, signed),
      orReach(step, (x) => `${fixed(x)} |f|`),
    ]);
    curve.show(plane, theta, reached, `${k} ${p} ${j}`);
    const values = logits.values(k, p);
    photo.bars.show(logits.names(k, p), values, reached ? step * plane.moved : 0);
    showPictures(now, reached);
    showFormulas(now, plane, step);
    model.set("reading", reached ? { IS: theta, AS, own: ownAS, step } : { IS: null });
  }

  function csv() {
    const { k, p, j } = current();
    const plane = geometry(k, p, j, added);
    const rows = [["classifier", "class", "photo", "target", "IS (degrees)", "AS toward target (degrees)", "AS toward own class (degrees)", "AS of a random step (degrees)", "step / |f|"]];
    for (let theta = 0; theta <= FARTHEST && !Number.isNaN(stepFor(theta, plane)); theta++) {
      const byChance = Number.isNaN(stepFor(theta, plane.random)) ? "" : scoreAt(plane.random, theta).toFixed(4);
      rows.push([
        data.classifiers[k], data.classes[photo.own(p)], data.photoName[p], texts()[j], theta,
        scoreAt(plane.target, theta).toFixed(4), scoreAt(plane.own, theta).toFixed(4), byChance,
        stepFor(theta, plane).toFixed(4),
      ]);
    }
    return rows;
  }

  ui.schedule();
}

// AS against IS: the target's line, the own class's (dashed), a random step's (dotted), and a point.
function steeringCurve() {
  const [W, H, left, bottom] = [320, 190, 40, 34];
  const lines = ["sx-line", "sx-line sx-line-own", "sx-line sx-line-random"].map((c) => h("svg:path", { class: c }));
  const axis = h("svg:g", { class: "sx-axis" });
  const dots = [h("svg:circle", { class: "sx-dot", r: 5 }), h("svg:rect", { class: "sx-dot sx-dot-own", width: 8, height: 8 })];
  const picture = h("svg:svg", { viewBox: `0 0 ${W} ${H}`, "aria-hidden": "true", class: "sx-plot" }, axis, lines, dots);
  const key = h("p", { class: "sx-note" }, "AS (°, upward) against IS (°). Solid line and dot: toward the target; dashed and square: toward its own class; dotted: a random step, toward the target.");
  const node = h("div", {}, picture, key);
  let drawn = "";
  let [low, high] = [-5, 5];
  const x = (theta) => left + ((W - left - 8) * theta) / FARTHEST;
  const y = (AS) => 8 + ((H - bottom - 8) * (high - AS)) / (high - low);
  const path = (text, limits) => {
    let d = "";
    for (let theta = 0; theta <= FARTHEST; theta++) {
      if (Number.isNaN(stepFor(theta, limits))) break;
      d += `${theta ? "L" : "M"}${x(theta).toFixed(1)} ${y(scoreAt(text, theta)).toFixed(1)}`;
    }
    return d;
  };
  const extent = (plane) => {
    const all = [0];
    for (let theta = 0; theta <= FARTHEST; theta += 5) {
      if (!Number.isNaN(stepFor(theta, plane))) all.push(scoreAt(plane.target, theta), scoreAt(plane.own, theta));
      if (!Number.isNaN(stepFor(theta, plane.random))) all.push(scoreAt(plane.random, theta));
    }
    return [Math.floor(Math.min(...all) / 5) * 5, Math.ceil(Math.max(...all) / 5) * 5 || 5];
  };
  const drawAxis = () => {
    const label = (tx, ty, text, anchor) => h("svg:text", { x: tx, y: ty, "text-anchor": anchor }, text);
    const stride = high - low > 40 ? 20 : high - low > 20 ? 10 : 5;
    const ticks = [];
    for (let v = Math.ceil(low / stride) * stride; v <= high; v += stride) ticks.push(v);
    axis.replaceChildren(
      ...ticks.map((v) => h("svg:line", { x1: left, x2: W - 8, y1: y(v), y2: y(v), class: v ? "" : "sx-zero" })),
      ...ticks.map((v) => label(left - 6, y(v) + 4, fixed(v, 0), "end")),
      ...[0, 30, 60, 90].map((v) => label(x(v), H - 18, v, "middle")),
      label((left + W) / 2, H - 3, "IS (°)", "middle"),
    );
  };
  const show = (plane, theta, reached, key) => {
    if (drawn !== key) {
      drawn = key;
      [low, high] = extent(plane);
      drawAxis();
      lines[0].setAttribute("d", path(plane.target, plane));
      lines[1].setAttribute("d", path(plane.own, plane));
      lines[2].setAttribute("d", path(plane.random, plane.random));
    }
    dots.forEach((dot) => (dot.style.display = reached ? "" : "none"));
    if (!reached) return;
    dots[0].setAttribute("cx", x(theta));
    dots[0].setAttribute("cy", y(scoreAt(plane.target, theta)));
    dots[1].setAttribute("x", x(theta) - 4);
    dots[1].setAttribute("y", y(scoreAt(plane.own, theta)) - 4);
  };
  return { node, show };
}

export default { render };
