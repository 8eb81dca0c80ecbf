"""What texts mean, as our own model says: `demo/sentence-embeddings`, asked through the gateway.

The site is a consumer like any other: it has a key, and calls the public address. When the
model is away, everything here gives nothing rather than an error, and searches go by words.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import httpx
from django.conf import settings
from django.core.cache import cache as store
from django.db.models import F, Q
from redis.exceptions import RedisError

from marketplace.core import limits
from marketplace.models import AIModel, CatalogueEntry

logger = logging.getLogger(__name__)

# Somebody waits for a page: a model that is loaded answers in some milliseconds.
QUERY_TIMEOUT_S = 0.6
LISTING_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 0.3
# After it was away, pages do not wait for it for so long.
AWAY_S = 15
QUERY_CACHE_S = 7 * 86_400
# Texts of one call, and of one run of the task: a run ends well before Celery's limit.
BATCH_SIZE = 16
RUN_SIZE = 256
# A batch of answers has 16 x 384 numbers of at most 25 characters.
ANSWER_BYTES_MAX = 1024 * 1024
# No key: nothing is asked.
UNSET = "unset"
_REFUSED = (httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNPROCESSABLE_ENTITY)


class TextRefusedError(Exception):
    """One of the texts is none that the model takes; the same texts will not be taken later."""


class Embedder(Protocol):
    """Whoever can say what texts mean."""

    def embed(self, texts: Sequence[str], timeout_s: float) -> list[list[float]] | None:
        """One embedding for each text; None where it cannot be had now.

        Raises:
            TextRefusedError: It is one of the texts, and not the moment.
        """


class GatewayEmbedder:
    """A model behind the gateway, by its OpenAI-compatible address."""

    def embed(self, texts: Sequence[str], timeout_s: float) -> list[list[float]] | None:
        """See `Embedder`. What went wrong is logged, without the texts."""
        if settings.SEARCH_KEY == UNSET:
            return None
        try:
            response = _client().post(
                f"{settings.GATEWAY_URL}/openai/v1/embeddings",
                json={"model": settings.SEARCH_MODEL, "input": list(texts)},
                headers={"Authorization": f"Bearer {settings.SEARCH_KEY}"},
                timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            )
            if response.status_code in _REFUSED:
                raise TextRefusedError
            if response.status_code != httpx.codes.OK:
                logger.warning("search: the gateway answered %d", response.status_code)
                return None
            return _read(response, len(texts))
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("search: no embeddings: %s", type(error).__name__)
            return None


@cache
def _client() -> httpx.Client:
    return httpx.Client(trust_env=False)


def _read(response: httpx.Response, count: int) -> list[list[float]]:
    if len(response.content) > ANSWER_BYTES_MAX:
        raise ValueError("the answer is too large")
    rows = sorted(response.json()["data"], key=lambda row: row["index"])
    vectors = [[float(one) for one in row["embedding"]] for row in rows]
    if len(vectors) != count or any(not is_embedding(one) for one in vectors):
        raise ValueError("these are not the embeddings that were asked for")
    return vectors


def is_embedding(numbers: Sequence[float]) -> bool:
    """Whether the column can hold it, and comparing it makes sense."""
    squares = sum(one * one for one in numbers)
    # Neither all zero nor infinite nor "not a number".
    return len(numbers) == limits.EMBEDDING_LENGTH and 0 < squares < float("inf")


def embed_query(query: str, embedder: Embedder | None = None) -> list[float] | None:
    """What somebody looks for; None where only its words are known.

    Args:
        query: What was typed.
        embedder: Whom to ask; the gateway by default.
    """
    text = query.casefold()
    if not text:
        return None
    digest = hashlib.sha256(f"{settings.SEARCH_MODEL}\n{text}".encode()).hexdigest()
    key, away = f"meant:1:{digest}", "meant:away"
    try:
        known = store.get_many([key, away])
    except RedisError:
        # Without it nobody would remember that the model is away: each page would wait.
        return None
    if key in known:
        return list(known[key])
    if away in known:
        return None
    try:
        found = (embedder or GatewayEmbedder()).embed([text], QUERY_TIMEOUT_S)
    except TextRefusedError:
        return None
    try:
        if found is None:
            store.set(away, 1, AWAY_S)
        else:
            store.set(key, found[0], QUERY_CACHE_S)
    except RedisError:
        logger.warning("search: redis is away")
    return found[0] if found else None


def embed_listings(embedder: Embedder | None = None) -> int:
    """Embed what was published or changed since; returns how many. May run beside itself.

    Private listings are not sent anywhere: their owners find them by words.

    Args:
        embedder: Whom to ask; the gateway by default.
    """
    source = embedder or GatewayEmbedder()
    done = 0
    while done < RUN_SIZE:
        stale = _list_stale()
        if not stale:
            break
        try:
            is_there = _embed_batch(source, stale)
        except TextRefusedError:
            # One bad text must not keep its neighbours from being found.
            is_there = all(_embed_alone(source, one) for one in stale)
        if not is_there:
            break  # The next run tries again.
        done += len(stale)
    return done


def _list_stale() -> list[CatalogueEntry]:
    return list(
        CatalogueEntry.objects.filter(
            ~Q(embedded_sha256=F("listing_sha256")) | ~Q(embedded_by=settings.SEARCH_MODEL),
            published_at__isnull=False,
            model__visibility=AIModel.Visibility.PUBLIC,
        )
        .select_related("model")
        .only("listing_sha256", *(f"model__{name}" for name in _TEXTS))
        .order_by("pk")[:BATCH_SIZE]
    )


def _embed_batch(source: Embedder, entries: list[CatalogueEntry]) -> bool:
    vectors = source.embed([describe(one.model) for one in entries], LISTING_TIMEOUT_S)
    if vectors is None:
        return False
    for entry, vector in zip(entries, vectors, strict=True):
        _keep(entry, vector)
    return True


def _embed_alone(source: Embedder, entry: CatalogueEntry) -> bool:
    try:
        return _embed_batch(source, [entry])
    except TextRefusedError:
        _keep(entry, None)  # Found by its words, until it is changed.
        return True


def _keep(entry: CatalogueEntry, vector: list[float] | None) -> None:
    # A listing that changed meanwhile has another digest, and is due again.
    CatalogueEntry.objects.filter(pk=entry.pk).update(
        embedding=vector,
        embedded_sha256=entry.listing_sha256,
        embedded_by=settings.SEARCH_MODEL,
    )


_TEXTS = ("title", "summary", "task", "industry", "card")


def describe(model: AIModel) -> str:
    """What is embedded: the most telling first, since the end of a long text is not read."""
    task, industry = model.task.replace("-", " "), model.industry.replace("-", " ")
    body = _strip_front_matter(model.card)
    parts = [model.title, model.summary, task and f"Task: {task}.", industry, body]
    return "\n".join(part for part in parts if part)[: limits.EMBEDDED_CHARACTERS_MAX]


def _strip_front_matter(card: str) -> str:
    head, mark, rest = card.partition("\n---")
    return rest if mark and head.startswith("---") else card
