// Loaded on every page, after Sphinx's options and before its search.
(function () {
  "use strict";
  // Sphinx's search reads every page it found to show a summary. A page that was opened from a
  // file may not read other files, so there the results come without summaries.
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  }
})();

// "Open in JupyterLab". `sing live` writes into the root element where JupyterLab has what this page
// was made from; a page from anywhere else says what is needed instead.
(function () {
  "use strict";
  let dialog;

  function makeDialog() {
    const made = document.createElement("dialog");
    made.className = "sing-dialog";
    made.setAttribute("aria-labelledby", "sing-dialog-title");
    made.setAttribute("closedby", "any"); // a click beside it closes it, where browsers know this
    made.innerHTML = `
      <h2 id="sing-dialog-title">JupyterLab needs Python</h2>
      <p>This page came from a file or from a plain web server, where nothing can run its code. In a
        checkout of the book, with its environment active, run</p>
      <pre><code>sing live</code></pre>
      <p>and use this button in the book that opens. That book and JupyterLab are for you and on your
        machine only.</p>
      <form method="dialog"><button class="btn btn-sm" autofocus>Close</button></form>`;
    document.body.append(made);
    return made;
  }

  window.singOpenLab = function (button) {
    const target = document.documentElement.dataset.lab;
    if (target) {
      window.open(target, "_blank");
      return;
    }
    dialog ??= makeDialog();
    dialog.onclose = () => button.focus(); // not every browser focuses a button that is clicked
    dialog.showModal();
  };
})();

// Boxes that are wider than their column. On a wide screen tables take the margin as well; whatever then
// still scrolls does so by keyboard, too.
(function () {
  "use strict";
  const all = (selector) => document.querySelectorAll(`.bd-article ${selector}`);
  const scrolls = (box) => box.scrollWidth > box.clientWidth + 1;

  // Before the theme looks for what takes the margin, to fold its list of contents there.
  document.addEventListener("readystatechange", () => {
    if (!document.querySelector(".bd-sidebar-secondary")) return; // the theme takes it for granted
    for (const box of all(":is(.sing-wide, .output.text_html, .pst-scrollable-table-container)")) {
      if (box.matches(".sing-wide") || scrolls(box)) box.classList.add("full-width");
    }
  }, { once: true });

  function mark() {
    for (const box of all(":is(.output.text_html, .pst-scrollable-table-container, .sing-figure, .sing-drawing, mjx-container[display])")) {
      box.classList.toggle("sing-scrolls", scrolls(box));
      if (scrolls(box)) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }
  window.addEventListener("load", () => {
    // The theme leaves its logo, which leads home, outside of every landmark.
    const home = document.querySelector(".sidebar-primary-item:has(> .navbar-brand)");
    home?.setAttribute("role", "navigation");
    home?.setAttribute("aria-label", "Home");
    mark();
    new ResizeObserver(mark).observe(document.querySelector(".bd-article") ?? document.body);
  });
})();
