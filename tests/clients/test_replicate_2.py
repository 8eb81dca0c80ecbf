"""The second version of Replicate's own client, with nothing changed but base URL and key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.conftest import check_books

pytestmark = pytest.mark.django_db(transaction=True)

# Where `bin/test` installs it, beside the environment that holds the first version.
PACKAGES = Path(sys.prefix) / "beside" / "replicate-2"
SCRIPT = Path(__file__).with_name("replicate_2.py")


def run_client(url: str, key: str) -> dict:
    assert (PACKAGES / "replicate").is_dir(), f"{PACKAGES} is missing: bin/test installs it"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGES)}
    # Without our own packages, which would be found first.
    command = [sys.executable, "-S", "-P", str(SCRIPT), url, key]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_second_client_library_of_replicate_works(shop, gateway):
    found = run_client(gateway.url, shop.key.text)

    assert found["version"].startswith("2.")
    assert found["run"]["echo"] == "hi"
    status, echo, made = found["created"]
    assert (status, echo) == ("succeeded", "by model")
    assert found["pinned"] == ["succeeded", "b"]
    assert found["got"] == made
    # It is over already, so there is nothing left to cancel.
    assert found["canceled"] == "succeeded"
    assert found["listed"] == 3
    assert (found["model"], found["account"]) == ("echo", shop.consumer.slug)
    assert found["hardware"] == ["cpu"]
    assert found["refusal"] == 422
    # The three answers were booked, and the refusal was not.
    answered = shop.client().get("/v1/predictions").json()["results"]
    assert made in [one["id"] for one in answered]
    check_books(shop, [one["id"] for one in answered])
