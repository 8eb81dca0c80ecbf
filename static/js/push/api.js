// The platform's API with the session of the page, repeated where that is harmless and may help.

const MAX_ATTEMPTS = 6;
const FIRST_WAIT_MS = 500;
const RETRY_AFTER_MAX_S = 30;
const REPEATED = new Set([0, 408, 429, 500, 502, 503, 504]);

/** What the platform answered, or that it did not; `status` is then 0. */
export class ApiError extends Error {
  /** @param {number} status @param {any} problem */
  constructor(status, problem) {
    super(problem.detail || problem.title || "The platform does not answer.");
    this.name = "ApiError";
    this.status = status;
    this.code = problem.code ?? "unreachable";
    /** @type {{pointer?: string, detail: string}[]} */
    this.errors = problem.errors ?? [];
    this.retryAfter = problem.retry_after_s;
  }
}

export class Api {
  /** @param {string} csrfToken */
  constructor(csrfToken) {
    this.csrfToken = csrfToken;
  }

  /** @param {"GET" | "PUT" | "POST" | "DELETE"} method @param {string} path @param {unknown} [body]
   * @param {{isRepeatable?: boolean}} [options] Whether a lost answer may be asked for again. */
  async call(method, path, body, { isRepeatable = true } = {}) {
    return this.#repeat(isRepeatable, async () => {
      const answer = await fetch(path, {
        method,
        credentials: "same-origin",
        redirect: "error",
        headers: { "Content-Type": "application/json", "X-CSRFToken": this.csrfToken },
        body: body === undefined ? undefined : JSON.stringify(body),
      }).catch(() => null);
      if (!answer) throw new ApiError(0, {});
      if (answer.status === 204) return null;
      return read(answer.status, await answer.text().catch(() => ""));
    });
  }

  /** Send a part; the same part again changes nothing.
   * @param {string} path @param {Blob} content @param {string} sha256
   * @param {{signal: AbortSignal, report: (sentBytes: number) => void}} options */
  async putPart(path, content, sha256, { signal, report }) {
    return this.#repeat(true, () => this.#send(path, content, sha256, signal, report), signal);
  }

  /** fetch tells no progress of what it sends.
   * @param {string} path @param {Blob} content @param {string} sha256 @param {AbortSignal} signal
   * @param {(sentBytes: number) => void} report @returns {Promise<any>} */
  #send(path, content, sha256, signal, report) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const stop = () => request.abort();
      request.open("PUT", path);
      request.setRequestHeader("X-CSRFToken", this.csrfToken);
      request.setRequestHeader("X-Part-SHA256", sha256);
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.upload.onprogress = (event) => report(event.loaded);
      request.onloadend = () => {
        signal.removeEventListener("abort", stop);
        try {
          if (!request.status) report(0);
          resolve(read(request.status, request.responseText));
        } catch (error) {
          report(0);
          reject(error);
        }
      };
      signal.throwIfAborted();
      signal.addEventListener("abort", stop);
      request.send(content);
    });
  }

  /** @template T @param {boolean} isRepeatable @param {() => Promise<T>} attempt
   * @param {AbortSignal} [signal] @returns {Promise<T>} */
  async #repeat(isRepeatable, attempt, signal) {
    for (let count = 1; ; count++) {
      try {
        return await attempt();
      } catch (error) {
        const isOver = !(error instanceof ApiError) || !REPEATED.has(error.status) || signal?.aborted;
        if (isOver || !isRepeatable || count === MAX_ATTEMPTS) throw error;
        if ((error.retryAfter ?? 0) > RETRY_AFTER_MAX_S) throw error;
        // Waits differ, so that many browsers do not come back in step.
        const backoff = FIRST_WAIT_MS * 2 ** (count - 1) * (0.5 + Math.random());
        await wait(error.retryAfter ? error.retryAfter * 1000 : backoff);
      }
    }
  }
}

/** @param {number} status @param {string} text */
function read(status, text) {
  let document = {};
  try {
    document = JSON.parse(text);
  } catch {
    // A proxy's page; the status says enough.
  }
  if (status < 200 || status > 299) throw new ApiError(status, document);
  return document;
}

/** @param {number} timeMs */
function wait(timeMs) {
  return new Promise((resolve) => setTimeout(resolve, timeMs));
}
