"""A version's policy: in the listing, in the manifest, and what it may not say."""

import copy
import tomllib

import pytest

from strongroom.interface import Interface
from strongroom.listing import Listing, ListingError
from strongroom.sealing.canonical import canonicalize
from strongroom.sealing.errors import ManifestError, PolicyError
from strongroom.sealing.manifest import Manifest
from strongroom.sealing.policy import DECIMALS_MAX, TOP_K_MAX, OutputRule, Policy
from tests.sdk import test_listing, test_manifest

INTERFACE = Interface.parse(
    {
        "inputs": [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [2]}],
        "outputs": [
            {"name": "scores", "kind": "tensor", "datatype": "FP32", "shape": [10]},
            {"name": "count", "kind": "tensor", "datatype": "INT64", "shape": [1]},
            {"name": "text", "kind": "text"},
            {"name": "best", "kind": "label", "source": "scores", "labels": list("abcdefghij")},
        ],
    }
)
FULL = {
    "evidence": "tpm",
    "sandbox": "landlock",
    "output": {"scores": {"as": "probabilities", "top_k": 5, "decimals": 3}},
}


def test_a_policy_survives_its_own_json():
    policy = Policy.parse(FULL, INTERFACE)

    assert policy.to_json() == FULL
    assert policy == Policy.parse(policy.to_json(), INTERFACE)
    assert policy.output["scores"] == OutputRule("probabilities", 5, 3)


def test_nothing_demands_nothing():
    assert Policy.parse({}, INTERFACE) == Policy()
    assert Policy().to_json() == {}


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        (None, ""),
        ([], ""),
        ({"note": 1}, "/note"),
        ({"evidence": "sgx"}, "/evidence"),
        ({"evidence": None}, "/evidence"),
        ({"evidence": ["tpm"]}, "/evidence"),
        ({"sandbox": "none"}, "/sandbox"),
        ({"output": []}, "/output"),
        ({"output": {"scores": []}}, "/output/scores"),
        ({"output": {"scores": {}}}, "/output/scores"),
        ({"output": {"other": {"top_k": 1}}}, "/output/other"),
        ({"output": {"count": {"top_k": 1}}}, "/output/count"),
        ({"output": {"text": {"top_k": 1}}}, "/output/text"),
        ({"output": {"best": {"top_k": 1}}}, "/output/best"),
        ({"output": {"scores": {"as": "logits"}}}, "/output/scores/as"),
        ({"output": {"scores": {"top_k": 0}}}, "/output/scores/top_k"),
        ({"output": {"scores": {"top_k": TOP_K_MAX + 1}}}, "/output/scores/top_k"),
        ({"output": {"scores": {"top_k": True}}}, "/output/scores/top_k"),
        ({"output": {"scores": {"top_k": 2.0}}}, "/output/scores/top_k"),
        ({"output": {"scores": {"decimals": -1}}}, "/output/scores/decimals"),
        ({"output": {"scores": {"decimals": DECIMALS_MAX + 1}}}, "/output/scores/decimals"),
        ({"output": {"scores": {"noise": 1}}}, "/output/scores/noise"),
    ],
)
def test_what_is_no_policy_is_refused_at_its_place(value, pointer):
    with pytest.raises(PolicyError) as refused:
        Policy.parse(value, INTERFACE)

    assert (refused.value.code, refused.value.pointer) == ("policy_invalid", pointer)


@pytest.mark.parametrize(
    "rule", [{"top_k": 1}, {"top_k": TOP_K_MAX}, {"decimals": 0}, {"decimals": DECIMALS_MAX}]
)
def test_the_limits_themselves_are_allowed(rule):
    assert Policy.parse({"output": {"scores": rule}}, INTERFACE).to_json()["output"] == {
        "scores": rule
    }


def manifest_with(policy):
    description = copy.deepcopy(test_manifest.GOOD)
    description["interface"]["outputs"][0] |= {"kind": "number", "datatype": "FP32"}
    description["policy"] = policy
    return canonicalize(description)


def test_the_policy_is_part_of_what_is_signed():
    policy = {"evidence": "tpm", "output": {"y": {"decimals": 2}}}
    raw = manifest_with(policy)

    manifest = Manifest.parse(raw)

    assert manifest.policy.to_json() == policy
    assert manifest.canonical_bytes() == raw
    assert Manifest.parse(canonicalize(test_manifest.GOOD)).policy == Policy()


@pytest.mark.parametrize(
    ("policy", "pointer"),
    [
        ({}, "/policy"),
        ({"output": {}}, "/policy"),
        (None, "/policy"),
        ({"evidence": "sgx"}, "/policy/evidence"),
        ({"output": {"z": {"decimals": 2}}}, "/policy/output/z"),
    ],
)
def test_a_manifest_says_nothing_in_one_way_only(policy, pointer):
    with pytest.raises(ManifestError) as refused:
        Manifest.parse(manifest_with(policy))

    assert (refused.value.code, refused.value.pointer) == ("policy_invalid", pointer)


def test_a_listing_with_a_policy_survives_its_own_text():
    outputs = [{"name": "a.b", "kind": "tensor", "datatype": "FP32", "shape": [3]}]
    interface = {"inputs": INTERFACE.to_json()["inputs"], "outputs": outputs}
    changes = {
        "interface": interface,
        "test_vectors": [],
        "policy": {"sandbox": "landlock", "output": {"a.b": {"as": "label"}}},
    }

    listing = Listing.parse(test_listing.GOOD | changes)

    assert listing.policy.sandbox == "landlock"
    assert Listing.parse(tomllib.loads(listing.to_toml())) == listing


def test_a_fault_of_the_listings_policy_is_named_by_its_key():
    with pytest.raises(ListingError) as refused:
        Listing.parse(test_listing.GOOD | {"policy": {"evidence": "sgx"}})

    assert (refused.value.code, refused.value.key) == ("listing_invalid", "policy.evidence")
