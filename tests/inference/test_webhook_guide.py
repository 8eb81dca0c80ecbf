"""The receivers of the guide, run as readers run them, against the real sender."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inference.core.webhook_signature import sign, write_secret
from inference.services import outgoing
from marketplace.core.clock import utc_now
from tests.marketplace import guides

KEY = bytes(range(32))
BODY = b'{"type":"prediction.completed","data":{"id":"\xc3\xbc"}}'
# Machines are slow, and Node has to be loaded first.
START_LIMIT_S = 60
PROGRAMS = {
    one.language: one.text
    for one in guides.all_blocks()
    if one.guide == "85-webhooks" and one.language in ("python", "javascript")
}


def find_node() -> str:
    """Node of the machine, else the one that comes with the browsers' driver."""
    import playwright

    return shutil.which("node") or str(Path(playwright.__file__).parent / "driver" / "node")


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def run(language: str, text: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The receiver at its address, with the process that prints what it has got."""
    path = folder / {"python": "receive.py", "javascript": "receive.mjs"}[language]
    path.write_text(text)
    command = [sys.executable] if language == "python" else [find_node()]
    port = find_free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PORT": str(port),
        "WEBHOOK_SECRET": write_secret(KEY),
    }
    process = subprocess.Popen(
        [*command, str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}/hook", process
    finally:
        process.kill()
        process.wait()


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    ends_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < ends_s:
        assert process.poll() is None, process.stderr and process.stderr.read()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("it does not listen")


def post(url: str, headers: dict[str, str], body: bytes = BODY) -> int:
    return outgoing.send(url, body=body, headers=headers, limit_s=30).status


def make_headers(*keys: bytes) -> dict[str, str]:
    return sign(keys or [KEY], message_id="msg_1", now=utc_now(), body=BODY)


def check(url: str) -> None:
    """What is signed is taken, and nothing else."""
    good = make_headers()
    assert post(url, good) == 204
    # While a secret changes there are two, in either order.
    assert post(url, make_headers(bytes(32), KEY)) == 204
    assert post(url, make_headers(KEY, bytes(32))) == 204
    assert post(url, good, BODY.replace(b"completed", b"started")) == 400
    assert post(url, make_headers(bytes(32))) == 400
    assert post(url, good | {"webhook-id": "msg_2"}) == 400
    for name in good:
        assert post(url, {one: text for one, text in good.items() if one != name}) == 400
    old = sign([KEY], message_id="msg_1", now=utc_now().replace(year=utc_now().year - 1), body=BODY)
    assert post(url, old) == 400
    assert post(url, good | {"webhook-signature": "v1,"}) == 400


@pytest.mark.parametrize("language", ["python", "javascript"])
def test_the_guide_s_receiver_takes_what_is_signed_and_nothing_else(tmp_path, language):
    with run(language, PROGRAMS[language], tmp_path) as (url, process):
        check(url)
        assert process.stdout is not None
        assert process.stdout.readline() == "prediction.completed\n"


@pytest.mark.parametrize(
    ("language", "old", "new"),
    [
        ("python", "event = webhook.verify(body, dict(self.headers))", 'event = {"type": "x"}'),
        ("javascript", "timingSafeEqual(given, wanted)", "true"),
        ("javascript", "!(Math.abs(Date.now() / 1000 - time) < 300)", "false"),
    ],
)
def test_control_a_receiver_that_does_not_check_is_noticed(tmp_path, language, old, new):
    assert old in PROGRAMS[language]
    with (
        run(language, PROGRAMS[language].replace(old, new), tmp_path) as (url, _),
        pytest.raises(AssertionError),
    ):
        check(url)
