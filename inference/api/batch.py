"""Batches over the management API: a file of inputs in, files of outputs and errors out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any
from uuid import UUID

from django.http import StreamingHttpResponse
from rest_framework import serializers
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.core.calling import URL_LENGTH_MAX
from inference.models import Batch
from inference.selectors import batch as selectors
from inference.services import batch as services
from inference.services import batch_results as results
from marketplace.api.authentication import actor_of
from marketplace.api.parsing import BoundedJSONParser
from marketplace.core.errors import InvalidInputError
from marketplace.core.tag import TAG_RULE, is_tag
from marketplace.models import Account
from marketplace.selectors.access import Actor, access_account

# A body is taken while a worker of the site waits for it; what is larger is uploaded as a file.
BODY_BYTES_MAX = 16 * 1024 * 1024
_BODY_NAME = "batch.jsonl"


class LinesParser(BaseParser):
    """JSON Lines, read by whoever takes them."""

    media_type = services.CONTENT_TYPE

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """The body, unread, as `Lines`."""
        return Lines(stream)


@dataclass(frozen=True, slots=True)
class Lines:
    """A body of JSON Lines."""

    stream: IO[Any]


class BatchInput(serializers.Serializer):
    """What is said of a batch beside its lines; of JSON Lines, in the address."""

    account = serializers.SlugField(required=False)
    model = serializers.CharField(max_length=200)
    # In a body of JSON; lines that come in the body themselves are no file yet.
    input_file = serializers.CharField(required=False, max_length=64)
    name = serializers.CharField(required=False, allow_blank=True, max_length=200)
    tag = serializers.CharField(required=False, allow_blank=True, max_length=64)
    webhook = serializers.CharField(required=False, allow_blank=True, max_length=URL_LENGTH_MAX)
    cancel_after_s = serializers.IntegerField(
        required=False,
        min_value=int(services.CANCEL_AFTER_MIN.total_seconds()),
        max_value=int(services.CANCEL_AFTER_MAX.total_seconds()),
    )

    def validate_tag(self, tag: str) -> str:
        """As the gateway takes it."""
        if tag and not is_tag(tag):
            raise serializers.ValidationError(f"A tag has {TAG_RULE}.")
        return tag


class BatchesView(APIView):
    """`GET`, `POST /api/batches`."""

    parser_classes = [BoundedJSONParser, LinesParser]

    def get(self, request: Request) -> Response:
        """The batches of an account, newest first, 50 a page; `next` is the next `before`."""
        account = _account_of(actor_of(request), request.query_params.get("account", ""))
        page = selectors.get_batches(account, before=request.query_params.get("before", ""))
        results = [selectors.describe(one) for one in page.rows]
        return Response({"results": results, "next": page.next_before or None})

    def post(self, request: Request) -> Response:
        """Run a model on each line of a file. Needs the right `predict`.

        The body is JSON with `model` (owner/name) and `input_file`, the id of an uploaded file; or
        `application/jsonl`, the lines themselves up to 16 MiB, with `?model=` in the address. Both
        take `account`, `name`, `tag`, `webhook` (told when all is over) and `cancel_after_s`. With
        an `Idempotency-Key` that began a batch before, that one is answered.
        """
        lines = request.data if isinstance(request.data, Lines) else None
        if lines is None:
            fields = BatchInput(data=request.data)
        else:
            fields = BatchInput(data=request.query_params)
        fields.is_valid(raise_exception=True)
        said = dict(fields.validated_data)
        actor = actor_of(request)
        account = _account_of(actor, said.pop("account", ""))
        said["idempotency_key"] = request.headers.get("Idempotency-Key", "")
        if (earlier := selectors.find_earlier(account, said["idempotency_key"])) is not None:
            return Response(selectors.describe(earlier))
        version = selectors.find_version(actor, account, said.pop("model"))
        services.check_key(actor.api_key, version)
        if (seconds := said.pop("cancel_after_s", None)) is not None:
            said["cancel_after"] = timedelta(seconds=seconds)
        public_id = said.pop("input_file", "")
        if (lines is None) != bool(public_id):
            raise _invalid("/input_file", "Name an uploaded file, or send lines: one of the two.")
        if lines is None:
            file = selectors.access_file(account, public_id)
            batch = services.create_batch(
                actor=actor, account=account, version=version, file=file, **said
            )
        else:
            batch = services.create_batch_of(
                actor=actor,
                account=account,
                version=version,
                file_name=_BODY_NAME,
                stream=lines.stream,
                bytes_max=BODY_BYTES_MAX,
                **said,
            )
        return Response(selectors.describe(batch), status=201)


class BatchView(APIView):
    """`GET`, `DELETE /api/batches/{id}`."""

    def get(self, request: Request, batch_id: UUID) -> Response:
        """One batch: how far it is, and what it has cost."""
        batch = _access(request, batch_id)
        faults = [
            {"line": one.number, "custom_id": one.custom_id or None, "code": one.code}
            for one in selectors.list_faults(batch)
        ]
        return Response(selectors.describe(batch) | {"first_errors": faults})

    def delete(self, request: Request, batch_id: UUID) -> Response:
        """Forget a batch that is over, with its results."""
        services.delete_batch(actor=actor_of(request), batch=_access(request, batch_id))
        return Response(status=204)


class BatchCancelView(APIView):
    def post(self, request: Request, batch_id: UUID) -> Response:
        """Give up what has not run; what has is paid for, and can be fetched."""
        batch = services.cancel_batch(actor=actor_of(request), batch=_access(request, batch_id))
        return Response(selectors.describe(batch), status=202)


class BatchResumeView(APIView):
    def post(self, request: Request, batch_id: UUID) -> Response:
        """Have a paused batch go on now, with the budget and limits of who asks."""
        actor, batch = actor_of(request), _access(request, batch_id)
        services.check_key(actor.api_key, batch.version)
        return Response(selectors.describe(services.resume_batch(actor=actor, batch=batch)))


class BatchOutputView(APIView):
    def get(self, request: Request, batch_id: UUID) -> StreamingHttpResponse:
        """What came out, as JSON Lines in the order of the lines; also before all are over."""
        batch = _access(request, batch_id)
        return _answer_lines(batch, "output")


class BatchErrorsView(APIView):
    def get(self, request: Request, batch_id: UUID) -> StreamingHttpResponse:
        """The lines that failed or were canceled, as JSON Lines in their order."""
        batch = _access(request, batch_id)
        return _answer_lines(batch, "errors")


def _answer_lines(batch: Batch, what: str) -> StreamingHttpResponse:
    """Output or errors of a batch as a file."""
    answer = StreamingHttpResponse(results.read(batch, what), content_type=services.CONTENT_TYPE)
    answer["Content-Disposition"] = f'attachment; filename="batch-{batch.pk}-{what}.jsonl"'
    answer["Cache-Control"] = "private, no-store"
    answer["X-Content-Type-Options"] = "nosniff"
    return answer


def _access(request: Request, batch_id: UUID) -> Batch:
    return selectors.access_batch(actor_of(request), batch_id, selectors.RIGHT)


def _account_of(actor: Actor, slug: str) -> Account:
    """The account that is named, or else the one that a key stands for."""
    if slug:
        return access_account(actor, slug, selectors.RIGHT)
    if actor.api_key is None:
        raise _invalid("/account", "Say which account.")
    return access_account(actor, actor.api_key.account.slug, selectors.RIGHT)


def _invalid(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(detail, errors=[{"pointer": pointer, "detail": detail}])
