"""The authority of the nodes in tests of the web: what the key broker would have answered."""

from __future__ import annotations

import time

from django.conf import settings

from inference.keybroker.node_ca import make_authority
from inference.services import keybroker_client
from marketplace.core.clock import utc_now
from strongroom.sealing import signature

AUTHORITY = make_authority(signature.generate_signing_key(), utc_now())


def make_known() -> None:
    """As if the web had asked the broker for it, where there is no broker in a test."""
    keybroker_client._node_ca = keybroker_client._NodeCA(
        settings.KEYBROKER_URL, AUTHORITY.certificate, time.monotonic() + 3600
    )
