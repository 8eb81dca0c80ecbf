"""Pictures for links in messengers: of the site, and of public models. Nobody's session counts."""

from __future__ import annotations

import hashlib
import logging

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response, patch_cache_control
from django.utils.http import quote_etag
from django.views.decorators.http import require_safe
from redis.exceptions import RedisError

from marketplace.core.industries import BY_SLUG
from marketplace.core.social_card import Content, draw_card
from marketplace.models import AIModel
from marketplace.selectors.access import ANONYMOUS, access_model

logger = logging.getLogger(__name__)

FONT = settings.BASE_DIR / "static" / "vendor" / "inter" / "inter-latin-wght-normal.woff2"
# Part of the mark: another drawing makes other pictures.
DRAWING = "1"
CACHE_S = 86_400
# Messengers ask again after that; what has not changed is not sent again.
MAX_AGE_S = 3_600


@require_safe
def social_card(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """A model's picture. Private and suspended models have none, whoever asks."""
    return _answer(request, _describe(access_model(ANONYMOUS, owner, name)))


@require_safe
def site_card(request: HttpRequest) -> HttpResponse:
    """The picture of all other pages."""
    return _answer(request, Content("AI models, paid per prediction", settings.WEB_URL))


def _describe(model: AIModel) -> Content:
    industry = BY_SLUG.get(model.industry)
    facts = (model.task, model.licence, industry.title if industry else "")
    return Content(model.title, str(model), tuple(fact for fact in facts if fact))


def _answer(request: HttpRequest, content: Content) -> HttpResponse:
    mark = hashlib.sha256(repr((DRAWING, content)).encode()).hexdigest()
    etag = quote_etag(mark)
    response = get_conditional_response(request, etag=etag)
    if response is None:
        response = HttpResponse(_picture(mark, content), content_type="image/png")
    response["ETag"] = etag
    patch_cache_control(response, public=True, max_age=MAX_AGE_S)
    return response


def _picture(mark: str, content: Content) -> bytes:
    key = f"social:{mark}"
    try:
        picture: bytes | None = cache.get(key)
        if picture is None:
            picture = draw_card(content, FONT)
            cache.set(key, picture, CACHE_S)
    except RedisError:
        logger.warning("redis is away: social cards are drawn each time")
        picture = draw_card(content, FONT)
    return picture
