"""Which part of new prices a creator gets, where it is not the platform's usual one."""

from __future__ import annotations

from django.db import models


class CreatorTerms(models.Model):
    """What was agreed with one creator. Prices pin the share that they met when they were set."""

    account = models.OneToOneField(
        "marketplace.Account", models.PROTECT, primary_key=True, related_name="creator_terms"
    )
    creator_share_bps = models.PositiveSmallIntegerField()
    set_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    set_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "creator terms"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(creator_share_bps__lte=10_000),
                name="billing_creator_terms_share",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account}: {self.creator_share_bps} bps"
