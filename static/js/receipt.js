// Checks a receipt in the browser, step by step; the same steps as
// billing/selectors/receipt_check.py, which does it where this cannot. docs/receipts.md says what
// a receipt is.

import { canonicalBytes, decodeBase64, parseJson, sha256, toHex } from "./push/canonical.js";
import { PUBLIC_KEY_BYTES, SIGNATURE_BYTES, verify } from "./push/signature.js";

const FORMAT = "strongroom-receipt/1";
const BATCH_TYPE = "application/vnd.strongroom.receipt-batch+json";
// What is hashed of a charge, and what is signed of a batch. Nothing else is proved.
const CHARGE_MEMBERS = [
  "prediction", "consumer", "creator", "version", "price", "mode", "units", "rates_nanos",
  "creator_share_bps", "gross_nanos", "creator_nanos", "transfer", "occurred_at",
];
const OPTIONAL_MEMBERS = ["terms", "royalties"];
const BATCH_MEMBERS = ["seq", "size", "root", "previous", "sealed_at"];
const BATCH_SIZE_MAX = 2 ** 40;
const BPS = 10_000n, MILLION = 1_000_000n;
const TITLES = {
  format: "It is a receipt",
  sum: "The charge adds up",
  leaf: "Leaf: the hash of the charge",
  path: "Path: from the leaf to a root",
  root: "Root: it is the batch's",
  signature: "Signature of the batch",
  key: "Key: this platform's",
};

/** What does not hold, in words for a person. */
class Fault extends Error {}

/** @param {string} text @param {{kid: string, public_key: string}[]} keys
 * @returns {Promise<{name: string, state: string, text: string}[]>} */
export async function checkSteps(text, keys) {
  let receipt;
  try {
    receipt = read(text);
  } catch (error) {
    const rest = Object.keys(TITLES).slice(1);
    return [
      { name: "format", state: "failed", text: `The text is no receipt (${error.message}).` },
      ...rest.map((name) => ({ name, state: "todo", text: "Not checked." })),
    ];
  }
  const checks = {
    format: () => `${FORMAT}, of prediction ${receipt.charge.prediction}.`,
    sum: () => checkSum(receipt.charge),
    leaf: async () => toHex(await hashLeaf(receipt.charge)),
    path: () => checkPath(receipt),
    root: () => checkRoot(receipt),
    signature: () => checkSignature(receipt, keys),
    key: () => checkKey(receipt, keys),
  };
  const steps = [];
  for (const [name, check] of Object.entries(checks)) {
    try {
      steps.push({ name, state: "done", text: await check() });
    } catch (error) {
      const detail = error instanceof Fault ? error.message : "It is not what a receipt has there.";
      steps.push({ name, state: "failed", text: detail });
    }
  }
  return steps;
}

function read(text) {
  const receipt = parseJson(text);
  if (receipt?.format !== FORMAT) throw new Fault("another format");
  for (const name of ["charge", "index", "path", "batch", "signature", "kid"]) {
    if (!Object.hasOwn(receipt, name)) throw new Fault(`no ${name}`);
  }
  for (const part of [receipt.charge, receipt.batch]) {
    if (typeof part !== "object" || !part || Array.isArray(part)) throw new Fault("another form");
  }
  return receipt;
}

/** Exactly these members; one that is missing is a fault. */
function pick(value, names) {
  const picked = {};
  for (const name of names) {
    if (!Object.hasOwn(value, name)) throw new Fault(`The member ${name} is missing.`);
    picked[name] = value[name];
  }
  return picked;
}

// --- Sums: as sdk/strongroom/rating.py, in whole numbers --------------------------------

function count(value) {
  if (!Number.isSafeInteger(value) || value < 0) throw new Fault("An amount is no whole number.");
  return BigInt(value);
}

function divideUp(a, b) {
  return (a + b - 1n) / b;
}

async function checkSum(charge) {
  // What is not whole does not add up either.
  await hashLeaf(charge);
  const gross = computeGross(charge);
  if (count(charge.gross_nanos) !== gross) {
    throw new Fault(`The charge is ${show(charge.gross_nanos)}; it comes to ${show(gross)}.`);
  }
  const creator = (gross * count(charge.creator_share_bps)) / BPS;
  if (count(charge.creator_nanos) !== creator) {
    throw new Fault(`The creator's part is ${show(charge.creator_nanos)}; it comes to ${show(creator)}.`);
  }
  let left = BPS;
  for (const one of charge.royalties ?? []) {
    left -= count(one.bps);
    if (count(one.nanos) !== (creator * count(one.bps)) / BPS || one.account === charge.creator) {
      throw new Fault("A royalty is not its share of the creator's part.");
    }
  }
  if (left < 0n) throw new Fault("The royalties are more than the creator's whole part.");
  return `Units and price come to ${show(gross)}, of which ${show(creator)} are the creator's.`;
}

function computeGross({ mode, units, rates_nanos: rates, terms }) {
  if (mode === "test") return 0n;
  if (!terms) {
    return Object.entries(units).reduce((sum, [kind, number]) => sum + count(number) * count(rates[kind]), 0n);
  }
  const { prediction: rows, ...metered } = units;
  const perMillion = terms.nanos_per_million;
  if (Object.keys(metered).sort().join() !== Object.keys(perMillion).sort().join()) {
    throw new Fault("What is metered is not what has a rate.");
  }
  let gross = count(rows) * count(rates.prediction);
  for (const [kind, rate] of Object.entries(perMillion)) {
    gross += divideUp(count(metered[kind]) * count(rate), MILLION);
  }
  const isCounted = terms.free_units > 0 || terms.tiers.length > 0;
  if (isCounted !== (terms.position !== null)) throw new Fault("What is counted has a position.");
  const weight = isCounted ? weigh(terms, count(rows)) : count(rows) * BPS;
  if (weight === 0n) return 0n;
  const weighed = divideUp(gross * weight, count(rows) * BPS);
  const minimum = count(terms.minimum_nanos);
  return weighed > minimum ? weighed : minimum;
}

/** The basis points of all rows together, by the tiers that they fall into. */
function weigh({ free_units: free, tiers, position }, rows) {
  const begin = count(position), end = begin + rows;
  const overlap = (start, until) => {
    const low = begin > start ? begin : start, high = end < until ? end : until;
    return high > low ? high - low : 0n;
  };
  let weight = rows * BPS - overlap(0n, count(free)) * BPS;
  for (const [place, [start, bps]] of tiers.entries()) {
    const until = place + 1 < tiers.length ? count(tiers[place + 1][0]) : end;
    weight -= overlap(count(start), until) * (BPS - count(bps));
  }
  return weight;
}

/** Nano-dollars for people. */
function show(nanos) {
  const digits = String(nanos).padStart(10, "0");
  const whole = digits.slice(0, -9).replace(/\B(?=(\d{3})+$)/g, ",");
  return `$${whole}.${digits.slice(-9).replace(/0+$/, "").padEnd(2, "0")}`;
}

// --- Tree, signature, key ----------------------------------------------------------------

async function hashLeaf(charge) {
  const optional = OPTIONAL_MEMBERS.filter((name) => Object.hasOwn(charge, name));
  return hash(0, canonicalBytes(pick(charge, [...CHARGE_MEMBERS, ...optional])));
}

/** @param {number} prefix @param {...Uint8Array} parts */
async function hash(prefix, ...parts) {
  return sha256(Uint8Array.from([prefix, ...parts.flatMap((part) => [...part])]));
}

function readHash(text) {
  if (typeof text !== "string" || !/^[0-9a-f]{64}$/.test(text)) throw new Fault("There is no hash.");
  return Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16));
}

/** The root to which the path leads. */
async function climb({ charge, index, path, batch }) {
  let size = batch.size, at = index;
  const isWhole = Number.isSafeInteger(size) && Number.isSafeInteger(at);
  if (!isWhole || size < 1 || size >= BATCH_SIZE_MAX) throw new Fault("There is no place in a batch.");
  const left = path.map(readHash);
  let node = await hashLeaf(charge);
  const wrong = "No batch of this size has such a path.";
  if (at < 0 || at >= size) throw new Fault(wrong);
  while (size > 1) {
    // The last of an odd number goes up as it is.
    if ((at % 2 ? at - 1 : at + 1) < size) {
      const beside = left.shift();
      if (!beside) throw new Fault(wrong);
      node = await (at % 2 ? hash(1, beside, node) : hash(1, node, beside));
    }
    at = Math.floor(at / 2);
    size = Math.floor((size + 1) / 2);
  }
  if (left.length) throw new Fault(wrong);
  return toHex(node);
}

async function checkPath(receipt) {
  const root = await climb(receipt);
  return `Charge ${receipt.index + 1} of ${receipt.batch.size}, in ${receipt.path.length} steps to ${root}.`;
}

async function checkRoot(receipt) {
  if ((await climb(receipt)) !== receipt.batch.root) {
    throw new Fault(`The batch has another: ${String(receipt.batch.root).slice(0, 64)}.`);
  }
  return `Batch ${receipt.batch.seq} has the same root.`;
}

async function checkSignature({ kid, batch, signature }, keys) {
  const key = keys.find((one) => one.kid === kid);
  if (!key) throw new Fault("There is no key to check it with.");
  const payload = canonicalBytes(pick(batch, BATCH_MEMBERS));
  try {
    const publicKey = decodeBase64(key.public_key, PUBLIC_KEY_BYTES);
    await verify(publicKey, BATCH_TYPE, payload, decodeBase64(signature, SIGNATURE_BYTES));
  } catch {
    throw new Fault(`The statement of batch ${batch.seq} was not signed by this key.`);
  }
  return `Ed25519, over the statement of ${batch.sealed_at}.`;
}

async function checkKey({ kid }, keys) {
  const key = keys.find((one) => one.kid === kid);
  const named = key && toHex(await sha256(decodeBase64(key.public_key, PUBLIC_KEY_BYTES))).slice(0, 32);
  if (named !== kid) {
    throw new Fault(`${String(kid).slice(0, 64)} is none of the keys that this platform publishes.`);
  }
  return `${kid} is among the keys that this platform publishes.`;
}

// --- The page ------------------------------------------------------------------------------

/** Whether this browser checks Ed25519. */
async function isAble() {
  try {
    await crypto.subtle.importKey("raw", new Uint8Array(PUBLIC_KEY_BYTES), "Ed25519", false, ["verify"]);
    return true;
  } catch {
    return false;
  }
}

function draw(form, steps) {
  const card = form.parentElement;
  const result = card.querySelector("[data-receipt-result]");
  const part = (name) => card.querySelector(`template[data-${name}]`).content.cloneNode(true);
  const list = document.createElement("ol");
  list.className = "stepper";
  list.setAttribute("aria-label", "Checks");
  for (const [at, step] of steps.entries()) {
    const line = document.createElement("li"), mark = document.createElement("span");
    const words = document.createElement("div"), title = document.createElement("p");
    const state = document.createElement("span"), text = document.createElement("p");
    line.dataset.state = step.state;
    mark.className = "step-mark";
    mark.setAttribute("aria-hidden", "true");
    mark.append(step.state === "todo" ? String(at + 1) : part(step.state));
    title.className = "step-title";
    state.className = "visually-hidden";
    state.textContent = `, ${{ done: "done", failed: "failed", todo: "to do" }[step.state]}`;
    title.append(TITLES[step.name], state);
    text.className = "fine";
    text.textContent = step.text;
    words.append(title, text);
    line.append(mark, words);
    list.append(line);
  }
  result.replaceChildren(part(steps.every((step) => step.state === "done") ? "good" : "bad"), list);
}

const form = document.querySelector("[data-receipt-check]");
if (form && (await isAble())) {
  // Where it does not come so far, the form is sent, and the server checks.
  form.addEventListener("submit", async (event) => {
    if (event.submitter?.matches("[data-on-server]")) return;
    event.preventDefault();
    event.stopPropagation();
    draw(form, await checkSteps(form.elements.document.value, JSON.parse(form.dataset.keys)));
  });
}
