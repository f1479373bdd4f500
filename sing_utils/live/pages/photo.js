// What the pair and the steering explorer share: one photo, whose feature moves in the plane of two vectors
// a and b, toward texts of which a·u and b·u are known. It stands before each, after common.js.

// Of s a + t b: sine and cosine of its angle to a text, both times its length.
function sides({ aa, ab, bb }, { au, bu }, s, t) {
  const product = s * au + t * bu;
  const square = s * s * aa + 2 * s * t * ab + t * t * bb;
  return [Math.sqrt(Math.max(0, square - product * product)), product];
}

// With atan2, as in sing_utils.method.scores: an arc cosine would lose the small angles.
const angleAt = (plane, text, s, t) => DEGREES * Math.atan2(...sides(plane, text, s, t));

// Controls, pictures, logits and free text of one photo.
//   name, title       as of `explorer`
//   classLabel        of the menu of classes
//   textLabel, trait  of the menu of texts, and the trait that has its choice
//   own               what stands first in that menu for the photo's own class; "" in the trait
//   promptLabel       of the free text
//   rowsOf            as of `textTable`
//   move              of the slider: label, trait, min, max, step, places; symbol, write and digits of its value
//   picture           what is said of the picture there: {alt, missing}
//   asked             what Python must know besides to draw it
//   panels            shown besides
//   update, csv       as of `explorer`, of the current {k, p, j, x}: classifier, photo, text, slider
function photoExplorer(context, face) {
  const { model, signal } = context;
  const { trait, own, move } = face;
  const data = model.get("data");
  const texts = textTable(model, data.texts, face.rowsOf);
  // A short name such as "jellyfish" stands for a prompt; the bare word, asked for, is another text.
  const known = data.names ?? data.texts;
  const names = () => texts.all().map((text, j) => known[j] ?? (known.includes(text) ? `“${text}”` : text));
  const choices = () => (own ? ["", ...names()] : names());
  const classOf = (p) => data.photoClass[p];
  const ofClass = (c) => data.photoClass.flatMap((x, p) => (x === c ? [p] : []));

  function current(k) {
    const p = Math.min(model.get("photo"), data.photoClass.length - 1);
    const i = Math.max(0, choices().indexOf(model.get(trait)));
    return { k, p, i, j: !own ? i : i ? i - 1 : classOf(p), x: model.get(move.trait) };
  }

  const bars = logitBars(data.logits);
  const pictures = photoPictures(data, signal, move, (point) => {
    ui.say("Drawing …");
    ask({ kind: "draw", ...point });
  });
  const ui = explorer(context, {
    ...face,
    traits: {
      photo: wholeWithin(0, data.photoClass.length - 1),
      [move.trait]: within(move.min, move.max),
      [trait]: oneOf(choices),
    },
    update,
    csv(k) {
      const now = current(k);
      const [heads, ...rows] = face.csv(now);
      const about = [data.classifiers[k], data.classes[classOf(now.p)], data.photoName[now.p]];
      return [["classifier", "class", "photo", ...heads], ...rows.map((row) => [...about, ...row])];
    },
    view: [column(pictures.node, bars.node), face.panels, h("p", { class: "sx-note sx-wide" }, data.pictureNote)],
  });
  const classMenu = menu(face.classLabel, (c) => ui.set({ photo: ofClass(c)[0] }));
  const photoMenu = menu("Photo", (i) => ui.set({ photo: ofClass(classOf(current(0).p))[i] }));
  const textMenu = menu(face.textLabel, (i) => ui.set({ [trait]: choices()[i] }));
  const say = (x) => `${move.symbol} = ${move.write(x, move.digits)}`;
  const moving = slider(move.label, { ...move, say }, (x) => ui.set({ [move.trait]: x }));
  ui.controls.append(classMenu.node, photoMenu.node, textMenu.node, moving.node);
  const ask = python(context, ui, {
    label: face.promptLabel,
    texts,
    choose: (text) => ui.set({ [trait]: names()[texts.all().indexOf(text)] }),
    onAlive: () => (pictures.button.hidden = false),
    onPicture(message, file) {
      pictures.receive(message, file);
      ui.say("");
      ui.schedule();
    },
  });

  function update(k) {
    const now = current(k);
    const { p, i, j, x } = now;
    const [c, photos] = [classOf(p), ofClass(classOf(p))];
    classMenu.show(data.classes, c);
    photoMenu.show(photos.map((photo, place) => `${place + 1}: ${data.photoName[photo]}`), photos.indexOf(p));
    textMenu.show(own ? [own, ...names()] : names(), i);
    moving.show(x);
    const asked = { classifier: data.classifiers[k], photo: p, ...face.asked?.(now), [move.trait]: x };
    const photo = `${data.classes[c]}, ${data.photoName[p]}`;
    pictures.show({ ...now, way: own ? 0 : j }, asked, { photo, ...face.picture(now) });
    return face.update(now);
  }
  return { texts, names, bars, classOf, explain: ui.explain };
}

// The photo's picture, and the one where it has moved: a cross-fade of those that are kept on both sides, or
// just this point's, which only Python can draw; that one stays until the point moves.
//   ask       has Python draw a point
//   symbol, write, digits   of the slider's value
function photoPictures(data, signal, { symbol, write: told, digits }, ask) {
  const kept = pictureFiles(data.frames, signal);
  const stops = [...data.stops, 0].sort((x, y) => x - y);
  const size = 1 + data.ways * data.stops.length; // pictures of a photo, the first one of it as it is
  // The picture of a photo at the i-th stop of a way; there are some of the first classifier.
  function frame({ k, p, way }, i) {
    if (k !== 0 || (stops[i] !== 0 && way >= data.ways)) return null;
    return kept(p * size + (stops[i] === 0 ? 0 : 1 + way * data.stops.length + data.stops.indexOf(stops[i])));
  }
  const [before, after] = [fading(), fading()];
  const button = h("button", { type: "button", hidden: true, onclick: () => ask(point) }, "Draw exactly this (Python)");
  let point = {};
  let drawn = { key: "", url: "" };
  signal?.addEventListener("abort", () => URL.revokeObjectURL(drawn.url));
  function receive({ key }, file) {
    URL.revokeObjectURL(drawn.url);
    drawn = { key, url: pictureURL(bytesOf(file)) };
  }
  //   now    classifier k, photo p, way, and x of the slider
  //   asked  the same for Python
  function show(now, asked, { photo, alt, missing }) {
    before.show([frame(now, stops.indexOf(0))], 0, {
      text: `original, ${symbol} = ${told(0, 0)}`, alt: `${photo}, original feature`, missing: "no picture",
    });
    const { x } = now;
    const upper = Math.max(1, stops.findIndex((stop) => stop >= x));
    const share = (x - stops[upper - 1]) / (stops[upper] - stops[upper - 1]);
    const weight = data.drawn ? share : Math.round(share); // two photographs make no blend
    const near = weight === 0 ? [upper - 1] : weight === 1 ? [upper] : [upper - 1, upper];
    const frames = x <= stops.at(-1) ? near.map((i) => frame(now, i)) : [null];
    point = { ...asked, key: JSON.stringify(asked) };
    const exact = drawn.key === point.key && drawn.url;
    const shown = exact ? [exact] : frames.includes(null) ? [] : frames;
    const blend = `, blend of ${near.map((i) => told(stops[i], 0)).join(" and ")}`;
    const kind = ["", data.drawn ? ", drawn" : ", nearest photograph", blend][shown.length];
    after.show(shown, weight, { text: `${symbol} = ${told(x, digits)}${kind}`, alt: `${photo}, ${alt}`, missing });
  }
  return { node: h("div", { class: "sx-pictures" }, before.node, after.node, button), button, receive, show };
}

// Up to two pictures on each other, the upper one as opaque as it counts.
function fading() {
  const [under, over] = [h("img", { alt: "" }), h("img", { alt: "" })];
  const words = h("figcaption", {});
  const none = h("span", { class: "sx-none" });
  const box = h("div", { class: "sx-picture", role: "img" }, under, over, none);
  const place = (image, url) => {
    image.hidden = !url;
    if (url && image.getAttribute("src") !== url) image.src = url;
  };
  const show = ([first, second = first], weight, { text, alt, missing }) => {
    place(under, first);
    place(over, second);
    over.style.opacity = weight;
    write(none, first ? "" : missing);
    box.setAttribute("aria-label", first ? alt : missing);
    write(words, text);
  };
  return { node: h("figure", { class: "sx-figure" }, box, words), show };
}
