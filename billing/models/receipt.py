"""Batches of charges, sealed: each a Merkle tree whose signed root names the batch before it.

Rows are append-only. The leaves hold hashes; what was hashed is made again from the usage
event and its price, which do not change either.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class ReceiptKey(models.Model):
    """A key that signs batches; each but the first was named by the one before it."""

    kid = models.CharField(max_length=32, primary_key=True)
    public_key = models.CharField(max_length=64, unique=True)
    # By the key before it; empty for the first.
    signature = models.CharField(max_length=128, blank=True)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.kid


class ReceiptBatch(models.Model):
    """The statement about a batch, as it was signed."""

    seq = models.BigIntegerField(primary_key=True)
    size = models.PositiveIntegerField()
    root = models.CharField(max_length=64)
    previous = models.CharField(max_length=64, unique=True)
    hash = models.CharField(max_length=64, unique=True)
    sealed_at = models.DateTimeField()
    key = models.ForeignKey(ReceiptKey, models.PROTECT, related_name="batches")
    signature = models.CharField(max_length=128)
    # How far the events were read, by the transaction that wrote them and their id.
    mark_transaction = models.BigIntegerField()
    mark_id = models.UUIDField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(seq__gte=1), name="billing_receipt_batch_seq"),
            models.CheckConstraint(condition=Q(size__gte=1), name="billing_receipt_batch_size"),
        ]

    def __str__(self) -> str:
        return f"batch {self.seq}"


class ReceiptLeaf(models.Model):
    """The place of a prediction's charge in its batch: it has one, and only one."""

    prediction_id = models.UUIDField(primary_key=True, editable=False)
    batch = models.ForeignKey(ReceiptBatch, models.PROTECT, related_name="leaves", db_index=False)
    index = models.PositiveIntegerField()
    hash = models.BinaryField(max_length=32)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["batch", "index"], name="billing_receipt_leaf_once"),
        ]

    def __str__(self) -> str:
        return f"{self.prediction_id} in {self.batch_id}"
