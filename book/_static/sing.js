// Loaded on every page, after Sphinx's options and before its search.
(function () {
  "use strict";
  // Sphinx's search reads every page it found to show a summary. A page that was opened from a
  // file may not read other files, so there the results come without summaries.
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  }
})();
