"""Usage as files that other programs read: CSV, and a batch of CloudEvents.

Both are made row by row. Amounts are integers of a billionth of a dollar, and in the CSV also
a decimal number of dollars with all nine places: nothing is rounded.

Source: RFC 4180; CloudEvents 1.0.2, JSON batch format.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from typing import Any

from django.conf import settings

from billing.models import UsageEvent
from marketplace.core import ids
from marketplace.core.clock import to_wire

CSV_TYPE = "text/csv; charset=utf-8"
CLOUDEVENTS_TYPE = "application/cloudevents-batch+json"
EVENT_TYPE = "com.strongroom.prediction.booked"
# More is asked for in parts, by days.
ROWS_MAX = 1_000_000

_COLUMNS = (
    *("prediction", "occurred_at", "model", "version", "key", "mode", "units"),
    *("gross_nanos", "gross_usd", "tag"),
)
_NANOS_PER_DOLLAR = 1_000_000_000


class _Line:
    """What csv writes to: it hands each line on."""

    def write(self, text: str) -> str:
        return text


def write_csv(events: Iterable[UsageEvent]) -> Iterator[str]:
    """Lines of CSV, the first one with the names."""
    writer = csv.writer(_Line())
    yield writer.writerow(_COLUMNS)
    for event in events:
        row = describe(event)
        dollars, nanos = divmod(event.gross_nanos, _NANOS_PER_DOLLAR)
        row["gross_usd"] = f"{dollars}.{nanos:09d}"
        yield writer.writerow([row[name] for name in _COLUMNS])


def write_cloudevents(events: Iterable[UsageEvent]) -> Iterator[str]:
    """Pieces of one JSON list. An event has the prediction's id: whoever gets it twice knows."""
    between = "["
    for event in events:
        data = describe(event)
        yield between + json.dumps(
            {
                "specversion": "1.0",
                "type": EVENT_TYPE,
                "source": f"{settings.GATEWAY_URL}/v1/predictions",
                "id": data["prediction"],
                "time": data["occurred_at"],
                "subject": data["model"],
                "datacontenttype": "application/json",
                "data": data,
            }
        )
        between = ",\n"
    yield "[]" if between == "[" else "]"


def describe(event: UsageEvent) -> dict[str, Any]:
    """A usage event on the wire."""
    return {
        "prediction": ids.to_public(event.prediction_id),
        "model": str(event.version.model),
        "version": event.version.number,
        "key": str(event.api_key_id) if event.api_key_id else None,
        "mode": event.mode,
        "units": event.units,
        "gross_nanos": event.gross_nanos,
        "occurred_at": to_wire(event.occurred_at),
        "tag": event.tag,
    }
