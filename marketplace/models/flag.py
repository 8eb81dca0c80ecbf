"""How the switches that the code knows are set; see `marketplace.core.flags`."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q

from marketplace.core import limits
from marketplace.models.account import User


class FlagSetting(models.Model):
    """One switch that somebody turned away from its default."""

    class Mode(models.TextChoices):
        ON = "on", "On for all"
        OFF = "off", "Off for all"
        SOME = "some", "On for some accounts"

    name = models.CharField(max_length=40, primary_key=True)
    mode = models.CharField(max_length=4, choices=Mode)
    percentage = models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(100)])
    # Slugs, which never change.
    accounts = ArrayField(
        models.CharField(max_length=39),
        size=limits.ALLOWED_ENTRIES_MAX,
        default=list,
        blank=True,
    )
    changed_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(percentage__lte=100), name="marketplace_flag_percentage"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name}: {self.mode}"
