"""Private offers: what one account pays for a model in the place of everybody's price."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from billing.errors import OfferDearerError
from billing.models import Price
from billing.selectors.price import find_price
from billing.services.price import (
    PriceTerms,
    check_terms,
    find_share_bps,
    lock_prices,
    notice_period,
    read_clock,
)
from marketplace.core.errors import FieldError, InvalidInputError
from marketplace.models import Account, AIModel
from marketplace.selectors.access import Actor
from marketplace.selectors.found import get_one
from marketplace.services import audit

# The gateway keeps a model's offers with the model: so many are nothing, and thousands would be.
OFFERS_MAX = 200
# Longer than any contract about a price; a later end is a typing error.
OFFER_LENGTH_MAX = timedelta(days=3660)


def make_offer(
    actor: Actor,
    model: AIModel,
    account: Account,
    *,
    valid_until: datetime | None = None,
    **terms: Any,
) -> Price:
    """Let an account pay less, from now on; it is in force at once, since it only gains by it.

    Args:
        actor: Who makes it; may push the model.
        model: Whose price.
        account: For whom. An offer that it has already is replaced, if the new one is nowhere
            dearer.
        valid_until: When it ends; None: until it is ended.
        **terms: The members of `PriceTerms`.

    Raises:
        InvalidInputError: Out of range, the owner itself, or one offer too many.
        OfferDearerError: Something would cost the account more than it does now.
    """
    wanted = check_terms(PriceTerms(**terms))
    if account.pk == model.account_id:
        raise _invalid("/account", "Is the owner of the model.")
    with transaction.atomic():
        lock_prices(model)
        now = read_clock()
        if valid_until is not None and not now < valid_until <= now + OFFER_LENGTH_MAX:
            raise _invalid("/valid_until", "Must lie in the next ten years.")
        current = find_offer(model, account)
        base = current or find_price(model)
        if base is None or wanted.is_rise_from(PriceTerms.of(base)):
            raise OfferDearerError
        if current is not None:
            Price.objects.filter(pk=current.pk).update(valid_until=now)
        elif list_offers(model).count() >= OFFERS_MAX:
            raise _invalid("/account", f"A model has at most {OFFERS_MAX} offers.")
        price = Price.objects.create(
            model=model,
            account=account,
            **wanted.columns,
            creator_share_bps=find_share_bps(model),
            valid_from=now,
            valid_until=valid_until,
            created_by=actor.user,
        )
        audit.record(
            actor.label,
            "offer.make",
            price,
            account_id=model.account_id,
            payload={"model": str(model), "consumer": account.slug, **wanted.columns},
        )
    return price


def end_offer(actor: Actor, model: AIModel, slug: str) -> Price:
    """End an offer after the notice that a rise needs, for that is what it is.

    Raises:
        NotFoundError: The account has none.
    """
    with transaction.atomic():
        lock_prices(model)
        price = get_one(list_offers(model).filter(account__slug=slug), "This account has no offer.")
        ends = read_clock() + notice_period()
        if price.valid_until is None or ends < price.valid_until:
            Price.objects.filter(pk=price.pk).update(valid_until=ends)
            price.valid_until = ends
        audit.record(
            actor.label,
            "offer.end",
            price,
            account_id=model.account_id,
            payload={"model": str(model), "consumer": slug},
        )
    return price


def find_offer(model: AIModel, account: Account) -> Price | None:
    """What an account is offered now."""
    return list_offers(model).filter(account=account).first()


def list_offers(model: AIModel) -> Any:
    """Offers of a model that are in force, by account."""
    now = read_clock()
    return (
        Price.objects.filter(Q(valid_until=None) | Q(valid_until__gt=now), model=model)
        .filter(account__isnull=False, valid_from__lte=now)
        .select_related("account")
        .order_by("account__slug")
    )


def _invalid(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(detail, errors=[FieldError(pointer=pointer, detail=detail)])
