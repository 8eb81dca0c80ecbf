// One push of one folder: begin or go on, send sealed parts in parallel, hand in the manifest.
//
// Order matters, as in sdk/strongroom/push.py: the platform's key for this upload is checked against
// the pinned key before anything is sealed to it, and nothing leaves this machine that is not sealed.

import { ApiError } from "./api.js";
import { encodeBase64, sha256, toHex } from "./canonical.js";
import { KEY_BYTES, PARAMETERS_BYTES, IV_BYTES, PRODUCTION, SealingError } from "./floe.js";
import { SUITE, unwrapDek, wrapDek } from "./hpke.js";
import { announce, writeDraft, writeManifest } from "./manifest.js";
import { MANIFEST_TYPE, checkUploadKey, sign } from "./signature.js";

const PARALLEL = 3;
const GONE = new Set([403, 404, 410]);

/** @typedef {import("./store.js").SavedUpload} SavedUpload */
/** @typedef {{model: string, runtime: string, listing: any, nanos: number, card: string | null,
 * files: import("./inspect.js").SourceFile[]}} Job */
/** What a push tells about itself.
 * @typedef {{phase: (text: string) => void, note: (text: string) => void,
 * begin: (totalBytes: number, doneBytes: number) => void, advance: (bytes: number) => void}} Report */

/** The saved upload cannot be gone on with; the text says why. */
class ChangedError extends Error {}

export class Push {
  #isPaused = false;
  /** Why nothing is begun any more. @type {unknown} */
  #reason = null;
  #flight = new AbortController();
  /** @type {(() => void)[]} */
  #sleepers = [];
  /** @type {string | null} */
  #uploadId = null;
  #cleared = Promise.resolve();

  /** @param {{api: import("./api.js").Api, store: import("./store.js").Store,
   * identity: import("./keys.js").Identity, platformKey: Uint8Array,
   * sealer: import("./sealer.js").Sealer, report: Report, job: Job}} parts */
  constructor({ api, store, identity, platformKey, sealer, report, job }) {
    this.api = api;
    this.store = store;
    this.identity = identity;
    this.platformKey = platformKey;
    this.sealer = sealer;
    this.report = report;
    this.job = job;
  }

  /** Upload, or go on with what was begun; the id of the version. @returns {Promise<string>} */
  async run() {
    try {
      return await this.#run();
    } finally {
      await this.#cleared;
    }
  }

  /** @returns {Promise<string>} */
  async #run() {
    const { model } = this.job;
    this.report.phase("Checking the listing");
    await this.#checkDraft();
    await this.#putListing();
    const saved = await this.store.getUpload(model);
    let begun = null;
    if (saved) {
      const remote = await this.#findRemote(saved);
      if (remote?.state === "complete" && isSame(saved.sources, this.#sources())) {
        // The cut fell between the platform's last answer and our taking note of it.
        await this.store.forgetUpload(model);
        return saved.versionId;
      }
      begun = remote && (await this.#tryResume(saved, remote));
    }
    const upload = begun ?? (await this.#begin());
    await this.#untilGoing();
    await this.#sendAll(upload);
    this.report.phase("Handing in the signed manifest");
    await this.#complete(upload);
    await this.store.forgetUpload(model);
    await this.sealer.run("wipe");
    return upload.saved.versionId;
  }

  /** Stop sending; what is on its way is sent again later. */
  pause() {
    this.#isPaused = true;
    this.#flight.abort();
  }

  resume() {
    this.#isPaused = false;
    this.#flight = new AbortController();
    for (const wake of this.#sleepers.splice(0)) wake();
  }

  /** Give the upload up: the platform deletes its parts. */
  async cancel() {
    this.#stop(new SealingError("cancelled", "The upload was given up."));
    if (this.#uploadId) this.#cleared = giveUp(this.api, this.store, this.job.model, this.#uploadId);
    await this.#cleared;
  }

  /** Every fault of the manifest is found before a byte is sent; the interface in its normal form
   * is what will be signed. */
  async #checkDraft() {
    const { model, runtime, listing, files } = this.job;
    const draft = writeDraft(model, runtime, listing, files);
    const answer = await this.api.call("POST", "/api/manifest-checks", { manifest: new TextDecoder().decode(draft) });
    listing.interface = answer.interface;
  }

  async #putListing() {
    const { model, listing, card, nanos } = this.job;
    const { title, summary, task, licence, industry, visibility } = listing;
    const fields = { title, summary, task, licence, industry, visibility };
    await this.api.call("PUT", `/api/models/${model}`, card === null ? fields : { ...fields, card });
    await this.api.call("PUT", `/api/models/${model}/price`, { nanos_per_prediction: nanos });
    await this.api.call("POST", "/api/signing-keys", {
      account: model.split("/")[0],
      public_key: encodeBase64(this.identity.signingPublicKey),
    });
  }

  #sources() {
    return this.job.files.map(({ path, kind, file }) => ({
      path, kind, size: file.size, lastModified: file.lastModified,
    }));
  }

  // --- Begin or go on -----------------------------------------------------------------

  async #begin() {
    this.report.phase("Making the data key");
    const { model, files, listing } = this.job;
    const answer = await this.api.call("POST", `/api/models/${model}/uploads`, {
      files: announce(files),
      signing_key: this.identity.fingerprint,
      suites: [SUITE],
    }, { isRepeatable: false });
    if (answer.part_size_bytes !== PRODUCTION.partBytes) {
      throw new SealingError("part_size_unsupported", "The platform wants parts of another size than 64 MiB.");
    }
    const { upload_id: uploadId, version_id: versionId } = answer;
    this.#uploadId = uploadId;
    const kem = await this.#checkKem(answer.kem, uploadId, versionId);
    const dek = crypto.getRandomValues(new Uint8Array(KEY_BYTES));
    const forCreator = await wrapDek(dek, {
      artifactId: versionId,
      recipient: "creator",
      kid: this.identity.recoveryKid,
      publicKey: this.identity.recoveryPublicKey,
    });
    const { forPlatform, headers } = await this.#hand(dek, kem, versionId);
    /** @type {SavedUpload} */
    const saved = {
      model, uploadId, versionId, version: answer.version, dek: forCreator, headers,
      sources: this.#sources(), listing, parts: {},
    };
    await this.store.putUpload(saved);
    return { saved, forPlatform, sent: new Set() };
  }

  /** @param {SavedUpload} saved */
  async #findRemote(saved) {
    try {
      return await this.api.call("GET", `/api/uploads/${saved.uploadId}`);
    } catch (error) {
      if (!(error instanceof ApiError) || !GONE.has(error.status)) throw error;
      await this.store.forgetUpload(saved.model);
      return null;
    }
  }

  /** @param {SavedUpload} saved @param {any} remote */
  async #tryResume(saved, remote) {
    try {
      return await this.#resume(saved, remote);
    } catch (error) {
      if (!(error instanceof ChangedError)) throw error;
      this.report.note(`Starting over: ${error.message}.`);
      await giveUp(this.api, this.store, saved.model, saved.uploadId);
      return null;
    }
  }

  /** @param {SavedUpload} saved @param {any} remote */
  async #resume(saved, remote) {
    if (remote.state !== "open") throw new ChangedError("the upload is no longer open");
    if (!isSame(saved.sources, this.#sources())) throw new ChangedError("the files are others than before");
    this.report.phase("Comparing with what was sent before");
    const { recoveryKey, recoveryPublicKey } = this.identity;
    const dek = await unwrapDek(saved.dek, recoveryKey, recoveryPublicKey, saved.versionId).catch(() => {
      throw new ChangedError("the data key was sealed to another recovery key");
    });
    const kem = await this.#checkKem(remote.kem, saved.uploadId, saved.versionId);
    this.#uploadId = saved.uploadId;
    const ivs = saved.headers.map((one) => one.slice(PARAMETERS_BYTES, PARAMETERS_BYTES + IV_BYTES));
    const { forPlatform } = await this.#hand(dek, kem, saved.versionId, ivs);
    return { saved, forPlatform, sent: await this.#findSent(saved, remote) };
  }

  /** Parts that the platform holds as they were sealed here, of sources that are the same. Times of
   * change can lie, so the plain bytes of every such part are read again: a version must never be
   * sealed from two states of a file. @param {SavedUpload} saved @param {any} remote */
  async #findSent(saved, remote) {
    const sent = new Set();
    for (const { file, part, sha256: received } of remote.parts) {
      const known = saved.parts[`${file}/${part}`];
      if (known?.sha256 !== received) continue;
      const plainHash = await this.sealer.run("hash", { fileIndex: file, part });
      if (plainHash !== known.plainHash) throw new ChangedError("a file has changed since");
      sent.add(`${file}/${part}`);
    }
    if (sent.size) this.report.note(`Going on: ${sent.size} ${sent.size === 1 ? "part is" : "parts are"} there already.`);
    return sent;
  }

  /** Seal the data key to the platform, give it to the worker, and forget it here.
   * @param {Uint8Array} dek @param {{kid: string, publicKey: Uint8Array}} kem
   * @param {string} versionId @param {Uint8Array[]} [ivs] */
  async #hand(dek, kem, versionId, ivs) {
    const forPlatform = await wrapDek(dek, { artifactId: versionId, recipient: "platform", ...kem });
    const chosen = this.job.files.map(({ path, file }) => ({ path, file }));
    const headers = await this.sealer.run("start", { chosen, dek, artifactId: versionId, ivs });
    dek.fill(0);
    return { forPlatform, headers };
  }

  /** @param {any} kem @param {string} uploadId @param {string} versionId */
  async #checkKem(kem, uploadId, versionId) {
    const { kid, suite, publicKey } = await checkUploadKey(kem, uploadId, versionId, this.platformKey);
    if (suite !== SUITE) {
      throw new SealingError(
        "suite_unsupported",
        `The platform wants a wrap (${suite}) that browsers cannot make. Use \`strongroom push\`.`,
      );
    }
    return { kid, publicKey };
  }

  // --- Parts --------------------------------------------------------------------------

  /** @param {{saved: SavedUpload, sent: Set<string>}} upload */
  async #sendAll({ saved, sent }) {
    const tasks = this.job.files.flatMap(({ file }, fileIndex) =>
      PRODUCTION.partSizes(PRODUCTION.cipherSize(file.size)).map((size, part) => ({ fileIndex, part, size })));
    const left = tasks.filter((one) => !sent.has(`${one.fileIndex}/${one.part}`));
    const total = tasks.reduce((sum, one) => sum + one.size, 0);
    this.report.begin(total, total - left.reduce((sum, one) => sum + one.size, 0));
    this.report.phase("Sealing and sending");
    const work = async () => {
      for (let task = left.shift(); task; task = left.shift()) await this.#sendOne(saved, task);
    };
    const works = Array.from({ length: PARALLEL }, () => work().catch((error) => this.#stop(error)));
    await Promise.all(works);
    if (this.#reason) throw this.#reason;
  }

  /** @param {SavedUpload} saved @param {{fileIndex: number, part: number}} task */
  async #sendOne(saved, { fileIndex, part }) {
    await this.#untilGoing();
    const { blob, ...hashes } = await this.sealer.run("seal", { fileIndex, part });
    await this.#untilGoing();
    const name = `${fileIndex}/${part}`;
    saved.parts[name] = hashes;
    await this.store.putPart(saved.model, name, hashes);
    const path = `/api/uploads/${saved.uploadId}/files/${fileIndex}/parts/${part}`;
    let reported = 0;
    const report = (/** @type {number} */ bytes) => {
      this.report.advance(bytes - reported);
      reported = bytes;
    };
    for (;;) {
      await this.#untilGoing();
      const { signal } = this.#flight;
      try {
        await this.api.putPart(path, blob, hashes.sha256, { signal, report });
        report(blob.size);
        return;
      } catch (error) {
        report(0);
        if (!signal.aborted) throw error;
      }
    }
  }

  async #untilGoing() {
    while (this.#isPaused) await new Promise((/** @type {(value?: unknown) => void} */ wake) => this.#sleepers.push(wake));
    if (this.#reason) throw this.#reason;
  }

  /** The first reason counts; others follow from it. @param {unknown} reason */
  #stop(reason) {
    this.#reason ??= reason;
    this.#isPaused = false;
    this.#flight.abort();
    for (const wake of this.#sleepers.splice(0)) wake();
  }

  // --- Complete -----------------------------------------------------------------------

  /** @param {{saved: SavedUpload, forPlatform: import("./hpke.js").WrappedKey}} upload */
  async #complete({ saved, forPlatform }) {
    const { model, runtime, listing, files } = this.job;
    const sealed = files.map(({ file }, index) => ({
      header: saved.headers[index],
      parts: PRODUCTION.partSizes(PRODUCTION.cipherSize(file.size)).map((_, part) => saved.parts[`${index}/${part}`].sha256),
    }));
    const raw = writeManifest({ artifactId: saved.versionId, model, runtime, listing, files, sealed });
    const signature = await sign(this.identity.signingKey, MANIFEST_TYPE, raw);
    const version = await this.api.call("POST", `/api/uploads/${saved.uploadId}/complete`, {
      manifest: new TextDecoder().decode(raw),
      signature: encodeBase64(signature),
      wrapped_keys: [forPlatform, saved.dek],
    });
    if (version.manifest_sha256 !== toHex(await sha256(raw))) {
      throw new SealingError("answer_invalid", "The platform answered with another manifest than the signed one.");
    }
  }
}

/** Delete the parts on the platform, as far as it still has them, and forget the upload.
 * @param {import("./api.js").Api} api @param {import("./store.js").Store} store
 * @param {string} model @param {string} uploadId */
export async function giveUp(api, store, model, uploadId) {
  try {
    await api.call("DELETE", `/api/uploads/${uploadId}`);
  } catch (error) {
    // The platform sweeps forgotten uploads anyway.
    if (!(error instanceof ApiError)) throw error;
  }
  await store.forgetUpload(model);
}

/** @param {import("./store.js").Source[]} before @param {import("./store.js").Source[]} now */
export function isSame(before, now) {
  const write = (/** @type {import("./store.js").Source} */ one) =>
    JSON.stringify([one.path, one.kind, one.size, one.lastModified]);
  return before.length === now.length && before.every((one, index) => write(one) === write(now[index]));
}
