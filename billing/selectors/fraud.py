"""Read what looks like fraud: cases, and who shares a card with whom."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection
from django.db.models import Count, QuerySet
from django.utils import timezone

from billing.models import (
    PaymentDecline,
    ReviewCase,
    SavedCard,
    Topup,
    Transfer,
)
from marketplace.core.errors import NotFoundError
from marketplace.core.money import NANOS_PER_DOLLAR
from marketplace.models import Membership
from marketplace.selectors.access import Actor

# A person who mistypes gives up after a few; a script that tries stolen numbers does not.
DECLINES_PER_HOUR_MAX = 5
DECLINE_WINDOW = timedelta(hours=1)

# A family or a company's departments share a card; a ring of made-up accounts has more.
ACCOUNTS_PER_CARD_MAX = 3
# Below, neither a thief gains nor a person should spend the time to look.
SELF_DEALING_NANOS_MIN = 10 * NANOS_PER_DOLLAR
# Of what an account with promotional credit spent, so much with one creator is "mainly".
PROMO_SHARE_PERCENT = 80


@dataclass(frozen=True, slots=True)
class Dealing:
    """A consumer that bought from a creator with whom it shares something."""

    consumer_id: UUID
    creator_id: UUID
    gross_nanos: int
    shares: str


def access_case(actor: Actor, case_id: UUID) -> ReviewCase:
    """A case, for platform admins; for everybody else there is none.

    Raises:
        NotFoundError: No admin, or no such case.
    """
    case = ReviewCase.objects.select_related("account").filter(pk=case_id).first()
    if case is None or not actor.is_admin:
        raise NotFoundError("No such case.")
    return case


def list_cases(actor: Actor, *, is_open: bool) -> QuerySet[ReviewCase]:
    """Cases with the number of their signals: the open ones oldest first, others newest first.

    Raises:
        NotFoundError: No platform admin asks.
    """
    if not actor.is_admin:
        raise NotFoundError
    cases = ReviewCase.objects.select_related("account").annotate(signal_count=Count("signals"))
    if is_open:
        return cases.filter(state=ReviewCase.State.OPEN).order_by("opened_at")
    return cases.exclude(state=ReviewCase.State.OPEN).order_by("-decided_at")


def find_pause_end(account_id: UUID, now: datetime | None = None) -> datetime | None:
    """Until when an account buys no credit, because too many of its payments were declined."""
    now = now or timezone.now()
    latest = list(
        PaymentDecline.objects.filter(account_id=account_id)
        .order_by("-created_at")
        .values_list("created_at", flat=True)[:DECLINES_PER_HOUR_MAX]
    )
    if len(latest) < DECLINES_PER_HOUR_MAX or latest[0] - latest[-1] > DECLINE_WINDOW:
        return None
    ends_at = latest[0] + DECLINE_WINDOW
    return ends_at if ends_at > now else None


def list_fingerprints(account_id: UUID) -> set[str]:
    """The cards that an account paid with or saved, as Stripe tells them apart."""
    paid = Topup.objects.filter(account_id=account_id).exclude(card_fingerprint="")
    saved = SavedCard.objects.filter(account_id=account_id).exclude(fingerprint="")
    return {
        *paid.values_list("card_fingerprint", flat=True),
        *saved.values_list("fingerprint", flat=True),
    }


def list_holders(fingerprints: set[str]) -> set[UUID]:
    """The accounts that paid with one of these cards or saved it."""
    paid = Topup.objects.filter(card_fingerprint__in=fingerprints)
    saved = SavedCard.objects.filter(fingerprint__in=fingerprints)
    return {
        *paid.values_list("account_id", flat=True),
        *saved.values_list("account_id", flat=True),
    }


def list_related(account_id: UUID) -> set[UUID]:
    """An account itself, and those that share a card or a member with it."""
    people = Membership.objects.filter(account_id=account_id).values("user_id")
    by_people = Membership.objects.filter(user_id__in=people).values_list("account_id", flat=True)
    return {account_id, *list_holders(list_fingerprints(account_id)), *by_people}


_CARDS = """
    SELECT DISTINCT account_id, fingerprint FROM (
        SELECT account_id, card_fingerprint AS fingerprint FROM billing_topup
            WHERE card_fingerprint <> ''
        UNION ALL SELECT account_id, fingerprint FROM billing_savedcard WHERE fingerprint <> ''
    ) c
"""


def list_shared_cards() -> list[tuple[str, list[UUID]]]:
    """Cards on more accounts than one card should be on, with those accounts."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT fingerprint, array_agg(account_id) FROM ({_CARDS}) c
                GROUP BY 1 HAVING count(*) > %s""",  # noqa: S608 - of a constant
            [ACCOUNTS_PER_CARD_MAX],
        )
        return [(str(card), list(accounts)) for card, accounts in cursor.fetchall()]


def list_self_dealings() -> list[Dealing]:
    """Consumers that bought for a sum worth a look from a creator with the same card.

    An account that buys its own models with bought credit is both at once.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""WITH card AS MATERIALIZED ({_CARDS}), pair AS (
                    SELECT DISTINCT a.account_id AS consumer_id, b.account_id AS creator_id
                    FROM card a JOIN card b USING (fingerprint)
                    JOIN marketplace_aimodel m ON m.account_id = b.account_id
                )
                SELECT p.consumer_id, p.creator_id, s.gross_nanos FROM pair p
                CROSS JOIN LATERAL (
                    SELECT coalesce(sum(u.gross_nanos), 0)::bigint AS gross_nanos
                    FROM billing_usageevent u
                    WHERE u.account_id = p.consumer_id AND u.creator_id = p.creator_id
                ) s WHERE s.gross_nanos >= %s""",  # noqa: S608 - of a constant
            [SELF_DEALING_NANOS_MIN],
        )
        return [
            Dealing(consumer_id, creator_id, nanos, shares="card")
            for consumer_id, creator_id, nanos in cursor.fetchall()
        ]


def list_promo_cashings() -> list[Dealing]:
    """Accounts with promotional credit that spent mainly with one creator related to them."""
    found = []
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH promoted AS (
                   SELECT DISTINCT a.holder_id AS account_id FROM billing_transfer t
                   JOIN billing_transferentry e ON e.transfer_id = t.id AND e.amount_nanos > 0
                   JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
                   WHERE t.kind = %s AND a.kind = 'wallet'
               ), spent AS (
                   SELECT u.account_id, u.creator_id, sum(u.gross_nanos)::bigint AS gross_nanos
                   FROM billing_usageevent u JOIN promoted p ON p.account_id = u.account_id
                   GROUP BY 1, 2
               ), total AS (
                   SELECT account_id, sum(gross_nanos) AS gross_nanos FROM spent GROUP BY 1
               )
               SELECT s.account_id, s.creator_id, s.gross_nanos FROM spent s
               JOIN total t ON t.account_id = s.account_id
               WHERE s.gross_nanos > 0 AND s.gross_nanos * 100 >= t.gross_nanos * %s""",
            [Transfer.Kind.PROMO.value, PROMO_SHARE_PERCENT],
        )
        rows = cursor.fetchall()
    for consumer_id, creator_id, gross_nanos in rows:
        if shares := _find_link(consumer_id, creator_id):
            found.append(Dealing(consumer_id, creator_id, gross_nanos, shares))
    return found


def _find_link(consumer_id: UUID, creator_id: UUID) -> str:
    """What two accounts have in common: themselves, a card, a member; empty if nothing."""
    if consumer_id == creator_id:
        return "account"
    if list_fingerprints(consumer_id) & list_fingerprints(creator_id):
        return "card"
    people = Membership.objects.filter(account_id=consumer_id).values("user_id")
    is_member = Membership.objects.filter(account_id=creator_id, user_id__in=people).exists()
    return "member" if is_member else ""
