// Concept lens: hundreds of phrases against the photos of one class, to filter and to sort.

const COLUMNS = [
  { key: "phrase", name: "phrase", text: true },
  { key: "before", name: "before (°)" },
  { key: "after", name: "after (°)" },
  { key: "AS", name: "AS (°)" },
];

// Rows of one classifier and class, from what `lens_table` packed; one with room for many phrases.
function lensTable(table) {
  const [means, ends, scores] = [unpack(table.means), unpack(table.ends), unpack(table.endScores)];
  const side = ends.shape[3] / 2;
  return (k, c, j) => {
    const m = means.at(k, c, j, 0);
    const [before, AS, margin] = means.values.subarray(m, m + 3);
    const e = ends.at(k, c, j, 0);
    const photos = Array.from(ends.values.subarray(e, e + 2 * side), (photo, i) => ({
      photo, AS: (scores.values[e + i] * 180) / 32767,
    }));
    return { before, after: before - AS, AS, margin, away: photos.slice(0, side).filter((p) => p.AS < 0), closer: photos.slice(side).reverse().filter((p) => p.AS > 0) };
  };
}

function render(context) {
  const { model, signal } = context;
  const data = model.get("data");
  const table = lensTable(data);
  const picture = pictureFiles(data.pictures, signal);

  let added = [];
  const readAdded = () => {
    const more = Object.entries(model.get("prompts")).filter(([text]) => !data.phrases.includes(text));
    added = more.map(([text, x]) => ({ text, table: lensTable(x) }));
  };
  readAdded();
  const phrases = () => [...data.phrases, ...added.map((a) => a.text)];
  const rowOf = (k, c, j) => (j < data.phrases.length ? table(k, c, j) : added[j - data.phrases.length].table(k, c, 0));

  const current = () => ({
    k: Math.max(0, data.classifiers.indexOf(model.get("classifier"))),
    c: Math.max(0, data.classes.indexOf(model.get("class_name"))),
    words: model.get("filter").trim().toLowerCase(),
    order: model.get("order"),
    chosen: model.get("phrase"),
  });
  // All rows that pass the filter, in order: a leading "-" turns the order round.
  const rows = ({ k, c, words, order }) => {
    const key = order.replace("-", "");
    const sign = order.startsWith("-") ? -1 : 1;
    const all = phrases().map((phrase, j) => ({ phrase, ...rowOf(k, c, j) }));
    const kept = words ? all.filter((row) => row.phrase.toLowerCase().includes(words)) : all;
    const compare = key === "phrase" ? (x, y) => x.phrase.localeCompare(y.phrase) : (x, y) => x[key] - y[key];
    return kept.sort((x, y) => sign * compare(x, y));
  };

  const ui = explorer(context, {
    name: "lens",
    title: "Concept lens",
    traits: {
      classifier: oneOf(data.classifiers),
      class_name: oneOf(data.classes),
      filter: (text) => text,
      order: oneOf(COLUMNS.flatMap(({ key }) => [key, `-${key}`])),
      phrase: (text) => (phrases().includes(text) ? text : undefined),
    },
    update,
    csv,
  });
  const classifierMenu = menu("Classifier", data.classifiers, (k) => ui.set({ classifier: data.classifiers[k] }));
  const classMenu = menu("Class", data.classes, (c) => ui.set({ class_name: data.classes[c] }));
  const search = h("input", { type: "search", placeholder: "such as: water", oninput: () => ui.set({ filter: search.value }) });
  const form = python(context, {
    label: "Add any prompt",
    say: ui.say,
    onPrompt(text) {
      readAdded();
      ui.set(text === null ? {} : { phrase: text, filter: "" });
    },
  });
  ui.controls.append(classifierMenu.node, classMenu.node, field("Show phrases with", search));
  ui.foot.append(form.node);

  const counted = h("p", { class: "sx-note", role: "status" });
  const list = phraseTable((order) => ui.set({ order }), (phrase) => ui.set({ phrase }));
  const heading = h("h4", {});
  const sentence = h("p", {});
  const away = photoStrip("Moved away most", data, picture);
  const closer = photoStrip("Came closer most", data, picture);
  const detail = h("div", { class: "sx-panel sx-detail", role: "group", "aria-label": "the chosen phrase" }, heading, sentence, closer.node, away.node);
  ui.view.append(h("div", { class: "sx-list" }, counted, list.node), detail, h("p", { class: "sx-note sx-wide" }, data.pictureNote));

  function update() {
    const now = current();
    const { k, c, words, order } = now;
    classifierMenu.show(k);
    classMenu.show(c);
    if (search.value !== model.get("filter")) search.value = model.get("filter");
    const shown = rows(now);
    const chosen = shown.find((row) => row.phrase === now.chosen) ?? shown[0];
    list.show(shown, order, chosen?.phrase);
    list.node.hidden = !chosen;
    write(
      counted,
      chosen
        ? `${shown.length} of ${phrases().length} phrases${words ? ` with “${words}”` : ""}; mean angles to ${data.counts[c]} photos of ${data.classes[c]}, before and after null removal; an arrow where a phrase's own interval leaves out zero`
        : `No phrase contains “${words}”.`,
    );
    detail.hidden = !chosen;
    if (!chosen) return model.set("reading", {});
    const { before, after, AS, margin } = chosen;
    write(heading, chosen.phrase);
    const level = Math.round(100 * data.confidence);
    write(sentence, `Mean angle to the photos: ${degrees(before)} with the null component, ${degrees(after)} without. AS ${signed(AS, 3)} ` + (Number.isNaN(margin) ? "(no interval: one photo, or a phrase that was added)." : `± ${fixed(margin, 3)}° (${level} % interval with the errors of photos and translator).`));
    away.show(chosen.away);
    closer.show(chosen.closer);
    showFormulas(chosen, c);
    model.set("reading", { phrase: chosen.phrase, before, after, AS });
  }

  function showFormulas({ before, after, AS, margin, phrase }, c) {
    ui.fold.replaceChildren(
      h("p", {}, `Angles were measured by sing_utils for each of the ${data.counts[c]} photos, u being the unit vector of “${phrase}”; the page orders them and takes differences.`),
      formula("before = mean angle(T f, u)", `   = ${degrees(before, 3)}`),
      formula("after = mean angle(T f̃, u)", `   = ${degrees(after, 3)}`),
      formula("AS = before − after   (eq. 7)", `   = ${signed(AS, 3)} ± ${fixed(margin, 3)}°`),
      h("p", {}, `The interval has the errors of photos and translator. ${Math.round(100 - 100 * data.confidence)} in 100 phrases would have an arrow by chance.`),
    );
  }

  function csv() {
    const now = current();
    const about = [data.classifiers[now.k], data.classes[now.c]];
    return [
      ["classifier", "class", "phrase", "angle before (degrees)", "angle after (degrees)", "AS (degrees)", "margin (degrees)"],
      ...rows(now).map((r) => [...about, r.phrase, ...[r.before, r.after, r.AS, r.margin].map((x) => x.toFixed(4))]),
    ];
  }

  ui.schedule();
}

// The table of phrases: heads are buttons that sort, phrases are buttons that choose.
function phraseTable(onorder, onchoose) {
  let order = "";
  const heads = COLUMNS.map(({ key, name }) => {
    const button = h("button", { type: "button", onclick: () => onorder(order === key ? `-${key}` : key) }, name);
    return h("th", { scope: "col" }, button);
  });
  const body = h("tbody", {});
  // One stop for the Tab key; from there the arrow keys go from phrase to phrase.
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
  body.addEventListener("keydown", (event) => {
    const all = [...body.querySelectorAll(".sx-phrase")];
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const wanted = all.indexOf(document.activeElement) + step;
    const next = all[Math.min(all.length - 1, Math.max(0, wanted))];
    next.focus();
    onchoose(next.textContent);
  });
  const node = h("div", { class: "sx-scroll", role: "region", "aria-label": "phrases" }, h("table", { class: "sx-table" }, h("thead", {}, h("tr", {}, heads)), body));
  const made = new Map();
  const rowOf = (phrase) => {
    if (made.has(phrase)) return made.get(phrase);
    const button = h("button", { type: "button", class: "sx-phrase", onclick: () => onchoose(phrase) }, phrase);
    const cells = ["sx-angle", "sx-angle", "sx-moved"].map((kind) => h("td", { class: kind }));
    const row = { node: h("tr", {}, h("th", { scope: "row" }, button), cells), button, cells };
    made.set(phrase, row);
    return row;
  };
  const show = (rows, now, chosen) => {
    if (order !== now) {
      order = now;
      heads.forEach((head, i) => {
        const { key } = COLUMNS[i];
        const sorted = order === key ? "ascending" : order === `-${key}` ? "descending" : "none";
        head.setAttribute("aria-sort", sorted);
      });
    }
    const nodes = rows.map((row) => {
      const { node, button, cells } = rowOf(row.phrase);
      write(cells[0], fixed(row.before));
      write(cells[1], fixed(row.after));
      writeMove(cells[2], row.AS, 3, row.margin);
      button.setAttribute("aria-pressed", row.phrase === chosen);
      button.tabIndex = row.phrase === chosen ? 0 : -1;
      return node;
    });
    // Only what changed place is moved, so that the focus stays where it is.
    const same = nodes.length === body.children.length && nodes.every((n, i) => body.children[i] === n);
    if (!same) {
      const focused = document.activeElement;
      body.replaceChildren(...nodes);
      if (body.contains(focused)) focused.focus({ preventScroll: true });
    }
  };
  return { node, show };
}

// Photos at one end, each with its own AS.
function photoStrip(title, data, picture) {
  const room = h("div", { class: "sx-pictures" });
  const node = h("div", { class: "sx-strip" }, h("h5", {}, title), room);
  const show = (photos) => {
    node.hidden = !photos.length;
    room.replaceChildren(
      ...photos.map(({ photo, AS }) => {
        const name = data.photoName[photo];
        const image = h("img", { src: picture(photo), alt: data.drawn ? `drawn from the embedding of photo ${name}` : `photo ${name}` });
        return h("figure", { class: "sx-figure" }, h("div", { class: "sx-picture" }, image), h("figcaption", {}, `AS ${signed(AS)}`, h("span", { class: "sx-name" }, name)));
      }),
    );
  };
  return { node, show };
}

export default { render };
