// Ways to fill in a tensor besides typing JSON: a grid of numbers, an image, sound, any file.
// All of it ends as JSON in the text area, which is what is sent.

// As much as a phone's picture has; nothing larger is read.
const FILE_BYTES_MAX = 10 * 1024 * 1024;
// What the form takes as text; see inference/forms/playground.py.
const TEXT_LENGTH_MAX = 1024 * 1024;
const GRID_CELLS_MAX = 256;
const GRID_COLUMNS = 8;
const SIDE_MIN = 4;
const SOUND_SAMPLES_MIN = 1000;
const SAMPLE_RATE = 16000;
const DECIMALS = 4;

export function enhanceTensor(area) {
  if (area.dataset.ready) return;
  area.dataset.ready = "yes";
  const tensor = describe(area);
  const tools = make("div", { className: "tensor-tools" });
  const status = make("p", { className: "fine", role: "status" });
  const place = make("div");
  const show = (text, tone = "") => {
    status.textContent = text;
    status.dataset.tone = tone;
  };
  const set = (value, note = "") => {
    const text = JSON.stringify(value);
    if (text.length > TEXT_LENGTH_MAX) {
      show("That is too much for this form; use a program.", "bad");
      return false;
    }
    area.value = text;
    area.dispatchEvent(new Event("change", { bubbles: true }));
    show(note);
    return true;
  };
  area.addEventListener("input", () => show(...judge(area.value, tensor)));
  const context = { area, tensor, place, show, set };
  const offers = [
    [fitsGrid(tensor, area.value), "Grid", openGrid],
    [findImage(tensor), "From an image", openImage],
    [fitsSound(tensor), "From sound", openSound],
    [fitsBytes(tensor), "From a file", openFile],
  ].filter(([fits]) => fits);
  let opened = "";
  for (const [fits, label, open] of offers) {
    const button = make("button", { type: "button", className: "button small", textContent: label });
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      for (const other of tools.children) other.setAttribute("aria-expanded", "false");
      place.replaceChildren();
      show("");
      opened = opened === label ? "" : label;
      if (!opened) return;
      button.setAttribute("aria-expanded", "true");
      open(context, fits);
    });
    tools.append(button);
  }
  area.after(tools, place, status);
}

// --- What a tensor is ---

function describe(area) {
  const { tensor, datatype, min, max } = area.dataset;
  const shape = tensor === "" ? [] : tensor.split(",").map(Number);
  const isFloat = datatype.startsWith("FP");
  const isBounded = min !== undefined && max !== undefined;
  const low = isBounded ? Number(min) : 0;
  const high = isBounded ? Number(max) : isFloat ? 1 : 255;
  return { shape, datatype, isFloat, low, high };
}

function judge(text, { shape }) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return ["This is not JSON yet.", "bad"];
  }
  const found = [];
  for (let part = value; Array.isArray(part); part = part[0]) found.push(part.length);
  const isFlat = shape.length > 1 && found.length === 1;
  const fits = isFlat || (found.length === shape.length
    && shape.every((length, axis) => length === -1 || length === found[axis]));
  const wanted = shape.map((length) => (length === -1 ? "any" : length)).join(", ");
  return fits ? ["", ""] : [`The shape is [${found.join(", ")}]; it takes [${wanted}].`, "bad"];
}

// --- A grid of numbers ---

function fitsGrid({ shape }, text) {
  if (shape.length < 1 || shape.length > 2) return false;
  const rows = readRows(text, shape);
  return rows !== null && rows.length > 0 && rows.flat().length <= GRID_CELLS_MAX;
}

function readRows(text, shape) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (!Array.isArray(value)) return null;
  if (shape.length === 2) {
    const isNested = value.every((row) => Array.isArray(row) && row.length === value[0].length);
    return isNested ? value : null;
  }
  const side = Math.sqrt(value.length);
  const columns = Number.isInteger(side) && side >= SIDE_MIN ? side : GRID_COLUMNS;
  const rows = [];
  for (let at = 0; at < value.length; at += columns) rows.push(value.slice(at, at + columns));
  return rows;
}

function openGrid({ area, tensor, place, show, set }) {
  const rows = readRows(area.value, tensor.shape);
  if (rows === null || rows.flat().length > GRID_CELLS_MAX) {
    show("The text above is no list that fits into a grid.", "bad");
    return;
  }
  const table = make("table", { className: "tensor-grid" });
  const caption = make("caption", { className: "visually-hidden", textContent: "Values" });
  table.append(caption);
  const paint = (input) => {
    const part = (Number(input.value) - tensor.low) / (tensor.high - tensor.low || 1);
    // Tenths, for which the style sheet has tones: a style of its own would be refused.
    input.dataset.tone = String(Math.max(0, Math.min(10, Math.round(part * 10))));
  };
  const collect = () => {
    const values = [...table.rows].map((row) =>
      [...row.querySelectorAll("input")].map((input) => Number(input.value)));
    set(tensor.shape.length === 2 ? values : values.flat());
  };
  rows.forEach((row, y) => {
    const line = table.insertRow();
    row.forEach((value, x) => {
      const input = make("input", { type: "number", value: String(value), step: tensor.isFloat ? "any" : "1" });
      input.setAttribute("aria-label", `Row ${y + 1}, column ${x + 1}`);
      paint(input);
      input.addEventListener("change", (event) => {
        event.stopPropagation();
        paint(input);
        collect();
      });
      input.addEventListener("keydown", (event) => move(event, table, y, x));
      line.insertCell().append(input);
    });
  });
  const wrap = make("div", { className: "table-wrap", tabIndex: 0, role: "region" });
  wrap.setAttribute("aria-label", "Values as a grid");
  wrap.append(table);
  place.append(wrap);
  show("Ctrl and an arrow key move from cell to cell.");
}

function move(event, table, y, x) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step || !event.ctrlKey) return;
  event.preventDefault();
  table.rows[y + step[0]]?.cells[x + step[1]]?.querySelector("input").focus();
}

// --- Images ---

// How the numbers of a tensor are a picture: height, width, channels and where these stand.
function findImage({ shape, datatype }) {
  if (datatype === "BOOL") return null;
  const axes = [...shape];
  while (axes.length > 2 && axes[0] === 1) axes.shift();
  if (axes.length === 1) {
    const side = Math.sqrt(axes[0]);
    return Number.isInteger(side) && side >= SIDE_MIN && side <= 64
      ? { height: side, width: side, channels: 1, order: "flat" } : null;
  }
  if (axes.length === 2) return sized(axes[0], axes[1], 1, "hw");
  if (axes.length !== 3) return null;
  if (axes[0] === 3) return sized(axes[1], axes[2], 3, "chw");
  if (axes[2] === 3 || axes[2] === 1) return sized(axes[0], axes[1], axes[2], "hwc");
  return null;
}

function sized(height, width, channels, order) {
  const isFixed = height >= SIDE_MIN && width >= SIDE_MIN;
  return isFixed ? { height, width, channels, order } : null;
}

function openImage({ tensor, place, show, set }, image) {
  const input = chooser("Image", "image/png,image/jpeg,image/webp,image/gif,image/bmp");
  const inverted = make("input", { type: "checkbox", id: newId() });
  const label = make("label", { htmlFor: inverted.id, textContent: "Dark is high" });
  const row = make("div", { className: "row" });
  row.append(inverted, label);
  const canvas = make("canvas", { className: "tensor-preview", width: image.width, height: image.height });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "What the model will see");
  canvas.hidden = true;
  let pixels = null;
  const write = () => {
    const note = `${image.width} × ${image.height} pixels, from ${tensor.low} to ${tensor.high}.`;
    set(toValues(pixels, image, tensor, inverted.checked), note);
  };
  inverted.addEventListener("change", (event) => {
    event.stopPropagation();
    if (pixels) write();
  });
  input.field.addEventListener("change", async (event) => {
    event.stopPropagation();
    const file = takeFile(input.field, show);
    if (!file) return;
    try {
      pixels = await readPixels(file, canvas);
    } catch {
      show("This file is no image that the browser can read.", "bad");
      return;
    }
    canvas.hidden = false;
    if (image.channels === 1) inverted.checked = isLight(pixels);
    write();
  });
  place.append(input.wrap, ...(image.channels === 1 ? [row] : []), canvas);
}

async function readPixels(file, canvas) {
  const bitmap = await createImageBitmap(file);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height).data;
}

function isLight(pixels) {
  let sum = 0;
  for (let at = 0; at < pixels.length; at += 4) sum += grey(pixels, at);
  return sum / (pixels.length / 4) > 127;
}

function grey(pixels, at) {
  return 0.299 * pixels[at] + 0.587 * pixels[at + 1] + 0.114 * pixels[at + 2];
}

function toValues(pixels, { height, width, channels, order }, tensor, isInverted) {
  const scale = (value) => {
    const part = (isInverted ? 255 - value : value) / 255;
    const scaled = tensor.low + part * (tensor.high - tensor.low);
    return tensor.isFloat ? Number(scaled.toFixed(DECIMALS)) : Math.round(scaled);
  };
  const at = (y, x, channel) => {
    const place = 4 * (y * width + x);
    return scale(channels === 1 ? grey(pixels, place) : pixels[place + channel]);
  };
  const rows = (cell) => range(height).map((y) => range(width).map((x) => cell(y, x)));
  let value;
  if (order === "chw") value = range(channels).map((channel) => rows((y, x) => at(y, x, channel)));
  else if (order === "hwc") value = rows((y, x) => range(channels).map((channel) => at(y, x, channel)));
  else value = rows((y, x) => at(y, x, 0));
  if (order === "flat") return value.flat();
  let depth = 0;
  for (let part = value; Array.isArray(part); part = part[0]) depth += 1;
  for (; depth < tensor.shape.length; depth += 1) value = [value];
  return value;
}

// --- Sound ---

function fitsSound({ shape, isFloat }) {
  const axes = shape.filter((length) => length !== 1);
  return isFloat && axes.length === 1 && (axes[0] === -1 || axes[0] >= SOUND_SAMPLES_MIN);
}

function openSound({ tensor, place, show, set }) {
  const input = chooser("Sound", "audio/*");
  const rate = make("input", { type: "number", id: newId(), value: String(SAMPLE_RATE), min: "4000", max: "48000" });
  const label = make("label", { htmlFor: rate.id, textContent: "Samples per second" });
  const canvas = make("canvas", { className: "tensor-wave", width: 480, height: 64 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Loudness over time");
  canvas.hidden = true;
  const play = make("button", { type: "button", className: "button small", textContent: "Listen" });
  play.hidden = true;
  let samples = null;
  rate.addEventListener("change", (event) => event.stopPropagation());
  input.field.addEventListener("change", async (event) => {
    event.stopPropagation();
    const file = takeFile(input.field, show);
    if (!file) return;
    const perSecond = Math.max(4000, Math.min(48000, Number(rate.value) || SAMPLE_RATE));
    try {
      samples = await readSamples(file, perSecond);
    } catch {
      show("This file is no sound that the browser can read.", "bad");
      return;
    }
    const fixed = tensor.shape.find((length) => length > 1);
    const kept = fixed ? fit(samples, fixed) : samples;
    let value = [...kept].map((one) => Number(one.toFixed(DECIMALS)));
    if (tensor.shape.length > 1) {
      value = tensor.shape[0] === 1 ? [value] : value.map((one) => [one]);
    }
    const seconds = (kept.length / perSecond).toFixed(1);
    if (!set(value, `${kept.length} samples, ${seconds} s, one channel.`)) return;
    drawWave(canvas, kept);
    canvas.hidden = play.hidden = false;
  });
  play.addEventListener("click", () => listen(samples, Number(rate.value) || SAMPLE_RATE));
  const field = make("div", { className: "field" });
  field.append(label, rate);
  place.append(input.wrap, field, canvas, play);
}

async function readSamples(file, rate) {
  // The browser converts to the rate of the context.
  const context = new OfflineAudioContext(1, 1, rate);
  const sound = await context.decodeAudioData(await file.arrayBuffer());
  const mixed = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel += 1) {
    const data = sound.getChannelData(channel);
    for (let at = 0; at < mixed.length; at += 1) mixed[at] += data[at] / sound.numberOfChannels;
  }
  return mixed;
}

function fit(samples, length) {
  const fitted = new Float32Array(length);
  fitted.set(samples.subarray(0, length));
  return fitted;
}

function drawWave(canvas, samples) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = getComputedStyle(canvas).color;
  const step = Math.max(1, Math.floor(samples.length / canvas.width));
  for (let x = 0; x < canvas.width; x += 1) {
    const part = samples.subarray(x * step, (x + 1) * step);
    const peak = part.reduce((most, one) => Math.max(most, Math.abs(one)), 0);
    const height = Math.max(1, peak * canvas.height);
    context.fillRect(x, (canvas.height - height) / 2, 1, height);
  }
}

function listen(samples, rate) {
  const context = new AudioContext();
  const buffer = context.createBuffer(1, samples.length, rate);
  buffer.copyToChannel(samples, 0);
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.connect(context.destination);
  source.addEventListener("ended", () => context.close());
  source.start();
}

// --- The bytes of any file ---

function fitsBytes({ shape, isFloat, low, high }) {
  return !isFloat && shape.length === 1 && low <= 0 && high >= 255;
}

function openFile({ tensor, place, show, set }) {
  const input = chooser("File", "");
  const choice = make("select", { id: newId() });
  const label = make("label", { htmlFor: choice.id, textContent: "Which bytes" });
  const [length] = tensor.shape;
  if (length > 1) choice.append(new Option("The first and the last ones, without white space around", "ends"));
  choice.append(new Option("From the beginning", "begin"));
  const read = async (event) => {
    event.stopPropagation();
    const file = takeFile(input.field, show);
    if (!file) return;
    const bytes = [...new Uint8Array(await file.arrayBuffer())];
    const kept = choice.value === "ends" ? takeEnds(bytes, length, tensor.high) : takeFirst(bytes, length, tensor.high);
    set(kept, `${Math.min(bytes.length, kept.length)} of ${bytes.length} bytes.`);
  };
  input.field.addEventListener("change", read);
  choice.addEventListener("change", read);
  const field = make("div", { className: "field" });
  field.append(label, choice);
  place.append(input.wrap, field);
}

function takeFirst(bytes, length, high) {
  if (length === -1) return bytes;
  const kept = bytes.slice(0, length);
  // A value that no byte has says that there is none.
  return kept.concat(Array(length - kept.length).fill(high > 255 ? 256 : 0));
}

function takeEnds(bytes, length, high) {
  const half = Math.floor(length / 2);
  const block = 4096;
  const isSpace = (byte) => byte === 32 || (byte >= 9 && byte <= 13);
  const head = bytes.slice(0, block);
  const tail = bytes.slice(-block);
  const first = head.findIndex((byte) => !isSpace(byte));
  const last = tail.findLastIndex((byte) => !isSpace(byte));
  const padding = high > 255 ? 256 : 0;
  const begin = first === -1 ? [] : head.slice(first, first + half);
  const end = last === -1 ? [] : tail.slice(Math.max(0, last + 1 - (length - half)), last + 1);
  return [
    ...begin, ...Array(half - begin.length).fill(padding),
    ...Array(length - half - end.length).fill(padding), ...end,
  ];
}

// --- Small parts ---

function chooser(name, accept) {
  const field = make("input", { type: "file", id: newId(), accept });
  const label = make("label", { htmlFor: field.id, textContent: `${name}, at most 10 MB` });
  const wrap = make("div", { className: "field" });
  wrap.append(label, field);
  return { field, wrap };
}

function takeFile(field, show) {
  const [file] = field.files;
  if (!file) return null;
  if (file.size <= FILE_BYTES_MAX) return file;
  show("The file has more than 10 MB.", "bad");
  field.value = "";
  return null;
}

let ids = 0;
function newId() {
  ids += 1;
  return `tensor-tool-${ids}`;
}

function range(count) {
  return Array.from({ length: count }, (_, index) => index);
}

function make(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
