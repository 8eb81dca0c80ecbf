from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest

from billing.admin.decision import MakingAdmin
from billing.models import CreatorTerms
from billing.services.creator_terms import set_creator_share
from marketplace.context import actor_of
from marketplace.core import limits
from marketplace.models import Account
from marketplace.selectors.found import get_one


class ShareForm(forms.Form):
    """A creator's share, and why."""

    account = forms.SlugField(max_length=63)
    percent = forms.DecimalField(
        label="Creator's share in percent",
        min_value=Decimal(0),
        max_value=Decimal(100),
        decimal_places=2,
        help_text="Of prices that are set from now on; present ones keep theirs.",
    )
    reason = forms.CharField(max_length=limits.REASON_LENGTH_MAX)


@admin.register(CreatorTerms)
class CreatorTermsAdmin(MakingAdmin):
    list_display = ["account", "creator_share_bps", "set_by", "set_at"]
    search_fields = ["account__slug"]
    list_select_related = ["account", "set_by"]
    ordering = ["account__slug"]
    pages = {"make": ("Agree on a creator's share", ShareForm)}

    def make(self, request: HttpRequest, answers: dict[str, Any]) -> CreatorTerms:
        """See `set_creator_share`."""
        account = get_one(
            Account.objects.filter(slug=answers["account"]), "There is no such account."
        )
        return set_creator_share(
            actor_of(request),
            account,
            creator_share_bps=int(answers["percent"] * 100),
            reason=answers["reason"],
        )
