"""Hand out the release log of a version, and tie all logs to the platform's audit log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Max

from inference.errors import ReleaseLogTooLongError
from inference.models import KeyRelease
from inference.selectors import release_log as entries
from inference.selectors.shredding import describe_shred, list_shreds_of
from inference.services import keybroker_client, platform
from marketplace.models import AuditEvent, ModelVersion
from marketplace.services import audit
from strongroom.sealing import release_log

# Some 60 MB. A replica that is loaded anew every hour takes six years to get there.
EXPORT_ENTRIES_MAX = 100_000
ANCHOR_ACTION = "release_log.anchor"
# Chains that one audit event names.
ANCHORED_MAX = 500


def export(version: ModelVersion) -> dict[str, Any]:
    """The whole log of a version with what is needed to check it without us.

    Raises:
        RefusedError: `not_found`: no key was ever asked for.
        KeyBrokerUnavailableError: Nobody can sign where the log ends now.
        ReleaseLogTooLongError: More than `EXPORT_ENTRIES_MAX` entries.
    """
    # First: what is written meanwhile is not part of what the broker signed.
    checkpoint = keybroker_client.sign_checkpoint(artifact_id=version.pk)
    if checkpoint["seq"] > EXPORT_ENTRIES_MAX:
        raise ReleaseLogTooLongError
    found = entries.list_entries(version.pk).filter(seq__lte=checkpoint["seq"])
    return {
        "format": release_log.FORMAT,
        "platform": settings.WEB_URL,
        "platform_key": platform.get_platform()["platform_key"],
        "model": str(version.model),
        "version": version.number,
        "artifact_id": str(version.pk),
        "manifest_sha256": version.manifest_sha256,
        "entries": [entries.describe_entry(entry) for entry in found],
        "checkpoint": checkpoint,
        "shreds": [describe_shred(shred) for shred in list_shreds_of(version)],
    }


def anchor() -> int:
    """Write the ends of all logs that grew into the audit log; returns how many.

    What is cut off a release log afterwards is missed by `find_lost_anchor`, and nobody can
    take the anchor out without breaking the audit log's chain.
    """
    last = AuditEvent.objects.filter(action=ANCHOR_ACTION).order_by("-seq").first()
    since = last.payload["upto_id"] if last else 0
    grown = KeyRelease.objects.filter(pk__gt=since).exclude(seq=None)
    upto = grown.aggregate(last=Max("pk"))["last"]
    if upto is None:
        return 0
    heads = list(
        grown.filter(pk__lte=upto)
        .values("artifact_id")
        .annotate(seq=Max("seq"))
        .order_by("artifact_id")
    )
    with transaction.atomic():
        for begin in range(0, len(heads), ANCHORED_MAX):
            _write_anchor(heads[begin : begin + ANCHORED_MAX], upto)
    return len(heads)


def find_lost_anchor() -> tuple[UUID | None, int] | None:
    """The version and number of an entry that an anchor names and the log has no more."""
    for event in AuditEvent.objects.filter(action=ANCHOR_ACTION).order_by("seq").iterator():
        for text, seq, digest in event.payload["heads"]:
            artifact_id = UUID(text) if text else None
            if not entries.list_entries(artifact_id).filter(seq=seq, hash=digest).exists():
                return artifact_id, seq
    return None


def _write_anchor(heads: Sequence[Mapping[str, Any]], upto: int) -> None:
    named = []
    for head in heads:
        entry = entries.list_entries(head["artifact_id"]).get(seq=head["seq"])
        named.append([str(head["artifact_id"] or ""), entry.seq, entry.hash])
    payload = {"upto_id": upto, "heads": named}
    audit.record("system", ANCHOR_ACTION, KeyRelease(pk=upto), payload=payload)
