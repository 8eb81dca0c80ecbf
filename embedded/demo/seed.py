"""Set the demo up through the real path: push, onboard, approve, serve, buy credit.

Every step is skipped if the state says that it is done, so a cut costs one step.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedded.demo.catalogue import MODELS, DemoModel
from embedded.demo.platform import DemoError, Platform, pay, wait_for
from embedded.demo.state import SeedState
from embedded.home import write_private

TOKEN_NAME = "demo"  # noqa: S105 - the name under which the token is listed
# The largest demo model is converted, sealed, loaded and measured within minutes.
ONBOARDING_TIMEOUT_S = 900.0
SERVING_TIMEOUT_S = 300.0
CREDIT_TIMEOUT_S = 120.0
CREDIT_CENTS = 2_500
APPROVAL = "A model of the demo, made by bin/up from openly licensed data."

# States of a version that lead nowhere.
_LOST = frozenset({"refused", "failed", "withdrawn"})


def seed(platform: Platform, state: SeedState) -> None:
    """Do what is missing.

    Raises:
        DemoError: A step failed.
    """
    if state.scratch:
        shutil.rmtree(state.scratch, ignore_errors=True)
        state.scratch = ""
        state.save()
    _make_accounts(platform, state)
    for model in MODELS:
        if model.name not in state.models:
            _push(platform, state, model)
    for model in MODELS:
        if not state.models[model.name].get("approved"):
            _approve(platform, state, model)
    _make_key(platform, state)
    if not state.has_search_key:
        platform.manage("put_search_key")
        state.has_search_key = True
        state.save()
    if not state.has_credit:
        _buy_credit(platform, state)


def wait_served(platform: Platform, state: SeedState) -> None:
    """Wait until the gateway would take a prediction for each model."""
    for model in MODELS:
        print(f"waiting for {model.name} to be served", flush=True)
        wait_for(
            f"{model.name} is served",
            lambda name=model.name: platform.is_served(name, state.api_key),  # type: ignore[misc]
            SERVING_TIMEOUT_S,
        )


def write_demo(platform: Platform, state: SeedState) -> None:
    """Write `demo.json`: where everything is, and how to get in."""
    people = {
        role: {name: state.accounts[role][name] for name in ("email", "password")}
        for role in ("creator", "consumer", "admin")
    }
    people["creator"]["api_token"] = state.accounts["creator"]["api_token"]
    people["consumer"]["api_key"] = state.api_key
    models = [
        {
            "name": model.name,
            "version": state.models[model.name]["version"],
            "triton_name": platform.find_triton_name(state.models[model.name]["version_id"]),
            "example_input": state.models[model.name]["example"],
        }
        for model in MODELS
    ]
    addresses = {"web_url": platform.web_url, "gateway_url": platform.gateway_url}
    document = addresses | people | {"models": models, "nodes": platform.list_nodes()}
    write_private(platform.home.demo_file, document)


def _make_accounts(platform: Platform, state: SeedState) -> None:
    if not state.accounts:
        print("making accounts", flush=True)
        # New passwords where a cut left the accounts behind and nobody has the old ones.
        state.accounts = json.loads(platform.manage("seed_demo", "--reset-passwords"))
        state.save()
    if not state.consumer_token:
        person = state.accounts["consumer"]
        answer = platform.web().login(person["email"], person["password"], TOKEN_NAME)
        state.consumer_token = str(answer["token"])
        state.save()
    platform.strongroom(
        "login",
        "--url",
        platform.web_url,
        "--account",
        state.accounts["creator"]["account"],
        secret={"STRONGROOM_TOKEN": state.accounts["creator"]["api_token"]},
    )


def _push(platform: Platform, state: SeedState, model: DemoModel) -> None:
    with _scratch(state) as scratch:
        folder = scratch / "model"
        folder.mkdir()
        print(f"building {model.name}", flush=True)
        found = platform.build(model.module, folder)
        print(f"pushing {model.name}", flush=True)
        version = json.loads(platform.strongroom("push", str(folder), "--json", "--fresh"))
    state.models[model.name] = {
        **found,
        "version_id": version["id"],
        "version": version["version"],
    }
    state.save()


@contextlib.contextmanager
def _scratch(state: SeedState) -> Iterator[Path]:
    """A place for plain weights: never inside the home, gone as soon as they are sealed.

    Its name is kept meanwhile, so that the next start removes what a kill left behind.
    """
    with tempfile.TemporaryDirectory(prefix="strongroom-demo-") as name:
        state.scratch = name
        state.save()
        yield Path(name)
    state.scratch = ""
    state.save()


def _approve(platform: Platform, state: SeedState, model: DemoModel) -> None:
    entry = state.models[model.name]
    web = platform.web(state.accounts["creator"]["api_token"])

    def is_at_rest() -> bool:
        version = web.get_version(entry["version_id"])
        print(f"onboarding {model.name}: {_current_step(version)}", flush=True)
        if version["state"] in _LOST:
            raise DemoError(f"{model.name} was refused: {_find_reason(version)}")
        return version["state"] in ("in_review", "approved")

    wait_for(f"onboarding of {model.name}", is_at_rest, ONBOARDING_TIMEOUT_S)
    if web.get_version(entry["version_id"])["state"] == "in_review":
        decision = ("--approve", "--reason", APPROVAL, "--email", state.accounts["admin"]["email"])
        platform.manage("review_version", entry["version_id"], *decision)
    wait_for(
        f"publication of {model.name}",
        lambda: "prod" in web.get_version(entry["version_id"])["channels"],
        ONBOARDING_TIMEOUT_S,
    )
    entry["approved"] = True
    state.save()


def _current_step(version: dict[str, Any]) -> str:
    for step in version["steps"]:
        if step["state"] != "succeeded":
            return f"{step['name']} {step['state']}"
    return str(version["state"])


def _find_reason(version: dict[str, Any]) -> str:
    failed = [step for step in version["steps"] if step["reason_code"]]
    reasons = [f"{step['name']}: {step['reason_code']} {step['log'][-500:]}" for step in failed]
    return "; ".join(reasons) or str(version["refusal_reason"])


def _make_key(platform: Platform, state: SeedState) -> None:
    if not state.api_key:
        web = platform.web(state.consumer_token)
        account = state.accounts["consumer"]["account"]
        state.api_key = str(web.create_key(account, "demo", "live")["key"])
        state.save()


def _buy_credit(platform: Platform, state: SeedState) -> None:
    print("buying credit", flush=True)
    transport = platform.web(state.consumer_token).transport
    if not state.topup_id:
        body = {"account": state.accounts["consumer"]["account"], "amount_cents": CREDIT_CENTS}
        state.topup_id = str(transport.call("POST", "/api/topups", json=body)["id"])
        state.save()

    def find_topup() -> dict[str, Any]:
        return dict(transport.call("GET", f"/api/topups/{state.topup_id}"))

    topup = find_topup()
    if topup["state"] not in ("open", "credited"):
        state.topup_id = ""  # The next start opens another.
        state.save()
        raise DemoError(f"the payment for the demo's credit is {topup['state']}")
    if topup["state"] == "open" and not platform.has_stand_in:
        print(f"> Real Stripe: buy the demo's credit at {topup['checkout_url']}", flush=True)
        return
    if topup["state"] == "open":
        pay(topup["checkout_url"])
    wait_for("the credit", lambda: find_topup()["state"] == "credited", CREDIT_TIMEOUT_S)
    state.has_credit = True
    state.save()
