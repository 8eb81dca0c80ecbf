"""Read an account's saved cards and its orders about a low wallet."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet

from billing.models import AutoTopup, BalanceAlert, SavedCard
from marketplace.core.errors import NotFoundError
from marketplace.models import Account
from marketplace.selectors.access import Actor, list_accounts, require_right


def list_cards(account: Account) -> QuerySet[SavedCard]:
    """The cards of an account, the default one first."""
    cards = SavedCard.objects.filter(account=account, removed_at=None)
    return cards.order_by("-is_default", "created_at")


def find_default_card(account_id: UUID) -> SavedCard | None:
    """The card that pays by itself."""
    cards = SavedCard.objects.filter(account_id=account_id, removed_at=None, is_default=True)
    return cards.first()


def access_card(actor: Actor, card_id: UUID, right: str = "read") -> SavedCard:
    """A card of one of the actor's accounts, on which it has the right.

    Raises:
        NotFoundError: No such card, or removed.
        ForbiddenError: The actor lacks the right.
    """
    card = (
        SavedCard.objects.select_related("account")
        .filter(pk=card_id, removed_at=None, account__in=list_accounts(actor))
        .first()
    )
    if card is None:
        raise NotFoundError("No such card.")
    require_right(actor, card.account, right)
    return card


def find_auto_topup(account: Account) -> AutoTopup | None:
    """The account's order to buy credit by itself; None if there never was one."""
    return AutoTopup.objects.filter(account=account).first()


def find_balance_alert(account: Account) -> BalanceAlert | None:
    """When the account is told of a low wallet; None before its first credit."""
    return BalanceAlert.objects.filter(account=account).first()
