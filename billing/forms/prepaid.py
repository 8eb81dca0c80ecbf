"""Forms about a wallet that runs low, and about money that goes back."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms

from billing.models import AutoTopup
from billing.services.auto_topup import MONTHLY_LIMIT_CENTS_MAX
from billing.services.fraud import DECISIONS
from billing.services.topup import AMOUNT_CENTS_MAX, AMOUNT_CENTS_MIN
from marketplace.core.ids import new_id
from marketplace.core.limits import REASON_LENGTH_MAX


class DollarField(forms.DecimalField):
    """Dollars and cents; cleaned to cents."""

    def __init__(self, *, cents_min: int, cents_max: int, **options: Any) -> None:
        super().__init__(
            min_value=Decimal(cents_min) / 100,
            max_value=Decimal(cents_max) / 100,
            decimal_places=2,
            widget=forms.NumberInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
            **options,
        )

    def clean(self, value: Any) -> int | None:
        """The cents, or None where the field was left empty and may be."""
        dollars = super().clean(value)
        return None if dollars is None else int(dollars * 100)


class AutoTopupForm(forms.Form):
    threshold = DollarField(
        cents_min=0,
        cents_max=AMOUNT_CENTS_MAX,
        label="When the wallet falls below",
        initial=Decimal(10),
    )
    amount = DollarField(
        cents_min=AMOUNT_CENTS_MIN,
        cents_max=AMOUNT_CENTS_MAX,
        label="Buy",
        initial=Decimal(25),
        help_text=f"From ${AMOUNT_CENTS_MIN // 100} to ${AMOUNT_CENTS_MAX // 100:,}.",
    )
    monthly_limit = DollarField(
        cents_min=AMOUNT_CENTS_MIN,
        cents_max=MONTHLY_LIMIT_CENTS_MAX,
        label="At most per month",
        initial=Decimal(100),
        help_text="Months are UTC's. What you buy yourself does not count.",
    )

    def __init__(self, *args: Any, order: AutoTopup | None = None, **kwargs: Any) -> None:
        if order is not None:
            kwargs["initial"] = {
                "threshold": Decimal(order.threshold_cents) / 100,
                "amount": Decimal(order.amount_cents) / 100,
                "monthly_limit": Decimal(order.monthly_limit_cents) / 100,
            }
        super().__init__(*args, **kwargs)
        self.auto_id = "auto_topup_%s"

    def clean(self) -> dict[str, Any]:
        """The month must have room for one purchase at least."""
        fields = super().clean() or {}
        amount, limit = fields.get("amount"), fields.get("monthly_limit")
        if amount is not None and limit is not None and limit < amount:
            self.add_error("monthly_limit", "A month has room for at least one purchase.")
        return fields


class BalanceAlertForm(forms.Form):
    threshold = DollarField(
        cents_min=0,
        cents_max=AMOUNT_CENTS_MAX,
        label="Mail when the wallet falls below",
        help_text="Once each time it does. 0 is never.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.auto_id = "balance_alert_%s"


class RefundForm(forms.Form):
    """`request_id` makes a form that is sent twice one request."""

    amount = DollarField(
        cents_min=1,
        cents_max=100 * AMOUNT_CENTS_MAX,
        label="Amount",
        required=False,
        help_text="Left empty: all of it.",
    )
    request_id = forms.UUIDField(widget=forms.HiddenInput, initial=new_id)


class AdminRefundForm(RefundForm):
    reason = forms.CharField(
        label="Reason",
        max_length=REASON_LENGTH_MAX,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="The account can read it.",
    )


class DecisionForm(forms.Form):
    decision = forms.ChoiceField(
        label="Decision",
        choices=[
            ("clear", "Clear: the account acts again, payouts go on"),
            ("keep", "Keep frozen: nothing moves"),
            ("refund", "Refund: pay back what is unspent, and keep frozen"),
        ],
        widget=forms.RadioSelect,
    )
    reason = forms.CharField(
        label="Reason", max_length=REASON_LENGTH_MAX, widget=forms.Textarea(attrs={"rows": 3})
    )

    def clean_decision(self) -> str:
        """One of the service's own."""
        decision = str(self.cleaned_data["decision"])
        assert decision in DECISIONS
        return decision
