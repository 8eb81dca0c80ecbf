"""The worker that brings webhooks, as a process that may be killed at any moment.

    python -m tests.chaos.postman

It stands on the servers that its environment names, and goes on until it is ended.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import django
from django.db import DatabaseError, InterfaceError, connection

from tests.gateway.processes import ROOT

PAUSE_S = 0.1
logger = logging.getLogger(__name__)


class Postman:
    """A place for it: another process sits there after each death."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._log_path = folder / "postman.log"
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
                [sys.executable, "-m", "tests.chaos.postman"],
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


def main() -> None:
    django.setup()
    from inference.services.webhook_delivery import send_webhooks

    while True:
        try:
            send_webhooks()
        except (DatabaseError, InterfaceError) as error:
            # Its scheduler calls it again, as the product's does.
            logger.warning("%s", error)
            connection.close()
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
