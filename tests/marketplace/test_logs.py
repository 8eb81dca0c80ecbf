"""One event is one line, in either form, whatever a stranger put into it."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from marketplace.core import logs
from marketplace.core.env import SettingError
from marketplace.core.errors import NotFoundError
from tests.gateway.processes import eventually

ROOT = Path(__file__).resolve().parents[2]
FORGED = "a\n2026-11-21T00:00:00.000000Z ERROR root forged"
NASTY = [
    FORGED,
    "a\r\nforged",
    "a\x85forged",
    "a\u2028forged\u2029",
    "a\x1b[2Jforged",
    "a\x0b\x0c\x1c\x1dforged",
    "a\x00forged",
    "half \ud800 of a pair",
    '"}\n{"level": "ERROR"',
]


@pytest.fixture(params=[logs.JSONFormatter, logs.TextFormatter])
def form(request) -> type[logging.Formatter]:
    return request.param


def write(formatter: logging.Formatter, *args, **how) -> str:
    """What a logger with this formatter writes."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger("shop")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        logger.error(*args, **how)
    finally:
        logger.removeHandler(handler)
    stream.flush()
    return stream.buffer.getvalue().decode()


def check_one_line(text: str) -> None:
    """One line for every reader; the negative control shows that it can fail."""
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    assert "\x00" not in text


@pytest.mark.parametrize("nasty", NASTY)
def test_no_text_begins_a_line_of_its_own(form, nasty):
    check_one_line(write(form(), "path %s", nasty))
    check_one_line(write(form(), nasty))
    check_one_line(write(form(), "request", extra={"fields": {"path": nasty}}))


def test_a_formatter_that_trusts_texts_is_noticed():
    with pytest.raises(AssertionError):
        check_one_line(write(logging.Formatter("%(levelname)s %(message)s"), "path %s", FORGED))


def test_tabs_and_other_letters_stay():
    assert "a\tb é 漢" in write(logs.TextFormatter(), "a\tb é 漢")
    assert json.loads(write(logs.JSONFormatter(), "a\tb é 漢"))["message"] == "a\tb é 漢"


def test_a_line_of_json_has_its_fields():
    fields = {"status": 201, "cost": None, "model": "maker/echo", "message": "not this"}
    document = json.loads(write(logs.JSONFormatter(), "said %d", 5, extra={"fields": fields}))

    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "ERROR",
        "logger": "shop",
        "message": "said 5",
        "status": 201,
        "cost": None,
        "model": "maker/echo",
    }


def test_the_request_of_a_thread_is_in_its_lines():
    token = logs.request_id.set("abc")
    try:
        assert json.loads(write(logs.JSONFormatter(), "x"))["request_id"] == "abc"
    finally:
        logs.request_id.reset(token)
    assert "request_id" not in json.loads(write(logs.JSONFormatter(), "x"))


def write_error(formatter: logging.Formatter, error: Exception) -> str:
    try:
        raise error
    except type(error) as caught:
        return write(formatter, "it failed: %s", caught, exc_info=True)


def test_a_traceback_is_part_of_its_event():
    document = json.loads(write_error(logs.JSONFormatter(), ValueError(FORGED)))
    assert "test_logs.py" in document["exception"]
    assert FORGED in document["exception"]

    first, *others = write_error(logs.TextFormatter(), ValueError(FORGED)).splitlines()
    assert " ERROR shop it failed: " in first
    assert len(others) > 2
    assert all(one.startswith("  | ") for one in others)


def test_the_text_of_errors_can_be_left_out(form):
    secret = "what the caller wrote"
    text = write_error(form(hides_errors=True), ValueError(secret))

    assert secret not in text
    assert "it failed: ValueError" in text
    assert "test_logs.py" in text
    assert "NotFoundError(not_found)" in write_error(form(hides_errors=True), NotFoundError(secret))
    assert secret not in write(form(hides_errors=True), ValueError(secret))
    assert secret not in write(form(hides_errors=True), "%(e)s", {"e": ValueError(secret)})
    # Where it is not asked for, the text is there.
    assert secret in write_error(form(), ValueError(secret))


def test_the_cause_of_a_hidden_error_is_hidden_too(form):
    secret = "what the caller wrote"
    try:
        try:
            raise ValueError(secret)
        except ValueError as error:
            raise KeyError(secret) from error
    except KeyError:
        text = write(form(hides_errors=True), "it failed", exc_info=True)
    assert secret not in text


@pytest.mark.parametrize("length", [logs.TEXT_LENGTH_MAX, logs.TEXT_LENGTH_MAX + 1])
def test_messages_are_cut(form, length):
    text = write(form(), "%s", "x" * length)

    assert text.count("x") == logs.TEXT_LENGTH_MAX
    assert ("cut)" in text) is (length > logs.TEXT_LENGTH_MAX)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "json"),
        ({"STRONGROOM_ENV": "production"}, "json"),
        ({"STRONGROOM_ENV": "development"}, "text"),
        ({"STRONGROOM_ENV": "development", "STRONGROOM_LOG_FORMAT": "json"}, "json"),
        ({"STRONGROOM_LOG_FORMAT": "text"}, "text"),
    ],
)
def test_the_form_comes_from_the_environment(monkeypatch, env, expected):
    for name in ("STRONGROOM_ENV", "STRONGROOM_LOG_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    assert logs.read_format() == expected


def test_unknown_forms_and_levels_are_refused(monkeypatch):
    monkeypatch.setenv("STRONGROOM_LOG_FORMAT", "xml")
    monkeypatch.setenv("STRONGROOM_LOG_LEVEL", "LOUD")
    with pytest.raises(SettingError, match="STRONGROOM_LOG_FORMAT"):
        logs.read_format()
    with pytest.raises(SettingError, match="STRONGROOM_LOG_LEVEL"):
        logs.read_level()
    monkeypatch.setenv("STRONGROOM_LOG_LEVEL", "debug")
    assert logs.read_level() == "DEBUG"


def run(code: str, **settings: str) -> str:
    """What another process of ours writes to its standard error."""
    env = {**os.environ, "STRONGROOM_LOG_FORMAT": "json", **settings}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stderr


def test_django_writes_the_same_form():
    code = "import django, logging; django.setup(); logging.getLogger('web').warning('a\\nb')"
    [line] = run(code, DJANGO_SETTINGS_MODULE="marketplace.settings").splitlines()

    assert json.loads(line)["message"] == "a\nb"
    assert json.loads(line)["logger"] == "web"


def test_celery_keeps_it():
    code = (
        "from marketplace.celery import app; import logging\n"
        "app.log.setup(loglevel='INFO'); logging.getLogger('worker').warning('a\\nb')"
    )
    [line] = run(code).splitlines()

    assert json.loads(line)["message"] == "a\nb"


def test_the_node_writes_events_as_members():
    code = (
        "from inference.node import log; import logging; log.configure()\n"
        "log.event(logging.getLogger('node'), 'cache.full', size_bytes=5, why='a\\nb')"
    )
    [line] = run(code).splitlines()
    document = json.loads(line)

    assert document["message"] == "cache.full"
    assert (document["size_bytes"], document["why"]) == ("5", "a\nb")


def test_a_request_of_the_web_names_itself(db, client, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "marketplace.middleware.ProblemMiddleware.__call__",
        lambda self, request: seen.append(logs.request_id.get()) or self.get_response(request),
    )
    response = client.get("/api/nothing")

    assert seen == [response["X-Request-Id"]]
    assert logs.request_id.get() == ""


def test_a_worker_says_that_it_is_ready(redis_url, tmp_path):
    """What `bin/up` waits for, on a line in our form as every other."""
    env = {**os.environ, "STRONGROOM_LOG_FORMAT": "json", "STRONGROOM_REDIS_URL": redis_url}
    command = [sys.executable, "-m", "celery", "--app", "marketplace.celery", "worker"]
    command += ["--loglevel", "INFO", "--pool", "solo", "--without-gossip", "--without-mingle"]
    log = tmp_path / "worker.log"
    with log.open("wb") as stderr:
        worker = subprocess.Popen(
            command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr
        )
    try:
        eventually(lambda: check_ready(log), timeout_s=60)
    finally:
        worker.terminate()
        worker.wait(30)
    for line in log.read_text().splitlines():
        assert line.startswith('{"time": '), line


def check_ready(log: Path) -> None:
    assert any(line.endswith(' ready."}') for line in log.read_text().splitlines())
