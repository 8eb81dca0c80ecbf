"""Whom invoices of a customer are addressed to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from billing.stripe.calls import PAGE_SIZE, Calls, our_errors, read_all

if TYPE_CHECKING:  # Types only; at run time the SDK wants plain dictionaries.
    from stripe.params import CustomerUpdateParams


class CustomerCalls(Calls):
    """Keep what Stripe prints on invoices up to date."""

    def update_customer(
        self,
        customer_id: str,
        *,
        name: str,
        address: Mapping[str, str],
        tax_id: tuple[str, str] | None,
        idempotency_key: str,
    ) -> None:
        """Set name and address, and make this the only tax id. Safe to repeat.

        Args:
            customer_id: Whose.
            name: A person's or company's.
            address: line1, line2, city, postal_code, state and country; empty where unknown.
            tax_id: Its kind, as Stripe calls it, and the number.
            idempotency_key: At most 240 characters, the same for every try.
        """
        params: CustomerUpdateParams = {"name": name, "address": _address(address)}
        with our_errors():
            self._v1.customers.update(
                customer_id, params, {"idempotency_key": f"{idempotency_key}:address"}
            )
            rows = self._v1.customers.tax_ids.list(customer_id, {"limit": PAGE_SIZE})
            known = list(read_all(rows))
            if tax_id is not None and tax_id not in [(row.type, row.value) for row in known]:
                kind: Any = tax_id[0]
                self._v1.customers.tax_ids.create(
                    customer_id,
                    {"type": kind, "value": tax_id[1]},
                    {"idempotency_key": f"{idempotency_key}:tax-id"},
                )
            # Last: there is never none where there should be one.
            for row in known:
                if (row.type, row.value) != tax_id:
                    self._v1.customers.tax_ids.delete(customer_id, row.id)


def _address(address: Mapping[str, str]) -> Any:
    names = ("line1", "line2", "city", "postal_code", "state", "country")
    return {name: address.get(name, "") for name in names}
