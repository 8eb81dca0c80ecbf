"""Buy credit by itself when a wallet runs low, with a saved card, and tell people about it.

Each try is a top-up of its own with a number; its key at Stripe is made of the account and
the number. A row that is open holds back the next one. After an answer that was lost, the
payment is looked for before it is asked for again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, Sum
from django.db.models.functions import Now
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from billing.errors import (
    AutoTopupUntaxedError,
    CardDeclinedError,
    NoSavedCardError,
    StripeRefusedError,
    StripeUnavailableError,
)
from billing.models import (
    AutoTopup,
    BalanceAlert,
    LedgerAccount,
    PaymentMail,
    StripeCall,
    StripeCustomer,
    Topup,
)
from billing.selectors.card import find_default_card
from billing.selectors.fraud import find_pause_end
from billing.services import decline as declines
from billing.services.stripe_call import call_stripe, note_found
from billing.services.stripe_client import get_stripe
from billing.services.topup import (
    AMOUNT_CENTS_MAX,
    AMOUNT_CENTS_MIN,
    FAILED_PAYMENT_STATES,
    require_buyer,
    settle_payment,
)
from billing.stripe.client import PaymentIntent
from marketplace.core.errors import FieldError, InvalidInputError
from marketplace.core.money import NANOS_PER_CENT, format_cents
from marketplace.models import Account, Notification
from marketplace.selectors.access import Actor
from marketplace.selectors.notification import list_mail_addresses
from marketplace.services import audit
from marketplace.services.mail import mail_once
from marketplace.services.notification import notify

logger = logging.getLogger(__name__)

# What a month may cost by itself: twice the largest single payment.
MONTHLY_LIMIT_CENTS_MAX = 2 * AMOUNT_CENTS_MAX
# A card that is refused so often in a row will not be accepted the next time.
DECLINES_IN_ROW_MAX = 3
# A bank that says no says so again a minute later, and takes offence.
RETRY_AFTER = timedelta(hours=6)
# Stripe forgets idempotency keys after a day; some hours before that we stop repeating.
REPEAT_WITHIN = timedelta(hours=20)
BATCH_SIZE = 50
# A mail that could not be sent for so long is no news any more.
MAIL_WITHIN = timedelta(days=1)
MAILS_PER_RUN_MAX = 50

SYSTEM_LABEL = "system:auto-topup"
MUST_CONFIRM = "authentication_required"


def configure_auto_topup(
    actor: Actor,
    account: Account,
    *,
    threshold_cents: int,
    amount_cents: int,
    monthly_limit_cents: int,
) -> AutoTopup:
    """Buy this much credit whenever the wallet falls below the threshold.

    Raises:
        InvalidInputError: An amount out of bounds.
        NoSavedCardError: There is no card to pay with.
        AutoTopupUntaxedError: Tax is worked out on the payment page, where nobody is.
        AccountFrozenError, TooManyDeclinesError: The account may not buy now.
    """
    _check_amounts(threshold_cents, amount_cents, monthly_limit_cents)
    if settings.STRIPE_TAX:
        raise AutoTopupUntaxedError
    require_buyer(account)
    fields = {
        "threshold_cents": threshold_cents,
        "amount_cents": amount_cents,
        "monthly_limit_cents": monthly_limit_cents,
    }
    with transaction.atomic():
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if find_default_card(account.pk) is None:
            raise NoSavedCardError
        order, _ = AutoTopup.objects.update_or_create(
            account=account,
            defaults={
                **fields,
                "is_enabled": True,
                "declines_in_row": 0,
                "retry_at": None,
                "off_reason": "",
            },
        )
        audit.record(
            actor.label, "auto_topup.set", order, account_id=account.pk, payload=dict(fields)
        )
    return order


def stop_auto_topup(actor: Actor, account: Account) -> None:
    """Buy nothing by itself any more; what is on its way is finished."""
    with transaction.atomic():
        order = AutoTopup.objects.select_for_update().filter(account=account).first()
        if order is not None and order.is_enabled:
            order.is_enabled, order.off_reason = False, ""
            order.save(update_fields=["is_enabled", "off_reason"])
            audit.record(actor.label, "auto_topup.stop", order, account_id=account.pk)


def set_balance_alert(actor: Actor, account: Account, *, threshold_cents: int) -> BalanceAlert:
    """Mail when the wallet falls below so much; zero is never.

    Raises:
        InvalidInputError: Out of bounds.
    """
    if not 0 <= threshold_cents <= AMOUNT_CENTS_MAX:
        detail = f"From $0 (never) to ${AMOUNT_CENTS_MAX // 100:,}."
        raise InvalidInputError(errors=[{"pointer": "/threshold_cents", "detail": detail}])
    with transaction.atomic():
        alert, _ = BalanceAlert.objects.update_or_create(
            account=account, defaults={"threshold_cents": threshold_cents}
        )
        audit.record(
            actor.label,
            "balance_alert.set",
            alert,
            account_id=account.pk,
            payload={"threshold_cents": threshold_cents},
        )
    return alert


def run_auto_topups() -> int:
    """Finish what is open and buy for wallets that are low; returns how many were looked at."""
    looked_at = 0
    try:
        for topup in list(
            Topup.objects.filter(source=Topup.Source.AUTO, state=Topup.State.OPEN)
            .select_related("account")
            .order_by(F("checked_at").asc(nulls_first=True))[:BATCH_SIZE]
        ):
            Topup.objects.filter(pk=topup.pk).update(checked_at=Now())
            looked_at += 1
            _pay(topup)
        for account_id in _list_low():
            looked_at += 1
            if begun := _begin(account_id):
                _pay(begun)
    except StripeUnavailableError:
        logger.warning("Stripe does not answer; automatic top-ups go on next time")
    return looked_at


def _list_low() -> list[UUID]:
    wallets = LedgerAccount.objects.filter(
        kind=LedgerAccount.Kind.WALLET,
        holder_id=OuterRef("account_id"),
        posted_nanos__gte=OuterRef("threshold_cents") * NANOS_PER_CENT,
    )
    orders = (
        AutoTopup.objects.filter(is_enabled=True, account__frozen_at=None)
        .filter(account__suspended_at=None, account__closes_at=None)
        .filter(Q(retry_at=None) | Q(retry_at__lte=Now()))
        .filter(~Exists(wallets))
    )
    return list(orders.order_by("updated_at").values_list("account_id", flat=True)[:BATCH_SIZE])


def _begin(account_id: UUID) -> Topup | None:
    """A row for the next payment, if it is due and allowed; looked at under the lock."""
    now = timezone.now()
    with transaction.atomic():
        order = (
            AutoTopup.objects.select_for_update(skip_locked=True, of=("self",))
            .select_related("account")
            .filter(account_id=account_id, is_enabled=True)
            .first()
        )
        if order is None or (order.retry_at is not None and order.retry_at > now):
            return None
        if settings.STRIPE_TAX:
            _switch_off(order, "untaxed")
            return None
        card = find_default_card(account_id)
        if card is None:
            _switch_off(order, "no_card")
            return None
        if order.account.frozen_at or order.account.closes_at or find_pause_end(account_id):
            return None
        if not _is_due(order):
            return None
        order.count += 1
        order.save(update_fields=["count", "updated_at"])
        return Topup.objects.create(
            account=order.account,
            source=Topup.Source.AUTO,
            amount_cents=order.amount_cents,
            number=order.count,
            payment_method_id=card.payment_method_id,
        )


def _is_due(order: AutoTopup) -> bool:
    """Whether the wallet is low, nothing is on its way, and the month has room for it."""
    wallet = LedgerAccount.objects.filter(
        kind=LedgerAccount.Kind.WALLET, holder_id=order.account_id
    ).first()
    if wallet is not None and wallet.posted_nanos >= order.threshold_cents * NANOS_PER_CENT:
        return False
    own = Topup.objects.filter(account_id=order.account_id, source=Topup.Source.AUTO)
    if own.filter(state=Topup.State.OPEN).exists():
        return False
    month = timezone.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    paid = own.filter(state=Topup.State.CREDITED, created_at__gte=month)
    spent_cents = paid.aggregate(cents=Sum("amount_cents"))["cents"] or 0
    return bool(spent_cents + order.amount_cents <= order.monthly_limit_cents)


def _pay(topup: Topup) -> None:
    """Charge the card for an open row, or find out what became of an earlier try.

    Raises:
        StripeUnavailableError: Nobody knows; the row stays open.
    """
    try:
        intent = _find_begun(topup) or _charge(topup)
    except CardDeclinedError as error:
        _note_decline(topup, error.params)
        return
    except StripeRefusedError as error:
        _note_decline(topup, {"decline_code": error.params.get("stripe_code")})
        return
    if intent is None:
        return
    note_found(_key_of(topup), intent.id)
    if intent.status in FAILED_PAYMENT_STATES or intent.status == "requires_action":
        code = MUST_CONFIRM if intent.status == "requires_action" else "card_declined"
        _note_decline(topup, {"decline_code": code, "payment_intent_id": intent.id})
        return
    Topup.objects.filter(pk=topup.pk).update(payment_intent_id=intent.id)
    topup.payment_intent_id = intent.id
    settle_payment(topup)


def _find_begun(topup: Topup) -> PaymentIntent | None:
    """The payment of an earlier try: a known one, or one whose answer nobody got."""
    if topup.payment_intent_id is not None:
        return get_stripe().retrieve_payment_intent(topup.payment_intent_id)
    return _find_lost(topup)


def _find_lost(topup: Topup) -> PaymentIntent | None:
    """The payment of an earlier try whose answer nobody got."""
    if not StripeCall.objects.filter(idempotency_key=_key_of(topup)).exists():
        return None
    customer_id = StripeCustomer.objects.get(account_id=topup.account_id).customer_id
    return get_stripe().find_payment_intent(
        customer_id=customer_id, key="topup_id", value=str(topup.pk)
    )


def _charge(topup: Topup) -> PaymentIntent | None:
    if topup.created_at < timezone.now() - REPEAT_WITHIN:
        # Stripe knows of no payment, and would not know the key much longer.
        topup.state, topup.note = Topup.State.EXPIRED, "The payment was never made."
        topup.save(update_fields=["state", "note"])
        return None
    customer_id = StripeCustomer.objects.get(account_id=topup.account_id).customer_id
    key = _key_of(topup)
    params = {
        "customer_id": customer_id,
        "payment_method_id": topup.payment_method_id,
        "amount_cents": topup.amount_cents,
    }
    return call_stripe(
        "payment_intents.create",
        key,
        params,
        lambda: get_stripe().charge_card(
            customer_id=customer_id,
            payment_method_id=topup.payment_method_id,
            amount_cents=topup.amount_cents,
            metadata={"topup_id": str(topup.pk)},
            idempotency_key=key,
        ),
    )


def _key_of(topup: Topup) -> str:
    return f"autotopup:{topup.account_id}:{topup.number}"


def _note_decline(topup: Topup, params: Mapping[str, object]) -> None:
    """End a row whose payment was refused; the order waits, and ends after some in a row."""
    code = str(params.get("decline_code") or "card_declined")
    payment_intent_id = params.get("payment_intent_id")
    with transaction.atomic():
        # In the order in which a credit locks them, too.
        topup = Topup.objects.select_for_update().get(pk=topup.pk)
        order = AutoTopup.objects.select_for_update().get(account_id=topup.account_id)
        if topup.state in (Topup.State.CREDITED, Topup.State.QUARANTINED):
            return
        topup.state, topup.note = Topup.State.FAILED, f"The card was declined ({code})."
        if isinstance(payment_intent_id, str):
            topup.payment_intent_id = payment_intent_id
        topup.save(update_fields=["state", "note", "payment_intent_id"])
        order.declines_in_row += 1
        order.retry_at = timezone.now() + RETRY_AFTER
        order.save(update_fields=["declines_in_row", "retry_at"])
        if order.declines_in_row >= DECLINES_IN_ROW_MAX:
            _switch_off(order, "declined")
            _mail_later(topup, PaymentMail.Kind.SWITCHED_OFF)
        elif code == MUST_CONFIRM:
            _mail_later(topup, PaymentMail.Kind.CONFIRM)
    if topup.payment_intent_id:
        declines.note_failed_payment(topup.payment_intent_id)


def _switch_off(order: AutoTopup, reason: str) -> None:
    order.is_enabled, order.off_reason = False, reason
    order.save(update_fields=["is_enabled", "off_reason"])
    audit.record(
        SYSTEM_LABEL,
        "auto_topup.stop",
        order,
        account_id=order.account_id,
        payload={"reason": reason},
    )


def _mail_later(topup: Topup, kind: PaymentMail.Kind) -> None:
    _, is_new = PaymentMail.objects.get_or_create(
        topup=topup, defaults={"account_id": topup.account_id, "kind": kind}
    )
    if is_new:
        account = topup.account
        notify(
            Notification.Kind.PAYMENT,
            account,
            key=f"payment:{topup.pk}",
            title=_find_subject(topup, kind),
            text=f"The wallet of {account.slug} was not filled.",
            path=f"{reverse('billing:cards')}?account={account.slug}",
        )


def mail_payments() -> int:
    """Send the mails about declined payments and low wallets; returns how many went out."""
    _note_crossings()
    since = timezone.now() - MAIL_WITHIN
    told = PaymentMail.objects.filter(mailed_at=None, created_at__gt=since)
    low = BalanceAlert.objects.filter(mailed_at=None, crossed_at__gt=since)
    mail_ids = list(told.order_by("created_at").values_list("pk", flat=True)[:MAILS_PER_RUN_MAX])
    alert_ids = list(low.order_by("crossed_at").values_list("pk", flat=True)[:MAILS_PER_RUN_MAX])
    return sum(map(_mail_payment, mail_ids)) + sum(map(_mail_alert, alert_ids))


def _note_crossings() -> None:
    """Mark wallets that fell below their threshold, and unmark those that are above again."""
    threshold = F("threshold_cents") * NANOS_PER_CENT
    wallets = LedgerAccount.objects.filter(
        kind=LedgerAccount.Kind.WALLET, holder_id=OuterRef("account_id")
    )
    is_above = Exists(wallets.filter(posted_nanos__gte=OuterRef("threshold_nanos")))
    alerts = BalanceAlert.objects.annotate(threshold_nanos=threshold)
    fallen = alerts.filter(~is_above, crossed_at=None, threshold_cents__gt=0)
    with transaction.atomic():
        found = BalanceAlert.objects.filter(pk__in=fallen.values("pk"), crossed_at=None)
        locked = found.select_for_update(of=("self",), no_key=True)
        for alert in locked.select_related("account").order_by("pk"):
            _note_crossing(alert)
    alerts.filter(is_above, crossed_at__isnull=False).update(crossed_at=None, mailed_at=None)


def _note_crossing(alert: BalanceAlert) -> None:
    alert.crossed_at, alert.mailed_at = timezone.now(), None
    alert.save(update_fields=["crossed_at", "mailed_at"])
    slug = alert.account.slug
    notify(
        Notification.Kind.LOW_BALANCE,
        alert.account,
        # Each time that it falls.
        key=f"low_balance:{alert.crossed_at.isoformat()}",
        title=f"The wallet of {slug} runs low",
        text=f"It is below ${format_cents(alert.threshold_cents)}.",
        path=f"{reverse('billing:wallet')}?account={slug}",
    )


def _mail_payment(mail_id: int) -> bool:
    rows = PaymentMail.objects.select_for_update(skip_locked=True, of=("self",))
    return mail_once(
        rows.select_related("account", "topup"),
        mail_id,
        what="payment mail",
        list_addresses=lambda mail: list_mail_addresses(mail.account, Notification.Kind.PAYMENT),
        send=_send_payment,
    )


def _mail_alert(account_id: UUID) -> bool:
    rows = BalanceAlert.objects.select_for_update(skip_locked=True, of=("self",))
    return mail_once(
        rows.select_related("account"),
        account_id,
        what="balance alert",
        list_addresses=lambda alert: list_mail_addresses(
            alert.account, Notification.Kind.LOW_BALANCE
        ),
        send=_send_alert,
    )


def _send_payment(mail: PaymentMail, addresses: list[str]) -> None:
    amount = f"{mail.topup.amount_cents // 100}.{mail.topup.amount_cents % 100:02}"
    wallet = f"{settings.WEB_URL}{reverse('billing:wallet')}?account={mail.account.slug}"
    cards = f"{settings.WEB_URL}{reverse('billing:cards')}?account={mail.account.slug}"
    context = {
        "mail": mail,
        "amount": amount,
        "wallet_url": f"{wallet}&amount={amount}",
        "cards_url": cards,
    }
    subject = _find_subject(mail.topup, PaymentMail.Kind(mail.kind))
    send_mail(subject, render_to_string("emails/payment.txt", context), None, addresses)


def _find_subject(topup: Topup, kind: PaymentMail.Kind) -> str:
    if kind == PaymentMail.Kind.SWITCHED_OFF:
        return "Automatic top-ups are off: your card was declined"
    return f"Your bank asks you to confirm ${format_cents(topup.amount_cents)} for Strongroom"


def _send_alert(alert: BalanceAlert, addresses: list[str]) -> None:
    wallet = f"{settings.WEB_URL}{reverse('billing:wallet')}?account={alert.account.slug}"
    context = {"alert": alert, "wallet_url": wallet}
    subject = f"The wallet of {alert.account.slug} runs low"
    send_mail(subject, render_to_string("emails/low_balance.txt", context), None, addresses)


def _check_amounts(threshold_cents: int, amount_cents: int, monthly_limit_cents: int) -> None:
    bounds = {
        "threshold_cents": (threshold_cents, 0, AMOUNT_CENTS_MAX),
        "amount_cents": (amount_cents, AMOUNT_CENTS_MIN, AMOUNT_CENTS_MAX),
        "monthly_limit_cents": (monthly_limit_cents, amount_cents, MONTHLY_LIMIT_CENTS_MAX),
    }
    faults = [
        FieldError(
            pointer=f"/{name}", detail=f"From ${format_cents(low)} to ${format_cents(high)}."
        )
        for name, (value, low, high) in bounds.items()
        if not low <= value <= high
    ]
    if faults:
        raise InvalidInputError(errors=faults)
