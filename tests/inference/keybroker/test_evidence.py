"""Evidence about a node: real quotes of a software TPM, and everything that is none."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference.keybroker import evidence, tpm
from inference.keybroker.errors import EvidenceInsufficientError, EvidenceInvalidError
from inference.keybroker.tpm import QuoteError, TpmPolicy
from inference.node.errors import ReplicaError
from inference.node.evidence import NoEvidence, TpmEvidence, from_env
from marketplace.core.env import SettingError
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.signature import evidence_context
from tests.inference.keybroker.software_tpm import AK_HANDLE, SoftwareTpm, start_tpm

MEASURED = hashlib.sha256(b"our loader").hexdigest()
ZERO = "00" * 32
# A register starts as zeros; measuring into it hashes both together.
REGISTER_7 = hashlib.sha256(bytes(32) + bytes.fromhex(MEASURED)).hexdigest()
BODY = {"nonce": "n", "node_id": "a", "artifact_id": "b", "ephemeral_public_key": "c"}
KEYS = {"ecdsa": "ecc256:ecdsa-sha256:null", "rsassa": "rsa2048:rsassa-sha256:null"}


@pytest.fixture(scope="module", params=list(KEYS))
def chip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with start_tpm(tmp_path_factory.mktemp("tpm"), KEYS[request.param]) as running:
        running.extend(7, MEASURED)
        yield running


def quote(chip: SoftwareTpm, body: dict[str, Any] = BODY, registers: Any = (0, 7)) -> Any:
    return TpmEvidence(AK_HANDLE, registers, chip.environment).collect(evidence_context(body))


def policy_for(shown: dict[str, Any], **pcrs: Any) -> TpmPolicy:
    fingerprint = hashlib.sha256(decode_base64(shown["key"])).hexdigest()
    good = {0: frozenset({ZERO}), 7: frozenset({"11" * 32, REGISTER_7})}
    return TpmPolicy(frozenset({fingerprint}), good)


def config(*kinds: str, policy: TpmPolicy | None = None) -> Any:
    return SimpleNamespace(evidence=frozenset(kinds), tpm=policy)


def refusal(shown: Any, policy: TpmPolicy, body: dict[str, Any] = BODY) -> str:
    with pytest.raises(QuoteError) as refused:
        tpm.verify(shown, policy, expected=evidence_context(body))
    return str(refused.value)


def test_a_real_quote_over_this_request_holds(chip: SoftwareTpm) -> None:
    shown = quote(chip)
    policy = policy_for(shown)

    found = evidence.check({**BODY, "evidence": shown}, config("tpm", policy=policy))

    assert found.kind == "tpm"
    assert found.name == f"tpm {next(iter(policy.keys))[:16]}"
    assert found.is_at_least("none-dev")
    assert found.is_at_least("tpm")
    assert not found.is_at_least("tdx+nvidia")


@pytest.mark.parametrize("member", list(BODY))
def test_a_quote_fits_no_other_request(chip: SoftwareTpm, member: str) -> None:
    shown = quote(chip)

    assert "another request" in refusal(shown, policy_for(shown), {**BODY, member: "other"})


def test_a_machine_that_started_something_else_is_refused(chip: SoftwareTpm) -> None:
    shown = quote(chip)
    policy = replace(policy_for(shown), pcrs={0: frozenset({ZERO}), 7: frozenset({"22" * 32})})

    assert "register 7" in refusal(shown, policy)
    # Nor does it help to claim the good value: it is not what was quoted.
    shown["pcrs"]["7"] = "22" * 32
    assert "not those that were quoted" in refusal(shown, policy)


def test_other_registers_than_demanded_are_refused(chip: SoftwareTpm) -> None:
    shown = quote(chip, registers=(0,))

    assert "registers [0] were quoted" in refusal(shown, policy_for(shown))


def test_a_key_that_nobody_entered_is_refused(chip: SoftwareTpm) -> None:
    shown = quote(chip)
    policy = replace(policy_for(shown), keys=frozenset({"33" * 32}))

    assert "not one that was entered" in refusal(shown, policy)


@pytest.mark.parametrize("name", ["quote", "signature"])
@pytest.mark.parametrize("cut", [0, 1, 2, 5, 9, 40, -1])
def test_a_quote_that_is_cut_or_changed_is_refused(chip: SoftwareTpm, name: str, cut: int) -> None:
    shown = quote(chip)
    policy = policy_for(shown)
    raw = decode_base64(shown[name])

    assert refusal({**shown, name: encode_base64(raw[:cut])}, policy)
    flipped = bytearray(raw)
    flipped[cut] ^= 1
    assert refusal({**shown, name: encode_base64(bytes(flipped))}, policy)
    assert refusal({**shown, name: encode_base64(raw + b"\0")}, policy)


@pytest.mark.parametrize("value", [None, 7, "", "?", "A" * 5000, []])
@pytest.mark.parametrize("name", ["quote", "signature", "key", "pcrs"])
def test_members_of_another_form_are_refused(chip: SoftwareTpm, name: str, value: Any) -> None:
    shown = quote(chip)

    assert refusal({**shown, name: value}, policy_for(shown))


def test_without_the_check_of_the_request_an_old_quote_would_pass(
    chip: SoftwareTpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: what a replayed quote would do."""
    shown = quote(chip)
    monkeypatch.setattr(tpm.hmac, "compare_digest", lambda _a, _b: True)

    assert tpm.verify(shown, policy_for(shown), expected=b"another" * 4)


def test_a_chip_that_does_not_answer_is_said_so(tmp_path: Path) -> None:
    shown = TpmEvidence(AK_HANDLE, (0,), {"PATH": "", "TPM2TOOLS_TCTI": "device:/dev/null"})

    with pytest.raises(ReplicaError) as failed:
        shown.collect(bytes(32))
    assert failed.value.reason_code == "evidence_unavailable"
    assert failed.value.is_infrastructure


@pytest.mark.parametrize("shown", [None, {}, "tpm", {"type": "sgx"}, {"type": ["tpm"]}, []])
def test_unknown_evidence_does_not_count(shown: Any) -> None:
    with pytest.raises(EvidenceInsufficientError):
        evidence.check({**BODY, "evidence": shown}, config("none-dev"))


def test_what_cannot_be_verified_is_refused() -> None:
    for kind in ("tdx+nvidia", "tpm"):
        with pytest.raises(EvidenceInvalidError, match="cannot be verified"):
            evidence.check({**BODY, "evidence": {"type": kind}}, config(kind))


def test_nothing_counts_only_where_it_is_accepted() -> None:
    body = {**BODY, "evidence": NoEvidence().collect(b"")}

    assert evidence.check(body, config("none-dev")).kind == "none-dev"
    with pytest.raises(EvidenceInsufficientError):
        evidence.check(body, config("tpm", "tdx+nvidia"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"keys": [], "pcrs": {"7": ["' + ZERO + '"]}}',
        '{"keys": ["' + ZERO + '"], "pcrs": {}}',
        '{"keys": ["' + ZERO + '"], "pcrs": {"7": []}}',
        '{"keys": ["' + ZERO + '"], "pcrs": {"24": ["' + ZERO + '"]}}',
        '{"keys": ["' + ZERO + '"], "pcrs": {"-1": ["' + ZERO + '"]}}',
        '{"keys": ["' + ZERO + '"], "pcrs": {"7": ["00"]}}',
        '{"keys": ["' + "x" * 64 + '"], "pcrs": {"7": ["' + ZERO + '"]}}',
        '{"keys": [7], "pcrs": {"7": ["' + ZERO + '"]}}',
    ],
)
def test_a_policy_that_would_let_anything_pass_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tpm.json"
    path.write_text(content)

    with pytest.raises(SettingError, match="STRONGROOM_KEYBROKER_TPM_POLICY"):
        TpmPolicy.load(path)
    with pytest.raises(SettingError):
        TpmPolicy.load(tmp_path / "missing.json")


def test_a_policy_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tpm.json"
    path.write_text(json.dumps({"keys": [ZERO], "pcrs": {"23": [REGISTER_7], "0": [ZERO]}}))

    policy = TpmPolicy.load(path)

    assert policy.keys == {ZERO}
    assert policy.pcrs == {23: frozenset({REGISTER_7}), 0: frozenset({ZERO})}


def test_settings_of_the_node() -> None:
    assert isinstance(from_env({}), NoEvidence)
    found = from_env({"STRONGROOM_NODE_EVIDENCE": "tpm", "STRONGROOM_NODE_TPM_PCRS": "7,0,7"})
    assert isinstance(found, TpmEvidence)
    assert found.registers == [0, 7]
    for name, value in (("EVIDENCE", "tdx"), ("TPM_KEY", "x"), ("TPM_PCRS", "7;1")):
        env = {"STRONGROOM_NODE_EVIDENCE": "tpm", f"STRONGROOM_NODE_{name}": value}
        with pytest.raises(SettingError, match=name):
            from_env(env)
