// The worker that seals, started from text that was verified.
//
// Browsers check no hash of a worker's script. So the page fetches the texts with their hashes,
// joins them and starts exactly these bytes; the page's policy lets a worker start from nothing else.

import { SealingError } from "./floe.js";

/** @typedef {{url: string, integrity: string}} Source */

export class Sealer {
  /** @type {Map<number, {resolve: (value: any) => void, reject: (error: Error) => void}>} */
  #waiting = new Map();
  #last = 0;
  #worker;

  /** @param {Worker} worker */
  constructor(worker) {
    this.#worker = worker;
    worker.onmessage = ({ data: { id, answer, code, detail } }) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (code) waiting?.reject(new SealingError(code, detail));
      else waiting?.resolve(answer);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      const error = new SealingError("sealing_failed", event.message || "The sealing worker stopped.");
      for (const waiting of this.#waiting.values()) waiting.reject(error);
      this.#waiting.clear();
    };
  }

  /** @param {Source[]} sources In this order, in one module. */
  static async load(sources) {
    const texts = await Promise.all(sources.map(fetchVerified));
    return new Sealer(new Worker(makeScript(texts.join("\n")), { type: "module" }));
  }

  /** @param {string} task @param {object} [given] @returns {Promise<any>} */
  run(task, given = {}) {
    this.#last += 1;
    const id = this.#last;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, task, given });
    });
  }

  /** End the worker and all that it holds. */
  close() {
    this.#worker.terminate();
  }
}

/** The text behind an address, if it has this hash. @param {Source} source */
async function fetchVerified({ url, integrity }) {
  let answer;
  try {
    answer = await fetch(url, { integrity, credentials: "omit" });
  } catch {
    throw new SealingError(
      "code_changed",
      `${url} cannot be loaded, or is not the script that this page was made with. Nothing was sealed.`,
    );
  }
  if (!answer.ok) throw new SealingError("code_changed", `${url} cannot be loaded.`);
  return answer.text();
}

/** Addresses of what was made here; nothing else may become a worker. */
const made = new Set();
const policy = /** @type {any} */ (globalThis).trustedTypes?.createPolicy("strongroom-worker", {
  createScriptURL(/** @type {string} */ url) {
    if (!made.has(url)) throw new TypeError("Not a worker of this page.");
    return url;
  },
});

/** @param {string} text */
function makeScript(text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  made.add(url);
  return policy ? policy.createScriptURL(url) : url;
}
