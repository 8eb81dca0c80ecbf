"""The command line, against a platform on loopback that checks and opens what it gets."""

import base64
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import click
import onnx
import pytest

from strongroom import push as push_module
from strongroom import upload_state
from strongroom.cli import main
from strongroom.client import Transport
from strongroom.commands import account as account_commands
from strongroom.commands import model as model_commands
from strongroom.listing import Listing
from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.suite import HYBRID, X25519
from strongroom.sealing.wrap import WrappedKey
from strongroom.source import FolderSources
from tests.sdk.command_line import CANARY, INIT_FLAGS, external_tensor, log_in, run
from tests.sdk.platform_server import API_KEY, PASSWORD, TOKEN, succeed

pytestmark = pytest.mark.usefixtures("config")


# --- login ------------------------------------------------------------------------


def test_login_pins_the_platforms_key_and_keeps_the_token_private(platform, config):
    result = log_in(platform)

    assert platform.fingerprint in result.stderr
    assert config.find_pin(platform.url) == platform.public_key
    profile = config.load_profile()
    assert (profile.token, profile.account, profile.gateway_url) == (TOKEN, "acme", platform.url)
    for path in config.root.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.root.stat().st_mode) == 0o700


def test_a_password_may_come_from_the_environment(platform, config):
    environment = {"STRONGROOM_PASSWORD": PASSWORD}

    run("login", "--url", platform.url + "/", "--email=ada@example.com", env=environment)

    assert config.load_profile().web_url == platform.url


def test_login_asks_where_somebody_can_answer(platform, config, monkeypatch):
    monkeypatch.setattr(account_commands, "is_interactive", lambda: True)

    run("login", "--url", platform.url, input=f"ada@example.com\n{PASSWORD}\n")

    assert config.load_profile().email == "ada@example.com"


def test_login_asks_for_the_second_factor_where_there_is_one(platform, config, monkeypatch):
    platform.second_factor = "123456"
    flags = ["login", "--url", platform.url, "--email=ada@example.com", "--password", PASSWORD]

    # Nobody there to ask: the reason is told, and nothing is kept.
    assert "second_factor_required" in run(*flags, code=1).stderr
    assert "unauthenticated" in run(*flags, "--code=000000", code=1).stderr
    run(*flags, "--code=123456")
    assert config.load_profile().email == "ada@example.com"
    monkeypatch.setattr(account_commands, "is_interactive", lambda: True)
    assert "recovery code" in run(*flags, input="123456\n").stderr


def test_login_with_a_token_and_another_account(platform, config):
    result = run("login", "--url", platform.url, "--token", TOKEN, "--account=lab", "--json")

    assert json.loads(result.stdout)["account"] == "lab"
    assert config.load_profile().account == "lab"


def test_a_wrong_password_is_one_line_and_exit_code_one(platform, config):
    result = run("login", "--url", platform.url, "--email=ada@example.com", "--password=x", code=1)

    assert result.stderr == "error: unauthenticated: The email or the password is wrong.\n"
    assert not (config.root / "profile.json").exists()


@pytest.mark.parametrize(
    ("_case", "args", "missing"),
    [
        ("no url", [], "--url"),
        ("no email", ["--url", "http://127.0.0.1:1"], "--email"),
        ("no password", ["--url", "http://127.0.0.1:1", "--email=a@example.com"], "--password"),
    ],
)
def test_login_names_what_is_missing(platform, _case, args, missing):
    args = [platform.url if one.startswith("http:") else one for one in args]

    assert missing in run("login", *args, code=2).stderr


def test_another_account_than_ones_own_is_refused(platform, config):
    result = run("login", "--url", platform.url, "--token", TOKEN, "--account=others", code=1)

    assert result.stderr.startswith("error: account_unknown:")


def test_a_platform_with_another_key_is_refused(platform, config):
    log_in(platform)
    platform.signing_key = signature.generate_signing_key()

    result = run("login", "--url", platform.url, "--token", TOKEN, code=1)

    assert result.stderr.startswith("error: platform_key_changed:")
    assert config.find_pin(platform.url) != platform.public_key


def test_a_platform_that_changed_its_key_is_followed_and_the_user_told(platform, config):
    log_in(platform)
    platform.rotate()

    result = run("login", "--url", platform.url, "--token", TOKEN)

    assert f"Platform key {platform.fingerprint} pinned: the key before it" in " ".join(
        result.stderr.split()
    )
    assert config.find_pin(platform.url) == platform.public_key
    # And so is what comes after that.
    platform.rotate()
    run("login", "--url", platform.url, "--token", TOKEN)
    assert config.find_pin(platform.url) == platform.public_key


def test_a_forged_succession_is_not_followed(platform, config):
    log_in(platform)
    pinned, thief = config.find_pin(platform.url), signature.generate_signing_key()
    platform.rotate()
    platform.signing_key = thief
    platform.successions.append(succeed(thief, platform.public_key))

    result = run("login", "--url", platform.url, "--token", TOKEN, code=1)

    assert result.stderr.startswith("error: platform_key_changed:")
    assert config.find_pin(platform.url) == pinned


def test_a_fingerprint_can_be_demanded(platform, config):
    flags = ["login", "--url", platform.url, "--token", TOKEN]

    run(*flags, "--fingerprint=SHA256:other", code=1)
    assert config.find_pin(platform.url) is None
    run(*flags, "--fingerprint", platform.fingerprint)


def test_secrets_do_not_cross_the_network_in_plain():
    flags = ["login", "--url=http://strongroom.example.com", "--token=x"]

    assert run(*flags, code=1).stderr.startswith("error: url_insecure:")


@pytest.mark.parametrize("url", ["ftp://x", "strongroom", "http://", "http://u@x", "http://x?q"])
def test_addresses_that_are_none_are_refused(url):
    assert run("login", "--url", url, "--token=x", code=1).stderr.startswith("error: url_invalid:")


def test_whoami_and_logout(platform, config):
    log_in(platform)

    shown = json.loads(run("whoami", "--json").stdout)
    text = run("whoami").stdout

    assert shown["accounts"][0]["slug"] == "acme"
    assert shown["platform_key_fingerprint"] == platform.fingerprint
    assert shown["signing_key_fingerprint"] == config.load_identity().fingerprint
    assert "ada@example.com" in text
    run("logout")
    assert run("whoami", code=1).stderr.startswith("error: not_logged_in:")
    assert run("logout").stderr == "Nobody was logged in.\n"
    assert config.find_pin(platform.url) == platform.public_key


def test_nobody_there_is_an_error_of_one_line():
    result = run("login", "--url=http://127.0.0.1:9", "--token=x", code=1)

    assert result.stderr.startswith("error: unreachable:")
    assert result.stderr.count("\n") == 1


# --- init -------------------------------------------------------------------------


def test_init_writes_a_listing_that_can_be_read_again(folder):
    vectors = folder.parent / "vectors.json"
    vectors.write_text(json.dumps([{"input": {"x": [1, 2, 3.5]}, "expected": {"label": "c"}}]))

    result = run(
        "init",
        folder,
        *INIT_FLAGS,
        '--summary=Says "which" digit\tit is',
        "--labels-file",
        folder / "labels.txt",
        "--test-vectors-file",
        vectors,
        "--publish=none",
        "--json",
    )

    listing = Listing.load(folder)
    assert json.loads(result.stdout)["interface"] == listing.interface.to_json()
    assert listing.model == "acme/digits"
    assert listing.summary == 'Says "which" digit\tit is'
    assert listing.price_nanos == 500_000
    assert (listing.publish, listing.visibility, listing.card) == ("", "public", "README.md")
    assert listing.test_vectors[0].input == {"x": [1, 2, 3.5]}
    assert [one.name for one in listing.interface.outputs] == ["scores", "label"]
    assert listing.interface.batch.max_size == 32
    assert Listing.parse(__import__("tomllib").loads(listing.to_toml())) == listing


def test_init_names_every_missing_flag(folder):
    result = run("init", folder, code=2)

    assert "--owner, --title, --task, --licence, --price" in result.stderr
    assert not (folder / "strongroom.toml").exists()


def test_init_takes_the_owner_of_the_login_and_the_name_of_the_folder(platform, folder):
    log_in(platform)
    flags = [one for one in INIT_FLAGS if not one.startswith(("--owner", "--name"))]

    run("init", folder, *flags)

    assert Listing.load(folder).model == "acme/digits"


def test_init_asks_where_somebody_can_answer(folder, monkeypatch):
    monkeypatch.setattr(model_commands, "is_interactive", lambda: True)

    # Owner, name (default), title, task, licence, price (first one bad); then what may be empty.
    run("init", folder, input="acme\n\nDigits\nocr\nMIT\nfree\n0.01\n\n\n\n")

    listing = Listing.load(folder)
    assert (listing.model, listing.task, listing.price_nanos) == ("acme/digits", "ocr", 10_000_000)


def test_init_does_not_replace_a_listing_unasked(folder):
    run("init", folder, *INIT_FLAGS)

    assert "--force" in run("init", folder, *INIT_FLAGS, code=2).stderr
    run("init", folder, *INIT_FLAGS, "--force")


@pytest.mark.parametrize(
    ("_case", "flags", "told"),
    [
        ("price", ["--price=cheap"], "--price"),
        ("price too fine", ["--price=0.0000000001"], "--price"),
        ("price below zero", ["--price=-1"], "--price"),
        ("name", ["--name=No Name"], "--name"),
        ("visibility", ["--visibility=secret"], "--visibility"),
        ("labels missing", ["--labels-file=nowhere"], "--labels-file"),
    ],
)
def test_init_refuses_faulty_flags(folder, _case, flags, told):
    assert told in run("init", folder, *INIT_FLAGS, *flags, code=2).stderr
    assert not (folder / "strongroom.toml").exists()


def test_init_refuses_a_pickle_with_its_reason(folder):
    (folder / "weights.pkl").write_bytes(b"\x80\x04N.")

    result = run("init", folder, *INIT_FLAGS, code=1)

    assert result.stderr.startswith("error: pickle_refused: weights.pkl:")


# --- push -------------------------------------------------------------------------


def only_upload(platform):
    [upload_id] = [key for key, one in platform.uploads.items() if one["state"] == "complete"]
    return upload_id


def plain_files(folder):
    return {
        one: (folder / one).read_bytes() for one in ("model.onnx", "weights0.bin", "weights1.bin")
    }


def test_a_push_arrives_sealed_and_opens_for_the_platform(ready, folder):
    result = run("push", folder, "--json")

    version = json.loads(result.stdout)
    plain, _ = ready.open_upload(only_upload(ready))
    assert plain == plain_files(folder)
    assert (version["state"], version["version"]) == ("onboarding", 1)
    assert ready.models["acme/digits"]["card"] == "# Digits\n"
    assert ready.models["acme/digits"]["visibility"] == "public"
    assert ready.prices == {"acme/digits": 500_000}
    manifest = ready.uploads[only_upload(ready)]["manifest"]
    assert (manifest.runtime, manifest.publish_channel) == ("onnx", "prod")
    assert manifest.interface == Listing.load(folder).interface.to_json()


def test_nothing_in_plain_leaves_the_machine(ready, folder, config):
    run("push", folder)

    _, dek = ready.open_upload(only_upload(ready))
    sent = b"".join(ready.bodies)
    assert CANARY not in sent
    assert dek not in sent
    assert base64.b64encode(dek) not in sent
    assert (folder / "weights0.bin").read_bytes()[:1000] == (CANARY * 20)[:1000]


def test_the_creator_can_recover_the_data_key(ready, folder, config):
    run("push", folder)

    upload = ready.uploads[only_upload(ready)]
    wrapped = next(one for one in upload["wraps"] if one["recipient"] == "creator")
    dek = wrap.unwrap_dek(
        WrappedKey.parse(wrapped),
        config.load_identity().recovery_key,
        artifact_id=upload["version_id"],
    )
    assert dek == ready.open_upload(upload["upload_id"])[1]


def test_a_platform_may_ask_for_a_hybrid_wrap(ready, folder):
    ready.suite = HYBRID

    run("push", folder)

    upload = ready.uploads[only_upload(ready)]
    wraps = {one["recipient"]: one["suite"] for one in upload["wraps"]}
    # The creator's own key is of the other kind.
    assert wraps == {"platform": HYBRID.name, "creator": X25519.name}
    plain, _ = ready.open_upload(only_upload(ready))
    assert plain["weights0.bin"] == (folder / "weights0.bin").read_bytes()


def test_a_finished_push_leaves_no_state(ready, folder, config):
    run("push", folder)

    assert list(config.uploads.iterdir()) == []


def test_a_file_of_several_parts_arrives(ready, folder):
    size = 64 * floe.PRODUCTION.plain_bytes + 5
    with (folder / "weights0.bin").open("wb") as file:
        file.truncate(size)
        file.write(b"begin")
        file.seek(size - 3)
        file.write(b"end")

    run("push", folder, "--threads=2")

    plain, _ = ready.open_upload(only_upload(ready))
    assert len(plain["weights0.bin"]) == size
    expected = hashlib.sha256((folder / "weights0.bin").read_bytes()).hexdigest()
    assert hashlib.sha256(plain["weights0.bin"]).hexdigest() == expected
    assert len(ready.sent_parts()) == 4


def test_a_key_that_the_pinned_platform_did_not_sign_is_refused(ready, folder):
    ready.forge_kem = True

    result = run("push", folder, code=1)

    assert result.stderr.splitlines()[-1].startswith("error: platform_signature_invalid:")
    assert ready.sent_parts() == []


def test_the_signature_check_is_what_refuses_it(ready, folder, monkeypatch):
    """Negative control: without the check, the forged key would be used."""
    ready.forge_kem = True
    monkeypatch.setattr(push_module.signature, "verify", lambda *_: None)

    with pytest.MonkeyPatch.context() as only_client:
        only_client.setattr(ready, "complete", lambda *_: (202, {"version": 1, "state": "x"}))
        run("push", folder)

    assert len(ready.sent_parts()) == 3


def sign_upload_key(platform, answer, **changes):
    """The platform's own signature over an answer that it should not give."""
    kem = answer["kem"] | changes
    fields = {name: kem[name] for name in ("kid", "suite", "public_key", "expires_at")}
    payload = signature.upload_key_payload(
        upload_id=answer["upload_id"], artifact_id=answer["version_id"], **fields
    )
    signed = signature.sign(platform.signing_key, signature.UPLOAD_KEY_TYPE, payload)
    return answer | {"kem": kem | {"signature": base64.b64encode(signed).decode()}}


@pytest.mark.parametrize(
    ("_case", "change", "code"),
    [
        ("other parts", lambda p, a: a | {"part_size_bytes": 2**20}, "part_size_unsupported"),
        ("no id", lambda p, a: a | {"upload_id": None}, "answer_invalid"),
        ("no key", lambda p, a: a | {"kem": None}, "platform_signature_invalid"),
        (
            "key of another upload",
            lambda p, a: a | {"upload_id": "other"},
            "platform_signature_invalid",
        ),
        (
            "key of another version",
            lambda p, a: a | {"version_id": "other"},
            "platform_signature_invalid",
        ),
        ("other suite", lambda p, a: sign_upload_key(p, a, suite="x"), "suite_unsupported"),
        ("no suite", lambda p, a: sign_upload_key(p, a, suite=""), "suite_unsupported"),
        ("short key", lambda p, a: sign_upload_key(p, a, public_key="AAAA"), "base64_invalid"),
    ],
)
def test_answers_that_a_push_does_not_build_on(ready, folder, monkeypatch, _case, change, code):
    real = ready.begin_upload
    monkeypatch.setattr(ready, "begin_upload", lambda *args: (201, change(ready, real(*args)[1])))

    result = run("push", folder, code=1)

    assert result.stderr.splitlines()[-1].startswith(f"error: {code}:")
    assert ready.sent_parts() == []


def test_a_key_of_small_order_is_not_sealed_to(ready, folder, monkeypatch):
    real = ready.begin_upload
    weak = base64.b64encode(bytes(32)).decode()
    monkeypatch.setattr(
        ready,
        "begin_upload",
        lambda *args: (201, sign_upload_key(ready, real(*args)[1], public_key=weak)),
    )

    result = run("push", folder, code=1)

    assert result.stderr.splitlines()[-1].startswith("error: public_key_invalid:")


def test_a_platform_with_another_key_gets_nothing(ready, folder):
    ready.signing_key = signature.generate_signing_key()
    before = len(ready.requests)

    result = run("push", folder, code=1)

    assert result.stderr.startswith("error: platform_key_changed:")
    assert [path for _, path in ready.requests[before:]] == ["/api/platform"]


def test_a_push_follows_the_platform_to_its_new_key(ready, folder, config):
    ready.rotate()

    result = run("push", folder)

    assert f"Platform key {ready.fingerprint} pinned: the key before it" in " ".join(
        result.stderr.split()
    )
    assert config.find_pin(ready.url) == ready.public_key
    ready.open_upload(only_upload(ready))


def test_a_refusal_names_the_field(ready, folder):
    text = (folder / "strongroom.toml").read_text()
    (folder / "strongroom.toml").write_text(text.replace('"Digits"', '"refused"'))

    result = run("push", folder, code=1)

    assert "error: validation: The request is not valid.\n" in result.stderr
    assert "error: validation: /title: Choose another.\n" in result.stderr
    assert ready.uploads == {}


@pytest.mark.parametrize(
    ("_case", "old", "new", "told"),
    [
        ("unknown key", 'title = "Digits"', 'titel = "Digits"', "titel"),
        ("price", '"0.0005"', '"much"', "price_dollars_per_prediction"),
        ("publish", '\npublish = "prod"', '\npublish = "now"', "publish"),
        ("visibility", '"public"', '"secret"', "visibility"),
        ("card", '"README.md"', '"missing.md"', "card"),
        ("not toml", "owner =", "owner", "strongroom.toml"),
        ("number as title", '"Digits"', "7", "title"),
        ("empty owner", '"acme"', '""', "owner"),
        ("interface", 'datatype = "FP32"', 'datatype = "FP16"', "interface.inputs.0.datatype"),
    ],
)
def test_a_faulty_listing_is_wrong_use(ready, folder, _case, old, new, told):
    path = folder / "strongroom.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))

    assert told in run("push", folder, code=2).stderr
    assert ready.uploads == {}


def test_push_needs_a_listing_and_a_login(folder):
    assert run("push", folder, code=2).stderr.startswith("error: listing_missing:")
    run("init", folder, *INIT_FLAGS)
    assert run("push", folder, code=1).stderr.startswith("error: not_logged_in:")


def test_a_pickle_that_came_later_is_refused_before_anything_is_sent(ready, folder):
    (folder / "optimizer.pt").write_bytes(b"\x80\x02N.")
    before = len(ready.requests)

    assert "pickle_refused: optimizer.pt" in run("push", folder, code=1).stderr
    assert len(ready.requests) == before


# --- wait -------------------------------------------------------------------------


def move(name, state, version_state="onboarding", reason_code="", log=""):
    def step(version):
        version["state"] = version_state
        one = next(one for one in version["steps"] if one["name"] == name)
        one |= {"state": state, "reason_code": reason_code, "log": log}

    return step


def test_wait_tells_each_step_until_review(ready, folder):
    ready.onboarding = [
        move("verify", "running"),
        move("verify", "succeeded"),
        move("benchmark", "succeeded"),
        move("review", "running", "in_review"),
    ]

    result = run("push", folder, "--wait", "--json")

    told = [line.split() for line in result.stderr.splitlines() if line.startswith("  ")]
    assert told[-4:] == [
        ["verify", "running"],
        ["verify", "succeeded"],
        ["benchmark", "succeeded"],
        ["review", "running"],
    ]
    assert json.loads(result.stdout)["state"] == "in_review"


def test_wait_goes_on_to_the_channel_where_nobody_reviews(ready, folder):
    def publish(version):
        version["state"], version["channels"] = "approved", ["prod"]

    ready.onboarding = [move("review", "succeeded", "onboarding"), publish]

    assert "acme/digits:1 approved" in run("push", folder, "--wait").stdout


def test_wait_ends_with_the_reason_of_a_failure(ready, folder):
    ready.onboarding = [move("validate", "failed", "failed", "onnx_custom_op", "A\nEvilOp.")]

    result = run("push", folder, "--wait", code=1)

    assert result.stderr.splitlines()[-1] == (
        "error: onnx_custom_op: The step validate failed. EvilOp."
    )


def test_wait_has_an_end(ready, folder):
    result = run("push", folder, "--wait", "--timeout=1", code=1)

    assert result.stderr.splitlines()[-1].startswith("error: deadline:")


# --- resume -----------------------------------------------------------------------


def cut_parts(platform, keep):
    """Let the first parts arrive and cut every later one, in the order they come."""
    seen = []

    def fault(method, path):
        if method != "PUT" or "/parts/" not in path:
            return None
        if path not in seen:
            seen.append(path)
        return "cut" if seen.index(path) >= keep else None

    platform.fault = fault


def interrupt(platform, folder, keep=1):
    cut_parts(platform, keep)
    result = run("push", folder, "--threads=1", code=1)
    assert result.stderr.splitlines()[-1].startswith("error: unreachable:")
    platform.fault = lambda method, path: None
    platform.requests.clear()


def test_a_cut_push_goes_on_where_it_stopped(ready, folder):
    interrupt(ready, folder, keep=2)

    result = run("push", folder)

    assert "Going on: 2 parts are there already." in result.stderr
    assert len(ready.sent_parts()) == 1
    assert len(ready.uploads) == 1
    plain, _ = ready.open_upload(only_upload(ready))
    assert plain == plain_files(folder)


def test_an_upload_that_was_begun_under_the_key_before_is_gone_on_with(ready, folder):
    interrupt(ready, folder, keep=2)
    ready.rotate()

    result = run("push", folder)

    assert "Going on: 2 parts are there already." in result.stderr
    assert len(ready.uploads) == 1
    ready.open_upload(only_upload(ready))


def test_but_not_by_who_never_pinned_that_key(ready, folder, config):
    interrupt(ready, folder, keep=2)
    ready.rotate()
    pins = {ready.url: base64.b64encode(ready.public_key).decode()}
    (config.root / "platforms.json").write_text(json.dumps(pins))

    result = run("push", folder, code=1)

    assert result.stderr.splitlines()[-1].startswith("error: platform_signature_invalid:")
    assert ready.sent_parts() == []


def test_the_state_of_a_cut_push_holds_no_key(ready, folder, config):
    interrupt(ready, folder)
    state = {path: path.read_bytes() for path in config.uploads.iterdir()}
    run("push", folder)

    _, dek = ready.open_upload(only_upload(ready))
    assert {path.suffix for path in state} == {".json", ".parts"}
    for content in state.values():
        assert dek not in content
        assert base64.b64encode(dek) not in content
        assert dek.hex().encode() not in content


def test_state_files_are_private(ready, folder, config):
    interrupt(ready, folder)

    assert {stat.S_IMODE(path.stat().st_mode) for path in config.uploads.iterdir()} == {0o600}


def test_a_part_whose_answer_was_lost_counts_as_sent(ready, folder):
    """The platform has it, byte for byte: it is not sealed again."""
    ready.fault = lambda method, path: (
        "cut_after" if method == "PUT" and path.endswith("files/0/parts/0") else None
    )
    run("push", folder, "--threads=1", code=1)
    ready.fault = lambda method, path: None
    ready.requests.clear()

    run("push", folder)

    assert [path.split("/files/")[1] for path in sorted(ready.sent_parts())] == [
        "1/parts/0",
        "2/parts/0",
    ]


def change_byte(path):
    """Another content of the same size, with the old time: only reading it can tell."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_changed_source_starts_over(ready, folder):
    interrupt(ready, folder, keep=2)
    change_byte(folder / "weights0.bin")

    result = run("push", folder)

    assert "Starting over: a file has changed since." in result.stderr
    assert sorted(one["state"] for one in ready.uploads.values()) == ["aborted", "complete"]
    assert len(ready.sent_parts()) == 3
    plain, _ = ready.open_upload(only_upload(ready))
    assert plain == plain_files(folder)


def test_the_hash_of_the_source_is_what_tells(ready, folder, monkeypatch):
    """Negative control: without it, a version would be sealed from two states."""
    interrupt(ready, folder, keep=2)
    before = plain_files(folder)
    change_byte(folder / "weights0.bin")
    known = {
        hashlib.sha256((folder / "weights0.bin").read_bytes()).hexdigest(): hashlib.sha256(
            before["weights0.bin"]
        ).hexdigest()
    }
    real = FolderSources._hash_part
    monkeypatch.setattr(
        FolderSources, "_hash_part", lambda *args: known.get(real(*args), real(*args))
    )

    run("push", folder)

    plain, _ = ready.open_upload(only_upload(ready))
    assert plain == before
    assert plain != plain_files(folder)


@pytest.mark.parametrize("change", ["longer", "added", "removed"])
def test_other_files_start_over(ready, folder, change):
    interrupt(ready, folder)
    if change == "longer":
        with (folder / "weights1.bin").open("ab") as file:
            file.write(b"x")
    else:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        if change == "added":
            model.graph.initializer.append(external_tensor("weights2.bin"))
            (folder / "weights2.bin").write_bytes(b"more")
        else:
            del model.graph.initializer[1]
            (folder / "weights1.bin").unlink()
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    result = run("push", folder)

    assert "Starting over: the files are others than before." in result.stderr
    assert len(ready.uploads) == 2


def test_fresh_starts_over(ready, folder):
    interrupt(ready, folder)

    run("push", folder, "--fresh")

    assert sorted(one["state"] for one in ready.uploads.values()) == ["aborted", "complete"]


@pytest.mark.parametrize("state", ["aborted", "expired", "gone"])
def test_an_upload_that_the_platform_gave_up_starts_over(ready, folder, state):
    interrupt(ready, folder)
    [upload_id] = ready.uploads
    if state == "gone":
        del ready.uploads[upload_id]
    else:
        ready.uploads[upload_id]["state"] = state

    run("push", folder)

    assert only_upload(ready) != upload_id


def test_another_identity_starts_over(ready, folder, config):
    interrupt(ready, folder)
    (config.root / "identity.json").unlink()

    assert "another identity" in run("push", folder).stderr


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format":1}', b"\xff"])
def test_a_damaged_state_is_no_dead_end(ready, folder, config, damage):
    interrupt(ready, folder)
    [path] = config.uploads.glob("*.json")
    path.write_bytes(damage)

    run("push", folder)

    assert sorted(one["state"] for one in ready.uploads.values()) == ["complete", "open"]
    assert ready.open_upload(only_upload(ready))[0] == plain_files(folder)


def test_a_lost_last_answer_is_asked_for_again(ready, folder):
    ready.fault = lambda method, path: "cut_after" if path.endswith("/complete") else None

    result = run("push", folder, "--json")

    assert json.loads(result.stdout)["state"] == "onboarding"
    assert len([path for _, path in ready.requests if path.endswith("/complete")]) == 1


def push_cut_at_the_end(ready, folder):
    """The upload is complete, and the client has not heard of it."""
    ready.fault = lambda method, path: (
        "cut_after"
        if path.endswith("/complete")
        else "cut"
        if method == "GET" and "/uploads/" in path
        else None
    )
    run("push", folder, code=1)
    ready.fault = lambda method, path: None


def test_a_push_that_was_complete_is_not_repeated(ready, folder):
    push_cut_at_the_end(ready, folder)

    result = run("push", folder, "--json")

    assert "complete already" in result.stderr
    assert json.loads(result.stdout)["version"] == 1
    assert len(ready.versions) == 1


def test_a_model_that_changed_after_a_complete_push_is_a_new_version(ready, folder):
    push_cut_at_the_end(ready, folder)
    os.utime(folder / "model.onnx", ns=(1, 1))

    result = run("push", folder, "--json")

    assert "others than in the last push" in result.stderr
    assert json.loads(result.stdout)["version"] == 2
    assert len(ready.versions) == 2


def test_a_key_is_not_sent_in_clear_over_a_network(platform):
    words = ("predict", "acme/toy", "--input", "x=1", "--key", "sk_live_x")

    refused = run(*words, "--gateway", "http://gateway.example", code=1)

    assert "not encrypted" in refused.stderr


def test_a_file_that_changes_during_the_push_spoils_it(ready, folder):
    def fault(method, path):
        if path.endswith("files/2/parts/0"):
            (folder / "weights0.bin").write_bytes(b"x" * (len(CANARY) * 1000 + 1))

    ready.fault = fault

    result = run("push", folder, "--threads=1", code=1)

    assert result.stderr.splitlines()[-1].startswith("error: source_changed:")
    assert [one["state"] for one in ready.uploads.values()] == ["aborted"]


def test_a_killed_push_goes_on(ready, folder, config):
    """kill -9 in the middle of the second part; then the same command again."""
    stuck, go_on = threading.Event(), threading.Event()

    def fault(method, path):
        if path.endswith("files/1/parts/0") and not go_on.is_set():
            stuck.set()
            go_on.wait(60)
            return "cut"
        return None

    ready.fault = fault
    command = [sys.executable, "-m", "strongroom.cli", "push", str(folder), "--threads=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert stuck.wait(60)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    go_on.set()
    ready.requests.clear()

    result = run("push", folder)

    assert "Going on: 1 parts are there already." in result.stderr
    assert len(ready.sent_parts()) == 2
    assert len(ready.uploads) == 1
    plain, _ = ready.open_upload(only_upload(ready))
    assert plain == plain_files(folder)


def test_a_line_that_a_cut_interrupted_is_skipped(tmp_path):
    store = upload_state.UploadStore(tmp_path, web_url="u", model="m", root=tmp_path)
    part = upload_state.SentPart("a" * 64, "b" * 64)
    store.add_part(0, 1, part)
    with next(tmp_path.glob("*.parts")).open("a") as file:
        file.write('[0, 2, "cc')

    assert store.load_parts() == {(0, 1): part}


# --- the rest ---------------------------------------------------------------------


def test_versions_and_publish(ready, folder):
    run("push", folder)

    assert json.loads(run("versions", "acme/digits", "--json").stdout)[0]["version"] == 1
    assert "onboarding" in run("versions", "acme/digits").stdout
    run("publish", "acme/digits", "1", "--channel=staging")
    assert ready.channels == {("acme/digits", "staging"): {"version": 1}}
    assert run("versions", "digits", code=1).stderr.startswith("error: model_invalid:")


def test_predict_reads_values_and_files(platform, tmp_path):
    log_in(platform)
    (tmp_path / "all.json").write_text('{"image": [[1, 2]], "text": "old"}')
    (tmp_path / "note.txt").write_text("42")
    flags = ["--key", API_KEY, "--input", f"@{tmp_path / 'all.json'}"]

    result = run(
        "predict",
        "acme/digits",
        *flags,
        "--input=age=42",
        "--input=name=Ada",
        '--input=digits="42"',
        f"--input=text=@{tmp_path / 'note.txt'}",
    )

    assert json.loads(result.stdout) == {
        "echo": {"image": [[1, 2]], "text": "42", "age": 42, "name": "Ada", "digits": "42"}
    }
    assert "0.0005 dollars" in result.stderr


def test_predict_with_a_version_and_raw(platform):
    log_in(platform)

    result = run("predict", "acme/digits:3", "--raw", env={"STRONGROOM_API_KEY": API_KEY})

    assert json.loads(result.stdout)["model"] == "acme/digits:3"
    assert platform.predictions[0][1] == {"input": {}, "version": "acme/digits:3"}


def test_predict_saves_what_can_be_heard(platform, tmp_path):
    log_in(platform)
    words = ["predict", "acme/voice", "--key", API_KEY]
    path = tmp_path / "heard" / "abcdefghijklmnopqrstuvwxyz-speech.wav"

    saved = run(*words, "--save", str(tmp_path / "heard"))
    again = run(*words, "--save", str(tmp_path / "heard"), "--raw")
    plain = run(*words)

    assert json.loads(saved.stdout) == {"speech": str(path), "seconds": 1.5}
    assert path.read_bytes() == b"RIFF"
    # A file that is there is kept; the answer is paid, and is shown.
    assert json.loads(again.stdout)["output"]["speech"].startswith("data:audio/wav")
    assert "written to: File exists." in again.stderr
    assert json.loads(plain.stdout)["speech"] == "data:audio/wav;base64,UklGRg=="


def test_a_prediction_for_later_is_fetched_and_canceled(platform, tmp_path):
    log_in(platform)
    key = ["--key", API_KEY]

    made = run("submit", "acme/voice", *key, "--priority", "batch")
    prediction = json.loads(made.stdout)
    shown = run("prediction", "show", prediction, *key)
    done = run("prediction", "wait", prediction, *key, "--save", str(tmp_path))

    assert platform.predictions[0][1] == {"input": {}, "priority": "batch"}
    assert f"strongroom prediction wait {prediction}" in made.stderr
    assert json.loads(shown.stdout)["progress"]["position"] == 2
    assert json.loads(done.stdout)["speech"].endswith(".wav")
    # Each place is told once, however often it was looked at.
    assert done.stderr.count("queued, number 2 in the queue, some 7 s to go") == 1
    assert "running" in done.stderr
    assert "0.0005 dollars" in done.stderr

    canceled = run("prediction", "cancel", prediction, *key)
    assert "canceled" in canceled.stderr
    assert "not_found" in run("prediction", "show", "x" * 26, *key, code=1).stderr


def test_a_prediction_for_later_without_a_known_priority_is_refused(platform):
    log_in(platform)

    refused = run("submit", "acme/voice", "--key", API_KEY, "--priority", "soon", code=2)

    assert "'high', 'normal', 'batch'" in refused.stderr
    assert platform.predictions == []


def test_predict_saves_into_no_file_and_pays_for_nothing(platform, tmp_path):
    log_in(platform)
    (tmp_path / "heard").write_text("")

    refused = run(
        "predict", "acme/voice", "--key", API_KEY, "--save", str(tmp_path / "heard"), code=2
    )

    assert "is a file" in refused.stderr
    assert platform.predictions == []


def test_predict_with_a_tag(platform):
    log_in(platform)
    words = ["predict", "acme/digits", "--key", API_KEY]

    run(*words, "--tag", "team-7:nightly")
    run(*words)
    refused = run(*words, "--tag", "two words", code=1)

    assert platform.tags == ["team-7:nightly", None]
    assert refused.stderr.startswith("error: tag_invalid:")


@pytest.mark.parametrize(
    ("_case", "args", "told"),
    [
        ("no key", [], "--key"),
        ("no name", ["--key=x", "--input==3"], "--input"),
        ("no file", ["--key=x", "--input=@nowhere.json"], "nowhere.json"),
        ("no value file", ["--key=x", "--input=a=@nowhere.txt"], "nowhere.txt"),
        ("not an object", ["--key=x", "--input=@LIST"], "object"),
    ],
)
def test_predict_used_wrongly(platform, tmp_path, _case, args, told):
    (tmp_path / "list.json").write_text("[1]")
    args = [one.replace("LIST", str(tmp_path / "list.json")) for one in args]

    result = run("predict", "acme/digits", "--gateway", platform.url, *args, code=2)

    assert told in result.stderr
    assert platform.predictions == []


def test_predict_refused(platform):
    flags = ["--gateway", platform.url]

    result = run("predict", "acme/digits", *flags, "--key=sk_wrong", code=1)
    assert result.stderr.startswith("error: unauthenticated:")
    assert "sk_wrong" not in result.output

    result = run("predict", "acme/broken", *flags, "--key", API_KEY, code=1)
    assert result.stderr.startswith("error: model_not_ready:")


def test_every_command_has_help():
    def visit(command, path):
        help_text = run(*path, "--help").stdout
        assert command.help, path
        for option in command.params:
            is_described = isinstance(option, click.Argument) or getattr(option, "help", None)
            assert is_described, (path, option.name)
        assert len(help_text) > 100
        for name, one in getattr(command, "commands", {}).items():
            visit(one, [*path, name])

    visit(main, [])


def test_the_module_runs_as_a_program():
    answer = subprocess.run(
        [sys.executable, "-m", "strongroom.cli", "--version"], capture_output=True, check=True
    )

    assert answer.stdout.endswith(b"0.1.0\n")


def test_transport_sleeps_really():
    assert Transport("http://127.0.0.1:9")._sleep is time.sleep
