"""A platform admin sees the site as somebody else: everything is shown, nothing can be changed.

The session stays the admin's. For each request the person takes the admin's place, while a row
says so and its time is not up. Whatever is not a plain read is refused before any view runs, and
what a view does all the same meets a transaction in which Postgres refuses to write.
"""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.db import InternalError, connection, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from psycopg.errors import ReadOnlySqlTransaction

from marketplace.core import limits
from marketplace.errors import ReadOnlyViewError
from marketplace.middleware import answer_problem
from marketplace.models import Impersonation, User
from marketplace.selectors.impersonation import find_obstacle, find_running
from marketplace.services import impersonation

Handler = Callable[[HttpRequest], HttpResponse]

SESSION_KEY = "impersonation"
# Parts of pages that were logged, so that one that looks again every two seconds is logged once.
SEEN_KEY = "impersonation_seen"
READS = frozenset({"GET", "HEAD", "OPTIONS"})


class SeeAsMiddleware:
    """Puts the person in the admin's place; stands behind sign-in and messages."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        running_id = request.session.get(SESSION_KEY)
        if running_id is None:
            return self.get_response(request)
        running = find_running(running_id, request.user)
        if running is None:
            forget(request)
            return self.get_response(request)
        obstacle = find_obstacle(running)
        if obstacle is not None:
            impersonation.end(running=running, end=obstacle)
            forget(request)
            messages.info(request, f"You are yourself again: {obstacle.label.lower()}.")
            return redirect("marketplace:accounts")
        request.impersonation = running  # type: ignore[attr-defined]
        if request.path == reverse("marketplace:see-as-stop"):
            return self.get_response(request)
        request.user = running.person
        if request.method not in READS:
            return answer_problem(request, ReadOnlyViewError())
        _note(request, running)
        return self._read(request)

    def _read(self, request: HttpRequest) -> HttpResponse:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION READ ONLY")
            response = self.get_response(request)
            is_broken = getattr(request, "wrote_in_vain", False)
            transaction.set_rollback(is_broken or transaction.get_rollback())
        # The page about it reads from the database, so it is made behind the broken transaction.
        return answer_problem(request, ReadOnlyViewError()) if is_broken else response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """A view that wanted to write."""
        if not (
            isinstance(error, InternalError) and isinstance(error.__cause__, ReadOnlySqlTransaction)
        ):
            return None
        request.wrote_in_vain = True  # type: ignore[attr-defined]
        return HttpResponse(status=ReadOnlyViewError.http_status)


def start(request: HttpRequest, running: Impersonation) -> None:
    """From the next request on, this session shows what the person sees."""
    request.session[SESSION_KEY] = str(running.pk)
    request.session[SEEN_KEY] = []


def forget(request: HttpRequest) -> None:
    """From the next request on, the admin is the admin again."""
    request.session.pop(SESSION_KEY, None)
    request.session.pop(SEEN_KEY, None)


def find_impersonation(request: HttpRequest) -> Impersonation | None:
    """What is going on in this request; None as a rule."""
    return getattr(request, "impersonation", None)


def admin_of(request: HttpRequest) -> User:
    """Who really sits there."""
    running = find_impersonation(request)
    assert isinstance(request.user, User)
    return running.admin if running is not None else request.user


def _note(request: HttpRequest, running: Impersonation) -> None:
    """Log a page each time, and a part of a page once."""
    if request.htmx:  # type: ignore[attr-defined]
        seen: list[str] = request.session.get(SEEN_KEY, [])
        if request.path in seen:
            return
        request.session[SEEN_KEY] = [*seen, request.path][-limits.IMPERSONATION_PARTS_MAX :]
    impersonation.note_view(running=running, path=request.get_full_path())
