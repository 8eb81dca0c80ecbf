"""Receipts, the keys that sign them, and all batches: what is needed to check a charge."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.selectors import receipt as receipts
from marketplace.api.authentication import actor_of
from marketplace.core import ids
from marketplace.core.errors import InvalidInputError, NotFoundError


class ReceiptView(APIView):
    """`GET /api/predictions/{id}/receipt`."""

    def get(self, request: Request, public_id: str) -> Response:
        """The receipt, for the account that paid and for the model's owner."""
        try:
            prediction_id = ids.from_public(public_id)
        except ValueError:
            raise NotFoundError from None
        return Response(receipts.get_receipt(actor_of(request), prediction_id))


class ReceiptKeysView(APIView):
    """`GET /api/receipt-keys`, for everybody."""

    authentication_classes = ()
    permission_classes = ()

    def get(self, request: Request) -> Response:
        """The key in use, and the statements of each key about the next."""
        return Response(receipts.describe_keys())


class ReceiptBatchesView(APIView):
    """`GET /api/receipt-batches?after=`, for everybody: the chain that none can be taken out of."""

    authentication_classes = ()
    permission_classes = ()

    def get(self, request: Request) -> Response:
        """A page of batches; `next_after` is null on the last."""
        text = request.query_params.get("after", "0")
        if not text.isdecimal() or len(text) > 18:
            raise InvalidInputError("after must be the number of a batch.")
        found = [receipts.describe_published(one) for one in receipts.list_batches(after=int(text))]
        has_more = len(found) == receipts.BATCHES_PER_PAGE
        return Response({"results": found, "next_after": found[-1]["seq"] if has_more else None})
