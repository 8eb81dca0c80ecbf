// Small helpers of the page: elements by id, sizes for people, and the progress of a push.

const RATE_WINDOW_MS = 10_000;
// A screen reader is told at these steps, not at every packet.
const SPOKEN_STEP = 0.1;

/** @param {string} id @returns {any} */
export function get(id) {
  return document.getElementById(id);
}

/** @param {string} id @param {boolean} isShown */
export function show(id, isShown = true) {
  get(id).hidden = !isShown;
}

/** @param {string} id @param {string} text */
export function say(id, text) {
  get(id).textContent = text;
}

/** An element with texts or elements in it. @param {string} name @param {...(string | Node)} content */
export function make(name, ...content) {
  const element = document.createElement(name);
  element.append(...content);
  return element;
}

/** @param {number} bytes */
export function formatSize(bytes) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  const step = bytes < 1000 ? 0 : Math.min(Math.floor(Math.log10(bytes) / 3), units.length - 1);
  const value = bytes / 1000 ** step;
  return `${step && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[step]}`;
}

/** Shows what a push reports. */
export class Progress {
  #total = 0;
  #done = 0;
  #spoken = 0;
  /** @type {[number, number][]} */
  #seen = [];

  /** @param {string} text */
  phase(text) {
    say("running-phase", text);
  }

  /** @param {string} text */
  note(text) {
    get("running-notes").append(make("li", text));
    say("running-live", text);
  }

  /** @param {number} totalBytes @param {number} doneBytes */
  begin(totalBytes, doneBytes) {
    [this.#total, this.#done, this.#seen] = [totalBytes, doneBytes, []];
    this.#show();
  }

  /** @param {number} bytes Negative if an attempt failed. */
  advance(bytes) {
    this.#done += bytes;
    this.#show();
  }

  #show() {
    const now = performance.now();
    this.#seen.push([now, this.#done]);
    while (this.#seen.length > 2 && now - this.#seen[0][0] > RATE_WINDOW_MS) this.#seen.shift();
    const [firstTime, firstDone] = this.#seen[0];
    const rate = now > firstTime ? ((this.#done - firstDone) / (now - firstTime)) * 1000 : 0;
    const share = this.#total ? this.#done / this.#total : 0;
    get("running-bar").value = share;
    const percent = `${Math.floor(share * 100)} %`;
    say("running-bytes", `${formatSize(this.#done)} of ${formatSize(this.#total)} (${percent})`);
    say("running-rate", rate > 0 ? `${formatSize(rate)}/s` : "");
    if (share - this.#spoken >= SPOKEN_STEP || share < this.#spoken) {
      this.#spoken = share;
      say("running-live", `${percent} sent`);
    }
  }
}
