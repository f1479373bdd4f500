// Between require.js and Jupyter's html-manager, which bring widgets to life.
(function () {
  "use strict";
  // Where widgets find their module: beside this script.
  const statics = `${document.documentElement.dataset.content_root || ""}_static/`;
  window.requirejs.config({ paths: { anywidget: `${statics}vendor/anywidget` } });

  // The manager brings the styles of an old Font Awesome, without its fonts. The theme has a newer one,
  // which the old would replace on the whole page.
  new MutationObserver((changes) => {
    for (const node of changes.flatMap((change) => [...change.addedNodes])) {
      if (node.nodeName === "STYLE" && node.textContent.includes("Font Awesome 5")) node.remove();
    }
  }).observe(document.head, { childList: true });
})();
