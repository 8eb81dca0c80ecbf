"""Another's ids in every address: nothing is found, and nothing in the database changes.

The tables name every address of the product, so that a new one without a line here fails.
The pages of the marketplace have a table of their own, in tests/marketplace/test_pages.py.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.apps import apps
from django.contrib import admin
from django.core.cache import cache
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, resolve, reverse
from django.utils import timezone

from billing.models import (
    Coupon,
    Invoice,
    LedgerAccount,
    PayoutItem,
    PayoutRun,
    PostpaidTerms,
    Price,
    ReceiptBatch,
    ReceiptKey,
    ReceiptLeaf,
    Royalty,
    SavedCard,
    TaxDetails,
    Topup,
    Transfer,
    UsageEvent,
)
from billing.services import ledger
from billing.services.price import set_price
from billing.services.royalty import promise_royalty
from inference.models import (
    AlertChannel,
    AlertEvent,
    AlertRule,
    Artifact,
    Batch,
    BatchLine,
    Deployment,
    Prediction,
    QuerySketch,
    Replica,
    ReplicaWork,
    SharedRun,
    SigningKey,
    Upload,
    UploadPart,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from inference.selectors import node as node_selectors
from inference.services.file import store_file
from inference.services.webhook_secret import make_secret
from marketplace.core import ids
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel, ModelVersion, User
from marketplace.selectors import access
from marketplace.selectors.access import Actor
from tests.factories import (
    PASSWORD,
    AccountFactory,
    AIModelFactory,
    APIKeyFactory,
    ModelVersionFactory,
)
from tests.inference import queued
from tests.inference.django.scripted_node import ScriptedNode

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# Kept elsewhere: see above, and below for the console.
OWN_TABLES = {"marketplace", "admin"}


@dataclass(frozen=True)
class Line:
    """An address of the account `acme`, the call its owner makes of it, and who may call."""

    name: str
    url: str
    method: str = "GET"
    body: dict[str, Any] | None = None
    by: str = "person"

    def __str__(self) -> str:
        return f"{self.method} {self.name}"


TAX_DETAILS = {
    "name": "Acme Inc",
    "line1": "1 Main St",
    "city": "Springfield",
    "postal_code": "12345",
    "country": "US",
}
# Public, so that nothing is asked of a resolver.
HOOK = "https://93.184.216.34/hook"
LINES = [
    Line("billing:wallet", "/console/wallet?account=acme"),
    Line("billing:wallet", "/console/wallet?account=acme", "POST", {"amount_dollars": "25"}),
    Line("billing:usage", "/console/usage?account=acme"),
    Line("billing:topup-return", "/console/topups/{topup}"),
    Line("billing:invoices", "/console/invoices?account=acme"),
    Line("billing:invoices", "/console/invoices?account=acme", "POST", {"limit_dollars": "50"}),
    Line("billing:postpaid-accept", "/console/postpaid/accept?account=acme", "POST", {}),
    Line("billing:postpaid-decline", "/console/postpaid/decline?account=acme", "POST", {}),
    Line("billing:postpaid-close", "/console/postpaid/close?account=acme", "POST", {}),
    Line("billing:tax-details", "/console/tax-details?account=acme"),
    Line("billing:tax-details", "/console/tax-details?account=acme", "POST", TAX_DETAILS),
    Line("billing:invoice", "/console/invoices/{invoice}"),
    Line("billing:invoice-usage", "/console/invoices/{invoice}/usage.csv"),
    Line("billing:cards", "/console/cards?account=acme"),
    Line("billing:card-new", "/console/cards/new?account=acme", "POST", {}),
    Line("billing:card-remove", "/console/cards/{card}/remove"),
    Line("billing:card-remove", "/console/cards/{card}/remove", "POST", {}),
    Line("billing:card-default", "/console/cards/{card}/default", "POST", {}),
    Line(
        "billing:auto-topup",
        "/console/auto-topup?account=acme",
        "POST",
        {"threshold": "10", "amount": "25", "monthly_limit": "100"},
    ),
    Line("billing:auto-topup-stop", "/console/auto-topup/stop?account=acme", "POST", {}),
    Line(
        "billing:balance-alert", "/console/balance-alert?account=acme", "POST", {"threshold": "7"}
    ),
    Line("billing:refund", "/console/refund?account=acme"),
    Line("billing:refund", "/console/refund?account=acme", "POST", {"amount": "x"}),
    Line("billing:earnings", "/dashboard/earnings?account=acme"),
    Line("billing:payouts", "/dashboard/payouts?account=acme"),
    Line("billing:payouts", "/dashboard/payouts?account=acme", "POST", {"country": "DE"}),
    Line("billing:payouts-return", "/dashboard/payouts/return?account=acme"),
    Line("billing:wallet-panel", "/panels/wallet?account=acme"),
    Line("billing:usage-panel", "/panels/usage?account=acme"),
    Line("billing:earnings-panel", "/panels/earnings?account=acme"),
    Line("billing:payout-setup-panel", "/panels/payout-setup?account=acme"),
    Line("billing:price-panel", "/panels/price/acme/digits"),
    Line(
        "billing:price-panel", "/panels/price/acme/digits", "POST", {"dollars_per_prediction": "1"}
    ),
    Line("billing:estimate-panel", "/panels/estimate/acme/digits"),
    Line("billing:royalties", "/dashboard/models/acme/digits/versions/1/royalties"),
    Line(
        "billing:royalties",
        "/dashboard/models/acme/digits/versions/1/royalties",
        "POST",
        {"parent": "base/base:1", "percent": "1"},
    ),
    Line("billing:royalty-end", "/dashboard/royalties/{royalty}/end"),
    Line("billing:royalty-end", "/dashboard/royalties/{royalty}/end", "POST", {}),
    Line("billing:price", "/dashboard/models/acme/digits/price"),
    Line("billing:price", "/dashboard/models/acme/digits/price", "POST", {"flat": "1"}),
    Line("billing:price-withdraw", "/dashboard/models/acme/digits/price/withdraw", "POST", {}),
    Line("billing:offer", "/dashboard/models/acme/digits/offers", "POST", {"end": "friend"}),
    Line("billing:coupon", "/dashboard/models/acme/digits/coupons", "POST", {"end": "HALF"}),
    Line("billing:receipts", "/console/receipts?account=acme"),
    Line("billing:receipts", "/console/receipts?account=acme", "POST", {"document": "x"}),
    Line("billing:receipt", "/console/receipts/{prediction}"),
    Line("billing:receipt", "/console/receipts/{prediction}", "POST", {"document": "x"}),
    Line("billing:redeem", "/console/coupons?account=acme"),
    Line("billing:redeem", "/console/coupons?account=acme", "POST", {"code": "NONE"}),
    Line("billing:key-panel", "/panels/keys/{key}"),
    Line("billing:give-back", "/dashboard/give-back?account=acme"),
    Line(
        "billing:give-back",
        "/dashboard/give-back?account=acme",
        "POST",
        {"prediction": "{public_key}", "reason": "mine"},
    ),
    Line("billing:reversal-panel", "/panels/reversals/{prediction}"),
    Line("inference:push", "/dashboard/push?account=acme&model=digits"),
    Line("inference:protection", "/dashboard/models/acme/digits/protection"),
    Line("inference:protection", "/dashboard/models/acme/digits/protection", "POST", {}),
    Line(
        "inference:account-budget",
        "/dashboard/models/acme/digits/protection/account",
        "POST",
        {"account": "acme", "queries_per_day_max": "5"},
    ),
    Line("inference:monitoring", "/dashboard/models/acme/digits/monitoring"),
    Line("inference:monitoring-export", "/dashboard/models/acme/digits/monitoring/export"),
    Line("inference:drift", "/dashboard/models/acme/digits/monitoring/drift"),
    Line(
        "inference:drift", "/dashboard/models/acme/digits/monitoring/drift", "POST", {"watch": "1"}
    ),
    Line("inference:drift-export", "/dashboard/models/acme/digits/monitoring/drift/export"),
    Line("inference:slo", "/dashboard/models/acme/digits/monitoring/slo"),
    Line("inference:model-queue", "/dashboard/models/acme/digits/monitoring/queue"),
    Line("inference:cold-start", "/dashboard/models/acme/digits/monitoring/cold-start"),
    Line(
        "inference:cold-start",
        "/dashboard/models/acme/digits/monitoring/cold-start",
        "POST",
        {"version": "1"},
    ),
    Line(
        "inference:slo",
        "/dashboard/models/acme/digits/monitoring/slo",
        "POST",
        {"availability_target": "99", "window_days": "7", "latency_target": "95"},
    ),
    Line("inference:alerts", "/dashboard/models/acme/digits/monitoring/alerts"),
    Line(
        "inference:alerts",
        "/dashboard/models/acme/digits/monitoring/alerts",
        "POST",
        {
            "rule-kind": "no_traffic",
            "rule-window_s": "900",
            "rule-count_min": "1",
            "rule-cool_down_s": "0",
        },
    ),
    Line(
        "inference:alert-channels",
        "/dashboard/models/acme/digits/monitoring/alerts/channels",
        "POST",
        {"channel-kind": "webhook", "channel-target": "https://hooks.example/x"},
    ),
    Line(
        "inference:alert-channel",
        "/dashboard/models/acme/digits/monitoring/alerts/channels/{alert_channel}",
        "POST",
        {"remove": "1"},
    ),
    Line(
        "inference:alert-rule",
        "/dashboard/models/acme/digits/monitoring/alerts/rules/{alert_rule}",
        "POST",
        {"remove": "1"},
    ),
    Line(
        "inference:alert-event",
        "/dashboard/models/acme/digits/monitoring/alerts/events/{alert_event}",
        "POST",
        {},
    ),
    Line("inference:custody", "/dashboard/models/acme/digits/versions/1/custody"),
    Line("inference:release-log", "/dashboard/models/acme/digits/versions/1/release-log"),
    Line("inference:shred", "/dashboard/models/acme/digits/versions/1/shred"),
    Line(
        "inference:shred",
        "/dashboard/models/acme/digits/versions/1/shred",
        "POST",
        {"confirm": "acme/digits:1", "reason": "mine"},
    ),
    Line("inference:versions-panel", "/panels/versions/acme/digits"),
    Line("inference:onboarding-panel", "/panels/onboarding?account=acme"),
    Line("inference:version-panel", "/panels/onboarding/{version}"),
    Line("inference:try-panel", "/panels/try/acme/digits"),
    Line("inference:evidence-panel", "/panels/evidence/acme/digits"),
    Line("inference:evidence", "/evidence/acme/digits/1"),
    Line("inference:certificate", "/evidence/acme/digits/1/certificate.json"),
    Line("inference:model-status", "/acme/digits/status"),
    Line("inference:runs", "/runs?account=acme"),
    Line("inference:run-share", "/runs/share?account=acme", "POST", {"offer": "x", "days": "1"}),
    Line("inference:run", "/runs/{run}"),
    Line("inference:run-revoke", "/runs/{run}/revoke"),
    Line("inference:run-revoke", "/runs/{run}/revoke", "POST", {}),
    Line("inference:batches", "/console/batches?account=acme"),
    Line("inference:batch-new", "/console/batches/new?account=acme"),
    Line("inference:batch-new", "/console/batches/new?account=acme", "POST", {"model": "x"}),
    Line(
        "inference:batch-start",
        "/console/batches/start?account=acme",
        "POST",
        {"model": "acme/digits", "file": "file_x", "hours": "24"},
    ),
    Line("inference:batch", "/console/batches/{batch}"),
    Line("inference:batch-panel", "/panels/batches/{batch}"),
    *(
        Line("inference:batch-do", "/console/batches/{batch}/do", "POST", {"do": what})
        for what in ("cancel", "resume", "delete")
    ),
    Line("inference:batch-output", "/console/batches/{batch}/output"),
    Line("inference:batch-errors", "/console/batches/{batch}/errors"),
    Line("inference:files", "/console/files?account=acme"),
    Line("inference:file-delete", "/console/files/{file}/delete", "POST", {}),
    Line("inference:retention", "/accounts/acme/retention"),
    Line("inference:retention", "/accounts/acme/retention", "POST", {"days": 2}),
    Line("inference:webhooks", "/console/webhooks?account=acme"),
    Line("inference:webhook-new", "/console/webhooks/new?account=acme"),
    Line("inference:webhook-new", "/console/webhooks/new?account=acme", "POST", {"url": HOOK}),
    Line("inference:webhook", "/console/webhooks/{webhook}"),
    Line("inference:webhook-edit", "/console/webhooks/{webhook}/edit"),
    Line("inference:webhook-edit", "/console/webhooks/{webhook}/edit", "POST", {"url": HOOK}),
    *(
        Line(
            "inference:webhook-do",
            "/console/webhooks/{webhook}/do",
            "POST",
            {"do": what, "since": "2030-01-01"},
        )
        for what in ("test", "replay", "off", "end_secret", "remove")
    ),
    Line("inference:webhook-rotate", "/console/webhooks/{webhook}/rotate", "POST", {}),
    Line("inference:webhook-secret", "/console/webhooks/secret?account=acme", "POST", {}),
    Line("inference:webhook-deliveries", "/console/webhooks/deliveries?account=acme"),
    Line("inference:webhook-delivery", "/console/webhooks/deliveries/{webhook_delivery}"),
    Line(
        "inference:webhook-delivery-replay",
        "/console/webhooks/deliveries/{webhook_delivery}/replay",
        "POST",
        {},
    ),
    Line("inference:queue", "/console/queue?account=acme"),
    Line("inference:queue-cancel", "/console/queue/cancel?account=acme"),
    # Until the highest of all ids.
    Line(
        "inference:queue-cancel",
        "/console/queue/cancel?account=acme",
        "POST",
        {"until": "h" + "7" * 25},
    ),
    Line("inference:job-cancel", "/predictions/{job}/cancel", "POST", {}),
    Line("inference:predictions", "/console/predictions?account=acme"),
    Line("inference:predictions-panel", "/panels/predictions?account=acme"),
    Line("inference:prediction", "/predictions/{prediction}"),
    Line("inference:signing-keys", "/dashboard/signing-keys?account=acme"),
    Line("inference:signing-key-confirm", "/dashboard/signing-keys/{signing_key}/confirm"),
    Line(
        "inference:signing-key-confirm",
        "/dashboard/signing-keys/{signing_key}/confirm",
        "POST",
        {"password": PASSWORD},
    ),
    Line("inference:signing-key-revoke", "/dashboard/signing-keys/{signing_key}/revoke"),
    Line(
        "inference:signing-key-revoke", "/dashboard/signing-keys/{signing_key}/revoke", "POST", {}
    ),
    Line(
        "marketplace-api:login",
        "/api/login",
        "POST",
        {"email": "{email}", "password": PASSWORD, "token_name": "cli", "account": "acme"},
        by="password",
    ),
    Line("marketplace-api:model", "/api/models/acme/digits", by="token"),
    Line(
        "marketplace-api:model",
        "/api/models/acme/digits",
        "PUT",
        {"title": "Taken", "visibility": "public"},
        by="token",
    ),
    Line(
        "marketplace-api:channel",
        "/api/models/acme/digits/channels/prod",
        "PUT",
        {"version": 1},
        by="token",
    ),
    Line(
        "marketplace-api:withdraw",
        "/api/models/acme/digits/versions/1/withdraw",
        "POST",
        {},
        by="token",
    ),
    Line("marketplace-api:keys", "/api/keys?account=acme", by="token"),
    Line(
        "marketplace-api:keys",
        "/api/keys",
        "POST",
        {"account": "acme", "name": "x", "mode": "live"},
        by="token",
    ),
    Line("marketplace-api:key", "/api/keys/{key}", by="token"),
    Line("marketplace-api:key", "/api/keys/{key}", "PATCH", {"concurrency_max": 3}, by="token"),
    Line("marketplace-api:key", "/api/keys/{key}", "DELETE", by="token"),
    Line(
        "inference-api:signing-keys",
        "/api/signing-keys",
        "POST",
        {"account": "acme", "public_key": "{public_key}"},
        by="token",
    ),
    Line("inference-api:signing-keys", "/api/signing-keys?account=acme", by="token"),
    Line("inference-api:signing-key", "/api/signing-keys/{signing_key}", "DELETE", by="token"),
    Line("inference-api:uploads", "/api/models/acme/digits/uploads", "POST", {}, by="token"),
    Line("inference-api:versions", "/api/models/acme/digits/versions", by="token"),
    Line("inference-api:artifact", "/api/models/acme/digits/versions/1/artifact", by="token"),
    Line(
        "inference-api:artifact-part",
        "/api/models/acme/digits/versions/1/artifact/files/0/parts/0",
        by="token",
    ),
    Line("inference-api:version", "/api/versions/{version}", by="token"),
    Line(
        "inference-api:shred-version",
        "/api/models/acme/digits/versions/1/shred",
        "POST",
        {},
        by="token",
    ),
    Line(
        "inference-api:shred-model",
        "/api/models/acme/digits/shred",
        "POST",
        {},
        by="token",
    ),
    Line("inference-api:deployments", "/api/models/acme/digits/deployments", by="token"),
    Line("inference-api:deployment", "/api/models/acme/digits/deployments/1", by="token"),
    Line(
        "inference-api:deployment", "/api/models/acme/digits/deployments/1", "PUT", {}, by="token"
    ),
    Line("inference-api:budgets", "/api/models/acme/digits/budgets", by="token"),
    Line(
        "inference-api:budget",
        "/api/models/acme/digits/budgets/acme",
        "PUT",
        {"queries_per_day_max": 5},
        by="token",
    ),
    Line("inference-api:budget", "/api/models/acme/digits/budgets/acme", "DELETE", by="token"),
    Line("inference-api:batches", "/api/batches?account=acme", by="key"),
    Line(
        "inference-api:batches",
        "/api/batches?account=acme",
        "POST",
        {"account": "acme", "model": "acme/digits:1"},
        by="key",
    ),
    Line("inference-api:batch", "/api/batches/{batch}", by="key"),
    Line("inference-api:batch", "/api/batches/{batch}", "DELETE", by="key"),
    Line("inference-api:batch-cancel", "/api/batches/{batch}/cancel", "POST", {}, by="key"),
    Line("inference-api:batch-resume", "/api/batches/{batch}/resume", "POST", {}, by="key"),
    Line("inference-api:batch-output", "/api/batches/{batch}/output", by="key"),
    Line("inference-api:batch-errors", "/api/batches/{batch}/errors", by="key"),
    Line("inference-api:webhooks", "/api/webhooks?account=acme", by="token"),
    Line(
        "inference-api:webhooks",
        "/api/webhooks",
        "POST",
        {"account": "acme", "url": HOOK},
        by="token",
    ),
    Line("inference-api:webhook", "/api/webhooks/{webhook}", by="token"),
    Line(
        "inference-api:webhook",
        "/api/webhooks/{webhook}",
        "PATCH",
        {"is_enabled": False},
        by="token",
    ),
    Line("inference-api:webhook", "/api/webhooks/{webhook}", "DELETE", by="token"),
    Line("inference-api:webhook-rotate", "/api/webhooks/{webhook}/secret", "POST", {}, by="token"),
    Line("inference-api:webhook-rotate", "/api/webhooks/{webhook}/secret", "DELETE", by="token"),
    Line("inference-api:webhook-test", "/api/webhooks/{webhook}/test", "POST", {}, by="token"),
    Line(
        "inference-api:webhook-replay",
        "/api/webhooks/{webhook}/replay",
        "POST",
        {"since": "2030-01-01T00:00:00Z"},
        by="token",
    ),
    Line("inference-api:webhook-secret", "/api/webhook-secret?account=acme", by="token"),
    Line(
        "inference-api:webhook-secret",
        "/api/webhook-secret",
        "POST",
        {"account": "acme"},
        by="token",
    ),
    Line("inference-api:webhook-deliveries", "/api/webhook-deliveries?account=acme", by="token"),
    Line(
        "inference-api:webhook-delivery",
        "/api/webhook-deliveries/{webhook_delivery}",
        by="token",
    ),
    Line(
        "inference-api:webhook-delivery-replay",
        "/api/webhook-deliveries/{webhook_delivery}/replay",
        "POST",
        {},
        by="token",
    ),
    Line("inference-api:files", "/api/files?account=acme", by="token"),
    Line("inference-api:files", "/api/files?account=acme", "POST", {"expires_in": "60"}),
    Line("inference-api:file", "/api/files/{file}", by="token"),
    Line("inference-api:file", "/api/files/{file}", "DELETE"),
    Line("inference-api:file-content", "/api/files/{file}/content", by="token"),
    Line("inference-api:retention", "/api/retention?account=acme"),
    Line("inference-api:retention", "/api/retention?account=acme", "PUT", {"days": 2}),
    Line("inference-api:release-log", "/api/versions/{version}/release-log", by="token"),
    Line("inference-api:upload", "/api/uploads/{upload}", by="token"),
    Line("inference-api:upload", "/api/uploads/{upload}", "DELETE", by="token"),
    Line("inference-api:complete", "/api/uploads/{upload}/complete", "POST", {}, by="token"),
    Line("inference-api:part", "/api/uploads/{upload}/files/0/parts/0", "PUT", {}, by="token"),
    Line("inference-api:node-artifact", "/api/node/artifacts/{version}", by="node"),
    Line("inference-api:node-part", "/api/node/artifacts/{version}/files/0/parts/0", by="node"),
    Line(
        "inference-api:node-work", "/api/node/work/{work}", "POST", {"state": "failed"}, by="node"
    ),
    Line("billing-api:price", "/api/models/acme/digits/price", by="token"),
    Line(
        "billing-api:price",
        "/api/models/acme/digits/price",
        "PUT",
        {"nanos_per_prediction": 7},
        by="token",
    ),
    Line("billing-api:royalties", "/api/models/acme/digits/versions/1/royalties", by="token"),
    Line(
        "billing-api:royalties",
        "/api/models/acme/digits/versions/1/royalties",
        "POST",
        {"parent": "base/base:1", "bps": 1},
        by="token",
    ),
    Line("billing-api:royalty", "/api/royalties/{royalty}", by="token"),
    Line("billing-api:royalty", "/api/royalties/{royalty}", "DELETE", by="token"),
    Line("billing-api:prices", "/api/models/acme/digits/prices", by="token"),
    Line(
        "billing-api:prices",
        "/api/models/acme/digits/prices",
        "POST",
        {"nanos_per_prediction": 8},
        by="token",
    ),
    Line("billing-api:next-price", "/api/models/acme/digits/prices/next", "DELETE", by="token"),
    Line("billing-api:offers", "/api/models/acme/digits/offers", by="token"),
    Line(
        "billing-api:offers",
        "/api/models/acme/digits/offers",
        "POST",
        {"account": "acme", "nanos_per_prediction": 1},
        by="token",
    ),
    Line("billing-api:offer", "/api/models/acme/digits/offers/friend", "DELETE", by="token"),
    Line("billing-api:coupons", "/api/models/acme/digits/coupons", by="token"),
    Line(
        "billing-api:coupons",
        "/api/models/acme/digits/coupons",
        "POST",
        {
            "code": "MINE",
            "off_bps": 1,
            "days": 1,
            "uses_max": 1,
            "valid_until": "2030-01-01T00:00:00Z",
        },
        by="token",
    ),
    Line("billing-api:coupon", "/api/models/acme/digits/coupons/half", "DELETE", by="token"),
    Line(
        "billing-api:redeem",
        "/api/coupons/redeem",
        "POST",
        {"account": "acme", "code": "NONE"},
        by="token",
    ),
    Line("billing-api:key-spend", "/api/keys/{key}/spend", by="token"),
    Line("billing-api:wallet", "/api/wallet?account=acme", by="token"),
    Line("billing-api:usage", "/api/usage?account=acme", by="token"),
    Line("billing-api:usage-sums", "/api/usage/sums?account=acme", by="token"),
    Line("billing-api:usage-export", "/api/usage/export/csv?account=acme", by="token"),
    Line(
        "billing-api:topups",
        "/api/topups",
        "POST",
        {"account": "acme", "amount_cents": 2_500},
        by="token",
    ),
    Line("billing-api:topup", "/api/topups/{topup}", by="token"),
    Line("billing-api:earnings", "/api/earnings?account=acme", by="token"),
    Line("billing-api:payouts", "/api/payouts?account=acme", by="token"),
    Line("billing-api:payout", "/api/payouts/{payout}", by="token"),
    Line("billing-api:payout-document", "/api/payouts/{payout}/document", by="token"),
    Line("billing-api:statement", "/api/statements/2026-10/csv?account=acme", by="token"),
    Line("billing-api:invoices", "/api/invoices?account=acme", by="token"),
    Line("billing-api:invoice", "/api/invoices/{invoice}", by="token"),
    Line("billing-api:invoice-usage", "/api/invoices/{invoice}/usage", by="token"),
    Line("billing-api:invoice-document", "/api/invoices/{invoice}/document", by="token"),
    Line("billing-api:postpaid", "/api/postpaid?account=acme", by="token"),
    Line(
        "billing-api:postpaid",
        "/api/postpaid",
        "POST",
        {"account": "acme", "wanted_limit_nanos": 50_000_000_000},
        by="token",
    ),
    *(
        Line(
            f"billing-api:postpaid-{verb}",
            f"/api/postpaid/{verb}",
            "POST",
            {"account": "acme"},
            by="token",
        )
        for verb in ("accept", "decline", "close")
    ),
    Line("billing-api:tax-details", "/api/tax-details?account=acme", by="token"),
    Line(
        "billing-api:tax-details",
        "/api/tax-details?account=acme",
        "PUT",
        TAX_DETAILS,
        by="token",
    ),
    Line("billing-api:cards", "/api/cards?account=acme", by="token"),
    Line("billing-api:cards", "/api/cards", "POST", {"account": "acme"}, by="token"),
    Line("billing-api:card", "/api/cards/{card}", "PUT", {}, by="token"),
    Line("billing-api:card", "/api/cards/{card}", "DELETE", by="token"),
    Line("billing-api:auto-topup", "/api/auto-topup?account=acme", by="token"),
    Line(
        "billing-api:auto-topup",
        "/api/auto-topup?account=acme",
        "PUT",
        {"threshold_cents": 1_000, "amount_cents": 2_500, "monthly_limit_cents": 10_000},
        by="token",
    ),
    Line("billing-api:auto-topup", "/api/auto-topup?account=acme", "DELETE", by="token"),
    Line("billing-api:balance-alert", "/api/balance-alert?account=acme", by="token"),
    Line(
        "billing-api:balance-alert",
        "/api/balance-alert?account=acme",
        "PUT",
        {"threshold_cents": 700},
        by="token",
    ),
    Line("billing-api:refunds", "/api/refunds?account=acme", by="token"),
    Line(
        "billing-api:refunds",
        "/api/refunds",
        "POST",
        {"account": "acme", "amount_cents": 0},
        by="token",
    ),
    Line("billing-api:receipt", "/api/predictions/{prediction}/receipt", by="token"),
]
# Addresses that name nobody's rows, with the reason.
NAMELESS = {
    "billing-api:receipt-keys": "the platform",
    "billing-api:receipt-batches": "the platform; a root tells nothing of its leaves",
    # Others are told that there is none: tests/billing/prepaid/test_pages.py.
    "billing:review-cases": "any account, for platform admins",
    "billing:review-case": "any account, for platform admins",
    "billing:account-refund": "any account, for platform admins",
    "billing:stripe-webhook": "signed by Stripe, and believed in nothing but that it happened",
    "billing:reconciliation": "platform admins; see tests/billing/test_platform_pages.py",
    "billing:difference": "platform admins",
    "billing:adjustments": "platform admins",
    "billing:credit-new": "platform admins",
    "billing:adjustment-new": "platform admins",
    "billing:adjustment": "platform admins",
    "billing:platform-give-back": "platform admins",
    "billing:frozen": "platform admins",
    "billing:platform-panel": "platform admins; see tests/marketplace/test_platform_pages.py",
    "inference:platform-panel": "platform admins",
    "inference:fleet": "platform admins",
    # See tests/inference/test_platform_queue.py.
    "inference:platform-queue": "platform admins",
    "inference:dead-jobs": "platform admins",
    "inference:dead-job": "platform admins",
    "inference:dead-replay": "platform admins",
    "inference:dead-discard": "platform admins",
    "inference:dead-discarded": "platform admins",
    "inference:review-panel": "platform admins",
    "marketplace-api:models": "what the caller may see; a filter for an owner hides the same",
    "marketplace-api:me": "the caller",
    "inference-api:platform": "the platform",
    "inference:try-cancel": "the caller's own account; the gateway finds no other's predictions",
    # Their model has to be on sale: tests/inference/django/test_playground.py.
    "inference:try-stream": "who may see the model, as the panel",
    "inference:try-code": "who may see the model, as the panel",
    "inference:try-later": "who may see the model, as the panel: tests/inference/test_try_later.py",
    "inference:sealing": "what sealing does, in words",
    "inference:file-link": "signed for one file; see tests/inference/test_file_api.py",
    "inference-api:gateway-output": "gateways alone; see tests/inference/test_file_api.py",
    "inference-api:manifest-checks": "nobody: what is sent is checked and not kept",
    "inference-api:node-enrol": "a new node, by a certificate that is its own",
    "inference-api:node-desired": "the calling node",
    "inference-api:node-prefetch": "the calling node: tests/inference/django/test_node_prefetch.py",
    "inference-api:node-report": "the calling node; replicas of others are passed over",
}
# What everybody may do with a model once it is public; a try is paid by who tries.
PUBLIC = {
    ("billing:price-panel", "GET"),
    ("inference:try-panel", "GET"),
    ("inference:try-panel", "POST"),
    ("inference:evidence-panel", "GET"),
    ("inference:evidence", "GET"),
    ("inference:model-status", "GET"),
    ("inference:certificate", "GET"),
    ("inference:run", "GET"),
    ("billing:estimate-panel", "GET"),
    ("marketplace-api:model", "GET"),
    ("billing-api:price", "GET"),
    ("billing-api:prices", "GET"),
}
# What a call leaves behind of its caller.
VOLATILE = {"last_used_at", "last_seen_at", "heard_since", "last_login"}


@dataclass
class Tenant:
    """Somebody with an account, in all the ways in which one may call."""

    user: User
    session: Client
    token: str
    node: ScriptedNode
    key: str

    def call(self, line: Line, url: str, method: str, *, by: str) -> int:
        public_key = "A" * 42 + "A="
        body = {
            name: value.format(email=self.user.email, public_key=public_key)
            if isinstance(value, str)
            else value
            for name, value in (line.body or {}).items()
        }
        if by in ("token", "node", "key"):
            bearer = {"token": self.token, "node": self.node.token, "key": self.key}[by]
            return _send(Client(), method, url, body, Authorization=f"Bearer {bearer}")
        if line.by == "person" and method == "POST":
            return self.session.post(url, body).status_code
        return _send(self.session if by == "person" else Client(), method, url, body)


def _send(client: Client, method: str, url: str, body: Any, **headers: str) -> int:
    raw = b"" if method == "GET" else json.dumps(body).encode()
    return client.generic(
        method, url, raw, content_type="application/json", headers=headers
    ).status_code


def make_tenant(user: User, node_name: str) -> Tenant:
    session = Client()
    session.force_login(user)
    token = APIKeyFactory(account=user.accounts.get(), created_by=user, mode="token").text
    node = ScriptedNode(node_name)
    assert node.enrol().status_code == 201
    key = APIKeyFactory(account=user.accounts.get(), created_by=user).text
    return Tenant(user, session, token, node, key)


@pytest.fixture(autouse=True)
def _no_tries_counted() -> None:
    cache.clear()


@pytest.fixture
def store(settings, tmp_path) -> None:
    artifacts = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(tmp_path)},
    }
    settings.STORAGES = settings.STORAGES | {"artifacts": artifacts}


@pytest.fixture
def acme(owner: User, account: Account) -> Tenant:
    return make_tenant(owner, "node-of-acme")


@pytest.fixture
def other(outsider: User) -> Tenant:
    return make_tenant(outsider, "node-of-elsewhere")


@pytest.fixture
def rows(acme: Tenant, account: Account, store: None) -> dict[str, str]:
    """One of everything that an address can name, by its name in the tables."""
    model = AIModelFactory(account=account, name="digits", visibility="private")
    point = {"batch": 1, "p50_ms": 1.0, "p95_ms": 2.0, "rows_per_s": 9.0}
    version = ModelVersionFactory(model=model, certificate={"benchmark": {"points": [point]}})
    price = set_price(Actor(user=acme.user), model, nanos_per_prediction=1_000)
    # Only who has asked a model can have a budget of its own.
    QuerySketch.objects.create(
        account=account,
        model=model,
        period="total",
        starts_on=date(1970, 1, 1),
        updated_at=timezone.now(),
    )
    prediction_id = _run(account, version)
    _book(prediction_id, account, version, price)
    _announce(price)
    made = {
        "version": version.pk,
        "key": APIKeyFactory(account=account, created_by=acme.user).pk,
        "topup": Topup.objects.create(
            account=account, amount_cents=2_500, state=Topup.State.EXPIRED
        ).pk,
        "royalty": _promise(acme, model).pk,
        "payout": _pay_out(account).pk,
        "card": SavedCard.objects.create(
            account=account,
            payment_method_id="pm_1",
            brand="visa",
            last4="4242",
            exp_month=1,
            exp_year=2034,
            is_default=True,
        ).pk,
        "prediction": ids.to_public(prediction_id),
        "job": ids.to_public(queued.submit(account, version)),
        "invoice": _owe(account).pk,
        "upload": _begin_upload(account, model).pk,
        "work": _assign(acme.node, version).pk,
        "run": _share(acme, version, prediction_id).token,
    }
    made |= _watch(model)
    made |= _hook(account, prediction_id)
    made["file"] = store_file(account, "a", "", ContentFile(b"a")).public_id
    made["batch"] = _begin_batch(account, version).pk
    _store_artifact(account, version)
    made["signing_key"] = SigningKey.objects.get(account=account).pk
    Deployment.objects.create(version=version)
    return {name: str(value) for name, value in made.items()}


def _watch(model: AIModel) -> dict[str, UUID]:
    """A rule that has fired, and a channel."""
    rule = AlertRule.objects.create(model=model, kind="p95", threshold=1, window_s=300)
    event = AlertEvent.objects.create(rule=rule, fired_at=timezone.now(), measured=2)
    channel = AlertChannel.objects.create(
        model=model, kind="webhook", target="https://hooks.example/y"
    )
    return {"alert_rule": rule.pk, "alert_event": event.pk, "alert_channel": channel.pk}


def _hook(account: Account, prediction_id: UUID) -> dict[str, UUID]:
    """An endpoint, and a delivery to it that has failed."""
    now = timezone.now()
    endpoint = WebhookEndpoint(account=account, url="https://hooks.example/z")
    endpoint.sealed_secret, _ = make_secret(endpoint.pk)
    endpoint.save()
    event = WebhookEvent.objects.create(
        account_id=account.pk,
        type="prediction.completed",
        prediction_id=prediction_id,
        created_at=now,
        spread_at=now,
    )
    delivery = WebhookDelivery.objects.create(
        account=account,
        event=event,
        endpoint=endpoint,
        type=event.type,
        prediction_id=prediction_id,
        state="failed",
        due_at=now,
        next_at=now,
        ended_at=now,
    )
    return {"webhook": endpoint.pk, "webhook_delivery": delivery.pk}


def _begin_batch(account: Account, version: ModelVersion) -> Batch:
    """A batch that stands still."""
    now = timezone.now()
    batch = Batch.objects.create(
        account=account,
        version=version,
        name="lines.jsonl",
        state="paused",
        reason="insufficient_credit",
        paused_at=now,
        next_at=now,
        deadline_at=now + timedelta(days=1),
    )
    BatchLine.objects.create(batch=batch, number=1, input={"x": 1})
    BatchLine.objects.create(batch=batch, number=2, state="failed", code="bad_json")
    return batch


def _share(acme: Tenant, version: ModelVersion, prediction_id: UUID) -> SharedRun:
    """A run that somebody made a link to."""
    return SharedRun.objects.create(
        token="t" * 24,
        account=version.model.account,
        created_by=acme.user,
        version=version,
        prediction_id=prediction_id,
        input={"x": 1},
        output={"y": 2},
        size_bytes=9,
        expires_at=timezone.now() + timedelta(days=1),
    )


def _announce(price: Price) -> None:
    """A price that has not begun, an offer and a coupon."""
    later = timezone.now() + timedelta(days=7)
    terms = {"model": price.model, "creator_share_bps": 0}
    Price.objects.filter(pk=price.pk).update(valid_until=later)
    Price.objects.create(nanos_per_prediction=2_000, valid_from=later, **terms)
    friend = AccountFactory(slug="friend")
    Price.objects.create(
        nanos_per_prediction=1, valid_from=price.valid_from, account=friend, **terms
    )
    Coupon.objects.create(
        code="HALF", model=price.model, off_bps=5_000, days=1, uses_max=1, valid_until=later
    )


def _run(account: Account, version: ModelVersion) -> UUID:
    fields = {"id": new_id(), "account_id": account.pk, "created_at": timezone.now()}
    return Prediction.objects.create(version=version, state="succeeded", **fields).pk


def _promise(acme: Tenant, model: AIModel) -> Royalty:
    """A royalty to a third party, which has made public what the version was made from."""
    base = AIModelFactory(account=AccountFactory(slug="base"), name="base", visibility="public")
    ModelVersionFactory(model=base)
    parent = ModelVersionFactory(model=base, number=2)
    # Not on sale yet: who promised can take it back.
    version = ModelVersionFactory(model=model, number=3, state="in_review")
    return promise_royalty(Actor(user=acme.user), version, parent=parent, bps=1)


def _book(prediction_id: UUID, account: Account, version: ModelVersion, price: Price) -> None:
    """A usage event, by a test key, and its place in a sealed batch."""
    now = timezone.now()
    fields = {"account": account, "creator": account, "version": version, "price": price}
    UsageEvent.objects.create(
        prediction_id=prediction_id, mode="test", units=1, gross_nanos=0, occurred_at=now, **fields
    )
    key = ReceiptKey.objects.create(kid="k", public_key="p", created_at=now)
    batch = ReceiptBatch.objects.create(
        seq=1, size=1, sealed_at=now, key=key, mark_transaction=1, mark_id=prediction_id
    )
    ReceiptLeaf.objects.create(prediction_id=prediction_id, batch=batch, index=0, hash=bytes(32))


def _pay_out(account: Account) -> PayoutItem:
    """A payout that waits for the platform's balance."""
    payable_id = ledger.get_ledger_account_id(
        LedgerAccount.Kind.CREATOR_PAYABLE, holder_id=account.pk
    )
    in_flight_id = ledger.get_ledger_account_id(
        LedgerAccount.Kind.PAYOUT_IN_FLIGHT, holder_id=account.pk
    )
    item = PayoutItem.objects.create(
        run=PayoutRun.objects.create(), creator=account, amount_cents=1, destination="acct_1"
    )
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.PAYOUT,
        idempotency_key=f"payout:{item.pk}",
        amounts_nanos={payable_id: -item.amount_nanos, in_flight_id: item.amount_nanos},
    )
    return item


def _owe(account: Account) -> Invoice:
    """An invoice for nothing, credit that was asked for, and an address."""
    now = timezone.now()
    PostpaidTerms.objects.create(
        account=account, state="applied", wanted_limit_nanos=50_000_000_000
    )
    TaxDetails.objects.create(account=account, **TAX_DETAILS | {"city": "Elsewhere"})
    amounts = dict.fromkeys(("subtotal_cents", "tax_cents", "total_cents"), 0)
    times = dict.fromkeys(("period_start", "period_end", "created_at", "booked_at"), now)
    return Invoice.objects.create(
        account=account, stripe_id="in_1", state="paid", currency="usd", **amounts, **times
    )


def _upload_of(account: Account, version: ModelVersion, state: str) -> Upload:
    key, _ = SigningKey.objects.get_or_create(
        account=account, public_key="AA==", fingerprint="f", defaults={"trusted_at": timezone.now()}
    )
    expires_at = timezone.now() + timedelta(hours=1)
    files = [{"path": "m", "kind": "onnx", "plain_size_bytes": 9, "cipher_size_bytes": 9}]
    fields = {"signing_key": key, "kem": {}, "files": files, "expires_at": expires_at}
    return Upload.objects.create(account=account, version=version, state=state, **fields)


def _begin_upload(account: Account, model: AIModel) -> Upload:
    version = ModelVersionFactory(model=model, number=2, state="uploading")
    return _upload_of(account, version, Upload.State.OPEN)


def _store_artifact(account: Account, version: ModelVersion) -> None:
    upload = _upload_of(account, version, Upload.State.COMPLETE)
    name = storages["artifacts"].save(f"artifacts/{version.pk}/0", ContentFile(b"sealed"))
    part = {"file_index": 0, "part": 0, "size_bytes": 6, "sha256": "00" * 32}
    UploadPart.objects.create(upload=upload, storage_name=name, **part)
    fields = {"manifest": "{}", "manifest_sha256": "", "signature": "", "size_bytes": 6}
    Artifact.objects.create(
        version=version, upload=upload, signing_key=upload.signing_key, **fields
    )


def _assign(node: ScriptedNode, version: ModelVersion) -> ReplicaWork:
    replica = Replica.objects.create(version=version, node_id=node.node_id, purpose="serve")
    return ReplicaWork.objects.create(replica=replica, kind="test")


def snapshot() -> dict[str, list[Any]]:
    """Every row of every table, without what a call leaves behind of its caller."""
    found = {}
    for model in apps.get_models():
        if model._meta.label == "sessions.Session":
            continue
        names = [one.attname for one in model._meta.concrete_fields if one.name not in VOLATILE]
        found[model._meta.label] = list(model._base_manager.order_by("pk").values_list(*names))
    return found


# --- The table ---


def _addresses() -> Iterator[str]:
    """The name of every address of the product, by its urlconf."""
    for resolver in get_resolver().url_patterns:
        assert isinstance(resolver, URLResolver)
        if resolver.app_name in OWN_TABLES:
            continue
        for pattern in resolver.url_patterns:
            assert isinstance(pattern, URLPattern)
            yield f"{resolver.app_name}:{pattern.name}"


def test_the_tables_name_every_address():
    listed = {line.name for line in LINES}

    assert listed | set(NAMELESS) == set(_addresses())
    assert not listed & set(NAMELESS)
    assert {name for name, _ in PUBLIC} <= listed


def test_each_line_is_at_the_address_it_names(rows):
    for line in LINES:
        assert resolve(line.url.format(**rows).partition("?")[0]).view_name == line.name


@pytest.mark.parametrize("line", LINES, ids=str)
def test_its_owner_reaches_it(acme, rows, line):
    status = acme.call(line, line.url.format(**rows), line.method, by=line.by)

    # 409, 422 and 503 come from behind the door: nothing is looked at before.
    assert status in (200, 201, 202, 204, 302, 409, 422, 503), status


def foreign_calls(line: Line) -> list[str]:
    """The ways in which a stranger may come to an address."""
    return {
        "person": ["person"],
        "password": ["password"],
        "token": ["token", "person"],
        "node": ["node", "token", "person"],
        "key": ["key", "token", "person"],
    }[line.by]


@pytest.mark.parametrize("visibility", ["private", "public"])
@pytest.mark.parametrize("line", LINES, ids=str)
def test_strangers_find_nothing_and_change_nothing(acme, other, rows, line, visibility):
    AIModel.objects.update(visibility=visibility)
    url = line.url.format(**rows)
    before = snapshot()

    for by in foreign_calls(line):
        for method in METHODS:
            if visibility == "public" and (line.name, method) in PUBLIC:
                continue
            status = other.call(line, url, method, by=by)
            # A person's session and token mean nothing to the node API.
            refused = (401, 403, 404) if line.by == "node" else (403, 404)
            # A body that fits another method says nothing of an account.
            allowed = refused if method == line.method else (*refused, 405, 415, 422)
            assert status in allowed, (by, method)

    assert snapshot() == before


@pytest.mark.parametrize(
    "line", [line for line in LINES if line.by != "password" and line.by != "node"], ids=str
)
def test_without_the_access_rules_strangers_would_find_it(
    acme, other, rows, line, everything_for_everybody
):
    everything_for_everybody()

    status = other.call(line, line.url.format(**rows), line.method, by=line.by)

    assert status not in (401, 403, 404)


@pytest.fixture
def everything_for_everybody(monkeypatch) -> Callable[[], None]:
    """The control: take the rules away wherever they are known by name."""
    rules = {
        "list_accounts": lambda actor: Account.objects.all(),
        "has_right": lambda actor, account, right: True,
        "require_right": lambda actor, account, right: None,
    }
    kept = {name: getattr(access, name) for name in rules}

    def take_away() -> None:
        for module in [one for name, one in sys.modules.items() if _is_ours(name)]:
            for name, rule in rules.items():
                if getattr(module, name, None) is kept[name]:
                    monkeypatch.setattr(module, name, rule)

    return take_away


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in ("marketplace", "inference", "billing")


def test_without_the_nodes_rule_another_node_would_find_it(other, rows, monkeypatch):
    monkeypatch.setattr(node_selectors, "_may_fetch", lambda node, version_id: True)

    assert other.node.call("GET", f"artifacts/{rows['version']}").status_code == 200


# --- The admin console ---

# Anybody may ask to sign in or out; the first leads to the site's own page.
OPEN_ADMIN = {"login", "logout"}


def admin_addresses() -> Iterator[tuple[str, type | None]]:
    """Every address of the console with a row of the table it is about."""
    for registered in admin.site._registry:
        row = registered._base_manager.first()
        for pattern in admin.site.get_model_admin(registered).urls:
            if pattern.name is not None:
                needs_id = "object_id" in pattern.pattern.converters
                arguments = [row.pk if row is not None else "1"] if needs_id else []
                yield reverse(f"admin:{pattern.name}", args=arguments), registered
    for pattern in admin.site.urls[0]:
        name = getattr(pattern, "name", None)
        if name is None or name in OPEN_ADMIN:
            continue
        arguments = {"view_on_site": ["1", "1"], "app_list": ["billing"]}.get(name, [])
        yield reverse(f"admin:{name}", args=arguments), None


def admin_body(registered: type | None) -> dict[str, str]:
    """A form that confirms a deletion and runs the table's own action on its first row."""
    body = {"post": "yes", "confirmed": "yes", "reason": "because"}
    if registered is None:
        return body
    actions = list(admin.site.get_model_admin(registered).actions)
    row = registered._base_manager.first()
    body["action"] = actions[0] if actions else "delete_selected"
    return body | ({"_selected_action": str(row.pk)} if row is not None else {})


@pytest.mark.parametrize("who", ["outsider", "owner", "nobody"])
def test_the_console_is_nobodys_but_the_platforms(request, rows, outsider, who):
    client = Client()
    if who != "nobody":
        client.force_login(request.getfixturevalue(who))
    ModelVersion.objects.filter(number=1).update(state="in_review")
    before = snapshot()

    for url, registered in admin_addresses():
        for answer in (client.get(url), client.post(url, admin_body(registered))):
            assert answer.status_code in (302, 403, 404), url
            if answer.status_code == 302:
                assert answer.url.startswith("/admin/login/?next="), url

    assert snapshot() == before


def test_the_platform_finds_the_console_and_its_actions_work(rows, admin_client):
    """The control: the same calls, by one who may."""
    ModelVersion.objects.filter(number=1).update(state="in_review")
    before = snapshot()
    addresses = dict(admin_addresses())

    for url in [one for one in addresses if re.fullmatch(r"/admin/\w+/\w+/", one)]:
        assert admin_client.get(url).status_code == 200, url
        admin_client.post(url, admin_body(addresses[url]))

    changed = {label for label, found in snapshot().items() if found != before[label]}
    ours = {"marketplace.ModelVersion", "marketplace.Account", "inference.Node"}
    assert ours | {"inference.Deployment"} <= changed
