"""The fields of the style guide: one of each kind, with and without a fault."""

from __future__ import annotations

from django import forms


class SampleForm(forms.Form):
    """Fields as pages have them; sent nowhere."""

    name = forms.CharField(max_length=40, help_text="Lowercase letters, digits and hyphens.")
    price = forms.DecimalField(label="Price per prediction", required=False)
    task = forms.ChoiceField(choices=[("", "Choose one"), ("text", "Text"), ("image", "Image")])
    card = forms.CharField(
        label="Model card", required=False, widget=forms.Textarea(attrs={"rows": 3})
    )
    scopes = forms.MultipleChoiceField(
        choices=[("read", "Read"), ("predict", "Predict")],
        widget=forms.CheckboxSelectMultiple,
        required=False,
    )
    is_public = forms.BooleanField(label="Everybody may find it", required=False)

    def clean(self) -> dict[str, object]:
        """Always a fault of the whole form, so that the guide can show one."""
        raise forms.ValidationError("The account has as many of these as it may have.")
