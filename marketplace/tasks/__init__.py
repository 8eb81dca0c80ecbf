"""Tasks of the marketplace; each calls one service, so it may run twice."""

from marketplace.tasks.embedding import embed_listings
from marketplace.tasks.notice import mail_notices
from marketplace.tasks.security import forget_sessions, mail_security_notices
from marketplace.tasks.status import sample_status
from marketplace.tasks.vital import check_audit_log, note_worker

__all__ = [
    "check_audit_log",
    "embed_listings",
    "forget_sessions",
    "mail_notices",
    "mail_security_notices",
    "note_worker",
    "sample_status",
]
