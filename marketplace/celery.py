"""The Celery application: idempotent work of the control plane, never predictions.

Beat's schedule stands here, so that one look shows all that happens by itself.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import (
    beat_init,
    heartbeat_sent,
    setup_logging,
    worker_init,
    worker_process_init,
)
from django.conf import settings

from marketplace.core import probe

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")

app = Celery("strongroom")
# For every thread: else a task that a thread of the web asks for goes to no broker of ours.
app.set_default()
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["marketplace", "inference", "billing"])
# Workers alone import it.
app.Task.Request = "marketplace.worker_metrics:CountedRequest"


@setup_logging.connect
def _keep_logging(**_: Any) -> None:
    """Celery would put its own form in the place of the settings'; a receiver stops it."""


@heartbeat_sent.connect
def _note_life(**_: Any) -> None:
    """A worker that hangs sends none, and is started anew (see `marketplace.core.probe`)."""
    probe.note("worker")


@worker_init.connect
def _serve_worker_metrics(**_: Any) -> None:
    from marketplace import worker_metrics

    worker_metrics.declare([name for name in app.tasks if not name.startswith("celery.")])
    listener = worker_metrics.start(settings.WORKER_METRICS_LISTEN, settings.METRICS_TOKEN)
    if listener is not None:
        # A child that outlives its parent would keep the port.
        worker_process_init.connect(lambda **_: listener.close_here(), weak=False)


@beat_init.connect
def _serve_beat_metrics(**_: Any) -> None:
    from marketplace import beat_metrics

    beat_metrics.start(settings.BEAT_METRICS_LISTEN, settings.METRICS_TOKEN)


_SCHEDULE: dict[str, dict[str, Any]] = {
    "note-worker": {"task": "marketplace.note_worker", "schedule": 30.0},
    "sample-status": {"task": "marketplace.sample_status", "schedule": 60.0},
    "mail-notices": {"task": "marketplace.mail_notices", "schedule": 15.0},
    "check-audit-log": {"task": "marketplace.check_audit_log", "schedule": 3600.0},
    "mail-security-notices": {"task": "marketplace.mail_security_notices", "schedule": 15.0},
    "forget-sessions": {"task": "marketplace.forget_sessions", "schedule": 3600.0},
    "tell-announcements": {"task": "marketplace.tell_announcements", "schedule": 60.0},
    "forget-notifications": {"task": "marketplace.forget_notifications", "schedule": 3600.0},
    "data-exports": {"task": "marketplace.sweep_data_exports", "schedule": 60.0},
    "account-deletions": {"task": "marketplace.sweep_account_deletions", "schedule": 300.0},
    # Carries on with every version whose next step is due; also after a worker died.
    "advance-onboarding": {"task": "inference.sweep_onboarding", "schedule": 5.0},
    "expire-uploads": {"task": "inference.expire_uploads", "schedule": 300.0},
    "mail-signing-keys": {"task": "inference.mail_signing_keys", "schedule": 60.0},
    # Reads new files, and notes what is over; what is queued is for the gateways.
    "advance-batches": {"task": "inference.advance_batches", "schedule": 3.0},
    "forget-batches": {"task": "inference.forget_batches", "schedule": 600.0},
    "archive-jobs": {"task": "inference.archive_jobs", "schedule": 60.0},
    "end-unplaceable-jobs": {"task": "inference.end_unplaceable_jobs", "schedule": 60.0},
    "forget-predictions": {"task": "inference.forget_predictions", "schedule": 120.0},
    "sweep-files": {"task": "inference.sweep_files", "schedule": 120.0},
    "score-abuse": {"task": "inference.score_abuse", "schedule": 900.0},
    "forget-queries": {"task": "inference.forget_queries", "schedule": 3600.0},
    "lost-nodes": {"task": "inference.sweep_nodes", "schedule": 10.0},
    # Of hours that are over; what was missed is made up for, up to a day back.
    "charge-warm-hours": {"task": "inference.charge_warm_hours", "schedule": 60.0},
    "roll-up-metrics": {"task": "inference.roll_up_metrics", "schedule": 60.0},
    "seal-drift": {"task": "inference.seal_drift", "schedule": 300.0},
    # What nobody asked to be sent at once; the first of its tries comes within seconds.
    "send-webhooks": {"task": "inference.send_webhooks", "schedule": 2.0},
    "forget-webhooks": {"task": "inference.forget_webhooks", "schedule": 3600.0},
    "anchor-release-logs": {"task": "inference.anchor_release_logs", "schedule": 600.0},
    "expire-holds": {"task": "billing.expire_holds", "schedule": 15.0},
    "seal-receipts": {"task": "billing.seal_receipts", "schedule": 10.0},
    "apply-stripe-events": {"task": "billing.sweep_stripe_events", "schedule": 15.0},
    "poll-topups": {"task": "billing.poll_topups", "schedule": 60.0},
    "auto-topups": {"task": "billing.run_auto_topups", "schedule": 60.0},
    "poll-refunds": {"task": "billing.poll_refunds", "schedule": 60.0},
    "poll-disputes": {"task": "billing.poll_disputes", "schedule": 300.0},
    "poll-stripe-events": {"task": "billing.poll_stripe_events", "schedule": 600.0},
    "scan-for-fraud": {"task": "billing.scan_for_fraud", "schedule": 600.0},
    "report-usage": {"task": "billing.report_usage", "schedule": 60.0},
    "advance-postpaid": {"task": "billing.advance_postpaid", "schedule": 60.0},
    "poll-invoices": {"task": "billing.poll_invoices", "schedule": 900.0},
    "compare-usage": {"task": "billing.compare_usage", "schedule": 3600.0},
    "remind-of-invoices": {"task": "billing.remind_of_invoices", "schedule": 3600.0},
    "alert-budgets": {"task": "billing.alert_budgets", "schedule": 60.0},
    "mail-price-rises": {"task": "billing.mail_price_rises", "schedule": 60.0},
    # What the catalogue shows and sorts by: at most so old.
    "embed-listings": {"task": "marketplace.embed_listings", "schedule": 15.0},
    "tell-prices": {"task": "billing.tell_prices", "schedule": 30.0},
    "tell-use": {"task": "billing.tell_use", "schedule": 900.0},
    "release-earnings": {"task": "billing.release_earnings", "schedule": 3600.0},
    "start-payouts": {"task": "billing.start_payouts", "schedule": 3600.0},
    "advance-payouts": {"task": "billing.advance_payouts", "schedule": 300.0},
    "poll-connect": {"task": "billing.poll_connect_accounts", "schedule": 3600.0},
    "check-ledger": {"task": "billing.check_ledger", "schedule": 3600.0},
    # Once a night; a night in which Stripe did not answer is made up for.
    "reconcile": {"task": "billing.reconcile_nightly", "schedule": 1800.0},
}
# What waited longer than until its next turn, while no worker was there, is not done twice.
app.conf.beat_schedule = {
    name: entry | {"options": {"expires": entry["schedule"]}} for name, entry in _SCHEDULE.items()
}
