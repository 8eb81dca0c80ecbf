"""What the page seals opens in Python, and the other way round; what was changed opens nowhere."""

from __future__ import annotations

import hashlib
import itertools
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import canonicalize
from strongroom.sealing.errors import HeaderError, SignatureError, TamperedError, WrapError
from strongroom.sealing.manifest import Manifest, file_aad
from strongroom.sealing.wrap import WrappedKey
from tests.browser import make_vectors
from tests.browser.bench import Bench, decode, encode
from tests.browser.make_vectors import (
    ARTIFACT_ID,
    DOCUMENT,
    PATH,
    SIZES,
    SMALL,
    UPLOAD_ID,
    make_manifest,
    parameters_json,
    plain_of,
    seal_in_browser,
)
from tests.sdk.test_floe import NAMES, read_vector, tampered_messages
from tests.sdk.test_floe import SMALL as TAMPERED_PARAMETERS

VECTORS = make_vectors.load()
DEK = decode(VECTORS["dek"])
# RFC 9180, appendix A.1.1: the setup, and its first encryption.
RFC_9180 = {
    "info": "4f6465206f6e2061204772656369616e2055726e",
    "skEm": "52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736",
    "skRm": "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
    "pkRm": "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d",
    "enc": "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
    "pt": "4265617574792069732074727574682c20747275746820626561757479",
    "aad": "436f756e742d30",
    "ct": "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a9"
    "6d8770ac83d07bea87e13c512a",
}


def open_in_browser(bench: Bench, messages: list[tuple], parameters: floe.Parameters) -> list[Any]:
    """For each (key, aad, header, body): what it opens to in base64, or the code of its refusal."""
    script = """
      const opened = [];
      for (const { key, aad, header, body, parameters } of given) {
        const sizes = new floe.Parameters(parameters);
        const code = await codeOf(async () => {
          opened.push(write(await floe.openBytes(
            read(key), read(aad), read(header), read(body), { parameters: sizes })));
        });
        if (code) opened.push({ code });
      }
      return opened;
    """
    given = [
        {
            **{
                name: encode(value)
                for name, value in zip(("key", "aad", "header", "body"), message, strict=True)
            },
            "parameters": parameters_json(parameters),
        }
        for message in messages
    ]
    return list(bench.run(script, given))


def aad_of(size_bytes: int) -> bytes:
    return file_aad(artifact_id=ARTIFACT_ID, path=PATH, plain_size_bytes=size_bytes)


def check_messages(messages: list[dict[str, Any]]) -> None:
    assert [one["size_bytes"] for one in messages] == list(SIZES)
    for one in messages:
        size_bytes = one["size_bytes"]
        header, body = decode(one["header"]), decode(one["body"])
        opened = floe.open_bytes(DEK, aad_of(size_bytes), header, body, parameters=SMALL)
        assert opened == plain_of(size_bytes)
        assert len(body) == SMALL.cipher_size(size_bytes)


# --- FLOE -------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["python", "browser"])
def test_committed_messages_open_in_python(side):
    check_messages(VECTORS[side]["messages"])


@pytest.mark.parametrize("side", ["python", "browser"])
def test_committed_messages_open_in_the_browser(bench, side):
    messages = [
        (DEK, aad_of(one["size_bytes"]), decode(one["header"]), decode(one["body"]))
        for one in VECTORS[side]["messages"]
    ]

    opened = open_in_browser(bench, messages, SMALL)

    assert opened == [encode(plain_of(size_bytes)) for size_bytes in SIZES]


def test_fresh_messages_open_in_python(bench):
    messages = seal_in_browser(bench, DEK)

    check_messages(messages)
    committed = {one["header"] for one in VECTORS["browser"]["messages"]}
    assert committed & {one["header"] for one in messages} == set()


def test_production_segments_open_in_python(bench):
    size_bytes = 2 * floe.PRODUCTION.plain_bytes + 777
    script = """
      const plain = new Uint8Array(given.size).map((_, at) => (at * 31) % 251);
      const { header, body } = await floe.sealBytes(read(given.key), read(given.aad), plain);
      return { header: write(header), body: write(body) };
    """

    sealed = bench.run(script, {"size": size_bytes, "key": encode(DEK), "aad": encode(b"aad")})

    opened = floe.open_bytes(DEK, b"aad", decode(sealed["header"]), decode(sealed["body"]))
    assert (
        hashlib.sha256(opened).digest()
        == hashlib.sha256(bytes((at * 31) % 251 for at in range(size_bytes))).digest()
    )


def test_a_part_sealed_again_under_its_iv_fits_between_the_others(bench):
    size_bytes = 5 * SMALL.plain_bytes + 100
    script = """
      const parameters = new floe.Parameters(given.parameters);
      const file = new Blob([read(given.plain)]);
      const key = read(given.key), aad = read(given.aad);
      const first = await floe.Message.start(key, aad, { parameters });
      const iv = first.header.slice(10, 42);
      const again = await floe.Message.start(key, aad, { iv, parameters });
      const parts = [];
      for (const [part, message] of [first, again, first].entries()) {
        for await (const one of floe.sealPart(message, file, part)) parts.push(write(one.sealed));
      }
      return { header: write(again.header), parts };
    """
    given = {
        "parameters": parameters_json(),
        "plain": encode(plain_of(size_bytes)),
        "key": encode(DEK),
        "aad": encode(b"aad"),
    }

    sealed = bench.run(script, given)

    body = b"".join(decode(part) for part in sealed["parts"])
    opened = floe.open_bytes(DEK, b"aad", decode(sealed["header"]), body, parameters=SMALL)
    assert opened == plain_of(size_bytes)


def test_published_answers_open_in_the_browser(bench):
    for name in NAMES:
        header, body, plain, parameters = read_vector(name)
        opened = open_in_browser(bench, [(bytes(32), b"This is AAD", header, body)], parameters)
        assert opened == [encode(plain)], name


def test_tampered_messages_are_refused_as_in_python(bench):
    messages = tampered_messages()

    opened = open_in_browser(bench, list(messages.values()), TAMPERED_PARAMETERS)

    for (name, message), answer in zip(messages.items(), opened, strict=True):
        try:
            expected = encode(floe.open_bytes(*message, parameters=TAMPERED_PARAMETERS))
        except (TamperedError, HeaderError) as error:
            expected = {"code": error.code}
        assert answer == expected, name
        assert (name == "untouched") == isinstance(answer, str), name


def test_hashes_are_made_piece_by_piece(bench):
    script = """
      const { Sha256 } = await load("sha256");
      return given.map((pieces) => {
        const hash = new Sha256();
        for (const piece of pieces) hash.update(read(piece));
        return hash.digest();
      });
    """
    generator = random.Random(3)
    whole = [generator.randbytes(size) for size in (*range(200), 1 << 20, 3_000_001)]
    pieces = []
    for data in whole:
        cuts = sorted(generator.randint(0, len(data)) for _ in range(3))
        edges = [0, *cuts, len(data)]
        pieces.append([data[a:b] for a, b in itertools.pairwise(edges)])

    digests = bench.run(script, [[encode(one) for one in data] for data in pieces])

    assert digests == [hashlib.sha256(data).hexdigest() for data in whole]


# --- HPKE -------------------------------------------------------------------------


def test_the_example_of_rfc_9180(bench):
    script = """
      const unhex = (text) => Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16));
      const v = {};
      for (const [name, text] of Object.entries(given)) v[name] = unhex(text);
      const ephemeral = {
        privateKey: await hpke.importPrivateKey(v.skEm),
        publicKey: await crypto.subtle.importKey(
          "raw", await hpke.derivePublicKey(v.skEm), "X25519", true, []),
      };
      const options = { aead: "AES-128-GCM", aad: v.aad };
      const sealed = await hpke.seal(v.pt, v.pkRm, v.info, { ...options, ephemeral });
      const key = await hpke.importPrivateKey(v.skRm);
      const opened = await hpke.unseal(sealed, key, v.pkRm, v.info, options);
      return {
        pkRm: canonical.toHex(await hpke.derivePublicKey(v.skRm)),
        sealed: canonical.toHex(sealed), opened: canonical.toHex(opened),
      };
    """

    answer = bench.run(script, RFC_9180)

    assert answer["pkRm"] == RFC_9180["pkRm"]
    assert answer["sealed"] == RFC_9180["enc"] + RFC_9180["ct"]
    assert answer["opened"] == RFC_9180["pt"]


@pytest.mark.parametrize("side", ["python", "browser"])
def test_a_wrapped_key_opens_on_both_sides(bench, side):
    private = VECTORS["python"]["private_key"]
    wrapped = VECTORS[side]["wrapped"]

    opened = wrap.unwrap_dek(WrappedKey.parse(wrapped), decode(private), artifact_id=ARTIFACT_ID)

    assert opened == DEK
    assert unwrap_in_browser(bench, wrapped) == encode(DEK)


def unwrap_in_browser(bench: Bench, wrapped: dict[str, str], artifact_id: str = ARTIFACT_ID) -> Any:
    script = """
      const raw = read(given.private);
      const [key, own] = [await hpke.importPrivateKey(raw), await hpke.derivePublicKey(raw)];
      let opened;
      const code = await codeOf(async () => {
        opened = write(await hpke.unwrapDek(given.wrapped, key, own, given.artifactId));
      });
      return code ?? opened;
    """
    given = {"private": VECTORS["python"]["private_key"], "wrapped": wrapped}
    return bench.run(script, given | {"artifactId": artifact_id})


def test_a_changed_wrap_does_not_open(bench):
    wrapped = VECTORS["python"]["wrapped"]
    blob = decode(wrapped["blob"])
    changed = [
        wrapped | {"blob": encode(bytes([blob[0] ^ 1]) + blob[1:])},
        wrapped | {"blob": encode(blob[:-1] + bytes([blob[-1] ^ 1]))},
        wrapped | {"kid": "0" * 32},
        wrapped | {"suite": "hpke-mlkem768x25519-sha256-aes256gcm"},
    ]

    assert [unwrap_in_browser(bench, one) for one in changed] == ["key_wrap_invalid"] * 4
    assert unwrap_in_browser(bench, wrapped, UPLOAD_ID) == "key_wrap_invalid"
    assert unwrap_in_browser(bench, wrapped | {"blob": encode(blob + b"x")}) == "base64_invalid"
    with pytest.raises(WrapError):
        wrap.unwrap_dek(WrappedKey.parse(changed[0]), bytes(32), artifact_id=ARTIFACT_ID)


def test_a_key_that_makes_the_secret_known_is_refused(bench):
    script = """
      const publicKey = new Uint8Array(32);
      const to = { artifactId: "a", recipient: "platform", kid: "k", publicKey };
      return codeOf(() => hpke.wrapDek(new Uint8Array(32), to));
    """

    assert bench.run(script) == "public_key_invalid"


# --- Canonical JSON, manifest, signatures -----------------------------------------


def test_the_canonical_text_is_the_same(bench):
    script = "return canonical.canonicalize(JSON.parse(given));"
    generator = random.Random(7)
    numbers = [
        value
        for value in (struct.unpack("<d", generator.randbytes(8))[0] for _ in range(2000))
        if value == value and abs(value) != float("inf")
    ]
    numbers += [generator.uniform(-1, 1) * 10 ** generator.randint(-9, 24) for _ in range(500)]

    assert decode(VECTORS["python"]["document"]) == canonicalize(DOCUMENT)
    for value in (DOCUMENT, numbers, [0.1, -1e-7, 1e21, 2**53 - 1]):
        text = canonicalize(value).decode()
        assert bench.run(script, text) == text


def test_values_without_a_canonical_text_are_refused(bench):
    script = """
      const deep = (depth) => { let value = 1; while (depth--) value = [value]; return value; };
      const values = [NaN, Infinity, "\\ud800", { "\\udc00": 1 }, deep(65)];
      values.push(undefined, 1n, new Map(), [() => 1]);
      const texts = ["9007199254740993", "[1e999]", "{", "1e400", "NaN"];
      const { canonicalize, decodeBase64, parseJson } = canonical;
      const codes = (call, given) => Promise.all(given.map((one) => codeOf(() => call(one))));
      return {
        kept: canonicalize(deep(64)).length,
        values: await codes(canonicalize, values),
        texts: await codes(parseJson, texts),
        base64: await codes(decodeBase64, ["AB==", "A", "AA=", " AAA", 7]),
      };
    """

    answer = bench.run(script)

    assert answer["kept"] == 129
    assert answer["values"] == ["not_canonical"] * 9
    assert answer["texts"] == [
        "not_canonical",
        "not_canonical",
        "not_json",
        "not_canonical",
        "not_json",
    ]
    assert answer["base64"] == ["base64_invalid"] * 5


def test_the_manifest_is_the_same(bench):
    expected = make_manifest()
    file = expected.files[0]
    script = """
      const files = [{ path: "model.onnx", kind: "onnx", file: new Blob([new Uint8Array(162)]) }];
      const sealed = [{ header: read(given.header), parts: [given.sha256] }];
      const listing = { ...given.manifest, publish: given.manifest.publish_channel };
      const { artifact_id: artifactId, model, runtime } = given.manifest;
      const now = new Date("2026-11-21T21:00:00Z");
      const of = { artifactId, model, runtime, listing, files, sealed, now };
      const draft = manifest.writeDraft(model, runtime, listing, files);
      return { raw: write(manifest.writeManifest(of)), draft: write(draft) };
    """
    given = {
        "manifest": expected.to_json(),
        "header": encode(file.floe_header),
        "sha256": file.parts[0].sha256,
    }

    answer = bench.run(script, given)

    assert decode(answer["raw"]) == expected.canonical_bytes()
    assert decode(answer["raw"]) == decode(VECTORS["python"]["manifest"])
    assert Manifest.parse(decode(answer["draft"])).policy == expected.policy


@pytest.mark.parametrize("side", ["python", "browser"])
def test_signatures_are_verified_on_both_sides(bench, side):
    public_key = decode(VECTORS[side]["signing_public_key"])
    manifest = decode(VECTORS["python"]["manifest"])
    signed = decode(VECTORS[side]["manifest_signature"])
    script = """
      const [key, raw, signed] = [given.key, given.raw, given.signed].map(read);
      const type = signature.MANIFEST_TYPE;
      const other = raw.slice();
      other[9] ^= 1;
      return {
        fingerprint: await signature.fingerprint(key),
        codes: await Promise.all([
          codeOf(() => signature.verify(key, type, raw, signed)),
          codeOf(() => signature.verify(key, signature.UPLOAD_KEY_TYPE, raw, signed)),
          codeOf(() => signature.verify(key, type, other, signed)),
          codeOf(() => signature.verify(key, type, raw, signed.slice(1))),
        ]),
      };
    """
    given = {"key": encode(public_key), "raw": encode(manifest), "signed": encode(signed)}

    answer = bench.run(script, given)

    signature.verify(public_key, signature.MANIFEST_TYPE, manifest, signed)
    with pytest.raises(SignatureError):
        signature.verify(public_key, signature.UPLOAD_KEY_TYPE, manifest, signed)
    assert answer["fingerprint"] == signature.fingerprint(public_key)
    assert answer["fingerprint"] == VECTORS[side]["fingerprint"]
    assert answer["codes"] == [None, *["signature_invalid"] * 3]


def test_the_platforms_key_signs_for_one_upload(bench):
    script = """
      const key = read(given.key);
      const check = (...of) => codeOf(() => signature.checkUploadKey(...of, key));
      const { kem, upload, artifact } = given;
      return Promise.all([
        check(kem, upload, artifact), check(kem, artifact, artifact), check(kem, upload, upload),
        check({ ...kem, public_key: kem.signature.slice(0, 43) + "=" }, upload, artifact),
        check({ ...kem, suite: "none" }, upload, artifact), check(null, upload, artifact),
      ]);
    """
    given = {
        "kem": VECTORS["python"]["kem"],
        "key": VECTORS["python"]["signing_public_key"],
        "upload": UPLOAD_ID,
        "artifact": ARTIFACT_ID,
    }

    assert bench.run(script, given) == [None, *["platform_signature_invalid"] * 5]


def test_the_vectors_are_of_the_sizes_that_matter():
    plain_bytes = SMALL.plain_bytes

    assert {0, 1, plain_bytes - 1, plain_bytes, plain_bytes + 1} <= set(SIZES)
    part_bytes = SMALL.segments_per_part * plain_bytes
    assert {part_bytes - 1, part_bytes, part_bytes + 1} <= set(SIZES)
    assert max(SIZES) > plain_bytes << SMALL.rotation_bits
    assert Path(make_vectors.VECTORS).stat().st_size < 64 * 1024
