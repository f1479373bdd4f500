// What the explorers have in common. Python puts this file before each explorer's own, as one module.

const SVG = "http://www.w3.org/2000/svg";
const DEGREES = 180 / Math.PI;
const PATIENCE = 60_000; // milliseconds for an answer of Python

// ------------------------------------------------------------------------------- numbers

const ARRAYS = { float64: Float64Array, float32: Float32Array, int16: Int16Array, uint16: Uint16Array };

const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

// Rows of the array that `pack` or `pack_steps` made: (i, j) => the row along what other axes there are.
function unpack({ dtype, shape, data, unit }) {
  const whole = new ARRAYS[dtype](bytesOf(data).slice().buffer);
  const values = unit ? Float64Array.from(whole, (x) => x * unit) : whole;
  const sizes = [...shape.keys(), shape.length].map((i) => shape.slice(i).reduce((a, b) => a * b, 1));
  const rows = (...place) => {
    const start = place.reduce((sum, p, i) => sum + p * sizes[i + 1], 0);
    return values.subarray(start, start + sizes[place.length]);
  };
  return Object.assign(rows, { shape });
}

const fixed = (x, digits = 2) => {
  const text = x.toFixed(digits).replace("-", "−");
  return /^−[0.]+$/.test(text) ? text.slice(1) : text;
};
const degrees = (x, digits = 2) => fixed(x, digits) + "°";
const signed = (x, digits = 2) => (x.toFixed(digits) > 0 ? "+" : "") + degrees(x, digits);
const small = (x) => {
  if (x === 0) return "0";
  if (x >= 0.01 && x < 1000) return x.toPrecision(2);
  const [digits, exponent] = x.toExponential(1).split("e");
  const raised = Array.from(String(Number(exponent)), (sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] ?? "⁻");
  return `${digits} · 10${raised.join("")}`;
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

const put = (node, values) => Object.entries(values).forEach(([key, value]) => node.setAttribute(key, value));
const note = (...children) => h("p", { class: "sx-note" }, children);

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

// A menu. `show` takes its names and which of them is chosen.
function menu(label, onchange) {
  const input = h("select", { onchange: () => onchange(input.selectedIndex) });
  const show = (names, chosen) => {
    const same = names.length === input.length && names.every((name, i) => input[i].textContent === name);
    if (!same) input.replaceChildren(...names.map((name) => h("option", {}, name)));
    input.selectedIndex = chosen;
  };
  return { node: field(label, input), show };
}

// A slider with places below it, [[value, "mark", "name"], ...]; narrow ones show the marks alone.
function slider(label, { min, max, step, places, say }, oninput) {
  const output = h("output", { "aria-live": "off" }); // the slider says its value itself
  const input = h("input", { type: "range", min, max, step, oninput: () => oninput(+input.value) });
  const marks = places.map(([value, mark, name]) => {
    const left = (100 * (value - min)) / (max - min);
    return h("span", { style: `--at: ${left}%` }, mark, name && h("b", {}, ` ${name}`));
  });
  const node = field(label, input, h("div", { class: "sx-places", "aria-hidden": "true" }, marks));
  node.classList.add("sx-slider");
  const name = node.firstChild;
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

// Largest logits from what `logits_of` packed, as bars that are built once and only change their length.
function logitBars(logits) {
  const [classes, values, drifts, most] = ["classes", "values", "drifts", "most"].map((k) => unpack(logits[k]));
  const rows = Array.from({ length: values.shape[2] }, () => {
    const name = h("span", { class: "sx-bar-name" });
    const bar = h("span", { class: "sx-bar" });
    const value = h("span", { class: "sx-bar-value" });
    const node = h("li", {}, name, h("span", { class: "sx-bar-room", "aria-hidden": "true" }, bar), value);
    return { node, name, bar, value };
  });
  const words = note();
  const node = panel("Largest logits", h("ol", { class: "sx-bars" }, rows.map((row) => row.node)), words);
  // Of photo p with its null component times 1 + change; `moved`: what any logit moved by at most.
  const show = (k, p, change, moved = Math.abs(change) * most(k)[p]) => {
    const now = values(k, p).map((x, i) => x + change * drifts(k, p)[i]);
    const longest = Math.max(...now.map(Math.abs)) || 1;
    rows.forEach((row, i) => {
      write(row.name, logits.labels[classes(k, p)[i]]);
      write(row.value, fixed(now[i], 4));
      row.bar.style.width = `${(100 * Math.max(0, now[i])) / longest}%`;
    });
    write(words, `Of all logits, the one that moved most moved by ${small(moved)}.`);
  };
  return { node, show, most: (k, p) => most(k)[p] };
}

// A list of named numbers.
function numberList(names) {
  const values = names.map(() => h("dd", {}));
  const node = h("dl", { class: "sx-numbers" }, names.map((name, i) => [h("dt", {}, name), values[i]]));
  return { node, show: (texts) => texts.forEach((text, i) => write(values[i], text)) };
}

const table = (heads, body) =>
  h("table", { class: "sx-table" }, h("thead", {}, h("tr", {}, heads)), body);
const columnHead = (...children) => h("th", { scope: "col" }, children);

// How a phrase moved, in a sign, a number and, besides, a colour; without them where it may be not at all.
function writeMove(cell, AS, digits, margin) {
  const text = signed(AS, digits);
  const way = Math.abs(AS) <= margin ? "" : { "+": "closer", "−": "away" }[text[0]] ?? "";
  write(cell, `${{ closer: "▲ ", away: "▼ " }[way] ?? ""}${text}`);
  cell.dataset.moved = way;
}

// A short table of phrases that is built once. `columns`: {kind: name}; the kind "moved" holds an AS.
function phraseRows(title, columns, size) {
  const kinds = Object.keys(columns);
  const rows = Array.from({ length: size }, () => h("tr", {}, kinds.map((kind) => h("td", { class: `sx-${kind}` }))));
  const none = note("None.");
  const shown = table(Object.values(columns).map((name) => columnHead(name)), h("tbody", {}, rows));
  const show = (values) => {
    none.hidden = values.length > 0;
    shown.hidden = !none.hidden;
    rows.forEach((row, i) => {
      row.hidden = i >= values.length;
      values[i]?.forEach((value, j) =>
        kinds[j] === "moved" ? writeMove(row.cells[j], value) : write(row.cells[j], String(value)),
      );
    });
  };
  return { node: panel(title, shown, none), show };
}

// Phrases that came closer most and that moved away most. `columns` as above; `row(j)`: their values.
function extremes(columns, size) {
  const [closer, away] = ["Came closer most", "Moved away most"].map((title) => phraseRows(title, columns, size));
  const show = (scores, row) => {
    const order = [...scores.keys()].sort((x, y) => scores[y] - scores[x]);
    closer.show(order.slice(0, size).filter((j) => scores[j] > 0).map(row));
    away.show(order.slice(-size).reverse().filter((j) => scores[j] < 0).map(row));
  };
  return { nodes: [closer.node, away.node], show };
}

// The ground of a plot: numbered lines across, numbers and a title below. `draw` takes where values lie.
const PLOT = { width: 340, height: 200, left: 44, right: 322, top: 8, bottom: 166 };
function plot(title, kind, ...marks) {
  const { width, height, left, right, top, bottom } = PLOT;
  const axis = h("svg:g", { class: "sx-axis" });
  const box = { viewBox: `0 0 ${width} ${height}`, class: kind, "aria-hidden": "true" };
  const node = h("svg:svg", box, axis, marks);
  const label = (x, y, text, anchor) => h("svg:text", { x, y, "text-anchor": anchor }, text);
  const draw = (x, y, across, below) =>
    axis.replaceChildren(
      ...across.map((v) => h("svg:line", { x1: left, x2: right, y1: y(v), y2: y(v), class: v ? "" : "sx-zero" })),
      ...across.map((v) => label(left - 6, y(v) + 4, String(Number(v.toPrecision(2))).replace("-", "−"), "end")),
      ...below.map((v) => label(x(v), height - 18, v, "middle")),
      label((left + right) / 2, height - 3, title, "middle"),
    );
  return { node, draw };
}

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
    if (!urls.has(i)) urls.set(i, pictureURL(bytes.subarray(start, ends[i])));
    return urls.get(i);
  };
}

const pictureURL = (bytes) => URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));

// ------------------------------------------------------------------------------- explorers

// The frame of an explorer: title, controls, view, fold, copying; its state, in the model and in links.
//   name    of the explorer, in links: #explore-name?alpha=1
//   traits  {trait: how its value reads in a link}; these and `classifier` are shared with Python
//   update  draws the current state of the k-th classifier and returns what Python reads of it
//   csv     rows of the current values of the k-th classifier, the first one with names
//   view    what is shown
function explorer({ model, el, signal }, { name, title, traits, update, csv, view }) {
  const { classifiers } = model.get("data");
  const shared = { classifier: oneOf(() => classifiers), ...traits };
  const current = () => Math.max(0, classifiers.indexOf(model.get("classifier")));
  const chooser = menu("Classifier", (k) => set({ classifier: classifiers[k] }));
  const controls = h("div", { class: "sx-controls" }, chooser.node);
  const fold = h("div", { class: "sx-formulas" });
  const status = h("p", { class: "sx-status", role: "status" });
  const foot = h("div", { class: "sx-foot" });
  const inBook = Boolean(document.querySelector(".bd-article"));
  const button = (text, values, done) => h("button", { type: "button", onclick: () => copy(values(), done) }, text);
  const root = h(
    "section",
    { class: "sing-explorer", "aria-label": title, "data-explorer": name },
    h("h3", { class: "sx-title" }, title),
    controls,
    h("div", { class: "sx-view" }, view),
    foot,
    h("details", { class: "sx-fold" }, h("summary", {}, "How is this computed"), fold),
    h(
      "div",
      { class: "sx-tools" },
      button("Copy values (CSV)", () => toCSV(csv(current())), "Values copied as CSV."),
      inBook && button("Copy link to this view", link, "Link copied."),
      status,
    ),
  );
  if (inBook && !document.getElementById(`explore-${name}`)) root.id = `explore-${name}`;
  el.replaceChildren(root);

  let waiting = false;
  const schedule = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (signal?.aborted) return;
      chooser.show(classifiers, current());
      model.set("reading", update(current()));
      model.save_changes();
    });
  };
  const set = (values) => {
    for (const [trait, value] of Object.entries(values)) model.set(trait, value);
    schedule();
  };
  for (const trait of Object.keys(shared)) model.on(`change:${trait}`, schedule);

  function link() {
    const values = new URLSearchParams();
    for (const trait of Object.keys(shared)) values.set(trait, model.get(trait));
    return `${location.href.split("#")[0]}#explore-${name}?${values}`;
  }
  const isMeant = () => root.id && location.hash.slice(1).split("?")[0] === root.id;
  function follow() {
    if (!isMeant()) return;
    const query = location.hash.split("?")[1] ?? "";
    const wanted = {};
    for (const [trait, value] of new URLSearchParams(query)) {
      const known = Object.hasOwn(shared, trait) ? shared[trait](value) : undefined;
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
  schedule();
  return { controls, foot, set, schedule, say, explain: (...lines) => fold.replaceChildren(...lines) };
}

// How a value in a link is read; undefined: no such value.
const oneOf = (names) => (text) => (names().includes(text) ? text : undefined);
const within = (min, max) => (text) => {
  const x = Number(text);
  return text.trim() !== "" && x >= min && x <= max ? x : undefined;
};
const wholeWithin = (min, max) => (text) => (Number.isInteger(Number(text)) ? within(min, max)(text) : undefined);

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

// Lines of the fold: a sentence; a formula, and below it the same with its numbers.
const sentence = (text) => h("p", {}, text);
const formula = (...lines) => h("div", { class: "sx-formula" }, lines.map((line) => h("code", {}, line)));

// ------------------------------------------------------------------------------- Python

// The texts of a page, then those that Python added, which `read()` reads anew; and the numbers of each.
//   rowsOf(numbers)  a function (k, place, j) => the row of text j
function textTable(model, known, rowsOf) {
  const page = rowsOf(model.get("data"));
  let added = [];
  const read = () => {
    const more = Object.entries(model.get("prompts")).filter(([text]) => !known.includes(text));
    added = more.map(([text, numbers]) => ({ text, row: rowsOf(numbers) }));
  };
  read();
  return {
    read,
    all: () => [...known, ...added.map(({ text }) => text)],
    row: (k, p, j) => (j < known.length ? page(k, p, j) : added[j - known.length].row(k, p, 0)),
  };
}

// What only Python can do, below an explorer: a form for free text. A page without a kernel says so instead
// of doing nothing. Returned is how to ask for more.
//   choose(text)  of a text that Python has added to `texts`
function python({ model, signal }, ui, { label, texts, choose, onAlive, onPicture }) {
  const input = h("input", { type: "text", placeholder: "an image of a lighthouse", maxlength: 200 });
  const button = h("button", { type: "submit" }, "Ask");
  const mark = note(
    h("strong", { class: "sx-needs" }, "needs Python"),
    " Open this notebook in JupyterLab (the command sing live does) and run it.",
  );
  const asking = field(label, input);
  asking.append(h("div", { class: "sx-line-up" }, input, button));
  const fields = h("fieldset", { disabled: true, class: "sx-prompt" }, asking, mark);
  ui.foot.append(h("form", { onsubmit: submit }, fields));
  let asked = null;
  const ask = (message) => {
    try {
      model.send(message);
    } catch {
      // a page without a kernel
    }
  };
  function submit(event) {
    event.preventDefault();
    asked = input.value.trim();
    if (!asked) return ui.say("Type a phrase first.");
    if (!answered()) {
      ui.say("Asking Python …");
      ask({ kind: "prompt", text: asked });
      setTimeout(() => asked !== null && ui.say("Python has not answered: run the cell again."), PATIENCE);
    }
  }
  // Python keeps what it was asked: the same text again needs no answer.
  function answered() {
    if (asked === null || !Object.hasOwn(model.get("prompts"), asked)) return false;
    choose(asked);
    asked = null;
    ui.say("");
    return true;
  }
  const hear = (message, buffers) => {
    if (message.kind === "alive") {
      fields.disabled = false;
      mark.hidden = true;
      onAlive?.();
    }
    if (message.kind === "error") {
      asked = null;
      ui.say(message.message);
    }
    if (message.kind === "picture") onPicture(message, buffers[0]);
  };
  model.on("msg:custom", hear);
  model.on("change:prompts", () => {
    texts.read();
    if (!answered()) ui.schedule();
  });
  signal?.addEventListener("abort", () => model.off("msg:custom", hear));
  ask({ kind: "hello" });
  return ask;
}
