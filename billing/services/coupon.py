"""Coupons: made by the platform (credit) or by a creator (a part off its own price)."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from billing.errors import CouponRefusedError
from billing.models import Coupon, CouponRedemption, LedgerAccount, Price, Transfer
from billing.selectors.price import find_price
from billing.services import ledger
from billing.services.offer import find_offer, make_offer
from billing.services.price import PriceTerms
from marketplace.core.errors import FieldError, ForbiddenError, InvalidInputError
from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_DOLLAR
from marketplace.models import Account, AIModel
from marketplace.selectors.access import Actor
from marketplace.services import audit, throttle
from strongroom.rating import BPS

CODE = re.compile(r"[A-Z0-9][A-Z0-9-]{2,30}[A-Z0-9]")
# What is given away by one code to one account: more is a contract, and no coupon.
CREDIT_NANOS_MAX = 10_000 * NANOS_PER_DOLLAR
USES_MAX = 1_000_000
DAYS_MAX = 366


def make_credit_coupon(
    actor: Actor, *, code: str, credit_nanos: int, uses_max: int, valid_until: datetime
) -> Coupon:
    """A code that gives promotional credit, paid by the platform.

    Raises:
        ForbiddenError: The actor is no admin of the platform.
        InvalidInputError: Out of range, or the code is taken.
    """
    if not actor.is_admin:
        raise ForbiddenError("Only an admin of the platform gives credit.")
    _check("/credit_nanos", credit_nanos, CREDIT_NANOS_MAX)
    return _make(actor, None, code, uses_max, valid_until, credit_nanos=credit_nanos)


def make_price_coupon(
    actor: Actor,
    model: AIModel,
    *,
    code: str,
    off_bps: int,
    days: int,
    uses_max: int,
    valid_until: datetime,
) -> Coupon:
    """A code that takes a part off the price of a model; its creator earns less by it.

    Args:
        actor: May push the model.
        model: Whose price.
        code: As it will be typed.
        off_bps: Basis points that are taken off.
        days: How long, from the redemption on.
        uses_max: How many accounts may use it.
        valid_until: Until when.

    Raises:
        InvalidInputError: Out of range, or the code is taken.
    """
    _check("/off_bps", off_bps, BPS - 1)
    _check("/days", days, DAYS_MAX)
    return _make(actor, model, code, uses_max, valid_until, off_bps=off_bps, days=days)


def end_coupon(actor: Actor, coupon: Coupon) -> None:
    """Let nobody use it any more; what it gave stays given."""
    with transaction.atomic():
        row = Coupon.objects.select_for_update().get(pk=coupon.pk)
        if row.ended_at is None:
            row.ended_at = timezone.now()
            row.save(update_fields=["ended_at"])
            _record(actor, "coupon.end", row)


def redeem_coupon(actor: Actor, account: Account, code: str) -> CouponRedemption:
    """Use a code for an account: once, and never more often in all than it allows.

    Raises:
        CouponRefusedError: There is no such code, it is over or used up, the account has used it,
            or its model has nothing that it could take something off.
        LimitExceededError: The account has tried too many.
    """
    throttle.count_coupon_try(account_id=account.pk)
    with transaction.atomic():
        # Whoever comes at the same time waits here, and counts what this one has used.
        coupon = Coupon.objects.select_for_update().filter(code=_normalize(code)).first()
        if coupon is None:
            raise CouponRefusedError("There is no such code.")
        if CouponRedemption.objects.filter(coupon=coupon, account=account).exists():
            raise CouponRefusedError("This account has used the code.")
        if coupon.ended_at is not None or coupon.valid_until <= timezone.now():
            raise CouponRefusedError("The code is not valid any more.")
        if coupon.uses >= coupon.uses_max:
            raise CouponRefusedError("The code is used up.")
        redemption = CouponRedemption(
            id=new_id(), coupon=coupon, account=account, redeemed_by=actor.label[:200]
        )
        if coupon.credit_nanos is not None:
            redemption.transfer_id = _give_credit(coupon, account, coupon.credit_nanos)
        else:
            redemption.price = _lower_price(actor, coupon, account)
        redemption.save(force_insert=True)
        coupon.uses += 1
        coupon.save(update_fields=["uses"])
        audit.record(
            actor.label,
            "coupon.redeem",
            redemption,
            account_id=account.pk,
            payload={"code": coupon.code, "credit_nanos": coupon.credit_nanos},
        )
    return redemption


def _give_credit(coupon: Coupon, account: Account, nanos: int) -> Any:
    pool = ledger.get_ledger_account_id(LedgerAccount.Kind.PROMO_POOL)
    wallet = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=account.pk)
    transfer_id = new_id()
    ledger.post_transfer(
        transfer_id=transfer_id,
        kind=Transfer.Kind.PROMO,
        idempotency_key=f"coupon:{coupon.pk}:{account.pk}",
        reference=coupon.code,
        amounts_nanos={pool: -nanos, wallet: nanos},
    )
    return transfer_id


def _lower_price(actor: Actor, coupon: Coupon, account: Account) -> Price:
    """An offer at a part of everybody's price, which its receipts prove like any other."""
    model, off_bps, days = coupon.model, coupon.off_bps, coupon.days
    assert model is not None
    assert off_bps is not None
    assert days is not None
    price = find_price(model)
    if price is None or account.pk == model.account_id or find_offer(model, account) is not None:
        raise CouponRefusedError(
            "There is nothing that the code takes a part off for this account."
        )
    return make_offer(
        actor,
        model,
        account,
        valid_until=timezone.now() + timedelta(days=days),
        **PriceTerms.of(price).take_off(off_bps).columns,
    )


def _make(
    actor: Actor,
    model: AIModel | None,
    code: str,
    uses_max: int,
    valid_until: datetime,
    **gives: int,
) -> Coupon:
    code = _normalize(code)
    if not CODE.fullmatch(code):
        raise _invalid("/code", "4 to 32 letters, digits and hyphens.")
    _check("/uses_max", uses_max, USES_MAX)
    if valid_until <= timezone.now():
        raise _invalid("/valid_until", "Must be later than now.")
    with transaction.atomic():
        coupon, is_new = Coupon.objects.get_or_create(
            code=code,
            defaults={
                "model": model,
                "uses_max": uses_max,
                "valid_until": valid_until,
                "created_by": actor.user,
                **gives,
            },
        )
        if not is_new:
            raise _invalid("/code", "Is taken.")
        _record(actor, "coupon.make", coupon)
    return coupon


def _record(actor: Actor, action: str, coupon: Coupon) -> None:
    audit.record(
        actor.label,
        action,
        coupon,
        account_id=coupon.model.account_id if coupon.model else None,
        payload={
            "code": coupon.code,
            "credit_nanos": coupon.credit_nanos,
            "off_bps": coupon.off_bps,
            "model": str(coupon.model) if coupon.model else None,
            "uses_max": coupon.uses_max,
        },
    )


def _normalize(code: str) -> str:
    return code.strip().upper()


def _check(pointer: str, value: Any, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise _invalid(pointer, f"A whole number from 1 to {most}.")


def _invalid(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(detail, errors=[FieldError(pointer=pointer, detail=detail)])
