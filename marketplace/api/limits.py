"""Limits on the wire: `null` takes one away, what is left out stays."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from marketplace.core import limits
from marketplace.core.money import AMOUNT_NANOS_MAX
from marketplace.models.limits import CONCURRENCY_MAX, PER_MINUTE_MAX, QUERIES_MAX


def _number(maximum: int) -> serializers.IntegerField:
    return serializers.IntegerField(min_value=1, max_value=maximum, required=False, allow_null=True)


def _list(length_max: int) -> serializers.ListField:
    return serializers.ListField(
        child=serializers.CharField(max_length=length_max),
        required=False,
        max_length=limits.ALLOWED_ENTRIES_MAX,
    )


class RateInput(serializers.Serializer):
    """What accounts, models and keys can be limited to."""

    requests_per_minute = _number(PER_MINUTE_MAX)
    units_per_minute = _number(PER_MINUTE_MAX)
    concurrency_max = _number(CONCURRENCY_MAX)


class QueryBudgetInput(serializers.Serializer):
    """How many different inputs a consumer may ask a model."""

    queries_per_day_max = _number(QUERIES_MAX)
    queries_total_max = _number(QUERIES_MAX)


class GuardInput(QueryBudgetInput):
    """How a model can be kept from being copied by asking."""

    samples_queries = serializers.BooleanField(required=False)


class KeyLimitInput(RateInput):
    """What a key can be limited to besides."""

    budget_day_nanos = _number(AMOUNT_NANOS_MAX)
    budget_month_nanos = _number(AMOUNT_NANOS_MAX)
    budget_total_nanos = _number(AMOUNT_NANOS_MAX)
    allowed_models = _list(200)
    allowed_networks = _list(100)


class KeyChangeInput(KeyLimitInput):
    """A change of some of them. A misspelt limit must not pass for one that is kept."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse members that mean nothing."""
        unknown = sorted(set(self.initial_data) - set(self.fields))
        if unknown:
            raise serializers.ValidationError(dict.fromkeys(unknown, "There is no such limit."))
        return attrs
