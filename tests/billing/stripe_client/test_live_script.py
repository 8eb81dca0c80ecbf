"""The script that asks Stripe itself, pointed at the stand-in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fakestripe.process import ROOT, SECRET_KEY


def run(key: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if "STRIPE" not in name}
    if key is not None:
        env["STRONGROOM_STRIPE_SECRET_KEY"] = key
    return subprocess.run(
        [sys.executable, "-m", "bench.stripe_live", *arguments],
        cwd=ROOT,
        env=env | {"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_all_flows_go_through_and_are_ended(fake):
    done = run(SECRET_KEY, "--api-base", fake.url)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert "all as expected" in done.stdout
    assert done.stdout.count("ok      ") == 10
    assert done.stdout.count("undone  ") == 3
    objects = fake.state()["objects"]
    assert [item["status"] for item in objects["subscription"]] == ["canceled"]
    assert {item["customer"] for item in objects["payment_method"]} == {None}


def test_what_goes_wrong_is_said(fake):
    fake.order("faults", kind="rate_limit", method="POST", path="/v1/refunds", times=4)
    done = run(SECRET_KEY, "--api-base", fake.url)

    assert done.returncode == 1
    assert "FAILED  refund: StripeUnavailableError" in done.stdout
    assert "1 steps went wrong" in done.stdout
    assert SECRET_KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("key", ["sk_live_1", "rk_live_1", "pk_test_1", "", None])
def test_only_keys_of_test_mode_are_taken(fake, key):
    done = run(key, "--api-base", fake.url)

    assert done.returncode == 2
    assert "must be a key of test mode" in done.stderr
    assert fake.state()["counts"] == {}
