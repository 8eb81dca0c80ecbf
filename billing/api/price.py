"""The price of a model, over the management API."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.models import Price
from billing.selectors.price import find_price
from billing.services.price import NANOS_PER_PREDICTION_MAX, set_price
from marketplace.api.authentication import actor_of
from marketplace.core.clock import to_wire
from marketplace.core.errors import NotFoundError
from marketplace.selectors.access import access_model


class PriceInput(serializers.Serializer):
    nanos_per_prediction = serializers.IntegerField(min_value=0, max_value=NANOS_PER_PREDICTION_MAX)


class PriceView(APIView):
    """`GET` what a prediction costs now; `PUT` another price from now on."""

    permission_classes = [AllowAny]  # Who may see a model may see its price.

    def get(self, request: Request, owner: str, name: str) -> Response:
        """The valid price."""
        price = find_price(access_model(actor_of(request), owner, name))
        if price is None:
            raise NotFoundError("This model has no price yet.")
        return Response(price_json(price))

    def put(self, request: Request, owner: str, name: str) -> Response:
        """Set the price; needs the right `push` on the account."""
        actor = actor_of(request)
        model = access_model(actor, owner, name, "push")
        fields = PriceInput(data=request.data)
        fields.is_valid(raise_exception=True)
        return Response(price_json(set_price(actor, model, **fields.validated_data)))


def price_json(price: Price) -> dict[str, Any]:
    """A price on the wire."""
    return {
        "id": str(price.pk),
        "nanos_per_prediction": price.nanos_per_prediction,
        "creator_share_bps": price.creator_share_bps,
        "valid_from": to_wire(price.valid_from),
    }
