"""What is remembered: privately, in one step, and never overwritten by accident."""

import json
import stat
import threading

import pytest

from strongroom.config import ConfigError, ConfigFolder, Profile, find_folder, write_json
from strongroom.sealing import signature, wrap

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
    (config.root / "profile.json").write_bytes(b"\xff")
    assert refused_code(config.load_profile) == "config_damaged"


def test_pins_are_kept_by_platform_and_never_moved(config):
    one, other = (signature.derive_public_key(signature.generate_signing_key()) for _ in range(2))

    assert config.pin_platform(URL, one) is True
    assert config.pin_platform(URL, one) is False
    assert config.pin_platform("http://127.0.0.1:8000", other) is True
    assert refused_code(config.pin_platform, URL, other) == "platform_key_changed"
    assert config.find_pin(URL) == one


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    with pytest.raises(TypeError):
        write_json(path, {"a": object()})

    assert json.loads(path.read_text()) == {"a": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]
