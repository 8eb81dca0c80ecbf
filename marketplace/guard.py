"""What every request of a session passes: its device, its last use, and the admins' factor."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from urllib.parse import quote

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, resolve_url

from marketplace.models import User
from marketplace.selectors.security import has_factor
from marketplace.services.session import FACTOR_KEY, touch_session

Handler = Callable[[HttpRequest], HttpResponse]

# Pages that only the platform's admins have.
ADMIN_PATHS = ("/admin", "/platform")
_DEVICE_LIFETIME_S = 365 * 24 * 3_600
# What no page of ours uses; a passkey is asked for by ourselves only.
_PERMISSIONS = ", ".join(
    [
        *(f"{name}=()" for name in ("accelerometer", "camera", "display-capture", "geolocation")),
        *(f"{name}=()" for name in ("gyroscope", "magnetometer", "microphone", "midi", "payment")),
        *(f"{name}=()" for name in ("screen-wake-lock", "serial", "usb", "xr-spatial-tracking")),
        *(f"publickey-credentials-{name}=(self)" for name in ("create", "get")),
    ]
)


class HeadersMiddleware:
    """Switch off what a page might ask the browser for, on every answer."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Permissions-Policy", _PERMISSIONS)
        return response


class GuardMiddleware:
    """Note that a session is used, and hold admins back who showed no second factor.

    Who is held back is an admin nowhere, for `Actor.is_admin` is false; on the pages of admins
    it is sent to where it can show a factor or set one up.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        known = request.COOKIES.get(settings.DEVICE_COOKIE_NAME, "")
        request.device_id = known[:64] or secrets.token_urlsafe(24)  # type: ignore[attr-defined]
        # Without the cookie there is nobody, and nothing to ask the database for.
        if settings.SESSION_COOKIE_NAME in request.COOKIES and isinstance(request.user, User):
            touch_session(request, request.user)
            refusal = _hold_back(request, request.user)
            if refusal is not None:
                return refusal
        response = self.get_response(request)
        # Set where somebody has just signed in; other visitors are not followed.
        is_changed = not known and request.session.modified
        if is_changed and request.user.is_authenticated:
            response.set_cookie(
                settings.DEVICE_COOKIE_NAME,
                request.device_id,  # type: ignore[attr-defined]
                max_age=_DEVICE_LIFETIME_S,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Lax",
            )
        return response


def _hold_back(request: HttpRequest, user: User) -> HttpResponse | None:
    if not (settings.STAFF_SECOND_FACTOR and user.is_staff) or request.session.get(FACTOR_KEY):
        return None
    user.is_held_back = True  # type: ignore[attr-defined]
    if not any(request.path == one or request.path.startswith(f"{one}/") for one in ADMIN_PATHS):
        return None
    target = "marketplace:confirm" if has_factor(user) else "marketplace:security"
    return redirect(f"{resolve_url(target)}?next={quote(request.get_full_path())}")
