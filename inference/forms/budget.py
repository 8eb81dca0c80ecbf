"""The budget of one consumer of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms

from marketplace.forms.limits import QueryBudgetForm


class AccountBudgetForm(QueryBudgetForm):
    # Beside the form of the model's own budgets on one page.
    prefix = "own"
    account = forms.ChoiceField(label="Account")
    field_order = ("account",)

    def __init__(self, slugs: Sequence[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["account"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [(slug, slug) for slug in slugs]
