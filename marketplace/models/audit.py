"""The audit log: every change of state by a person, each row bound to the one before."""

from __future__ import annotations

from django.db import models


class AuditEvent(models.Model):
    """One change.

    `hash` covers the row and the hash before it, so that none can be altered, removed or put
    in between without breaking the chain (`manage.py audit_check`).
    """

    seq = models.BigAutoField(primary_key=True)
    at = models.DateTimeField()
    actor = models.CharField(max_length=254)
    account_id = models.UUIDField(null=True, db_index=True)
    action = models.CharField(max_length=64)
    object_type = models.CharField(max_length=40)
    object_id = models.CharField(max_length=64)
    payload = models.JSONField(default=dict)
    prev_hash = models.BinaryField(max_length=32)
    hash = models.BinaryField(max_length=32, unique=True)

    class Meta:
        indexes = [
            models.Index(fields=["actor", "-seq"], name="marketplace_audit_actor"),
            models.Index(fields=["action", "-seq"], name="marketplace_audit_action"),
            models.Index(fields=["object_id"], name="marketplace_audit_object"),
            models.Index(fields=["at"], name="marketplace_audit_at"),
        ]

    def __str__(self) -> str:
        return f"{self.seq} {self.action} {self.object_type} {self.object_id}"

    @property
    def details(self) -> list[tuple[str, object]]:
        """The payload's names and values; a template would take an entry `items` for them."""
        return list(self.payload.items())
