"""Invoices and credit, over the management API."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.http import StreamingHttpResponse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.forms.postpaid import NOTE_LENGTH_MAX, TaxDetailsForm
from billing.selectors.invoice import (
    access_invoice,
    check_document,
    describe_invoice,
    list_invoice_lines,
    list_invoice_usage,
    list_invoices,
    stream_document,
)
from billing.selectors.postpaid import describe_credit, find_credit, find_tax_details
from billing.selectors.usage_export import CSV_TYPE, write_csv
from billing.services import postpaid
from billing.services.postpaid import LIMIT_NANOS_MAX, LIMIT_NANOS_MIN
from billing.services.tax_details import FIELDS, save_tax_details
from marketplace.api.authentication import actor_of
from marketplace.core.errors import FieldError, InvalidInputError, NotFoundError
from marketplace.selectors.access import access_account

PAGE_SIZE = 100
DOCUMENT_TYPE = "application/x-ndjson"


class ApplyInput(serializers.Serializer):
    account = serializers.SlugField()
    wanted_limit_nanos = serializers.IntegerField(
        min_value=LIMIT_NANOS_MIN, max_value=LIMIT_NANOS_MAX
    )
    note = serializers.CharField(
        required=False, default="", allow_blank=True, max_length=NOTE_LENGTH_MAX
    )


class AccountInput(serializers.Serializer):
    account = serializers.SlugField()


class InvoicesView(APIView):
    """`GET /api/invoices?account=slug&cursor=`: newest first."""

    def get(self, request: Request) -> Response:
        """One page; `next_cursor` is null on the last."""
        account = access_account(actor_of(request), request.query_params.get("account", ""))
        cursor = request.query_params.get("cursor", "0")
        if not cursor.isdecimal() or len(cursor) > 9:
            raise InvalidInputError("cursor is not one of ours.")
        begin = int(cursor)
        found = list(list_invoices(account)[begin : begin + PAGE_SIZE + 1])
        has_more = len(found) > PAGE_SIZE
        return Response(
            {
                "results": [describe_invoice(one) for one in found[:PAGE_SIZE]],
                "next_cursor": str(begin + PAGE_SIZE) if has_more else None,
            }
        )


class InvoiceView(APIView):
    """`GET /api/invoices/{id}`."""

    def get(self, request: Request, invoice_id: UUID) -> Response:
        """An invoice with what it is for, by day and model."""
        found = access_invoice(actor_of(request), invoice_id)
        lines = [
            {
                "day": line.day,
                "model": line.model,
                "predictions": line.predictions,
                "gross_nanos": line.gross_nanos,
            }
            for line in list_invoice_lines(found)
        ]
        return Response({**describe_invoice(found), "lines": lines})


class InvoiceUsageView(APIView):
    """`GET /api/invoices/{id}/usage`: the predictions behind it, as CSV."""

    def get(self, request: Request, invoice_id: UUID) -> StreamingHttpResponse:
        """Oldest first, row by row."""
        found = access_invoice(actor_of(request), invoice_id)
        events = list_invoice_usage(found).iterator(chunk_size=2_000)
        return StreamingHttpResponse(write_csv(events), content_type=CSV_TYPE)


class InvoiceDocumentView(APIView):
    """`GET /api/invoices/{id}/document`: what `strongroom verify-invoice` checks."""

    def get(self, request: Request, invoice_id: UUID) -> StreamingHttpResponse:
        """The invoice, its reports and the receipts of its predictions, as JSON lines."""
        found = access_invoice(actor_of(request), invoice_id)
        check_document(found)
        lines = (json.dumps(member) + "\n" for member in stream_document(found))
        return StreamingHttpResponse(lines, content_type=DOCUMENT_TYPE)


class PostpaidView(APIView):
    """`GET /api/postpaid?account=slug` the terms, `POST` to ask for them."""

    def get(self, request: Request) -> Response:
        """Terms, limit, and how much of it is used."""
        account = access_account(actor_of(request), request.query_params.get("account", ""))
        credit = find_credit(account)
        if credit is None:
            raise NotFoundError("The account has no terms.")
        return Response(describe_credit(credit))

    def post(self, request: Request) -> Response:
        """Ask to pay later; needs the right `billing`."""
        fields = ApplyInput(data=request.data)
        fields.is_valid(raise_exception=True)
        values = fields.validated_data
        account = access_account(actor_of(request), values["account"], "billing")
        postpaid.apply_for_terms(
            actor_of(request),
            account,
            wanted_limit_nanos=values["wanted_limit_nanos"],
            note=values["note"],
        )
        return _answer_terms(account, 201)


class PostpaidVerbView(APIView):
    """`POST /api/postpaid/{accept,decline,close}`."""

    def post(self, request: Request, verb: str) -> Response:
        """Answer an offer, take back what was asked for, or end credit; needs `billing`."""
        fields = AccountInput(data=request.data)
        fields.is_valid(raise_exception=True)
        actor = actor_of(request)
        account = access_account(actor, fields.validated_data["account"], "billing")
        match verb:
            case "accept":
                postpaid.accept_terms(actor, account)
            case "decline":
                postpaid.decline_terms(actor, account)
            case _:
                credit = find_credit(account)
                if credit is None:
                    raise NotFoundError("The account has no terms.")
                postpaid.close_terms(actor, credit.terms)
        return _answer_terms(account, 200)


class TaxDetailsView(APIView):
    """`GET`, `PUT /api/tax-details?account=slug`."""

    def get(self, request: Request) -> Response:
        """Whom invoices are addressed to."""
        account = access_account(actor_of(request), request.query_params.get("account", ""))
        details = find_tax_details(account)
        if details is None:
            raise NotFoundError("The account has no tax details.")
        return Response({name: getattr(details, name) for name in FIELDS})

    def put(self, request: Request) -> Response:
        """Set all of it; needs the right `billing`."""
        slug = request.query_params.get("account", "")
        account = access_account(actor_of(request), slug, "billing")
        form = TaxDetailsForm(request.data, instance=find_tax_details(account))
        if not form.is_valid():
            raise InvalidInputError(
                errors=[
                    FieldError(pointer=f"/{name}", detail=" ".join(str(text) for text in texts))
                    for name, texts in form.errors.items()
                ]
            )
        details = save_tax_details(actor_of(request), account, form.details)
        return Response({name: getattr(details, name) for name in FIELDS})


def _answer_terms(account: Any, status: int) -> Response:
    credit = find_credit(account)
    assert credit is not None, "it was just changed"
    return Response(describe_credit(credit), status=status)
