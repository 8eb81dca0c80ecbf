"""Tables of the marketplace, by noun."""

from marketplace.models.account import Account, Membership, User
from marketplace.models.account_deletion import (
    AccountDeletion,
    AccountDeletionStep,
    RetiredName,
)
from marketplace.models.announcement import Announcement
from marketplace.models.audit import AuditEvent
from marketplace.models.card import CardRevision
from marketplace.models.catalog import AIModel, Channel, ModelVersion, Review
from marketplace.models.collection import Collection, CollectionEntry
from marketplace.models.data_export import DataExport, DataExportStep
from marketplace.models.entry import CatalogueEntry
from marketplace.models.flag import FlagSetting
from marketplace.models.impersonation import Impersonation
from marketplace.models.incident import Incident, IncidentUpdate
from marketplace.models.key import APIKey
from marketplace.models.notice import Notice
from marketplace.models.notification import Notification, NotificationPreference
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
    "AccountDeletion",
    "AccountDeletionStep",
    "Announcement",
    "AuditEvent",
    "Authenticator",
    "CardRevision",
    "CatalogueEntry",
    "Channel",
    "Collection",
    "CollectionEntry",
    "DataExport",
    "DataExportStep",
    "FlagSetting",
    "Impersonation",
    "Incident",
    "IncidentUpdate",
    "Membership",
    "ModelVersion",
    "Notice",
    "Notification",
    "NotificationPreference",
    "Part",
    "Passkey",
    "RecoveryCode",
    "Report",
    "RetiredName",
    "Review",
    "SecurityNotice",
    "StatusDay",
    "Takedown",
    "User",
    "UserSession",
    "Vital",
]
