"""The worker that brings webhooks, as a process that may be killed at any moment.

    python -m tests.chaos.postman_process [hasty]

It stands on the servers that its environment names, and goes on until it is ended. A hasty one is
wrong on purpose: it writes down that a message has arrived, and then sends it.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import django
from django.db import DatabaseError, InterfaceError, connection

PAUSE_S = 0.1
# Of a hasty one, so that it is killed in between.
HESITATION_S = 0.5
logger = logging.getLogger(__name__)


def main() -> None:
    django.setup()
    from inference.services.webhook_delivery import send_webhooks

    if "hasty" in sys.argv:
        _hurry()
    while True:
        try:
            send_webhooks()
        except (DatabaseError, InterfaceError) as error:
            # Its scheduler calls it again, as the product's does.
            logger.warning("%s", error)
            connection.close()
        time.sleep(PAUSE_S)


def _hurry() -> None:
    from inference.services import webhook_delivery

    claim = webhook_delivery._claim

    def claim_as_done() -> Any:
        claimed = claim()
        for one in claimed:
            webhook_delivery._finish(one, "succeeded")
            one.save()
        time.sleep(len(claimed) and HESITATION_S)
        return claimed

    webhook_delivery._claim = claim_as_done


if __name__ == "__main__":
    main()
