// The editor of a card: Ctrl+S saves, what is not saved is not left by accident, and a fault's
// line is found. The preview is htmx's; without scripts there is a button for it.

const form = document.querySelector("[data-card-editor]");
const source = form.querySelector("textarea");
const note = form.querySelector("[data-unsaved]");
// What came back with a fault or as a preview is not saved, whatever the page began with.
const before = form.dataset.changed === undefined ? source.value : null;
let isLeaving = false;

const isChanged = () => source.value !== before;

function tell() {
  const text = isChanged() ? "Not saved yet." : "";
  if (note.textContent !== text) note.textContent = text;
}
source.addEventListener("input", tell);
tell();

window.addEventListener("beforeunload", (event) => {
  if (isChanged() && !isLeaving) event.preventDefault();
});
form.addEventListener("submit", () => { isLeaving = true; });
window.addEventListener("pageshow", () => { isLeaving = false; });

document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey) return;
  if (event.key.toLowerCase() !== "s" || document.querySelector("dialog:modal")) return;
  event.preventDefault();
  form.requestSubmit(form.querySelector("button[type=submit]:not([name])"));
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-line]");
  if (!link) return;
  event.preventDefault();
  const lines = source.value.split("\n");
  const row = Math.min(Number(link.dataset.line), lines.length) - 1;
  const start = lines.slice(0, row).join("\n").length + (row ? 1 : 0);
  source.focus();
  source.setSelectionRange(start, start + lines[row].length);
  source.scrollTop = Math.max(0, (row / lines.length) * source.scrollHeight - source.clientHeight / 2);
});
