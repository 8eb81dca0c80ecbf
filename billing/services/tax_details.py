"""Keep whom invoices are addressed to, and hand it on to Stripe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from django.db import transaction
from django.db.models import F

from billing.models import StripeCustomer, TaxDetails
from billing.services.stripe_client import get_stripe
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit

FIELDS = (
    *("name", "line1", "line2", "city", "postal_code", "state", "country"),
    *("tax_id_type", "tax_id"),
)


def save_tax_details(actor: Actor, account: Account, fields: Mapping[str, str]) -> TaxDetails:
    """Set the address and tax id of an account's invoices. The right `billing` was checked."""
    with transaction.atomic():
        details, is_new = TaxDetails.objects.select_for_update().get_or_create(
            account=account, defaults=dict(fields)
        )
        changed = [name for name in FIELDS if getattr(details, name) != fields[name]]
        if not changed and not is_new:
            return details
        for name in changed:
            setattr(details, name, fields[name])
        details.revision = details.revision + (0 if is_new else 1)
        details.save()
        # Which, and not to what: the log is kept for longer than an address.
        audit.record(
            actor.label,
            "account.tax_details",
            details,
            account_id=account.pk,
            payload={"changed": sorted(FIELDS if is_new else changed)},
        )
    return details


def send_tax_details(account: Account) -> bool:
    """Hand on what Stripe does not have yet, if the account is known there; whether it was.

    Raises:
        StripeUnavailableError: Try again later.
        StripeRefusedError: Stripe does not take the address or the tax id.
    """
    details = TaxDetails.objects.filter(account=account).first()
    customer = StripeCustomer.objects.filter(account=account).first()
    if details is None or customer is None or details.sent_revision == details.revision:
        return False
    fields = {name: getattr(details, name) for name in FIELDS}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    get_stripe().update_customer(
        customer.customer_id,
        name=details.name,
        address={name: fields[name] for name in FIELDS[1:7]},
        tax_id=(details.tax_id_type, details.tax_id) if details.tax_id else None,
        idempotency_key=f"tax:{account.pk}:{details.revision}:{digest[:16]}",
    )
    TaxDetails.objects.filter(pk=account.pk, sent_revision__lt=details.revision).update(
        sent_revision=details.revision
    )
    return True


def send_all_tax_details() -> int:
    """Hand on what was changed while Stripe did not answer; returns how many accounts."""
    waiting = TaxDetails.objects.filter(revision__gt=F("sent_revision"))
    known = waiting.filter(account__stripe_customer__isnull=False).select_related("account")
    return sum(send_tax_details(details.account) for details in known)
