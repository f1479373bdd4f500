// Draws the charts of a page with the local Vega-Embed: as wide as the page allows, in the colours
// of the page, again whenever one of them changes.
(function () {
  "use strict";

  // Narrower panels than these go under one another; facets share their axes and can be narrower.
  const MIN_PANEL = 180;
  const MIN_FACET = 80;
  const NARROW = 520; // a page narrower than this has no room beside a chart
  const MANY_ROWS = 4000; // more marks than this are drawn on a canvas

  const css = (name, fallback) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim() || fallback;

  const isDark = () => document.documentElement.dataset.theme === "dark";

  // What a chart gets where it says nothing itself: colours that read on this background.
  function defaults() {
    const light = ["#1f6f8b", "#d1603d", "#7a5aa6", "#b98a12", "#4d8f5b", "#a8477e", "#5b6f82"];
    const dark = ["#6cc3de", "#f2906f", "#b79be0", "#e3bd4f", "#86c995", "#e58fbf", "#a9b9c8"];
    const colors = isDark() ? dark : light;
    return { mark: { color: colors[0] }, range: { category: colors } };
  }

  // Colours and type of everything around the marks; marks keep the colours the chart gave them.
  function pageConfig(width) {
    const ink = css("--pst-color-text-base", "#222");
    const muted = css("--sing-chart-muted", "#555");
    const line = css("--sing-chart-line", "#bbb");
    const grid = css("--sing-chart-grid", "#e6e6e6");
    const font = css("--pst-font-family-base", "sans-serif");
    const words = { labelColor: muted, titleColor: ink, labelFont: font, titleFont: font };
    const size = { labelFontSize: 12, titleFontSize: 12.5, titleFontWeight: 600 };
    const narrow = width < NARROW;
    const below = narrow ? { orient: "bottom", direction: "vertical", columns: 1 } : {};
    return {
      background: "transparent",
      font: font,
      view: { stroke: "transparent" },
      axisY: narrow ? { labelLimit: 130 } : {}, // a classifier's name tells itself by its end
      axis: { ...words, ...size, domainColor: line, tickColor: line, gridColor: grid },
      legend: { ...words, ...size, ...below },
      header: { ...words, ...size },
      title: { color: ink, subtitleColor: muted, font: font, subtitleFont: font, anchor: "start" },
      text: { color: ink, font: font },
      rule: { color: line },
    };
  }

  // `over` wins; the chart's own config keeps what the page does not set.
  function merge(base, over) {
    const out = { ...base };
    for (const [key, value] of Object.entries(over)) {
      const both = value && out[key] && typeof value === "object" && typeof out[key] === "object";
      out[key] = both ? merge(out[key], value) : value;
    }
    return out;
  }

  const hasFacet = ({ encoding: e = {} }) => Boolean(e.facet || e.column || e.row);
  const isSingle = (spec) =>
    !["hconcat", "vconcat", "concat", "facet", "repeat"].some((key) => key in spec) &&
    !hasFacet(spec);

  // Give every panel a width so that together they are `width` wide; a width in steps is kept.
  // `limit.columns` only ever shrinks while a chart is being fitted, or it would never settle.
  function fit(spec, width, limit) {
    const columns = (wanted, least) => {
      const room = Math.max(1, Math.floor(width / least));
      if (wanted > room) limit.columns = Math.min(limit.columns, room);
      return Math.min(wanted, limit.columns);
    };
    if (spec.hconcat) {
      const panels = spec.hconcat;
      if (columns(panels.length, MIN_PANEL) < panels.length) {
        spec.vconcat = panels;
        delete spec.hconcat;
        panels.forEach((child) => fit(child, width, limit));
      } else {
        panels.forEach((child) => fit(child, width / panels.length, limit));
      }
    } else if (spec.vconcat) {
      spec.vconcat.forEach((child) => fit(child, width, limit));
    } else if (spec.concat) {
      spec.columns = columns(spec.columns || spec.concat.length, MIN_PANEL);
      spec.concat.forEach((child) => fit(child, width / spec.columns, limit));
    } else if (spec.facet || spec.repeat) {
      if (spec.columns) spec.columns = columns(spec.columns, MIN_FACET);
      // A row of facets is as long as its data: it keeps its size and scrolls.
      const oneRow = !spec.columns && !(spec.facet?.row && !spec.facet.column);
      if (!oneRow) fit(spec.spec, width / (spec.columns || 1), limit);
    } else if (hasFacet(spec)) {
      const facet = spec.encoding.facet;
      if (facet?.columns) facet.columns = columns(facet.columns, MIN_FACET);
      if (facet?.columns) spec.width = width / facet.columns;
      else if (spec.encoding.row && !spec.encoding.column) spec.width = width;
    } else if (typeof spec.width !== "object") {
      spec.width = Math.max(60, Math.round(width));
    }
    return spec;
  }

  // Legends that ask for several columns get at most two on a narrow page.
  function narrowLegends(spec) {
    for (const [key, value] of Object.entries(spec)) {
      if (!value || typeof value !== "object" || key === "datasets" || key === "data") continue;
      if (key === "legend" && value.columns > 2) value.columns = 2;
      narrowLegends(value);
    }
  }

  // What readers set with a chart's sliders and menus, or singled out, survives a redraw.
  function readInputs(spec, view) {
    const values = {};
    for (const { name, bind, select } of (view && spec.params) || []) {
      const value = view.signal(name);
      if (!select && bind) values[name] = value;
      const [field] = select?.fields || [];
      if (field) values[name] = value[field]?.map((one) => ({ [field]: one }));
    }
    return values;
  }

  async function draw(chart) {
    const run = ++chart.run;
    const available = chart.box.clientWidth;
    if (!available) return; // hidden, e.g. in a closed tab: drawn when it gets a size
    chart.width = available;
    const inputs = readInputs(chart.spec, chart.result?.view);
    const rows = Object.values(chart.spec.datasets || {}).reduce((n, d) => n + (d.length || 0), 0);
    const options = {
      actions: false,
      renderer: chart.spec.usermeta?.embedOptions?.renderer || (rows > MANY_ROWS ? "canvas" : "svg"),
      tooltip: { theme: isDark() ? "dark" : "light" },
    };
    const limit = { columns: Infinity };
    let target = available;
    for (let attempt = 0; attempt < 4; attempt++) {
      const spec = fit(structuredClone(chart.spec), target, limit);
      if (available < NARROW) narrowLegends(spec);
      spec.config = merge(merge(defaults(), spec.config || {}), pageConfig(available));
      delete spec.background;
      if (isSingle(spec) && typeof spec.width === "number") {
        spec.autosize = { type: "fit-x", contains: "padding" };
      }
      for (const param of spec.params || []) {
        if (param.name in inputs) param.value = inputs[param.name];
      }
      const result = await vegaEmbed(chart.box, spec, options);
      if (run !== chart.run) return result.finalize();
      chart.result?.finalize();
      chart.result = result;
      // Axes and legends of joined panels take room that only shows when they are drawn.
      const drawn = chart.box.querySelector("svg, canvas").getBoundingClientRect().width;
      const over = drawn - available;
      if (isSingle(spec) || (over <= 0 && over > -8)) break;
      target = Math.max(60, target - over - 2);
    }
    chart.box.dataset.drawn = isDark() ? "dark" : "light";
  }

  // Charts out of sight are drawn one by one when the page has nothing better to do, so that what is
  // in sight, and the explorers, answer soon.
  const later = new Set();
  const idle = window.requestIdleCallback ?? ((act) => setTimeout(act, 50));
  let busy = document.readyState !== "complete";
  function drawLater() {
    if (busy || !later.size) return;
    busy = true;
    idle(async () => {
      const [chart] = later;
      later.delete(chart);
      if (!chart.width) await chart.draw();
      busy = false;
      drawLater();
    });
  }
  function wait(chart) {
    later.add(chart);
    drawLater();
  }
  window.addEventListener("load", () => {
    busy = false;
    drawLater();
  });

  function start(box) {
    const text = box.parentElement.querySelector("script.sing-chart-spec").textContent;
    const chart = { box: box, spec: JSON.parse(text), run: 0, width: 0, result: null };
    chart.draw = () =>
      draw(chart).catch((error) => {
        box.textContent = "This chart could not be drawn: " + error.message;
        console.error(error);
      });
    const least = chart.spec.usermeta?.minWidth;
    if (least) box.style.minWidth = `${least}px`; // on a phone it scrolls
    let timer = 0;
    new ResizeObserver(() => {
      if (Math.abs(box.clientWidth - chart.width) < 2) return;
      clearTimeout(timer);
      if (chart.width) timer = setTimeout(chart.draw, 120);
      else if (box.getBoundingClientRect().top < 1.5 * innerHeight) chart.draw();
      else wait(chart);
    }).observe(box);
    return chart;
  }

  const charts = [...document.querySelectorAll(".sing-chart")].map(start);
  let theme = document.documentElement.dataset.theme;
  new MutationObserver(() => {
    if (document.documentElement.dataset.theme === theme) return;
    theme = document.documentElement.dataset.theme;
    charts.forEach((chart) => chart.draw());
  }).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
