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
  if (event.target.closest("[data-dismiss]")) event.target.closest(".toast")?.remove();
});

// On a phone a row of tabs is longer than the window: the current one is in sight.
for (const tab of document.querySelectorAll(".tabs [aria-current]")) {
  const row = tab.parentElement.getBoundingClientRect(), own = tab.getBoundingClientRect();
  if (own.right > row.right) tab.parentElement.scrollLeft += own.left - row.left - (row.width - own.width) / 2;
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
  // A tooltip goes without the pointer having to.
  document.activeElement.closest?.(".term")?.querySelector("button").blur();
});

// A second look before what cannot be undone. On the way down, before htmx or anything else
// sees the form.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset?.confirm) return;
  if (form.confirmed) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  ask({
    title: form.dataset.confirm,
    text: form.dataset.confirmText,
    label: form.dataset.confirmLabel ?? event.submitter?.textContent.trim(),
  }).then((isConfirmed) => {
    if (!isConfirmed) return;
    form.confirmed = true;
    form.requestSubmit(event.submitter);
    form.confirmed = false;
  });
}, true);
document.addEventListener("htmx:confirm", (event) => {
  if (!event.detail.question) return;
  event.preventDefault();
  ask({ title: event.detail.question }).then((isConfirmed) => {
    if (isConfirmed) event.detail.issueRequest(true);
  });
});

/** Asks in a dialog of ours; the answer is whether the person agrees. */
function ask({ title, text = "", label = "Confirm" }) {
  const dialog = document.getElementById("confirm");
  if (!dialog) return Promise.resolve(window.confirm(title));
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector("p").textContent = text;
  dialog.querySelector("[value=yes]").textContent = label || "Confirm";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// A form that was sent is not sent twice by an impatient finger.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post" || form.matches("[hx-post], [hx-get]")) return;
  if (form.sent) {
    event.preventDefault();
    return;
  }
  form.sent = true;
  const button = event.submitter ?? form.querySelector("[type=submit]");
  if (button) setTimeout(() => { button.disabled = true; });
});
window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const form of document.forms) form.sent = false;
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

// Parts that look for news do so while somebody sees the page, and not under a finger: each
// minute, or after as many seconds as they say themselves.
const LOOK_S = 60;
let looks_s = 0;
function look(isDue) {
  if (document.hidden) return;
  for (const part of document.querySelectorAll("[data-look]")) {
    if (isDue(part) && !part.contains(document.activeElement)) part.dispatchEvent(new Event("look"));
  }
}
setInterval(() => {
  looks_s += 1;
  look((part) => looks_s % (Number(part.dataset.look) || LOOK_S) === 0);
}, 1_000);
document.addEventListener("visibilitychange", () => look(() => true));

async function copyText(button) {
  const source = button.dataset.copy
    ? document.getElementById(button.dataset.copy)
    : (button.closest(".code-block") ?? button.parentElement).querySelector("code, pre");
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

// Messages in the corner. They leave by themselves, later where there is something to undo,
// and not while somebody points at them.
const TOAST_MS = 10_000, UNDO_MS = 20_000, TOASTS_MAX = 4;
const toasts = document.getElementById("toasts");

function watchToast(toast) {
  const stay_ms = toast.querySelector(".toast-undo") ? UNDO_MS : TOAST_MS;
  let timer;
  const start = () => { timer = setTimeout(() => toast.remove(), stay_ms); };
  const stop = () => clearTimeout(timer);
  toast.addEventListener("pointerenter", stop);
  toast.addEventListener("pointerleave", start);
  toast.addEventListener("focusin", stop);
  toast.addEventListener("focusout", start);
  start();
}

/** Shows `{text, tone, undo: {url, fields}}`. */
function showToast({ text, tone = "info", undo }) {
  if (!toasts) return;
  const toast = document.getElementById("toast-template").content.firstElementChild.cloneNode(true);
  toast.dataset.tone = tone;
  toast.querySelector("[data-text]").textContent = text;
  if (undo && new URL(undo.url, location.href).origin === location.origin) {
    const form = document.getElementById("toast-undo-template").content.firstElementChild.cloneNode(true);
    form.action = undo.url;
    for (const [name, value] of Object.entries(undo.fields)) {
      const input = Object.assign(document.createElement("input"), { type: "hidden", name, value });
      form.append(input);
    }
    toast.querySelector("[data-text]").after(form);
  }
  toasts.append(toast);
  while (toasts.children.length > TOASTS_MAX) toasts.firstElementChild.remove();
  watchToast(toast);
}
for (const toast of toasts?.children ?? []) watchToast(toast);
document.addEventListener("toast", (event) => showToast(event.detail));

// The theme is a cookie, which the server writes into the page before it is painted.
function setTheme(theme) {
  const root = document.documentElement;
  const age = theme === "system" ? 0 : 400 * 86_400;
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `theme=${theme}; path=/; max-age=${age}; samesite=lax${secure}`;
  if (theme === "system") delete root.dataset.theme;
  else root.dataset.theme = theme;
  const scheme = theme === "system" ? "light dark" : theme;
  document.querySelector("meta[name=color-scheme]").content = scheme;
  for (const button of document.querySelectorAll("[data-theme-switch] button")) {
    button.setAttribute("aria-pressed", String(button.value === theme));
  }
  document.dispatchEvent(new Event("themechange"));
}
document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-theme-switch]") || !event.submitter) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  setTheme(event.submitter.value);
}, true);
document.addEventListener("settheme", (event) => setTheme(event.detail));

// The palette's script is fetched when it is first wanted; what is typed meanwhile is not lost.
const palette = document.getElementById("palette");
async function openPalette() {
  const input = palette.querySelector("input");
  input.value = "";
  palette.showModal();
  input.focus();
  const module = await import(palette.dataset.module);
  module.start(palette);
}
document.addEventListener("click", (event) => {
  if (!palette || !event.target.closest("[data-palette]")) return;
  if (event.ctrlKey || event.metaKey || event.shiftKey) return; // A new tab was meant.
  event.preventDefault();
  openPalette();
});

// Keys. Those without Ctrl can be switched off, for people who speak to their computer.
const PLACES = { c: "/", d: "/dashboard", o: "/console", k: "/console/keys" };
const shortcuts = document.getElementById("shortcuts");
const shortcutsOn = document.getElementById("shortcuts-on");
let isGoing = false;

if (shortcutsOn) {
  shortcutsOn.checked = localStorage.getItem("shortcuts") !== "off";
  shortcutsOn.addEventListener("change", () => {
    localStorage.setItem("shortcuts", shortcutsOn.checked ? "on" : "off");
  });
}
document.addEventListener("keydown", (event) => {
  if (palette && (event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") {
    event.preventDefault();
    if (palette.open) palette.close();
    else if (!document.querySelector("dialog:modal")) openPalette();
    return;
  }
  if (!shortcutsOn?.checked || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable], dialog")) return;
  const place = isGoing && Object.hasOwn(PLACES, event.key) ? PLACES[event.key] : null;
  isGoing = event.key === "g";
  if (place) location.assign(place);
  else if (event.key === "?") shortcuts.showModal();
  if (isGoing) setTimeout(() => { isGoing = false; }, 1500);
});

// Parts of which one shows at a time. Without this, all of them stand below each other.
function makeTabs(set) {
  if (set.dataset.ready) return;
  set.dataset.ready = "true";
  const panels = [...set.querySelectorAll(":scope > .tab-panel")];
  const list = document.createElement("div");
  list.className = "tab-list";
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", set.dataset.label);
  const tabs = panels.map((panel) => {
    const tab = document.createElement("button");
    const id = `tab-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
    Object.assign(tab, { type: "button", id, textContent: panel.dataset.title });
    tab.setAttribute("role", "tab");
    panel.id ||= `${id}-panel`;
    tab.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", id);
    return tab;
  });
  set.chooseTab = (title) => {
    const chosen = panels.findIndex((panel) => panel.dataset.title === title);
    if (chosen < 0) return;
    for (const [index, tab] of tabs.entries()) {
      tab.setAttribute("aria-selected", String(index === chosen));
      tab.tabIndex = index === chosen ? 0 : -1;
      panels[index].hidden = index !== chosen;
    }
  };
  const choose = (title) => {
    const group = set.dataset.tabs;
    if (!group) return set.chooseTab(title);
    localStorage.setItem(`tabs:${group}`, title);
    for (const other of document.querySelectorAll(`[data-tabs="${CSS.escape(group)}"][data-ready]`)) other.chooseTab(title);
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) choose(tab.textContent);
  });
  list.addEventListener("keydown", (event) => {
    const here = tabs.indexOf(document.activeElement), last = tabs.length - 1;
    const next = { ArrowRight: here === last ? 0 : here + 1, ArrowLeft: here ? here - 1 : last, Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    choose(tabs[next].textContent);
    tabs[next].focus();
  });
  list.append(...tabs);
  set.prepend(list);
  set.chooseTab(panels[0]?.dataset.title);
  const kept = set.dataset.tabs && localStorage.getItem(`tabs:${set.dataset.tabs}`);
  if (kept) set.chooseTab(kept);
}

// Charts bring their own module, on pages that have one, also in parts that come later.
function wake(root) {
  for (const set of root.querySelectorAll("[data-tabs]")) makeTabs(set);
  for (const figure of root.querySelectorAll("[data-chart]")) {
    import(figure.dataset.chart).then((chart) => chart.draw(figure));
  }
}
wake(document);
document.addEventListener("htmx:load", (event) => wake(event.target.parentElement ?? document));
