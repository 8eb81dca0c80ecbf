"""Fetching the document of an invoice: all of it, or nothing that looks like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from strongroom.client import ApiError, Transport, UnreachableError, WebClient
from strongroom.commands import invoice as command
from tests.sdk.command_line import run

DOCUMENT = b'{"type": "invoice"}\n{"type": "report"}\n'
Handler = Callable[[httpx.Request], httpx.Response]


class Cut(httpx.SyncByteStream):
    """An answer that breaks off."""

    def __iter__(self) -> Iterator[bytes]:
        yield DOCUMENT[:10]
        raise httpx.ReadError("cut")


def refuse(_request: httpx.Request) -> httpx.Response:
    body = {"code": "invoice_not_final", "detail": "It is a draft."}
    return httpx.Response(409, json=body, headers={"Content-Type": "application/problem+json"})


def make_web(handler: Handler) -> WebClient:
    http = httpx.Client(transport=httpx.MockTransport(handler))
    return WebClient(Transport("https://platform.example.com", "srt_x", http=http))


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], None]:
    def use(handler: Handler) -> None:
        profile = SimpleNamespace(web_url="https://platform.example.com")
        monkeypatch.setattr(command, "load_web", lambda: (None, profile, make_web(handler)))
        monkeypatch.setattr(command, "pin_key", lambda *_args: ())

    return use


def test_a_document_is_streamed_with_the_token() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=DOCUMENT)

    assert b"".join(make_web(answer).stream_invoice_document("a/b")) == DOCUMENT
    assert seen[0].url.raw_path == b"/api/invoices/a%2Fb/document"
    assert seen[0].headers["Authorization"] == "Bearer srt_x"


def test_refusals_and_cuts_are_ours() -> None:
    with pytest.raises(ApiError) as caught:
        list(make_web(refuse).stream_invoice_document("x"))
    assert caught.value.code == "invoice_not_final"
    with pytest.raises(UnreachableError):
        list(make_web(lambda _: httpx.Response(200, stream=Cut())).stream_invoice_document("x"))


def test_the_command_writes_it(serve: Callable[[Handler], None], tmp_path: Path) -> None:
    serve(lambda _: httpx.Response(200, content=DOCUMENT))
    file = tmp_path / "one.jsonl"

    told = run("invoice", "fetch", "x", "--out", file).stderr

    assert file.read_bytes() == DOCUMENT
    assert "verify-invoice" in told
    assert "file_exists" in run("invoice", "fetch", "x", "--out", file, code=1).stderr
    run("invoice", "fetch", "x", "--out", file, "--force")


@pytest.mark.parametrize("handler", [refuse, lambda _: httpx.Response(200, stream=Cut())])
def test_what_broke_off_is_not_kept(
    serve: Callable[[Handler], None], tmp_path: Path, handler: Handler
) -> None:
    serve(handler)
    file = tmp_path / "one.jsonl"

    run("invoice", "fetch", "x", "--out", file, code=1)

    assert not file.exists()
