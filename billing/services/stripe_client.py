"""The one client to Stripe that this process uses."""

from __future__ import annotations

from functools import cache

from django.conf import settings

from billing.stripe.client import StripeConfig, StripeGateway


@cache
def get_stripe() -> StripeGateway:
    """The client, as the settings say."""
    return StripeGateway(
        StripeConfig(
            secret_key=settings.STRIPE_SECRET_KEY,
            webhook_secret=settings.STRIPE_WEBHOOK_SECRET,
            api_base=settings.STRIPE_API_BASE or None,
        )
    )
