// Look at a model folder before it is sealed: what it is, and what it may not hold; as
// sdk/strongroom/inspect.py does, with the same codes. The server repeats all of it.

import { SealingError } from "./floe.js";
import { readOnnx } from "./onnx.js";
import { REASONS, findRefused, readLatin1 } from "./sniff.js";

// A model has some dozen files; more is somebody's home directory.
const MAX_FOLDER_ENTRIES = 10_000;
const MAX_JSON_BYTES = 32 * 1024 * 1024;
const MAX_SAFETENSORS_HEADER_BYTES = 8 * 1024 * 1024;

/** Files of a transformers folder that are read when the model is served.
 * @type {Record<string, string>} */
const TRANSFORMERS_KINDS = {
  "config.json": "config",
  "generation_config.json": "config",
  "sentence_bert_config.json": "config",
  "1_Pooling/config.json": "config",
  "tokenizer.json": "tokenizer",
  "tokenizer_config.json": "tokenizer_config",
  "special_tokens_map.json": "tokenizer_config",
  "chat_template.jinja": "tokenizer_config",
};
// Said twice by other files, or said to people: never sent, and no reason to refuse.
const IGNORED_NAMES = new Set([
  "strongroom.toml", "labels.txt", "labels.json", "model.safetensors.index.json", "modules.json",
  "config_sentence_transformers.json", "added_tokens.json", "vocab.json", "vocab.txt",
  "merges.txt", "spiece.model", "sentencepiece.bpe.model",
]);
const IGNORED_SUFFIX = /\.(md|rst|png|jpg|jpeg|svg|pdf)$/;
const IGNORED_STEM = /^(readme|license|licence|notice|copying|authors|changelog)/;

/** @typedef {{path: string, code: string, detail: string}} Refusal */
/** @typedef {{path: string, kind: string, file: File}} SourceFile */
/** @typedef {{runtime: string, files: SourceFile[], ignored: string[],
 * graph?: import("./onnx.js").OnnxFile, config?: Record<string, any>}} ModelFolder */

/** The folder cannot be uploaded. `refusals` holds every reason found. */
export class PreflightError extends SealingError {
  /** @param {Refusal[]} refusals */
  constructor(refusals) {
    super(refusals[0].code, `${refusals[0].path || "The folder"}: ${refusals[0].detail}`);
    this.refusals = refusals;
  }
}

/** @param {string} code @param {string} detail @param {string} [path] */
export function refuse(code, detail, path = "") {
  return new PreflightError([{ path, code, detail }]);
}

/** Paths without the chosen folder's own name, hidden ones left out, in the order of a walk.
 * @param {{path: string, file: File}[]} chosen Paths begin with the folder's name.
 * @returns {Map<string, File>} */
export function walk(chosen) {
  const found = [];
  let count = 0;
  for (const one of chosen) {
    const path = one.path.split("/").slice(1);
    if (path.slice(0, -1).some((name) => name.startsWith("."))) continue;
    count += 1;
    if (count > MAX_FOLDER_ENTRIES) {
      throw refuse("too_many_files", `The folder holds more than ${MAX_FOLDER_ENTRIES} files.`);
    }
    if (!path[path.length - 1].startsWith(".")) found.push({ path, file: one.file });
  }
  found.sort((a, b) => comparePaths(a.path, b.path));
  return new Map(found.map(({ path, file }) => [path.join("/"), file]));
}

/** Find the runtime and the files of a model, and refuse what is never served.
 * @param {Map<string, File>} found @param {Set<string>} [ignore] Files of the listing.
 * @returns {Promise<ModelFolder>} */
export async function readFolder(found, ignore = new Set()) {
  const ignored = [...found.keys()].filter((path) => ignore.has(path) || isIgnored(path));
  const candidates = new Map([...found].filter(([path]) => !ignored.includes(path)));
  const paths = [...candidates.keys()];
  if (paths.some(isOnnx)) return { ...(await readOnnxFolder(candidates)), ignored: ignored.sort() };
  if (candidates.has("config.json")) {
    return { ...(await readTransformersFolder(candidates)), ignored: ignored.sort() };
  }
  const refusals = await refuseHostile(candidates);
  if (refusals.length) throw new PreflightError(refusals);
  throw refuse("runtime_unknown", "Needs model.onnx, or config.json with safetensors and tokenizer.json.");
}

/** "text-generation", "feature-extraction", or nothing that is served. @param {any} config */
export function findTask(config) {
  const names = config.architectures;
  const name = Array.isArray(names) && names.length === 1 ? names[0] : null;
  if (typeof name !== "string") return "";
  if (name.endsWith("ForCausalLM") || name.endsWith("LMHeadModel")) return "text-generation";
  return name.endsWith("Model") ? "feature-extraction" : "";
}

/** @param {string[]} a @param {string[]} b */
function comparePaths(a, b) {
  for (let at = 0; at < a.length && at < b.length; at++) {
    const [isFileA, isFileB] = [at === a.length - 1, at === b.length - 1];
    if (isFileA !== isFileB) return isFileA ? -1 : 1;
    if (a[at] !== b[at]) return a[at] < b[at] ? -1 : 1;
  }
  return a.length - b.length;
}

/** @param {string} path */
function isIgnored(path) {
  const name = path.slice(path.lastIndexOf("/") + 1).toLowerCase();
  return IGNORED_NAMES.has(name) || IGNORED_SUFFIX.test(name) || IGNORED_STEM.test(name);
}

/** @param {string} path */
function isOnnx(path) {
  return path.toLowerCase().endsWith(".onnx");
}

/** Refusals of formats that are never accepted; raw external data is any bytes.
 * @param {Map<string, File>} candidates @param {string[]} [data] @returns {Promise<Refusal[]>} */
async function refuseHostile(candidates, data = []) {
  const refusals = [];
  for (const [path, file] of candidates) {
    if (data.includes(path)) continue;
    const code = await findRefused(path.slice(path.lastIndexOf("/") + 1), file);
    if (code) refusals.push({ path, code, detail: REASONS[/** @type {keyof REASONS} */ (code)] });
  }
  return refusals;
}

/** @param {Map<string, File>} candidates */
async function readOnnxFolder(candidates) {
  const models = [...candidates.keys()].filter(isOnnx);
  if (models.length > 1) {
    throw refuse("file_unexpected", `One ONNX file is expected; there are ${models.length}.`, models[1]);
  }
  const [model] = models;
  const file = /** @type {File} */ (candidates.get(model));
  const hostile = await refuseHostile(new Map([[model, file]]));
  if (hostile.length) throw new PreflightError(hostile);
  const { graph, external } = await readGraph(model, file, candidates);
  const refusals = await refuseHostile(candidates, external);
  if (graph.customOperators.length) {
    const names = graph.customOperators.slice(0, 5).join(", ");
    refusals.push({ path: model, code: "onnx_custom_op", detail: `Uses operators that need code: ${names}.` });
  }
  const kinds = new Map([[model, "onnx"], ...external.map((path) => /** @type {[string, string]} */ ([path, "external_data"]))]);
  refusals.push(...findUnexpected(candidates, kinds, refusals));
  if (refusals.length) throw new PreflightError(refusals);
  return { runtime: "onnx", files: listSources(candidates, kinds), graph };
}

/** The graph, and the paths of the files that its tensors lie in.
 * @param {string} model @param {File} file @param {Map<string, File>} candidates */
async function readGraph(model, file, candidates) {
  let graph;
  try {
    graph = await readOnnx(file);
  } catch (error) {
    if (error instanceof SealingError) throw refuse(error.code, error.message, model);
    throw error;
  }
  const folder = model.includes("/") ? model.slice(0, model.lastIndexOf("/") + 1) : "";
  const external = graph.external.map((location) => {
    const steps = location.split("/").filter((step) => step && step !== ".");
    const path = folder + steps.join("/");
    const isPlain = location && !location.startsWith("/") && !location.includes("..");
    if (!isPlain || !candidates.has(path)) {
      const detail = `A tensor lies in '${location.slice(0, 80)}', which is no file of the folder.`;
      throw refuse("onnx_external_data", detail, model);
    }
    return path;
  });
  return { graph, external };
}

/** @param {Map<string, File>} candidates */
async function readTransformersFolder(candidates) {
  const refusals = await refuseHostile(candidates);
  const kinds = new Map();
  for (const path of candidates.keys()) {
    const kind = TRANSFORMERS_KINDS[path] ?? (path.toLowerCase().endsWith(".safetensors") ? "safetensors" : "");
    if (kind) kinds.set(path, kind);
  }
  const refused = new Set(refusals.map((one) => one.path));
  refusals.push(...findUnexpected(candidates, kinds, refusals));
  for (const [path, kind] of kinds) {
    if (refused.has(path)) continue;
    const fault = await checkContent(path, /** @type {File} */ (candidates.get(path)), kind);
    if (fault) refusals.push({ path, code: fault[0], detail: fault[1] });
  }
  for (const [kind, what] of [["safetensors", "A .safetensors file"], ["tokenizer", "tokenizer.json"]]) {
    if (![...kinds.values()].includes(kind)) {
      refusals.push({ path: "", code: "file_missing", detail: `${what} is missing.` });
    }
  }
  if (refusals.length) throw new PreflightError(refusals);
  const config = JSON.parse(await /** @type {File} */ (candidates.get("config.json")).text());
  if (!findTask(config)) {
    const detail = "Its architecture is not one that is served, or none is named.";
    throw refuse("config_architecture_refused", detail, "config.json");
  }
  return { runtime: "transformers", files: listSources(candidates, kinds), config };
}

/** @param {Map<string, File>} candidates @param {Map<string, string>} kinds @param {Refusal[]} refusals */
function findUnexpected(candidates, kinds, refusals) {
  const known = new Set([...kinds.keys(), ...refusals.map((one) => one.path)]);
  const detail = "No part of a model of this kind. Move it out of the folder.";
  return [...candidates.keys()]
    .filter((path) => !known.has(path))
    .map((path) => ({ path, code: "file_unexpected", detail }));
}

/** @param {string} path @param {File} file @param {string} kind
 * @returns {Promise<[string, string] | null>} */
async function checkContent(path, file, kind) {
  if (kind === "safetensors") return checkSafetensors(file);
  if (path.endsWith(".jinja")) return null;
  if (file.size > MAX_JSON_BYTES) return [`${kind}_too_large`, `At most ${MAX_JSON_BYTES} bytes are allowed.`];
  return isObject(await file.text()) ? null : [`${kind}_malformed`, "This is not a JSON object."];
}

/** @param {File} file @returns {Promise<[string, string] | null>} */
async function checkSafetensors(file) {
  const head = await readLatin1(file.slice(0, 8));
  let length = 0;
  for (let at = head.length - 1; at >= 0; at--) length = length * 256 + head.charCodeAt(at);
  if (file.size < 8 || length > file.size - 8) {
    return ["safetensors_truncated", "The file is shorter than its header says."];
  }
  if (length > MAX_SAFETENSORS_HEADER_BYTES) {
    return ["safetensors_header_too_large", "The header is larger than 8 MiB."];
  }
  const header = await file.slice(8, 8 + length).text();
  return isObject(header) ? null : ["safetensors_header_malformed", "The header is not a JSON object."];
}

/** @param {string} text */
function isObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

/** @param {Map<string, File>} candidates @param {Map<string, string>} kinds @returns {SourceFile[]} */
function listSources(candidates, kinds) {
  return [...kinds.keys()].sort().map((path) => ({
    path,
    kind: /** @type {string} */ (kinds.get(path)),
    file: /** @type {File} */ (candidates.get(path)),
  }));
}
