// Steering: one photo, a step in the null space toward a target, as long as the wanted Image Score asks.

const FARTHEST = 90; // degrees of the slider
const LONGEST = 1000; // a longer step, in terms of |T f| or of |f|, counts as out of reach
const UNIT = { aa: 1, ab: 0, bb: 1 };
const RAD = 1 / DEGREES;

// The length of the step for an Image Score of θ, in terms of |f| (law of sines); NaN out of reach.
function stepFor(theta, { limit, scale }) {
  if (theta === 0) return 0;
  const beyond = (limit - theta) * RAD;
  const ratio = Math.sin(theta * RAD) / Math.sin(beyond); // the step in terms of |T f|, translated
  return beyond > 0 && ratio <= LONGEST && ratio * scale <= LONGEST ? ratio * scale : NaN;
}

// A turn by θ in the plane of the unit vectors a and b, as `sides` and `angleAt` take it.
const turned = (text, theta) => [UNIT, text, Math.cos(theta * RAD), Math.sin(theta * RAD)];

// AS toward a text after that turn; NaN out of reach.
const scoreAt = ({ text, move }, theta) =>
  Number.isNaN(stepFor(theta, move)) ? NaN : angleAt(UNIT, text, 1, 0) - angleAt(...turned(text, theta));

function render(context) {
  const data = context.model.get("data");
  const [own, random] = [unpack(data.own), unpack(data.random)];

  // The step, and what is scored: it toward the target and the own class, a random step toward the target.
  function planeOf({ k, p, j }) {
    const { cosines, steps } = ui.texts.row(k, p, j);
    const [[au, bu, ru, bw], [limit, scale, moved], [randomLimit, randomScale]] = [cosines, steps, random(k, p)];
    const move = { limit, scale, moved };
    return {
      move,
      target: { text: { au, bu }, move },
      own: { text: { au: own(k)[p], bu: bw }, move },
      random: { text: { au, bu: ru }, move: { limit: randomLimit, scale: randomScale } },
    };
  }

  const numbers = numberList(["toward the target", "toward its own class", "a random step of this IS, toward the target", "length of the step"]);
  const curve = steeringCurve();
  const ui = photoExplorer(context, {
    name: "steering",
    title: "Steering",
    classLabel: "Source class",
    textLabel: "Toward",
    trait: "target",
    promptLabel: "Toward any prompt",
    rowsOf(numbers) {
      const [cosines, steps] = [unpack(numbers.cosines), unpack(numbers.steps)];
      return (k, p, j) => ({ cosines: cosines(k, p, j), steps: steps(k, p, j) });
    },
    move: {
      label: "Wanted Image Score",
      trait: "degrees", symbol: "IS", write: degrees, digits: 1, min: 0, max: FARTHEST, step: 0.5,
      places: [0, 10, 30, 50, 70, 90].map((x) => [x, `${x}°`]),
    },
    picture: (now) => ({
      alt: `steered toward ${ui.names()[now.j]}, IS = ${degrees(now.x, 1)}`,
      missing: Number.isNaN(stepFor(now.x, planeOf(now).move))
        ? "out of reach"
        : `no picture: ${data.classifiers[0]}, the first photo of each class and the first ${data.ways} targets have some, up to ${data.stops.at(-1)}°`,
    }),
    asked: ({ j }) => ({ target: ui.texts.all()[j] }),
    panels: column(panel("Attribute Score", numbers.node), panel("Along the way", curve.node)),
    update,
    csv(now) {
      const plane = planeOf(now);
      const rows = [["target", "IS (degrees)", "AS toward target (degrees)", "AS toward own class (degrees)", "AS of a random step (degrees)", "step / |f|"]];
      for (let theta = 0; theta <= FARTHEST && !Number.isNaN(stepFor(theta, plane.move)); theta++) {
        const scores = [plane.target, plane.own, plane.random].map((way) => scoreAt(way, theta));
        const written = [...scores, stepFor(theta, plane.move)].map((x) => (Number.isNaN(x) ? "" : x.toFixed(4)));
        rows.push([ui.texts.all()[now.j], theta, ...written]);
      }
      return rows;
    },
  });

  function update(now) {
    const { k, p, j, x: theta } = now;
    const plane = planeOf(now);
    const step = stepFor(theta, plane.move);
    const scores = [plane.target, plane.own, plane.random].map((way) => scoreAt(way, theta));
    const reached = (x, text) => (Number.isNaN(x) ? "out of reach" : text(x));
    numbers.show([...scores.map((AS) => reached(AS, signed)), reached(step, (x) => `${fixed(x)} |f|`)]);
    curve.show(plane, theta, `${k} ${p} ${j}`);
    ui.bars.show(k, p, 0, step * plane.move.moved || 0);

    const n = (x) => x.toFixed(5).replace("-", "−");
    const [{ text: u }, { text: w }, { limit, scale, moved }] = [plane.target, plane.own, plane.move];
    const before = angleAt(UNIT, u, 1, 0);
    const there = turned(u, theta);
    ui.explain(
      sentence(`a is the unit vector of T f, b the part of T d across it, at length 1, where d is the null-projected gradient toward “${ui.texts.all()[j]}” (eqs. 11 and 12); u and w are the unit vectors of the target's text and of “${data.prompts[ui.classOf(p)]}”.`),
      formula(`a·u = ${n(u.au)}   b·u = ${n(u.bu)}   a·w = ${n(w.au)}   b·w = ${n(w.bu)}   angle(T f, T d) = ${degrees(limit)}`),
      formula(
        "At IS = θ the feature is translated to the direction cos θ a + sin θ b:",
        `AS = angle(a, u) − angle(cos θ a + sin θ b, u) = ${degrees(before, 3)} − atan2(${sides(...there).map(n).join(", ")}) = ${signed(before - angleAt(...there), 3)}` + (Number.isNaN(step) ? ", which no step reaches" : ""),
      ),
      formula(
        "ε / |f| = |Tf| sin θ / (|Td| |f| sin(angle(Tf, Td) − θ))   (eq. 13 and the law of sines)",
        Number.isNaN(step) ? "   out of reach" : `   = ${scale.toPrecision(5)} · sin ${degrees(theta, 1)} / sin ${degrees(limit - theta)} = ${fixed(step, 3)}`,
      ),
      formula("logits of f + ε d = W f + b + ε W d", `largest |ε W d| = ${small(step * moved || 0)}`),
    );
    return Number.isNaN(step) ? { IS: null } : { IS: theta, AS: scores[0], own: scores[1], step };
  }
}

// AS against IS: the target's line, the own class's (dashed), a random step's (dotted), and a point.
function steeringCurve() {
  const { left, right, top, bottom } = PLOT;
  const lines = ["sx-line", "sx-line sx-line-own", "sx-line sx-line-random"].map((c) => h("svg:path", { class: c }));
  const dot = h("svg:circle", { class: "sx-dot", r: 5 });
  const square = h("svg:rect", { class: "sx-dot sx-dot-own", width: 8, height: 8 });
  const ground = plot("IS (°)", "", lines, dot, square);
  const key = note("AS (°, upward) against IS (°). Solid line and dot: toward the target; dashed and square: toward its own class; dotted: a random step, toward the target.");
  let drawn = "";
  let [low, high] = [-5, 5];
  const x = (theta) => left + ((right - left) * theta) / FARTHEST;
  const y = (AS) => top + ((bottom - top) * (high - AS)) / (high - low);
  const drawLines = (ways) => {
    const curves = ways.map((way) => {
      const scores = Array.from({ length: FARTHEST + 1 }, (_, theta) => scoreAt(way, theta));
      const end = scores.findIndex(Number.isNaN);
      return end < 0 ? scores : scores.slice(0, end);
    });
    const all = curves.flat();
    low = Math.floor(Math.min(...all) / 5) * 5;
    high = Math.ceil(Math.max(...all) / 5) * 5 || 5;
    const stride = high - low > 40 ? 20 : high - low > 20 ? 10 : 5;
    const ticks = [];
    for (let v = Math.ceil(low / stride) * stride; v <= high; v += stride) ticks.push(v);
    ground.draw(x, y, ticks, [0, 30, 60, 90]);
    curves.forEach((scores, i) => {
      const points = scores.map((AS, theta) => `${x(theta).toFixed(1)} ${y(AS).toFixed(1)}`);
      put(lines[i], { d: `M${points.join("L")}` });
    });
  };
  const show = (plane, theta, wanted) => {
    if (drawn !== wanted) drawLines([plane.target, plane.own, plane.random]);
    drawn = wanted;
    const [AS, own] = [plane.target, plane.own].map((way) => scoreAt(way, theta));
    for (const node of [dot, square]) node.style.display = Number.isNaN(AS) ? "none" : "";
    if (Number.isNaN(AS)) return;
    put(dot, { cx: x(theta), cy: y(AS) });
    put(square, { x: x(theta) - 4, y: y(own) - 4 });
  };
  return { node: h("div", {}, ground.node, key), show };
}

export default { render };
