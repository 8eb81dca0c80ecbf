"""Jobs in the queue, written and moved by the functions that gateways and nodes call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db import connection
from django.utils import timezone

from billing.models import LedgerAccount, Price, Transfer
from billing.services import ledger
from inference.models import Job, Node
from marketplace.core.ids import new_id
from marketplace.models import Account, ModelVersion

QUEUED_MAX = 100_000


def call(function: str, *parameters: Any) -> Any:
    """The first column of the first row that one of the functions gives; None without a row."""
    places = ", ".join(["%s"] * len(parameters))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {function}({places})", parameters)
        row = cursor.fetchone()
    return None if row is None else row[0]


def submit(account: Account, version: ModelVersion, **changes: Any) -> UUID:
    """A job that waits; of a test key, so free, unless `gross_nanos` says what it may cost."""
    price = Price.objects.filter(model=version.model).first() or Price.objects.create(
        model=version.model,
        nanos_per_prediction=0,
        creator_share_bps=8_000,
        valid_from=timezone.now(),
    )
    job = {
        "price_id": str(price.pk),
        "mode": "live" if changes.get("gross_nanos") else "test",
        "id": str(new_id()),
        "account_id": str(account.pk),
        "version_id": str(version.pk),
        "creator_id": str(version.model.account_id),
        "priority": 1,
        "gross_nanos": 0,
        "timeout_s": 3_600,
        "attempts_max": 3,
    } | changes
    made = call("inference_submit", json.dumps(job), json.dumps({"x": 1}), QUEUED_MAX)
    assert made == "queued", made
    return UUID(job["id"])


def make_node(name: str = "node-1", **fields: Any) -> Node:
    """A node that the queue knows by its id alone."""
    fields = {"token_digest": name.encode(), "public_key": name, "triton_ready": True} | fields
    return Node.objects.create(name=name, triton_http_url="http://x", **fields)


def claim(node: Node, versions: Sequence[ModelVersion], slot: int = 0) -> Job | None:
    """The job that a slot of a node takes next."""
    found = call("inference_claim", node.pk, slot, [one.pk for one in versions], 30.0)
    return None if found is None else Job.objects.get(pk=found)


def start(job: Job) -> None:
    """Its node says that it runs."""
    call(
        "inference_heartbeat",
        job.lease_node_id,
        [job.pk],
        [job.lease_epoch],
        [True],
        30.0,
    )
    job.refresh_from_db()


def hand_back(job: Job, code: str = "triton_unavailable", detail: str = "") -> str:
    """Its node cannot finish it."""
    return str(
        call("inference_hand_back", job.lease_node_id, job.pk, job.lease_epoch, code, detail)
    )


def finish(job: Job, state: str = "succeeded", error: str = "", took_us: int = 2_000_000) -> str:
    """Its node has finished it."""
    output = json.dumps({"y": 1}) if state == "succeeded" else None
    is_charged = state == "succeeded"
    return str(
        call(
            "inference_finish",
            *(job.lease_node_id, job.pk, job.lease_epoch, state, output, error, took_us),
            *(None, is_charged, True),
        )
    )


def kill(
    account: Account,
    version: ModelVersion,
    node: Node,
    code: str = "node_lost",
    detail: str = "",
    **changes: Any,
) -> UUID:
    """A dead job: its only attempt came to nothing."""
    submit(account, version, attempts_max=1, **changes)
    job = claim(node, [version])
    assert job is not None
    assert hand_back(job, code, detail) == "dead"
    return job.pk


def fund(account: Account, amount_nanos: int) -> None:
    """Put credit into a wallet, as a top-up does."""
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=account.pk)
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.TOP_UP,
        idempotency_key=f"test:{new_id()}",
        amounts_nanos={clearing_id: -amount_nanos, wallet_id: amount_nanos},
    )
