"""Show an expected error in the form that caused it."""

from __future__ import annotations

from django import forms

from marketplace.core.errors import MarketplaceError


def add_problem(form: forms.Form, error: MarketplaceError) -> None:
    """Put the error's faults at their fields, and what belongs to none on top."""
    for fault in error.errors:
        # Of a list, the field that holds it; the detail quotes the entry.
        name = fault["pointer"].lstrip("/").partition("/")[0]
        form.add_error(name if name in form.fields else None, fault["detail"])
    if not error.errors:
        form.add_error(None, error.detail)
