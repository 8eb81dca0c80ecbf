// The platform's own pages: rows by the keyboard, and reasons that begin with a template.

const isTyping = (element) => element.closest("input, textarea, select, [contenteditable]") !== null;

function moveFocus(step) {
  const links = [...document.querySelectorAll("[data-rows] tr > :first-child a")];
  if (links.length === 0) return;
  const at = links.indexOf(document.activeElement);
  const next = at === -1 ? (step > 0 ? 0 : links.length - 1) : at + step;
  links[Math.min(Math.max(next, 0), links.length - 1)].focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  if (event.key === "j" || event.key === "k") {
    event.preventDefault();
    moveFocus(event.key === "j" ? 1 : -1);
    return;
  }
  // A key leads to the form and never decides by itself.
  const button = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (button) {
    event.preventDefault();
    button.form.querySelector("textarea").focus();
  }
});

// The text of a template goes into the field unless somebody has written there.
const filled = new Map();
document.addEventListener("change", (event) => {
  const field = document.getElementById(event.target.dataset?.fill ?? "");
  if (!field || (field.value && field.value !== filled.get(field))) return;
  field.value = event.target.value;
  filled.set(field, field.value);
  field.focus();
});
