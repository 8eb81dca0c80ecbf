"""A version comes back to its creator, and to nobody else; and is sealed anew for good."""

from __future__ import annotations

import json
import shutil
import stat
import tracemalloc
from pathlib import Path

import pytest

from strongroom import recover as recover_module
from strongroom import sealed_version
from strongroom.commands import version as version_commands
from strongroom.config import ConfigFolder, write_json
from strongroom.push import Reporter
from strongroom.recover import PROGRESS_FILE
from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import encode_base64
from strongroom.sealing.manifest import Manifest
from tests.sdk.command_line import CANARY, run
from tests.sdk.platform_server import Platform

VERSION = "acme/digits:1"
FILES = ("model.onnx", "weights0.bin", "weights1.bin")


@pytest.fixture
def pushed(ready: Platform, folder: Path) -> Platform:
    """A platform that keeps one version of three files."""
    run("push", folder)
    return ready


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "back" / "digits"


def only_upload(platform: Platform) -> dict:
    (upload,) = platform.uploads.values()
    return upload


def read_files(folder: Path) -> dict[str, bytes]:
    return {one: (folder / one).read_bytes() for one in FILES}


def downloads(platform: Platform) -> list[str]:
    return [path for method, path in platform.requests if method == "GET" and "/parts/" in path]


def change_part(platform: Platform, key: tuple[int, int], data: bytes) -> None:
    sha256, _ = only_upload(platform)["received"][key]
    only_upload(platform)["received"][key] = (sha256, data)


# --- recover ----------------------------------------------------------------------


def test_a_version_comes_back_as_it_was_pushed(pushed, folder, target):
    result = run("model", "recover", VERSION, target)

    assert read_files(target) == read_files(folder)
    assert sorted(one.name for one in target.iterdir()) == sorted(FILES)
    for one in target.iterdir():
        assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert "Recovered 3 files" in result.stderr


def test_it_answers_programs_too(pushed, target):
    answer = json.loads(run("model", "recover", VERSION, target, "--json").stdout)

    assert answer["files"] == [str(target / one) for one in FILES]


def test_the_platforms_own_key_is_not_needed(pushed, folder, target):
    """What is left after the platform shredded its key: ciphertext and the creator's wrap."""
    pushed.kem_keys.clear()
    upload = only_upload(pushed)
    upload["wraps"] = [one for one in upload["wraps"] if one["recipient"] == "creator"]

    run("model", "recover", VERSION, target)

    assert read_files(target) == read_files(folder)


@pytest.mark.parametrize("members", [("recovery_key",), ("recovery_key", "signing_key")])
def test_a_saved_recovery_file_is_enough_on_another_machine(
    pushed, folder, target, config, tmp_path, members
):
    known = json.loads((config.root / "identity.json").read_text())
    fingerprint = config.load_identity().fingerprint
    saved = tmp_path / "recovery.json"
    write_json(saved, {name: known[name] for name in members} | {"made_at": "2026-11-21"})
    (config.root / "identity.json").unlink()

    signed_by = () if "signing_key" in members else ("--signed-by", fingerprint)
    run("model", "recover", VERSION, target, "--recovery-file", saved, *signed_by)

    assert read_files(target) == read_files(folder)
    assert not config.has_identity


def test_without_any_key_it_says_which_file_is_missing(pushed, target, config):
    (config.root / "identity.json").unlink()

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: recovery_key_missing:")
    assert not config.has_identity


@pytest.mark.parametrize(
    "content", ["[]", "{}", "no", '{"recovery_key": "AA=="}', '{"recovery_key": 7}']
)
def test_a_file_that_holds_no_key_is_refused(pushed, target, tmp_path, content):
    saved = tmp_path / "recovery.json"
    saved.write_text(content)

    result = run("model", "recover", VERSION, target, "--recovery-file", saved, code=1)

    assert result.stderr.startswith("error: recovery_file_invalid:")


def test_another_recovery_key_opens_nothing(pushed, target, tmp_path):
    saved = tmp_path / "recovery.json"
    write_json(saved, {"recovery_key": encode_base64(wrap.generate_private_key())})

    result = run("model", "recover", VERSION, target, "--recovery-file", saved, code=1)

    assert result.stderr.startswith("error: recovery_key_wrong:")
    assert not target.exists()
    assert downloads(pushed) == []


def test_a_manifest_of_an_unknown_signer_is_refused(pushed, target):
    """The platform cannot put another manifest, signed by a key of its own, in this one's place."""
    upload = only_upload(pushed)
    forger = signature.generate_signing_key()
    name = signature.fingerprint(signature.derive_public_key(forger))
    pushed.signing_keys[name] = signature.derive_public_key(forger)
    upload["signing_key"] = name
    upload["signature"] = encode_base64(
        signature.sign(forger, signature.MANIFEST_TYPE, upload["text"].encode())
    )

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: signer_unknown:")
    assert name in result.stderr
    assert not target.exists()
    run("model", "recover", VERSION, target, "--signed-by", name)


def test_a_changed_manifest_is_refused(pushed, target):
    upload = only_upload(pushed)
    upload["text"] = upload["text"].replace("image-classification", "other")

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: signature_invalid:")


def test_another_version_in_its_place_is_refused(pushed, target):
    real = pushed.get_artifact
    other = {"version_id": "00000000-0000-7000-8000-000000000000"}
    pushed.get_artifact = lambda *args: (200, real(*args)[1] | other)

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: version_mismatch:")


def test_a_version_without_a_wrap_for_its_creator_says_so(pushed, target):
    only_upload(pushed)["wraps"] = []

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: creator_wrap_missing:")


def test_ciphertext_that_was_deleted_cannot_come_back(pushed, target):
    only_upload(pushed)["received"].clear()

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: ciphertext_gone:")
    assert not target.exists()


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_tampered_part_leaves_nothing_behind(pushed, target, place):
    """The last file's part: what came before it is removed as well."""
    _, data = only_upload(pushed)["received"][2, 0]
    changed = bytearray(data)
    changed[place] ^= 1
    change_part(pushed, (2, 0), bytes(changed))

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: tampered:")
    assert not target.parent.exists()


def test_a_part_of_the_same_plain_bytes_is_not_the_one_that_was_signed(pushed, target, config):
    """Who knows the data key can seal again; the manifest's own hash still tells."""
    upload = only_upload(pushed)
    _, dek = pushed.open_upload(upload["upload_id"])
    manifest = Manifest.parse(upload["text"])
    file = manifest.files[2]
    message = floe.Message.open(dek, manifest.file_aad(file), file.floe_header)
    plain = pushed.open_upload(upload["upload_id"])[0][file.path]
    change_part(pushed, (2, 0), bytes(message.seal_segment(0, plain, is_final=True)))

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: tampered: Part 0 of weights1.bin")
    assert not target.exists()


@pytest.mark.parametrize("change", ["shorter", "longer"])
def test_a_part_of_another_size_is_refused(pushed, target, change):
    _, data = only_upload(pushed)["received"][2, 0]
    change_part(pushed, (2, 0), data[:-1] if change == "shorter" else data + b"x")

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: answer_invalid:")


def test_a_cut_in_the_middle_of_a_part_is_gone_on_with(pushed, folder, target):
    pushed.cut_part_at = 100

    run("model", "recover", VERSION, target)

    assert read_files(target) == read_files(folder)
    assert pushed.ranges == [100]


def test_after_a_cut_whole_files_are_not_fetched_again(pushed, folder, target):
    pushed.fault = lambda method, path: "cut" if path.endswith("files/2/parts/0") else None
    result = run("model", "recover", VERSION, target, code=1)
    assert result.stderr.splitlines()[-1].startswith("error: unreachable:")
    assert sorted(one.name for one in target.iterdir()) == sorted([*FILES[:2], PROGRESS_FILE])
    pushed.fault, _ = lambda method, path: None, pushed.requests.clear()

    result = run("model", "recover", VERSION, target)

    assert "Going on: 2 files" in result.stderr
    assert downloads(pushed) == ["/api/models/acme/digits/versions/1/artifact/files/2/parts/0"]
    assert read_files(target) == read_files(folder)
    assert not (target / PROGRESS_FILE).exists()


def test_a_file_that_was_changed_since_is_not_taken_for_recovered(pushed, target):
    pushed.fault = lambda method, path: "cut" if path.endswith("files/2/parts/0") else None
    run("model", "recover", VERSION, target, code=1)
    pushed.fault = lambda method, path: None
    (target / FILES[0]).write_bytes(b"mine")

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.splitlines()[-1].startswith("error: file_changed:")
    assert (target / FILES[0]).read_bytes() == b"mine"


def test_what_a_killed_try_left_half_written_is_written_anew(pushed, folder, target):
    pushed.fault = lambda method, path: "cut" if path.endswith("files/2/parts/0") else None
    run("model", "recover", VERSION, target, code=1)
    pushed.fault = lambda method, path: None
    (target / f".{FILES[2]}.partial").write_bytes(b"half")

    run("model", "recover", VERSION, target)

    assert read_files(target) == read_files(folder)
    assert sorted(one.name for one in target.iterdir()) == sorted(FILES)


def test_nothing_is_overwritten(pushed, target):
    target.mkdir(parents=True)
    (target / "notes.txt").write_text("mine")

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: folder_not_empty:")
    assert [one.name for one in target.iterdir()] == ["notes.txt"]


def test_a_file_that_came_meanwhile_is_not_overwritten(pushed, target, monkeypatch):
    real = sealed_version.SealedVersion.read_part

    def read_part(self, file_index, part):
        (target / FILES[file_index]).write_text("mine")
        return real(self, file_index, part)

    monkeypatch.setattr(sealed_version.SealedVersion, "read_part", read_part)

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: file_exists:")
    assert (target / FILES[0]).read_text() == "mine"


def test_the_beginning_of_another_version_is_refused(pushed, folder, target):
    target.mkdir(parents=True)
    write_json(target / PROGRESS_FILE, {"artifact_id": "other", "done": {}})

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: folder_not_empty:")


def test_a_full_disk_is_one_line(pushed, target, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recover_module.os, "fsync", fail)
    monkeypatch.setattr(recover_module, "write_json", lambda *_: None)

    result = run("model", "recover", VERSION, target, code=1)

    assert result.stderr.startswith("error: folder_unwritable:")
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("text", ["acme/digits", "digits:1", "acme/digits:x", "a/b/c:1", "a/b:0x1"])
def test_a_version_is_named_in_full(pushed, target, text):
    assert "owner/name:3" in run("model", "recover", text, target, code=2).stderr


def big_folder(folder: Path, size_bytes: int) -> None:
    with (folder / "weights0.bin").open("wb") as file:
        for _ in range(size_bytes // len(CANARY) // 1000):
            file.write(CANARY * 1000)


def test_a_large_file_is_never_in_memory(ready, folder, target):
    """Two parts: the memory stays far below one of them."""
    big_folder(folder, floe.PART_BYTES + 4 * floe.SEGMENT_BYTES)
    run("push", folder, "--threads=1")
    upload = only_upload(ready)
    assert (1, 1) in upload["received"]
    config = ConfigFolder()
    _, _, web = version_commands.load_web()
    opened = sealed_version.SealedVersion.open(
        web,
        "acme/digits",
        1,
        recovery_key=config.load_identity().recovery_key,
        signers={config.load_identity().fingerprint},
    )
    chunks = (len(one) for one in opened.read_part(1, 0))
    tracemalloc.start()
    total = sum(chunks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert total == floe.SEGMENTS_PER_PART * floe.PRODUCTION.plain_bytes
    # The platform of this test runs in the same process and holds nothing but views of it.
    assert peak < 8 * floe.SEGMENT_BYTES
    run("model", "recover", VERSION, target)
    assert read_files(target) == read_files(folder)


# --- reseal -----------------------------------------------------------------------


def last_upload(platform: Platform) -> dict:
    return list(platform.uploads.values())[-1]


def test_a_version_is_sealed_anew_under_another_key(pushed, folder, config):
    result = run("model", "reseal", VERSION)

    first, second = pushed.uploads.values()
    before, old_dek = pushed.open_upload(first["upload_id"])
    after, new_dek = pushed.open_upload(second["upload_id"])
    assert after == before == read_files(folder)
    assert old_dek != new_dek
    old, new = first["manifest"], second["manifest"]
    for old_file, new_file in zip(old.files, new.files, strict=True):
        assert old_file.floe_header[10:42] != new_file.floe_header[10:42]
        assert old_file.parts != new_file.parts
    kept = ("model", "runtime", "task", "licence", "interface", "test_vectors", "policy")
    assert [getattr(new, one) for one in kept] == [getattr(old, one) for one in kept]
    assert (old.publish_channel, new.publish_channel) == ("prod", None)
    assert second["signing_key"] == config.load_identity().fingerprint
    assert result.stdout == "acme/digits:2 onboarding\n"
    assert "strongroom publish acme/digits 2" in result.stderr
    assert "strongroom model withdraw acme/digits:1" in result.stderr


def test_the_old_key_does_not_open_the_new_version(pushed):
    run("model", "reseal", VERSION)

    first, second = pushed.uploads.values()
    _, old_dek = pushed.open_upload(first["upload_id"])
    new = second["manifest"]
    with pytest.raises(floe.HeaderError):
        floe.Message.open(old_dek, new.file_aad(new.files[0]), new.files[0].floe_header)


def test_no_plaintext_touches_a_disk(pushed, config, tmp_path, folder, monkeypatch):
    shutil.rmtree(folder)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.chdir(scratch)

    # A cut, so that what is remembered of an interrupted run is looked at as well.
    pushed.fault = lambda method, path: (
        "cut" if method == "PUT" and path.endswith("2/parts/0") else None
    )
    run("model", "reseal", VERSION, "--threads=1", code=1)

    kept = [one for one in tmp_path.rglob("*") if one.is_file()]
    assert any(one.suffix == ".parts" for one in kept)
    assert not any(CANARY in one.read_bytes() for one in kept)


def test_the_canary_would_be_found(pushed, tmp_path, target):
    """Negative control: what recover writes is found by the same search."""
    run("model", "recover", VERSION, target)

    assert any(CANARY in one.read_bytes() for one in target.rglob("*"))


def test_after_a_cut_only_the_rest_is_sealed(pushed, folder):
    pushed.fault = lambda method, path: (
        "cut" if method == "PUT" and path.endswith("2/parts/0") else None
    )
    run("model", "reseal", VERSION, "--threads=1", code=1)
    pushed.fault, _ = lambda method, path: None, pushed.requests.clear()

    result = run("model", "reseal", VERSION)

    assert "Going on: 2 parts are there already." in result.stderr
    assert len(downloads(pushed)) == len(pushed.sent_parts()) == 1
    assert len(pushed.uploads) == 2
    plain, _ = pushed.open_upload(last_upload(pushed)["upload_id"])
    assert plain == read_files(folder)


def test_a_run_begins_anew_when_told(pushed):
    pushed.fault = lambda method, path: (
        "cut" if method == "PUT" and path.endswith("2/parts/0") else None
    )
    run("model", "reseal", VERSION, "--threads=1", code=1)
    pushed.fault = lambda method, path: None

    run("model", "reseal", VERSION, "--fresh")

    states = [one["state"] for one in pushed.uploads.values()]
    assert states == ["complete", "aborted", "complete"]


def test_a_push_of_the_same_model_is_another_run(pushed, folder):
    """An interrupted re-sealing is not what a push goes on with."""
    pushed.fault = lambda method, path: (
        "cut" if method == "PUT" and path.endswith("2/parts/0") else None
    )
    run("model", "reseal", VERSION, "--threads=1", code=1)
    pushed.fault = lambda method, path: None

    run("push", folder)

    assert [one["state"] for one in pushed.uploads.values()] == ["complete", "open", "complete"]


def test_tampered_ciphertext_is_not_sealed_anew(pushed):
    _, data = only_upload(pushed)["received"][2, 0]
    change_part(pushed, (2, 0), data[:-1] + bytes([data[-1] ^ 1]))

    result = run("model", "reseal", VERSION, code=1)

    assert result.stderr.splitlines()[-1].startswith("error: tampered:")
    assert last_upload(pushed)["state"] == "open"
    assert (2, 0) not in last_upload(pushed)["received"]


def test_the_checksum_at_the_end_is_what_refuses_resealed_parts(pushed, monkeypatch):
    """Negative control of the reader's last look: without it, such a part would be taken."""
    upload = only_upload(pushed)
    plain, dek = pushed.open_upload(upload["upload_id"])
    manifest = upload["manifest"]
    file = manifest.files[2]
    message = floe.Message.open(dek, manifest.file_aad(file), file.floe_header)
    other = plain[file.path][:-1] + b"?"
    change_part(pushed, (2, 0), bytes(message.seal_segment(0, other, is_final=True)))

    assert "tampered" in run("model", "reseal", VERSION, "--fresh", code=1).stderr
    monkeypatch.setattr(sealed_version._SegmentReader, "finish", lambda self: None)
    run("model", "reseal", VERSION, "--fresh")

    assert pushed.open_upload(last_upload(pushed)["upload_id"])[0][file.path] == other


def test_a_recovery_file_serves_for_sealing_anew(pushed, config, tmp_path):
    """A machine that was lost: its recovery key is at hand, its signing key is not."""
    known = json.loads((config.root / "identity.json").read_text())
    old = config.load_identity().fingerprint
    saved = tmp_path / "recovery.json"
    write_json(saved, {"recovery_key": known["recovery_key"]})
    (config.root / "identity.json").unlink()

    run("model", "reseal", VERSION, "--recovery-file", saved, "--signed-by", old)

    assert last_upload(pushed)["signing_key"] == config.load_identity().fingerprint != old


def test_progress_reaches_the_whole(pushed, target):
    seen: list[int] = []

    class Counting(Reporter):
        def begin(self, total_bytes: int, done_bytes: int) -> None:
            seen.append(-total_bytes)

        def advance(self, size_bytes: int) -> None:
            seen.append(size_bytes)

    config = ConfigFolder()
    _, _, web = version_commands.load_web()
    identity = config.load_identity()
    opened = sealed_version.SealedVersion.open(
        web,
        "acme/digits",
        1,
        recovery_key=identity.recovery_key,
        signers={identity.fingerprint},
    )
    recover_module.Recovery(opened, target, Counting()).run()

    assert sum(seen) == 0
    assert seen[0] < 0
