"""Tables of the marketplace, by noun."""

from marketplace.models.account import Account, Membership, User
from marketplace.models.audit import AuditEvent
from marketplace.models.catalog import AIModel, Channel, ModelVersion, Review
from marketplace.models.key import APIKey
from marketplace.models.security import (
    Authenticator,
    Passkey,
    RecoveryCode,
    SecurityNotice,
    UserSession,
)

__all__ = [
    "AIModel",
    "APIKey",
    "Account",
    "AuditEvent",
    "Authenticator",
    "Channel",
    "Membership",
    "ModelVersion",
    "Passkey",
    "RecoveryCode",
    "Review",
    "SecurityNotice",
    "User",
    "UserSession",
]
