"""Forms of second factors, confirmations and addresses."""

from __future__ import annotations

from django import forms

from marketplace.core import limits

_CODE_LENGTH_MAX = 40


def _code_field(label: str, help_text: str = "") -> forms.CharField:
    return forms.CharField(
        label=label,
        max_length=_CODE_LENGTH_MAX,
        help_text=help_text,
        widget=forms.TextInput(
            attrs={
                "autocomplete": "one-time-code",
                "autocapitalize": "characters",
                "spellcheck": "false",
                "autofocus": True,
            }
        ),
    )


class CodeForm(forms.Form):
    """The second step of signing in."""

    code = _code_field("Code", "Six digits of your authenticator app, or a recovery code.")


class AuthenticatorForm(forms.Form):
    code = _code_field("Code that the app shows", "Six digits.")


class ConfirmForm(forms.Form):
    """One of three proofs; which one is wanted, the view knows."""

    confirm_password = forms.CharField(
        label="Password",
        strip=False,
        required=False,
        max_length=1024,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "autofocus": True}),
    )
    confirm_code = _code_field("Code", "Six digits of your authenticator app, or a recovery code.")
    confirm_passkey = forms.CharField(
        required=False, max_length=limits.CREDENTIAL_LENGTH_MAX, widget=forms.HiddenInput
    )

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.fields["confirm_code"].required = False


class PasskeyAnswerForm(forms.Form):
    """What the browser made of the question; the script fills it in."""

    credential = forms.CharField(
        max_length=limits.CREDENTIAL_LENGTH_MAX, widget=forms.HiddenInput, required=False
    )


class PasskeyForm(PasskeyAnswerForm):
    name = forms.CharField(
        label="Name",
        max_length=limits.NAME_LENGTH_MAX,
        help_text="By which you know the device again: “laptop”, “blue security key”.",
    )


class PasskeyNameForm(forms.Form):
    name = forms.CharField(label="Name", max_length=limits.NAME_LENGTH_MAX)


class EmailForm(forms.Form):
    email = forms.EmailField(
        label="New e-mail address",
        max_length=254,
        widget=forms.EmailInput(attrs={"autocomplete": "email"}),
    )
