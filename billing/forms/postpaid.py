"""Ask for credit, and say whom invoices are addressed to."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.validators import RegexValidator

from billing.models import TaxDetails
from billing.services.postpaid import (
    DUE_DAYS_MAX,
    DUE_DAYS_MIN,
    LIMIT_NANOS_MAX,
    LIMIT_NANOS_MIN,
)
from billing.services.tax_details import FIELDS
from marketplace.core.money import NANOS_PER_DOLLAR

NOTE_LENGTH_MAX = 2_000
_DOLLARS_MIN, _DOLLARS_MAX = (
    LIMIT_NANOS_MIN // NANOS_PER_DOLLAR,
    LIMIT_NANOS_MAX // NANOS_PER_DOLLAR,
)
_COUNTRY = RegexValidator(r"^[A-Z]{2}$", "Two capital letters, such as US or DE.")
_TAX_ID_TYPE = RegexValidator(r"^[a-z]{2}_[a-z_]{2,12}$", "As Stripe calls it, such as eu_vat.")


class LimitForm(forms.Form):
    """A credit limit in whole dollars."""

    limit_dollars = forms.IntegerField(
        label="Credit limit",
        min_value=_DOLLARS_MIN,
        max_value=_DOLLARS_MAX,
        help_text=f"In whole dollars, from ${_DOLLARS_MIN} to ${_DOLLARS_MAX:,}.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric", "autocomplete": "off"}),
    )

    @property
    def limit_nanos(self) -> int:
        """The limit of a valid form."""
        return int(self.cleaned_data["limit_dollars"]) * NANOS_PER_DOLLAR


class ApplyForm(LimitForm):
    """What an account asks for."""

    note = forms.CharField(
        label="Anything that we should know",
        required=False,
        max_length=NOTE_LENGTH_MAX,
        widget=forms.Textarea(attrs={"rows": 3}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.auto_id = "apply_%s"


class TermsForm(LimitForm):
    """What a platform admin decides; a reason is asked for beside it."""

    due_days = forms.IntegerField(
        label="Days to pay", min_value=DUE_DAYS_MIN, max_value=DUE_DAYS_MAX
    )


class TaxDetailsForm(forms.ModelForm):
    """Name, address and tax id on invoices."""

    class Meta:
        model = TaxDetails
        fields = FIELDS
        labels = {
            "name": "Name or company",
            "line1": "Street and number",
            "line2": "Second line",
            "postal_code": "Postal code",
            "state": "State or province",
            "tax_id_type": "Kind of tax id",
            "tax_id": "Tax id",
        }
        help_texts = {
            "country": "Two letters, such as US or DE.",
            "tax_id_type": "As Stripe calls it, such as eu_vat or us_ein.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.auto_id = "tax_%s"

    def clean_country(self) -> str:
        """Two capital letters."""
        country = str(self.cleaned_data["country"]).upper()
        _COUNTRY(country)
        return country

    def clean(self) -> dict[str, Any]:
        """A tax id and its kind come together."""
        cleaned = super().clean() or {}
        kind, number = cleaned.get("tax_id_type", ""), cleaned.get("tax_id", "")
        if bool(kind) != bool(number):
            self.add_error("tax_id", "A tax id and its kind are given together.")
        elif kind:
            try:
                _TAX_ID_TYPE(kind)
            except forms.ValidationError as error:
                self.add_error("tax_id_type", error)
        return cleaned

    @property
    def details(self) -> dict[str, str]:
        """What a valid form says."""
        return {name: str(self.cleaned_data[name] or "") for name in FIELDS}
