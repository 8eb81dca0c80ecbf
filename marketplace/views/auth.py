"""Sign up, sign in, sign out, and a new password for who forgot the old one."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth import login, logout, views
from django.contrib.auth.forms import PasswordResetForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.urls import reverse_lazy
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from marketplace.address import address_of
from marketplace.core.errors import AuthenticationError, ConflictError, InvalidInputError
from marketplace.core.flags import SIGN_UP
from marketplace.forms.account import LoginForm, NewPasswordForm, ResetForm, SignUpForm
from marketplace.forms.problem import add_problem
from marketplace.models import User
from marketplace.services import account, throttle
from marketplace.services.flag import require_flag

# Sessions of people who signed in here; there is one way to authenticate.
_BACKEND = "django.contrib.auth.backends.ModelBackend"


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
            login(request, user, backend=_BACKEND)
            return redirect(_next_url(request))
    context = {"form": form, "next": request.GET.get("next", "")}
    return render(request, "marketplace/sign_up.html", context, status=_status(form))


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "POST"])
def log_in(request: HttpRequest) -> HttpResponse:
    """Sign in with e-mail address and password; too many failures are a 429 page."""
    if request.user.is_authenticated:
        return redirect(_next_url(request))
    form = LoginForm(request.POST or None)
    if form.is_valid():
        try:
            user = account.log_in(request, **form.cleaned_data, address=address_of(request))
        except AuthenticationError as error:
            add_problem(form, error)
        else:
            login(request, user, backend=_BACKEND)
            return redirect(_next_url(request))
    context = {"form": form, "next": request.GET.get("next", "")}
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
        self.request.session.pop(views.INTERNAL_RESET_SESSION_TOKEN, None)
        messages.success(self.request, "The new password is set. Sign in with it.")
        return redirect("marketplace:login")


def _next_url(request: HttpRequest) -> str:
    target = request.POST.get("next") or request.GET.get("next") or ""
    is_own = url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return target if is_own else resolve_url("marketplace:home")


def _status(form: LoginForm | SignUpForm) -> int:
    return 422 if form.is_bound and form.errors else 200
