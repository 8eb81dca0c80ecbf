"""The running product, as the seeding sees it: only what people and programs can see too.

Everything that a person would do goes through the same doors: the command line client, the
management API, `manage.py`, the payment page. The database is read in one place, for names
inside Triton that no API tells.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg

from embedded.environment import ROOT
from embedded.home import Home
from strongroom.client import ApiError, Client, Transport, WebClient

_POLL_EVERY_S = 0.5
_COMMAND_TIMEOUT_S = 900.0
_PAGE_TIMEOUT_S = 30.0


class DemoError(Exception):
    """The demo cannot be set up, or an answer was wrong; one line for people."""


@dataclass(frozen=True)
class Platform:
    """A running home."""

    home: Home
    web_url: str
    gateway_url: str
    database_url: str
    has_stand_in: bool

    @classmethod
    def find(cls, home: Home) -> Platform:
        """Read the addresses from the home."""
        env = json.loads(home.env_file.read_text())
        return cls(
            home=home,
            web_url=env["STRONGROOM_WEB_URL"],
            gateway_url=env["STRONGROOM_GATEWAY_URL"],
            database_url=env["STRONGROOM_DATABASE_URL"],
            has_stand_in="STRONGROOM_STRIPE_API_BASE" in env,
        )

    def web(self, token: str = "") -> WebClient:
        """The management API."""
        return WebClient(Transport(self.web_url, token))

    def client(self, api_key: str) -> Client:
        """The gateway, for one who pays."""
        return Client(self.gateway_url, api_key)

    def manage(self, *arguments: str) -> str:
        """Run a management command; returns what it printed."""
        return _run([sys.executable, str(ROOT / "manage.py"), *arguments], {})

    def strongroom(self, *arguments: str, secret: Mapping[str, str] | None = None) -> str:
        """Run the command line client as the demo's creator."""
        config = {"STRONGROOM_CONFIG_DIR": str(self.home / "creator")}
        command = [sys.executable, "-m", "strongroom.cli", *arguments]
        return _run(command, config | dict(secret or {}))

    def build(self, module: str, folder: Path) -> dict[str, Any]:
        """Run a model's builder in a process of its own; returns what it found out."""
        # Else torch leaves a folder of its own in /tmp.
        scratch = {"TORCHINDUCTOR_CACHE_DIR": str(folder.parent / "torch")}
        output = _run([sys.executable, "-m", f"embedded.demo.{module}", str(folder)], scratch)
        return dict(json.loads(output.splitlines()[-1]))

    def is_served(self, model: str, api_key: str) -> bool:
        """Whether the gateway would take a prediction for a model now."""
        url = f"{self.gateway_url}/v2/models/{model}/ready"
        try:
            answer = httpx.get(url, headers={"Authorization": f"Bearer {api_key}"}, timeout=10)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def list_nodes(self) -> list[dict[str, str]]:
        """Nodes and where their Triton listens."""
        rows = self._query(
            "SELECT id, triton_http_url, triton_grpc_url FROM inference_node"
            " WHERE revoked_at IS NULL ORDER BY id"
        )
        return [{"id": str(row[0]), "triton_http": row[1], "triton_grpc": row[2]} for row in rows]

    def find_triton_name(self, version_id: str) -> str:
        """The name under which Triton serves a version; empty if it does not."""
        rows = self._query(
            "SELECT id FROM inference_replica WHERE version_id = %s AND purpose = 'serve'"
            " AND state = 'ready' AND wanted ORDER BY id LIMIT 1",
            version_id,
        )
        return f"r{rows[0][0].hex}" if rows else ""

    def _query(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(statement.encode(), values).fetchall()


def pay(checkout_url: str) -> None:
    """Press the button of the stand-in's payment page, with the card it proposes.

    Raises:
        DemoError: The page did not take the payment.
    """
    with httpx.Client(timeout=_PAGE_TIMEOUT_S) as browser:
        page = browser.get(checkout_url)
        page.raise_for_status()
        paid = browser.post(f"{checkout_url}/pay", data={"card_number": "4242424242424242"})
    # A browser would go on to the page of ours that it is sent to.
    if paid.status_code not in (200, 302, 303):
        raise DemoError(f"the payment page answered {paid.status_code}")


def wait_for(what: str, is_done: Callable[[], bool], timeout_s: float) -> None:
    """Ask until it is so.

    Raises:
        DemoError: It took too long.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if is_done():
                return
        except ApiError as error:
            # A part that is just restarting is waited for like any other.
            if 0 < error.status < 500:
                raise
        if time.monotonic() > deadline:
            raise DemoError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(_POLL_EVERY_S)


def _run(command: list[str], env: Mapping[str, str]) -> str:
    outcome = subprocess.run(
        command,
        env={**os.environ, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT_S,
        check=False,
    )
    if outcome.returncode != 0:
        print(outcome.stderr, file=sys.stderr, flush=True)
        last = (outcome.stderr.strip().splitlines() or ["no reason given"])[-1]
        shown = " ".join(command[2:] if command[1] == "-m" else command[1:])
        raise DemoError(f"{Path(shown).name if '/' in shown else shown}: {last}")
    return outcome.stdout
