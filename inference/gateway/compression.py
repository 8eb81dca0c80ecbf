"""Bodies that a client has compressed, as `tritonclient` does when asked to.

A body inflates to a thousand times its size, so the limit on bodies holds for what comes
out: inflating stops there, whatever is left of the input.
"""

from __future__ import annotations

import asyncio
import zlib

from inference.gateway.http import Request
from marketplace.core.errors import InvalidInputError, PayloadTooLargeError

_HEADER = "content-encoding"
# By encoding, which container zlib expects; `deflate` is zlib's own in HTTP.
# Source: RFC 9110 section 8.4.1; zlib manual, inflateInit2.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}


async def read_plain_body(request: Request) -> bytes:
    """The body without its compression.

    Raises:
        InvalidInputError: The encoding is none of ours, or the body is not in it.
        PayloadTooLargeError: Before or after inflating.
        RequestTimeoutError: It did not come within the deadline.
    """
    body = await request.read_body()
    if _HEADER not in request.headers:
        return body
    encoding = (request.headers.get(_HEADER) or "").strip().lower()
    if encoding == "identity":
        return body
    window_bits = _WINDOW_BITS.get(encoding)
    if window_bits is None:
        raise InvalidInputError("Content-Encoding may be gzip or deflate, and only one of them.")
    # Not on the event loop: a few kilobytes may take tens of milliseconds to inflate.
    return await asyncio.to_thread(inflate, body, window_bits, request.body_bytes_max)


def inflate(body: bytes, window_bits: int, limit_bytes: int) -> bytes:
    """What was compressed; never more than one byte beyond the limit is made.

    Raises:
        InvalidInputError: It is damaged, cut short, or something follows it.
        PayloadTooLargeError: It is larger than the limit.
    """
    inflater = zlib.decompressobj(window_bits)
    try:
        plain = inflater.decompress(body, limit_bytes + 1)
    except zlib.error:
        raise InvalidInputError("The body is not compressed as Content-Encoding says.") from None
    if len(plain) > limit_bytes:
        raise PayloadTooLargeError(
            f"A request has at most {limit_bytes} bytes, also after decompression.",
            limit_bytes=limit_bytes,
        )
    if not inflater.eof or inflater.unused_data:
        raise InvalidInputError("The compressed body is cut short, or something follows it.")
    return plain
