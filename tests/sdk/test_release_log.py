"""The release log of a version, checked with nothing but an export of it."""

import copy
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.sealing import release_log, signature
from strongroom.sealing.canonical import canonicalize, encode_base64
from strongroom.sealing.release_log import ReleaseLogError

KEY = signature.generate_signing_key()
PUBLIC = signature.derive_public_key(KEY)
ARTIFACT = str(uuid4())


def make_entry(seq, artifact_id, previous, key=KEY, **changes):
    entry = {
        "seq": seq,
        "at": f"2026-11-21T10:00:{seq:02}.000000Z",
        "outcome": "released",
        "reason_code": "",
        "node_id": str(uuid4()),
        "node_name": "node-1",
        "replica_id": str(uuid4()),
        "purpose": "serve",
        "loader_digest": "ab" * 32,
        "evidence": "none-dev",
        "lease_id": str(uuid4()),
        "lease_expires_at": "2026-11-21T10:10:00.000000Z",
        **changes,
    }
    digest = release_log.entry_hash(artifact_id, entry, previous)
    signed = signature.sign(key, release_log.ENTRY_TYPE, digest)
    return {**entry, "hash": digest.hex(), "signature": encode_base64(signed)}


def make_export(count=4, artifact_id=ARTIFACT, key=KEY):
    entries, head = [], release_log.genesis(artifact_id)
    for seq in range(1, count + 1):
        entry = make_entry(seq, artifact_id, head, key)
        entries.append(entry)
        head = bytes.fromhex(entry["hash"])
    said = {
        "artifact_id": artifact_id,
        "seq": count,
        "hash": head.hex(),
        "at": "2026-11-21T11:00:00.000000Z",
    }
    signed = signature.sign(key, release_log.CHECKPOINT_TYPE, release_log.checkpoint_payload(said))
    return {
        "format": release_log.FORMAT,
        "artifact_id": artifact_id,
        "entries": entries,
        "checkpoint": {**said, "signature": encode_base64(signed)},
    }


def refusal(document, keys=(PUBLIC,), **options):
    with pytest.raises(ReleaseLogError) as refused:
        release_log.verify_export(document, list(keys), **options)
    return refused.value.code, refused.value.seq


def test_an_untouched_export_is_right():
    found = release_log.verify_export(make_export(), [PUBLIC], version_id=ARTIFACT)

    assert (found.entries, found.released, found.refused) == (4, 4, 0)


def test_an_older_key_of_the_platform_is_right_too():
    other = signature.derive_public_key(signature.generate_signing_key())

    assert release_log.verify_export(make_export(), [other, PUBLIC]).entries == 4


@pytest.mark.parametrize("member", release_log.MEMBERS[1:])
@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_changed_member_names_its_entry(member, at):
    document = make_export()
    document["entries"][at][member] = "changed"

    assert refusal(document) == ("chain_broken", at + 1)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_entry_taken_out_is_missed(at):
    document = make_export()
    del document["entries"][at]

    assert refusal(document) == ("chain_broken", at + 1)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_taken_out_and_the_rest_renumbered_is_noticed(at):
    document = make_export()
    del document["entries"][at]
    for number, entry in enumerate(document["entries"], start=1):
        entry["seq"] = number

    assert refusal(document) == ("chain_broken", at + 1)


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_log_that_was_cut_off_differs_from_its_checkpoint(left):
    document = make_export()
    del document["entries"][left:]

    assert refusal(document) == ("truncated", left + 1)


def test_a_chain_made_anew_needs_the_platforms_key():
    document = make_export(key=signature.generate_signing_key())

    assert refusal(document) == ("signature_invalid", 1)


def test_an_entry_made_anew_needs_the_platforms_key():
    document = make_export()
    previous = bytes.fromhex(document["entries"][2]["hash"])
    document["entries"][3] = make_entry(
        4, ARTIFACT, previous, signature.generate_signing_key(), node_name="another"
    )

    assert refusal(document) == ("signature_invalid", 4)


def test_a_checkpoint_of_somebody_else_is_refused():
    document = make_export()
    document["checkpoint"]["seq"] = 4
    document["checkpoint"]["at"] = "2027-01-01T00:00:00.000000Z"

    assert refusal(document) == ("signature_invalid", None)


def test_two_entries_exchanged_are_noticed():
    document = make_export()
    entries = document["entries"]
    entries[1], entries[2] = entries[2], entries[1]

    assert refusal(document) == ("chain_broken", 2)


def test_another_versions_log_is_not_this_ones():
    document = make_export()

    assert refusal(document, version_id=str(uuid4())) == ("other_version", None)
    moved = copy.deepcopy(document) | {"artifact_id": str(uuid4())}
    assert refusal(moved) == ("chain_broken", 1)
    spliced = make_export()
    spliced["checkpoint"] = make_export(artifact_id=str(uuid4()))["checkpoint"]
    assert refusal(spliced) == ("other_version", None)


def test_without_the_check_of_hashes_a_changed_entry_would_pass(monkeypatch):
    """The negative control of the two tests above."""
    document = make_export()
    document["entries"][1]["node_name"] = "changed"
    honest = [entry["hash"] for entry in document["entries"]]
    monkeypatch.setattr(
        release_log, "entry_hash", lambda _id, entry, _previous: bytes.fromhex(entry["hash"])
    )

    assert release_log.verify_export(document, [PUBLIC]).head == honest[-1]


def test_a_later_export_holds_all_of_an_earlier_one():
    early = make_export(2)
    late = copy.deepcopy(early)
    late["entries"].append(make_entry(3, ARTIFACT, bytes.fromhex(early["entries"][1]["hash"])))

    release_log.check_continues(late, early)
    with pytest.raises(ReleaseLogError) as refused:
        release_log.check_continues(early, late)
    assert (refused.value.code, refused.value.seq) == ("history_changed", 3)
    # A chain that the platform itself has written anew is right by itself.
    with pytest.raises(ReleaseLogError) as refused:
        release_log.check_continues(make_export(4), early)
    assert (refused.value.code, refused.value.seq) == ("history_changed", 1)
    with pytest.raises(ReleaseLogError, match="different versions"):
        release_log.check_continues(make_export(artifact_id=str(uuid4())), early)


def make_shred(artifact_id=ARTIFACT, key=KEY, **changes):
    proof = {
        "id": str(uuid4()),
        "model_id": str(uuid4()),
        "artifact_id": artifact_id,
        "kek_refs": ["model-1"],
        "provider": "vault",
        "by": "ada",
        "reason": "leaked",
        "at": "2026-11-21T10:30:00Z",
        "final_at": "2026-11-21T10:30:00Z",
    }
    signed = signature.sign(key, signature.SHRED_TYPE, canonicalize(proof))
    return {**proof, "signature": encode_base64(signed), **changes}


@pytest.mark.parametrize("artifact_id", [ARTIFACT, None])
def test_a_proof_of_a_destroyed_key_is_checked_along(artifact_id):
    document = make_export() | {"shreds": [make_shred(artifact_id)]}

    assert release_log.verify_export(document, [PUBLIC]).shredded_at == "2026-11-21T10:30:00Z"
    assert release_log.verify_export(make_export(), [PUBLIC]).shredded_at == ""


@pytest.mark.parametrize(
    ("shred", "code"),
    [
        (make_shred(reason="other"), "signature_invalid"),
        (make_shred(kek_refs=[]), "signature_invalid"),
        (make_shred(key=signature.generate_signing_key()), "signature_invalid"),
        (make_shred(str(uuid4())), "other_version"),
        ({}, "not_a_release_log"),
        (None, "not_a_release_log"),
    ],
)
def test_a_proof_that_is_none_is_refused(shred, code):
    assert refusal(make_export() | {"shreds": [shred]}) == (code, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(JSON)
def test_whatever_is_no_log_is_called_so(value):
    assert refusal(value)[0] == "not_a_release_log"


@given(
    st.sampled_from(["format", "artifact_id", "entries", "checkpoint"]),
    JSON.filter(lambda one: one != []),
)
def test_whatever_stands_in_its_place_is_refused(member, value):
    assert refusal(make_export(1) | {member: value})[0] in {
        "not_a_release_log",
        "chain_broken",
        "signature_invalid",
        "other_version",
        "truncated",
    }
