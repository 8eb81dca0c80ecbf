"""What happens on a platform around its backup; run as a process of its own by test_backup.py."""

from __future__ import annotations

import os
import sys

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "marketplace.settings"
django.setup()

from django.db import transaction  # noqa: E402

from billing.models import LedgerAccount, Topup  # noqa: E402
from marketplace.models import Account  # noqa: E402
from marketplace.selectors.access import Actor  # noqa: E402
from marketplace.services import audit  # noqa: E402
from tests.billing.reconciliation.reconciling import buy, spoil  # noqa: E402
from tests.factories import AccountFactory  # noqa: E402


class Orders:
    """The part of the stand-in's process that `buy` needs."""

    def order(self, path: str, /, **body: object) -> object:
        import requests

        url = os.environ["STRONGROOM_STRIPE_API_BASE"]
        answer = requests.post(f"{url}/_test/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()


def _buy(slug: str, cents: int) -> None:
    account = Account.objects.filter(slug=slug).first() or AccountFactory(slug=slug)
    row = buy(Orders(), account, cents)  # type: ignore[arg-type]
    with transaction.atomic():
        audit.record(Actor().label, "test.buy", account, payload={"topup": str(row.pk)})


def _tell() -> None:
    wallets = LedgerAccount.objects.filter(kind=LedgerAccount.Kind.WALLET)
    print(sum(wallet.posted_nanos for wallet in wallets), Topup.objects.count())


def _lose_a_booking() -> None:
    spoil(
        "DELETE FROM billing_transferentry WHERE id = (SELECT max(id) FROM billing_transferentry)"
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["buy", slug, cents]:
            _buy(slug, int(cents))
        case ["tell"]:
            _tell()
        case ["lose-a-booking"]:
            _lose_a_booking()
        case other:
            sys.exit(f"unknown: {other}")
