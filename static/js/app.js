// Small behaviours, bound by data attributes. Every page works without them.

document.addEventListener("click", (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) copyText(copy);

  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }

  const opener = event.target.closest("[data-dialog]");
  if (opener) {
    const dialog = document.getElementById(opener.dataset.dialog);
    if (dialog) {
      event.preventDefault();
      dialog.showModal();
    }
  }
  const closer = event.target.closest("[data-close]");
  if (closer) {
    event.preventDefault();
    closer.closest("dialog")?.close();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// A second look before what cannot be undone.
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

// A form that was sent is not sent twice by an impatient finger.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method === "get" || form.matches("[hx-post], [hx-get]")) return;
  const button = event.submitter ?? form.querySelector("[type=submit]");
  if (button) setTimeout(() => { button.disabled = true; });
});
window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const button of document.querySelectorAll("button:disabled")) button.disabled = false;
});

// A select that applies itself; its form also has a button for those without scripts.
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});

// A panel belongs to another part of the product; when that is away, the page still stands.
for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    const panel = event.target.closest?.(".panel[aria-busy]");
    if (!panel) return;
    const note = document.createElement("p");
    note.className = "fine";
    note.textContent = "This part of the page could not be loaded. Reload the page to try again.";
    panel.replaceChildren(note);
    panel.removeAttribute("aria-busy");
  });
}
document.addEventListener("htmx:afterSwap", (event) => {
  event.target.closest?.(".panel")?.removeAttribute("aria-busy");
});

async function copyText(button) {
  const source = button.dataset.copy
    ? document.getElementById(button.dataset.copy)
    : button.parentElement.querySelector("code, pre");
  const text = "value" in source ? source.value : source.textContent;
  const label = button.querySelector("[data-label]");
  const before = label.textContent;
  try {
    await navigator.clipboard.writeText(text.trim());
    label.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);
    label.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { label.textContent = before; }, 2000);
}

// Charts bring their own module, on pages that have one, also in parts that come later.
function drawCharts(root) {
  for (const figure of root.querySelectorAll("[data-chart]")) {
    import(figure.dataset.chart).then((chart) => chart.draw(figure));
  }
}
drawCharts(document);
document.addEventListener("htmx:load", (event) => drawCharts(event.target.parentElement ?? document));
