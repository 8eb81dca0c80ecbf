// FLOE: authenticated encryption of files in segments, as docs/sealing.md says and
// sdk/strongroom/sealing/floe.py does. WebCrypto only.
//
// This file imports nothing: its text also stands in front of worker.js, in one module.

export const CONTENT_FORMAT = "floe-gcm256-hkdf384-1m";
export const KEY_BYTES = 32;
export const IV_BYTES = 32;
export const HEADER_TAG_BYTES = 32;
export const PARAMETERS_BYTES = 10;
export const HEADER_BYTES = PARAMETERS_BYTES + IV_BYTES + HEADER_TAG_BYTES;
const NONCE_BYTES = 12;
// Of each segment: length word, nonce, GCM tag.
export const OVERHEAD_BYTES = 4 + NONCE_BYTES + 16;
const NOT_FINAL = 0xffffffff;
// More than this in flight waits for memory, not for AES.
const IN_FLIGHT = 4;

const utf8 = new TextEncoder();

/** A header or segment that is not what was sealed; `code` as in the Python package. */
export class SealingError extends Error {
  /** @param {string} code @param {string} detail */
  constructor(code, detail) {
    super(detail);
    this.name = "SealingError";
    this.code = code;
  }
}

/** Sizes of a message. Only tests use others than `PRODUCTION`. */
export class Parameters {
  /** @param {{segmentBytes?: number, rotationBits?: number, segmentsPerPart?: number}} [sizes] */
  constructor({ segmentBytes = 1024 * 1024, rotationBits = 20, segmentsPerPart = 64 } = {}) {
    this.segmentBytes = segmentBytes;
    this.rotationBits = rotationBits;
    this.segmentsPerPart = segmentsPerPart;
    /** Plain bytes in a full segment. */
    this.plainBytes = segmentBytes - OVERHEAD_BYTES;
    /** Sealed bytes in a full part. */
    this.partBytes = segmentsPerPart * segmentBytes;
    /** The first ten bytes of a header. */
    this.encoded = joinBytes(Uint8Array.of(0, 0), bigEndian(segmentBytes, 4), bigEndian(IV_BYTES, 4));
  }

  /** An empty file has one segment, which says that it ended. @param {number} plainSize */
  countSegments(plainSize) {
    return Math.max(1, Math.ceil(plainSize / this.plainBytes));
  }

  /** Sealed size without the header. @param {number} plainSize */
  cipherSize(plainSize) {
    return plainSize + OVERHEAD_BYTES * this.countSegments(plainSize);
  }

  /** Plain size of a sealed file; refuses what no message has. @param {number} cipherSize */
  plainSize(cipherSize) {
    const segments = Math.ceil(cipherSize / this.segmentBytes);
    const last = cipherSize - (segments - 1) * this.segmentBytes;
    if (segments < 1 || last < OVERHEAD_BYTES) throw tampered("The sealed file was cut or extended.");
    return cipherSize - OVERHEAD_BYTES * segments;
  }

  /** Sizes of the parts of a sealed file, in order. @param {number} cipherSize @returns {number[]} */
  partSizes(cipherSize) {
    const sizes = Array(Math.floor(cipherSize / this.partBytes)).fill(this.partBytes);
    return cipherSize % this.partBytes ? [...sizes, cipherSize % this.partBytes] : sizes;
  }

  /** Where a part begins in the plain file, and how many plain bytes it holds.
   * @param {number} plainSize @param {number} part */
  plainRange(plainSize, part) {
    const full = this.segmentsPerPart * this.plainBytes;
    return { begin: part * full, size: Math.min(full, plainSize - part * full) };
  }
}

/** One FLOE message under one key: its header, and its segments by position. */
export class Message {
  /** @type {Map<number, Promise<CryptoKey>>} */
  #ciphers = new Map();
  #messageKey;
  #info;
  #aad;

  /** Use `start` or `open`.
   * @param {Parameters} parameters @param {Uint8Array} header @param {Uint8Array} info
   * @param {Uint8Array} aad @param {Uint8Array} messageKey */
  constructor(parameters, header, info, aad, messageKey) {
    this.parameters = parameters;
    this.header = header;
    this.#info = info;
    this.#aad = aad;
    this.#messageKey = messageKey;
  }

  /** Begin a message. Give the iv of an earlier start to seal parts of the same file again:
   * nonces are random, so that is harmless.
   * @param {Uint8Array} key @param {Uint8Array} aad
   * @param {{iv?: Uint8Array, parameters?: Parameters}} [options] */
  static async start(key, aad, { iv, parameters = PRODUCTION } = {}) {
    const chosen = iv ?? crypto.getRandomValues(new Uint8Array(IV_BYTES));
    const info = joinBytes(parameters.encoded, chosen);
    const tag = await hkdfExpand("SHA-384", key, joinBytes(info, utf8.encode("HEADER_TAG:"), aad), 32);
    const messageKey = await hkdfExpand(
      "SHA-384", key, joinBytes(info, utf8.encode("MESSAGE_KEY:"), aad), 48,
    );
    return new Message(parameters, joinBytes(info, tag), info, aad, messageKey);
  }

  /** Open a message; no segment is touched before its header has been checked.
   * @param {Uint8Array} key @param {Uint8Array} aad @param {Uint8Array} header
   * @param {{parameters?: Parameters}} [options] */
  static async open(key, aad, header, { parameters = PRODUCTION } = {}) {
    if (header.length !== HEADER_BYTES) {
      throw new SealingError("header_invalid", `A header has ${HEADER_BYTES} bytes.`);
    }
    if (!equalBytes(header.subarray(0, PARAMETERS_BYTES), parameters.encoded)) {
      throw new SealingError("header_invalid", "The header names other parameters than allowed.");
    }
    const iv = header.slice(PARAMETERS_BYTES, PARAMETERS_BYTES + IV_BYTES);
    const message = await Message.start(key, aad, { iv, parameters });
    if (!equalBytes(message.header, header)) {
      message.wipe();
      throw new SealingError("header_tag_invalid", "The header was made with another key or context.");
    }
    return message;
  }

  /** Seal one segment with a fresh nonce.
   * @param {number} position @param {BufferSource} plain @param {boolean} isFinal */
  async sealSegment(position, plain, isFinal) {
    const nonce = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
    const sealed = await crypto.subtle.encrypt(
      { name: "AES-GCM", iv: nonce, additionalData: segmentAad(position, isFinal) },
      await this.#cipher(position), plain,
    );
    const word = isFinal ? plain.byteLength + OVERHEAD_BYTES : NOT_FINAL;
    return joinBytes(bigEndian(word, 4), nonce, new Uint8Array(sealed));
  }

  /** Open one segment. @param {number} position @param {Uint8Array} sealed @param {boolean} isFinal */
  async openSegment(position, sealed, isFinal) {
    const fits = isFinal
      ? sealed.length >= OVERHEAD_BYTES && sealed.length <= this.parameters.segmentBytes
      : sealed.length === this.parameters.segmentBytes;
    if (!fits) throw tampered(`Segment ${position} has the wrong length.`);
    const word = new DataView(sealed.buffer, sealed.byteOffset).getUint32(0);
    if (word !== (isFinal ? sealed.length : NOT_FINAL)) {
      throw tampered(`Segment ${position} has the wrong length word.`);
    }
    try {
      return new Uint8Array(await crypto.subtle.decrypt(
        {
          name: "AES-GCM",
          iv: sealed.subarray(4, 4 + NONCE_BYTES),
          additionalData: segmentAad(position, isFinal),
        },
        await this.#cipher(position), sealed.subarray(4 + NONCE_BYTES),
      ));
    } catch {
      throw tampered(`Segment ${position} is not what was sealed.`);
    }
  }

  /** Overwrite the message key and forget the keys derived from it. */
  wipe() {
    this.#messageKey.fill(0);
    this.#ciphers.clear();
  }

  /** @param {number} position @returns {Promise<CryptoKey>} */
  #cipher(position) {
    const step = 2 ** this.parameters.rotationBits;
    const first = Math.floor(position / step) * step;
    let cipher = this.#ciphers.get(first);
    if (!cipher) this.#ciphers.set(first, (cipher = this.#deriveCipher(first)));
    return cipher;
  }

  /** @param {number} first */
  async #deriveCipher(first) {
    const info = joinBytes(this.#info, utf8.encode("DEK:"), bigEndian(first, 8), this.#aad);
    const raw = await hkdfExpand("SHA-384", this.#messageKey, info, KEY_BYTES);
    const cipher = await crypto.subtle.importKey("raw", raw, "AES-GCM", false, ["encrypt", "decrypt"]);
    raw.fill(0);
    return cipher;
  }
}

/** Seal one part of a file, segment by segment, in order. A few are worked on at a time, and
 * nothing else is held.
 * @param {Message} message @param {Blob} file The whole plain file. @param {number} part From 0.
 * @returns {AsyncGenerator<{plain: ArrayBuffer, sealed: Uint8Array}>} */
export async function* sealPart(message, file, part) {
  const { plainBytes, segmentsPerPart } = message.parameters;
  const segments = message.parameters.countSegments(file.size);
  const end = Math.min((part + 1) * segmentsPerPart, segments);
  const sealOne = async (/** @type {number} */ position) => {
    const plain = await file.slice(position * plainBytes, (position + 1) * plainBytes).arrayBuffer();
    const isFinal = position === segments - 1;
    if (plain.byteLength !== (isFinal ? file.size - position * plainBytes : plainBytes)) {
      throw new SealingError("source_changed", "The file became shorter while it was being sealed.");
    }
    return { plain, sealed: await message.sealSegment(position, plain, isFinal) };
  };
  const waiting = [];
  for (let position = part * segmentsPerPart; position < end || waiting.length; ) {
    while (position < end && waiting.length < IN_FLIGHT) {
      const one = sealOne(position++);
      // The first failure ends all; those behind it are not looked at.
      one.catch(() => {});
      waiting.push(one);
    }
    yield /** @type {{plain: ArrayBuffer, sealed: Uint8Array}} */ (await waiting.shift());
  }
}

/** Seal a small content at once.
 * @param {Uint8Array} key @param {Uint8Array} aad @param {Uint8Array} plain
 * @param {{parameters?: Parameters}} [options] */
export async function sealBytes(key, aad, plain, { parameters = PRODUCTION } = {}) {
  const message = await Message.start(key, aad, { parameters });
  const file = new Blob([plain]);
  const segments = [];
  const parts = parameters.partSizes(parameters.cipherSize(plain.length));
  for (let part = 0; part < parts.length; part++) {
    for await (const { sealed } of sealPart(message, file, part)) segments.push(sealed);
  }
  const body = joinBytes(...segments);
  message.wipe();
  return { header: message.header, body };
}

/** Open a small content at once; nothing is given back unless all of it is what was sealed.
 * @param {Uint8Array} key @param {Uint8Array} aad @param {Uint8Array} header
 * @param {Uint8Array} body @param {{parameters?: Parameters}} [options] */
export async function openBytes(key, aad, header, body, { parameters = PRODUCTION } = {}) {
  const message = await Message.open(key, aad, header, { parameters });
  const plain = new Uint8Array(parameters.plainSize(body.length));
  const segments = Math.ceil(body.length / parameters.segmentBytes);
  for (let position = 0; position < segments; position++) {
    const begin = position * parameters.segmentBytes;
    const sealed = body.subarray(begin, begin + parameters.segmentBytes);
    const opened = await message.openSegment(position, sealed, position === segments - 1);
    plain.set(opened, position * parameters.plainBytes);
  }
  message.wipe();
  return plain;
}

/** The context that a file's header commits to. Each field stands behind its length.
 * @param {string} artifactId @param {string} path @param {number} plainSize */
export function fileAad(artifactId, path, plainSize) {
  const fields = [artifactId, path, String(plainSize), CONTENT_FORMAT].map((one) => utf8.encode(one));
  return joinBytes(...fields.flatMap((one) => [bigEndian(one.length, 4), one]));
}

/** HKDF-Expand alone (RFC 5869 section 2.3), which WebCrypto does not have.
 * @param {"SHA-256" | "SHA-384"} hash @param {Uint8Array} key @param {Uint8Array} info
 * @param {number} length */
export async function hkdfExpand(hash, key, info, length) {
  const hmac = await crypto.subtle.importKey("raw", key, { name: "HMAC", hash }, false, ["sign"]);
  const out = new Uint8Array(length);
  let block = new Uint8Array(0);
  for (let filled = 0, count = 1; filled < length; filled += block.length, count++) {
    block = new Uint8Array(
      await crypto.subtle.sign("HMAC", hmac, joinBytes(block, info, Uint8Array.of(count))),
    );
    out.set(block.subarray(0, length - filled), filled);
  }
  return out;
}

/** @param {...Uint8Array} parts */
export function joinBytes(...parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** An integer below 2^53, most significant byte first. @param {number} value @param {number} length */
export function bigEndian(value, length) {
  const out = new Uint8Array(length);
  for (let at = length - 1, left = value; at >= 0; at--, left = Math.floor(left / 256)) {
    out[at] = left % 256;
  }
  return out;
}

/** Compares all bytes, wherever the first difference is. @param {Uint8Array} a @param {Uint8Array} b */
export function equalBytes(a, b) {
  let difference = a.length ^ b.length;
  for (let at = 0; at < a.length && at < b.length; at++) difference |= a[at] ^ b[at];
  return difference === 0;
}

/** @param {number} position @param {boolean} isFinal */
function segmentAad(position, isFinal) {
  return joinBytes(bigEndian(position, 8), Uint8Array.of(isFinal ? 1 : 0));
}

/** @param {string} detail */
function tampered(detail) {
  return new SealingError("tampered", detail);
}

// Last: a class is not there before its definition.
export const PRODUCTION = new Parameters();
