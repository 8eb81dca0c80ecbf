"""Tables of the marketplace, by noun."""

from marketplace.models.account import Account, Membership, User
from marketplace.models.announcement import Announcement
from marketplace.models.audit import AuditEvent
from marketplace.models.catalog import AIModel, Channel, ModelVersion, Review
from marketplace.models.collection import Collection, CollectionEntry
from marketplace.models.entry import CatalogueEntry
from marketplace.models.flag import FlagSetting
from marketplace.models.impersonation import Impersonation
from marketplace.models.incident import Incident, IncidentUpdate
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
from marketplace.models.status import Part, StatusDay
from marketplace.models.vital import Vital

__all__ = [
    "AIModel",
    "APIKey",
    "Account",
    "Announcement",
    "AuditEvent",
    "Authenticator",
    "CatalogueEntry",
    "Channel",
    "Collection",
    "CollectionEntry",
    "FlagSetting",
    "Impersonation",
    "Incident",
    "IncidentUpdate",
    "Membership",
    "ModelVersion",
    "Notice",
    "Part",
    "Passkey",
    "RecoveryCode",
    "Report",
    "Review",
    "SecurityNotice",
    "StatusDay",
    "Takedown",
    "User",
    "UserSession",
    "Vital",
]
