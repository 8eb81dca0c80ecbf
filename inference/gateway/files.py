"""Files of callers: kept by the site, reached through the gateway like all else below /v1.

The gateway looks at the key and vouches for its account; the site keeps the files. What is put up
passes through in pieces, and what is fetched comes from the site itself, by an address that opens
it: the gateway never holds a whole file that somebody sends or fetches.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import UUID

import orjson

from inference.core.file_link import FILE_PREFIX, FILES_PATH, LINK_PATH, Word, make_link, write_word
from inference.gateway.auth import PREDICT, READ, Caller
from inference.gateway.config import (
    FILE_ANSWER_BYTES_MAX,
    FILE_CHUNK_WAIT_S,
    FILE_FORM_BYTES_MAX,
    FILE_INPUT_BYTES_MAX,
    FILE_RELAYS_MAX,
    FILE_RELAYS_PER_ACCOUNT_MAX,
    FILE_WAIT_S,
    GatewayConfig,
)
from inference.gateway.errors import CapacityError, FilesUnavailableError
from inference.gateway.http import Answer, Request
from marketplace.core.errors import (
    BadRequestError,
    InvalidInputError,
    MethodNotAllowedError,
    NotFoundError,
    PayloadTooLargeError,
)
from marketplace.core.ids import PUBLIC_LENGTH, to_public
from marketplace.core.problem import CONTENT_TYPE as PROBLEM

if TYPE_CHECKING:
    import aiohttp

logger = logging.getLogger(__name__)

_RETRY_S = 5
# What only a gateway itself may do at the site.
_OUTPUT = "output"
_PASSED_HEADERS = ("retry-after",)


class Files:
    """The gateway's way to the site's files."""

    def __init__(self, config: GatewayConfig) -> None:
        self.site_url = config.site_url
        self.web_url = config.web_url
        self.gateway_url = config.gateway_url
        self._secret = config.playground_secret
        self._session: aiohttp.ClientSession | None = None
        # By account: how many are on their way.
        self._open: dict[UUID, int] = {}

    def find_link(self, request: Request, segments: list[str]) -> Answer | None:
        """The way to the site for an address that carries its own right; None for any other."""
        match request.method, segments:
            case "GET" | "HEAD", ["files", file_id, "content"]:
                if "signature" in request.query and _is_file_id(file_id):
                    url = f"{self.web_url}{LINK_PATH.format(file_id)}?{request.query_string}"
                    return _lead_to(url)
        return None

    async def answer(self, request: Request, caller: Caller, segments: list[str]) -> Answer:
        """Answer one of the addresses below /v1/files.

        Raises:
            FilesUnavailableError: The site does not answer.
            CapacityError: Too many are on their way.
            MarketplaceError: The caller may not.
        """
        match segments:
            case ["files"] if request.method in ("GET", "POST"):
                path = "/api/files"
            case ["files", file_id] if request.method in ("GET", "DELETE"):
                path = f"/api/files/{_require_id(file_id)}"
            case ["files", file_id, "content"] if request.method == "GET":
                found = await self._lead_to_content(caller, _require_id(file_id))
                return _own(request, found)
            case ["files"] | ["files", _] | ["files", _, "content"]:
                raise MethodNotAllowedError
            case _:
                raise NotFoundError
        if request.method == "GET":
            caller.require(PREDICT, READ)
        else:
            caller.require(PREDICT)
        if request.method == "POST":
            return _own(request, await self._put_up(request, caller))
        query = f"?{request.query_string}" if request.query_string else ""
        answer = await self._ask(request.method, path + query, self._vouch(caller))
        return _own(request, answer)

    def link_to(self, file_id: UUID, expires_s: int) -> str:
        """An address at the site that opens a file without a key, until then."""
        return make_link(self.web_url, self._secret, file_id, expires_s)

    async def keep_output(
        self,
        account_id: UUID,
        file_id: UUID,
        prediction_id: UUID,
        name: str,
        media_type: str,
        octets: bytes,
    ) -> None:
        """Have the site keep what a prediction gave, under an id that is its address already.

        Raises:
            FilesUnavailableError: It does not; nothing was kept.
        """
        query = urlencode({"prediction": to_public(prediction_id), "name": name})
        path = f"/api/gateway/outputs/{FILE_PREFIX}{to_public(file_id)}?{query}"
        answer = await self._ask(
            "POST",
            path,
            Word(account_id, (_OUTPUT,)),
            body=octets,
            headers={"Content-Type": media_type},
        )
        if answer.status != 201:
            logger.warning("an output was not kept: %d %s", answer.status, _read_code(answer.body))
            raise FilesUnavailableError(
                "The output could not be kept as a file.", retry_after_s=_RETRY_S
            )

    def is_own_url(self, url: str) -> bool:
        """Whether an address is one under which files of ours are known."""
        return url.startswith((f"{self.web_url}{FILES_PATH}", f"{self.gateway_url}{FILES_PATH}"))

    async def fetch_input(self, account_id: UUID, file_id: str, kind: str) -> bytes:
        """The content of a file of the account.

        Args:
            account_id: Whose it must be.
            file_id: As consumers know it.
            kind: `image`, `audio`, or `file` for any.

        Raises:
            NotFoundError: The account has none of that id.
            InvalidInputError: It is too large for an input, or of another kind.
            FilesUnavailableError: The site does not answer.
        """
        path = f"/api/files/{file_id}"
        reader = Word(account_id, (READ,))
        told = await self._ask("GET", path, reader)
        if told.status != 200:
            raise NotFoundError(f"There is no file {file_id}, or it has expired.")
        document = orjson.loads(told.body)
        if kind != "file" and not str(document["content_type"]).startswith(f"{kind}/"):
            raise InvalidInputError(f"Is {document['content_type']}; the model takes {kind}/…")
        if document["size"] > FILE_INPUT_BYTES_MAX:
            raise InvalidInputError(
                f"Has {document['size']} bytes; {FILE_INPUT_BYTES_MAX} are allowed in an input."
            )
        content = await self._ask(
            "GET", f"{path}/content", reader, answer_bytes_max=FILE_INPUT_BYTES_MAX
        )
        if content.status != 200:
            raise NotFoundError(f"There is no file {file_id}, or it has expired.")
        return content.body

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()

    async def _put_up(self, request: Request, caller: Caller) -> Answer:
        announced = request.headers.get("content-length") or ""
        if not (announced.isascii() and announced.isdigit()):
            request.body_is_unread = True
            raise BadRequestError("A form with a file says its Content-Length.")
        if int(announced) > FILE_FORM_BYTES_MAX:
            request.body_is_unread = True
            raise PayloadTooLargeError(
                f"A form with a file has at most {FILE_FORM_BYTES_MAX} bytes.",
                limit_bytes=FILE_FORM_BYTES_MAX,
            )
        account_id = caller.account_id
        own = self._open.get(account_id, 0)
        if own >= FILE_RELAYS_PER_ACCOUNT_MAX or sum(self._open.values()) >= FILE_RELAYS_MAX:
            request.body_is_unread = True
            raise CapacityError("Too many files are being put up.", retry_after_s=_RETRY_S)
        self._open[account_id] = own + 1
        body = _Body(request)
        headers = {
            "Content-Type": str(request.headers.get("content-type") or ""),
            "Content-Length": announced,
        }
        try:
            return await self._ask(
                "POST", "/api/files", self._vouch(caller), body=body.read(), headers=headers
            )
        finally:
            request.body_is_unread = not body.is_read
            self._open[account_id] -= 1
            if not self._open[account_id]:
                del self._open[account_id]

    async def _lead_to_content(self, caller: Caller, file_id: str) -> Answer:
        caller.require(PREDICT, READ)
        found = await self._ask("GET", f"/api/files/{file_id}", self._vouch(caller))
        if found.status != 200:
            return found
        return _lead_to(orjson.loads(found.body)["urls"]["content"])

    def _vouch(self, caller: Caller) -> Word:
        scopes = tuple(sorted(caller.scopes & {PREDICT, READ}))
        return Word(caller.account_id, scopes)

    async def _ask(
        self,
        method: str,
        path: str,
        word: Word,
        *,
        body: Any = None,
        headers: dict[str, str] | None = None,
        answer_bytes_max: int = FILE_ANSWER_BYTES_MAX,
    ) -> Answer:
        # It takes a third of a second to import, and most gateways never see a file.
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(sock_connect=FILE_WAIT_S),
                auto_decompress=False,
            )
        written = write_word(self._secret, word, now_s=time.time())
        all_headers = {"Authorization": f"Gateway {written}", **(headers or {})}
        try:
            async with self._session.request(
                method,
                self.site_url + path,
                data=body,
                headers=all_headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(sock_connect=FILE_WAIT_S, sock_read=FILE_WAIT_S),
            ) as response:
                pieces, size_bytes = [], 0
                async for piece in response.content.iter_chunked(64 * 1024):
                    pieces.append(piece)
                    size_bytes += len(piece)
                    if size_bytes > answer_bytes_max:
                        break
                content = b"".join(pieces)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("the site does not answer about files: %s", type(error).__name__)
            raise FilesUnavailableError(retry_after_s=_RETRY_S) from None
        if response.status >= 500 or size_bytes > answer_bytes_max:
            raise FilesUnavailableError(retry_after_s=_RETRY_S)
        passed = [
            (name, response.headers[name]) for name in _PASSED_HEADERS if name in response.headers
        ]
        return Answer(
            response.status,
            content,
            content_type=response.headers.get("Content-Type", "application/octet-stream"),
            headers=passed,
        )


class _Body:
    """A body that is handed on as it comes, as fast as the other side takes it."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.is_read = False

    async def read(self) -> AsyncIterator[bytes]:
        """Its pieces.

        Raises:
            TimeoutError: Nothing comes any more.
        """
        pieces = self._request.protocol.__aiter__()
        while True:
            try:
                async with asyncio.timeout(FILE_CHUNK_WAIT_S):
                    piece = await pieces.__anext__()
            except StopAsyncIteration:
                self.is_read = True
                return
            yield bytes(piece)


def _own(request: Request, answer: Answer) -> Answer:
    """A refusal of the site's under the id and the address of this request."""
    if answer.content_type == PROBLEM:
        document = orjson.loads(answer.body)
        document |= {"request_id": request.request_id, "instance": request.path}
        answer.body = orjson.dumps(document)
        request.code = str(document["code"])
    return answer


def _lead_to(url: str) -> Answer:
    return Answer(307, b"", content_type="text/plain", headers=[("location", url)])


def _require_id(file_id: str) -> str:
    if not _is_file_id(file_id):
        raise NotFoundError("There is no such file, or it has expired.")
    return file_id


def _is_file_id(text: str) -> bool:
    public_id = text.removeprefix(FILE_PREFIX)
    is_long_enough = len(public_id) == PUBLIC_LENGTH and text != public_id
    return is_long_enough and public_id.isascii() and public_id.isalnum()


def _read_code(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["code"])[:64]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "none"
