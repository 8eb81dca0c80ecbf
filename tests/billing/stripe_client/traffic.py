"""Traffic to the stand-in that is held to Stripe's description, and what all tests do."""

from __future__ import annotations

import collections
import json
from urllib.parse import urlsplit
from uuid import UUID

import requests
import stripe

from billing.stripe.client import CheckoutSession, StripeGateway
from fakestripe.contract import Contract
from fakestripe.errors import ApiError

ACCOUNT_ID = UUID("01930000-0000-7000-8000-00000000000a")
TOPUP_ID = UUID("01930000-0000-7000-8000-000000000001")
OTHER_TOPUP_ID = UUID("01930000-0000-7000-8000-000000000002")


class ContractClient(stripe.HTTPClient):
    """Lets the SDK's traffic pass only if both directions keep Stripe's description."""

    name = "contract"

    def __init__(self, contract: Contract) -> None:
        super().__init__()
        self._inner = stripe.RequestsClient(timeout=10)
        self.contract = contract
        self.seen: collections.Counter[tuple[str, str]] = collections.Counter()
        self.violations: list[str] = []
        # One request of each operation: the address and what it carried.
        self.examples: dict[tuple[str, str], tuple[str, str]] = {}
        self.tamper = lambda body: body

    def request(self, method, url, headers, post_data=None):
        address = urlsplit(url)
        found = self.contract.find(method.upper(), address.path)
        assert found is not None, f"{method} {address.path} is not in Stripe's API"
        operation, _ids = found
        text = post_data if method == "post" else address.query
        try:
            self.contract.parse_input(operation, text or "")
        except ApiError as error:
            self.violations.append(f"request {operation.path}: {error}")
        content, status, answered = self._inner.request(method, url, headers, post_data)
        content = self.tamper(content)
        faults = self.contract.answer_faults(operation, status, json.loads(content))
        self.violations += [f"answer {operation.path}: {fault}" for fault in faults]
        self.seen[operation.method, operation.path] += 1
        self.examples[operation.method, operation.path] = (address.path, text or "")
        return content, status, answered

    def close(self) -> None:
        self._inner.close()


def open_page(
    gateway: StripeGateway, customer_id: str, topup_id: UUID = TOPUP_ID, **changes
) -> CheckoutSession:
    params = {
        "topup_id": topup_id,
        "customer_id": customer_id,
        "amount_cents": 2_500,
        "success_url": "https://shop.example.com/topups/1?session_id={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://shop.example.com/topups/1",
        "idempotency_key": f"topup:{topup_id}",
    }
    return gateway.create_checkout_session(**(params | changes))


def pay(session: CheckoutSession, card_number: str = "4242 4242 4242 4242") -> requests.Response:
    return requests.post(
        f"{session.url}/pay",
        data={"card_number": card_number},
        allow_redirects=False,
        timeout=10,
    )
