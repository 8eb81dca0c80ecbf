"""Cards, automatic top-ups and refunds, over the management API; the pages do the same."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.models import AutoTopup, BalanceAlert, SavedCard, TopupRefund
from billing.selectors.card import access_card, find_auto_topup, find_balance_alert, list_cards
from billing.selectors.refund import list_refunds, sum_refundable_cents
from billing.services import auto_topup, card
from billing.services.refund import request_refund
from marketplace.api.authentication import actor_of, require_confirmed
from marketplace.core.limits import REASON_LENGTH_MAX
from marketplace.models import Account
from marketplace.selectors.access import access_account

PAGE_SIZE = 100
# What fits a column; the services say what is allowed.
_CENTS_MAX = 2**31 - 1


class CentsField(serializers.IntegerField):
    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0, max_value=_CENTS_MAX, **options)


class AutoTopupInput(serializers.Serializer):
    threshold_cents = CentsField()
    amount_cents = CentsField()
    monthly_limit_cents = CentsField()


class BalanceAlertInput(serializers.Serializer):
    threshold_cents = CentsField()


class RefundInput(serializers.Serializer):
    amount_cents = serializers.IntegerField(min_value=1, max_value=_CENTS_MAX, required=False)
    request_id = serializers.UUIDField(required=False)
    reason = serializers.CharField(max_length=REASON_LENGTH_MAX, required=False, default="")


class CardsView(APIView):
    """`GET /api/cards?account=slug`, `POST /api/cards`."""

    def get(self, request: Request) -> Response:
        """The saved cards, the default one first."""
        account = _queried_account(request)
        return Response({"results": [card_json(one) for one in list_cards(account)]})

    def post(self, request: Request) -> Response:
        """Open a page of Stripe's that saves a card; needs the right `billing`."""
        account = _named_account(request)
        require_confirmed(request)
        return Response({"url": card.start_card_setup(account)}, status=201)


class CardView(APIView):
    """`PUT /api/cards/{id}`, `DELETE /api/cards/{id}`."""

    def put(self, request: Request, card_id: UUID) -> Response:
        """Make it the default card; needs the right `billing`."""
        actor = actor_of(request)
        found = access_card(actor, card_id, "billing")
        card.choose_card(actor, found)
        found.refresh_from_db()
        return Response(card_json(found))

    def delete(self, request: Request, card_id: UUID) -> Response:
        """Take it away; needs the right `billing`."""
        actor = actor_of(request)
        card.remove_card(actor, access_card(actor, card_id, "billing"))
        return Response(status=204)


class AutoTopupView(APIView):
    """`GET`, `PUT`, `DELETE /api/auto-topup?account=slug`."""

    def get(self, request: Request) -> Response:
        """How it is set; all null where it never was."""
        return Response(auto_topup_json(find_auto_topup(_queried_account(request))))

    def put(self, request: Request) -> Response:
        """Switch it on, or change it; needs the right `billing`."""
        account = _queried_account(request, "billing")
        fields = AutoTopupInput(data=request.data)
        fields.is_valid(raise_exception=True)
        order = auto_topup.configure_auto_topup(actor_of(request), account, **fields.validated_data)
        return Response(auto_topup_json(order))

    def delete(self, request: Request) -> Response:
        """Switch it off; needs the right `billing`."""
        auto_topup.stop_auto_topup(actor_of(request), _queried_account(request, "billing"))
        return Response(status=204)


class BalanceAlertView(APIView):
    """`GET`, `PUT /api/balance-alert?account=slug`."""

    def get(self, request: Request) -> Response:
        """Below how much the account is mailed; 0 is never."""
        return Response(balance_alert_json(find_balance_alert(_queried_account(request))))

    def put(self, request: Request) -> Response:
        """Change it; needs the right `billing`."""
        account = _queried_account(request, "billing")
        fields = BalanceAlertInput(data=request.data)
        fields.is_valid(raise_exception=True)
        alert = auto_topup.set_balance_alert(actor_of(request), account, **fields.validated_data)
        return Response(balance_alert_json(alert))


class RefundsView(APIView):
    """`GET /api/refunds?account=slug`, `POST /api/refunds`."""

    def get(self, request: Request) -> Response:
        """How much can be paid back now, and the latest refunds."""
        account = _queried_account(request)
        return Response(
            {
                "refundable_cents": sum_refundable_cents(account),
                "results": [refund_json(row) for row in list_refunds(account)[:PAGE_SIZE]],
            }
        )

    def post(self, request: Request) -> Response:
        """Pay back unspent credit; needs the right `billing`."""
        account = _named_account(request)
        fields = RefundInput(data=request.data)
        fields.is_valid(raise_exception=True)
        rows = request_refund(actor_of(request), account, **fields.validated_data)
        return Response({"results": [refund_json(row) for row in rows]}, status=201)


def card_json(row: SavedCard) -> dict[str, Any]:
    """A card on the wire."""
    return {
        "id": str(row.pk),
        "brand": row.brand,
        "last4": row.last4,
        "exp_month": row.exp_month,
        "exp_year": row.exp_year,
        "is_default": row.is_default,
    }


def auto_topup_json(order: AutoTopup | None) -> dict[str, Any]:
    """The order to buy credit by itself on the wire."""
    return {
        "is_enabled": order is not None and order.is_enabled,
        "threshold_cents": order.threshold_cents if order else None,
        "amount_cents": order.amount_cents if order else None,
        "monthly_limit_cents": order.monthly_limit_cents if order else None,
        "off_reason": (order.off_reason or None) if order else None,
    }


def balance_alert_json(alert: BalanceAlert | None) -> dict[str, Any]:
    """When the account is mailed, on the wire."""
    return {"threshold_cents": alert.threshold_cents if alert else 0}


def refund_json(row: TopupRefund) -> dict[str, Any]:
    """A refund on the wire: credit that left the wallet, and the tax that goes with it."""
    return {
        "id": str(row.pk),
        "topup": str(row.topup_id),
        "state": row.state,
        "net_cents": row.net_cents,
        "tax_cents": row.tax_cents,
        "created_at": row.created_at,
        "settled_at": row.settled_at,
    }


def _queried_account(request: Request, right: str = "read") -> Account:
    return access_account(actor_of(request), request.query_params.get("account", ""), right)


def _named_account(request: Request) -> Account:
    """The account that the body names, before anything else of it is looked at."""
    slug = request.data.get("account", "") if isinstance(request.data, dict) else ""
    return access_account(actor_of(request), str(slug), "billing")
