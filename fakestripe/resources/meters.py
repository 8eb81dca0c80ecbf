"""Meters, what is reported to them, and what they have counted.

A report is checked at once and counted a little later. An identifier is refused twice only
within a day; after that the same report would count again.
"""

from __future__ import annotations

import re
from typing import Any

from fakestripe import errors, lists
from fakestripe.context import Context, new_id
from fakestripe.resources import checks, customers
from fakestripe.store import Query

Json = dict[str, Any]

KIND = "billing.meter"
EVENT_KIND = "billing.meter_event"

DELAY_SETTING = "meter_delay_s"
COUNTED_AFTER_S_DEFAULT = 30
IDENTIFIER_KEPT_S = 24 * 3_600
CANCELLABLE_S = 24 * 3_600
AGE_S_MAX = 35 * 86_400
AHEAD_S_MAX = 300
HOUR_S = 3_600
WINDOWS_S = {"hour": HOUR_S, "day": 86_400}

_VALUE = re.compile(r"[0-9]{1,15}")


def create(context: Context, params: Json) -> Json:
    checks.only(
        params,
        frozenset({
            "event_name", "display_name", "default_aggregation", "customer_mapping",
            "value_settings",
        }),
    )  # fmt: skip
    if params["default_aggregation"]["formula"] != "sum":
        raise errors.not_stood_in("a formula other than sum")
    if _find_active(context, params["event_name"]) is not None:
        raise errors.invalid_request(
            "There is already an active meter with this event_name.", param="event_name"
        )
    mapping = {"event_payload_key": "stripe_customer_id", "type": "by_id"}
    meter: Json = {
        "id": new_id("mtr_test", 24),
        "object": KIND,
        "created": context.now,
        "customer_mapping": params.get("customer_mapping", mapping),
        "default_aggregation": params["default_aggregation"],
        "display_name": params["display_name"],
        "event_name": params["event_name"],
        "event_time_window": None,
        "livemode": False,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": context.now,
        "value_settings": params.get("value_settings", {"event_payload_key": "value"}),
    }
    return context.insert(meter)


def retrieve(context: Context, _params: Json, meter_id: str) -> Json:
    return context.get(KIND, meter_id)


def list_all(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store, Query(KIND), params, url="/v1/billing/meters", equal=("status",)
    )


def deactivate(context: Context, params: Json, meter_id: str) -> Json:
    checks.only(params, frozenset())
    return _switch(context, meter_id, "inactive")


def reactivate(context: Context, params: Json, meter_id: str) -> Json:
    checks.only(params, frozenset())
    return _switch(context, meter_id, "active")


def report(context: Context, params: Json) -> Json:
    """One use of a customer's."""
    meter = _find_active(context, params["event_name"])
    if meter is None:
        raise errors.invalid_request(
            f"No active meter found for event name {params['event_name']}.", param="event_name"
        )
    payload = params["payload"]
    for key in (_customer_key(meter), _value_key(meter)):
        if not payload.get(key):
            raise errors.invalid_request(f"The payload has no {key}.", param="payload")
    customers.require(context, payload[_customer_key(meter)])
    if not _VALUE.fullmatch(payload[_value_key(meter)]):
        raise errors.invalid_request(
            "fakestripe takes whole numbers that are not negative.", param="payload"
        )
    timestamp = params.get("timestamp", context.now)
    _check_time(context, timestamp)
    identifier = params.get("identifier") or new_id("evtid", 30)
    if _find_event(context, identifier, within_s=IDENTIFIER_KEPT_S) is not None:
        raise errors.ApiError(
            400,
            "invalid_request_error",
            f"An event already exists with identifier {identifier}.",
            headers={"Stripe-Should-Retry": "false"},
        )
    event: Json = {
        "object": EVENT_KIND,
        "created": context.now,
        "event_name": params["event_name"],
        "identifier": identifier,
        "livemode": False,
        "payload": payload,
        "timestamp": timestamp,
    }
    private = {
        "customer": payload[_customer_key(meter)],
        "value": int(payload[_value_key(meter)]),
        "is_canceled": False,
    }
    context.store.insert(event, private, identifier=new_id("mtrevt"))
    return event


def adjust(context: Context, params: Json) -> Json:
    """Take a report back, within a day of its arrival."""
    identifier = params.get("cancel", {}).get("identifier")
    if identifier is None:
        raise errors.missing_parameter("cancel[identifier]")
    found = _find_event(context, identifier, within_s=CANCELLABLE_S)
    private = context.store.find_private(found) if found else {}
    if found is None or private["is_canceled"]:
        raise errors.invalid_request(
            f"No event of the last 24 hours exists with identifier {identifier}.",
            code="resource_missing",
            param="cancel[identifier]",
        )
    context.store.save_private(found, private | {"is_canceled": True})
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "event_name": params["event_name"],
        "livemode": False,
        "status": "pending",
        "type": "cancel",
    }


def summarize(context: Context, params: Json, meter_id: str) -> Json:
    """What was counted for a customer, newest window first; windows without use are left out."""
    meter = context.get(KIND, meter_id)
    start, end = params["start_time"], params["end_time"]
    window_s = WINDOWS_S.get(params.get("value_grouping_window", ""), 0)
    for name, moment in (("start_time", start), ("end_time", end)):
        if moment % (window_s or 60):
            raise errors.invalid_request(
                f"{name} must be aligned with {params.get('value_grouping_window', 'minute')} "
                "boundaries.",
                param=name,
            )
    customers.require(context, params["customer"])
    sums: dict[int, int] = {} if window_s else {start: 0}
    for event, private in _counted(context, meter, params["customer"], start, end):
        slot = event["timestamp"] - event["timestamp"] % window_s if window_s else start
        sums[slot] = sums.get(slot, 0) + private["value"]
    rows = [
        {
            "id": f"mtrusg_test_{meter_id}_{params['customer']}_{slot}",
            "object": "billing.meter_event_summary",
            "aggregated_value": value,
            "end_time": slot + window_s if window_s else end,
            "livemode": False,
            "meter": meter_id,
            "start_time": slot,
        }
        for slot, value in sorted(sums.items(), reverse=True)
    ]
    return _page(rows, params, f"/v1/billing/meters/{meter_id}/event_summaries")


def usage(context: Context, meter_id: str, customer_id: str, start: int, end: int) -> int:
    """What an invoice for a period counts now."""
    meter = context.get(KIND, meter_id)
    rows = _counted(context, meter, customer_id, start, end)
    return sum(private["value"] for _event, private in rows)


def _counted(
    context: Context, meter: Json, customer_id: str, start: int, end: int
) -> list[tuple[Json, Json]]:
    delay_s = int(context.store.get_setting(DELAY_SETTING, str(COUNTED_AFTER_S_DEFAULT)))
    query = Query(EVENT_KIND).equals("event_name", meter["event_name"])
    query.where("created <= ?", context.now - delay_s)
    query.where("json_extract(body, '$.timestamp') >= ?", start)
    query.where("json_extract(body, '$.timestamp') < ?", end)
    query.where("json_extract(private, '$.customer') = ?", customer_id)
    query.where("json_extract(private, '$.is_canceled') = 0")
    return context.store.list_with_private(query)


def _find_event(context: Context, identifier: str, *, within_s: int) -> str | None:
    """The stored name of a recent report."""
    query = Query(EVENT_KIND).equals("identifier", identifier)
    query.where("created > ?", context.now - within_s)
    return context.store.find_id(query)


def _find_active(context: Context, event_name: str) -> Json | None:
    query = Query(KIND).equals("event_name", event_name).equals("status", "active")
    found = context.store.list_all(query)
    return found[0] if found else None


def _switch(context: Context, meter_id: str, status: str) -> Json:
    meter = context.get(KIND, meter_id)
    meter |= {
        "status": status,
        "updated": context.now,
        "status_transitions": {"deactivated_at": context.now if status == "inactive" else None},
    }
    context.store.save(meter)
    return meter


def _check_time(context: Context, timestamp: int) -> None:
    if timestamp < context.now - AGE_S_MAX:
        raise errors.invalid_request(
            "The timestamp must be within the past 35 days.",
            code="timestamp_too_far_in_past",
            param="timestamp",
        )
    if timestamp > context.now + AHEAD_S_MAX:
        raise errors.invalid_request(
            "The timestamp must not be more than 5 minutes in the future.",
            code="timestamp_in_future",
            param="timestamp",
        )


def _page(rows: list[Json], params: Json, url: str) -> Json:
    limit = params.get("limit", 10)
    ids = [row["id"] for row in rows]
    after = params.get("starting_after")
    first = ids.index(after) + 1 if after in ids else 0
    page = rows[first : first + limit]
    return {
        "object": "list",
        "data": page,
        "has_more": first + limit < len(rows),
        "url": url,
    }


def _customer_key(meter: Json) -> str:
    return str(meter["customer_mapping"]["event_payload_key"])


def _value_key(meter: Json) -> str:
    return str(meter["value_settings"]["event_payload_key"])
