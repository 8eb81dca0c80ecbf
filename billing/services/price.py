"""Set prices. A price row never changes: the present one ends, and another begins."""

from __future__ import annotations

from django.conf import settings
from django.db import connection, transaction

from billing.models import Price
from marketplace.core.errors import InvalidInputError
from marketplace.core.money import NANOS_PER_DOLLAR
from marketplace.models import AIModel
from marketplace.selectors.access import Actor
from marketplace.services import audit

# A dearer prediction is more likely a slip of the decimal point than a price.
NANOS_PER_PREDICTION_MAX = 1_000 * NANOS_PER_DOLLAR


def set_price(actor: Actor, model: AIModel, *, nanos_per_prediction: int) -> Price:
    """Make this the price of the model from now on; the same price again changes nothing.

    Raises:
        InvalidInputError: Below zero or above `NANOS_PER_PREDICTION_MAX`.
    """
    if not 0 <= nanos_per_prediction <= NANOS_PER_PREDICTION_MAX:
        raise InvalidInputError(
            errors=[
                {
                    "pointer": "/nanos_per_prediction",
                    "detail": f"Between 0 and {NANOS_PER_PREDICTION_MAX} nano-dollars.",
                }
            ]
        )
    with transaction.atomic():
        # One price change of a model at a time; rows that refer to the model do not wait.
        AIModel.objects.select_for_update(no_key=True).get(pk=model.pk)
        current = Price.objects.filter(model=model, valid_until=None).first()
        if current is not None and current.nanos_per_prediction == nanos_per_prediction:
            return current
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            now = cursor.fetchone()[0]
        if current is not None:
            Price.objects.filter(pk=current.pk).update(valid_until=now)
        price = Price.objects.create(
            model=model,
            nanos_per_prediction=nanos_per_prediction,
            creator_share_bps=settings.CREATOR_SHARE_BPS,
            valid_from=now,
            created_by=actor.user,
        )
        audit.record(
            actor.label,
            "price.set",
            price,
            account_id=model.account_id,
            payload={
                "model": str(model),
                "nanos_per_prediction": nanos_per_prediction,
                "before": current.nanos_per_prediction if current else None,
            },
        )
    return price
