from __future__ import annotations

from celery import shared_task


@shared_task(name="billing.tell_prices")
def tell_prices() -> None:
    """Tell the catalogue what models cost now."""
    from billing.services import catalogue_facts

    catalogue_facts.tell_prices()


@shared_task(name="billing.tell_use")
def tell_use() -> None:
    """Tell the catalogue how much models are used."""
    from billing.services import catalogue_facts

    catalogue_facts.tell_use()
