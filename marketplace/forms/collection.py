"""Forms of an account's collections."""

from __future__ import annotations

from django import forms

from marketplace.core import limits

MOVES = {"up": -1, "down": 1}


class CollectionForm(forms.Form):
    title = forms.CharField(label="Title", max_length=80)
    summary = forms.CharField(
        label="Description",
        max_length=280,
        required=False,
        help_text="Why these models are together, in a sentence or two.",
        widget=forms.Textarea(attrs={"rows": 3}),
    )
    is_public = forms.BooleanField(
        label="Shown to everybody, on the owner's page",
        required=False,
        help_text="Else only members of the account see it. Private models are shown to members "
        "alone either way.",
    )


class EntryForm(forms.Form):
    """One model of a collection, and what becomes of it."""

    model = forms.RegexField(
        r"^[^/\s]{1,39}/[^/\s]{1,63}\Z",
        label="Model",
        max_length=103,
        help_text="Owner and name, such as demo/digits: yours, or any that you can see.",
        error_messages={"invalid": "Owner and name, such as demo/digits."},
        widget=forms.TextInput(
            attrs={"autocapitalize": "none", "spellcheck": "false", "list": "own-models"}
        ),
    )
    do = forms.ChoiceField(choices=[(one, one) for one in ("add", "remove", *MOVES)])
    position = forms.IntegerField(
        min_value=0, max_value=limits.OWN_COLLECTION_MODELS_MAX, required=False
    )

    def clean_model(self) -> tuple[str, str]:
        """Owner and name."""
        owner, _, name = self.cleaned_data["model"].partition("/")
        return owner, name
