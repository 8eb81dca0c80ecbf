"""Somebody records every wrapped key today, and breaks elliptic curves in some years.

The curve's private half is simply given to them here: that is what such a machine would give.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference.models import WrappedKey
from strongroom.errors import StrongroomError
from strongroom.sealing import wrap
from strongroom.sealing.suite import HYBRID, SUITES, X25519, Suite
from tests.inference.keybroker.conftest import SealedVersion, seal_version, start_broker

SCALAR_BYTES = 32
ARTIFACT = "01a1fffe-0a4f-7d7e-b3e2-da3db13dd0ac"


def record(suite: Suite) -> tuple[wrap.WrappedKey, bytes, bytes]:
    """A wrap as it goes over the wire, the key in it, and the recipient's private half."""
    dek, private_key = os.urandom(wrap.DEK_BYTES), suite.generate()
    public_key = suite.derive_public(private_key)
    wrapped = wrap.wrap_dek(
        dek,
        artifact_id=ARTIFACT,
        recipient="platform",
        kid=wrap.derive_kid(public_key),
        public_key=public_key,
        suite=suite,
    )
    return wrapped, dek, private_key


def break_curve(wrapped: wrap.WrappedKey, private_key: bytes) -> bytes | None:
    """Try to open a wrap with the scalar of the curve, and nothing else of the private half."""
    suite = SUITES[wrapped.suite]
    known = private_key[-SCALAR_BYTES:]
    unknown = os.urandom(suite.private_key_bytes - SCALAR_BYTES)
    try:
        return bytes(wrap.unwrap_dek(wrapped, unknown + known, artifact_id=ARTIFACT))
    except StrongroomError:
        return None


def test_the_broken_curve_does_not_open_a_hybrid_wrap() -> None:
    wrapped, dek, private_key = record(HYBRID)

    assert break_curve(wrapped, private_key) is None
    # Both halves together do: it is the right wrap.
    assert wrap.unwrap_dek(wrapped, private_key, artifact_id=ARTIFACT) == dek


def test_it_opens_one_of_the_curve_alone() -> None:
    """The control."""
    wrapped, dek, private_key = record(X25519)

    assert break_curve(wrapped, private_key) == dek


@pytest.mark.django_db(transaction=True)
def test_what_is_recorded_is_what_the_platform_asks_for(
    sealed: SealedVersion, database_urls: dict[str, str], tmp_path: Path
) -> None:
    broker = start_broker(
        tmp_path, database_urls["keybroker"], STRONGROOM_KEYBROKER_SUITE=HYBRID.name
    )
    try:
        hybrid = seal_version(broker, sealed.account, sealed.model, number=2)
    finally:
        broker.process.terminate()
        broker.process.wait(10)

    assert suite_of(hybrid) == HYBRID.name
    # The control: without the setting, it is the curve alone.
    assert suite_of(sealed) == X25519.name


def suite_of(sealed: SealedVersion) -> str:
    return WrappedKey.objects.get(version=sealed.version).suite
