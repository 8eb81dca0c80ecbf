// The page: keys, folder, listing, and the push itself. What it does is in the other modules.

import { Api, ApiError } from "./api.js";
import { parseJson } from "./canonical.js";
import { draftInterface, guessTask, readLabels } from "./draft.js";
import { SealingError } from "./floe.js";
import { listChosen, listDropped } from "./folder.js";
import { PreflightError, readFolder, walk } from "./inspect.js";
import { RECOVERY_FILE, checkPlatform, identityFrom, isSupported, makeIdentity } from "./keys.js";
import { parsePrice, readCard, readListing, showPrice } from "./listing.js";
import { Sealer } from "./sealer.js";
import { Store } from "./store.js";
import { Push, giveUp, isSame } from "./upload.js";
import { Progress, formatSize, get, make, say, show } from "./view.js";

const { account, model: givenModel, csrf, page, versionUrl } = get("push").dataset;
const api = new Api(csrf);
const form = get("listing");
const TEXTS = ["name", "title", "task", "licence", "industry", "summary"];

/** @type {Store} */
let store;
/** @type {import("./keys.js").Identity | null} */
let identity = null;
/** @type {Awaited<ReturnType<typeof checkPlatform>>} */
let platform;
/** @type {{folder: import("./inspect.js").ModelFolder, card: string | null} | null} */
let chosen = null;
/** @type {Push | null} */
let running = null;
/** What the dialog gives up when it is confirmed. @type {() => Promise<void>} */
let confirmed = async () => {};

// --- Start ----------------------------------------------------------------------------

async function start() {
  show("not-started", false);
  if (!(await isSupported())) return show("unsupported");
  try {
    store = await Store.open();
  } catch {
    return show("unsupported");
  }
  try {
    const described = await api.call("GET", "/api/platform");
    platform = await checkPlatform(store, described.platform_key);
  } catch (error) {
    return fail(error);
  }
  identity = (await store.getKey("identity")) ?? null;
  if (identity && platform.isPinned) showKeys();
  else await setUp();
  await showInterrupted();
  show("started");
}

/** The first visit: make keys, have the recovery file saved, pin the platform's key. */
async function setUp() {
  let fresh = await makeIdentity();
  const describe = () => {
    say("setup-platform", platform.fingerprint);
    say("setup-signing", fresh.identity.fingerprint);
    say("setup-recovery", fresh.identity.recoveryKid);
  };
  const allow = (/** @type {string} */ note) => {
    say("setup-note", note);
    get("setup-confirm").disabled = false;
  };
  get("setup-save").onclick = () => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([fresh.recoveryText], { type: "application/json" }));
    link.download = RECOVERY_FILE;
    link.click();
    allow(`${RECOVERY_FILE} was handed to the browser's downloads. Whoever has it can read your models.`);
  };
  get("setup-file").onchange = async () => {
    try {
      fresh = { identity: await identityFrom(await get("setup-file").files[0].text()), recoveryText: "" };
    } catch (error) {
      return say("setup-note", /** @type {Error} */ (error).message);
    }
    describe();
    get("setup-save").disabled = true;
    return allow("This browser uses the recovery key of your file.");
  };
  get("setup-confirm").onchange = () => {
    get("setup-done").disabled = !get("setup-confirm").checked;
  };
  get("setup-done").onclick = async () => {
    await store.putKey("identity", fresh.identity);
    await store.putKey("platform", platform.publicKey);
    identity = fresh.identity;
    fresh.recoveryText = "";
    show("setup", false);
    showKeys();
    get("folder").focus();
  };
  describe();
  show("setup");
}

function showKeys() {
  say("keys-platform", platform.fingerprint);
  say("keys-signing", identity?.fingerprint ?? "");
  say("keys-recovery", identity?.recoveryKid ?? "");
  show("keys");
  say("listing-hint", "");
  get("listing-push").disabled = false;
}

async function showInterrupted() {
  const saved = (await store.listUploads()).filter((one) => one.model.startsWith(`${account}/`));
  const rows = saved.map((one) => {
    const button = make("button", "Give up …");
    button.type = "button";
    button.className = "button small danger";
    button.setAttribute("aria-label", `Give the upload of ${one.model} up`);
    button.onclick = () => ask(async () => {
      await giveUp(api, store, one.model, one.uploadId);
      await showInterrupted();
    });
    const size = one.sources.reduce((sum, file) => sum + file.size, 0);
    return make("li", make("code", `${one.model}:${one.version}`), ` ${formatSize(size)}, ${countFiles(one.sources)} `, button);
  });
  get("interrupted-list").replaceChildren(...rows);
  show("interrupted", rows.length > 0);
}

// --- Folder ---------------------------------------------------------------------------

/** @param {import("./folder.js").Chosen[]} files */
async function choose(files) {
  chosen = null;
  show("stopped", false);
  form.hidden = true;
  show("folder-files", false);
  if (!files.length) return;
  const name = files[0].path.split("/")[0];
  say("folder-name", name);
  say("folder-facts", "Looking at the files …");
  try {
    await look(name, files);
  } catch (error) {
    say("folder-facts", "This folder cannot be pushed as it is.");
    fail(error);
  }
}

/** @param {string} name @param {import("./folder.js").Chosen[]} files */
async function look(name, files) {
  const found = walk(files);
  const listing = await readListing(found);
  if (listing?.owner && listing.owner !== account) {
    throw new SealingError("listing_invalid", `owner: strongroom.toml names ${listing.owner}, this page is for ${account}. Open ${page}?account=${listing.owner}`);
  }
  const card = await readCard(found, listing);
  const folder = await readFolder(found, new Set(card ? [card.path] : []));
  const saved = (await store.listUploads()).find((one) => isSame(one.sources, describe(folder)));
  const filled = saved
    ? { ...saved.listing, name: saved.model.split("/")[1] }
    : listing ?? (await draft(name, folder, found));
  fill(filled);
  say("listing-source", saved
    ? "As in the interrupted upload."
    : listing ? "From strongroom.toml in the folder." : "Drafted from the files. Complete it.");
  chosen = { folder, card: card ? card.text : null };
  const size = folder.files.reduce((sum, one) => sum + one.file.size, 0);
  say("folder-facts", `${folder.runtime}, ${countFiles(folder.files)}, ${formatSize(size)}`);
  get("folder-rows").replaceChildren(...folder.files.map(makeRow));
  say("folder-ignored", folder.ignored.length ? `Not sent: ${folder.ignored.join(", ")}.` : "");
  show("folder-files");
  form.hidden = false;
  get("listing-push").disabled = !identity;
  say("listing-hint", identity ? "" : "First save the recovery file of this browser's keys, above.");
  say("listing-push", saved ? "Go on with the upload" : "Seal and push");
}

/** @param {unknown[]} files */
function countFiles(files) {
  return files.length === 1 ? "1 file" : `${files.length} files`;
}

/** @param {import("./inspect.js").ModelFolder} folder */
function describe(folder) {
  return folder.files.map(({ path, kind, file }) => ({
    path, kind, size: file.size, lastModified: file.lastModified,
  }));
}

/** @param {import("./inspect.js").SourceFile} one */
function makeRow(one) {
  const head = make("th", make("code", one.path));
  head.setAttribute("scope", "row");
  const size = make("td", formatSize(one.file.size));
  size.className = "num";
  return make("tr", head, make("td", one.kind), size);
}

/** What no file says is taken from the model's last listing, if the page is for a model.
 * @param {string} name @param {import("./inspect.js").ModelFolder} folder
 * @param {Map<string, File>} found */
async function draft(name, folder, found) {
  const labels = await readLabels(found);
  const known = givenModel ? await readModel() : {};
  return {
    name: givenModel || name.toLowerCase().replace(/[^a-z0-9._-]+/g, "-").replace(/^[._-]+|[._-]+$/g, "").slice(0, 63),
    ...known,
    task: known.task || guessTask(folder, labels),
    interface: await draftInterface(folder, labels),
  };
}

/** @returns {Promise<any>} */
async function readModel() {
  const path = `/api/models/${account}/${givenModel}`;
  const { title, summary, task, licence, industry, visibility } = await api.call("GET", path);
  const price = await api.call("GET", `${path}/price`).catch(() => null);
  const dollars = price ? { price_dollars_per_prediction: price.nanos_per_prediction / 1e9 } : {};
  return { title, summary, task, licence, industry, visibility, ...dollars };
}

// --- Listing --------------------------------------------------------------------------

/** @param {any} listing */
function fill(listing) {
  for (const name of TEXTS) form.elements[name].value = listing[name] ?? "";
  form.elements.price.value = listing.price ?? showPrice(listing.price_dollars_per_prediction);
  form.elements.visibility.value = listing.visibility ?? "public";
  const publish = form.elements.publish;
  publish.value = listing.publish ?? "prod";
  if (publish.selectedIndex < 0) publish.value = "";
  form.elements.interface.value = write(listing.interface);
  form.elements.test_vectors.value = listing.test_vectors?.length ? write(listing.test_vectors) : "";
  form.elements.policy.value = Object.keys(listing.policy ?? {}).length ? write(listing.policy) : "";
}

/** @param {unknown} value */
function write(value) {
  return value === undefined ? "" : JSON.stringify(value, null, 2);
}

/** What the form says. Faults name the field; the platform checks the rest. */
function read() {
  const values = Object.fromEntries(new FormData(form));
  for (const field of form.querySelectorAll("[required]")) {
    const label = form.querySelector(`label[for=${field.id}]`).textContent;
    if (!field.value.trim()) throw refuseField(field, `${label}: Is required.`);
  }
  const readJson = (/** @type {string} */ name, /** @type {unknown} */ empty) => {
    const field = form.elements[name];
    try {
      return field.value.trim() ? parseJson(field.value) : empty;
    } catch (error) {
      throw refuseField(field, `${name}: ${/** @type {Error} */ (error).message}`);
    }
  };
  let nanos = 0;
  try {
    nanos = parsePrice(String(values.price));
  } catch (error) {
    throw refuseField(form.elements.price, /** @type {Error} */ (error).message);
  }
  const listing = {
    ...Object.fromEntries([...TEXTS, "price", "visibility", "publish"].map((name) => [name, String(values[name]).trim()])),
    interface: readJson("interface", {}),
    test_vectors: completeVectors(readJson("test_vectors", [])),
    policy: readJson("policy", {}),
  };
  return { listing, nanos };
}

/** The manifest wants a tolerance of each. @param {any} vectors */
function completeVectors(vectors) {
  if (!Array.isArray(vectors)) return vectors;
  return vectors.map((one) => (one && typeof one === "object" ? { tolerance: 1e-4, ...one } : one));
}

/** @param {HTMLElement} field @param {string} detail */
function refuseField(field, detail) {
  field.setAttribute("aria-invalid", "true");
  const more = field.closest("details");
  if (more) more.open = true;
  field.focus();
  return new SealingError("listing_invalid", detail);
}

// --- Push -----------------------------------------------------------------------------

async function push() {
  if (!chosen || !identity || running) return;
  show("stopped", false);
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  let job;
  try {
    const { listing, nanos } = read();
    const { runtime, files } = chosen.folder;
    job = { model: `${account}/${listing.name}`, runtime, listing, nanos, card: chosen.card, files };
  } catch (error) {
    return fail(error, { isFocused: false });
  }
  // Two tabs must not work on one upload.
  await navigator.locks.request(`strongroom-push ${job.model}`, { ifAvailable: true }, async (lock) => {
    if (lock) await send(job);
    else fail(new SealingError("push_running", `Another tab is pushing ${job.model}.`));
  });
}

/** @param {import("./upload.js").Job} job */
async function send(job) {
  let sealer = null;
  setRunning(true);
  try {
    const sources = [...document.querySelectorAll("[data-worker-source]")].map((one) => ({
      url: one.dataset.workerSource, integrity: one.dataset.integrity,
    }));
    sealer = await Sealer.load(sources);
    const parts = { api, store, identity, platformKey: platform.publicKey, sealer, report: new Progress(), job };
    running = new Push(parts);
    const versionId = await running.run();
    window.onbeforeunload = null;
    location.assign(versionUrl.replace("00000000-0000-0000-0000-000000000000", versionId));
  } catch (error) {
    setRunning(false);
    await showInterrupted();
    if (error.code === "cancelled") say("folder-facts", "The upload was given up.");
    else fail(error);
  } finally {
    sealer?.close();
    running = null;
  }
}

/** @param {boolean} isRunning */
function setRunning(isRunning) {
  show("running", isRunning);
  show("choose", !isRunning);
  show("interrupted", false);
  form.hidden = isRunning;
  window.onbeforeunload = isRunning ? (event) => event.preventDefault() : null;
  if (!isRunning) return;
  get("running-notes").replaceChildren();
  get("running-bar").value = 0;
  for (const id of ["running-bytes", "running-rate", "running-live"]) say(id, "");
  say("running-pause", "Pause");
  get("running-phase").focus();
}

/** Ask once more before what cannot be undone. @param {() => Promise<void>} action */
function ask(action) {
  confirmed = action;
  get("confirm").showModal();
}

/** @param {any} error @param {{isFocused?: boolean}} [options] */
function fail(error, { isFocused = true } = {}) {
  const isKnown = error instanceof SealingError || error instanceof ApiError;
  if (!isKnown) console.error(error);
  say("stopped-text", explain(error));
  say("stopped-code", isKnown ? error.code : "internal_error");
  const lines = error instanceof PreflightError
    ? error.refusals.map((one) => `${one.path || "The folder"}: ${one.detail} (${one.code})`)
    : (error.errors ?? []).map((/** @type {any} */ one) => `${one.pointer ?? ""}: ${one.detail}`);
  get("stopped-list").replaceChildren(...lines.map((line) => make("li", line)));
  show("stopped");
  if (isFocused) get("stopped").focus();
}

/** @param {any} error */
function explain(error) {
  if (error instanceof PreflightError) return "This folder cannot be pushed.";
  if (error instanceof SealingError) return error.message;
  if (!(error instanceof ApiError)) return "Something went wrong in this page. Reload it and choose the folder again.";
  if (error.status === 401) return "You are signed out. Sign in, come back, and choose the folder again to go on.";
  if (error.status === 0) return "The platform does not answer. What was sent stays: push again to go on.";
  return error.message;
}

get("folder").onchange = () => choose(listChosen(get("folder").files));
// The same folder can be chosen again after its files have changed.
get("folder").onclick = () => { get("folder").value = ""; };
for (const name of ["dragover", "dragleave", "drop"]) {
  get("drop").addEventListener(name, async (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    get("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer) await choose(await listDropped(event.dataTransfer));
  });
}
form.onsubmit = (/** @type {Event} */ event) => {
  event.preventDefault();
  push();
};
get("running-pause").onclick = () => {
  const isPaused = get("running-pause").textContent === "Go on";
  if (isPaused) running?.resume();
  else running?.pause();
  say("running-pause", isPaused ? "Pause" : "Go on");
  say("running-phase", isPaused ? "Sealing and sending" : "Paused");
  say("running-rate", "");
};
get("running-cancel").onclick = () => ask(async () => running?.cancel());
get("confirm-no").onclick = () => get("confirm").close();
get("confirm-yes").onclick = async () => {
  get("confirm").close();
  try {
    await confirmed();
  } catch (error) {
    fail(error);
  }
};

start();
