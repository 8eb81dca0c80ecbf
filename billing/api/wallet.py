"""Wallet, usage and top-ups, over the management API."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

from django.http import StreamingHttpResponse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.errors import StripeUnavailableError
from billing.forms.usage import UsageForm
from billing.models import LedgerAccount, Topup
from billing.selectors.ledger import find_ledger_account
from billing.selectors.postpaid import describe_credit, find_credit
from billing.selectors.topup import access_topup
from billing.selectors.usage import UsageSum, list_usage, stream_usage, sum_usage_by
from billing.selectors.usage_export import (
    CLOUDEVENTS_TYPE,
    CSV_TYPE,
    ROWS_MAX,
    describe,
    write_cloudevents,
    write_csv,
)
from billing.services.topup import AMOUNT_CENTS_MAX, AMOUNT_CENTS_MIN, settle_topup, start_topup
from marketplace.api.authentication import actor_of
from marketplace.core import ids
from marketplace.core.errors import FieldError, InvalidInputError, NotFoundError
from marketplace.models import Account
from marketplace.selectors.access import access_account

PAGE_SIZE = 100


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


class UsageView(APIView):
    """`GET /api/usage?account=slug&cursor=`: usage events, newest first; filters as on the page."""

    def get(self, request: Request) -> Response:
        """One page; `next_cursor` is null on the last."""
        account, form = _read_choice(request)
        events = list_usage(account, form.filter)
        if cursor := request.query_params.get("cursor"):
            try:
                events = events.filter(prediction_id__lt=ids.from_public(cursor))
            except ValueError:
                raise InvalidInputError("cursor is not one of ours.") from None
        page = list(events[: PAGE_SIZE + 1])
        has_more = len(page) > PAGE_SIZE
        page = page[:PAGE_SIZE]
        return Response(
            {
                "results": [describe(event) for event in page],
                "next_cursor": ids.to_public(page[-1].prediction_id) if has_more else None,
            }
        )


class UsageSumsView(APIView):
    """`GET /api/usage/sums?account=slug&by=day`: the same, summed by day, model or key."""

    def get(self, request: Request) -> Response:
        """All sums, at most `SUMS_MAX`."""
        account, form = _read_choice(request)
        group = form.group or "day"
        sums = sum_usage_by(account, form.filter, group)
        return Response({"by": group, "results": [_sum_json(one) for one in sums]})


class UsageExportView(APIView):
    """`GET /api/usage/export/{kind}?account=slug`: all that was chosen, in one file."""

    def get(self, request: Request, kind: str) -> StreamingHttpResponse:
        """CSV or a batch of CloudEvents, oldest first."""
        writer = _WRITERS.get(kind)
        if writer is None:
            raise NotFoundError("Usage is exported as csv or cloudevents.")
        account, form = _read_choice(request)
        if list_usage(account, form.filter)[: ROWS_MAX + 1].count() > ROWS_MAX:
            detail = f"There are more than {ROWS_MAX:,} predictions; choose fewer days."
            raise InvalidInputError(errors=[FieldError(pointer="/since", detail=detail)])
        write, content_type, suffix = writer
        answer = StreamingHttpResponse(
            write(stream_usage(account, form.filter)), content_type=content_type
        )
        name = f"strongroom-usage-{account.slug}{suffix}"
        answer["Content-Disposition"] = f'attachment; filename="{name}"'
        return answer


_WRITERS = {
    "csv": (write_csv, CSV_TYPE, ".csv"),
    "cloudevents": (write_cloudevents, CLOUDEVENTS_TYPE, ".json"),
}


def _read_choice(request: Request) -> tuple[Account, UsageForm]:
    account = access_account(actor_of(request), request.query_params.get("account", ""))
    form = UsageForm(request.query_params, account=account)
    if not form.is_valid():
        faults = [
            FieldError(pointer=f"/{name}", detail=str(details[0]))
            for name, details in form.errors.items()
        ]
        raise InvalidInputError(errors=faults)
    return account, form


def _sum_json(one: UsageSum) -> dict[str, Any]:
    return {
        "name": one.name,
        "predictions": one.predictions,
        "units": one.units,
        "gross_nanos": one.gross_nanos,
    }


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
