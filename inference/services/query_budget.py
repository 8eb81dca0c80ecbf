"""Give one consumer of a model a budget of its own, or take it away again.

The gateways hear of it with their next flush.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from inference.models import QueryBudget
from inference.selectors.abuse import find_consumer
from marketplace.models import AIModel
from marketplace.selectors.access import Actor
from marketplace.services import audit
from marketplace.services.limits import QUERY_FIELDS, check_rates


def set_budget(
    *, model: AIModel, slug: str, fields: Mapping[str, Any], actor: Actor
) -> QueryBudget:
    """Let a consumer ask so much instead of what the model lets everybody.

    Args:
        model: Whose inputs are counted; the caller has checked the right to push.
        slug: An account that has asked the model.
        fields: `QUERY_FIELDS`; None is no budget.
        actor: Who sets it.

    Raises:
        InvalidInputError: A number is out of its limits.
        NotFoundError: No such account has asked the model.
    """
    limits = {name: fields.get(name) for name in QUERY_FIELDS}
    check_rates(limits)
    account = find_consumer(model, slug)
    with transaction.atomic():
        budget, _ = QueryBudget.objects.update_or_create(
            model=model, account=account, defaults=limits
        )
        payload = {"model": str(model), "consumer": slug, **limits}
        audit.record(
            actor.label, "budget.set", budget, account_id=model.account_id, payload=payload
        )
    return budget


def remove_budget(*, model: AIModel, slug: str, actor: Actor) -> None:
    """Let a consumer ask what everybody may; again, or if it has none, changes nothing."""
    with transaction.atomic():
        budget = QueryBudget.objects.filter(model=model, account__slug=slug).first()
        if budget is None:
            return
        payload = {"model": str(model), "consumer": slug}
        audit.record(
            actor.label, "budget.remove", budget, account_id=model.account_id, payload=payload
        )
        budget.delete()
