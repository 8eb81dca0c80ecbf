// The creator's keys in this browser, and the platform's key as it was first seen.
//
// The private halves cannot be read from JavaScript, with one exception: a new recovery key, until
// its file has been saved.

import { decodeBase64, encodeBase64 } from "./canonical.js";
import { SealingError } from "./floe.js";
import * as hpke from "./hpke.js";
import { PUBLIC_KEY_BYTES, fingerprint } from "./signature.js";

export const RECOVERY_FILE = "strongroom-recovery.json";

/** @typedef {{signingKey: CryptoKey, signingPublicKey: Uint8Array, fingerprint: string,
 * recoveryKey: CryptoKey, recoveryPublicKey: Uint8Array, recoveryKid: string}} Identity */

/** Whether this browser can seal and sign at all. */
export async function isSupported() {
  try {
    await hpke.generateKeyPair();
    await crypto.subtle.generateKey("Ed25519", false, ["sign"]);
    return "isWellFormed" in String.prototype && "locks" in navigator && "indexedDB" in globalThis;
  } catch {
    return false;
  }
}

/** A new identity, and the text of its recovery file: the form of the command line's
 * identity.json, without the key that signs. */
export async function makeIdentity() {
  const pair = await hpke.generateKeyPair(true);
  const raw = await hpke.exportPrivateKey(pair.privateKey);
  const text = `${JSON.stringify({ recovery_key: encodeBase64(raw) }, null, 1)}\n`;
  return { identity: await fromRecoveryKey(raw), recoveryText: text };
}

/** An identity with the recovery key of a file, which the command line's identity.json may be.
 * @param {string} text */
export async function identityFrom(text) {
  let raw;
  try {
    raw = decodeBase64(JSON.parse(text).recovery_key, hpke.PRIVATE_KEY_BYTES);
  } catch {
    throw new SealingError("recovery_file_invalid", "This file holds no recovery key.");
  }
  return fromRecoveryKey(raw);
}

/** Refuses another platform key than the one that this browser has pinned; null before that.
 * @param {import("./store.js").Store} store @param {any} shown What the platform says of its key.
 * @returns {Promise<{publicKey: Uint8Array, fingerprint: string, isPinned: boolean}>} */
export async function checkPlatform(store, shown) {
  const publicKey = decodeBase64(shown?.public_key, PUBLIC_KEY_BYTES);
  const pinned = await store.getKey("platform");
  const name = await fingerprint(publicKey);
  if (pinned && encodeBase64(pinned) !== encodeBase64(publicKey)) {
    throw new SealingError(
      "platform_key_changed",
      `The platform shows the key ${name}, but ${await fingerprint(pinned)} was pinned in this browser. ` +
        "Nothing is sealed until its operator explains the new key.",
    );
  }
  return { publicKey, fingerprint: name, isPinned: Boolean(pinned) };
}

/** @param {Uint8Array} raw The private recovery key; overwritten. @returns {Promise<Identity>} */
async function fromRecoveryKey(raw) {
  const recoveryPublicKey = await hpke.derivePublicKey(raw);
  const recoveryKey = await hpke.importPrivateKey(raw);
  raw.fill(0);
  const pair = /** @type {CryptoKeyPair} */ (
    await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"])
  );
  const signingPublicKey = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  return {
    signingKey: pair.privateKey,
    signingPublicKey,
    fingerprint: await fingerprint(signingPublicKey),
    recoveryKey,
    recoveryPublicKey,
    recoveryKid: await hpke.deriveKid(recoveryPublicKey),
  };
}
