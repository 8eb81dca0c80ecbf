"""Forms of models, versions and reviews."""

from __future__ import annotations

from django import forms
from django.core.validators import RegexValidator

from marketplace.core import limits
from marketplace.forms.limits import RateForm
from marketplace.models import AIModel, Channel
from marketplace.models.catalog import model_name_validator
from marketplace.services.catalog import LISTING_FORMS

task_validator, licence_validator = (
    RegexValidator(*LISTING_FORMS[name]) for name in ("task", "licence")
)


class ListingForm(RateForm):
    """What a model's page says besides its card, and its limits; name and owner never change."""

    title = forms.CharField(label="Title", max_length=120)
    summary = forms.CharField(
        label="Summary",
        max_length=280,
        required=False,
        help_text="One sentence for the catalogue.",
    )
    task = forms.CharField(
        label="Task",
        max_length=40,
        required=False,
        validators=[task_validator],
        help_text="Such as image-classification.",
    )
    licence = forms.CharField(
        label="Licence",
        max_length=64,
        required=False,
        validators=[licence_validator],
        help_text="SPDX, such as Apache-2.0.",
    )
    industry = forms.CharField(
        label="Industry", max_length=40, required=False, validators=[task_validator]
    )
    visibility = forms.ChoiceField(
        label="Visibility",
        choices=[
            (AIModel.Visibility.PUBLIC, "Public: in the catalogue once a version is published"),
            (AIModel.Visibility.PRIVATE, "Private: members of the account only"),
        ],
        widget=forms.RadioSelect,
        initial=AIModel.Visibility.PUBLIC,
    )


class NewModelForm(ListingForm):
    name = forms.CharField(
        label="Name",
        max_length=63,
        validators=[model_name_validator],
        help_text="Lowercase letters, digits, dots, hyphens, underscores. It never changes.",
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false"}),
    )
    card = forms.CharField(
        label="Card",
        max_length=limits.CARD_LENGTH_MAX,
        required=False,
        strip=False,
        help_text="Markdown. A YAML block between two lines of --- at the top becomes facts.",
        widget=forms.Textarea(attrs={"rows": 20, "class": "code", "spellcheck": "true"}),
    )
    field_order = ("name",)


class ChannelForm(forms.Form):
    channel = forms.ChoiceField(choices=Channel.Name.choices)
    version = forms.IntegerField(min_value=1, max_value=limits.VERSIONS_PER_MODEL_MAX)
    # What the channel must name until then: an undo must not undo another's move.
    only_from = forms.IntegerField(
        min_value=1, max_value=limits.VERSIONS_PER_MODEL_MAX, required=False
    )
