"""Delete an account: after a time to think, in recorded steps that survive any kill.

A step is done by the package that knows what it means, see `marketplace.services.closing`; each
is safe to repeat, so a worker that dies in one is followed by another that does it again. Ledger,
receipts, invoices and the audit log stay; see docs/privacy.md.
"""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from django.db import transaction
from django.urls import reverse

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError, MarketplaceError
from marketplace.errors import AccountClosingError, DeletionBlockedError, DeletionStateError
from marketplace.models import Account, AccountDeletion, AccountDeletionStep, Notification
from marketplace.selectors.access import Actor
from marketplace.services import audit, closing
from marketplace.services.admin import check_reason, require_admin
from marketplace.services.closing import NotYet
from marketplace.services.notice import owe_notice
from marketplace.services.row_lock import hold_row
from marketplace.tasks import account_deletion as tasks

logger = logging.getLogger(__name__)

State = AccountDeletion.State
SYSTEM_LABEL = "system:deletion"
_LOCK_SPACE = 0x5352_4445
_DETAIL_LENGTH_MAX = 500


def request_deletion(
    *, actor: Actor, account: Account, confirm: str, credit: str, erases_requester: bool = False
) -> AccountDeletion:
    """Begin the time after which an account is deleted.

    Until then everything goes on, and any owner can cancel it; only new credit, new keys and new
    models are refused.

    Args:
        actor: Who wants it; the caller has checked the right `account`.
        account: Which.
        confirm: The account's name in addresses, typed as a proof of meaning it.
        credit: One of `AccountDeletion.Credit`.
        erases_requester: Whether the person wants to be forgotten with it.

    Raises:
        InvalidInputError: Another name, or no such choice; nothing was changed.
        AccountClosingError: Somebody was quicker.
        DeletionBlockedError: Something has to be settled first.
    """
    if confirm.strip() != account.slug:
        detail = f"Type {account.slug} to say that you mean it."
        raise InvalidInputError(errors=[{"pointer": "/confirm", "detail": detail}])
    if credit not in AccountDeletion.Credit.values:
        detail = f"One of {', '.join(AccountDeletion.Credit.values)}."
        raise InvalidInputError(errors=[{"pointer": "/credit", "detail": detail}])
    with transaction.atomic():
        # Two owners take turns.
        locked = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if locked.closes_at is not None:
            raise AccountClosingError
        obstacles = closing.list_obstacles(locked)
        if obstacles:
            raise DeletionBlockedError(
                f"{obstacles[0].reason} {obstacles[0].remedy}",
                obstacles=[one.code for one in obstacles],
            )
        locked.closes_at = utc_now() + limits.DELETION_GRACE
        deletion = AccountDeletion.objects.create(
            account=locked,
            requested_by=actor.user,
            credit=credit,
            erases_requester=erases_requester,
            execute_at=locked.closes_at,
        )
        locked.save(update_fields=["closes_at"])
        payload = {"execute_at": _wire(deletion), "credit": credit}
        audit.record(
            actor.label, "account.delete_request", locked, account_id=locked.pk, payload=payload
        )
        who = actor.user.email if actor.user is not None else ""
        context = {"account": locked, "deletion": deletion, "who": who}
        _tell("account_deletion", context, locked)
    account.closes_at = locked.closes_at
    return deletion


def cancel_deletion(*, actor: Actor, account: Account) -> None:
    """Keep the account after all.

    Args:
        actor: Who wants it; the caller has checked the right `account`.
        account: Which.

    Raises:
        DeletionStateError: It has begun, or there is none.
    """
    _cancel(actor, account, reason="")


def stop_deletion(*, actor: Actor, account: Account, reason: str) -> None:
    """Keep an account by decision of the platform.

    Raises:
        ForbiddenError: No platform admin.
        InvalidInputError: No reason.
        DeletionStateError: It has begun, or there is none.
    """
    require_admin(actor, "Only platform admins stop deletions.")
    _cancel(actor, account, reason=check_reason(reason))


def refuse_while_closing(account: Account) -> None:
    """Raise `AccountClosingError` for an account that will be deleted, or was."""
    if Account.objects.filter(pk=account.pk, closes_at__isnull=False).exists():
        raise AccountClosingError


def sweep() -> int:
    """Have workers look at all whose time has come; returns how many."""
    due = AccountDeletion.objects.filter(
        state__in=[State.PENDING, State.RUNNING], execute_at__lte=utc_now()
    )
    ids = list(due.order_by("execute_at").values_list("pk", flat=True))
    for deletion_id in ids:
        tasks.advance_account_deletion.delay(str(deletion_id))
    return len(ids)


def advance(*, deletion_id: UUID) -> None:
    """Do all that can be done now. Safe to repeat, also at once and after a kill in the middle."""
    with hold_row(_LOCK_SPACE, deletion_id) as is_ours:
        if is_ours and _begin(deletion_id):
            while _do_step(deletion_id):
                pass


def _cancel(actor: Actor, account: Account, *, reason: str) -> None:
    with transaction.atomic():
        locked = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        rows = AccountDeletion.objects.select_for_update(no_key=True)
        deletion = rows.filter(account=locked, state=State.PENDING).first()
        if deletion is None:
            raise DeletionStateError
        deletion.state, deletion.ended_at, deletion.waiting_for = State.CANCELED, utc_now(), []
        deletion.save(update_fields=["state", "ended_at", "waiting_for"])
        locked.closes_at = None
        locked.save(update_fields=["closes_at"])
        action = "account.delete_stop" if reason else "account.delete_cancel"
        payload = {"reason": reason} if reason else {}
        audit.record(actor.label, action, locked, account_id=locked.pk, payload=payload)
        # An admin of the platform is not named to the owners.
        who = "" if reason or actor.user is None else actor.user.email
        context = {"account": locked, "who": who, "reason": reason}
        _tell("account_deletion_canceled", context, locked)
    account.closes_at = None


def _tell(template: str, context: dict[str, Any], account: Account) -> None:
    path = reverse("marketplace:account-data", args=[account.slug])
    owe_notice(template, context, kind=Notification.Kind.ACCOUNT, path=path, account=account)


def _begin(deletion_id: UUID) -> bool:
    """Whether it is under way; begun now if its time has come and nothing stands in the way."""
    with transaction.atomic():
        # The account first, as who cancels: one of both comes first.
        found = AccountDeletion.objects.filter(pk=deletion_id).first()
        if found is None:
            return False
        Account.objects.select_for_update(no_key=True).get(pk=found.account_id)
        rows = AccountDeletion.objects.select_for_update(no_key=True, of=("self",))
        deletion = rows.select_related("account").get(pk=deletion_id)
        if deletion.state == State.RUNNING:
            return True
        if deletion.state != State.PENDING or deletion.execute_at > utc_now():
            return False
        obstacles = closing.list_obstacles(deletion.account)
        if obstacles:
            _wait(deletion, [f"{one.reason} {one.remedy}" for one in obstacles])
            return False
        deletion.state, deletion.waiting_for = State.RUNNING, []
        deletion.save(update_fields=["state", "waiting_for"])
        AccountDeletionStep.objects.bulk_create(
            AccountDeletionStep(deletion=deletion, position=position, name=name)
            for position, name in enumerate(closing.STEPS)
        )
        account = deletion.account
        audit.record(SYSTEM_LABEL, "account.delete_begin", account, account_id=account.pk)
        _tell("account_deletion_begun", {"account": account}, account)
    return True


def _wait(deletion: AccountDeletion, reasons: list[str]) -> None:
    """Note what is waited for; the owners get one mail when something new is in the way."""
    if deletion.waiting_for == reasons:
        return
    deletion.waiting_for = reasons
    deletion.save(update_fields=["waiting_for"])
    if deletion.state == State.PENDING:
        context = {"account": deletion.account, "reasons": reasons}
        _tell("account_deletion_waits", context, deletion.account)


def _do_step(deletion_id: UUID) -> bool:
    """Do the next step; false where it waits, or was the last."""
    deletion = AccountDeletion.objects.select_related("account", "requested_by").get(pk=deletion_id)
    step = deletion.steps.filter(finished_at=None).order_by("position").first()
    if deletion.state != State.RUNNING or step is None:
        return False
    try:
        # Outside of any transaction: what talks to Stripe or the key broker writes its rows first.
        detail = closing.find_step(step.name)(deletion)
    except NotYet as reason:
        _wait(deletion, [str(reason)])
        return False
    except MarketplaceError as error:
        logger.warning("deletion %s, %s: %s; tried again", deletion_id, step.name, error.detail)
        _wait(deletion, [error.detail])
        return False
    _finish_step(deletion, step, detail)
    return True


def _finish_step(deletion: AccountDeletion, step: AccountDeletionStep, detail: str) -> None:
    with transaction.atomic():
        step.detail, step.finished_at = detail[:_DETAIL_LENGTH_MAX], utc_now()
        step.save(update_fields=["detail", "finished_at"])
        if deletion.waiting_for:
            deletion.waiting_for = []
            deletion.save(update_fields=["waiting_for"])
        if not deletion.steps.filter(finished_at=None).exists():
            deletion.state, deletion.ended_at = State.DONE, utc_now()
            deletion.save(update_fields=["state", "ended_at"])
            account = deletion.account
            audit.record(SYSTEM_LABEL, "account.delete_end", account, account_id=account.pk)


def _wire(deletion: AccountDeletion) -> str:
    return deletion.execute_at.isoformat(timespec="seconds")
