"""The payment page a person sees: what is bought, a card number, a button.

It looks like what it stands for and says that it is not. No script, no style from
elsewhere, and forms that only lead to where they must.
"""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import HTMLResponse

from fakestripe import cards

Json = dict[str, Any]

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
dl { margin: 0 0 24px; border-top: 1px solid var(--line); }
dl div { display: flex; justify-content: space-between; gap: 16px; padding: 10px 0;
  border-bottom: 1px solid var(--line); }
dd { margin: 0; white-space: nowrap; }
label { display: block; margin-bottom: 6px; font-weight: 600; }
input { width: 100%; margin-bottom: 8px; padding: 11px 12px; font: inherit; letter-spacing: 0.04em;
  border: 1px solid #8891a5; border-radius: 8px; background: transparent; color: inherit; }
button { width: 100%; margin-top: 12px; padding: 12px; font: inherit; font-weight: 650; border: 0;
  border-radius: 8px; background: var(--go); color: #fff; cursor: pointer; }
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


def render_open(session: Json, lines: list[Json], *, refusal: str) -> HTMLResponse:
    """The page of a session that can be paid; 402 when the last card was refused."""
    amount = _money(session["amount_total"], session["currency"])
    rows = "".join(
        f"<div><dt>{escape(line['description'])}{_times(line)}</dt>"
        f"<dd>{_money(line['amount_total'], line['currency'])}</dd></div>"
        for line in lines
    )
    error = f'<p class="error" role="alert">{escape(refusal)}</p>' if refusal else ""
    cancel = ""
    if session["cancel_url"]:
        cancel = f'<a class="cancel" href="{escape(session["cancel_url"])}">Cancel</a>'
    body = f"""
<h1>Amount due</h1>
<p class="amount">{amount}</p>
<dl>{rows}</dl>
{error}
<form method="post" action="/checkout/{escape(session["id"])}/pay">
<label for="card_number">Card number</label>
<input id="card_number" name="card_number" value="{_grouped(cards.SUCCESS)}" inputmode="numeric"
 autocomplete="off" maxlength="40" required aria-describedby="hint">
<p class="hint" id="hint">{_grouped(cards.DECLINE)} is always declined.</p>
<button type="submit">Pay {amount}</button>
</form>
{cancel}"""
    return _page(f"Pay {amount}", body, status=402 if refusal else 200, session=session)


def render_closed(session: Json) -> HTMLResponse:
    """The page of a session that is over."""
    if session["status"] == "complete":
        title, text = "Already paid", "This checkout is complete. Nothing more will be charged."
        link = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
    else:
        title, text = "Checkout expired", "This checkout has expired. Nothing was charged."
        link = session["cancel_url"]
    back = f'<a class="cancel" href="{escape(link)}">Back</a>' if link else ""
    status = 200 if session["status"] == "complete" else 410
    body = f"<h1>{title}</h1><p>{text}</p>{back}"
    return _page(title, body, status=status, session=session)


def render_missing() -> HTMLResponse:
    """The page of a session that never was."""
    body = "<h1>No such checkout</h1><p>The address is not complete, or it is an old one.</p>"
    return _page("No such checkout", body, status=404, session={})


def _page(title: str, body: str, *, status: int, session: Json) -> HTMLResponse:
    # Browsers hold the redirect after the form to form-action too.
    target = urlsplit(session.get("success_url") or "")
    origin = f" {target.scheme}://{target.netloc}" if target.netloc.isascii() else ""
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
        f"frame-ancestors 'none'; form-action 'self'{origin if target.netloc else ''}"
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


def _money(amount: int, currency: str) -> str:
    symbol = _SYMBOLS.get(currency, f"{currency.upper()} ")
    units, cents = divmod(amount, 100)
    return f"{symbol}{units:,}.{cents:02d}"


def _times(line: Json) -> str:
    return f" &times; {line['quantity']}" if line["quantity"] != 1 else ""


def _grouped(number: str) -> str:
    return " ".join(number[start : start + 4] for start in range(0, len(number), 4))
