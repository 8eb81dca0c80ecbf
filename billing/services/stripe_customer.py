"""Who an account is at Stripe."""

from __future__ import annotations

from billing.models import StripeCustomer
from billing.services.stripe_call import call_stripe
from billing.services.stripe_client import get_stripe
from marketplace.models import Account


def ensure_customer(account: Account) -> str:
    """The id of the customer at Stripe that stands for an account, made if there is none."""
    known = StripeCustomer.objects.filter(account=account).first()
    if known is not None:
        return known.customer_id
    key = f"customer:{account.pk}"
    # Without the address of whoever clicked: a retry by a teammate under the same key must
    # be the same request. Checkout asks the payer for one.
    customer_id = call_stripe(
        "customers.create",
        key,
        {"account_id": str(account.pk)},
        lambda: get_stripe().create_customer(account_id=account.pk, email="", idempotency_key=key),
    )
    StripeCustomer.objects.get_or_create(account=account, defaults={"customer_id": customer_id})
    return StripeCustomer.objects.get(account=account).customer_id
