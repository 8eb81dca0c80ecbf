"""What a wallet's statement says of hours kept warm, and what is true of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from billing.models import Transfer, TransferEntry
from billing.selectors.invariant import Invariant
from marketplace.models import ModelVersion


@dataclass(frozen=True, slots=True)
class StatementLine:
    """An entry of a wallet, and a few words about it where its kind does not say enough."""

    entry: TransferEntry
    detail: str = ""


def describe_entries(entries: Iterable[TransferEntry]) -> list[StatementLine]:
    """The same entries in the same order; hours say which, and of what version."""
    found = list(entries)
    wanted = {
        one.transfer.reference for one in found if one.transfer.kind == Transfer.Kind.WARM_HOUR
    }
    rows = ModelVersion.objects.filter(pk__in=wanted).select_related("model__account")
    versions = {str(one.pk): one for one in rows}
    return [StatementLine(one, _describe(one.transfer, versions)) for one in found]


def _describe(transfer: Transfer, versions: dict[str, ModelVersion]) -> str:
    version = versions.get(transfer.reference)
    if transfer.kind != Transfer.Kind.WARM_HOUR or version is None:
        return ""
    hour = datetime.strptime(transfer.idempotency_key.rpartition(":")[2], "%Y-%m-%dT%H%z")
    return f"{version.model}, version {version.number}, {hour:%Y-%m-%d %H:00} UTC"


WARM_HOUR_INVARIANT = Invariant(
    "warm-hours-fit",
    "Each hour kept warm is one that was over, once for a deployment, and paid by its owner.",
    # The key is unique: where it is of this form, no hour is charged twice.
    r"""SELECT t.id FROM billing_transfer t
        LEFT JOIN inference_deployment d ON d.id::text = split_part(t.idempotency_key, ':', 2)
        LEFT JOIN marketplace_modelversion v ON v.id = d.version_id
        LEFT JOIN marketplace_aimodel m ON m.id = v.model_id
        WHERE t.kind = 'warm_hour' AND (
            m.id IS NULL OR t.reference <> v.id::text
            OR CASE WHEN t.idempotency_key ~
                    '^warm_hour:[0-9a-f-]{36}:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}Z$'
                THEN t.created_at < interval '1 hour'
                    + replace(split_part(t.idempotency_key, ':', 3), 'Z', ':00Z')::timestamptz
                ELSE true END
            OR EXISTS (
                SELECT FROM billing_transferentry e
                JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
                WHERE e.transfer_id = t.id AND NOT (
                    (a.kind = 'wallet' AND a.holder_id = m.account_id AND e.amount_nanos < 0)
                    OR (a.kind = 'platform_revenue' AND e.amount_nanos > 0))))""",
)
