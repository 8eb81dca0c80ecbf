"""Tables of the marketplace, by noun."""

from marketplace.models.account import Account, Membership, User
from marketplace.models.audit import AuditEvent
from marketplace.models.catalog import AIModel, Channel, ModelVersion, Review
from marketplace.models.key import APIKey

__all__ = [
    "AIModel",
    "APIKey",
    "Account",
    "AuditEvent",
    "Channel",
    "Membership",
    "ModelVersion",
    "Review",
    "User",
]
