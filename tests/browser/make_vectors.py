"""Write tests/vectors/push/vectors.json: what each side sealed, for the other to open.

Run: PYTHONPATH=.:sdk python -m tests.browser.make_vectors
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import canonicalize
from strongroom.sealing.floe import Parameters
from strongroom.sealing.manifest import Manifest, Part, SealedFile, file_aad
from tests.browser.bench import Bench, decode, encode, open_bench

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "push" / "vectors.json"
ARTIFACT_ID = "0195d3a0-0000-7000-8000-000000000001"
UPLOAD_ID = "0195d3a0-0000-7000-8000-000000000002"
PATH = "weights/modèle.bin"
# Small, so that messages with parts and several keys stay small.
SMALL = Parameters(segment_bytes=256, rotation_bits=2, segments_per_part=2)
FULL = SMALL.plain_bytes
PART = SMALL.segments_per_part * FULL
SIZES = (0, 1, FULL - 1, FULL, FULL + 1, 2 * FULL, PART - 1, PART, PART + 1, 9 * FULL + 5)
# Whatever RFC 8785 treats specially: order of keys, escapes, numbers.
DOCUMENT = {
    "numbers": [333333333.33333329, 1e30, 4.5, 2e-3, 1e-27, -0.0, 1e21, 123456789012345e6, 5e-324],
    "string": "€$\x0f\nA'B\"\\\\\"/\x7f\u2028",
    "literals": [None, True, False],
    "\r": 1,
    "\ufb33": 2,
    "\U0001f600": 3,
    "ö": {"": [], "a": {}},
}  # fmt: skip


def plain_of(size_bytes: int) -> bytes:
    """The same bytes on both sides."""
    return hashlib.shake_256(b"plain").digest(size_bytes) if size_bytes else b""


def seal_in_python(key: bytes) -> list[dict[str, Any]]:
    """Messages of all sizes."""
    messages = []
    for size_bytes in SIZES:
        aad = file_aad(artifact_id=ARTIFACT_ID, path=PATH, plain_size_bytes=size_bytes)
        header, body = floe.seal_bytes(key, aad, plain_of(size_bytes), parameters=SMALL)
        messages.append({"size_bytes": size_bytes, "header": encode(header), "body": encode(body)})
    return messages


def seal_in_browser(bench: Bench, key: bytes, sizes: tuple[int, ...] = SIZES) -> list[Any]:
    """The same messages, sealed by the page's modules."""
    given = {
        "key": encode(key),
        "parameters": parameters_json(),
        "artifactId": ARTIFACT_ID,
        "path": PATH,
        "plains": [encode(plain_of(size_bytes)) for size_bytes in sizes],
    }
    script = """
      const parameters = new floe.Parameters(given.parameters);
      const messages = [];
      for (const text of given.plains) {
        const plain = read(text);
        const aad = floe.fileAad(given.artifactId, given.path, plain.length);
        const { header, body } = await floe.sealBytes(read(given.key), aad, plain, { parameters });
        messages.push({ size_bytes: plain.length, header: write(header), body: write(body) });
      }
      return messages;
    """
    return list(bench.run(script, given))


def parameters_json(parameters: Parameters = SMALL) -> dict[str, int]:
    """As the modules name them."""
    return {
        "segmentBytes": parameters.segment_bytes,
        "rotationBits": parameters.rotation_bits,
        "segmentsPerPart": parameters.segments_per_part,
    }


def make_manifest() -> Manifest:
    """One that has every member."""
    header = floe.Message.start(bytes(32), b"", iv=bytes(32)).header
    file = SealedFile("model.onnx", "onnx", 162, 194, header, (Part(194, "ab" * 32),))
    tensor = {"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [3], "minimum": -0.5}
    interface = {
        "inputs": [tensor],
        "outputs": [{"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [2]}],
        "batch": {"max_size": 32, "leading_axis": True},
    }
    return Manifest.parse(
        canonicalize(
            {
                **Manifest(
                    artifact_id=ARTIFACT_ID,
                    model="demo/tiny",
                    runtime="onnx",
                    task="regression",
                    licence="MIT",
                    interface=interface,
                    files=(file,),
                    created_at="2026-11-21T21:00:00Z",
                    publish_channel="prod",
                ).to_json(),
                "test_vectors": [
                    {
                        "input": {"x": [1, 2.5, -0.25]},
                        "expected": {"y": [4.5, 6.5]},
                        "tolerance": 1e-6,
                    }
                ],
                "policy": {"evidence": "tpm", "output": {"y": {"decimals": 3}}},
            }
        )
    )


def write_in_python(key: bytes) -> dict[str, Any]:
    """What the page must open, verify and write alike."""
    private = wrap.generate_private_key()
    signing = signature.generate_signing_key()
    kid = wrap.derive_kid(wrap.derive_public_key(private))
    wrapped = wrap.wrap_dek(
        key,
        artifact_id=ARTIFACT_ID,
        recipient="creator",
        kid=kid,
        public_key=wrap.derive_public_key(private),
    )
    kem = {
        "kid": kid,
        "suite": "hpke-x25519-sha256-aes256gcm",
        "public_key": encode(wrap.derive_public_key(private)),
        "expires_at": "2026-11-24T21:00:00Z",
    }
    payload = signature.upload_key_payload(upload_id=UPLOAD_ID, artifact_id=ARTIFACT_ID, **kem)
    signed = signature.sign(signing, signature.UPLOAD_KEY_TYPE, payload)
    manifest = make_manifest().canonical_bytes()
    return {
        "messages": seal_in_python(key),
        "wrapped": wrapped.to_json(),
        "private_key": encode(private),
        "signing_public_key": encode(signature.derive_public_key(signing)),
        "fingerprint": signature.fingerprint(signature.derive_public_key(signing)),
        "kem": kem | {"signature": encode(signed)},
        "manifest": encode(manifest),
        "manifest_signature": encode(signature.sign(signing, signature.MANIFEST_TYPE, manifest)),
        "document": encode(canonicalize(DOCUMENT)),
    }


def write_in_browser(bench: Bench, key: bytes, private_key: str, manifest: str) -> dict[str, Any]:
    """The same from the page: a wrap to the same recipient, a signature over the same bytes."""
    script = """
      const privateKey = read(given.private_key);
      const publicKey = await hpke.derivePublicKey(privateKey);
      const kid = await hpke.deriveKid(publicKey);
      const to = { artifactId: given.artifactId, recipient: "platform", kid, publicKey };
      const pair = await crypto.subtle.generateKey("Ed25519", false, ["sign"]);
      const own = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
      return {
        wrapped: await hpke.wrapDek(read(given.key), to),
        signing_public_key: write(own),
        fingerprint: await signature.fingerprint(own),
        manifest_signature: write(
          await signature.sign(pair.privateKey, signature.MANIFEST_TYPE, read(given.manifest))),
      };
    """
    given = {
        "key": encode(key),
        "private_key": private_key,
        "artifactId": ARTIFACT_ID,
        "manifest": manifest,
    }
    return {"messages": seal_in_browser(bench, key), **bench.run(script, given)}


def main() -> None:
    """Replace the file."""
    key = hashlib.sha256(b"strongroom push vectors").digest()
    python = write_in_python(key)
    with open_bench() as bench:
        browser = write_in_browser(bench, key, python["private_key"], python["manifest"])
    vectors = {
        "about": "Made by tests/browser/make_vectors.py. The keys are for these vectors alone.",
        "parameters": asdict(SMALL),
        "artifact_id": ARTIFACT_ID,
        "upload_id": UPLOAD_ID,
        "path": PATH,
        "dek": encode(key),
        "python": python,
        "browser": browser,
    }
    VECTORS.write_text(json.dumps(vectors, indent=1) + "\n")


def load() -> dict[str, Any]:
    """The committed vectors."""
    return dict(json.loads(VECTORS.read_text()))


__all__ = ["decode", "encode", "load", "plain_of", "seal_in_browser"]

if __name__ == "__main__":
    main()
