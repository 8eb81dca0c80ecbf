"""Ask again where Stripe says that there was too much at once; the SDK gives up at once.

A 429 means that nothing was done, whether the account's rate was exceeded or the object was
locked, so that the same request, with its idempotency key, can leave again. Each wait is longer
than the one before, and partly chance: who was refused together does not come back together.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import stripe

TOO_MANY = 429
# Somebody may be waiting in front of a page: together at the most four seconds.
WAITS_MS = (300, 600, 1_100)


class PatientClient(stripe.RequestsClient):
    """Requests with a time-out, that are repeated after a limit."""

    def request(  # type: ignore[override]  # The SDK's own has a private member more.
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """The answer; a refusal for the limit only once all waits are over."""
        answer = super().request(method, url, headers, post_data)
        for wait_ms in WAITS_MS:
            if answer[1] != TOO_MANY:
                break
            wait = timedelta(milliseconds=wait_ms + secrets.randbelow(wait_ms))
            time.sleep(wait.total_seconds())
            answer = super().request(method, url, headers, post_data)
        return answer
