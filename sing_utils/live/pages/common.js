// What the explorers have in common. Python puts this file before each explorer's own, as one module.

const DEGREES = 180 / Math.PI;
const SVG = "http://www.w3.org/2000/svg";

// ------------------------------------------------------------------------------ geometry

// Angle of a vector to a unit vector, degrees, from their inner product and the vector's squared norm.
// With atan2, as in sing_utils.method.scores: an arc cosine would lose the small angles.
const angleTo = (product, square) =>
  DEGREES * Math.atan2(Math.sqrt(Math.max(0, square - product * product)), product);

// ------------------------------------------------------------------------------- numbers

const ARRAYS = { float64: Float64Array, float32: Float32Array, int16: Int16Array, uint16: Uint16Array };
const COSINE = 32767; // see pack_cosines
const PATIENCE = 60_000; // milliseconds for an answer of Python

const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

// The array that `pack` made of it, and `at(i, j, ...)`: where the row that begins so starts.
function unpack({ dtype, shape, data }) {
  const values = new ARRAYS[dtype](bytesOf(data).slice().buffer);
  const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
  const at = (...place) => place.reduce((sum, p, i) => sum + p * strides[i], 0);
  return { values, shape, at };
}

const fixed = (x, digits = 2) => {
  const text = x.toFixed(digits).replace("-", "−");
  return /^−[0.]+$/.test(text) ? text.slice(1) : text;
};
const degrees = (x, digits = 2) => fixed(x, digits) + "°";
const signed = (x, digits = 2) => (x.toFixed(digits) > 0 ? "+" : "") + degrees(x, digits);
const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const small = (x) => {
  if (x === 0 || (x >= 0.01 && x < 1000)) return x === 0 ? "0" : x.toPrecision(2);
  const [digits, exponent] = x.toExponential(1).split("e");
  return `${digits} · 10${Array.from(String(Number(exponent)), (sign) => RAISED[sign]).join("")}`;
};

// -------------------------------------------------------------------------------- elements

// h("p", {class: "x"}, "text", child): an element. Keys that begin with "on" are listeners.
function h(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:")
    ? document.createElementNS(SVG, tag.slice(4))
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== false && child != null));
  return node;
}

// Every explorer is a module of its own, and all of them share the page.
const unique = (word) => {
  globalThis.singExplorerIds = (globalThis.singExplorerIds ?? 0) + 1;
  return `sing-${word}-${globalThis.singExplorerIds}`;
};

// Text that is only written when it changes: screen readers and layouts stay quiet.
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function field(label, input, ...after) {
  input.id = unique("input");
  return h("div", { class: "sx-field" }, h("label", { for: input.id }, label), input, after);
}

// A menu. `options` are strings; `fill` replaces them and keeps the choice where it can.
function menu(label, options, onchange) {
  const input = h("select", { onchange: () => onchange(input.selectedIndex) });
  const node = field(label, input);
  const fill = (names) => {
    const chosen = input.value;
    input.replaceChildren(...names.map((name) => h("option", {}, name)));
    if (names.includes(chosen)) input.value = chosen;
  };
  fill(options);
  return { node, input, fill, show: (i) => (input.selectedIndex = i) };
}

// A slider with places below it, [[value, "mark", "name"], ...]; narrow ones show the marks alone.
function slider(label, { min, max, step, places = [], say }, oninput) {
  const output = h("output", { "aria-live": "off" }); // the slider says its value itself
  const input = h("input", { type: "range", min, max, step, oninput: () => oninput(+input.value) });
  const marks = places.map(([value, mark, name]) => {
    const left = (100 * (value - min)) / (max - min);
    return h("span", { style: `--at: ${left}%` }, mark, name && h("b", {}, ` ${name}`));
  });
  const node = field(label, input, h("div", { class: "sx-places", "aria-hidden": "true" }, marks));
  node.classList.add("sx-slider");
  const name = node.querySelector("label");
  const head = h("div", { class: "sx-slider-head" });
  name.replaceWith(head);
  head.append(name, output);
  const show = (value) => {
    input.value = value;
    write(output, say(value));
    input.setAttribute("aria-valuetext", say(value));
  };
  return { node, input, show };
}

// Bars of logits that are built once and only ever change their length.
function logitBars() {
  const rows = Array.from({ length: 5 }, () => {
    const name = h("span", { class: "sx-bar-name" });
    const bar = h("span", { class: "sx-bar" });
    const value = h("span", { class: "sx-bar-value" });
    const node = h("li", {}, name, h("span", { class: "sx-bar-room", "aria-hidden": "true" }, bar), value);
    return { node, name, bar, value };
  });
  const note = h("p", { class: "sx-note" });
  const node = panel("Largest logits", h("ol", { class: "sx-bars" }, rows.map((r) => r.node)), note);
  const show = (names, values, moved) => {
    const longest = Math.max(...values.map(Math.abs)) || 1;
    rows.forEach((row, i) => {
      row.node.hidden = i >= names.length;
      if (row.node.hidden) return;
      write(row.name, names[i]);
      write(row.value, fixed(values[i], 4));
      row.bar.style.width = `${(100 * Math.max(0, values[i])) / longest}%`;
    });
    write(note, `Of all logits, the one that moved most moved by ${small(moved)}.`);
  };
  return { node, show };
}

// The logits of a photo from what `logits_of` packed.
function logitTable(logits) {
  const [classes, values, drifts, most] = ["classes", "values", "drifts", "most"].map((k) =>
    unpack(logits[k]),
  );
  const top = classes.shape[2];
  const range = (array, k, p) => array.values.subarray(array.at(k, p, 0), array.at(k, p, 0) + top);
  return {
    names: (k, p) => Array.from(range(classes, k, p), (i) => logits.labels[i]),
    values: (k, p) => Array.from(range(values, k, p)),
    drifts: (k, p) => range(drifts, k, p),
    most: (k, p) => most.values[most.at(k, p)],
  };
}

// A half-circle dial from `min` to `max` degrees, on which a change is called visible from `visible` on.
function dial(name, { min, max, visible, of }) {
  const at = (x) => Math.PI * (1 - (Math.min(max, Math.max(min, x)) - min) / (max - min));
  const point = (x, r) => `${100 + r * Math.cos(at(x))} ${100 - r * Math.sin(at(x))}`;
  const arc = (a, b, kind) => h("svg:path", { class: kind, d: `M${point(a, 80)} A80 80 0 0 1 ${point(b, 80)}` });
  const limits = min < 0 ? [-visible, visible] : [visible];
  const edges = [min, ...limits, max];
  const arcs = edges.slice(1).map((b, i) => {
    const quiet = min < 0 ? i === 1 : i === 0;
    return arc(edges[i], b, quiet ? "sx-arc" : "sx-arc sx-arc-visible");
  });
  const ticks = [min, ...limits, max].map((x) => {
    const [tx, ty] = point(x, 94).split(" ");
    const anchor = x === min ? "start" : x === max ? "end" : tx < 100 ? "end" : "start";
    return h("svg:text", { x: x === min ? 8 : x === max ? 192 : tx, y: x === min || x === max ? 116 : ty, "text-anchor": anchor }, `${fixed(x, 0)}°`);
  });
  const needle = h("svg:line", { class: "sx-needle", x1: 100, y1: 100 });
  const hub = h("svg:circle", { class: "sx-hub", cx: 100, cy: 100, r: 5 });
  const picture = h("svg:svg", { viewBox: "-4 -10 208 132", "aria-hidden": "true" }, arcs, ticks, needle, hub);
  const value = h("strong", { class: "sx-value" });
  const verdict = h("span", { class: "sx-verdict" });
  const node = h("div", { class: "sx-dial" }, picture, h("p", {}, h("span", {}, name), " ", value, verdict));
  const show = (x) => {
    const [x2, y2] = point(x, 70).split(" ");
    needle.setAttribute("x2", x2);
    needle.setAttribute("y2", y2);
    write(value, of(x));
    const seen = Math.abs(x) >= visible;
    write(verdict, seen ? `at or above the paper's ${visible}°: visible` : `below the paper's ${visible}°`);
  };
  return { node, show, value };
}

// A list of named numbers.
function numberList(names) {
  const values = names.map(() => h("dd", {}));
  const node = h("dl", { class: "sx-numbers" }, names.map((name, i) => [h("dt", {}, name), values[i]]));
  return { node, show: (texts) => texts.forEach((text, i) => write(values[i], text)) };
}

// How a phrase moved, in a sign, a number and, besides, a colour; without them where it may be not at all.
function writeMove(cell, AS, digits, margin) {
  const text = signed(AS, digits);
  const way = Math.abs(AS) <= margin ? "" : { "+": "closer", "−": "away" }[text[0]] ?? "";
  write(cell, `${{ closer: "▲ ", away: "▼ " }[way] ?? ""}${text}`);
  cell.dataset.moved = way;
}

// A short table of phrases that is built once. `columns`: {kind: name}; the kind "moved" holds an AS.
function phraseRows(columns, size) {
  const kinds = Object.keys(columns);
  const rows = Array.from({ length: size }, () => {
    const cells = kinds.map((kind) => h("td", { class: `sx-${kind}` }));
    return { node: h("tr", {}, cells), cells };
  });
  const heads = Object.values(columns).map((name) => h("th", { scope: "col" }, name));
  const none = h("p", { class: "sx-note" }, "None.");
  const table = h("table", { class: "sx-table" }, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows.map((r) => r.node)));
  const show = (values) => {
    none.hidden = values.length > 0;
    table.hidden = !none.hidden;
    rows.forEach(({ node, cells }, i) => {
      node.hidden = i >= values.length;
      if (node.hidden) return;
      kinds.forEach((kind, j) => {
        if (kind === "moved") writeMove(cells[j], values[i][j]);
        else write(cells[j], String(values[i][j]));
      });
    });
  };
  return { node: h("div", {}, table, none), show };
}

// The least of these full scales that holds x.
const fullScale = (x, scales) => scales.find((s) => s >= x) ?? scales.at(-1);

const column = (...children) => h("div", { class: "sx-column" }, children);

const panel = (title, ...children) =>
  h("div", { class: "sx-panel", role: "group", "aria-label": title }, h("h4", {}, title), ...children);

// Pictures as `pack_pictures` made them: their addresses, made when they are asked for.
function pictureFiles({ ends, data }, signal) {
  const bytes = bytesOf(data);
  const urls = new Map();
  signal?.addEventListener("abort", () => urls.forEach((url) => URL.revokeObjectURL(url)));
  return (i) => {
    const start = i ? ends[i - 1] : 0;
    if (i < 0 || i >= ends.length || start === ends[i]) return null;
    if (!urls.has(i)) {
      const file = new Blob([bytes.subarray(start, ends[i])], { type: "image/webp" });
      urls.set(i, URL.createObjectURL(file));
    }
    return urls.get(i);
  };
}

// Two pictures on each other, the upper one as opaque as it counts: a cross-fade.
function fading(caption) {
  const under = h("img", { alt: "" });
  const over = h("img", { alt: "" });
  const words = h("figcaption", {}, caption);
  const none = h("span", { class: "sx-none" });
  const box = h("div", { class: "sx-picture", role: "img" }, under, over, none);
  const node = h("figure", { class: "sx-figure" }, box, words);
  const place = (image, url) => {
    image.hidden = !url;
    if (url && image.getAttribute("src") !== url) image.src = url;
  };
  const show = (first, second, weight, { alt, text, missing = "" }) => {
    place(under, first);
    place(over, second);
    over.style.opacity = weight;
    write(none, first ? "" : missing);
    box.setAttribute("aria-label", first ? alt : missing);
    write(words, text);
  };
  return { node, show };
}

// Where x lies among stops that have pictures: the upper one's place, and how much that one counts.
function between(stops, x, drawn) {
  const upper = Math.max(1, stops.findIndex((stop) => stop >= x));
  const weight = (x - stops[upper - 1]) / (stops[upper] - stops[upper - 1]);
  return { upper, weight: drawn ? weight : Math.round(weight) }; // two photographs make no blend
}

// ------------------------------------------------------------------------------- explorers

// The frame of an explorer: title, controls, view, fold, copying; its state, in the model and in links.
//   name      of the explorer, in links: #explore-name?alpha=1
//   traits    {trait: how its value reads in a link}; all of them are shared with Python
//   update    draws the current state
//   csv       rows of the current values, the first one with names
function explorer({ model, el, signal }, { name, title, traits, update, csv }) {
  const controls = h("div", { class: "sx-controls" });
  const view = h("div", { class: "sx-view" });
  const fold = h("div", { class: "sx-formulas" });
  const status = h("p", { class: "sx-status", role: "status" });
  const foot = h("div", { class: "sx-foot" });
  const inBook = Boolean(document.querySelector(".bd-article"));
  const root = h(
    "section",
    { class: "sing-explorer", "aria-label": title, "data-explorer": name },
    h("h3", { class: "sx-title" }, title),
    controls,
    view,
    foot,
    h("details", { class: "sx-fold" }, h("summary", {}, "How is this computed"), fold),
    h(
      "div",
      { class: "sx-tools" },
      h("button", { type: "button", onclick: () => copy(toCSV(csv()), "Values copied as CSV.") }, "Copy values (CSV)"),
      inBook && h("button", { type: "button", onclick: () => copy(link(), "Link copied.") }, "Copy link to this view"),
      status,
    ),
  );
  el.replaceChildren();
  if (inBook && !document.getElementById(`explore-${name}`)) root.id = `explore-${name}`;
  el.append(root);

  let waiting = false;
  const schedule = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (signal?.aborted) return;
      update();
      model.save_changes();
    });
  };
  const set = (values) => {
    for (const [trait, value] of Object.entries(values)) model.set(trait, value);
    schedule();
  };
  for (const trait of Object.keys(traits)) model.on(`change:${trait}`, schedule);

  function link() {
    const values = new URLSearchParams();
    for (const trait of Object.keys(traits)) values.set(trait, model.get(trait));
    return `${location.href.split("#")[0]}#explore-${name}?${values}`;
  }
  const isMeant = () => root.id && location.hash.slice(1).split("?")[0] === root.id;
  function follow() {
    if (!isMeant()) return;
    const query = location.hash.split("?")[1] ?? "";
    const wanted = {};
    for (const [trait, value] of new URLSearchParams(query)) {
      const known = Object.hasOwn(traits, trait) ? traits[trait](value) : undefined;
      if (known !== undefined) wanted[trait] = known;
    }
    set(wanted);
    root.scrollIntoView();
  }
  const say = (text) => write(status, text);
  const copy = (text, done) =>
    toClipboard(text).then(
      () => say(done),
      () => say("This browser does not let a page copy."),
    );
  if (inBook) {
    window.addEventListener("hashchange", follow, { signal });
    requestAnimationFrame(follow);
    // Once more when everything above has taken its room.
    window.addEventListener("load", () => isMeant() && root.scrollIntoView(), { signal });
  }
  return { controls, view, foot, fold, set, schedule, say };
}

// What explorers of one photo share: its menus, the largest logits, two pictures, and asking Python.
//   classLabel  of the menu of classes
//   prompt      label of the free text
//   onPrompt    (text or null): Python has added texts
function ofOnePhoto(context, ui, data, { classLabel, prompt, onPrompt }) {
  const { model, signal } = context;
  const own = (p) => data.photoClass[p];
  const ofClass = (c) => data.photoClass.flatMap((x, p) => (x === c ? [p] : []));
  const names = (c) => ofClass(c).map((p, i) => `${i + 1}: ${data.photoName[p]}`);
  const current = () => ({
    k: Math.max(0, data.classifiers.indexOf(model.get("classifier"))),
    p: Math.min(model.get("photo"), data.photoClass.length - 1),
  });
  const classifiers = menu("Classifier", data.classifiers, (k) => ui.set({ classifier: data.classifiers[k] }));
  const classes = menu(classLabel, data.classes, (c) => ui.set({ photo: ofClass(c)[0] }));
  const photos = menu("Photo", names(0), (i) => ui.set({ photo: ofClass(own(current().p))[i] }));
  const form = python(context, {
    label: prompt,
    say: ui.say,
    onPrompt,
    onAlive: () => (exact.button.hidden = false),
    onPicture(message, file) {
      exact.receive(message, file);
      ui.schedule();
    },
  });
  const exact = drawing(form.ask, ui.say, signal);
  const [before, after] = [fading(""), fading("")];
  const bars = logitBars();
  ui.controls.append(classifiers.node, classes.node, photos.node);
  ui.view.append(column(h("div", { class: "sx-pictures" }, before.node, after.node, exact.button), bars.node));
  ui.foot.append(form.node);
  const show = ({ k, p }) => {
    classifiers.show(k);
    classes.show(own(p));
    photos.fill(names(own(p)));
    photos.show(ofClass(own(p)).indexOf(p));
  };
  const nameOf = (p) => `${data.classes[own(p)]}, ${data.photoName[p]}`;
  return { own, current, before, after, bars, exact, show, nameOf };
}

// How its settings are read from a link.
const photoTraits = (data) => ({
  classifier: oneOf(data.classifiers),
  photo: place(() => data.photoClass.length),
});

// How a value in a link is read; undefined: no such value.
const oneOf = (names) => (text) => (names.includes(text) ? text : undefined);
const within = (min, max) => (text) => {
  const x = Number(text);
  return text.trim() !== "" && x >= min && x <= max ? x : undefined;
};
const place = (size) => (text) => {
  const i = within(0, size() - 1)(text);
  return Number.isInteger(i) ? i : undefined;
};

function toCSV(rows) {
  const cell = (x) => (/[",\n]/.test(x) ? `"${String(x).replaceAll('"', '""')}"` : x);
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

async function toClipboard(text) {
  if (navigator.clipboard) {
    try {
      return await navigator.clipboard.writeText(text);
    } catch {
      // not allowed here: the old way may be
    }
  }
  const area = h("textarea", { "aria-hidden": "true", style: "position: fixed; opacity: 0" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("no clipboard");
}

// One line of the fold: a formula, and below it the same with its numbers.
const formula = (...lines) => h("div", { class: "sx-formula" }, lines.map((line) => h("code", {}, line)));

// ------------------------------------------------------------------------------- Python

// What only Python can do. A page without a kernel says so instead of doing nothing.
//   ask(message)   sends it; true if somebody listens
//   node           a form for free text, where `wanted` names what is typed
function python({ model, signal }, { label, say, onPrompt, onAlive, onPicture }) {
  const input = h("input", { type: "text", placeholder: "an image of a lighthouse", maxlength: 200 });
  const button = h("button", { type: "submit" }, "Ask");
  const mark = h(
    "p",
    { class: "sx-note" },
    h("strong", { class: "sx-needs" }, "needs Python"),
    " Open this notebook in JupyterLab (the command sing live does) and run it.",
  );
  const asking = field(label, input);
  asking.append(h("div", { class: "sx-line-up" }, input, button));
  const fields = h("fieldset", { disabled: true, class: "sx-prompt" }, asking, mark);
  const form = h("form", {}, fields);
  let alive = false;
  let asked = null;
  const ask = (message) => {
    try {
      model.send(message);
    } catch {
      return false; // a page without a kernel
    }
    return alive;
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    asked = input.value.trim();
    if (!asked) return say("Type a phrase first.");
    if (!answered()) {
      say("Asking Python …");
      ask({ kind: "prompt", text: asked });
      setTimeout(() => asked !== null && say("Python has not answered: run the cell again."), PATIENCE);
    }
  });
  // Python keeps what it was asked: the same text again needs no answer.
  function answered() {
    if (asked === null || !Object.hasOwn(model.get("prompts"), asked)) return false;
    const text = asked;
    asked = null;
    say("");
    onPrompt(text);
    return true;
  }
  const hear = (message, buffers) => {
    if (message.kind === "alive" && !alive) {
      alive = true;
      fields.disabled = false;
      mark.hidden = true;
      onAlive?.();
    }
    if (message.kind === "error") {
      asked = null;
      say(message.message);
    }
    if (message.kind === "picture") onPicture?.(message, buffers[0]);
  };
  model.on("msg:custom", hear);
  model.on("change:prompts", () => answered() || onPrompt(null));
  signal?.addEventListener("abort", () => model.off("msg:custom", hear));
  ask({ kind: "hello" });
  return { node: form, ask };
}

// A picture of just the current point, which only Python can draw; it stays until the point moves.
function drawing(ask, say, signal) {
  const button = h("button", { type: "button", hidden: true, onclick: () => request() }, "Draw exactly this (Python)");
  let drawn = { key: "", url: "" };
  let point = {};
  signal?.addEventListener("abort", () => URL.revokeObjectURL(drawn.url));
  const request = () => {
    say("Drawing …");
    ask({ kind: "draw", ...point });
  };
  const receive = ({ key }, file) => {
    URL.revokeObjectURL(drawn.url);
    drawn = { key, url: URL.createObjectURL(new Blob([bytesOf(file)], { type: "image/webp" })) };
    say("");
  };
  // The picture of this point, if it is the one that was drawn.
  const of = (values) => {
    point = { ...values, key: JSON.stringify(values) };
    return drawn.key === point.key ? drawn.url : null;
  };
  return { button, receive, of };
}
