// Canonical JSON (RFC 8785) and base64 in their one spelling; the same as
// sdk/strongroom/sealing/canonical.py.

import { SealingError } from "./floe.js";

// Deeper values than this are an attack on the parser's stack.
const MAX_DEPTH = 64;

/** The canonical JSON of a value, as text.
 * @param {unknown} value @returns {string} */
export function canonicalize(value) {
  return write(value, 0);
}

/** The canonical JSON in UTF-8: what is signed or bound to a key. @param {unknown} value */
export function canonicalBytes(value) {
  return new TextEncoder().encode(canonicalize(value));
}

/** JSON as a person wrote it. Integers that a double would round are refused, not rounded.
 * @param {string} text @returns {unknown} */
export function parseJson(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new SealingError("not_json", "This is not JSON.");
  }
  refuseRounded(value, 0);
  return value;
}

/** @param {Uint8Array} bytes */
export function encodeBase64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** Standard base64 in its canonical form, of exactly `size` bytes if that is given.
 * @param {unknown} text @param {number} [size] */
export function decodeBase64(text, size) {
  const bytes = typeof text === "string" ? decode(text) : null;
  if (!bytes || encodeBase64(bytes) !== text) {
    throw new SealingError("base64_invalid", "Must be a text in base64.");
  }
  if (size !== undefined && bytes.length !== size) {
    throw new SealingError("base64_invalid", `Must be ${size} bytes in base64, not ${bytes.length}.`);
  }
  return bytes;
}

/** @param {Uint8Array} bytes */
export function toHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {BufferSource} bytes */
export async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

/** @param {string} text */
function decode(text) {
  try {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  } catch {
    return null;
  }
}

/** @param {unknown} value @param {number} depth @returns {string} */
function write(value, depth) {
  if (depth > MAX_DEPTH) fail(`The value is nested deeper than ${MAX_DEPTH}.`);
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "string") {
    if (!value.isWellFormed()) fail("A text holds half of a surrogate pair.");
    return JSON.stringify(value);
  }
  if (typeof value === "number") {
    if (!Number.isFinite(value)) fail("NaN and infinity have no JSON.");
    // Number::toString is what RFC 8785 asks for; it also makes -0 a plain 0.
    return String(value);
  }
  if (Array.isArray(value)) return `[${value.map((one) => write(one, depth + 1)).join(",")}]`;
  if (typeof value === "object" && isPlain(value)) {
    const members = /** @type {Record<string, unknown>} */ (value);
    // Sorted by UTF-16 code units, which is how JavaScript compares texts.
    const names = Object.keys(members).sort();
    return `{${names.map((name) => `${write(name, 0)}:${write(members[name], depth + 1)}`).join(",")}}`;
  }
  return fail(`A value of type ${typeof value} has no canonical JSON.`);
}

/** @param {object} value */
function isPlain(value) {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** @param {unknown} value @param {number} depth */
function refuseRounded(value, depth) {
  if (depth > MAX_DEPTH) fail(`The value is nested deeper than ${MAX_DEPTH}.`);
  if (typeof value === "number") {
    // What was written may have been another integer.
    if (!Number.isFinite(value) || (Number.isInteger(value) && !Number.isSafeInteger(value))) {
      fail("A number is too large to be held exactly.");
    }
  } else if (value && typeof value === "object") {
    for (const one of Object.values(value)) refuseRounded(one, depth + 1);
  }
}

/** @param {string} detail @returns {never} */
function fail(detail) {
  throw new SealingError("not_canonical", detail);
}
