"""Usage, over the management API: each prediction, sums, and files of all."""

from __future__ import annotations

from dataclasses import asdict

from django.http import StreamingHttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.forms.usage import UsageForm
from billing.selectors.usage import list_usage, stream_usage, sum_usage_by
from billing.selectors.usage_export import (
    CLOUDEVENTS_TYPE,
    CSV_TYPE,
    ROWS_MAX,
    describe,
    write_cloudevents,
    write_csv,
)
from marketplace.api.authentication import actor_of
from marketplace.core import ids
from marketplace.core.errors import FieldError, InvalidInputError, NotFoundError
from marketplace.models import Account
from marketplace.selectors.access import access_account

PAGE_SIZE = 100


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
    """`GET /api/usage/sums?account=slug&by=day`: the same, summed by day, model, key or tag."""

    def get(self, request: Request) -> Response:
        """All sums, at most `SUMS_MAX`."""
        account, form = _read_choice(request)
        group = form.group or "day"
        sums = sum_usage_by(account, form.filter, group)
        return Response({"by": group, "results": [asdict(one) for one in sums]})


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
