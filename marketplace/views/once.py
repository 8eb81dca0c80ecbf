"""A form that is sent twice does once what it asks for.

A page puts `{% once %}` into a form that makes something, and its view stands below
`@sent_once`. With scripts a button that was pressed cannot be pressed again; this holds
without them, and for who goes back and sends the same form once more.

What was sent is remembered in Redis, which may be flushed at any moment: then the worst is a
second key or announcement. Nothing that must not happen twice relies on it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from redis.exceptions import RedisError

from marketplace.core.errors import ConflictError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]

FIELD = "once"
# Of the part that is looked at; ours are shorter.
TOKEN_LENGTH_MAX = 64
REMEMBERED_S = 24 * 3_600


def sent_once(view: View[P]) -> View[P]:
    """Refuse a form that was sent before and did something; stands below `login_required`.

    Raises:
        ConflictError: It was, or it is being done right now.
    """

    @wraps(view)
    def guarded(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        token = request.POST.get(FIELD, "")[:TOKEN_LENGTH_MAX]
        if not token:
            return view(request, *args, **kwargs)
        name = _name_of(request, token)
        if not _remember(name):
            raise ConflictError(
                "This form was sent before, and what it asks for was done. To do it once more, "
                "open the form anew."
            )
        is_done = False
        try:
            response = view(request, *args, **kwargs)
            is_done = response.status_code < 400
            return response
        finally:
            if not is_done:
                _forget(name)

    return guarded


def _name_of(request: HttpRequest, token: str) -> str:
    """Of this person only: nobody can use up the forms of somebody else."""
    whole = f"{request.user.pk}:{request.path}:{token}"
    return f"once:{hashlib.sha256(whole.encode()).hexdigest()}"


def _remember(name: str) -> bool:
    try:
        return cache.add(name, 1, REMEMBERED_S)
    except RedisError:
        logger.warning("Redis is gone: forms that are sent twice are not noticed")
        return True


def _forget(name: str) -> None:
    try:
        cache.delete(name)
    except RedisError:
        logger.warning("Redis is gone: a form that failed has to be opened anew")
