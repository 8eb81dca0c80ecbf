"""Sign up, sign in, sign out, and a new password for who forgot the old one."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth import logout, views
from django.contrib.auth.forms import PasswordResetForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from marketplace.address import address_of
from marketplace.core.errors import AuthenticationError, ConflictError, InvalidInputError
from marketplace.core.flags import SIGN_UP
from marketplace.forms.account import LoginForm, NewPasswordForm, ResetForm, SignUpForm
from marketplace.forms.problem import add_problem
from marketplace.models import User
from marketplace.services import account, email_address, passkey, throttle
from marketplace.services.flag import require_flag
from marketplace.services.session import end_sessions
from marketplace.views.redirects import next_of
from marketplace.views.second_factor import finish_login, finish_password


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "POST"])
def sign_up(request: HttpRequest) -> HttpResponse:
    """A new person with an account of its own, signed in at once."""
    if request.user.is_authenticated:
        return redirect("marketplace:home")
    require_flag(SIGN_UP)
    form = SignUpForm(request.POST or None)
    if form.is_valid():
        throttle.count_sign_up(address=address_of(request))
        try:
            user, _ = account.sign_up(**form.cleaned_data)
        except (InvalidInputError, ConflictError) as error:
            add_problem(form, error)
        else:
            answer = finish_login(request, user, target=next_of(request))
            _mail_link(request, user)
            return answer
    context = {"form": form, "next": request.GET.get("next", "")}
    return render(request, "marketplace/sign_up.html", context, status=_status(form))


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "POST"])
def log_in(request: HttpRequest) -> HttpResponse:
    """Sign in with e-mail address and password; too many failures are a 429 page."""
    if request.user.is_authenticated:
        return redirect(next_of(request))
    form = LoginForm(request.POST or None)
    if form.is_valid():
        try:
            user = account.log_in(request, **form.cleaned_data, address=address_of(request))
        except AuthenticationError as error:
            add_problem(form, error)
        else:
            return finish_password(request, user)
    context = {
        "form": form,
        "next": request.GET.get("next", ""),
        "has_passkeys": passkey.is_at_origin(request.get_host()),
    }
    return render(request, "marketplace/login.html", context, status=_status(form))


@require_POST
def log_out(request: HttpRequest) -> HttpResponse:
    """End the session."""
    logout(request)
    return redirect("marketplace:catalogue")


class ResetView(views.PasswordResetView):
    """Ask for a mail with a link. The answer is the same whoever asks."""

    form_class = ResetForm
    template_name = "marketplace/reset.html"
    email_template_name = "emails/password_reset.txt"
    subject_template_name = "emails/password_reset_subject.txt"
    success_url = reverse_lazy("marketplace:reset-sent")

    def form_valid(self, form: PasswordResetForm) -> HttpResponse:
        throttle.count_password_reset(address=address_of(self.request))
        return super().form_valid(form)


class ResetConfirmView(views.PasswordResetConfirmView):
    """Choose a new password behind the link of the mail."""

    form_class = NewPasswordForm  # type: ignore[assignment]
    template_name = "marketplace/reset_confirm.html"

    def get_form_kwargs(self) -> dict[str, object]:
        # The base view hands the user to Django's own form; ours goes through the service.
        kwargs = super().get_form_kwargs()
        kwargs.pop("user")
        return kwargs

    def form_valid(self, form: Any) -> HttpResponse:
        assert isinstance(self.user, User)
        try:
            account.change_password(user=self.user, password=form.cleaned_data["password"])
        except InvalidInputError as error:
            add_problem(form, error)
            return self.form_invalid(form)
        end_sessions(user=self.user)
        self.request.session.pop(views.INTERNAL_RESET_SESSION_TOKEN, None)
        messages.success(self.request, "The new password is set. Sign in with it.")
        return redirect("marketplace:login")


def _mail_link(request: HttpRequest, user: User) -> None:
    if email_address.mail_confirmation(user):
        text = f"Welcome. Follow the link that was mailed to {user.email} to confirm the address."
        messages.info(request, text)


def _status(form: LoginForm | SignUpForm) -> int:
    return 422 if form.is_bound and form.errors else 200
