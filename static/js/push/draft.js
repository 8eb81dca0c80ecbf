// The interface that a folder's files speak for, to be completed by a person; as `strongroom init`
// drafts it (sdk/strongroom/inspect.py).

import { findTask, refuse } from "./inspect.js";

// Sensible starting points; a creator changes them in the form.
const ONNX_BATCH_SIZE = 32;
const EMBEDDING_BATCH_SIZE = 8;
const CONVERSATION_LENGTH = 32_768;
const NAME = /^[A-Za-z_][A-Za-z0-9_.:/-]{0,63}$/;

/** @param {import("./inspect.js").ModelFolder} folder @param {string[]} labels */
export function guessTask(folder, labels) {
  if (folder.runtime === "transformers") return findTask(folder.config);
  return labels.length ? "classification" : "";
}

/** Names of classes, one a line or a JSON list, if the folder has a file of them.
 * @param {Map<string, File>} found @returns {Promise<string[]>} */
export async function readLabels(found) {
  const json = found.get("labels.json");
  const text = await (json ?? found.get("labels.txt"))?.text();
  if (text === undefined) return [];
  try {
    const labels = json ? JSON.parse(text) : text.split(/\r?\n/);
    if (!Array.isArray(labels) || labels.some((one) => typeof one !== "string")) return [];
    return labels.map((one) => one.trim()).filter(Boolean);
  } catch {
    return [];
  }
}

/** @param {import("./inspect.js").ModelFolder} folder @param {string[]} labels */
export async function draftInterface(folder, labels) {
  if (folder.runtime === "onnx") {
    return draftOnnx(/** @type {import("./onnx.js").OnnxFile} */ (folder.graph), labels);
  }
  if (findTask(folder.config) === "feature-extraction") return draftEmbedding(folder.config ?? {});
  return draftGeneration(await hasChatTemplate(folder));
}

/** @param {Record<string, any>} config */
function draftEmbedding(config) {
  const member = ["hidden_size", "dim", "n_embd"].find((name) => name in config);
  const size = member && config[member];
  if (!Number.isInteger(size) || size < 1) {
    throw refuse("config_value_refused", "hidden_size is missing.", "config.json");
  }
  return {
    inputs: [{ name: "text", kind: "text", description: "The text to embed." }],
    outputs: [{ name: "embedding", kind: "tensor", datatype: "FP32", shape: [size] }],
    batch: { max_size: EMBEDDING_BATCH_SIZE, leading_axis: true },
  };
}

/** @param {import("./inspect.js").ModelFolder} folder */
async function hasChatTemplate(folder) {
  const found = new Map(folder.files.map((one) => [one.path, one.file]));
  if (found.has("chat_template.jinja")) return true;
  return (await found.get("tokenizer_config.json")?.text())?.includes('"chat_template"') ?? false;
}

/** @param {boolean} hasTemplate */
function draftGeneration(hasTemplate) {
  const messages = {
    name: "messages",
    kind: "text",
    description: "A conversation as JSON, in place of the prompts.",
    default: "",
    max_length: CONVERSATION_LENGTH,
  };
  return {
    inputs: [
      { name: "prompt", kind: "text", description: "What to answer." },
      { name: "system_prompt", kind: "text", description: "How to answer.", default: "" },
      ...(hasTemplate ? [messages] : []),
      { name: "max_new_tokens", kind: "integer", minimum: 1, maximum: 512, default: 64 },
      {
        name: "temperature",
        kind: "number",
        description: "0 always gives the same answer.",
        minimum: 0,
        maximum: 2,
        default: 0,
      },
    ],
    outputs: [
      { name: "text", kind: "text", stream: true },
      { name: "tokens_in", kind: "integer" },
      { name: "tokens_out", kind: "integer" },
    ],
    batch: { max_size: 1, leading_axis: true },
  };
}

/** @param {import("./onnx.js").OnnxFile} graph @param {string[]} labels */
function draftOnnx(graph, labels) {
  for (const one of graph.inputs) if (!one.datatype || !one.shape) throw refuseValue(one);
  // What cannot be sent (sequences, maps, texts) is left out: it is then not computed.
  const outputs = graph.outputs.filter((one) => one.datatype && one.shape);
  if (!outputs.length) throw refuseValue(graph.outputs[0]);
  const firsts = [...graph.inputs, ...outputs].map((one) => (one.shape?.length ? one.shape[0] : 0));
  const hasAxis = firsts.every((first) => first === null || first === 1);
  const isBatchable = firsts.every((first) => first === null);
  const described = outputs.map((one) => describe(one, hasAxis));
  return {
    inputs: graph.inputs.map((one) => describe(one, hasAxis)),
    outputs: [...described, ...draftLabel(described, labels)],
    batch: { max_size: isBatchable ? ONNX_BATCH_SIZE : 1, leading_axis: hasAxis },
  };
}

/** @param {import("./onnx.js").GraphValue} value @param {boolean} hasAxis */
function describe(value, hasAxis) {
  if (!NAME.test(value.name)) {
    throw refuse("interface_mismatch", `The name '${value.name.slice(0, 80)}' cannot be sent; rename it in the graph.`);
  }
  const shape = (value.shape ?? []).slice(hasAxis ? 1 : 0);
  return { name: value.name, kind: "tensor", datatype: value.datatype, shape: shape.map((one) => one ?? -1) };
}

/** @param {any[]} outputs @param {string[]} labels */
function draftLabel(outputs, labels) {
  if (!labels.length) return [];
  const isScore = (/** @type {any} */ one) =>
    ["FP32", "FP64"].includes(one.datatype) && one.shape.length === 1 && one.shape[0] === labels.length;
  const scores = outputs.filter(isScore);
  if (scores.length !== 1) {
    throw refuse(
      "interface_mismatch",
      `There are ${labels.length} labels, but not one output with as many scores.`,
    );
  }
  const taken = outputs.map((one) => one.name);
  const name = ["label", "class", "predicted_label"].find((one) => !taken.includes(one));
  return [{ name, kind: "label", source: scores[0].name, labels }];
}

/** @param {import("./onnx.js").GraphValue} value */
function refuseValue(value) {
  const detail = `'${value.name.slice(0, 80)}' is not a tensor that can be sent, or has no shape.`;
  return refuse("interface_mismatch", detail);
}
