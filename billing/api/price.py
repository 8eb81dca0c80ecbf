"""The prices of a model, its private offers and its coupons, over the management API."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.models import Coupon, CouponRedemption, Price
from billing.selectors.coupon import list_coupons
from billing.selectors.price import find_next_price, find_price, list_prices, weigh_price
from billing.services.coupon import end_coupon, make_price_coupon, redeem_coupon
from billing.services.offer import end_offer, list_offers, make_offer
from billing.services.price import (
    NANOS_PER_PREDICTION_MAX,
    PriceTerms,
    find_share_bps,
    set_price,
    withdraw_price,
)
from marketplace.api.authentication import actor_of
from marketplace.core.clock import to_wire
from marketplace.core.errors import FieldError, InvalidInputError, NotFoundError
from marketplace.models import Account, AIModel
from marketplace.selectors.access import access_account, access_model, has_right
from marketplace.selectors.found import get_one

PRICES_SHOWN_MAX = 100


class StrictIntegerField(serializers.IntegerField):
    """A whole number as JSON has it: no text, no fraction and no truth value."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class PriceInput(serializers.Serializer):
    nanos_per_prediction = serializers.IntegerField(
        min_value=0, max_value=NANOS_PER_PREDICTION_MAX, default=0
    )
    rates = serializers.DictField(child=StrictIntegerField(), default=dict)
    max_units = serializers.DictField(child=StrictIntegerField(), default=dict)
    minimum_nanos = StrictIntegerField(default=0)
    free_units = StrictIntegerField(default=0)
    tiers = serializers.ListField(
        child=serializers.ListField(child=StrictIntegerField()), default=list
    )
    batch_percent = StrictIntegerField(default=100)


class PlainPriceInput(PriceInput):
    """Where only the flat part was known, it stays required unless there is something else."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "nanos_per_prediction" not in self.initial_data and not attrs["rates"]:
            raise serializers.ValidationError({"nanos_per_prediction": "Is required."})
        return attrs


class OfferInput(PlainPriceInput):
    account = serializers.SlugField()
    valid_until = serializers.DateTimeField(default=None, allow_null=True)


class CouponInput(serializers.Serializer):
    code = serializers.CharField(max_length=64)
    off_bps = StrictIntegerField()
    days = StrictIntegerField()
    uses_max = StrictIntegerField()
    valid_until = serializers.DateTimeField()


class RedeemInput(serializers.Serializer):
    account = serializers.SlugField()
    code = serializers.CharField(max_length=64)


class PriceView(APIView):
    """`GET` what a prediction costs now; `PUT` another price."""

    permission_classes = [AllowAny]  # Who may see a model may see its price.

    def get(self, request: Request, owner: str, name: str) -> Response:
        """The valid price."""
        price = find_price(access_model(actor_of(request), owner, name))
        if price is None:
            raise NotFoundError("This model has no price yet.")
        return Response(price_json(price))

    def put(self, request: Request, owner: str, name: str) -> Response:
        """Change what is given of the price, and leave the rest; needs the right `push`."""
        actor = actor_of(request)
        model = access_model(actor, owner, name, "push")
        fields = PriceInput(data=request.data, partial=True)
        fields.is_valid(raise_exception=True)
        if not fields.validated_data:
            raise InvalidInputError("Nothing of a price is given.")
        present = find_price(model)
        columns = PriceTerms.of(present).columns if present else {}
        return Response(price_json(set_price(actor, model, **columns | fields.validated_data)))


class PricesView(APIView):
    """`GET` the present price, the coming one and earlier ones; `POST` another."""

    permission_classes = [AllowAny]  # As above.

    def get(self, request: Request, owner: str, name: str) -> Response:
        """What it costs, what it will cost, and what it did."""
        actor = actor_of(request)
        model = access_model(actor, owner, name)
        document: dict[str, Any] = {
            "current": _price_or_none(find_price(model)),
            "next": _price_or_none(find_next_price(model)),
            "history": [price_json(one) for one in list_prices(model)[:PRICES_SHOWN_MAX]],
        }
        if has_right(actor, model.account, "push"):
            document |= _weigh(model)
        return Response(document)

    def post(self, request: Request, owner: str, name: str) -> Response:
        """Set a whole price; needs the right `push`."""
        actor = actor_of(request)
        model = access_model(actor, owner, name, "push")
        fields = PlainPriceInput(data=request.data)
        fields.is_valid(raise_exception=True)
        price = set_price(actor, model, **fields.validated_data)
        return Response(price_json(price), status=201)


class NextPriceView(APIView):
    """`DELETE` the price that was announced and has not begun."""

    def delete(self, request: Request, owner: str, name: str) -> Response:
        """The present one goes on."""
        actor = actor_of(request)
        withdraw_price(actor, access_model(actor, owner, name, "push"))
        return Response(status=204)


class OffersView(APIView):
    """`GET` the private offers of an own model; `POST` one."""

    def get(self, request: Request, owner: str, name: str) -> Response:
        """Those in force."""
        model = access_model(actor_of(request), owner, name, "push")
        return Response({"results": [offer_json(one) for one in list_offers(model)]})

    def post(self, request: Request, owner: str, name: str) -> Response:
        """Make one; it is in force at once."""
        actor = actor_of(request)
        model = access_model(actor, owner, name, "push")
        fields = OfferInput(data=request.data)
        fields.is_valid(raise_exception=True)
        terms = dict(fields.validated_data)
        account = Account.objects.filter(slug=terms.pop("account")).first()
        if account is None:
            detail = "There is no such account."
            raise InvalidInputError(detail, errors=[FieldError(pointer="/account", detail=detail)])
        return Response(offer_json(make_offer(actor, model, account, **terms)), status=201)


class OfferView(APIView):
    """`DELETE` an offer."""

    def delete(self, request: Request, owner: str, name: str, account: str) -> Response:
        """It ends after the notice that a rise needs; the answer says when."""
        actor = actor_of(request)
        model = access_model(actor, owner, name, "push")
        return Response(offer_json(end_offer(actor, model, account)))


class CouponsView(APIView):
    """`GET` the coupons of an own model; `POST` one."""

    def get(self, request: Request, owner: str, name: str) -> Response:
        """Newest first."""
        model = access_model(actor_of(request), owner, name, "push")
        coupons = list_coupons(model)[:PRICES_SHOWN_MAX]
        return Response({"results": [coupon_json(one) for one in coupons]})

    def post(self, request: Request, owner: str, name: str) -> Response:
        """Make one, at the creator's own cost."""
        actor = actor_of(request)
        model = access_model(actor, owner, name, "push")
        fields = CouponInput(data=request.data)
        fields.is_valid(raise_exception=True)
        coupon = make_price_coupon(actor, model, **fields.validated_data)
        return Response(coupon_json(coupon), status=201)


class CouponView(APIView):
    """`DELETE` a coupon of an own model: nobody can use it any more."""

    def delete(self, request: Request, owner: str, name: str, code: str) -> Response:
        """What it gave stays given."""
        actor = actor_of(request)
        model = access_model(actor, owner, name, "push")
        coupon = get_one(
            list_coupons(model).filter(code=code.upper()), "This model has no such coupon."
        )
        end_coupon(actor, coupon)
        return Response(status=204)


class RedeemView(APIView):
    """`POST` a code, to use it for an account."""

    def post(self, request: Request) -> Response:
        """Once; needs the right `billing` on the account."""
        actor = actor_of(request)
        fields = RedeemInput(data=request.data)
        fields.is_valid(raise_exception=True)
        account = access_account(actor, fields.validated_data["account"], "billing")
        redemption = redeem_coupon(actor, account, fields.validated_data["code"])
        return Response(redemption_json(redemption), status=201)


def _price_or_none(price: Price | None) -> dict[str, Any] | None:
    return None if price is None else price_json(price)


def price_json(price: Price) -> dict[str, Any]:
    """A price on the wire."""
    return {
        "id": str(price.pk),
        "nanos_per_prediction": price.nanos_per_prediction,
        "rates": price.rates,
        "max_units": price.max_units,
        "minimum_nanos": price.minimum_nanos,
        "free_units": price.free_units,
        "tiers": price.tiers,
        "batch_percent": price.batch_percent,
        "creator_share_bps": price.creator_share_bps,
        "valid_from": to_wire(price.valid_from),
        "valid_until": None if price.valid_until is None else to_wire(price.valid_until),
    }


def offer_json(price: Price) -> dict[str, Any]:
    """A private offer on the wire."""
    assert price.account is not None
    return {"account": price.account.slug, **price_json(price)}


def coupon_json(coupon: Coupon) -> dict[str, Any]:
    """A coupon as its maker sees it."""
    return {
        "code": coupon.code,
        "off_bps": coupon.off_bps,
        "days": coupon.days,
        "uses": coupon.uses,
        "uses_max": coupon.uses_max,
        "valid_until": to_wire(coupon.valid_until),
        "ended_at": None if coupon.ended_at is None else to_wire(coupon.ended_at),
    }


def redemption_json(redemption: CouponRedemption) -> dict[str, Any]:
    """What a code gave."""
    coupon = redemption.coupon
    return {
        "id": str(redemption.pk),
        "code": coupon.code,
        "credit_nanos": coupon.credit_nanos,
        "model": str(coupon.model) if coupon.model else None,
        "off_bps": coupon.off_bps,
        "price_id": None if redemption.price is None else str(redemption.price.pk),
    }


def _weigh(model: AIModel) -> dict[str, Any]:
    """For its creator: what the present price leaves of what a prediction costs to compute."""
    price = find_price(model)
    terms = PriceTerms.of(price).terms if price else PriceTerms().terms
    share_bps = price.creator_share_bps if price else find_share_bps(model)
    weight = weigh_price(model, terms, share_bps)
    return {
        "floor_nanos": weight.floor_nanos,
        "floor_rates": {one.kind: one.floor_nanos for one in weight.kinds},
        "margin_nanos": weight.margin_nanos if price else None,
    }
