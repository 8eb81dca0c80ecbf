"""Tables of the marketplace, by noun."""

from marketplace.models.account import Account, Membership, User
from marketplace.models.announcement import Announcement
from marketplace.models.audit import AuditEvent
from marketplace.models.card import CardRevision
from marketplace.models.catalog import AIModel, Channel, ModelVersion, Review
from marketplace.models.collection import Collection, CollectionEntry
from marketplace.models.entry import CatalogueEntry
from marketplace.models.flag import FlagSetting
from marketplace.models.impersonation import Impersonation
from marketplace.models.key import APIKey
from marketplace.models.notice import Notice
from marketplace.models.report import Report, Takedown
from marketplace.models.security import (
    Authenticator,
    Passkey,
    RecoveryCode,
    SecurityNotice,
    UserSession,
)
from marketplace.models.vital import Vital

__all__ = [
    "AIModel",
    "APIKey",
    "Account",
    "Announcement",
    "AuditEvent",
    "Authenticator",
    "CardRevision",
    "CatalogueEntry",
    "Channel",
    "Collection",
    "CollectionEntry",
    "FlagSetting",
    "Impersonation",
    "Membership",
    "ModelVersion",
    "Notice",
    "Passkey",
    "RecoveryCode",
    "Report",
    "Review",
    "SecurityNotice",
    "Takedown",
    "User",
    "UserSession",
    "Vital",
]
