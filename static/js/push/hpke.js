// HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256) with HKDF-SHA256, over WebCrypto; and
// the wrap of a data key, as sdk/strongroom/sealing/wrap.py makes it.

import { canonicalBytes, decodeBase64, encodeBase64, sha256, toHex } from "./canonical.js";
import { KEY_BYTES, SealingError, bigEndian, hkdfExpand, joinBytes } from "./floe.js";

export const SUITE = "hpke-x25519-sha256-aes256gcm";
export const PUBLIC_KEY_BYTES = 32;
export const PRIVATE_KEY_BYTES = 32;
const WRAP_BYTES = PUBLIC_KEY_BYTES + KEY_BYTES + 16;

const KEM_ID = 0x0020;
const KDF_ID = 0x0001;
/** What follows the key exchange; RFC 9180's own examples use the first.
 * @type {Record<string, {id: number, keyBytes: number}>} */
const AEADS = { "AES-128-GCM": { id: 1, keyBytes: 16 }, "AES-256-GCM": { id: 2, keyBytes: 32 } };
const NONCE_BYTES = 12;
const HASH_BYTES = 32;
const EMPTY = new Uint8Array(0);
// An X25519 private key in PKCS #8 is these bytes and the 32 of the key (RFC 8410).
const PKCS8_HEAD = Uint8Array.of(
  0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x04, 0x22, 0x04, 0x20,
);

const utf8 = new TextEncoder();
const KEM_SUITE = joinBytes(utf8.encode("KEM"), bigEndian(KEM_ID, 2));

/** @typedef {{recipient: string, kid: string, suite: string, blob: string}} WrappedKey */
/** @typedef {{publicKey: CryptoKey, privateKey: CryptoKey}} KeyPair */

/** A pair whose private half cannot be read from JavaScript. @param {boolean} [extractable]
 * @returns {Promise<KeyPair>} */
export async function generateKeyPair(extractable = false) {
  return /** @type {Promise<KeyPair>} */ (
    crypto.subtle.generateKey("X25519", extractable, ["deriveBits"])
  );
}

/** @param {Uint8Array} raw @param {boolean} [extractable] */
export async function importPrivateKey(raw, extractable = false) {
  const der = joinBytes(PKCS8_HEAD, raw);
  try {
    return await crypto.subtle.importKey("pkcs8", der, "X25519", extractable, ["deriveBits"]);
  } finally {
    der.fill(0);
  }
}

/** @param {CryptoKey} key An extractable private key. */
export async function exportPrivateKey(key) {
  return new Uint8Array(await crypto.subtle.exportKey("pkcs8", key)).slice(PKCS8_HEAD.length);
}

/** @param {CryptoKey} key */
export async function exportPublicKey(key) {
  return new Uint8Array(await crypto.subtle.exportKey("raw", key));
}

/** The raw public key of a raw private one. @param {Uint8Array} raw */
export async function derivePublicKey(raw) {
  const jwk = await crypto.subtle.exportKey("jwk", await importPrivateKey(raw, true));
  const text = /** @type {string} */ (jwk.x).replaceAll("-", "+").replaceAll("_", "/");
  return decodeBase64(`${text}=`, PUBLIC_KEY_BYTES);
}

/** A name for a public key: the first 128 bits of its SHA-256. @param {Uint8Array} publicKey */
export async function deriveKid(publicKey) {
  return toHex(await sha256(publicKey)).slice(0, 32);
}

/** Seal bytes to a key: encapsulated key, then ciphertext.
 * @param {Uint8Array} plain @param {Uint8Array} publicKey @param {Uint8Array} info
 * @param {{aead?: string, aad?: Uint8Array, ephemeral?: KeyPair}} [options] For tests. */
export async function seal(plain, publicKey, info, { aead = "AES-256-GCM", aad = EMPTY, ephemeral } = {}) {
  const pair = ephemeral ?? (await generateKeyPair());
  const enc = await exportPublicKey(pair.publicKey);
  let secret;
  try {
    const recipient = await crypto.subtle.importKey("raw", publicKey, "X25519", false, []);
    secret = await agree(pair.privateKey, recipient, enc, publicKey);
  } catch {
    // Also a point of small order, which would make the secret known to all.
    throw new SealingError("public_key_invalid", `This is no usable key for ${SUITE}.`);
  }
  const { key, nonce } = await schedule(secret, info, aead, "encrypt");
  const algorithm = { name: "AES-GCM", iv: nonce, additionalData: aad };
  return joinBytes(enc, new Uint8Array(await crypto.subtle.encrypt(algorithm, key, plain)));
}

/** Open what `seal` made. @param {Uint8Array} blob @param {CryptoKey} privateKey
 * @param {Uint8Array} publicKey The private key's other half. @param {Uint8Array} info
 * @param {{aead?: string, aad?: Uint8Array}} [options] */
export async function unseal(blob, privateKey, publicKey, info, { aead = "AES-256-GCM", aad = EMPTY } = {}) {
  try {
    const enc = blob.slice(0, PUBLIC_KEY_BYTES);
    const sender = await crypto.subtle.importKey("raw", enc, "X25519", false, []);
    const secret = await agree(privateKey, sender, enc, publicKey);
    const { key, nonce } = await schedule(secret, info, aead, "decrypt");
    const algorithm = { name: "AES-GCM", iv: nonce, additionalData: aad };
    const sealed = blob.subarray(PUBLIC_KEY_BYTES);
    return new Uint8Array(await crypto.subtle.decrypt(algorithm, key, sealed));
  } catch {
    throw new SealingError("key_wrap_invalid", "The wrapped key does not open.");
  }
}

/** Wrap the data key of an artifact for one recipient.
 * @param {Uint8Array} dek @param {{artifactId: string, recipient: "platform" | "creator",
 * kid: string, publicKey: Uint8Array}} to @returns {Promise<WrappedKey>} */
export async function wrapDek(dek, { artifactId, recipient, kid, publicKey }) {
  const blob = await seal(dek, publicKey, dekInfo(artifactId, kid));
  return { recipient, kid, suite: SUITE, blob: encodeBase64(blob) };
}

/** Open a wrapped data key; overwrite it after use.
 * @param {WrappedKey} wrapped @param {CryptoKey} privateKey @param {Uint8Array} publicKey
 * @param {string} artifactId */
export async function unwrapDek(wrapped, privateKey, publicKey, artifactId) {
  if (wrapped.suite !== SUITE) {
    throw new SealingError("key_wrap_invalid", `The suite must be ${SUITE}.`);
  }
  const blob = decodeBase64(wrapped.blob, WRAP_BYTES);
  return unseal(blob, privateKey, publicKey, dekInfo(artifactId, wrapped.kid));
}

/** @param {string} artifactId @param {string} kid */
function dekInfo(artifactId, kid) {
  return canonicalBytes({
    purpose: "strongroom-dek/1",
    artifact_id: artifactId,
    recipient_kid: kid,
  });
}

/** The KEM's shared secret (RFC 9180 section 4.1). WebCrypto refuses the all-zero result.
 * @param {CryptoKey} own @param {CryptoKey} other @param {Uint8Array} enc
 * @param {Uint8Array} recipient */
async function agree(own, other, enc, recipient) {
  const dh = new Uint8Array(await crypto.subtle.deriveBits({ name: "X25519", public: other }, own, 256));
  const prk = await labeledExtract(KEM_SUITE, EMPTY, "eae_prk", dh);
  return labeledExpand(KEM_SUITE, prk, "shared_secret", joinBytes(enc, recipient), HASH_BYTES);
}

/** Key and first nonce of the context (RFC 9180 section 5.1), base mode.
 * @param {Uint8Array} secret @param {Uint8Array} info @param {string} aead
 * @param {"encrypt" | "decrypt"} use */
async function schedule(secret, info, aead, use) {
  const { id, keyBytes } = AEADS[aead];
  const suite = joinBytes(
    utf8.encode("HPKE"), bigEndian(KEM_ID, 2), bigEndian(KDF_ID, 2), bigEndian(id, 2),
  );
  const idHash = await labeledExtract(suite, EMPTY, "psk_id_hash", EMPTY);
  const infoHash = await labeledExtract(suite, EMPTY, "info_hash", info);
  const context = joinBytes(Uint8Array.of(0), idHash, infoHash);
  const prk = await labeledExtract(suite, secret, "secret", EMPTY);
  const raw = await labeledExpand(suite, prk, "key", context, keyBytes);
  const key = await crypto.subtle.importKey("raw", raw, "AES-GCM", false, [use]);
  raw.fill(0);
  return { key, nonce: await labeledExpand(suite, prk, "base_nonce", context, NONCE_BYTES) };
}

/** @param {Uint8Array} suite @param {Uint8Array} salt @param {string} label @param {Uint8Array} ikm */
async function labeledExtract(suite, salt, label, ikm) {
  // HMAC pads its key with zeros, so an empty one is the same as these; WebCrypto takes no empty one.
  const key = salt.length ? salt : new Uint8Array(HASH_BYTES);
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const hmac = await crypto.subtle.importKey("raw", key, algorithm, false, ["sign"]);
  const labeled = joinBytes(utf8.encode("HPKE-v1"), suite, utf8.encode(label), ikm);
  return new Uint8Array(await crypto.subtle.sign("HMAC", hmac, labeled));
}

/** @param {Uint8Array} suite @param {Uint8Array} prk @param {string} label
 * @param {Uint8Array} info @param {number} length */
async function labeledExpand(suite, prk, label, info, length) {
  const labeled = joinBytes(
    bigEndian(length, 2), utf8.encode("HPKE-v1"), suite, utf8.encode(label), info,
  );
  return hkdfExpand("SHA-256", prk, labeled, length);
}
