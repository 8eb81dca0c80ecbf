// The page of charts: shows another range at once, and stays fresh while it is looked at.

const page = document.querySelector("[data-monitoring]");
const form = document.querySelector("#monitoring-form");

// Versions wait for the button: one may want several.
form?.addEventListener("change", (event) => {
  if (event.target.name === "range") form.requestSubmit();
});

const everyS = Number(page?.dataset.everyS ?? 0);
let seenAt = Date.now();

// Whoever comes back to the tab finds it fresh; nobody's reading or selection is torn away.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") seenAt = Date.now();
  else if (everyS && Date.now() - seenAt > everyS * 1000) location.reload();
});
