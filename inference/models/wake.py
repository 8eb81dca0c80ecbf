"""Wishes for versions that sleep; see `inference/sql/wake.sql`."""

from __future__ import annotations

from django.db import models


class WakeWish(models.Model):
    """Somebody wants a version. Whoever wakes it deletes all of its wishes.

    Several may stand for one version: a row that all shared would make each caller's
    transaction wait for the others'. No foreign keys, for the same reason.
    """

    version_id = models.UUIDField(db_index=True)
    asked_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "wake wishes"

    def __str__(self) -> str:
        return f"wish for {self.version_id}"
