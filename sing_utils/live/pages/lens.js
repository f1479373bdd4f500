// Concept lens: hundreds of phrases against the photos of one class, to filter and to sort.

const COLUMNS = { phrase: "phrase", before: "before (°)", after: "after (°)", AS: "AS (°)" };

// Rows of one classifier and class, from what `lens_table` packed.
function lensRows(numbers) {
  const [means, ends, scores] = [unpack(numbers.means), unpack(numbers.ends), unpack(numbers.endScores)];
  return (k, c, j) => {
    const [before, AS, margin] = means(k, c, j);
    const photos = Array.from(ends(k, c, j), (photo, i) => ({ photo, AS: scores(k, c, j)[i] }));
    const side = photos.length / 2;
    const [away, closer] = [photos.slice(0, side).filter((p) => p.AS < 0), photos.slice(side).filter((p) => p.AS > 0)];
    return { before, after: before - AS, AS, margin, away, closer: closer.reverse() };
  };
}

function render(context) {
  const { model, signal } = context;
  const data = model.get("data");
  const phrases = textTable(model, data.phrases, lensRows);
  const picture = pictureFiles(data.pictures, signal);

  const current = () => ({
    c: Math.max(0, data.classes.indexOf(model.get("class_name"))),
    words: model.get("filter").trim().toLowerCase(),
    order: model.get("order"),
  });
  // All rows that pass the filter, in order: a leading "-" turns the order round.
  const rowsOf = (k, { c, words, order }) => {
    const key = order.replace("-", "");
    const sign = order.startsWith("-") ? -1 : 1;
    const all = phrases.all().map((phrase, j) => ({ phrase, ...phrases.row(k, c, j) }));
    const kept = words ? all.filter((row) => row.phrase.toLowerCase().includes(words)) : all;
    const compare = key === "phrase" ? (x, y) => x.phrase.localeCompare(y.phrase) : (x, y) => x[key] - y[key];
    return kept.sort((x, y) => sign * compare(x, y));
  };

  const counted = h("p", { class: "sx-note", role: "status" });
  const list = phraseTable((order) => ui.set({ order }), (phrase) => ui.set({ phrase }));
  const heading = h("h4", {});
  const means = h("p", {});
  const away = photoStrip("Moved away most", data, picture);
  const closer = photoStrip("Came closer most", data, picture);
  const detail = h("div", { class: "sx-panel sx-detail", role: "group", "aria-label": "the chosen phrase" }, heading, means, closer.node, away.node);
  const ui = explorer(context, {
    name: "lens",
    title: "Concept lens",
    traits: {
      class_name: oneOf(() => data.classes),
      filter: (text) => text,
      order: oneOf(() => Object.keys(COLUMNS).flatMap((key) => [key, `-${key}`])),
      phrase: oneOf(phrases.all),
    },
    update,
    csv(k) {
      const now = current();
      return [
        ["classifier", "class", "phrase", "angle before (degrees)", "angle after (degrees)", "AS (degrees)", "margin (degrees)"],
        ...rowsOf(k, now).map((row) => {
          const angles = [row.before, row.after, row.AS, row.margin].map((x) => x.toFixed(4));
          return [data.classifiers[k], data.classes[now.c], row.phrase, ...angles];
        }),
      ];
    },
    view: [h("div", { class: "sx-list" }, counted, list.node), detail, h("p", { class: "sx-note sx-wide" }, data.pictureNote)],
  });
  const classMenu = menu("Class", (c) => ui.set({ class_name: data.classes[c] }));
  const search = h("input", { type: "search", placeholder: "such as: water", oninput: () => ui.set({ filter: search.value }) });
  ui.controls.append(classMenu.node, field("Show phrases with", search));
  python(context, ui, {
    label: "Add any prompt",
    texts: phrases,
    choose: (text) => ui.set({ phrase: text, filter: "" }),
  });

  function update(k) {
    const now = current();
    const { c, words, order } = now;
    classMenu.show(data.classes, c);
    if (search.value !== model.get("filter")) search.value = model.get("filter");
    const shown = rowsOf(k, now);
    const chosen = shown.find((row) => row.phrase === model.get("phrase")) ?? shown[0];
    list.show(shown, order, chosen?.phrase);
    list.node.hidden = detail.hidden = !chosen;
    write(
      counted,
      chosen
        ? `${shown.length} of ${phrases.all().length} phrases${words ? ` with “${words}”` : ""}; mean angles to ${data.counts[c]} photos of ${data.classes[c]}, before and after null removal; an arrow where a phrase's own interval leaves out zero`
        : `No phrase contains “${words}”.`,
    );
    if (!chosen) return {};
    const { phrase, before, after, AS, margin } = chosen;
    write(heading, phrase);
    const level = Math.round(100 * data.confidence);
    write(means, `Mean angle to the photos: ${degrees(before)} with the null component, ${degrees(after)} without. AS ${signed(AS, 3)} ` + (Number.isNaN(margin) ? "(no interval: one photo, or a phrase that was added)." : `± ${fixed(margin, 3)}° (${level} % interval with the errors of photos and translator).`));
    away.show(chosen.away);
    closer.show(chosen.closer);
    ui.explain(
      sentence(`Angles were measured by sing_utils for each of the ${data.counts[c]} photos, u being the unit vector of “${phrase}”; the page orders them and takes differences.`),
      formula("before = mean angle(T f, u)", `   = ${degrees(before, 3)}`),
      formula("after = mean angle(T f̃, u)", `   = ${degrees(after, 3)}`),
      formula("AS = before − after   (eq. 7)", `   = ${signed(AS, 3)} ± ${fixed(margin, 3)}°`),
      sentence(`The interval has the errors of photos and translator. ${100 - level} in 100 phrases would have an arrow by chance.`),
    );
    return { phrase, before, after, AS };
  }
}

// The table of phrases: heads are buttons that sort, phrases are buttons that choose.
function phraseTable(onorder, onchoose) {
  let order = "";
  const heads = Object.entries(COLUMNS).map(([key, name]) => {
    const turn = () => onorder(order === key ? `-${key}` : key);
    return columnHead(h("button", { type: "button", onclick: turn }, name));
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
  const node = h("div", { class: "sx-scroll", role: "region", "aria-label": "phrases" }, table(heads, body));
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
    order = now;
    Object.keys(COLUMNS).forEach((key, i) => {
      put(heads[i], { "aria-sort": { [key]: "ascending", [`-${key}`]: "descending" }[order] ?? "none" });
    });
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
