"""Make creators known to Stripe, and keep our record of what Stripe wants of them.

Events and the poll only ask Stripe again; what an event says is not believed.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from billing.errors import StripeRefusedError
from billing.models import ConnectAccount
from billing.services.poll import look_after
from billing.services.stripe_call import call_stripe
from billing.services.stripe_client import get_stripe
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import new_id
from marketplace.models import Account, Membership
from marketplace.selectors.access import Actor
from marketplace.services import audit

logger = logging.getLogger(__name__)

# Where Stripe pays out what a platform transfers to it; Stripe has the last word.
COUNTRIES = {
    "AT": "Austria",
    "AU": "Australia",
    "BE": "Belgium",
    "BG": "Bulgaria",
    "CA": "Canada",
    "CH": "Switzerland",
    "CY": "Cyprus",
    "CZ": "Czechia",
    "DE": "Germany",
    "DK": "Denmark",
    "EE": "Estonia",
    "ES": "Spain",
    "FI": "Finland",
    "FR": "France",
    "GB": "United Kingdom",
    "GR": "Greece",
    "HK": "Hong Kong",
    "HR": "Croatia",
    "HU": "Hungary",
    "IE": "Ireland",
    "IT": "Italy",
    "JP": "Japan",
    "LT": "Lithuania",
    "LU": "Luxembourg",
    "LV": "Latvia",
    "MT": "Malta",
    "MX": "Mexico",
    "NL": "Netherlands",
    "NO": "Norway",
    "NZ": "New Zealand",
    "PL": "Poland",
    "PT": "Portugal",
    "RO": "Romania",
    "SE": "Sweden",
    "SG": "Singapore",
    "SI": "Slovenia",
    "SK": "Slovakia",
    "US": "United States",
}
# An event tells of a change within seconds; the poll is for those that got lost.
POLL_AGE_MIN = timedelta(hours=6)
POLL_BATCH_SIZE = 100


def start_onboarding(actor: Actor, creator: Account, *, country: str) -> str:
    """The address at Stripe where the creator says who it is and where its bank is.

    The first call makes the connected account; later ones go on where the creator left off,
    and the country stays.

    Raises:
        InvalidInputError: A country to which nothing can be paid.
        StripeUnavailableError: Try again later.
        StripeRefusedError: Trying again is no use with this country.
    """
    row = _ensure_row(actor, creator, country)
    if row.connect_account_id is None:
        row = _create_at_stripe(row)
    assert row.connect_account_id is not None, "just made"
    connect_account_id = row.connect_account_id
    page = f"{settings.WEB_URL}/dashboard/payouts"
    urls = {
        "refresh_url": f"{page}?account={creator.slug}&link=expired",
        "return_url": f"{page}/return?account={creator.slug}",
    }
    # Each address works once, so that each click asks for another.
    key = f"connect-link:{new_id()}"
    return call_stripe(
        "v2.core.account_links.create",
        key,
        {"connect_account_id": connect_account_id, **urls},
        lambda: get_stripe().create_account_link(
            connect_account_id=connect_account_id, idempotency_key=key, **urls
        ),
    )


def refresh_account(row: ConnectAccount) -> ConnectAccount:
    """Ask Stripe what it knows of a connected account, and write that down."""
    if row.connect_account_id is None:
        return row
    found = get_stripe().retrieve_creator_account(row.connect_account_id)
    row.country = found.country or row.country
    row.transfers_status = _status(found.transfers_status)
    row.requirements = sorted(found.requirements)
    row.checked_at = timezone.now()
    row.save(update_fields=["country", "transfers_status", "requirements", "checked_at"])
    return row


def refresh_by_event(connect_account_id: str) -> bool:
    """What an event about a connected account asks for; False for one that is not ours."""
    row = ConnectAccount.objects.filter(connect_account_id=connect_account_id).first()
    if row is None:
        return False
    refresh_account(row)
    return True


def poll_connect_accounts() -> int:
    """Refresh the records that were not looked at for long; returns how many."""
    waiting = ConnectAccount.objects.exclude(connect_account_id=None).exclude(
        checked_at__gt=timezone.now() - POLL_AGE_MIN
    )
    return look_after(waiting, refresh_account, size_max=POLL_BATCH_SIZE, what="connected account")


def _ensure_row(actor: Actor, creator: Account, country: str) -> ConnectAccount:
    with transaction.atomic():
        # Two clicks at once make one row.
        Account.objects.select_for_update(no_key=True).get(pk=creator.pk)
        row = ConnectAccount.objects.filter(creator=creator).first()
        if row is not None and row.connect_account_id is not None:
            return row
        if country not in COUNTRIES:
            detail = "Choose a country to which payouts can be made."
            raise InvalidInputError(errors=[{"pointer": "/country", "detail": detail}])
        if row is None:
            row = ConnectAccount(creator=creator, email=_find_email(creator), created_by=actor.user)
        elif row.country != country:
            # Another request than the one before, which was refused or not answered.
            row.attempt += 1
        row.country = country
        row.save()
        audit.record(
            actor.label,
            "connect.start",
            row,
            account_id=creator.pk,
            payload={"country": country},
        )
    return row


def _find_email(creator: Account) -> str:
    """The oldest owner's address: whoever clicks, a retry is the same request."""
    owners = Membership.objects.filter(account=creator, role=Membership.Role.OWNER)
    found = owners.order_by("pk").values_list("user__email", flat=True).first()
    return found or ""


def _create_at_stripe(row: ConnectAccount) -> ConnectAccount:
    key = f"connect:{row.creator_id}:{row.attempt}"
    params = {"account_id": str(row.creator_id), "email": row.email, "country": row.country}
    try:
        made = call_stripe(
            "v2.core.accounts.create",
            key,
            {**params},
            lambda: get_stripe().create_creator_account(
                account_id=row.creator_id,
                email=row.email,
                country=row.country,
                display_name=row.creator.slug,
                idempotency_key=key,
            ),
        )
    except StripeRefusedError:
        ConnectAccount.objects.filter(pk=row.pk, attempt=row.attempt).update(
            attempt=F("attempt") + 1
        )
        raise
    row.connect_account_id = made.id
    row.transfers_status = _status(made.transfers_status)
    row.requirements = sorted(made.requirements)
    row.checked_at = timezone.now()
    row.save()
    return row


def _status(text: str | None) -> str:
    """A status of Stripe's that we know; what is unknown pays nobody."""
    known = {one.value for one in ConnectAccount.Transfers}
    return text if text in known else ConnectAccount.Transfers.RESTRICTED
