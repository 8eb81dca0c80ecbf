from __future__ import annotations

import json
import string
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.core import clock, env, errors, home, ids, keys, money, problem
from marketplace.core.address import client_address, parse_address, parse_network
from marketplace.core.reserved import is_reserved

# --- ids ---


def test_ids_are_version_7_and_grow_with_time():
    made = [ids.new_id() for _ in range(1_000)]

    assert {one.version for one in made} == {7}
    assert {one.variant for one in made} == {uuid.RFC_4122}
    assert len(set(made)) == 1_000
    times = [one.int >> 80 for one in made]
    assert times == sorted(times)


@given(st.integers(min_value=0, max_value=2**128 - 1))
def test_public_ids_return_to_the_same_id(value):
    text = ids.to_public(uuid.UUID(int=value))

    assert len(text) == 26
    assert set(text) <= set(string.ascii_lowercase + "234567")
    assert ids.from_public(text).int == value


@pytest.mark.parametrize("text", ["", "a" * 25, "a" * 27, "A" * 26, "1" * 26, "i" + "a" * 25])
def test_what_is_no_public_id_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        ids.from_public(text)


# --- keys ---


@pytest.mark.parametrize("prefix", keys.PREFIXES)
def test_a_key_has_prefix_body_and_checksum(prefix):
    secret = keys.generate(prefix)

    assert secret.text.startswith(prefix)
    assert len(secret.text) == len(prefix) + 38
    assert keys.is_well_formed(secret.text)
    assert secret.hint == secret.text[: len(prefix) + 4]
    assert len(secret.digest) == 32


def test_the_representation_of_a_key_does_not_show_it():
    secret = keys.generate(keys.LIVE)

    assert secret.text not in repr(secret)
    assert secret.text not in f"{secret}"
    assert secret.text not in str([secret])


def test_any_wrong_letter_breaks_the_checksum():
    text = keys.generate(keys.LIVE).text

    for index in range(len(keys.LIVE), len(text)):
        other = "a" if text[index] != "a" else "b"
        assert not keys.is_well_formed(text[:index] + other + text[index + 1 :])


@pytest.mark.parametrize(
    "text", ["", "sk_live_", "sk_live_" + "a" * 38, "pk_live_" + "a" * 38, "sk_live_" + "ä" * 38]
)
def test_what_is_no_key_is_not_well_formed(text):
    assert not keys.is_well_formed(text)


# --- money ---


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (250_000, "$0.00025"),
        (1_500_000_000, "$1.50"),
        (-10_000_000, "-$0.01"),
        (123_456_000_000_000, "$123,456.00"),
    ],
)
def test_amounts_for_people(nanos, text):
    assert money.format_nanos(nanos) == text
    assert nanos < 0 or money.parse_dollars(text) == nanos


@pytest.mark.parametrize(
    "text", ["", "abc", "-1", "1e400", "NaN", "Infinity", "0.0000000001", "1000001", "1e999999"]
)
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        money.parse_dollars(text)


@given(st.integers(min_value=0, max_value=2**62), st.integers(min_value=0, max_value=10_000))
def test_shares_always_add_up(gross, bps):
    share, rest = money.split_share(gross, bps)

    assert share + rest == gross
    assert share == gross * bps // 10_000
    assert rest >= 0


# --- clock ---


def test_times_on_the_wire_are_utc_with_microseconds():
    moment = datetime(2026, 11, 21, 4, 5, 6, 7, timezone(timedelta(hours=2)))

    assert clock.to_wire(moment) == "2026-11-21T02:05:06.000007Z"
    assert clock.utc_now().tzinfo is UTC


# --- env ---


def test_settings_are_typed():
    source = {"A": "text", "N": "7", "B": "TRUE", "EMPTY": ""}

    assert env.env_text("A", env=source) == "text"
    assert env.env_text("EMPTY", "default", env=source) == "default"
    assert env.env_int("N", env=source) == 7
    assert env.env_int("M", 3, env=source) == 3
    assert env.env_int("N", maximum=7, env=source) == 7
    with pytest.raises(env.SettingError, match="at most 6"):
        env.env_int("N", maximum=6, env=source)
    assert env.env_bool("B", env=source) is True
    assert env.env_bool("C", False, env=source) is False


@pytest.mark.parametrize(
    ("read", "source"),
    [
        (env.env_text, {}),
        (env.env_int, {"X": "seven"}),
        (env.env_int, {"X": "-1"}),
        (env.env_bool, {"X": "0"}),
        (env.env_secret, {"X_FILE": "/nowhere/at/all"}),
    ],
)
def test_a_wrong_setting_names_its_variable(read, source):
    with pytest.raises(env.SettingError, match=r"^X"):
        read("X", env=source)


def test_a_secret_can_come_from_a_file(tmp_path):
    (tmp_path / "secret").write_text("from the file\n")
    source = {"X": "from the variable", "X_FILE": str(tmp_path / "secret")}

    assert env.env_secret("X", env=source) == "from the file"
    assert env.env_secret("X", env={"X": "from the variable"}) == "from the variable"


# --- home ---


def test_the_home_fills_what_is_not_set(tmp_path, monkeypatch):
    monkeypatch.setenv("STRONGROOM_HOME", str(tmp_path))
    assert home.load_environment() is False

    (tmp_path / home.ENV_FILE).write_text(json.dumps({"HOME_A": "file", "HOME_B": "file"}))
    monkeypatch.setenv("HOME_A", "set")
    monkeypatch.delenv("HOME_B", raising=False)

    assert home.load_environment() is True
    assert (home.os.environ["HOME_A"], home.os.environ["HOME_B"]) == ("set", "file")
    monkeypatch.delenv("HOME_B")


@pytest.mark.parametrize(
    "words",
    [["--home", "/srv/one", "check"], ["check", "--home=/srv/one"], ["--home=/srv/one", "check"]],
)
def test_a_home_may_be_named_anywhere_on_the_command_line(words, monkeypatch):
    monkeypatch.setenv("STRONGROOM_HOME", "/srv/other")

    assert home.take_option(["manage.py", *words]) == ["manage.py", "check"]
    assert str(home.find_home()) == "/srv/one"


def test_other_options_are_left_alone(monkeypatch):
    monkeypatch.setenv("STRONGROOM_HOME", "/srv/other")
    words = ["manage.py", "check", "--deploy", "--homepage", "x"]

    assert home.take_option(words) == words
    assert str(home.find_home()) == "/srv/other"


@pytest.mark.parametrize("word", ["--home", "--home="])
def test_a_home_without_a_folder_is_refused(word):
    with pytest.raises(ValueError, match="--home needs a folder"):
        home.take_option(["manage.py", "check", word])


def test_without_a_setting_the_home_lies_beside_manage_py(monkeypatch):
    monkeypatch.delenv("STRONGROOM_HOME")

    assert home.find_home() == home.ROOT / "var"
    assert (home.ROOT / "manage.py").is_file()


# --- problem ---


def test_an_error_as_a_problem_document():
    error = errors.LimitExceededError("Slow down.", retry_after_s=7, limit=3)

    assert problem.problem(error, request_id="abc") == {
        "type": "https://strongroom.dev/problems/limit-exceeded",
        "title": "Too many requests.",
        "status": 429,
        "code": "limit_exceeded",
        "detail": "Slow down.",
        "request_id": "abc",
        "retry_after_s": 7,
        "limit": 3,
    }
    assert problem.problem_headers(error)["Retry-After"] == "7"


def test_a_lack_of_credit_is_not_worth_a_retry():
    assert problem.problem_headers(errors.InsufficientCreditError())["x-should-retry"] == "false"
    assert "x-should-retry" not in problem.problem_headers(errors.NotFoundError())


def test_every_code_belongs_to_one_error():
    def walk(cls: type) -> list[type]:
        return [cls] + [one for child in cls.__subclasses__() for one in walk(child)]

    import marketplace.errors  # noqa: F401 - makes its errors known

    own = [cls for cls in walk(errors.MarketplaceError) if cls.__module__.startswith("marketplace")]
    codes = [cls.code for cls in own]
    assert len(codes) == len(set(codes))


# --- address ---


@pytest.mark.parametrize(
    ("_case", "remote", "forwarded", "proxies", "expected"),
    [
        ("direct", "203.0.113.9", "", 0, "203.0.113.9"),
        ("direct with port", "203.0.113.9:4711", "", 0, "203.0.113.9"),
        ("a header is not believed", "203.0.113.9", "198.51.100.1", 0, "203.0.113.9"),
        ("one proxy", "10.0.0.1", "198.51.100.1", 1, "198.51.100.1"),
        ("a forged first entry", "10.0.0.1", "1.1.1.1, 198.51.100.1", 1, "198.51.100.1"),
        ("two proxies", "10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.2", 2, "198.51.100.1"),
        ("the header is missing", "10.0.0.1", "", 1, "10.0.0.1"),
        ("an IPv6 network", "2001:db8:1:2:3::4", "", 0, "2001:db8:1:2::/64"),
        ("IPv6 with port", "[2001:db8:1:2:3::4]:443", "", 0, "2001:db8:1:2::/64"),
        ("IPv4 in IPv6", "::ffff:203.0.113.9", "", 0, "203.0.113.9"),
        ("nonsense", "nonsense", "", 0, "unknown"),
        ("nothing", "", "", 0, "unknown"),
    ],
)
def test_the_client_address(_case, remote, forwarded, proxies, expected):
    assert client_address(remote, forwarded, proxies) == expected


@pytest.mark.parametrize(
    ("_text", "_expected"),
    [
        ("203.0.113.9", "203.0.113.9/32"),
        (" 203.0.113.9/24 ", "203.0.113.0/24"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
        ("::ffff:203.0.113.9", "203.0.113.9/32"),
        ("::/0", "::/0"),
    ],
)
def test_a_network_has_one_form(_text, _expected):
    assert str(parse_network(_text)) == _expected
    assert str(parse_network(_expected)) == _expected


@pytest.mark.parametrize(
    "_text", ["", "nonsense", "203.0.113.0/33", "203.0.113.256", "fe80::1%eth0", "fe80::%1/64", "1"]
)
def test_what_is_no_network(_text):
    with pytest.raises(ValueError, match=r"address|network|zone"):
        parse_network(_text)


@pytest.mark.parametrize(
    ("_text", "_expected"),
    [
        ("[::ffff:203.0.113.9]:443", "203.0.113.9"),
        (" [2001:db8::1]:443", "2001:db8::1"),
        ("203.0.113.9:1", "203.0.113.9"),
        ("/run/x.sock", None),
        ("", None),
    ],
)
def test_an_address_is_read_exactly(_text, _expected):
    found = parse_address(_text)

    assert (found and str(found)) == _expected


def test_names_that_speak_for_the_platform_are_reserved():
    assert is_reserved("admin")
    assert is_reserved("strongroom")
    assert not is_reserved("acme")
    assert not is_reserved("demo")
