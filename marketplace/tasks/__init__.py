"""Tasks of the marketplace; each calls one service, so it may run twice."""

from marketplace.tasks.account_deletion import (
    advance_account_deletion,
    sweep_account_deletions,
)
from marketplace.tasks.data_export import advance_data_export, sweep_data_exports
from marketplace.tasks.embedding import embed_listings
from marketplace.tasks.notice import mail_notices
from marketplace.tasks.notification import forget_notifications, tell_announcements
from marketplace.tasks.security import forget_sessions, mail_security_notices
from marketplace.tasks.status import sample_status
from marketplace.tasks.vital import check_audit_log, note_worker

__all__ = [
    "advance_account_deletion",
    "advance_data_export",
    "check_audit_log",
    "embed_listings",
    "forget_notifications",
    "forget_sessions",
    "mail_notices",
    "mail_security_notices",
    "note_worker",
    "sample_status",
    "sweep_account_deletions",
    "sweep_data_exports",
    "tell_announcements",
]
