"""What is remembered: privately, in one step, and never overwritten by accident."""

import json
import stat
import threading
from itertools import pairwise

import pytest

from strongroom.config import (
    PINS_MAX,
    ConfigError,
    ConfigFolder,
    Pin,
    Profile,
    find_folder,
    write_json,
)
from strongroom.platform_key import SUCCESSIONS_MAX, follow
from strongroom.sealing import signature, wrap
from strongroom.sealing.canonical import encode_base64
from tests.sdk.platform_server import succeed

URL = "https://strongroom.example.com"


@pytest.fixture
def config(tmp_path):
    return ConfigFolder(tmp_path / "config")


def refused_code(call, *args):
    with pytest.raises(ConfigError) as refused:
        call(*args)
    return refused.value.code


def test_the_folder_is_named_by_the_environment_or_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("STRONGROOM_CONFIG_DIR", str(tmp_path))
    assert find_folder() == tmp_path

    monkeypatch.delenv("STRONGROOM_CONFIG_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folder() == tmp_path / ".config" / "strongroom"


def test_a_profile_is_kept_and_its_token_not_shown(config):
    profile = Profile(URL, URL, "srt_secret", "acme", "ada@example.com")

    config.save_profile(profile)

    assert config.load_profile() == profile
    assert "srt_secret" not in repr(profile)


def test_an_identity_is_made_once_and_private(config):
    first = config.load_identity()

    assert config.load_identity() == first
    path = config.root / "identity.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in config.root.iterdir()] == ["identity.json"]
    assert first.fingerprint == signature.fingerprint(first.public_signing_key)
    assert first.recovery_kid == wrap.derive_kid(first.public_recovery_key)
    assert first.signing_key.hex() not in repr(first)
    assert str(first.recovery_key) not in repr(first)


def test_identities_made_at_once_are_the_same(config):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(config.load_identity())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert all(one == found[0] for one in found)


def test_a_browsers_recovery_file_is_an_identity_without_the_key_that_signs(config):
    recovery = wrap.generate_private_key()
    path = config.root / "identity.json"
    write_json(path, {"recovery_key": encode_base64(recovery)})

    identity = config.load_identity()

    assert identity.recovery_key == recovery
    assert config.load_identity() == identity
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # One that others could read is not made good by writing it again.
    write_json(path, {"recovery_key": encode_base64(recovery)})
    path.chmod(0o644)
    assert refused_code(config.load_identity) == "identity_exposed"
    assert "signing_key" not in path.read_text()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_an_identity_that_others_may_read_is_refused(config, mode):
    config.load_identity()
    (config.root / "identity.json").chmod(mode)

    assert refused_code(config.load_identity) == "identity_exposed"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"signing_key":"AA=="}', '{"signing_key":1,"recovery_key":2}']
)
def test_a_damaged_identity_is_refused_and_not_replaced(config, content):
    config.root.mkdir()
    path = config.root / "identity.json"
    path.write_text(content)
    path.chmod(0o600)

    assert refused_code(config.load_identity) == "config_damaged"
    assert path.read_text() == content


def test_damaged_files_are_told(config):
    config.root.mkdir()
    (config.root / "profile.json").write_text('{"web_url": 1, "what": 2}')
    (config.root / "platforms.json").write_text(json.dumps({URL: "AA=="}))

    assert refused_code(config.load_profile) == "config_damaged"
    assert refused_code(config.find_pin, URL) == "config_damaged"
    (config.root / "platforms.json").write_text(json.dumps({URL: {"key": "AA=="}}))
    assert refused_code(config.find_pin, URL) == "config_damaged"
    (config.root / "profile.json").write_bytes(b"\xff")
    assert refused_code(config.load_profile) == "config_damaged"


def make_keys(count):
    return [signature.generate_signing_key() for _ in range(count)]


def public(key):
    return signature.derive_public_key(key)


def chain(*keys):
    """Each key's statement about the next."""
    return [succeed(old, public(new)) for old, new in pairwise(keys)]


def test_pins_are_kept_by_platform_and_never_moved(config):
    one, other = map(public, make_keys(2))

    assert config.pin_platform(URL, one) is Pin.NEW
    assert config.pin_platform(URL, one) is Pin.SAME
    assert config.pin_platform("http://127.0.0.1:8000", other) is Pin.NEW
    assert refused_code(config.pin_platform, URL, other) == "platform_key_changed"
    assert config.find_pin(URL) == one


@pytest.mark.parametrize("pinned_at", [0, 1, 2])
def test_a_platform_is_followed_from_any_of_its_keys(config, pinned_at):
    keys = make_keys(4)
    config.pin_platform(URL, public(keys[pinned_at]))

    assert config.pin_platform(URL, public(keys[3]), chain(*keys)) is Pin.FOLLOWED

    assert config.find_pin(URL) == public(keys[3])
    # Those that were trusted before are kept, for uploads that are open.
    assert config.list_pins(URL) == tuple(map(public, reversed(keys[pinned_at:])))
    assert config.pin_platform(URL, public(keys[3]), []) is Pin.SAME
    newest = make_keys(1)[0]
    assert config.pin_platform(URL, public(newest), chain(*keys, newest)) is Pin.FOLLOWED
    assert config.find_pin(URL) == public(newest)


def test_what_does_not_lead_from_the_pinned_key_is_not_followed(config):
    keys, thief = make_keys(4), make_keys(1)[0]
    whole, mine = chain(*keys), public(thief)
    config.pin_platform(URL, public(keys[0]))
    last = public(keys[3])
    refused = {
        "no statement": (last, []),
        "no list": (last, None),
        "not a list": (last, "x"),
        "a gap in the chain": (last, [whole[0], whole[2]]),
        "the first one missing": (last, whole[1:]),
        "the wrong order": (last, whole[::-1]),
        "signed by another key": (mine, [succeed(thief, mine)]),
        "another key put in": (
            mine,
            [succeed(keys[0], public(keys[1])) | {"public_key": encode_base64(mine)}],
        ),
        "another signature": (last, [whole[0] | {"signature": whole[1]["signature"]}, *whole[1:]]),
        "another time": (last, [whole[0] | {"created_at": "2020-01-01T00:00:00Z"}, *whole[1:]]),
        "another id": (last, [whole[0] | {"kid": "x"}, *whole[1:]]),
        "no key": (last, [{}, 1, None, *whole[1:]]),
        "the chain of another": (mine, chain(thief, *make_keys(1), thief)),
        "leads elsewhere": (mine, whole),
    }

    for case, (shown, statements) in refused.items():
        with pytest.raises(ConfigError) as caught:
            config.pin_platform(URL, shown, statements)
        assert caught.value.code == "platform_key_changed", case
        assert config.list_pins(URL) == (public(keys[0]),), case
    # The control: the same pin, the same key, and the chain as it was made.
    assert config.pin_platform(URL, last, whole) is Pin.FOLLOWED


def test_a_statement_of_another_kind_names_nobody(config):
    """What a key signed as something else is no statement about its successor."""
    old, new = make_keys(2)
    config.pin_platform(URL, public(old))
    statement = succeed(old, public(new))
    payload = signature.platform_key_payload(
        **{name: statement[name] for name in ("kid", "public_key", "created_at")}
    )
    signed = signature.sign(old, signature.UPLOAD_KEY_TYPE, payload)
    forged = statement | {"signature": encode_base64(signed)}

    assert refused_code(config.pin_platform, URL, public(new), [forged]) == "platform_key_changed"


def test_a_chain_is_followed_up_to_its_limit():
    keys = make_keys(SUCCESSIONS_MAX + 2)
    statements = chain(*keys)

    assert len(follow(public(keys[0]), public(keys[-2]), statements[:-1])) == SUCCESSIONS_MAX + 1
    assert follow(public(keys[0]), public(keys[-1]), statements) is None


def test_so_many_keys_are_kept(config):
    keys = make_keys(PINS_MAX + 1)
    config.pin_platform(URL, public(keys[0]))

    config.pin_platform(URL, public(keys[PINS_MAX - 1]), chain(*keys[:PINS_MAX]))
    assert len(config.list_pins(URL)) == PINS_MAX
    config.pin_platform(URL, public(keys[PINS_MAX]), chain(*keys))

    assert config.list_pins(URL) == tuple(map(public, reversed(keys[1:])))


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    with pytest.raises(TypeError):
        write_json(path, {"a": object()})

    assert json.loads(path.read_text()) == {"a": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]
