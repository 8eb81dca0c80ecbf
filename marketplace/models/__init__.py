"""Tables of the marketplace, by noun."""

from marketplace.models.account import Account, Membership, User
from marketplace.models.audit import AuditEvent
from marketplace.models.catalog import AIModel, Channel, ModelVersion, Review
from marketplace.models.collection import Collection, CollectionEntry
from marketplace.models.entry import CatalogueEntry
from marketplace.models.key import APIKey

__all__ = [
    "AIModel",
    "APIKey",
    "Account",
    "AuditEvent",
    "CatalogueEntry",
    "Channel",
    "Collection",
    "CollectionEntry",
    "Membership",
    "ModelVersion",
    "Review",
    "User",
]
