"""Creators' accounts at Stripe, and transfers to them. Amounts in cents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import stripe

from billing.stripe.calls import (
    CURRENCY,
    PAGE_SIZE,
    Calls,
    Metadata,
    at,
    id_of,
    our_errors,
    period,
    read_all,
    texts,
)

if TYPE_CHECKING:  # The SDK loads its second API on first use, and so do we.
    from stripe.params import TransferListParams
    from stripe.v2.core import Account

# What an answer leaves out unless it is asked for.
_INCLUDE: Any = ["configuration.recipient", "identity", "requirements"]


@dataclass(frozen=True, slots=True)
class ConnectAccount:
    """A creator's account at Stripe.

    Attributes:
        id: `acct_...`.
        country: Two letters, upper case.
        transfers_status: active, pending, restricted or unsupported; we may transfer to it
            only while it is active.
        requirements: What Stripe still asks its owner for, in Stripe's words.
        metadata: `account_id` is our account.
    """

    id: str
    country: str
    transfers_status: str
    requirements: tuple[str, ...]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ConnectTransfer:
    """Money moved from our balance to a creator's."""

    id: str
    amount: int
    amount_reversed: int
    destination: str | None
    transfer_group: str | None
    metadata: Mapping[str, str]
    balance_transaction_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TransferReversal:
    """Part of a transfer, taken back."""

    id: str
    transfer_id: str | None
    amount: int
    metadata: Mapping[str, str]
    balance_transaction_id: str | None
    created_at: datetime


class ConnectCalls(Calls):
    """Open accounts for creators and pay them."""

    def create_creator_account(
        self,
        *,
        account_id: UUID,
        email: str,
        country: str,
        display_name: str,
        idempotency_key: str,
    ) -> ConnectAccount:
        """Open an account that can receive transfers once its owner has been onboarded.

        The platform collects the fees and bears the losses, which is the one form in which
        Stripe lets a platform charge on its own and transfer later.

        Args:
            account_id: Our account, written into the metadata.
            email: Where Stripe writes to.
            country: Two letters.
            display_name: What Stripe's pages call the account.
            idempotency_key: The same for every try; API v2 keeps it for 30 days, and does work
                again that failed.
        """
        with our_errors():
            account = self._v2.core.accounts.create(
                {
                    "contact_email": email,
                    "display_name": display_name,
                    "dashboard": "express",
                    "identity": {"country": country.lower()},
                    "configuration": {
                        "recipient": {
                            "capabilities": {
                                "stripe_balance": {"stripe_transfers": {"requested": True}}
                            }
                        }
                    },
                    "defaults": {
                        "responsibilities": {
                            "fees_collector": "application",
                            "losses_collector": "application",
                        }
                    },
                    "metadata": {"account_id": str(account_id)},
                    "include": _INCLUDE,
                },
                {"idempotency_key": idempotency_key},
            )
        return _account(account)

    def retrieve_creator_account(self, connect_account_id: str) -> ConnectAccount:
        """An account as it is now."""
        with our_errors():
            account = self._v2.core.accounts.retrieve(connect_account_id, {"include": _INCLUDE})
        return _account(account)

    def create_account_link(
        self,
        *,
        connect_account_id: str,
        refresh_url: str,
        return_url: str,
        idempotency_key: str,
    ) -> str:
        """The address of a page where a creator gives Stripe what it asks for.

        It can be used once and for some minutes; whoever comes too late is sent to
        `refresh_url`, which should make a new one (with a new key) and lead there.
        """
        with our_errors():
            link = self._v2.core.account_links.create(
                {
                    "account": connect_account_id,
                    "use_case": {
                        "type": "account_onboarding",
                        "account_onboarding": {
                            "refresh_url": refresh_url,
                            "return_url": return_url,
                        },
                    },
                },
                {"idempotency_key": idempotency_key},
            )
        return link.url

    def create_transfer(
        self,
        *,
        amount_cents: int,
        destination: str,
        transfer_group: str,
        metadata: Metadata,
        idempotency_key: str,
    ) -> ConnectTransfer:
        """Move money from our available balance to a creator's account.

        Raises:
            StripeRefusedError: With `params["stripe_code"]` balance_insufficient when we do not
                have so much available, or insufficient_capabilities_for_transfer when the
                account may not receive any.
        """
        with our_errors():
            transfer = self._v1.transfers.create(
                params={
                    "amount": amount_cents,
                    "currency": CURRENCY,
                    "destination": destination,
                    "transfer_group": transfer_group,
                    "metadata": dict(metadata),
                },
                options={"idempotency_key": idempotency_key},
            )
        return _transfer(transfer)

    def retrieve_transfer(self, transfer_id: str) -> ConnectTransfer:
        """A transfer as it is now."""
        with our_errors():
            return _transfer(self._v1.transfers.retrieve(transfer_id))

    def list_transfers(
        self,
        *,
        created_from: datetime,
        created_until: datetime,
        transfer_group: str | None = None,
    ) -> list[ConnectTransfer]:
        """Every transfer of a period, newest first; the end is not part of it."""
        params: TransferListParams = {
            "created": period(created_from, created_until),
            "limit": PAGE_SIZE,
        }
        if transfer_group is not None:
            params["transfer_group"] = transfer_group
        with our_errors():
            rows = self._v1.transfers.list(params=params)
            return [_transfer(row) for row in read_all(rows)]

    def reverse_transfer(
        self,
        *,
        transfer_id: str,
        amount_cents: int,
        metadata: Metadata,
        idempotency_key: str,
    ) -> TransferReversal:
        """Take part of a transfer back.

        Raises:
            StripeRefusedError: More than is left of the transfer, or (`stripe_code`
                balance_insufficient) more than the creator's account has.
        """
        with our_errors():
            reversal = self._v1.transfers.reversals.create(
                transfer_id,
                params={"amount": amount_cents, "metadata": dict(metadata)},
                options={"idempotency_key": idempotency_key},
            )
        return _reversal(reversal)

    def list_reversals(self, transfer_id: str) -> list[TransferReversal]:
        """Every reversal of a transfer, newest first."""
        with our_errors():
            rows = self._v1.transfers.reversals.list(transfer_id, params={"limit": PAGE_SIZE})
            return [_reversal(row) for row in read_all(rows)]


def _account(account: Account) -> ConnectAccount:
    # Members that were not sent do not exist on the SDK's objects; a dictionary says so.
    body: dict[str, Any] = account.to_dict()
    recipient = (body.get("configuration") or {}).get("recipient") or {}
    capabilities = (recipient.get("capabilities") or {}).get("stripe_balance") or {}
    transfers = capabilities.get("stripe_transfers") or {}
    entries = (body.get("requirements") or {}).get("entries") or []
    return ConnectAccount(
        id=body["id"],
        country=((body.get("identity") or {}).get("country") or "").upper(),
        # Not asked for, or taken away altogether: nothing may be transferred either.
        transfers_status=transfers.get("status") or "unsupported",
        requirements=tuple(entry["description"] for entry in entries),
        metadata=texts(body.get("metadata")),
    )


def _transfer(transfer: stripe.Transfer) -> ConnectTransfer:
    return ConnectTransfer(
        id=transfer.id,
        amount=transfer.amount,
        amount_reversed=transfer.amount_reversed,
        destination=id_of(transfer.destination),
        transfer_group=transfer.transfer_group,
        metadata=texts(transfer.metadata),
        balance_transaction_id=id_of(transfer.balance_transaction),
        created_at=at(transfer.created),
    )


def _reversal(reversal: stripe.TransferReversal) -> TransferReversal:
    return TransferReversal(
        id=reversal.id,
        transfer_id=id_of(reversal.transfer),
        amount=reversal.amount,
        metadata=texts(reversal.metadata),
        balance_transaction_id=id_of(reversal.balance_transaction),
        created_at=at(reversal.created),
    )
