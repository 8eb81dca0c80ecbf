"""Earnings, payouts and statements, over the management API."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.models import PayoutItem
from billing.selectors.earnings import GROUPS, ROWS_MAX, sum_earnings
from billing.selectors.payout import (
    PAYOUTS_PER_PAGE,
    access_payout,
    find_balances,
    find_obstacle,
    list_payouts,
)
from billing.selectors.payout_document import DOCUMENT_TYPE, stream_document
from billing.selectors.release import list_waiting
from billing.selectors.statement import make_statement
from billing.selectors.statement_file import CSV_TYPE, PDF_TYPE, write_csv, write_pdf
from marketplace.api.authentication import actor_of
from marketplace.core.clock import to_wire
from marketplace.core.errors import FieldError, InvalidInputError, NotFoundError
from marketplace.selectors.access import access_account

# Of one request for earnings; each day is read anew.
DAYS_MAX = 366


class EarningsInput(serializers.Serializer):
    since = serializers.DateField(required=False)
    until = serializers.DateField(required=False)
    by = serializers.ChoiceField(choices=list(GROUPS), required=False, default="day")


class EarningsView(APIView):
    """`GET /api/earnings?account=slug&since=&until=&by=`: what was earned, and where it is."""

    def get(self, request: Request) -> Response:
        """Balances, waiting days and sums; the last thirty days unless others are named."""
        account = access_account(actor_of(request), request.query_params.get("account", ""))
        fields = EarningsInput(data=request.query_params)
        fields.is_valid(raise_exception=True)
        chosen = fields.validated_data
        until = chosen.get("until") or timezone.now().astimezone(UTC).date()
        since = chosen.get("since") or until - timedelta(days=29)
        _check_days(since, until)
        rows = sum_earnings(account, since, until, chosen["by"], limit=ROWS_MAX + 1)
        if len(rows) > ROWS_MAX:
            detail = f"There are more than {ROWS_MAX:,} rows; choose fewer days."
            raise InvalidInputError(errors=[FieldError(pointer="/since", detail=detail)])
        balances = find_balances(account)
        return Response(
            {
                "account": account.slug,
                "reserve_nanos": balances.reserve_nanos,
                "payable_nanos": balances.payable_nanos,
                "in_flight_nanos": balances.in_flight_nanos,
                "paid_nanos": balances.paid_nanos,
                "waiting": [
                    {
                        "day": one.day.isoformat(),
                        "amount_nanos": one.amount_nanos,
                        "releases_on": one.releases_on.isoformat(),
                    }
                    for one in list_waiting(account, timezone.now())
                ],
                "since": since.isoformat(),
                "until": until.isoformat(),
                "results": [
                    {
                        "day": row.day or None,
                        "model": row.model,
                        "version": row.version,
                        "predictions": row.predictions,
                        "gross_nanos": row.gross_nanos,
                        "earned_nanos": row.earned_nanos,
                    }
                    for row in rows
                ],
            }
        )


class PayoutsView(APIView):
    """`GET /api/payouts?account=slug&cursor=`: payouts, newest first."""

    def get(self, request: Request) -> Response:
        """One page; `next_cursor` is null on the last."""
        account = access_account(actor_of(request), request.query_params.get("account", ""))
        items = list_payouts(account)
        if cursor := request.query_params.get("cursor"):
            try:
                items = items.filter(pk__lt=UUID(cursor))
            except ValueError:
                raise InvalidInputError("cursor is not one of ours.") from None
        page = list(items[: PAYOUTS_PER_PAGE + 1])
        has_more = len(page) > PAYOUTS_PER_PAGE
        page = page[:PAYOUTS_PER_PAGE]
        obstacle = find_obstacle(account)
        return Response(
            {
                "results": [payout_json(one) for one in page],
                "next_cursor": str(page[-1].pk) if has_more else None,
                # Why the next payout does not come; null if nothing is in its way.
                "obstacle": {"code": obstacle.code, "detail": obstacle.detail}
                if obstacle
                else None,
            }
        )


class PayoutView(APIView):
    """`GET /api/payouts/{id}`."""

    def get(self, request: Request, payout_id: UUID) -> Response:
        """One payout."""
        return Response(payout_json(access_payout(actor_of(request), payout_id)))


class PayoutDocumentView(APIView):
    """`GET /api/payouts/{id}/document`: what `strongroom verify-payout` checks."""

    def get(self, request: Request, payout_id: UUID) -> StreamingHttpResponse:
        """Lines of JSON, however many predictions there are."""
        item = access_payout(actor_of(request), payout_id)
        answer = StreamingHttpResponse(stream_document(item), content_type=DOCUMENT_TYPE)
        answer["Content-Disposition"] = f'attachment; filename="strongroom-payout-{item.pk}.jsonl"'
        return answer


class StatementView(APIView):
    """`GET /api/statements/{month}/{kind}?account=slug`: a month as `csv` or `pdf`."""

    def get(self, request: Request, month: str, kind: str) -> HttpResponse:
        """The file; the current month's goes up to now."""
        account = access_account(actor_of(request), request.query_params.get("account", ""))
        try:
            first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC).date()
        except ValueError:
            raise NotFoundError("A month is written as 2026-11.") from None
        if kind not in ("csv", "pdf"):
            raise NotFoundError("Statements are csv or pdf.")
        statement = make_statement(account, first)
        answer = (
            HttpResponse(write_csv(statement), content_type=CSV_TYPE)
            if kind == "csv"
            else HttpResponse(write_pdf(statement), content_type=PDF_TYPE)
        )
        name = f"strongroom-statement-{account.slug}-{first:%Y-%m}.{kind}"
        answer["Content-Disposition"] = f'attachment; filename="{name}"'
        return answer


def payout_json(item: PayoutItem) -> dict[str, Any]:
    """A payout on the wire."""
    return {
        "id": str(item.pk),
        "state": item.state,
        "amount_cents": item.amount_cents,
        "reason": item.reason,
        "created_at": to_wire(item.created_at),
        "finished_at": to_wire(item.finished_at) if item.finished_at else None,
        "taken_back": [
            {"amount_cents": one.amount_cents, "state": one.state, "reason": one.reason}
            for one in item.reversals.all()
        ],
    }


def _check_days(since: date, until: date) -> None:
    if not 0 <= (until - since).days < DAYS_MAX:
        detail = f"Choose from 1 to {DAYS_MAX} days, the first one first."
        raise InvalidInputError(errors=[FieldError(pointer="/since", detail=detail)])
