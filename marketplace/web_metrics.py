"""What the web counts, and `/metrics`, where it is scraped.

Requests are counted by the name of their route, never by their path: addresses hold names of
accounts, and strangers make up as many as they like. Numbers are of one process since its start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from marketplace.core.exposition import CONTENT_TYPE, Registry
from marketplace.core.metrics_listener import FORWARDED, PATH, is_allowed

logger = logging.getLogger(__name__)
Handler = Callable[[HttpRequest], HttpResponse]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What no route of ours took, and requests of a method that we do not know.
NO_VIEW = "none"
OTHER_METHOD = "OTHER"
# Not counted: probes come all the time, at once and without fail. Among them a release that nobody
# looks at would seem well, and errors few.
PROBED = frozenset({"marketplace:health", "marketplace:health-live", "marketplace:health-ready"})

REGISTRY = Registry("strongroom_web_")
REQUESTS = REGISTRY.counter(
    "requests_total", "Requests that were answered.", ("method", "view", "status")
)
DURATION = REGISTRY.timer(
    "request_duration_seconds", "From the arrival of a request to its answer.", ("view",)
)
# Of all views together, so that it is there before the first failure of any.
ERRORS = REGISTRY.counter("errors_total", "Answers with a status of 500 or above.")


class MetricsMiddleware:
    """Count every request but probes, and answer scrapes before anything else looks at them.

    A scrape comes by the address of a machine, which is no name of the site: it must not fail
    at the check of host names.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path_info == PATH:
            return _answer_scrape(request)
        began_s = time.monotonic()
        response = self.get_response(request)
        _count(request, response.status_code, time.monotonic() - began_s)
        return response


def _count(request: HttpRequest, status: int, seconds: float) -> None:
    match = getattr(request, "resolver_match", None)
    view = (match.view_name if match is not None else "") or NO_VIEW
    if view in PROBED:
        return
    method = request.method if request.method in METHODS else OTHER_METHOD
    REQUESTS.add(str(method), view, str(status))
    DURATION.observe(seconds, view)
    if status >= 500:
        ERRORS.add()


def _answer_scrape(request: HttpRequest) -> HttpResponse:
    if not is_allowed(
        settings.METRICS_TOKEN,
        authorization=request.headers.get("Authorization"),
        peer_host=request.META.get("REMOTE_ADDR", ""),
        is_forwarded=any(name in request.headers for name in FORWARDED),
    ):
        headers = {"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"}
        return HttpResponse(status=401, headers=headers, content_type=CONTENT_TYPE)
    if request.method not in ("GET", "HEAD"):
        return HttpResponse(status=405, headers={"Allow": "GET, HEAD"}, content_type=CONTENT_TYPE)
    page = HttpResponse(REGISTRY.render(), content_type=CONTENT_TYPE)
    page["Cache-Control"] = "no-store"
    return page
