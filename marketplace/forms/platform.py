"""Forms of the platform's own pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.http import QueryDict

from marketplace.core import limits
from marketplace.models import Announcement, FlagSetting, Report
from marketplace.selectors.audit import Search
from marketplace.services.doubt import Doubt

# A title, and a text to begin with; the admin changes it as it fits.
Template = tuple[str, str]

APPROVALS: Sequence[Template] = (
    ("All in order", "Scan, tests, benchmark, licence and card were looked at and are in order."),
    ("A small change", "Little differs from the version before, and that was looked at."),
)
REFUSALS: Sequence[Template] = (
    (
        "The card says too little",
        (
            "The model card does not say what the model is for, what it was trained on and where "
            "it fails. Add this to the card and push the version again."
        ),
    ),
    (
        "The licence does not allow it",
        (
            "The licence of the model, or of what it was made from, does not allow that its "
            "predictions are sold. Push it again with the right of use, or do not offer it."
        ),
    ),
    (
        "It is not what it says",
        (
            "What the model answers does not fit what its title and card promise. Correct the "
            "listing, or push a version that keeps the promise."
        ),
    ),
    (
        "The tests prove too little",
        (
            "The test vectors do not show that the model works on inputs like those of its card. "
            "Add examples that do, and push the version again."
        ),
    ),
    (
        "It may do harm",
        (
            "The model is made for something that the terms of the platform do not allow. It will "
            "not be offered here."
        ),
    ),
)
SUSPENSIONS: Sequence[Template] = (
    ("Stolen payment", "Payments of this account were made with cards that are not its own."),
    ("Copying", "The account copies models of others by asking them systematically."),
    ("Breach of terms", "The account breaks the terms of the platform: "),
    ("At its own wish", "The owner asked for it, because others have got access to the account."),
)
TAKEDOWNS: Sequence[Template] = (
    ("Rights of others", "Somebody showed that the model, or what it was made from, is theirs."),
    ("Not what it says", "The model is not what its title and card say."),
    ("Personal data", "The model gives personal data away that it was trained on."),
    ("Harm", "The model does harm, or is made for it, against the terms of the platform."),
)
DISMISSALS: Sequence[Template] = (
    ("Nothing found", "The model was looked at, and what was reported was not found."),
    ("A matter of taste", "What was reported breaks no rule of the platform."),
)


class DeedForm(forms.Form):
    """A reason, written by oneself or begun from a template."""

    template = forms.ChoiceField(
        required=False,
        label="Begin with",
        widget=forms.Select(attrs={"data-fill": "id_reason"}),
    )
    reason = forms.CharField(
        max_length=limits.REASON_LENGTH_MAX,
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="Kept for good in the audit log. The people concerned can read it.",
    )

    def __init__(
        self, answers: QueryDict | None = None, *, templates: Sequence[Template] = ()
    ) -> None:
        if answers and templates and not answers.get("reason", "").strip():
            # Without scripts, the template that was chosen is the reason.
            answers = answers.copy()
            answers["reason"] = answers.get("template", "")
        super().__init__(answers)
        if templates:
            choices = [("", "Write your own"), *((text, title) for title, text in templates)]
            self.fields["template"].choices = choices  # type: ignore[attr-defined]
        else:
            del self.fields["template"]


class ReviewForm(DeedForm):
    """An approval: what the reviewer has to make sure of, and the reason."""

    def __init__(
        self,
        answers: QueryDict | None = None,
        *,
        templates: Sequence[Template] = (),
        doubts: Sequence[Doubt] = (),
    ) -> None:
        super().__init__(answers, templates=templates)
        if doubts:
            # Not required here: the service says why it is.
            self.fields["confirmed"] = forms.BooleanField(
                required=False, label=" ".join(one.question for one in doubts)
            )


class SearchForm(forms.Form):
    q = forms.CharField(
        required=False,
        label="Search",
        max_length=limits.SEARCH_LENGTH_MAX,
        widget=forms.TextInput(
            attrs={"type": "search", "placeholder": "Name, e-mail address, hint of a key, id"}
        ),
    )


class ReportForm(forms.Form):
    cause = forms.ChoiceField(
        label="What is wrong?", choices=Report.Cause.choices, widget=forms.RadioSelect
    )
    text = forms.CharField(
        label="Tell us more",
        max_length=limits.REASON_LENGTH_MAX,
        widget=forms.Textarea(attrs={"rows": 6}),
        help_text="What you saw, with which input, and how it can be checked. "
        "The owner does not learn who you are.",
    )


class AppealForm(forms.Form):
    text = forms.CharField(
        label="Your answer",
        max_length=limits.REASON_LENGTH_MAX,
        widget=forms.Textarea(attrs={"rows": 6}),
        help_text="You can answer once. Another look is taken, and you get a mail.",
    )


class FlagForm(DeedForm):
    mode = forms.ChoiceField(choices=FlagSetting.Mode.choices, widget=forms.RadioSelect)
    percentage = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=100,
        label="Share of accounts in percent",
        help_text="Always the same ones: raising it takes nobody out.",
    )
    accounts = forms.CharField(
        required=False,
        label="And these accounts",
        max_length=limits.ALLOWED_ENTRIES_MAX * 41,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text=f"One a line; at most {limits.ALLOWED_ENTRIES_MAX}.",
    )
    field_order = ("mode", "percentage", "accounts", "reason")

    def __init__(
        self, answers: QueryDict | None, *, initial: dict[str, Any], is_per_account: bool
    ) -> None:
        super().__init__(answers)
        self.initial = initial
        if not is_per_account:
            del self.fields["percentage"], self.fields["accounts"]
            both = [one for one in FlagSetting.Mode.choices if one[0] != FlagSetting.Mode.SOME]
            self.fields["mode"].choices = both  # type: ignore[attr-defined]

    def clean_accounts(self) -> list[str]:
        """Slugs, by line or comma."""
        text: str = self.cleaned_data["accounts"]
        return text.replace(",", " ").split()


class AnnouncementForm(forms.Form):
    text = forms.CharField(
        max_length=limits.ANNOUNCEMENT_LENGTH_MAX,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Plain text, one or two sentences.",
    )
    link = forms.CharField(
        required=False,
        max_length=limits.LINK_LENGTH_MAX,
        help_text="An address of this site that begins with /, or one with https://.",
    )
    link_text = forms.CharField(required=False, max_length=60, label="Words of the link")
    audience = forms.ChoiceField(choices=Announcement.Audience.choices)
    tone = forms.ChoiceField(choices=Announcement.Tone.choices)
    starts_at = forms.DateTimeField(
        label="From (UTC)", widget=forms.DateTimeInput(attrs={"type": "datetime-local"})
    )
    ends_at = forms.DateTimeField(
        label="Until (UTC)", widget=forms.DateTimeInput(attrs={"type": "datetime-local"})
    )
    is_dismissible = forms.BooleanField(
        required=False, initial=True, label="People may put it away"
    )


class AuditForm(forms.Form):
    actor = forms.CharField(
        required=False,
        max_length=254,
        label="Who",
        widget=forms.TextInput(attrs={"placeholder": "ada@example.com, key:…"}),
    )
    account = forms.CharField(required=False, max_length=39)
    action = forms.CharField(
        required=False,
        max_length=64,
        widget=forms.TextInput(attrs={"placeholder": "account.suspend"}),
    )
    object = forms.CharField(required=False, max_length=64, label="Id or type")
    since = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}))

    def to_search(self) -> Search:
        """What is asked for."""
        return Search(
            **{name: value for name, value in self.cleaned_data.items() if value not in ("", None)}
        )
