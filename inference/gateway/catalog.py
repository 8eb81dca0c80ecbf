"""What is for sale: from `owner/name` to a version, its interface and its price.

A model that the caller may not see does not exist: the answer is the same 404, whether it
is private, suspended, withdrawn or was never there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from inference.gateway.auth import Caller
from inference.gateway.cache import Cache
from inference.gateway.config import OFFER_TTL_S, REFERENCE_LENGTH_MAX
from inference.gateway.database import Database, Row
from inference.gateway.errors import NOT_READY_RETRY_S, ModelNotReadyError
from marketplace.core.errors import NotFoundError
from strongroom.errors import InterfaceError
from strongroom.interface import Interface
from strongroom.rating import Terms, is_dearer, scale

logger = logging.getLogger(__name__)

DEFAULT_CHANNEL = "prod"
_SLUG = r"[a-z0-9](?:[a-z0-9-]{0,37}[a-z0-9])?"
_NAME = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
_SELECTOR = r"(?::(?P<number>[0-9]{1,9})|:(?P<sha256>[0-9a-f]{64})|@(?P<channel>[a-z]{1,16}))"
_REFERENCE = re.compile(f"(?P<owner>{_SLUG})/(?P<name>{_NAME}){_SELECTOR}?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OWNER, _MODEL = re.compile(_SLUG), re.compile(_NAME)

_FIND = """
    SELECT v.id AS version_id, v.number, v.manifest_sha256, v.runtime, v.interface, v.created_at,
        m.id AS model_id, m.name, m.task, m.visibility, a.slug AS owner, a.id AS owner_id,
        m.requests_per_minute, m.units_per_minute, m.concurrency_max,
        m.queries_per_day_max, m.queries_total_max, m.samples_queries,
        EXISTS (SELECT FROM inference_driftwatch w WHERE w.model_id = m.id) AS watches_drift,
        to_jsonb(p) AS price, (
            SELECT jsonb_agg(to_jsonb(o)) FROM billing_price o
            WHERE o.model_id = m.id AND o.account_id IS NOT NULL AND o.valid_from <= now()
                AND (o.valid_until IS NULL OR o.valid_until > now())
        ) AS private_prices, extract(epoch FROM (
            SELECT min(least(CASE WHEN f.valid_from > now() THEN f.valid_from END,
                CASE WHEN f.valid_until > now() THEN f.valid_until END))
            FROM billing_price f
            WHERE f.model_id = m.id AND (f.valid_from > now() OR f.valid_until > now())
        ) - now())::float8 AS price_left_s
    FROM marketplace_modelversion v
    JOIN marketplace_aimodel m ON m.id = v.model_id
    JOIN marketplace_account a ON a.id = m.account_id
    LEFT JOIN billing_price p ON p.model_id = m.id AND p.account_id IS NULL
        AND p.valid_from <= now()
        AND (p.valid_until IS NULL OR p.valid_until > now())
    WHERE v.state = 'approved' AND m.suspended_at IS NULL AND a.suspended_at IS NULL
"""
_OF_MODEL = " AND a.slug = %(owner)s AND m.name = %(name)s"
_OF_CHANNEL = """
    AND v.id = (SELECT c.version_id FROM marketplace_channel c
        WHERE c.model_id = m.id AND c.name = %(value)s)
"""
_WHERE = {
    "number": _OF_MODEL + " AND v.number = %(value)s::integer",
    "sha256": _OF_MODEL + " AND v.manifest_sha256 = %(value)s",
    "channel": _OF_MODEL + _OF_CHANNEL,
    "bare": " AND v.manifest_sha256 = %(value)s",
}
_FIND_MODEL = """
    SELECT m.id, m.name, m.title, m.summary, m.licence, m.visibility, m.task, m.created_at,
        a.slug AS owner, a.id AS owner_id
    FROM marketplace_aimodel m JOIN marketplace_account a ON a.id = m.account_id
    WHERE a.slug = %s AND m.name = %s AND m.suspended_at IS NULL AND a.suspended_at IS NULL
"""
_LIST_VERSIONS = """
    SELECT v.number, v.manifest_sha256, v.interface, v.created_at
    FROM marketplace_modelversion v WHERE v.model_id = %s AND v.state = 'approved'
    ORDER BY v.number DESC LIMIT %s
"""
_LIST_MODELS = """
    SELECT m.name, m.task, a.slug AS owner, v.created_at
    FROM marketplace_aimodel m
    JOIN marketplace_account a ON a.id = m.account_id
    JOIN marketplace_channel c ON c.model_id = m.id AND c.name = %(channel)s
    JOIN marketplace_modelversion v ON v.id = c.version_id
    WHERE v.state = 'approved' AND m.suspended_at IS NULL AND a.suspended_at IS NULL
        AND (m.visibility = 'public' OR m.account_id = %(account_id)s)
        AND (%(models)s::text[] IS NULL OR a.slug || '/' || m.name = ANY(%(models)s::text[]))
    ORDER BY a.slug, m.name LIMIT %(limit)s
"""
# A page shows "many" the same; counting millions of rows would cost each visitor.
_RUN_COUNT_MAX = 10_000
_COUNT_RUNS = """
    SELECT count(*) AS runs FROM (
        SELECT 1 FROM billing_usageevent u JOIN marketplace_modelversion v ON v.id = u.version_id
        WHERE v.model_id = %s LIMIT %s) counted
"""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a caller asks for; `kind` says how `value` names the version."""

    owner: str
    name: str
    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Priced:
    """A row of prices: its id, and what it says."""

    id: UUID
    terms: Terms
    # The most of a kind that one row is charged for.
    max_units: Mapping[str, int] = field(default_factory=dict)
    # What part of it lines of batches cost.
    batch_percent: int = 100

    @property
    def batch_terms(self) -> Terms:
        """What lines of batches are charged by."""
        return scale(self.terms, self.batch_percent)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Priced:
        """Of a row of `billing_price`, as JSON."""
        terms = Terms(
            row["nanos_per_prediction"],
            row["rates"],
            row["minimum_nanos"],
            row["free_units"],
            row["tiers"],
        )
        return cls(UUID(row["id"]), terms, row["max_units"], row["batch_percent"])


@dataclass(frozen=True, slots=True)
class Offer:
    """A version that can be bought now, and at which price."""

    version_id: UUID
    number: int
    manifest_sha256: str
    runtime: str
    interface: Interface
    created_at: datetime
    model_id: UUID
    owner: str
    owner_id: UUID
    name: str
    task: str
    is_private: bool
    # None: it is not for sale.
    price: Priced | None
    # What single accounts pay instead, by their ids.
    private_prices: Mapping[UUID, Priced] = field(default_factory=dict)
    # Of all callers together; None where there is no such limit.
    requests_per_minute: int | None = None
    units_per_minute: int | None = None
    concurrency_max: int | None = None
    # Of each caller: different inputs. None where there is no such budget.
    queries_per_day_max: int | None = None
    queries_total_max: int | None = None
    samples_queries: bool = False
    # Whether it is counted what its predictions look like.
    watches_drift: bool = False
    # Whether inputs are looked at, for one of the three.
    is_guarded: bool = field(init=False)

    def __post_init__(self) -> None:
        budgets = (self.queries_per_day_max, self.queries_total_max)
        is_guarded = self.samples_queries or budgets != (None, None)
        object.__setattr__(self, "is_guarded", is_guarded)

    @property
    def model(self) -> str:
        """The name that consumers know."""
        return f"{self.owner}/{self.name}"

    @property
    def wire_version(self) -> str:
        """The version's id on the wire: what was signed, or its number."""
        return self.manifest_sha256 or str(self.number)


class Catalog:
    """Finds offers; a `Listener` of changes to models, versions, channels and prices."""

    TABLES = frozenset(
        {
            "marketplace_account",
            "marketplace_aimodel",
            "marketplace_modelversion",
            "marketplace_channel",
            "billing_price",
            "inference_driftwatch",
        }
    )

    def __init__(self, database: Database) -> None:
        self.database = database
        self.offers: Cache[Reference, Offer] = Cache(OFFER_TTL_S)

    async def find(self, reference: Reference, caller: Caller) -> Offer:
        """The offer behind a reference.

        Raises:
            NotFoundError: There is none that the caller may see.
            ModelNotReadyError: Its interface cannot be read.
            ModelNotAllowedError: The caller's key is not made for it.
        """
        offer = self.offers.get(reference)
        if offer is None:
            generation = self.offers.generation
            parameters = {
                "owner": reference.owner,
                "name": reference.name,
                "value": reference.value,
            }
            row = await self.database.fetch_one(_FIND + _WHERE[reference.kind], parameters)
            if row is None:
                raise NotFoundError("There is no such model or version, or you may not see it.")
            offer = _make_offer(row)
            self.offers.put(reference, offer, generation=generation, ttl_s=row["price_left_s"])
        if offer.is_private and offer.owner_id != caller.account_id:
            raise NotFoundError("There is no such model or version, or you may not see it.")
        if caller.allowed_models is not None:
            caller.require_model(offer.model)
        return offer

    async def find_version(self, version_id: UUID) -> Offer:
        """The offer of a version by its id, whoever asks; for what was accepted already.

        Raises:
            NotFoundError: It is not offered any more.
            ModelNotReadyError: Its interface cannot be read.
        """
        reference = Reference("", "", "id", str(version_id))
        offer = self.offers.get(reference)
        if offer is None:
            generation = self.offers.generation
            row = await self.database.fetch_one(
                _FIND + " AND v.id = %(value)s::uuid", {"value": reference.value}
            )
            if row is None:
                raise NotFoundError("The version is not offered any more.")
            offer = _make_offer(row)
            self.offers.put(reference, offer, generation=generation, ttl_s=row["price_left_s"])
        return offer

    async def describe_model(self, owner: str, name: str, caller: Caller) -> Row:
        """The model's own row.

        Raises:
            NotFoundError: There is none that the caller may see.
            ModelNotAllowedError: The caller's key is not made for it.
        """
        if not _OWNER.fullmatch(owner) or not _MODEL.fullmatch(name):
            raise NotFoundError
        row = await self.database.fetch_one(_FIND_MODEL, [owner, name])
        if row is None or (row["visibility"] == "private" and row["owner_id"] != caller.account_id):
            raise NotFoundError
        caller.require_model(f"{owner}/{name}")
        return row

    async def list_models(self, caller: Caller, *, limit: int) -> list[Row]:
        """The models that the caller finds by their bare names, in the order of these."""
        parameters = {
            "account_id": caller.account_id,
            "channel": DEFAULT_CHANNEL,
            "limit": limit,
            "models": list_allowed(caller),
        }
        return await self.database.fetch_all(_LIST_MODELS, parameters)

    async def count_runs(self, model_id: UUID) -> int:
        """How often the model was run, as far as it is counted."""
        row = await self.database.fetch_one(_COUNT_RUNS, [model_id, _RUN_COUNT_MAX])
        assert row is not None
        return int(row["runs"])

    async def list_versions(self, model_id: UUID, *, limit: int) -> list[tuple[Row, Interface]]:
        """The approved versions of a model with their interfaces, newest first."""
        rows = await self.database.fetch_all(_LIST_VERSIONS, [model_id, limit])
        versions = []
        for row in rows:
            try:
                versions.append((row, Interface.parse(row["interface"])))
            except InterfaceError as error:
                # One that cannot be run is not offered; the others are.
                logger.error("version %s has no readable interface: %s", row["number"], str(error))
        return versions

    def on_change(self, table: str, row_id: str) -> None:
        """Forget every offer: one row can stand behind many references."""
        if table in self.TABLES:
            self.offers.drop_all()

    def on_listening(self) -> None:
        """Begin to keep offers."""
        self.offers.enable()

    def on_deaf(self) -> None:
        """Ask Postgres each time until changes are heard again."""
        self.offers.disable()


def list_allowed(caller: Caller) -> list[str] | None:
    """The models that the caller's key is made for, as a parameter of SQL; None for all."""
    return None if caller.allowed_models is None else sorted(caller.allowed_models)


def parse_reference(text: Any) -> Reference:
    """Read `owner/name`, with `:number`, `:sha256` or `@channel` behind it, or a bare sha256.

    Raises:
        NotFoundError: Nothing can have that name.
    """
    if isinstance(text, str) and len(text) <= REFERENCE_LENGTH_MAX:
        if _SHA256.fullmatch(text):
            return Reference("", "", "bare", text)
        match = _REFERENCE.fullmatch(text)
        if match:
            owner, name = match["owner"], match["name"]
            for kind in ("number", "sha256", "channel"):
                if match[kind]:
                    return Reference(owner, name, kind, match[kind])
            return Reference(owner, name, "channel", DEFAULT_CHANNEL)
    raise NotFoundError("A model is named owner/name, owner/name:version or owner/name@channel.")


def require_price(offer: Offer, caller: Caller) -> Priced:
    """The price that a prediction of now pins.

    Raises:
        ModelNotReadyError: The model is not priced, so it is not for sale yet.
    """
    if offer.price is None:
        raise ModelNotReadyError(
            "The model has no price yet, so it cannot be called.", retry_after_s=NOT_READY_RETRY_S
        )
    return offer.private_prices.get(caller.account_id, offer.price)


def require_batch_price(offer: Offer, caller: Caller) -> Priced:
    """The price by whose part a line of a batch is charged: the cheaper one, of two.

    Raises:
        ModelNotReadyError: As `require_price`.
    """
    own = require_price(offer, caller)
    usual = offer.price
    assert usual is not None
    return own if is_dearer(usual.batch_terms, own.batch_terms) else usual


def _list_private(rows: Sequence[Mapping[str, Any]], price: Priced | None) -> dict[UUID, Priced]:
    """By account; without those that the price of everybody has caught up with."""
    found = {UUID(row["account_id"]): Priced.from_row(row) for row in rows}
    return {
        account_id: one
        for account_id, one in found.items()
        if price is not None and is_dearer(price.terms, one.terms)
    }


def _make_offer(row: Row) -> Offer:
    try:
        interface = Interface.parse(row["interface"])
    except InterfaceError as error:
        logger.error("version %s has no readable interface: %s", row["version_id"], str(error))
        raise ModelNotReadyError(
            "The version is not complete yet.", retry_after_s=NOT_READY_RETRY_S
        ) from error
    price = None if row["price"] is None else Priced.from_row(row["price"])
    return Offer(
        version_id=row["version_id"],
        number=row["number"],
        manifest_sha256=row["manifest_sha256"],
        runtime=row["runtime"],
        interface=interface,
        created_at=row["created_at"],
        model_id=row["model_id"],
        owner=row["owner"],
        owner_id=row["owner_id"],
        name=row["name"],
        task=row["task"],
        is_private=row["visibility"] == "private",
        price=price,
        private_prices=_list_private(row["private_prices"] or [], price),
        requests_per_minute=row["requests_per_minute"],
        units_per_minute=row["units_per_minute"],
        concurrency_max=row["concurrency_max"],
        queries_per_day_max=row["queries_per_day_max"],
        queries_total_max=row["queries_total_max"],
        samples_queries=row["samples_queries"],
        watches_drift=row["watches_drift"],
    )
