"""How much of a model somebody means to use."""

from __future__ import annotations

from typing import Any

from django import forms

from billing.models import Price
from billing.selectors.estimate import ROW
from strongroom.rating import UNITS_MAX

# Above, the sums are no longer those of one account's month.
PREDICTIONS_MAX = 1_000_000_000
# As the gateway takes in one request.
ROWS_MAX = 1_024
_LABELS = {
    "input_token": "Input tokens of each",
    "output_token": "Output tokens of each",
    "compute_ms": "Milliseconds of each",
    "pixel": "Pixels of each",
}
_USUAL = {"input_token": 500, "output_token": 200, "compute_ms": 100, "pixel": 1_000_000}


class EstimateForm(forms.Form):
    predictions = forms.IntegerField(
        label="Predictions a month", min_value=1, max_value=PREDICTIONS_MAX, initial=10_000
    )
    rows = forms.IntegerField(label="Rows of each", min_value=1, max_value=ROWS_MAX, initial=1)

    def __init__(self, price: Price, data: Any = None) -> None:
        super().__init__(data, auto_id="estimate_%s")
        self.kinds = [kind for kind in price.rates if kind != ROW]
        for kind in self.kinds:
            self.fields[kind] = forms.IntegerField(
                label=_LABELS[kind], min_value=0, max_value=UNITS_MAX, initial=_USUAL[kind]
            )

    @property
    def asked(self) -> dict[str, int]:
        """Each number, what was not given as it stood in the form at first."""
        source = self.cleaned_data if self.is_bound else {}
        return {name: source.get(name, one.initial) for name, one in self.fields.items()}
