"""What all pages share: the frame, which says that this is not Stripe, and reading a form.

The pages look like what they stand for. No script, no style from elsewhere, and forms that
only lead to where they must.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse

FORM_SIZE_BYTES_MAX = 4_096

_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£"}

_STYLE = """
:root { color-scheme: light dark; --line: #d5d9e2; --soft: #596171; --go: #0a5cd8; }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 24px;
  font: 16px/1.5 system-ui, sans-serif; background: #f4f6fa; color: #1a1f36; }
main { width: 100%; max-width: 440px; background: #fff; border: 1px solid var(--line);
  border-radius: 12px; padding: 28px; }
.mode { display: inline-block; margin: 0 0 16px; padding: 2px 10px; border-radius: 999px;
  background: #ffe9b8; color: #5c3d00; font-size: 13px; font-weight: 600; }
h1 { margin: 0; font-size: 18px; font-weight: 500; color: var(--soft); }
.amount { margin: 4px 0 20px; font-size: 36px; font-weight: 650; letter-spacing: -0.02em; }
dl { margin: 16px 0; border-top: 1px solid var(--line); }
dl div { display: flex; justify-content: space-between; gap: 16px; padding: 10px 0;
  border-bottom: 1px solid var(--line); }
dt { overflow-wrap: anywhere; }
dd { margin: 0; white-space: nowrap; }
label { display: block; margin: 24px 0 6px; font-weight: 600; }
input { width: 100%; margin-bottom: 8px; padding: 11px 12px; font: inherit; letter-spacing: 0.04em;
  border: 1px solid #8891a5; border-radius: 8px; background: transparent; color: inherit; }
button { width: 100%; margin-top: 12px; padding: 12px; font: inherit; font-weight: 650; border: 0;
  border-radius: 8px; background: var(--go); color: #fff; cursor: pointer; }
button.plain { margin-top: 8px; background: transparent; color: inherit;
  border: 1px solid #8891a5; }
:focus-visible { outline: 3px solid #7fb0ff; outline-offset: 2px; }
.hint { margin: 0; font-size: 14px; color: var(--soft); }
.error { margin: 0 0 16px; padding: 10px 12px; border-radius: 8px; background: #fde8e8;
  color: #8c1616; }
.cancel { display: block; margin-top: 16px; text-align: center; color: inherit; }
@media (prefers-color-scheme: dark) {
  :root { --line: #39415a; --soft: #a9b2c6; }
  body { background: #10131c; color: #eef1f8; } main { background: #191e2c; }
}
"""


class FormTooLargeError(Exception):
    """More bytes than any form of ours has."""


def page(
    title: str, body: str, *, status: int = 200, leads_to: Iterable[str | None] = ()
) -> HTMLResponse:
    """A page.

    Args:
        title: Plain text.
        body: HTML whose values are escaped.
        status: Of the answer.
        leads_to: Addresses that a form on it may end up at.
    """
    # Browsers hold the redirect after the form to form-action too.
    origins = {origin for address in leads_to if (origin := _origin(address or ""))}
    targets = " ".join(["'self'", *sorted(origins)])
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
        f"frame-ancestors 'none'; form-action {targets}"
    )
    html = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><main>
<p class="mode">Stand-in for Stripe: no money moves</p>
{body}
</main></body></html>"""
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(html, status, headers)


def money(amount: int, currency: str) -> str:
    symbol = _SYMBOLS.get(currency, f"{currency.upper()} ")
    units, cents = divmod(amount, 100)
    return f"{symbol}{units:,}.{cents:02d}"


def rows(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and values, both plain text."""
    inner = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs
    )
    return f"<dl>{inner}</dl>"


def button(action: str, label: str, *, is_plain: bool = False, **fields: str) -> str:
    """A form that is one button."""
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in fields.items()
    )
    kind = ' class="plain"' if is_plain else ""
    return (
        f'<form method="post" action="{escape(action)}">{hidden}'
        f'<button{kind} type="submit">{escape(label)}</button></form>'
    )


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a submitted form.

    Raises:
        FormTooLargeError: It is no form of ours.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_SIZE_BYTES_MAX:
            raise FormTooLargeError
    return {
        name.decode(errors="replace"): values[0].decode(errors="replace")
        for name, values in parse_qs(bytes(body)).items()
    }


def _origin(address: str) -> str:
    parts = urlsplit(address)
    if not parts.netloc or not parts.netloc.isascii():
        return ""
    return f"{parts.scheme}://{parts.netloc}"
