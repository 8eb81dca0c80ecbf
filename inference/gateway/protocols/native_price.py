"""`POST /v1/price`: what a prediction would cost, before it is asked for. Nothing runs.

The maximum is what would be reserved, and no charge exceeds it. The estimate takes the caller's
place in the month into account and guesses what only the run can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inference.gateway import metering
from inference.gateway.catalog import Offer, Priced, require_batch_price
from inference.gateway.database import Database, Row
from inference.gateway.prediction import Prediction
from inference.triton import tensors
from marketplace.core.clock import to_wire
from marketplace.core.errors import FieldError, InvalidInputError
from strongroom.errors import InputError
from strongroom.rating import KINDS, UNITS_MAX, Terms, list_lines, rate, weigh

MEMBERS = frozenset({"version", "input", "units", "batch"})
ROWS = "rows"
# A request has no more rows than this, whichever way it comes.
ROWS_MAX = 1_024
_COUNT = """
    SELECT c.units FROM billing_usagecounter c WHERE c.account_id = %s AND c.model_id = %s
        AND c.starts_on = date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date
"""
_NEXT = """
    SELECT p.id, p.valid_from, p.nanos_per_prediction, p.rates, p.max_units, p.minimum_nanos,
        p.free_units, p.tiers, p.batch_percent
    FROM billing_price p WHERE p.model_id = %s AND p.account_id IS NULL
        AND p.valid_from > clock_timestamp()
        AND (p.valid_until IS NULL OR p.valid_until > p.valid_from)
    ORDER BY p.valid_from LIMIT 1
"""


def read_rows(document: Mapping[str, Any]) -> int:
    """How many rows are asked about.

    Raises:
        InvalidInputError: Not as the endpoint takes it.
    """
    units = document.get("units")
    if ("input" in document) == ("units" in document):
        raise _invalid("/units", "Give either an input or units.")
    if "input" in document:
        return 1
    if not isinstance(units, dict) or not units.keys() <= {ROWS, *KINDS}:
        raise _invalid("/units", f"An object with {ROWS} and the kinds {', '.join(KINDS)}.")
    for name, count in units.items():
        most = ROWS_MAX if name == ROWS else UNITS_MAX
        if type(count) is not int or not int(name == ROWS) <= count <= most:
            raise _invalid(f"/units/{name}", f"A whole number up to {most}.")
    return int(units.get(ROWS, 1))


def read_batch(document: Mapping[str, Any]) -> bool:
    """Whether it is asked what the line of a batch would cost.

    Raises:
        InvalidInputError: Neither true nor false is said.
    """
    is_batch = document.get("batch", False)
    if not isinstance(is_batch, bool):
        raise _invalid("/batch", "Is true or false.")
    return is_batch


def list_batches(offer: Offer, document: Mapping[str, Any]) -> list[list[tensors.Tensor]]:
    """The input as it would be sent; none where only units are given."""
    if "input" not in document:
        return []
    try:
        checked = offer.interface.check_input(document["input"])
    except InputError as error:
        faults = [FieldError(pointer=one["pointer"], detail=one["detail"]) for one in error.errors]
        raise InvalidInputError(errors=faults) from error
    return [tensors.encode(offer.interface, [checked])]


async def describe(
    database: Database,
    prediction: Prediction,
    document: Mapping[str, Any],
    batches: Sequence[Sequence[tensors.Tensor]],
) -> dict[str, Any]:
    """The answer, for a prediction that is never run.

    Raises:
        PriceUnboundedError: It would be refused.
    """
    offer, price = prediction.offer, prediction.price
    is_batch = read_batch(document)
    if is_batch:
        price = require_batch_price(offer, prediction.caller)
    terms = price.batch_terms if is_batch else price.terms
    most = _list_most(prediction, document, batches)
    position = None
    if terms.is_counted:
        row = await database.fetch_one(_COUNT, [prediction.caller.account_id, offer.model_id])
        position = int(row["units"]) if row else 0
    guessed = metering.guess(prediction, batches, most)
    maximum_nanos = estimate_nanos = 0
    if not prediction.caller.is_test:
        maximum_nanos = rate(terms, prediction.rows, most)
        estimate_nanos = rate(terms, prediction.rows, guessed, position)
    lines = list_lines(terms, prediction.rows, most)
    return {
        "model": offer.model,
        "version": offer.wire_version,
        "price_id": str(price.id),
        "is_private": price is not offer.price,
        "mode": prediction.mode,
        "price": describe_price(price),
        "rows": prediction.rows,
        "lines": [
            {"kind": one.kind, "units_max": one.units, "nano_usd_max": one.nanos} for one in lines
        ],
        "maximum_nano_usd": maximum_nanos,
        "estimate_nano_usd": estimate_nanos,
        "month": None if position is None else _describe_month(terms, position),
        "next_price": _describe_next(await database.fetch_one(_NEXT, [offer.model_id])),
    }


def describe_price(price: Priced) -> dict[str, Any]:
    """What a price says."""
    terms = price.terms
    return {
        "nanos_per_prediction": terms.nanos_per_prediction,
        "nanos_per_million": dict(terms.rates),
        "max_units": dict(price.max_units),
        "minimum_nanos": terms.minimum_nanos,
        "free_units": terms.free_units,
        "tiers": [list(one) for one in terms.tiers],
        "batch_percent": price.batch_percent,
    }


def _describe_month(terms: Terms, position: int) -> dict[str, int]:
    return {
        "rows": position,
        "free_left": max(0, terms.free_units - position),
        # What the next row costs, of 10,000.
        "bps": weigh(terms, 1, position),
    }


def _list_most(
    prediction: Prediction,
    document: Mapping[str, Any],
    batches: Sequence[Sequence[tensors.Tensor]],
) -> dict[str, int]:
    rates = prediction.price.terms.rates
    units = document.get("units")
    if units is None:
        return metering.find_most(prediction, batches)
    given = {kind: units[kind] for kind in rates if kind in units}
    given |= {"row": prediction.rows} if "row" in rates else {}
    missing = [kind for kind in rates if kind not in given]
    return given | {kind: metering.find_most_of(kind, prediction, batches) for kind in missing}


def _describe_next(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "price_id": str(row["id"]),
        "valid_from": to_wire(row["valid_from"]),
        "nanos_per_prediction": row["nanos_per_prediction"],
        "nanos_per_million": row["rates"],
        "max_units": row["max_units"],
        "minimum_nanos": row["minimum_nanos"],
        "free_units": row["free_units"],
        "tiers": row["tiers"],
        "batch_percent": row["batch_percent"],
    }


def _invalid(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(detail, errors=[FieldError(pointer=pointer, detail=detail)])
