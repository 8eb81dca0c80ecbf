// The listing: what strongroom.toml beside a model says about it, or what the form says.

import { parse as parseToml } from "../../vendor/smol-toml/parse.js";
import { SealingError } from "./floe.js";

const LISTING_FILE = "strongroom.toml";
const MAX_LISTING_BYTES = 4 * 1024 * 1024;
const MAX_CARD_LENGTH = 65_536;
const MAX_DOLLARS = 1_000_000;
const MEMBERS = new Set([
  "owner", "name", "title", "summary", "task", "licence", "industry", "visibility", "card",
  "price_dollars_per_prediction", "publish", "interface", "test_vectors", "policy",
]);

/** The listing of a folder, or null where there is none.
 * @param {Map<string, File>} found @returns {Promise<Record<string, any> | null>} */
export async function readListing(found) {
  const file = found.get(LISTING_FILE);
  if (!file) return null;
  if (file.size > MAX_LISTING_BYTES) throw invalid(LISTING_FILE, `At most ${MAX_LISTING_BYTES} bytes are allowed.`);
  let value;
  try {
    // A copy of plain objects: the parser's have no prototype, and dates are texts in JSON.
    value = JSON.parse(JSON.stringify(parseToml(await file.text())));
  } catch (error) {
    throw invalid(LISTING_FILE, `Not valid TOML: ${String(/** @type {Error} */ (error).message).split("\n")[0]}`);
  }
  const unknown = Object.keys(value).find((key) => !MEMBERS.has(key));
  if (unknown) throw invalid(unknown, "This key is not known.");
  return value;
}

/** The text of the model's card: what the listing names, else README.md.
 * @param {Map<string, File>} found @param {Record<string, any> | null} listing
 * @returns {Promise<{path: string, text: string} | null>} */
export async function readCard(found, listing) {
  const path = listing ? listing.card : "README.md";
  if (!path || (!listing && !found.has(path))) return null;
  const text = await found.get(path)?.text();
  if (text === undefined) throw invalid("card", `${path} cannot be read.`);
  if (text.length > MAX_CARD_LENGTH) throw invalid("card", `At most ${MAX_CARD_LENGTH} characters are allowed.`);
  return { path, text };
}

/** Dollars per prediction in nano-dollars. @param {string} text */
export function parsePrice(text) {
  const found = /^(\d{1,7})(?:\.(\d{1,9}))?$/.exec(text.trim());
  const nanos = found ? Number(found[1]) * 1e9 + Number((found[2] ?? "").padEnd(9, "0")) : NaN;
  if (!(nanos <= MAX_DOLLARS * 1e9)) {
    throw invalid("price", 'Must be an amount of dollars with at most nine decimals, such as "0.0005".');
  }
  return nanos;
}

/** A price of a listing, text or number, as a person types it. @param {unknown} value */
export function showPrice(value) {
  if (typeof value !== "number") return value === undefined ? "" : String(value);
  const text = value.toFixed(9);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/** @param {string} key @param {string} detail */
function invalid(key, detail) {
  return new SealingError("listing_invalid", `${key}: ${detail}`);
}
