// The try-it form: text while it is written, cancelling, tensors from grids, images, sound and
// files, and programs with the person's own key. The form works without any of this.

import { enhanceTensor } from "./playground-tensor.js";

const KEY_FORM = /^sk_(live|test)_[0-9A-Za-z]{20,60}$/;
const KEY_NAME = "strongroom-key";

let running = null;

document.addEventListener("htmx:load", (event) => prepare(event.detail.elt));
prepare(document);

function prepare(root) {
  for (const area of root.querySelectorAll?.("textarea[data-tensor]") ?? []) enhanceTensor(area);
  for (const fill of root.querySelectorAll?.("[data-key-fill]") ?? []) {
    fill.hidden = false;
    fill.querySelector("input").value = readKey();
  }
  fillKey();
}

// --- Running ---

document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-stream]");
  if (!form) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  if (!running) runStream(form);
}, true);

document.addEventListener("click", (event) => {
  if (!event.target.closest("[data-cancel]")) return;
  const form = event.target.closest("form");
  if (running) cancel(form);
  else window.htmx.trigger(form, "htmx:abort");
});

document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.id === "try-form") setRunning(event.target, true);
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.target.id !== "try-form") return;
  setRunning(event.target, false);
  const { xhr, successful } = event.detail;
  if (successful || xhr.status === 422) return;
  const isAborted = xhr.status === 0;
  tell(isAborted
    ? "You no longer wait for it. It may still be answered, and charged: look in Predictions."
    : `The site could not run it (status ${xhr.status}). Nothing was shown; look in Predictions before you try again.`);
});

function setRunning(form, isRunning) {
  form.querySelector("[data-cancel]").hidden = !isRunning;
  form.querySelector("[data-running]").hidden = !isRunning;
  form.querySelector("button[type=submit]").disabled = isRunning;
}

function tell(text) {
  const result = document.getElementById("try-result");
  if (!result) return;
  const note = document.createElement("p");
  note.className = "alert";
  note.dataset.tone = "warn";
  note.textContent = text;
  result.replaceChildren(note);
}

async function runStream(form) {
  const controller = new AbortController();
  running = { controller, id: "" };
  setRunning(form, true);
  const output = document.createElement("pre");
  output.className = "mono stream-text";
  output.tabIndex = 0;
  output.dataset.live = "";
  const result = document.getElementById("try-result");
  result.setAttribute("aria-busy", "true");
  result.replaceChildren(output);
  try {
    const answer = await fetch(form.dataset.stream, {
      method: "POST",
      body: new FormData(form),
      headers: { "HX-Request": "true", "HX-Current-URL": location.href },
      signal: controller.signal,
    });
    if (!await takeOther(answer, form)) await readEvents(answer.body, output, result);
  } catch {
    if (running.isEnded) return;
    const text = output.textContent;
    tell("The connection broke off. What was delivered is charged: look in Predictions.");
    if (text) result.append(output);
  } finally {
    running = null;
    result.removeAttribute("aria-busy");
    if (form.isConnected) setRunning(form, false);
  }
}

// What is no stream: the panel with faults at the inputs, a page to sign in at, or an error.
async function takeOther(answer, form) {
  const redirect = answer.headers.get("HX-Redirect");
  if (redirect) {
    location.assign(redirect);
    return true;
  }
  const type = answer.headers.get("content-type") ?? "";
  if (type.startsWith("text/event-stream")) return false;
  if (answer.status === 200 || answer.status === 422) {
    window.htmx.swap(form.closest(".panel"), await answer.text(), { swapStyle: "innerHTML" });
  } else if (answer.status === 503) {
    tell("The site shows as many running answers as it can (playground_busy). Try again in a moment.");
  } else {
    tell(`The site could not run it (status ${answer.status}). Nothing was charged.`);
  }
  return true;
}

async function readEvents(body, output, result) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("cut");
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const [head, data] = event.split("\n");
      const told = JSON.parse(data.slice("data: ".length));
      switch (head.slice("event: ".length)) {
        case "begin":
          running.id = told;
          break;
        case "piece":
          output.append(told);
          break;
        case "end":
          running.isEnded = true;
          window.htmx.swap(result, told, { swapStyle: "innerHTML" });
          return;
      }
    }
  }
}

async function cancel(form) {
  const { controller, id } = running;
  if (!id) {
    controller.abort();
    return;
  }
  // The stream then ends by itself, and says what was delivered.
  const answer = await fetch(form.dataset.cancelUrl.replace("ID", id), {
    method: "POST",
    headers: {
      "X-CSRFToken": form.elements.csrfmiddlewaretoken.value,
      "HX-Request": "true",
    },
  }).catch(() => null);
  if (!answer?.ok) controller.abort();
}

// --- The person's key: in this tab alone ---

document.addEventListener("input", (event) => {
  if (event.target.id !== "try-key") return;
  const key = event.target.value.trim();
  const isKey = KEY_FORM.test(key);
  event.target.setAttribute("aria-invalid", String(Boolean(key) && !isKey));
  if (isKey) sessionStorage.setItem(KEY_NAME, key);
  else sessionStorage.removeItem(KEY_NAME);
  fillKey();
});

document.addEventListener("click", (event) => {
  if (!event.target.closest("[data-forget-key]")) return;
  sessionStorage.removeItem(KEY_NAME);
  document.getElementById("try-key").value = "";
  fillKey();
});

function readKey() {
  const key = sessionStorage.getItem(KEY_NAME) ?? "";
  return KEY_FORM.test(key) ? key : "";
}

function fillKey() {
  const key = readKey();
  for (const block of document.querySelectorAll("pre[data-slot]")) {
    block.dataset.text ??= block.textContent;
    const shown = block.dataset.slotKind === "bare" ? key : JSON.stringify(key);
    block.textContent = key
      ? block.dataset.text.replaceAll(block.dataset.slot, () => shown)
      : block.dataset.text;
  }
}
