"""How a person signs in: authenticator app, passkeys, recovery codes, sessions, address."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from marketplace.core import limits
from marketplace.core.errors import (
    AuthenticationError,
    ConflictError,
    InvalidInputError,
    MarketplaceError,
)
from marketplace.forms.problem import add_problem
from marketplace.forms.security import AuthenticatorForm, EmailForm, PasskeyForm, PasskeyNameForm
from marketplace.models import User
from marketplace.qr import draw_path
from marketplace.selectors.security import (
    access_passkey,
    count_recovery_codes,
    find_authenticator,
    list_passkeys,
)
from marketplace.services import email_address, passkey, second_factor
from marketplace.services.session import (
    FACTOR_KEY,
    confirm_session,
    describe_agent,
    end_session,
    end_sessions,
    list_sessions,
)
from marketplace.views.confirm import needs_confirmation
from marketplace.views.redirects import own_url

# Sessions that the page lists; the others are ended together.
_SESSIONS_SHOWN = 50
_NEXT_KEY = "after_factor"


@login_required
@never_cache
@require_safe
def security(request: HttpRequest) -> HttpResponse:
    """All ways to sign in, and where somebody is signed in."""
    if request.GET.get("next"):
        # An admin who needs a second factor is on the way elsewhere.
        request.session[_NEXT_KEY] = own_url(request, request.GET["next"])
    return render(request, "marketplace/security.html", _context(request))


@login_required
@require_POST
@needs_confirmation()
def authenticator_new(request: HttpRequest) -> HttpResponse:
    """Begin with an app; a secret that no code has proved is replaced."""
    second_factor.begin_authenticator(_person(request))
    return redirect("marketplace:authenticator")


@login_required
@never_cache
@sensitive_post_parameters("code")
@require_http_methods(["GET", "POST"])
@needs_confirmation()
def authenticator(request: HttpRequest) -> HttpResponse:
    """The new secret as a picture and as text; POST proves that the app has it."""
    user = _person(request)
    waiting = find_authenticator(user, is_confirmed=False)
    if waiting is None:
        return redirect("marketplace:security")
    form = AuthenticatorForm(request.POST or None)
    if form.is_valid():
        try:
            codes = second_factor.confirm_authenticator(user, form.cleaned_data["code"])
        except (InvalidInputError, ConflictError) as error:
            add_problem(form, error)
        else:
            confirm_session(request.session, factor="totp")
            messages.success(request, "The authenticator app is set up.")
            return _after_factor(request, codes)
    size, path = draw_path(second_factor.provisioning_url(waiting))
    context = {
        "form": form,
        "secret": second_factor.secret_text(waiting),
        "qr_size": size,
        "qr_path": path,
    }
    status = 422 if form.is_bound else 200
    return render(request, "marketplace/authenticator.html", context, status=status)


@login_required
@require_POST
@needs_confirmation()
def authenticator_remove(request: HttpRequest) -> HttpResponse:
    """Ask for no codes of an app any more."""
    second_factor.remove_authenticator(_person(request))
    messages.success(request, "The authenticator app is removed.")
    return redirect("marketplace:security")


@login_required
@never_cache
@require_POST
@needs_confirmation()
def recovery_codes(request: HttpRequest) -> HttpResponse:
    """New codes; the answer shows them: they are never in a URL or a session."""
    codes = second_factor.make_recovery_codes(_person(request))
    return _codes_page(request, codes)


@login_required
@never_cache
@require_POST
def passkey_options(request: HttpRequest) -> JsonResponse:
    """What the browser is asked to make."""
    return JsonResponse(passkey.begin_registration(_person(request), request.session))


@login_required
@never_cache
@require_POST
@needs_confirmation()
def passkey_add(request: HttpRequest) -> HttpResponse:
    """Keep a passkey that the browser has made."""
    form = PasskeyForm(request.POST)
    if form.is_valid():
        try:
            _, codes = passkey.finish_registration(
                _person(request),
                request.session,
                name=form.cleaned_data["name"],
                answer=form.cleaned_data["credential"],
            )
        except (AuthenticationError, InvalidInputError, ConflictError) as error:
            add_problem(form, error)
        else:
            confirm_session(request.session, factor="passkey")
            messages.success(request, "The passkey is added.")
            return _after_factor(request, codes)
    context = _context(request) | {"passkey_form": form}
    return render(request, "marketplace/security.html", context, status=422)


@login_required
@require_POST
@needs_confirmation()
def passkey_rename(request: HttpRequest, passkey_id: UUID) -> HttpResponse:
    """Call it otherwise."""
    found = access_passkey(_person(request), passkey_id)
    form = PasskeyNameForm(request.POST)
    if not form.is_valid():
        raise InvalidInputError(f"A name has 1 to {limits.NAME_LENGTH_MAX} characters.")
    passkey.rename_passkey(found, form.cleaned_data["name"])
    messages.success(request, "Saved.")
    return redirect("marketplace:security")


@login_required
@require_POST
@needs_confirmation()
def passkey_remove(request: HttpRequest, passkey_id: UUID) -> HttpResponse:
    """It proves nothing any more."""
    found = access_passkey(_person(request), passkey_id)
    passkey.remove_passkey(found)
    messages.success(request, f"{found.name} is removed.")
    return redirect("marketplace:security")


@login_required
@require_POST
def session_end(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Sign out elsewhere."""
    end_session(user=_person(request), session_id=session_id)
    messages.success(request, "That session has ended.")
    return redirect("marketplace:security")


@login_required
@require_POST
def sessions_end(request: HttpRequest) -> HttpResponse:
    """Sign out everywhere but here."""
    count = end_sessions(user=_person(request), but=request.session.session_key)
    messages.success(
        request, f"{count} other {'session has' if count == 1 else 'sessions have'} ended."
    )
    return redirect("marketplace:security")


@login_required
@require_POST
def email_resend(request: HttpRequest) -> HttpResponse:
    """Mail the link once more."""
    user = _person(request)
    if user.email_verified_at is not None:
        messages.info(request, "The address is confirmed already.")
    elif email_address.mail_confirmation(user):
        messages.success(request, f"A link is on its way to {user.email}.")
    else:
        messages.error(request, "The mail could not be sent. Try again in a while.")
    return redirect("marketplace:security")


@login_required
@require_POST
@needs_confirmation()
def email_change(request: HttpRequest) -> HttpResponse:
    """Mail a link to the address that the person wants."""
    form = EmailForm(request.POST)
    if form.is_valid():
        email = form.cleaned_data["email"]
        try:
            email_address.ask_for_change(_person(request), email)
        except (InvalidInputError, ConflictError) as error:
            add_problem(form, error)
        else:
            text = f"Follow the link that was mailed to {email}; until then nothing changes."
            messages.success(request, text)
            return redirect("marketplace:security")
    context = _context(request) | {"email_form": form}
    return render(request, "marketplace/security.html", context, status=422)


@never_cache
@require_http_methods(["GET", "POST"])
def email_confirm(request: HttpRequest, token: str) -> HttpResponse:
    """Behind a mailed link: programs that look at mail follow it, so a button confirms."""
    try:
        if request.method == "POST":
            user = email_address.confirm_address(token)
            messages.success(request, f"{user.email} is confirmed.")
            is_signed_in = request.user.is_authenticated
            return redirect("marketplace:security" if is_signed_in else "marketplace:login")
        user, email = email_address.read_link(token)
    except MarketplaceError as error:
        context: dict[str, Any] = {"fault": error.detail}
        return render(request, "marketplace/email_confirm.html", context, status=error.http_status)
    context = {"email": email, "before": user.email if user.email != email else ""}
    return render(request, "marketplace/email_confirm.html", context)


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


def _context(request: HttpRequest) -> dict[str, Any]:
    user = _person(request)
    sessions = list(list_sessions(user)[:_SESSIONS_SHOWN])
    here = request.session.session_key
    passkeys = list(list_passkeys(user))
    app = find_authenticator(user)
    has_factor = bool(passkeys) or app is not None
    return {
        "authenticator": app,
        "passkeys": passkeys,
        "has_factor": has_factor,
        "codes_left": count_recovery_codes(user),
        "codes_max": limits.RECOVERY_CODES,
        "sessions": [
            {"row": one, "name": describe_agent(one.user_agent), "is_here": one.session_key == here}
            for one in sessions
        ],
        "has_others": any(one.session_key != here for one in sessions),
        "passkey_origin": passkey.find_origin(),
        "is_passkey_origin": passkey.is_at_origin(request.get_host()),
        "passkey_form": PasskeyForm(),
        "email_form": EmailForm(),
        "must_have_factor": settings.STAFF_SECOND_FACTOR
        and user.is_staff
        and not request.session.get(FACTOR_KEY),
    }


def _after_factor(request: HttpRequest, codes: list[str]) -> HttpResponse:
    if codes:
        return _codes_page(request, codes)
    return redirect(own_url(request, request.session.pop(_NEXT_KEY, ""), "marketplace:security"))


def _codes_page(request: HttpRequest, codes: list[str]) -> HttpResponse:
    target = own_url(request, request.session.pop(_NEXT_KEY, ""), "marketplace:security")
    lines = ["Strongroom: recovery codes", _person(request).email, "Each works once.", "", *codes]
    context = {"codes": codes, "file": "\n".join(lines) + "\n", "next": target}
    return render(request, "marketplace/recovery_codes.html", context, status=201)
