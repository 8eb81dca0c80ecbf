"""Propose a credit or an adjustment, decide one, and choose from the list."""

from __future__ import annotations

from typing import Any

from django import forms

from billing.forms.amount import DollarsField
from billing.models import Adjustment, LedgerAccount
from billing.services.adjustment import MOVABLE_KINDS, REFERENCE_LENGTH_MAX
from marketplace.core import limits
from marketplace.models import Account

_KINDS = [(kind.value, kind.label) for kind in LedgerAccount.Kind if kind in MOVABLE_KINDS]
# Whose account these are; the others are the platform's.
HELD_KINDS = frozenset(
    {
        LedgerAccount.Kind.WALLET,
        LedgerAccount.Kind.RECEIVABLE,
        LedgerAccount.Kind.CREATOR_RESERVE,
        LedgerAccount.Kind.CREATOR_PAYABLE,
    }
)


class ReasonForm(forms.Form):
    """Why; kept for good."""

    reason = forms.CharField(
        label="Reason",
        max_length=limits.REASON_LENGTH_MAX,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Kept for good. The people concerned can read it.",
    )


class _MoneyForm(ReasonForm):
    amount = DollarsField(label="Amount", help_text="In dollars, to a billionth.")
    reference = forms.CharField(
        label="Reference",
        max_length=REFERENCE_LENGTH_MAX,
        required=False,
        help_text="What it belongs to elsewhere, such as a ticket.",
    )


class CreditForm(_MoneyForm):
    """Credit for an account's wallet."""

    account = forms.SlugField(label="Account", help_text="Its short name.")
    field_order = ("account", "amount", "reason", "reference")

    def clean_account(self) -> Account:
        """The account of this name."""
        return _find_account(self.cleaned_data["account"])


class AdjustmentForm(_MoneyForm):
    """Money from one ledger account to another."""

    source_kind = forms.ChoiceField(label="From", choices=_KINDS)
    source_holder = forms.SlugField(
        label="of", required=False, help_text="An account; empty for the platform's."
    )
    target_kind = forms.ChoiceField(label="To", choices=_KINDS)
    target_holder = forms.SlugField(
        label="of", required=False, help_text="An account; empty for the platform's."
    )
    field_order = (
        "source_kind",
        "source_holder",
        "target_kind",
        "target_holder",
        "amount",
        "reason",
        "reference",
    )

    def clean(self) -> dict[str, Any]:
        """With `source` and `target`: a kind and its holder."""
        cleaned = super().clean() or {}
        for side in ("source", "target"):
            kind, slug = cleaned.get(f"{side}_kind"), cleaned.get(f"{side}_holder")
            if not kind:
                continue
            if (kind in HELD_KINDS) != bool(slug):
                self.add_error(
                    f"{side}_holder",
                    "Whose it is." if kind in HELD_KINDS else "This one is the platform's.",
                )
                continue
            try:
                cleaned[side] = (LedgerAccount.Kind(kind), _find_account(slug) if slug else None)
            except forms.ValidationError as error:
                self.add_error(f"{side}_holder", error)
        return cleaned


class AdjustmentFilterForm(forms.Form):
    """Which of them to list."""

    state = forms.ChoiceField(
        label="State", required=False, choices=[("", "All"), *Adjustment.State.choices]
    )
    kind = forms.ChoiceField(
        label="Kind", required=False, choices=[("", "All"), *Adjustment.Kind.choices]
    )
    account = forms.SlugField(label="Account", required=False)


def _find_account(slug: str) -> Account:
    account = Account.objects.filter(slug=slug).first()
    if account is None:
        raise forms.ValidationError("There is no such account.")
    return account
