// The palette: a combobox over pages, models and actions. What it finds, the server decides.

const WAIT_MS = 80;
const THEMES = { system: "monitor", light: "sun", dark: "moon" };

/** Fills the dialog, which is open; what it needs is bound at the first time. */
export function start(dialog) {
  dialog.ask ??= bind(dialog);
  dialog.ask();
}

function bind(dialog) {
  const input = dialog.querySelector("input"), list = dialog.querySelector("[role=listbox]");
  const none = dialog.querySelector(".palette-none");
  let options = [], chosen = -1, timer, asked = 0;

  function choose(index) {
    options[chosen]?.setAttribute("aria-selected", "false");
    chosen = options.length ? (index + options.length) % options.length : -1;
    const option = options[chosen];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) input.setAttribute("aria-activedescendant", option.id);
    else input.removeAttribute("aria-activedescendant");
  }

  function show(groups) {
    options = [];
    list.replaceChildren(...groups.map((group, place) => {
      const part = element("div", "palette-group");
      part.setAttribute("role", "group");
      const label = element("p", "palette-label", group.label);
      label.id = `palette-group-${place}`;
      part.setAttribute("aria-labelledby", label.id);
      part.append(label, ...group.items.map((item) => {
        const option = element("div", "palette-option");
        option.id = `palette-option-${options.length}`;
        option.setAttribute("role", "option");
        option.setAttribute("aria-selected", "false");
        option.item = item;
        option.append(drawing(dialog.dataset.icons, item.icon), element("span", "", item.title));
        if (item.text) option.append(element("span", "fine mono", item.text));
        options.push(option);
        return option;
      }));
      return part;
    }));
    none.textContent = options.length ? "" : "Nothing fits. Try fewer words.";
    choose(0);
  }

  async function ask() {
    const turn = ++asked, query = input.value.trim();
    try {
      const address = `${dialog.dataset.results}?${new URLSearchParams({ q: query })}`;
      const answer = await fetch(address, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(answer.statusText);
      const { groups } = await answer.json();
      // An answer that comes late is not about what stands there now.
      if (turn === asked) show([...groups, ...themes(query)]);
    } catch {
      if (turn !== asked) return;
      show([]);
      none.textContent = "The search could not be reached. Try again.";
    }
  }

  function run(option, inNewTab) {
    if (!option) return;
    const { theme, url } = option.item;
    dialog.close();
    if (theme) document.dispatchEvent(new CustomEvent("settheme", { detail: theme }));
    else if (inNewTab) window.open(url, "_blank", "noopener");
    else location.assign(url);
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, WAIT_MS);
  });
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) choose(chosen + step);
    else if (event.key === "Enter") run(options[chosen], event.ctrlKey || event.metaKey);
    else return;
    event.preventDefault();
  });
  list.addEventListener("click", (event) => run(event.target.closest("[role=option]"), event.ctrlKey || event.metaKey));
  list.addEventListener("pointermove", (event) => {
    const index = options.indexOf(event.target.closest("[role=option]"));
    if (index >= 0 && index !== chosen) choose(index);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });

  return ask;
}

function themes(query) {
  const words = query.toLowerCase().split(/\s+/);
  const items = Object.entries(THEMES)
    .map(([theme, icon]) => ({ theme, icon, title: `Theme: ${theme}` }))
    .filter((item) => words.every((word) => `${item.title} appearance mode`.toLowerCase().includes(word)));
  return items.length ? [{ label: "Appearance", items }] : [];
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function drawing(file, name) {
  const space = "http://www.w3.org/2000/svg";
  const icon = document.createElementNS(space, "svg"), use = document.createElementNS(space, "use");
  icon.setAttribute("class", "icon");
  icon.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `${file}#${name}`);
  icon.append(use);
  return icon;
}
