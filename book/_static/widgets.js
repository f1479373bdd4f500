// Between require.js and Jupyter's html-manager: where widgets find their module, on this disk.
(function () {
  "use strict";
  const statics = `${document.documentElement.dataset.content_root || ""}_static/`;
  window.requirejs.config({ paths: { anywidget: `${statics}vendor/anywidget` } });
})();
