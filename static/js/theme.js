/* The chosen appearance, before anything is painted; none chosen follows the system. */
try {
  document.documentElement.dataset.theme = localStorage.getItem("sippet.theme") ?? "";
} catch {
  // no storage here: as the system
}
