"""Names that look like others."""

from __future__ import annotations

import pytest

from marketplace.core.confusable import skeleton
from marketplace.core.reserved import RESERVED_SLUGS
from marketplace.errors import NameConfusableError, NameReservedError, NameTakenError
from marketplace.models import Account
from marketplace.models.account import Skeleton
from marketplace.services import account as accounts
from tests.factories import PASSWORD, AccountFactory

ALIKE = [
    ("paypal", "paypa1"),
    ("paypal", "paypai"),
    ("paypal", "pay-pal"),
    ("google", "g00gle"),
    ("modern-ai", "modem-ai"),
    ("wave", "vvave"),
    ("sony", "5ony"),
    ("ibm", "1bm"),
]


def sign_up(slug: str):
    return accounts.sign_up(email=f"{slug}@example.org", password=PASSWORD, slug=slug)


@pytest.mark.parametrize(("taken", "wanted"), [*ALIKE, *(pair[::-1] for pair in ALIKE)])
def test_a_look_alike_is_refused(db, taken, wanted):
    AccountFactory(slug=taken)
    with pytest.raises(NameConfusableError):
        sign_up(wanted)

    assert Account.objects.count() == 1


def test_a_look_alike_of_a_suspended_account_is_refused(db, platform_admin):
    AccountFactory(slug="paypal", suspended_at=platform_admin.created_at)
    with pytest.raises(NameConfusableError):
        accounts.create_account(user=platform_admin, slug="paypa1", name="Pay")


@pytest.mark.parametrize("slug", ["paypals", "papal", "paypa", "pay2pal"])
def test_what_only_resembles_is_taken(db, slug):
    AccountFactory(slug="paypal")
    sign_up(slug)

    assert Account.objects.count() == 2


def test_the_same_name_is_called_taken(db):
    AccountFactory(slug="paypal")
    with pytest.raises(NameTakenError):
        sign_up("paypal")


@pytest.mark.parametrize("slug", ["adm1n", "str0ngroom", "sup-port", "0fficial"])
def test_look_alikes_of_reserved_names_are_reserved(db, slug):
    with pytest.raises(NameReservedError):
        sign_up(slug)


@pytest.mark.parametrize(
    "slug", ["p\u0430ypal", "\uff50aypal", "paypal\u200b", "PayPal", "pay_pal", "🦊"]
)
def test_letters_of_other_alphabets_are_no_names(db, slug):
    with pytest.raises(accounts.InvalidInputError):
        sign_up(slug)


def test_database_and_code_agree_on_what_looks_alike(db):
    slugs = {*RESERVED_SLUGS, *(one for pair in ALIKE for one in pair), "r-n-v-v", "corn-vvv0l1i5"}
    for slug in slugs:
        AccountFactory(slug=slug)

    looks = Account.objects.annotate(look=Skeleton("slug")).values_list("slug", "look")
    assert {slug: skeleton(slug) for slug in slugs} == dict(looks)


def test_the_form_says_why(client, db):
    AccountFactory(slug="paypal")
    response = client.post(
        "/sign-up", {"email": "new@example.org", "password": PASSWORD, "slug": "paypa1"}
    )

    assert response.status_code == 422
    assert "looks like one that is taken" in response.content.decode()
