"""Listings as programs read them: found by words, and told whole.

Who may see what is decided as everywhere in the gateway (`catalog.py`). Words are looked for as
on the site, in what its triggers keep of each listing; what a query means is not, since that
would take a prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from inference.gateway.auth import Caller
from inference.gateway.catalog import DEFAULT_CHANNEL, list_allowed
from inference.gateway.config import SEARCH_OFFSET_MAX, SEARCH_PAGE_SIZE
from inference.gateway.database import Database, Row
from marketplace.core.search import clean_query, list_words

# As on the site: share of trigrams of a name that is mistyped, and from which length on.
_NAME_SIMILARITY_MIN = 0.5
_NAME_LENGTH_MIN = 4

_SEARCH = """
    SELECT a.slug || '/' || m.name AS model, m.title, m.summary, m.task, m.industry, m.licence,
        m.visibility, e.price_nanos, e.price_is_plain, e.p50_ms, e.predictions_30d
    FROM marketplace_aimodel m
    JOIN marketplace_account a ON a.id = m.account_id
    JOIN marketplace_channel c ON c.model_id = m.id AND c.name = %(channel)s
    JOIN marketplace_modelversion v ON v.id = c.version_id
    JOIN marketplace_catalogueentry e ON e.model_id = m.id
    CROSS JOIN marketplace_search_query(%(words)s::text[]) AS asked
    WHERE v.state = 'approved' AND m.suspended_at IS NULL AND a.suspended_at IS NULL
        AND (m.visibility = 'public' OR m.account_id = %(account_id)s)
        AND (%(models)s::text[] IS NULL OR a.slug || '/' || m.name = ANY(%(models)s::text[]))
        AND (%(task)s = '' OR m.task = %(task)s)
        AND (%(industry)s = '' OR m.industry = %(industry)s)
        AND (%(licence)s = '' OR lower(m.licence) = lower(%(licence)s))
        AND (NOT %(is_asked)s OR e.words @@ asked.any_word OR (
            length(%(name)s) >= %(name_min)s AND word_similarity(%(name)s, e.label) >= %(alike)s))
    ORDER BY e.words @@ asked.all_words DESC, ts_rank(e.words, asked.any_word, 1) DESC,
        word_similarity(%(name)s, e.label) DESC, e.predictions_30d DESC, a.slug, m.name
    LIMIT %(limit)s OFFSET %(offset)s
"""
_TELL = """
    SELECT m.title, m.summary, m.task, m.industry, m.licence, m.visibility, m.samples_queries,
        left(m.card, %(card_max)s) AS card, length(m.card) > %(card_max)s AS is_card_cut,
        v.certificate
    FROM marketplace_aimodel m JOIN marketplace_modelversion v ON v.model_id = m.id
    WHERE v.id = %(version_id)s
"""


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for; an empty text is anything."""

    query: str = ""
    task: str = ""
    industry: str = ""
    licence: str = ""
    limit: int = SEARCH_PAGE_SIZE
    offset: int = 0


async def search(
    database: Database, caller: Caller, wanted: Search
) -> tuple[list[Row], int | None]:
    """The models on sale that fit, the best first, and where the next page begins.

    Args:
        database: Where listings are.
        caller: Who sees only what it may run.
        wanted: Words and facets.
    """
    query = clean_query(wanted.query)
    words = list_words(query)
    if query and not words:
        return [], None
    parameters: dict[str, Any] = {
        "account_id": caller.account_id,
        "models": list_allowed(caller),
        "channel": DEFAULT_CHANNEL,
        "words": words,
        "name": " ".join(words),
        "is_asked": bool(words),
        "name_min": _NAME_LENGTH_MIN,
        "alike": _NAME_SIMILARITY_MIN,
        "task": wanted.task,
        "industry": wanted.industry,
        "licence": wanted.licence,
        "limit": wanted.limit + 1,
        "offset": wanted.offset,
    }
    rows = await database.fetch_all(_SEARCH, parameters)
    after = wanted.offset + wanted.limit
    has_more = len(rows) > wanted.limit and after <= SEARCH_OFFSET_MAX
    return rows[: wanted.limit], after if has_more else None


async def tell(database: Database, version_id: UUID, *, card_length_max: int) -> Row | None:
    """What is said of the model of a version that the caller has found."""
    return await database.fetch_one(_TELL, {"version_id": version_id, "card_max": card_length_max})
