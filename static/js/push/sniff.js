// Recognise files that are never accepted, by their first bytes and by their names, with the
// codes and remedies of sdk/strongroom/sniff.py. It only saves an upload: the server refuses the
// same, and also old pickles, which have no first bytes of their own.

export const REASONS = {
  pickle_refused: "A pickle runs code when it is opened. Save the weights as safetensors.",
  torchscript_refused: "TorchScript can read and write files. Export the model to ONNX.",
  pt2_refused: "The loader of exported programs unpickles. Export the model to ONNX.",
  archive_refused: "Archives are not accepted. Put the files into the folder as they are.",
  python_file_refused: "Programs are not accepted: models are data only.",
  gguf_refused: "GGUF is not accepted. Convert the weights to safetensors.",
  unknown_format: "The format of this file is not accepted.",
};

/** @type {Record<string, string>} */
const CODE_BY_SUFFIX = {
  ...repeat("python_file_refused", ".py .pyi .pyw .pyc .pyd .ipynb"),
  ...repeat("pickle_refused", ".pkl .pickle .joblib .dill .pt .pth .ckpt"),
  ".pt2": "pt2_refused",
  ...repeat("gguf_refused", ".gguf .ggml"),
  ...repeat("archive_refused", ".zip .tar .tgz .gz .bz2 .xz .zst .7z .rar .whl .npz"),
};
const ARCHIVES = ["\x1f\x8b", "BZh", "\xfd7zXZ\0", "\x28\xb5\x2f\xfd", "\x04\x22\x4d\x18", "7z\xbc\xaf\x27\x1c", "Rar!\x1a\x07"];
const TAR_OFFSET = 257;
const GGUF = ["GGUF", "lmgg", "ggjt", "tjgg"];
// ELF, Windows and Mach-O programs; HDF5 of Keras, whose layers may hold code.
const UNKNOWN = ["\x7fELF", "MZ", "\xcf\xfa\xed\xfe", "\x89HDF"];
const HEAD_BYTES = 64 * 1024;
const PYTHON_LINE = /^(?:#!.*python|# -\*-|(?:import|from)[ \t]+\w|def[ \t]+\w+[ \t]*\(|class[ \t]+\w|@\w)/m;
// The end of a zip: 22 bytes and a comment of at most 64 KiB.
const ZIP_TAIL_BYTES = 22 + 0xffff;
const ZIP_DIRECTORY_MAX_BYTES = 4 * 1024 * 1024;

/** The reason code for a file that is never accepted, or null. The content is looked at first:
 * it gives the more exact reason. @param {string} name @param {Blob} file */
export async function findRefused(name, file) {
  return (await findByContent(file)) ?? findRefusedName(name);
}

/** By the last two endings of a name. @param {string} name */
export function findRefusedName(name) {
  const suffixes = (name.toLowerCase().replace(/^\.+/, "").match(/\.[^.]+/g) ?? []).slice(-2);
  return suffixes.map((one) => CODE_BY_SUFFIX[one]).find(Boolean) ?? null;
}

/** Bytes as a text of one letter each. @param {Blob} blob */
export async function readLatin1(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return text;
}

/** @param {Blob} file */
async function findByContent(file) {
  const head = await readLatin1(file.slice(0, HEAD_BYTES));
  const begins = (/** @type {string[]} */ marks) => marks.some((mark) => head.startsWith(mark));
  if (begins(["PK\x03\x04", "PK\x05\x06"])) return classifyZip(file);
  if (begins(ARCHIVES) || head.startsWith("ustar", TAR_OFFSET)) return "archive_refused";
  if (begins(GGUF)) return "gguf_refused";
  if (begins(UNKNOWN) || head.startsWith("TFL3", 4)) return "unknown_format";
  if (isPickle(head)) return "pickle_refused";
  if (head.startsWith("#!") || isPython(head)) return "python_file_refused";
  return null;
}

/** @param {string} head */
function isPickle(head) {
  // An array of objects is a pickle with a preface.
  if (head.startsWith("\x93NUMPY")) return head.slice(0, 512).includes("|O");
  // Protocol 2 and later begin with a mark and their number. So may the length of a safetensors
  // header, which has zeros and a brace behind it.
  const isMarked = head[0] === "\x80" && head.length > 2 && head[1] >= "\x02" && head[1] <= "\x05";
  return isMarked && !head.startsWith("\0\0\0\0{", 4);
}

/** @param {string} head */
function isPython(head) {
  const isText = !head.slice(0, 4096).includes("\0");
  return isText && !head.trimStart().startsWith("{") && PYTHON_LINE.test(head);
}

/** By the names in a zip's directory. @param {Blob} file */
async function classifyZip(file) {
  const names = await readZipNames(file);
  const paths = names.map((name) => name.split("/"));
  const ends = new Set(paths.map((path) => path.at(-1)));
  if (ends.has("archive_format") || ends.has("serialized_exported_program.json")) return "pt2_refused";
  if (names.some((name) => name.endsWith(".pt2")) || paths.some((path) => path.includes("aotinductor"))) {
    return "pt2_refused";
  }
  if (ends.has("constants.pkl") || paths.some((path) => path.slice(0, -1).includes("code"))) {
    return "torchscript_refused";
  }
  return names.some((name) => name.endsWith(".pkl")) ? "pickle_refused" : "archive_refused";
}

/** Names in the central directory; none of a file that has no readable one.
 * @param {Blob} file @returns {Promise<string[]>} */
async function readZipNames(file) {
  const tail = await readLatin1(file.slice(-ZIP_TAIL_BYTES));
  const end = tail.lastIndexOf("PK\x05\x06");
  if (end < 0 || end + 22 > tail.length) return [];
  const [size, offset] = [littleEndian(tail, end + 12, 4), littleEndian(tail, end + 16, 4)];
  if (size > ZIP_DIRECTORY_MAX_BYTES) return [];
  const directory = await readLatin1(file.slice(offset, offset + size));
  const names = [];
  for (let at = 0; directory.startsWith("PK\x01\x02", at); ) {
    const [name, extra, comment] = [28, 30, 32].map((place) => littleEndian(directory, at + place, 2));
    names.push(directory.slice(at + 46, at + 46 + name));
    at += 46 + name + extra + comment;
  }
  return names;
}

/** @param {string} text @param {number} at @param {number} length */
function littleEndian(text, at, length) {
  let value = 0;
  for (let index = length - 1; index >= 0; index--) value = value * 256 + text.charCodeAt(at + index);
  return value;
}

/** @param {string} code @param {string} suffixes */
function repeat(code, suffixes) {
  return Object.fromEntries(suffixes.split(" ").map((suffix) => [suffix, code]));
}
