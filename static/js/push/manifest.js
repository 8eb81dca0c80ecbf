// The manifest: what a sealed version consists of, in the bytes that are signed; the same as
// sdk/strongroom/sealing/manifest.py. The server checks every member; nothing is checked twice here.

import { canonicalBytes, encodeBase64 } from "./canonical.js";
import { CONTENT_FORMAT, HEADER_BYTES, PRODUCTION } from "./floe.js";

const FORMAT = "strongroom-manifest/1";
/** The id of no version: for a manifest that is only to be checked. */
export const NOBODY = "00000000-0000-7000-8000-000000000000";

/** @typedef {{path: string, kind: string, file: Blob & {lastModified?: number}}} SourceFile */
/** @typedef {{header: Uint8Array, parts: string[]}} Sealed Header, and the SHA-256 of each part. */

/** How files are announced before they are sealed. @param {SourceFile[]} files */
export function announce(files) {
  return files.map((one) => ({
    path: one.path,
    kind: one.kind,
    plain_size_bytes: one.file.size,
    cipher_size_bytes: PRODUCTION.cipherSize(one.file.size),
  }));
}

/** Canonical bytes of a manifest.
 * @param {{artifactId: string, model: string, runtime: string, listing: any,
 * files: SourceFile[], sealed: Sealed[], now?: Date}} of */
export function writeManifest({ artifactId, model, runtime, listing, files, sealed, now = new Date() }) {
  return canonicalBytes({
    format: FORMAT,
    artifact_id: artifactId,
    model,
    content_format: CONTENT_FORMAT,
    runtime,
    task: listing.task,
    licence: listing.licence,
    interface: listing.interface,
    files: announce(files).map((one, index) => describeFile(one, sealed[index])),
    test_vectors: listing.test_vectors,
    publish_channel: listing.publish || null,
    created_at: `${now.toISOString().slice(0, 19)}Z`,
    // A policy that demands nothing is left out.
    ...(Object.keys(listing.policy ?? {}).length ? { policy: listing.policy } : {}),
  });
}

/** A manifest with every member that can be wrong, before anything is sealed.
 * @param {string} model @param {string} runtime @param {any} listing @param {SourceFile[]} files */
export function writeDraft(model, runtime, listing, files) {
  const header = new Uint8Array(HEADER_BYTES);
  header.set(PRODUCTION.encoded);
  const sealed = announce(files).map((one) => ({
    header,
    parts: PRODUCTION.partSizes(one.cipher_size_bytes).map(() => "0".repeat(64)),
  }));
  return writeManifest({ artifactId: NOBODY, model, runtime, listing, files, sealed });
}

/** @param {any} announced @param {Sealed} sealed */
function describeFile(announced, sealed) {
  const sizes = PRODUCTION.partSizes(announced.cipher_size_bytes);
  return {
    ...announced,
    floe_header: encodeBase64(sealed.header),
    parts: sizes.map((size, part) => ({ size_bytes: size, sha256: sealed.parts[part] })),
  };
}
