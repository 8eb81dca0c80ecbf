// What this browser remembers, in IndexedDB: its keys, the platform's pinned key, and what is
// needed to go on with an interrupted upload. Data keys lie here only sealed to the recovery key.

const NAME = "strongroom-push";
const KEYS = "keys";
const UPLOADS = "uploads";

/** What is remembered of an upload; `parts` by `file/part`.
 * @typedef {{model: string, uploadId: string, versionId: string, version: number,
 * dek: import("./hpke.js").WrappedKey, headers: Uint8Array[], sources: Source[], listing: any,
 * parts: Record<string, SentPart>}} SavedUpload */
/** @typedef {{path: string, kind: string, size: number, lastModified: number}} Source */
/** Hashes of a part: as it was sealed, and of the plain bytes in it.
 * @typedef {{sha256: string, plainHash: string}} SentPart */

export class Store {
  /** @param {IDBDatabase} database */
  constructor(database) {
    this.database = database;
  }

  static async open() {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(KEYS);
      request.result.createObjectStore(UPLOADS, { keyPath: "model" });
    };
    return new Store(await finish(request));
  }

  /** @param {"identity" | "platform"} name @returns {Promise<any>} */
  getKey(name) {
    return finish(this.#objects(KEYS, "readonly").get(name));
  }

  /** @param {"identity" | "platform"} name @param {any} value */
  async putKey(name, value) {
    await finish(this.#objects(KEYS, "readwrite").put(value, name));
  }

  /** @returns {Promise<SavedUpload[]>} */
  listUploads() {
    return finish(this.#objects(UPLOADS, "readonly").getAll());
  }

  /** @param {string} model @returns {Promise<SavedUpload | undefined>} */
  getUpload(model) {
    return finish(this.#objects(UPLOADS, "readonly").get(model));
  }

  /** Remember an upload before its first part is sent. @param {SavedUpload} upload */
  async putUpload(upload) {
    await finish(this.#objects(UPLOADS, "readwrite").put(upload));
  }

  /** Remember a part before it is sent.
   * @param {string} model @param {string} name @param {SentPart} part */
  async putPart(model, name, part) {
    const uploads = this.#objects(UPLOADS, "readwrite");
    const upload = await finish(uploads.get(model));
    upload.parts[name] = part;
    await finish(uploads.put(upload));
  }

  /** @param {string} model */
  async forgetUpload(model) {
    await finish(this.#objects(UPLOADS, "readwrite").delete(model));
  }

  /** @param {string} name @param {IDBTransactionMode} mode */
  #objects(name, mode) {
    return this.database.transaction(name, mode, { durability: "strict" }).objectStore(name);
  }
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function finish(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
