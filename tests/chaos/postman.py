"""Who brings webhooks while all die, and what must have come in the end."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import time_machine
from standardwebhooks.webhooks import WebhookVerificationError

from inference.models import WebhookDelivery, WebhookEvent
from inference.selectors.webhook import name_message
from tests.gateway.processes import ROOT, eventually
from tests.inference.hooked import make_due
from tests.inference.receivers import Receiver

# Of all that is due, once nothing dies any more.
BROUGHT_PER_S_MIN = 10


class Postman:
    """A place for it: another process sits there after each death."""

    def __init__(self, folder: Path, database_url: str, *, is_hasty: bool = False) -> None:
        self._log_path = folder / "postman.log"
        self._command = [
            sys.executable,
            "-m",
            "tests.chaos.postman_process",
            *["hasty"][: int(is_hasty)],
        ]
        # The run's own settings, keys included, but for the database.
        self._env = os.environ | {
            "DJANGO_SETTINGS_MODULE": "marketplace.settings",
            "STRONGROOM_DATABASE_URL": database_url,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}",
        }
        self.start()

    def start(self) -> None:
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self._env,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")


def bring_all(postman: Postman) -> None:
    """The receiver is well again, and the days of the retries pass."""
    waiting = WebhookDelivery.objects.filter(state="waiting")
    events = WebhookEvent.objects.all()

    def check() -> None:
        make_due()
        assert not events.filter(spread_at=None).exists(), postman.log()[-2000:]
        assert not waiting.exists(), postman.log()[-2000:]

    eventually(check, timeout_s=60 + 2 * events.count() / BROUGHT_PER_S_MIN)


def list_missing(receiver: Receiver) -> list[str]:
    """The messages about all there is to tell that have never come, or came as nobody signs."""
    came = set()
    for one in receiver.seen:
        # Its receivers refuse what is older than five minutes.
        sent_at = datetime.fromtimestamp(int(one.headers["webhook-timestamp"]), UTC)
        with time_machine.travel(sent_at, tick=False), suppress(WebhookVerificationError):
            one.verify(receiver.secret)
            came.add(one.headers["webhook-id"])
    return sorted({name_message(one) for one in WebhookEvent.objects.all()} - came)
