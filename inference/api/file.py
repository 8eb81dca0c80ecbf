"""Files: put up, listed, fetched and deleted; and fetched by an address that opens them itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_safe
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.api.artifact import PartResponse, Slice, read_range
from inference.api.file_form import SealingHandler
from inference.api.gateway_authentication import GatewayAuthentication, IsGateway
from inference.errors import FileLifetimeError, FileMissingError
from inference.models import File
from inference.models.file import read_file_id
from inference.selectors import file as selectors
from inference.services import file as services
from marketplace.api.authentication import SessionAuthentication, TokenAuthentication, actor_of
from marketplace.core.clock import utc_now
from marketplace.core.errors import BadRequestError
from marketplace.core.ids import from_public
from marketplace.models import Account

# Shorter than anybody needs; what is meant is most often another unit.
LIFETIME_MIN = timedelta(minutes=1)
# What browsers show or play without running anything in it; all else is saved, not shown.
SHOWN_TYPES = frozenset(
    {
        *("image/png", "image/jpeg", "image/gif", "image/webp"),
        *("audio/wav", "audio/mpeg", "audio/ogg", "audio/flac", "audio/webm"),
        *("video/mp4", "video/webm"),
    }
)
# Saved under their own name of a type; whatever is in none of these is plain octets to a browser.
SAVED_TYPES = frozenset(
    {"text/plain", "text/csv", "application/json", "application/jsonl", "application/x-ndjson"}
)


class FormSessionAuthentication(SessionAuthentication):
    """The site's own pages, whose token of the form is read where the form is read."""

    def enforce_csrf(self, request: Request) -> None:
        """Refuse a form of another site; the framework itself would parse the body otherwise."""
        super().enforce_csrf(request._request)  # type: ignore[arg-type] # noqa: SLF001


_CALLERS = (GatewayAuthentication, TokenAuthentication, FormSessionAuthentication)


class FilesView(APIView):
    """`GET`, `POST /api/files`; a gateway's `/v1/files` comes here, too."""

    authentication_classes = _CALLERS
    parser_classes = ()

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """See that no form is read before there is who seals its file."""
        self.handler = SealingHandler()
        if request.method == "POST":
            request.upload_handlers = [self.handler]
        return super().initialize_request(request, *args, **kwargs)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Let go of what was not kept."""
        self.handler.close()
        return super().finalize_response(request, response, *args, **kwargs)

    def get(self, request: Request) -> Response:
        """Files, newest first, 100 a page; `next` is the next `before`."""
        account = selectors.access_files_account(
            actor_of(request), request.query_params.get("account", ""), selectors.READ_RIGHTS
        )
        rows, before = selectors.list_files(account, before=request.query_params.get("before", ""))
        results = [selectors.describe_file(one) for one in rows]
        return Response({"results": results, "next": before or None})

    def post(self, request: Request) -> Response:
        """Put a file up: a form with the part `content` (or `file`); `filename`, `expires_in`."""
        actor = actor_of(request)
        account = selectors.access_files_account(
            actor, request.query_params.get("account", ""), selectors.WRITE_RIGHTS
        )
        # Before anything of it is read.
        services.require_room(account)
        if request._request.content_type != "multipart/form-data":  # noqa: SLF001
            raise BadRequestError("A file comes in a form: multipart/form-data.")
        fields = request._request.POST  # noqa: SLF001 - reads the form, through the handler
        incoming = self.handler.incoming
        if incoming is None:
            raise FileMissingError
        file = services.keep_upload(
            incoming,
            actor=actor,
            account=account,
            name=fields.get("filename") or fields.get("name") or self.handler.name,
            content_type=fields.get("type") or self.handler.kind,
            expires_at=utc_now() + read_lifetime(fields, account),
        )
        return Response(selectors.describe_file(file), status=201)


class FileView(APIView):
    """`GET`, `DELETE /api/files/{id}`."""

    authentication_classes = _CALLERS

    def get(self, request: Request, file_id: str) -> Response:
        """One file, with an address that opens it for an hour."""
        file = selectors.access_file(actor_of(request), file_id, selectors.READ_RIGHTS)
        return Response(selectors.describe_file(file))

    def delete(self, request: Request, file_id: str) -> Response:
        """Delete it at once, with its key."""
        actor = actor_of(request)
        file = selectors.access_file(actor, file_id, selectors.WRITE_RIGHTS)
        services.delete_upload(actor=actor, file=file)
        return Response(status=204)


class FileContentView(APIView):
    authentication_classes = _CALLERS

    def get(self, request: Request, file_id: str) -> HttpResponse | PartResponse:
        """Its content, or the part that `Range` names."""
        file = selectors.access_file(actor_of(request), file_id, selectors.READ_RIGHTS)
        return answer_content(file, request.headers)


class OutputView(APIView):
    """`POST /api/gateway/outputs/{id}`: what a prediction gave, from the gateway that ran it."""

    authentication_classes = (GatewayAuthentication,)
    permission_classes = (IsGateway,)
    parser_classes = ()

    def post(self, request: Request, file_id: str) -> Response:
        """Keep the body as a file under the id that the gateway has given it."""
        query, found = request.query_params, read_file_id(file_id)
        prediction = query.get("prediction", "")
        try:
            prediction_id = from_public(prediction)
        except ValueError:
            raise BadRequestError("An output is that of a prediction.") from None
        if found is None:
            raise BadRequestError("This is no id of a file.")
        api_key = actor_of(request).api_key
        assert api_key is not None  # `IsGateway` has seen it.
        with services.Incoming(found) as incoming:
            while chunk := request._request.read(services.CHUNK_BYTES):  # noqa: SLF001
                incoming.write(chunk)
            file = incoming.keep(
                api_key.account,
                query.get("name", ""),
                request._request.content_type or "",  # noqa: SLF001
                purpose=File.Purpose.OUTPUT,
                expires_at=utc_now() + services.read_lifetime_max(api_key.account),
                prediction_id=prediction_id,
            )
        return Response({"id": file.public_id}, status=201)


@require_safe
def open_link(request: HttpRequest, file_id: str) -> HttpResponse | PartResponse:
    """A file by an address that carries its own right; a key beside it is not looked at."""
    query = request.GET
    file = selectors.open_link(file_id, query.get("expires", ""), query.get("signature", ""))
    return answer_content(file, request.headers)


def read_lifetime(fields: Mapping[str, Any], account: Account) -> timedelta:
    """How long a file is to live, from `expires_in` in seconds; a day where nothing is said.

    Raises:
        FileLifetimeError: Less than a minute, or longer than the account keeps anything.
    """
    text = str(fields.get("expires_in") or "")
    limit = services.read_lifetime_max(account)
    if not text:
        return min(services.DEFAULT_LIFETIME, limit)
    is_count = text.isascii() and text.isdigit() and len(text) <= len("31536000")
    lifetime = timedelta(seconds=int(text)) if is_count else timedelta(0)
    if not LIFETIME_MIN <= lifetime <= limit:
        raise FileLifetimeError(
            f"expires_in is {LIFETIME_MIN.total_seconds():.0f} to {limit.total_seconds():.0f} "
            "seconds on this account."
        )
    return lifetime


def answer_content(file: File, headers: Mapping[str, str]) -> PartResponse:
    """A file's content as a browser may have it: nothing in it is run on this site."""
    first, last = read_range(headers, file.sha256, file.size_bytes)
    stream = services.open_file(file)
    stream.seek(first)
    is_whole = (first, last) == (0, file.size_bytes - 1)
    is_shown = file.content_type in SHOWN_TYPES
    is_known = is_shown or file.content_type.partition(";")[0] in SAVED_TYPES
    answered: dict[str, Any] = {
        "Content-Length": last - first + 1,
        "Content-Disposition": content_disposition_header(not is_shown, file.name),
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
        "ETag": f'"{file.sha256}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-store",
    }
    if not is_whole:
        answered["Content-Range"] = f"bytes {first}-{last}/{file.size_bytes}"
    return PartResponse(
        Slice(stream, last - first + 1),
        status=200 if is_whole else 206,
        content_type=file.content_type if is_known else services.DEFAULT_CONTENT_TYPE,
        headers=answered,
    )
