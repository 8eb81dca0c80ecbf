// Read of an ONNX file what a push needs: inputs, outputs, where its data is, and operators that
// need code; as sdk/strongroom/onnx_file.py does. Weights are stepped over, not loaded.
//
// Source: onnx.proto3 (field numbers); Protocol Buffers, "Encoding".

import { SealingError } from "./floe.js";

// Deeper subgraphs are refused by the server as well.
const MAX_DEPTH = 12;
const ALLOWED_DOMAINS = new Set(["", "ai.onnx", "ai.onnx.ml", "com.microsoft"]);
/** @type {Record<number, string>} */
const DATATYPES = {
  1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 9: "BOOL",
  11: "FP64", 12: "UINT32", 13: "UINT64",
};
/** Message to field number to the message in it: where tensors, subgraphs and operators are.
 * @type {Record<string, Record<number, string>>} */
const CHILDREN = {
  model: { 7: "graph", 25: "function" },
  graph: { 1: "node", 5: "tensor", 15: "sparse" },
  function: { 7: "node", 11: "attribute" },
  node: { 5: "attribute" },
  attribute: { 5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse" },
  sparse: { 1: "tensor", 2: "tensor" },
};
const WINDOW_BYTES = 256 * 1024;
const NAME_MAX_BYTES = 64 * 1024;

/** @typedef {{name: string, datatype: string | null, shape: (number | null)[] | null}} GraphValue */
/** @typedef {{inputs: GraphValue[], outputs: GraphValue[], external: string[],
 * customOperators: string[]}} OnnxFile */
/** A field: an integer, or where its bytes lie.
 * @typedef {{number: number, value?: number, begin: number, end: number}} Field */

/** @param {Blob} file @returns {Promise<OnnxFile>} */
export async function readOnnx(file) {
  if (!file.size) throw malformed("The file is empty.");
  const reader = new Reader(file);
  const all = { begin: 0, end: file.size };
  const graphs = await reader.messages(all, 7);
  if (graphs.length !== 1) throw malformed("The file holds no ONNX graph.");
  const [graph] = graphs;
  const functions = new Set();
  for (const one of await reader.messages(all, 25)) {
    functions.add(`${await reader.text(one, 10)}::${await reader.text(one, 1)}`);
  }
  const found = { external: new Set(), customOperators: new Set(), functions };
  await visit(reader, "model", all, 0, found);
  const given = new Set();
  for (const one of await reader.messages(graph, 5)) given.add(await reader.text(one, 8));
  const inputs = await readValues(reader, await reader.messages(graph, 11));
  const outputs = await readValues(reader, await reader.messages(graph, 12));
  if (!outputs.length) throw malformed("The graph has no output.");
  return {
    inputs: inputs.filter((one) => !given.has(one.name)),
    outputs,
    external: [...found.external].sort(),
    customOperators: [...found.customOperators].sort(),
  };
}

/** Collects external data and foreign operators, wherever in the model they stand.
 * @param {Reader} reader @param {string} kind @param {{begin: number, end: number}} data
 * @param {number} depth
 * @param {{external: Set<string>, customOperators: Set<string>, functions: Set<string>}} found */
async function visit(reader, kind, data, depth, found) {
  if (depth > 4 * MAX_DEPTH) throw malformed(`Graphs are nested deeper than ${MAX_DEPTH} levels.`);
  if (kind === "tensor") return visitTensor(reader, data, found.external);
  const fields = await reader.fields(data);
  if (kind === "node") {
    const domain = await reader.lastText(fields, 7);
    const name = `${domain}::${await reader.lastText(fields, 4)}`;
    if (!ALLOWED_DOMAINS.has(domain) && !found.functions.has(name)) found.customOperators.add(name);
  }
  for (const field of fields) {
    const child = CHILDREN[kind][field.number];
    if (child && field.value === undefined) await visit(reader, child, field, depth + 1, found);
  }
}

/** @param {Reader} reader @param {{begin: number, end: number}} data @param {Set<string>} external */
async function visitTensor(reader, data, external) {
  const fields = await reader.fields(data);
  const entries = fields.filter((one) => one.number === 13 && one.value === undefined);
  const isExternal = fields.some((one) => one.number === 14 && one.value);
  if (!entries.length && !isExternal) return;
  let location = "";
  for (const entry of entries) {
    if ((await reader.text(entry, 1)) === "location") location = await reader.text(entry, 2);
  }
  external.add(location);
}

/** @param {Reader} reader @param {Field[]} values @returns {Promise<GraphValue[]>} */
async function readValues(reader, values) {
  const found = [];
  for (const one of values) found.push(await readValue(reader, one));
  return found;
}

/** @param {Reader} reader @param {Field} data @returns {Promise<GraphValue>} */
async function readValue(reader, data) {
  const name = await reader.text(data, 1);
  for (const type of await reader.messages(data, 2)) {
    for (const tensor of await reader.messages(type, 1)) {
      const element = (await reader.fields(tensor)).find((one) => one.number === 1)?.value ?? 0;
      const [shape] = await reader.messages(tensor, 2);
      return { name, datatype: DATATYPES[element] ?? null, shape: shape ? await readShape(reader, shape) : null };
    }
  }
  return { name, datatype: null, shape: null };
}

/** @param {Reader} reader @param {Field} data */
async function readShape(reader, data) {
  const lengths = [];
  for (const axis of await reader.messages(data, 1)) {
    const length = (await reader.fields(axis)).find((one) => one.number === 1)?.value;
    // A negative number is one of 2^63 or more here.
    lengths.push(length !== undefined && length > 0 && length < 2 ** 63 ? length : null);
  }
  return lengths;
}

/** Reads a file through a window that moves with what is asked for. */
class Reader {
  #window = new Uint8Array(0);
  #begin = 0;

  /** @param {Blob} file */
  constructor(file) {
    this.file = file;
  }

  /** @param {{begin: number, end: number}} data @param {number} wanted */
  async messages(data, wanted) {
    const fields = await this.fields(data);
    return fields.filter((one) => one.number === wanted && one.value === undefined);
  }

  /** The last text of this field. @param {{begin: number, end: number}} data @param {number} wanted */
  async text(data, wanted) {
    return this.lastText(await this.fields(data), wanted);
  }

  /** @param {Field[]} fields @param {number} wanted */
  async lastText(fields, wanted) {
    const field = fields.findLast((one) => one.number === wanted && one.value === undefined);
    if (!field) return "";
    if (field.end - field.begin > NAME_MAX_BYTES) throw malformed("A name is too long.");
    await this.#load(field.begin, field.end);
    return new TextDecoder().decode(this.#window.subarray(field.begin - this.#begin, field.end - this.#begin));
  }

  /** The fields of a message; bytes are only located.
   * @param {{begin: number, end: number}} data @returns {Promise<Field[]>} */
  async fields({ begin, end }) {
    const found = [];
    let at = begin;
    const next = async () => {
      // A varint has at most ten bytes.
      if (!this.#holds(at, Math.min(at + 10, end))) await this.#load(at, Math.min(at + 10, end));
      const [value, after] = this.#varint(at, end);
      at = after;
      return value;
    };
    while (at < end) {
      const tag = await next();
      const number = Math.floor(tag / 8);
      const type = tag % 8;
      if (!number) throw malformed("The file is not a protocol buffer.");
      if (type === 0) {
        found.push({ number, value: await next(), begin: at, end: at });
        continue;
      }
      if (![1, 2, 5].includes(type)) throw malformed("The file is not a protocol buffer.");
      const size = type === 2 ? await next() : type === 1 ? 8 : 4;
      if (at + size > end) throw malformed("The file was cut.");
      found.push({ number, begin: at, end: at + size });
      at += size;
    }
    return found;
  }

  /** @param {number} at @param {number} end @returns {[number, number]} */
  #varint(at, end) {
    let value = 0;
    for (let place = 0; place < 10; place++) {
      if (at >= end) throw malformed("The file was cut.");
      const byte = this.#window[at++ - this.#begin];
      value += (byte & 0x7f) * 2 ** (7 * place);
      if (byte < 0x80) return [value, at];
    }
    throw malformed("The file is not a protocol buffer.");
  }

  /** @param {number} begin @param {number} end */
  #holds(begin, end) {
    return begin >= this.#begin && end <= this.#begin + this.#window.length;
  }

  /** @param {number} begin @param {number} end */
  async #load(begin, end) {
    if (this.#holds(begin, end)) return;
    const until = Math.max(end, begin + WINDOW_BYTES);
    this.#window = new Uint8Array(await this.file.slice(begin, until).arrayBuffer());
    this.#begin = begin;
  }
}

/** @param {string} detail */
function malformed(detail) {
  return new SealingError("onnx_malformed", detail);
}
