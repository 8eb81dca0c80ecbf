"""What part of its prices a creator gets, as the platform has agreed with it."""

from __future__ import annotations

from django.db import transaction

from billing.models import CreatorTerms
from marketplace.core.errors import FieldError, ForbiddenError, InvalidInputError
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit
from strongroom.rating import BPS


def set_creator_share(
    actor: Actor, account: Account, *, creator_share_bps: int, reason: str
) -> CreatorTerms:
    """Agree on a share. Prices that exist keep theirs; the next price of each model has it.

    Raises:
        ForbiddenError: The actor is no admin of the platform.
        InvalidInputError: No share.
    """
    if not actor.is_admin:
        raise ForbiddenError("Only an admin of the platform agrees on shares.")
    if type(creator_share_bps) is not int or not 0 <= creator_share_bps <= BPS:
        detail = f"Basis points, from 0 to {BPS}."
        raise InvalidInputError(
            detail, errors=[FieldError(pointer="/creator_share_bps", detail=detail)]
        )
    with transaction.atomic():
        terms, _ = CreatorTerms.objects.update_or_create(
            account=account,
            defaults={"creator_share_bps": creator_share_bps, "set_by": actor.user},
        )
        audit.record(
            actor.label,
            "creator.share",
            terms,
            account_id=account.pk,
            payload={"creator_share_bps": creator_share_bps, "reason": reason},
        )
    return terms
