"""Meters at Stripe, what we report to them, and the prices that bill it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import stripe

from billing.stripe.calls import CURRENCY, PAGE_SIZE, Calls, at, id_of, our_errors, read_all

CUSTOMER_KEY = "stripe_customer_id"
VALUE_KEY = "value"

# Stripe says it in words only; the answer has no code of its own.
_DUPLICATE = "already exists with identifier"


@dataclass(frozen=True, slots=True)
class Meter:
    """A counter at Stripe; `status` is active or inactive."""

    id: str
    event_name: str
    status: str


@dataclass(frozen=True, slots=True)
class MeteredPrice:
    """What one unit of a meter costs, in cents with up to twelve decimals."""

    id: str
    lookup_key: str | None
    meter_id: str | None
    unit_amount_decimal: Decimal
    product_id: str | None


@dataclass(frozen=True, slots=True)
class MeterHour:
    """What a meter counted in an hour; the end is not part of it."""

    start: datetime
    end: datetime
    value: int


class MeteringCalls(Calls):
    """Set meters up, report to them, and ask what they counted."""

    def ensure_meter(self, *, event_name: str, display_name: str) -> Meter:
        """The one active meter of an event name, made if there is none.

        Args:
            event_name: At most 100 characters; what `send_meter_event` names.
            display_name: What Stripe's pages call it.
        """
        with our_errors():
            rows = self._v1.billing.meters.list(params={"status": "active", "limit": PAGE_SIZE})
            for row in read_all(rows):
                if row.event_name == event_name:
                    return _meter(row)
            meter = self._v1.billing.meters.create(
                {
                    "event_name": event_name,
                    "display_name": display_name,
                    "default_aggregation": {"formula": "sum"},
                    "customer_mapping": {"type": "by_id", "event_payload_key": CUSTOMER_KEY},
                    "value_settings": {"event_payload_key": VALUE_KEY},
                },
                {"idempotency_key": f"meter:{event_name}"},
            )
        return _meter(meter)

    def ensure_metered_price(
        self, *, meter_id: str, lookup_key: str, unit_amount_decimal: Decimal, product_name: str
    ) -> MeteredPrice:
        """The monthly price under a lookup key, made anew if what it charges has changed.

        Prices never change; a new one takes the key over, and subscriptions that were made
        with the old one keep it.

        Args:
            meter_id: What is counted.
            lookup_key: Our name for the price.
            unit_amount_decimal: Cents for one unit; at most 12 decimals.
            product_name: What invoices say.
        """
        with our_errors():
            rows = self._v1.prices.list(
                params={"lookup_keys": [lookup_key], "active": True, "limit": PAGE_SIZE}
            )
            for row in read_all(rows):
                found = _price(row)
                if (found.meter_id, found.unit_amount_decimal) == (meter_id, unit_amount_decimal):
                    return found
            price = self._v1.prices.create(
                {
                    "currency": CURRENCY,
                    "unit_amount_decimal": unit_amount_decimal,
                    "recurring": {
                        "interval": "month",
                        "usage_type": "metered",
                        "meter": meter_id,
                    },
                    "product_data": {"name": product_name},
                    "lookup_key": lookup_key,
                    "transfer_lookup_key": True,
                },
                {"idempotency_key": f"price:{lookup_key}:{meter_id}:{unit_amount_decimal}"},
            )
        return _price(price)

    def send_meter_event(
        self,
        *,
        event_name: str,
        customer_id: str,
        value: int,
        identifier: str,
        occurred_at: datetime,
    ) -> bool:
        """Report use, once.

        Stripe refuses an identifier that it had within the last day, and has counted it then;
        after a day it would count it again, so callers must know what they have sent.

        Args:
            event_name: Of the meter.
            customer_id: Who used it.
            value: Whole units, not negative.
            identifier: Ours, at most 100 characters.
            occurred_at: At most 35 days ago, and not more than 5 minutes ahead.

        Returns:
            False when Stripe had this identifier already, which is success as well.
        """
        with our_errors():
            try:
                self._v1.billing.meter_events.create(
                    {
                        "event_name": event_name,
                        "identifier": identifier,
                        "timestamp": int(occurred_at.timestamp()),
                        "payload": {CUSTOMER_KEY: customer_id, VALUE_KEY: str(value)},
                    }
                )
            except stripe.InvalidRequestError as error:
                if _DUPLICATE in str(error) and identifier in str(error):
                    return False
                raise
        return True

    def cancel_meter_event(self, *, event_name: str, identifier: str, idempotency_key: str) -> None:
        """Take a report back; possible for a day after it arrived."""
        with our_errors():
            self._v1.billing.meter_event_adjustments.create(
                {
                    "event_name": event_name,
                    "type": "cancel",
                    "cancel": {"identifier": identifier},
                },
                {"idempotency_key": idempotency_key},
            )

    def summarize_meter(
        self, *, meter_id: str, customer_id: str, start: datetime, end: datetime
    ) -> list[MeterHour]:
        """What a meter counted for a customer, by hour, oldest first.

        Hours without use are left out. What was reported a moment ago may be missing: Stripe
        counts with a delay.

        Args:
            meter_id: Which meter.
            customer_id: Whose use.
            start: A full hour.
            end: A full hour, not part of the answer.
        """
        with our_errors():
            rows = self._v1.billing.meters.event_summaries.list(
                meter_id,
                params={
                    "customer": customer_id,
                    "start_time": int(start.timestamp()),
                    "end_time": int(end.timestamp()),
                    "value_grouping_window": "hour",
                    "limit": PAGE_SIZE,
                },
            )
            hours = [
                MeterHour(at(row.start_time), at(row.end_time), int(row.aggregated_value))
                for row in read_all(rows)
                if row.aggregated_value
            ]
        return sorted(hours, key=lambda hour: hour.start)


def _meter(meter: stripe.billing.Meter) -> Meter:
    return Meter(id=meter.id, event_name=meter.event_name, status=meter.status)


def _price(price: stripe.Price) -> MeteredPrice:
    return MeteredPrice(
        id=price.id,
        lookup_key=price.lookup_key,
        meter_id=None if price.recurring is None else price.recurring.meter,
        unit_amount_decimal=Decimal(price.unit_amount_decimal or 0),
        product_id=id_of(price.product),
    )
