"""The admin console: the review queue and the accounts can be acted on, the rest is read."""

from marketplace.admin.account import AccountAdmin, UserAdmin
from marketplace.admin.audit import AuditEventAdmin
from marketplace.admin.catalog import AIModelAdmin, ModelVersionAdmin, ReviewAdmin
from marketplace.admin.collection import CollectionAdmin
from marketplace.admin.incident import IncidentAdmin, IncidentUpdateAdmin
from marketplace.admin.key import APIKeyAdmin

__all__ = [
    "AIModelAdmin",
    "APIKeyAdmin",
    "AccountAdmin",
    "AuditEventAdmin",
    "CollectionAdmin",
    "IncidentAdmin",
    "IncidentUpdateAdmin",
    "ModelVersionAdmin",
    "ReviewAdmin",
    "UserAdmin",
]
