"""Tasks of the marketplace; each fetches nothing and calls one service, so it may run twice."""

from marketplace.tasks.notice import mail_notices
from marketplace.tasks.vital import check_audit_log, note_worker

__all__ = ["check_audit_log", "mail_notices", "note_worker"]
