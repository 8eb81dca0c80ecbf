// Ed25519 signatures over typed bytes (DSSE), and how people compare keys; the same as
// sdk/strongroom/sealing/signature.py.

import { canonicalBytes, decodeBase64, encodeBase64, sha256 } from "./canonical.js";
import { SealingError, joinBytes } from "./floe.js";

export const MANIFEST_TYPE = "application/vnd.strongroom.manifest+json";
export const UPLOAD_KEY_TYPE = "application/vnd.strongroom.upload-key+json";
export const PUBLIC_KEY_BYTES = 32;
export const SIGNATURE_BYTES = 64;

const utf8 = new TextEncoder();

/** DSSE's pre-authentication encoding: the bytes that are signed.
 * @param {string} type @param {Uint8Array} payload */
export function pae(type, payload) {
  const kind = utf8.encode(type);
  const head = `DSSEv1 ${kind.length} ${type} ${payload.length} `;
  return joinBytes(utf8.encode(head), payload);
}

/** @param {CryptoKey} key @param {string} type @param {Uint8Array} payload */
export async function sign(key, type, payload) {
  return new Uint8Array(await crypto.subtle.sign("Ed25519", key, pae(type, payload)));
}

/** Refuses a signature that the key did not make over these bytes as a thing of this type.
 * @param {Uint8Array} publicKey @param {string} type @param {Uint8Array} payload
 * @param {Uint8Array} signature */
export async function verify(publicKey, type, payload, signature) {
  let isValid = false;
  try {
    const key = await crypto.subtle.importKey("raw", publicKey, "Ed25519", false, ["verify"]);
    isValid = await crypto.subtle.verify("Ed25519", key, signature, pae(type, payload));
  } catch {
    // A malformed key or signature is an invalid one.
  }
  if (!isValid) throw new SealingError("signature_invalid", "The signature is not valid.");
}

/** SHA-256 of a raw public key, as OpenSSH shows it. @param {Uint8Array} publicKey */
export async function fingerprint(publicKey) {
  return `SHA256:${encodeBase64(await sha256(publicKey)).replace(/=+$/, "")}`;
}

/** The upload's key, if the platform's pinned key signed it for this upload and version.
 * @param {any} kem What the platform answered. @param {string} uploadId
 * @param {string} artifactId @param {Uint8Array} platformKey
 * @returns {Promise<{kid: string, suite: string, publicKey: Uint8Array}>} */
export async function checkUploadKey(kem, uploadId, artifactId, platformKey) {
  try {
    const payload = canonicalBytes({
      kid: kem.kid,
      suite: kem.suite,
      public_key: kem.public_key,
      upload_id: uploadId,
      artifact_id: artifactId,
      expires_at: kem.expires_at,
    });
    const signature = decodeBase64(kem.signature, SIGNATURE_BYTES);
    await verify(platformKey, UPLOAD_KEY_TYPE, payload, signature);
  } catch {
    throw new SealingError(
      "platform_signature_invalid",
      "The key for this upload is not signed by the pinned platform key. Nothing was sealed to it.",
    );
  }
  return { kid: kem.kid, suite: kem.suite, publicKey: decodeBase64(kem.public_key) };
}
