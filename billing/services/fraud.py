"""Signals of fraud: each opens a case or adds to one, and holds what could get lost.

A signal is one observation with a key of its own; told twice it is one. It may freeze the
account, which then neither spends nor buys, and holds payouts to the creators concerned. Both
end when a person decides the case.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from billing.errors import CaseDecidedError, NothingToRefundError
from billing.models import (
    AccountFreeze,
    Dispute,
    PayoutHold,
    ReviewCase,
    ReviewSignal,
)
from billing.selectors import fraud as selectors
from billing.services import refund as refunds
from marketplace.core.errors import FieldError, ForbiddenError, InvalidInputError
from marketplace.core.limits import REASON_LENGTH_MAX
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit
from marketplace.services.freeze import set_frozen

logger = logging.getLogger(__name__)

SYSTEM_LABEL = "system:fraud"
Kind = ReviewSignal.Kind
Evidence = Mapping[str, str | int]
# Decisions by their name in a form, and the state that each leaves.
DECISIONS = {
    "clear": ReviewCase.State.CLEARED,
    "keep": ReviewCase.State.FROZEN,
    "refund": ReviewCase.State.REFUNDED,
}


def raise_signal(
    account_id: UUID,
    kind: Kind,
    key: str,
    evidence: Evidence,
    *,
    freezes: bool = False,
    holds: Iterable[UUID] = (),
) -> bool:
    """Note an observation about an account, once per key.

    Args:
        account_id: Whose case it is.
        kind: What was seen.
        key: What makes it this observation and no other; the same on each repeat.
        evidence: For the person who decides; no secrets.
        freezes: Whether the account stops at once.
        holds: Creators to whom nothing is paid out meanwhile.

    Returns:
        Whether it is new.
    """
    with transaction.atomic():
        # Who writes about an account takes turns, so that there is one open case.
        Account.objects.select_for_update(no_key=True).get(pk=account_id)
        if ReviewSignal.objects.filter(key=key).exists():
            return False
        case, is_new = ReviewCase.objects.get_or_create(
            account_id=account_id, state=ReviewCase.State.OPEN
        )
        ReviewSignal.objects.create(case=case, kind=kind, key=key, evidence=dict(evidence))
        for holder_id in set(holds):
            PayoutHold.objects.get_or_create(
                account_id=holder_id, case=case, released_at=None, defaults={"reason": kind}
            )
        if freezes:
            _freeze(case, key)
        audit.record(
            SYSTEM_LABEL,
            "case.open" if is_new else "case.add",
            case,
            payload={"signal": kind.value, "key": key},
        )
    logger.warning("fraud signal %s about account %s", key, account_id)
    return True


def lift_freeze(key: str) -> None:
    """End one reason for which an account is frozen; it acts again if it was the last."""
    with transaction.atomic():
        freeze = AccountFreeze.objects.filter(key=key, lifted_at=None).first()
        if freeze is not None:
            Account.objects.select_for_update(no_key=True).get(pk=freeze.account_id)
            _lift(AccountFreeze.objects.filter(pk=freeze.pk), freeze.account_id, SYSTEM_LABEL)


def close_won_case(case: ReviewCase) -> None:
    """Clear a case in which there is nothing but disputes that were won."""
    with transaction.atomic():
        Account.objects.select_for_update(no_key=True).get(pk=case.account_id)
        case.refresh_from_db()
        signals = list(case.signals.values_list("kind", "key"))
        disputes = {f"dispute:{dispute_id}" for dispute_id in _list_won(case.account_id)}
        is_only_won = all(kind == Kind.DISPUTE and key in disputes for kind, key in signals)
        if case.state == ReviewCase.State.OPEN and is_only_won:
            _close(case, ReviewCase.State.CLEARED, SYSTEM_LABEL, "Every dispute was won.")


def decide_case(actor: Actor, case: ReviewCase, *, decision: str, reason: str) -> ReviewCase:
    """Decide a case: `clear`, `keep` frozen, or `refund` what is unspent and keep frozen.

    A case that was not cleared can be decided anew.

    Raises:
        ForbiddenError: Only platform admins decide.
        InvalidInputError: No such decision, or no reason.
        CaseDecidedError: It was cleared.
    """
    if not actor.is_admin:
        raise ForbiddenError("Only platform admins decide cases.")
    reason = reason.strip()
    errors: list[FieldError] = []
    if decision not in DECISIONS:
        errors.append(FieldError(pointer="/decision", detail="clear, keep or refund."))
    if not 0 < len(reason) <= REASON_LENGTH_MAX:
        detail = f"A reason has 1 to {REASON_LENGTH_MAX} characters."
        errors.append(FieldError(pointer="/reason", detail=detail))
    if errors:
        raise InvalidInputError(errors=errors)
    with transaction.atomic():
        Account.objects.select_for_update(no_key=True).get(pk=case.account_id)
        case.refresh_from_db()
        if case.state == ReviewCase.State.CLEARED:
            raise CaseDecidedError
        _close(case, DECISIONS[decision], actor.label, reason)
    if decision == "refund":
        _refund(actor, case, reason)
    return case


def _refund(actor: Actor, case: ReviewCase, reason: str) -> None:
    try:
        refunds.refund_unspent(
            case.account,
            request_key=f"case:{case.pk}",
            label=actor.label,
            reason=reason,
        )
    except NothingToRefundError:
        logger.info("case %s: nothing was left to pay back", case.pk)


def _close(case: ReviewCase, state: str, label: str, reason: str) -> None:
    case.state, case.decided_by, case.reason = state, label, reason
    case.decided_at = Now()
    case.save(update_fields=["state", "decided_by", "decided_at", "reason"])
    case.refresh_from_db(fields=["decided_at"])
    if state == ReviewCase.State.CLEARED:
        _lift(AccountFreeze.objects.filter(case=case), case.account_id, label)
        PayoutHold.objects.filter(case=case, released_at=None).update(released_at=Now())
    else:
        _freeze(case, f"case:{case.pk}")
    audit.record(label, "case.decide", case, payload={"decision": state, "reason": reason})


def _freeze(case: ReviewCase, key: str) -> None:
    _, is_new = AccountFreeze.objects.get_or_create(
        key=key, defaults={"account_id": case.account_id, "case": case}
    )
    if is_new and set_frozen(case.account_id, is_frozen=True):
        # The account reads this; what was seen is for the platform alone.
        audit.record(SYSTEM_LABEL, "account.freeze", case.account, account_id=case.account_id)


def _lift(freezes: QuerySet[AccountFreeze], account_id: UUID, label: str) -> None:
    freezes.filter(lifted_at=None).update(lifted_at=Now())
    if AccountFreeze.objects.filter(account_id=account_id, lifted_at=None).exists():
        return
    if set_frozen(account_id, is_frozen=False):
        account = Account.objects.get(pk=account_id)
        audit.record(label, "account.unfreeze", account, account_id=account_id)


def _list_won(account_id: UUID) -> list[str]:
    rows = Dispute.objects.filter(account_id=account_id, state=Dispute.State.WON)
    return list(rows.values_list("dispute_id", flat=True))


def scan_for_fraud() -> int:
    """Look for what no single payment shows; returns how many signals are new."""
    count = 0
    for card, account_ids in selectors.list_shared_cards():
        for account_id in account_ids:
            count += raise_signal(
                account_id,
                Kind.SHARED_CARD,
                f"shared_card:{card}:{account_id}",
                {"card": card, "accounts": len(account_ids)},
                holds=[account_id],
            )
    for dealing in selectors.list_self_dealings():
        count += _raise_dealing(Kind.SELF_DEALING, dealing)
    for dealing in selectors.list_promo_cashings():
        count += _raise_dealing(Kind.PROMO_CASHING, dealing)
    return count


def _raise_dealing(kind: Kind, dealing: selectors.Dealing) -> bool:
    creator = Account.objects.get(pk=dealing.creator_id)
    return raise_signal(
        dealing.consumer_id,
        kind,
        f"{kind.value}:{dealing.consumer_id}:{dealing.creator_id}",
        {
            "creator": creator.slug,
            "shared": dealing.shares,
            "gross_nanos": dealing.gross_nanos,
        },
        holds=[dealing.creator_id, dealing.consumer_id],
    )
