"""What happens around every request: an id, and errors in one form."""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit, urlunsplit

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.shortcuts import render, resolve_url
from django.utils.cache import patch_cache_control, patch_vary_headers
from django.utils.http import url_has_allowed_host_and_scheme
from django_htmx.http import HttpResponseClientRedirect

from marketplace.core import logs
from marketplace.core.errors import BadRequestError, MarketplaceError, MethodNotAllowedError
from marketplace.core.ids import new_id, to_public
from marketplace.core.problem import CONTENT_TYPE, problem, problem_headers

logger = logging.getLogger(__name__)
Handler = Callable[[HttpRequest], HttpResponse]


class RequestIdMiddleware:
    """Give each request an id of ours; a client's own is never trusted or echoed."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.request_id = to_public(new_id())  # type: ignore[attr-defined]
        # Every line that is logged on the way says which request it was.
        token = logs.request_id.set(request.request_id)  # type: ignore[attr-defined]
        try:
            response = self.get_response(request)
        finally:
            logs.request_id.reset(token)
        response["X-Request-Id"] = request.request_id  # type: ignore[attr-defined]
        return response


class CompressMiddleware(GZipMiddleware):
    """Compress pages; answers of other kinds are small, streams, or compressed already.

    Against guessing a secret by the length of an answer that also holds a chosen text (BREACH):
    tokens of forms are masked anew on each page, and Django pads each answer at random.
    """

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Compress it if it is a page and the browser understands that."""
        if not response.get("Content-Type", "").startswith("text/html"):
            return response
        # Also of one that is too short: a store in between must not mix them up.
        patch_vary_headers(response, ("Accept-Encoding",))
        return super().process_response(request, response)


class ProblemMiddleware:
    """Turn expected errors of views into a page, or into problem+json for programs."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        # PostgreSQL stores no NUL character, and nothing that it stores is named with one.
        if "\x00" in request.path_info or "%00" in request.META.get("QUERY_STRING", ""):
            refused = self.process_exception(request, BadRequestError("An address holds no NUL."))
            assert refused is not None
            return refused
        response = self.get_response(request)
        # Django's own has no text at all: whoever loads the address of a form once more, as a
        # browser does with the answer to a faulty one, would look at nothing.
        if isinstance(response, HttpResponseNotAllowed) and not response.content:
            told = answer_problem(request, MethodNotAllowedError())
            told["Allow"] = response["Allow"]
            return told
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer a MarketplaceError; any other becomes Django's 500."""
        return answer_problem(request, error) if isinstance(error, MarketplaceError) else None


def answer_problem(request: HttpRequest, error: MarketplaceError) -> HttpResponse:
    """The error as a page, or as problem+json for programs."""
    if wants_json(request):
        return problem_response(request, error)
    context = {"error": error, "request_id": request.request_id}  # type: ignore[attr-defined]
    response = render(request, "problem.html", context, status=error.http_status)
    for name, value in problem_headers(error).items():
        response[name] = value
    return response


class SessionPageMiddleware:
    """Keep what a person sees with the person: out of caches, and behind the sign-in page.

    An answer to a browser with a session is stored nowhere, so that the back button after
    signing out asks again. A redirect to the sign-in page leads back to where the person was:
    htmx would otherwise put that page into a part of another, and a form would come back to
    an address that only takes POST.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if settings.SESSION_COOKIE_NAME in request.COOKIES and not _is_public(response):
            patch_cache_control(response, no_store=True, private=True)
        login_url = resolve_url(settings.LOGIN_URL)
        if response.status_code != 302 or not response["Location"].startswith(login_url):
            return response
        # What `login_required` says, and no other way to that page.
        if response["Location"] != redirect_to_login(request.get_full_path()).url:
            return response
        if request.htmx:  # type: ignore[attr-defined]
            page = request.htmx.current_url_abs_path  # type: ignore[attr-defined]
            return HttpResponseClientRedirect(_with_next(login_url, page or "/"))
        if request.method not in ("GET", "HEAD"):
            response["Location"] = _with_next(login_url, referring_path(request))
        return response


def _is_public(response: HttpResponse) -> bool:
    return "public" in response.get("Cache-Control", "")


def _with_next(login_url: str, path: str) -> str:
    return f"{login_url}?{urlencode({'next': path}, safe='/')}"


def referring_path(request: HttpRequest) -> str:
    """The page of this site that a form was sent from; the start page where nobody knows."""
    referrer = request.headers.get("Referer", "")
    is_own = url_has_allowed_host_and_scheme(
        referrer, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    parts = urlsplit(referrer) if is_own else urlsplit("")
    # Two slashes would begin another site's address.
    path = "/" if parts.path.startswith("//") else parts.path or "/"
    return urlunsplit(("", "", path, parts.query, ""))


def wants_json(request: HttpRequest) -> bool:
    """Whether a program asks: everything below /api, /v1 and /stripe."""
    return request.path.startswith(("/api/", "/v1/", "/stripe/"))


def problem_response(request: HttpRequest, error: MarketplaceError) -> JsonResponse:
    """The error as `application/problem+json`."""
    request_id = getattr(request, "request_id", "")
    return JsonResponse(
        problem(error, request_id=request_id),
        status=error.http_status,
        content_type=CONTENT_TYPE,
        headers=problem_headers(error),
    )
