"""Wallet and top-ups, over the management API."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.errors import StripeUnavailableError
from billing.models import LedgerAccount, Topup
from billing.selectors.ledger import find_ledger_account
from billing.selectors.postpaid import describe_credit, find_credit
from billing.selectors.topup import access_topup
from billing.services.topup import AMOUNT_CENTS_MAX, AMOUNT_CENTS_MIN, settle_topup, start_topup
from marketplace.api.authentication import actor_of
from marketplace.selectors.access import access_account


class TopupInput(serializers.Serializer):
    account = serializers.SlugField()
    amount_cents = serializers.IntegerField(min_value=AMOUNT_CENTS_MIN, max_value=AMOUNT_CENTS_MAX)
    save_card = serializers.BooleanField(default=False)


class WalletView(APIView):
    """`GET /api/wallet?account=slug`."""

    def get(self, request: Request) -> Response:
        """Balance, what is reserved, and what can be spent, in nano-dollars."""
        account = access_account(actor_of(request), request.query_params.get("account", ""))
        wallet = find_ledger_account(LedgerAccount.Kind.WALLET, holder_id=account.pk)
        credit = find_credit(account)
        return Response(
            {
                "account": account.slug,
                "posted_nanos": wallet.posted_nanos if wallet else 0,
                "held_nanos": wallet.held_nanos if wallet else 0,
                "available_nanos": wallet.available_nanos if wallet else 0,
                "postpaid": describe_credit(credit) if credit and credit.is_used else None,
            }
        )


class TopupsView(APIView):
    """`POST /api/topups`."""

    def post(self, request: Request) -> Response:
        """Open a payment page; needs the right `billing`."""
        fields = TopupInput(data=request.data)
        fields.is_valid(raise_exception=True)
        actor = actor_of(request)
        account = access_account(actor, fields.validated_data["account"], "billing")
        topup = start_topup(
            actor,
            account,
            amount_cents=fields.validated_data["amount_cents"],
            saves_card=fields.validated_data["save_card"],
        )
        return Response(topup_json(topup), status=201)


class TopupView(APIView):
    """`GET /api/topups/{id}`."""

    def get(self, request: Request, topup_id: UUID) -> Response:
        """The top-up; an open one is looked up at Stripe first, and is open while it is silent."""
        topup = access_topup(actor_of(request), topup_id)
        # Perhaps it was paid, perhaps not: the poll will know.
        with suppress(StripeUnavailableError):
            topup = settle_topup(topup.pk)
        return Response(topup_json(topup))


def topup_json(topup: Topup) -> dict[str, Any]:
    """A top-up on the wire; the address only while it can be paid."""
    return {
        "id": str(topup.pk),
        "state": topup.state,
        "amount_cents": topup.amount_cents,
        "tax_cents": topup.tax_cents,
        "checkout_url": topup.checkout_url if topup.state == Topup.State.OPEN else None,
    }
