"""Somebody runs code of theirs in the web's process, and wants a data key.

They have all that the process has: its environment, its database role, its token for the key
broker. The thief tries all of it; see `tests.inference.keybroker.thief`.
"""

from __future__ import annotations

import pytest
from django.conf import settings

from tests.inference.keybroker.conftest import SealedVersion
from tests.inference.keybroker.test_theft import (  # noqa: F401 - the fixtures
    DENIED,
    Steal,
    place,
    steal,
)

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_web_gets_no_key(steal: Steal, sealed: SealedVersion) -> None:  # noqa: F811
    for process in ("web", "worker"):
        found = steal(process)

        assert found["dek"] is None
        assert DENIED in found["met_with"]
        # Nothing that the broker said holds it.
        assert sealed.dek.hex() not in found["said"]
    # Nor do its settings lead to where keys are kept.
    assert [name for name in dir(settings) if "KMS" in name or "KEK" in name] == []
    # The control: one process that could do everything, as a web without a broker would be.
    assert steal("keybroker")["dek"] == sealed.dek.hex()
