"""Name, address and tax id of a customer, by the real SDK against the stand-in."""

from __future__ import annotations

import pytest

from billing.errors import StripeRefusedError

ADDRESS = {"line1": "1 Main St", "city": "Springfield", "postal_code": "12345", "country": "US"}


def update(gateway, customer_id: str, key: str, **changes) -> None:
    values = {"name": "Acme Inc", "address": ADDRESS, "tax_id": ("us_ein", "12-3456789")}
    gateway.update_customer(customer_id, **values | changes, idempotency_key=key)


def known(fake) -> list[str]:
    found = fake.state()["objects"].get("tax_id", [])
    return [one["value"] for one in found if not one.get("deleted")]


def test_a_customer_has_the_name_and_address_that_was_set_last(gateway, fake, customer_id):
    update(gateway, customer_id, "1")
    update(gateway, customer_id, "2", address=ADDRESS | {"city": "Shelbyville"})

    (customer,) = fake.state()["objects"]["customer"]
    assert (customer["name"], customer["address"]["city"]) == ("Acme Inc", "Shelbyville")
    assert customer["address"]["line2"] is None


def test_a_customer_has_one_tax_id_or_none(gateway, fake, customer_id):
    update(gateway, customer_id, "1")
    update(gateway, customer_id, "2")
    assert known(fake) == ["12-3456789"]

    update(gateway, customer_id, "3", tax_id=("eu_vat", "DE123456789"))
    assert known(fake) == ["DE123456789"]
    update(gateway, customer_id, "4", tax_id=None)
    assert known(fake) == []


def test_a_customer_that_stripe_does_not_know_is_refused(gateway):
    with pytest.raises(StripeRefusedError):
        update(gateway, "cus_unknown", "1")
