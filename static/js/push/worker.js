// Seals parts of files, one at a time, in a worker. This text runs behind those of floe.js and
// sha256.js in one module: the page joins them after it has verified all (see sealer.js), so it
// imports nothing.
//
// Held at a time: a few segments of 1 MiB, plain and sealed. What is sealed goes to the browser's
// blob store at once; neither a file nor a part is ever here as a whole.

/* global Message, PRODUCTION, Sha256, fileAad, sealPart */

/** @type {File[]} */
let files = [];
/** @type {Message[]} */
let messages = [];
// Parts take turns, so that memory does not grow with the number of uploads in flight.
let turn = Promise.resolve();

const tasks = {
  /** Take the files and the data key; answers the header of each file. */
  async start({ chosen, dek, artifactId, ivs }) {
    files = chosen.map((one) => one.file);
    messages = [];
    for (const [index, { path, file }] of chosen.entries()) {
      const iv = ivs?.[index];
      messages.push(await Message.start(dek, fileAad(artifactId, path, file.size), { iv }));
    }
    dek.fill(0);
    return messages.map((one) => one.header);
  },

  /** Seal one part; answers the sealed bytes and the hashes of what is sealed and of what is plain. */
  async seal({ fileIndex, part }) {
    const [sealedHash, plainHash] = [new Sha256(), new Sha256()];
    const segments = [];
    for await (const { plain, sealed } of sealPart(messages[fileIndex], files[fileIndex], part)) {
      plainHash.update(await digest(plain));
      sealedHash.update(sealed);
      segments.push(new Blob([sealed]));
    }
    return { blob: new Blob(segments), sha256: sealedHash.digest(), plainHash: plainHash.digest() };
  },

  /** The hash of the hashes of a part's plain segments, made as `seal` makes it. */
  async hash({ fileIndex, part }) {
    const file = files[fileIndex];
    const { begin, size } = PRODUCTION.plainRange(file.size, part);
    const plainHash = new Sha256();
    // An empty file has one segment.
    for (let at = begin; at < begin + size || at === 0; at += PRODUCTION.plainBytes) {
      const end = Math.min(at + PRODUCTION.plainBytes, begin + size);
      plainHash.update(await digest(await file.slice(at, end).arrayBuffer()));
    }
    return plainHash.digest();
  },

  /** Forget the keys. */
  async wipe() {
    for (const message of messages) message.wipe();
    [files, messages] = [[], []];
  },
};

self.onmessage = ({ data: { id, task, given } }) => {
  turn = turn.then(async () => {
    try {
      self.postMessage({ id, answer: await tasks[task](given) });
    } catch (error) {
      // The browser refuses to read a file that was written to after it was chosen.
      const isChanged = error.name === "NotReadableError" || error.name === "NotFoundError";
      const code = isChanged ? "source_changed" : error.code ?? "sealing_failed";
      const detail = isChanged ? "A file changed while it was being sealed. Choose the folder again." : error.message;
      self.postMessage({ id, code, detail });
    }
  });
};

/** @param {BufferSource} data */
async function digest(data) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data));
}
