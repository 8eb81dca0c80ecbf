"""Tasks of the marketplace; each calls one service, so it may run twice."""

from marketplace.tasks.security import forget_sessions, mail_security_notices

__all__ = ["forget_sessions", "mail_security_notices"]
