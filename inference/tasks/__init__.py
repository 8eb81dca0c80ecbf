"""Tasks of inference; each fetches nothing and calls one service, so it may run twice."""

from inference.tasks.abuse import forget_queries, score_abuse
from inference.tasks.alert import send_alerts
from inference.tasks.batch import advance_batches, forget_batches
from inference.tasks.drift import seal_drift
from inference.tasks.file import sweep_files
from inference.tasks.job import archive_jobs, end_unplaceable_jobs
from inference.tasks.metric import roll_up_metrics
from inference.tasks.node import sweep_nodes
from inference.tasks.onboarding import advance_onboarding, sweep_onboarding
from inference.tasks.prediction import forget_predictions
from inference.tasks.queue import cancel_waiting
from inference.tasks.release_log import anchor_release_logs
from inference.tasks.signing_key import mail_signing_keys
from inference.tasks.upload import expire_uploads
from inference.tasks.wake import listen
from inference.tasks.warm_hour import charge_warm_hours
from inference.tasks.webhook import forget_webhooks, send_webhooks

__all__ = [
    "advance_batches",
    "advance_onboarding",
    "anchor_release_logs",
    "archive_jobs",
    "cancel_waiting",
    "charge_warm_hours",
    "end_unplaceable_jobs",
    "expire_uploads",
    "forget_batches",
    "forget_predictions",
    "forget_queries",
    "forget_webhooks",
    "listen",
    "mail_signing_keys",
    "roll_up_metrics",
    "score_abuse",
    "seal_drift",
    "send_alerts",
    "send_webhooks",
    "sweep_files",
    "sweep_nodes",
    "sweep_onboarding",
]
